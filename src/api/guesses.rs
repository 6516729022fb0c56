//! Wrong keys: an address that sends many of them waits longer and longer for each answer.
//!
//! A key that is right is answered at once wherever it comes from, so that one program with an old key slows no other
//! behind the same address. What is kept for that is bounded, whatever number of addresses there are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use poem::http::StatusCode;
use tokio::time::{Instant, sleep};

use super::error::ApiError;
use super::peer::Peer;

/// So many wrong keys are slips.
const SLIPS: u32 = 10;
/// One of them is forgotten each time this has passed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(6);
/// How long the first answer takes that is slowed. Each one after it takes twice as long.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// From here on the pause grows no longer, so nothing more needs to be remembered.
const MOST_FAILURES: u32 = SLIPS + 6;
/// Addresses that are remembered. A network of IPv6 counts as one.
const MOST_SOURCES: usize = 4096;
/// Answers that wait, of one address and of all.
const MOST_WAITING_EACH: u32 = 8;
const MOST_WAITING: u32 = 256;
/// How often the log says that there are wrong admin keys, at most.
const WARNING_EVERY: Duration = Duration::from_secs(10);

/// Wrong keys of late.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    // A std mutex: held for one look-up, and only where a key was wrong.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sources: HashMap<Source, Tally>,
    waiting: u32,
    warned: Option<Instant>,
    unsaid: u64,
}

/// What counts as one caller that guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4(u32),
    /// The network of an address: its holder has all of the other half.
    V6(u64),
    Unix,
}

#[derive(Debug)]
struct Tally {
    failures: u32,
    /// When `failures` was right.
    at: Instant,
    waiting: u32,
}

/// A place among those that wait.
#[derive(Debug)]
struct Waiting<'g> {
    guesses: &'g Guesses,
    source: Source,
}

#[derive(Debug)]
enum Verdict<'g> {
    AtOnce,
    After(Duration, Waiting<'g>),
    TooMany,
}

impl Guesses {
    /// A key was wrong. Comes back when that may be said; an error is to be said in its place.
    pub(super) async fn failed(&self, peer: Peer) -> Option<ApiError> {
        match self.verdict(Source::of(peer), Instant::now()) {
            Verdict::AtOnce => None,
            Verdict::After(pause, _waiting) => {
                sleep(pause).await;
                None
            }
            Verdict::TooMany => {
                let message = "too many wrong keys came from this address; wait before the next one";
                let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message);
                Some(error.retry_after(Some(LONGEST_PAUSE)))
            }
        }
    }

    /// Has the log say that admin keys were wrong, now and then.
    pub(super) fn warn(&self, peer: Peer) {
        if let Some(attempts) = self.to_be_said(Instant::now()) {
            tracing::warn!(%peer, attempts, "Wrong admin keys were shown, the last one from there");
        }
    }

    /// How many there were since it was said, if it is to be said again.
    fn to_be_said(&self, now: Instant) -> Option<u64> {
        let mut state = self.state();
        state.unsaid += 1;
        if state.warned.is_some_and(|warned| now.duration_since(warned) < WARNING_EVERY) {
            return None;
        }
        state.warned = Some(now);
        Some(std::mem::take(&mut state.unsaid))
    }

    fn verdict(&self, source: Source, now: Instant) -> Verdict<'_> {
        let mut state = self.state();
        let State { sources, waiting, .. } = &mut *state;
        if !sources.contains_key(&source) {
            make_room(sources, now);
        }
        let tally = sources.entry(source).or_insert(Tally { failures: 0, at: now, waiting: 0 });
        let Some(pause) = tally.add(now) else { return Verdict::AtOnce };
        if tally.waiting >= MOST_WAITING_EACH || *waiting >= MOST_WAITING {
            return Verdict::TooMany;
        }
        tally.waiting += 1;
        *waiting += 1;
        Verdict::After(pause, Waiting { guesses: self, source })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.guesses.state();
        state.waiting = state.waiting.saturating_sub(1);
        if let Some(tally) = state.sources.get_mut(&self.source) {
            tally.waiting = tally.waiting.saturating_sub(1);
        }
    }
}

impl Source {
    fn of(peer: Peer) -> Self {
        match peer {
            Peer::Address(IpAddr::V4(address)) => Self::V4(address.to_bits()),
            Peer::Address(IpAddr::V6(address)) => {
                Self::V6(u64::try_from(address.to_bits() >> 64).unwrap_or_default())
            }
            Peer::Unix => Self::Unix,
        }
    }
}

impl Tally {
    /// Counts one more. How long its answer is to take, if not as long as others'.
    fn add(&mut self, now: Instant) -> Option<Duration> {
        self.forget(now);
        self.failures = (self.failures + 1).min(MOST_FAILURES);
        let beyond = self.failures.checked_sub(SLIPS + 1)?;
        Some((SHORTEST_PAUSE * 2_u32.pow(beyond)).min(LONGEST_PAUSE))
    }

    fn forget(&mut self, now: Instant) {
        let passed = now.duration_since(self.at).as_millis() / FORGOTTEN_AFTER.as_millis();
        let forgotten = u32::try_from(passed).unwrap_or(u32::MAX);
        if forgotten >= self.failures {
            (self.failures, self.at) = (0, now);
        } else {
            self.failures -= forgotten;
            self.at += FORGOTTEN_AFTER * forgotten;
        }
    }
}

/// Forgets those that count for nothing any more; the one that failed longest ago if there are none.
fn make_room(sources: &mut HashMap<Source, Tally>, now: Instant) {
    if sources.len() < MOST_SOURCES {
        return;
    }
    sources.retain(|_, tally| {
        tally.forget(now);
        tally.failures > 0 || tally.waiting > 0
    });
    if sources.len() >= MOST_SOURCES {
        let oldest = sources.iter().min_by_key(|(_, tally)| tally.at).map(|(source, _)| *source);
        oldest.and_then(|oldest| sources.remove(&oldest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::Address(address.parse().unwrap())
    }

    async fn took(guesses: &Guesses, from: &str) -> u128 {
        let began = Instant::now();
        assert!(guesses.failed(peer(from)).await.is_none());
        began.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_grows_with_each_wrong_key_of_an_address_and_ends_with_time() {
        let guesses = Guesses::default();
        for _ in 0..10 {
            assert_eq!(took(&guesses, "192.0.2.1").await, 0);
        }
        let mut pauses = Vec::new();
        for _ in 0..7 {
            pauses.push(took(&guesses, "192.0.2.1").await);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(took(&guesses, "192.0.2.2").await, 0, "another address is another caller");

        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(took(&guesses, "192.0.2.1").await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn ten_wrong_keys_a_minute_are_never_slowed() {
        let guesses = Guesses::default();
        for _ in 0..100 {
            assert_eq!(took(&guesses, "192.0.2.1").await, 0);
            tokio::time::advance(Duration::from_secs(6)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_ipv6_is_one_caller_and_so_are_all_behind_a_socket() {
        let guesses = Guesses::default();
        for host in 0..10 {
            took(&guesses, &format!("2001:db8::{host:x}")).await;
            assert!(guesses.failed(Peer::Unix).await.is_none());
        }
        assert_eq!(took(&guesses, "2001:db8::ffff:1").await, 100);
        assert_eq!(took(&guesses, "2001:db8:0:1::1").await, 0);
        let began = Instant::now();
        assert!(guesses.failed(Peer::Unix).await.is_none());
        assert_eq!(began.elapsed().as_millis(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_wait_and_no_more() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let one = Source::of(peer("192.0.2.1"));
        for _ in 0..10 {
            assert!(matches!(guesses.verdict(one, now), Verdict::AtOnce));
        }
        let mut waiting: Vec<_> = (0..8).map(|_| guesses.verdict(one, now)).collect();
        assert!(waiting.iter().all(|verdict| matches!(verdict, Verdict::After(..))));
        assert!(matches!(guesses.verdict(one, now), Verdict::TooMany));
        let refused = guesses.failed(peer("192.0.2.1")).await.unwrap();
        assert_eq!(refused.label(), "rate_limit_exceeded");
        waiting.pop();
        assert!(matches!(guesses.verdict(one, now), Verdict::After(..)));
        drop(waiting);
        assert_eq!(guesses.state().waiting, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let guesses = Guesses::default();
        for network in 0..10_000_u32 {
            guesses.verdict(Source::V6(network.into()), Instant::now());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let state = guesses.state();
        assert_eq!(state.sources.len(), MOST_SOURCES);
        assert!(
            state.sources.contains_key(&Source::V6(9_999)) && !state.sources.contains_key(&Source::V6(0))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_counts_what_it_does_not_say() {
        let guesses = Guesses::default();
        assert_eq!(guesses.to_be_said(Instant::now()), Some(1));
        for _ in 0..5_000 {
            assert_eq!(guesses.to_be_said(Instant::now()), None);
        }
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(guesses.to_be_said(Instant::now()), Some(5_001));
    }
}
