//! Failed attempts in the log and the metrics.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::table::Deployment;
use crate::providers::{Failover, ProviderError};

/// The same failure of the same deployment is written down once in this time.
const APART: Duration = Duration::from_secs(10);

/// The last failure of a deployment that was written down.
// A std mutex: held for a comparison, after failures.
#[derive(Debug, Default)]
pub(super) struct Sampled(Mutex<Option<Written>>);

#[derive(Debug)]
struct Written {
    word: &'static str,
    at: Instant,
    /// So many like it were not, since then.
    skipped: u64,
}

impl Sampled {
    /// Whether a failure is to be written down; then, how many like it were not.
    fn take(&self, word: &'static str, now: Instant) -> Option<u64> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = last.as_mut().filter(|last| last.word == word);
        if let Some(same) = same {
            if now.saturating_duration_since(same.at) < APART {
                same.skipped += 1;
                return None;
            }
            same.at = now;
            return Some(std::mem::take(&mut same.skipped));
        }
        *last = Some(Written { word, at: now, skipped: 0 });
        Some(0)
    }
}

impl Deployment {
    /// Writes down that an attempt of a request has failed, unless it is the caller's fault, or the same was just said.
    pub fn note_fault(&self, error: &ProviderError, request_id: Option<&str>) {
        if error.failover() == Failover::Stop {
            return;
        }
        let now = Instant::now();
        let Some(skipped) = self.sampled.take(error.kind.word(), now) else { return };
        // What an upstream says in its answer may repeat the request. What caused a failure of the connection does not.
        let cause = error.detail.as_deref().filter(|_| error.source.is_some());
        tracing::warn!(
            request_id,
            provider = %self.provider_name,
            deployment = %self.id,
            host = self.host.as_deref(),
            error = %error.kind,
            cause,
            cooldown_s = self.rests_for(now).map(|rest| rest.as_secs_f64()),
            skipped = (skipped > 0).then_some(skipped),
            "An attempt has failed"
        );
    }
}

/// Host and port of an address, without what may be secret in it.
pub(super) fn host_of(address: &str) -> Option<Box<str>> {
    let behind = address.split_once("://").map_or(address, |(_, behind)| behind);
    let authority = behind.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    (!host.is_empty()).then(|| host.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_is_written_once_in_a_while() {
        let (sampled, now) = (Sampled::default(), Instant::now());
        assert_eq!(sampled.take("timeout", now), Some(0));
        assert!((1..10).all(|second| sampled.take("timeout", now + Duration::from_secs(second)).is_none()));
        assert_eq!(sampled.take("timeout", now + APART), Some(9));
        assert_eq!(sampled.take("protocol", now + APART), Some(0));
        assert_eq!(sampled.take("timeout", now + APART), Some(0));
    }

    #[test]
    fn hosts_are_read_without_secrets() {
        for (address, host) in [
            ("https://api.example.com/v1?key=secret", Some("api.example.com")),
            ("http://user:secret@10.0.0.1:8000/v1", Some("10.0.0.1:8000")),
            ("http://[::1]:1234", Some("[::1]:1234")),
            ("", None),
        ] {
            assert_eq!(host_of(address).as_deref(), host, "{address}");
        }
    }
}
