//! How many rejected admin calls are noted in the audit: each, but not without end.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many are noted in a minute. Of the others the next one tells how many there were.
const MOST_A_MINUTE: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);

/// Those of the running minute. A std mutex: held for a moment, by calls that are rejected.
#[derive(Debug, Default)]
pub(super) struct Rejections(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    noted: u32,
    unnoted: u64,
}

impl Rejections {
    /// Another one. If it is to be noted, with how many there were since the last one that was not.
    pub(super) fn another(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.is_none_or(|since| now.duration_since(since) >= MINUTE) {
            (state.since, state.noted) = (Some(now), 0);
        }
        if state.noted >= MOST_A_MINUTE {
            state.unnoted += 1;
            return None;
        }
        state.noted += 1;
        Some(std::mem::take(&mut state.unnoted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_its_notes_and_the_next_one_tells_of_the_others() {
        let (rejections, now) = (Rejections::default(), Instant::now());
        for _ in 0..MOST_A_MINUTE {
            assert_eq!(rejections.another(now), Some(0));
        }
        assert_eq!((rejections.another(now), rejections.another(now + MINUTE / 2)), (None, None));
        assert_eq!(rejections.another(now + MINUTE), Some(2));
        assert_eq!(rejections.another(now + MINUTE), Some(0));
    }
}
