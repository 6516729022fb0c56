//! A change of a key, limit by limit.

use super::AccountError;
use super::rules;
use crate::callers::{Change, Key, Limits};

/// What is to be different of a key. As [`Change`] has it; and of limits, each by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edit {
    /// Everything, limits as a whole.
    pub change: Change,
    /// Single limits, after that.
    pub limits: LimitsEdit,
}

/// What is to be different of limits: `None` leaves one as it is, `Some(None)` takes it away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsEdit {
    /// Requests in any minute.
    pub requests_per_minute: Option<Option<u64>>,
    /// Tokens in any minute.
    pub tokens_per_minute: Option<Option<u64>>,
    /// Requests at the same time.
    pub parallel_requests: Option<Option<u64>>,
}

impl From<Change> for Edit {
    fn from(change: Change) -> Self {
        Self { change, limits: LimitsEdit::default() }
    }
}

impl Edit {
    /// The key with the change made.
    pub(super) fn applied_to(&self, key: Key) -> Key {
        let key = key.changed(self.change.clone());
        Key { limits: self.limits.applied_to(key.limits), ..key }
    }

    /// # Errors
    /// A value is not what it must be.
    pub(super) fn check(&self) -> Result<(), AccountError> {
        rules::check(&self.change)?;
        rules::check_limits(&self.limits.applied_to(Limits::default()))
    }
}

impl LimitsEdit {
    fn applied_to(self, limits: Limits) -> Limits {
        Limits {
            requests_per_minute: self.requests_per_minute.unwrap_or(limits.requests_per_minute),
            tokens_per_minute: self.tokens_per_minute.unwrap_or(limits.tokens_per_minute),
            parallel_requests: self.parallel_requests.unwrap_or(limits.parallel_requests),
        }
    }
}
