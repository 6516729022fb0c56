//! Why an act on accounts was not done.

use crate::store::StoreError;

/// Why an act on accounts was not done.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// There is no key of that id.
    #[error("there is no key of that id")]
    NoSuchKey,
    /// A value is not what it must be. The message does not quote it.
    #[error("{message}")]
    Invalid {
        /// Which, by its name in the API, such as `limits.tokens_per_minute`.
        param: String,
        /// What it must be.
        message: String,
    },
    /// The store does not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Too many others wait for the store.
    #[error("changes wait for others that take too long")]
    Busy,
    /// The system has no chance to make secrets of.
    #[error("the system gives no random numbers, so no secret can be made")]
    NoChance,
    /// The process ends, or a fault of its own stopped the act.
    #[error("it broke off before its end")]
    Unfinished,
}

impl AccountError {
    pub(super) fn invalid(param: impl Into<String>, must: &str) -> Self {
        let param = param.into();
        Self::Invalid { message: format!("`{param}` {must}"), param }
    }
}
