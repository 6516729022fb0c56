//! One thing with limits: a key, an owner, a model, or the whole gateway. What a request takes of it is held until the
//! request has ended, and then put right.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Limits;
use super::pool::Thing;
use super::window::{Mark, Window};

/// What of a thing is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// Requests in a minute.
    Requests,
    /// Tokens in a minute.
    Tokens,
    /// Requests at the same time.
    Parallel,
}

impl Dimension {
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::Requests => "requests per minute",
            Self::Tokens => "tokens per minute",
            Self::Parallel => "parallel requests",
        }
    }
}

/// How much of a limit is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// What is limited.
    pub dimension: Dimension,
    /// How much there is.
    pub limit: u64,
    /// How much of it is left.
    pub remaining: u64,
    /// How long until all of it is there again.
    pub reset: Duration,
}

/// One thing with limits, which may change while it is used.
#[derive(Debug)]
pub(super) struct Scope {
    /// What it is to other replicas.
    pub(super) thing: Thing,
    // A std mutex: held for a few additions.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    requests: Window,
    tokens: Window,
    parallel: u64,
    /// How many requests and tokens were left for all replicas, and when that was.
    left: Option<([Option<u64>; 2], Instant)>,
}

/// What was left for all replicas is told for so long.
const LEFT_HOLDS: Duration = Duration::from_secs(10);

/// What a request has taken.
#[derive(Debug)]
pub(super) struct Hold {
    /// None of what is only a part of a request.
    request: Option<Mark>,
    tokens: Mark,
    reserved: u64,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// Tokens that it may use.
    pub tokens: u64,
    /// Whether it is a request of its own, and not only a part of one that has been let in.
    pub is_request: bool,
}

/// There is not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// What is short.
    pub dimension: Dimension,
    /// How much there is.
    pub limit: u64,
    /// When it is worth trying again.
    pub retry_after: Duration,
}

impl Hold {
    /// The same as a wish to others.
    pub(super) fn want(&self) -> Want {
        Want { tokens: self.reserved, is_request: self.request.is_some() }
    }
}

impl Scope {
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        let (requests, tokens) = (Window::new(now), Window::new(now));
        let state = State { limits, requests, tokens, parallel: 0, left: None };
        Self { thing: Thing::default(), state: Mutex::new(state) }
    }

    /// The same, with what it is to other replicas.
    pub(super) fn called(self, of: &'static str, name: &str) -> Self {
        Self { thing: Thing { of, name: name.into() }, ..self }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limit(&self, limits: Limits) {
        self.state().limits = limits;
    }

    pub(super) fn limits(&self) -> Limits {
        self.state().limits
    }

    /// So many requests and tokens are left for all replicas.
    pub(super) fn note_left(&self, left: [Option<u64>; 2], now: Instant) {
        self.state().left = Some((left, now));
    }

    /// Takes a request and so many tokens. A request for more tokens than there ever are takes all of them.
    ///
    /// # Errors
    /// Something is short; nothing is taken then.
    pub(super) fn take(&self, asked: Want, now: Instant) -> Result<Hold, Short> {
        let Want { tokens, is_request } = asked;
        let mut state = self.state();
        let limits = state.limits;
        let seconds = |seconds: u64| Duration::from_secs(seconds.max(1));
        if let Some(limit) = limits.parallel_requests.filter(|limit| is_request && state.parallel >= *limit) {
            return Err(Short { dimension: Dimension::Parallel, limit, retry_after: seconds(1) });
        }
        if let Some(limit) = limits.requests_per_minute
            && is_request
            && state.requests.sum(now) >= limit
        {
            let wait = state.requests.seconds_until(limit.saturating_sub(1), now);
            return Err(Short { dimension: Dimension::Requests, limit, retry_after: seconds(wait) });
        }
        // Without a limit nothing is counted before it is known.
        let reserved = limits.tokens_per_minute.map_or(0, |limit| tokens.min(limit));
        if let Some(limit) = limits.tokens_per_minute
            && (state.tokens.sum(now).saturating_add(reserved) > limit || limit == 0)
        {
            let wait = state.tokens.seconds_until(limit - reserved, now);
            return Err(Short { dimension: Dimension::Tokens, limit, retry_after: seconds(wait) });
        }
        let request = is_request.then(|| state.requests.add(1, now));
        state.parallel += u64::from(is_request);
        Ok(Hold { request, tokens: state.tokens.add(reserved, now), reserved })
    }

    /// The request was not made after all.
    pub(super) fn put_back(&self, hold: &Hold, now: Instant) {
        if let Some(mark) = hold.request {
            self.state().requests.correct(mark, 1, 0, now);
        }
        self.settle(hold, 0, now);
    }

    /// The request has ended, and has used so many tokens.
    pub(super) fn settle(&self, hold: &Hold, tokens: u64, now: Instant) {
        let mut state = self.state();
        state.parallel = state.parallel.saturating_sub(u64::from(hold.request.is_some()));
        state.tokens.correct(hold.tokens, hold.reserved, tokens, now);
    }

    /// How much is left of what is limited.
    pub(super) fn figures(&self, now: Instant) -> Vec<Figures> {
        let mut state = self.state();
        let limits = state.limits;
        let mut figures = Vec::new();
        let is_fresh = |at: &Instant| now.saturating_duration_since(*at) < LEFT_HOLDS;
        let [left_requests, left_tokens] = match &state.left {
            Some((left, at)) if is_fresh(at) => *left,
            _ => [None, None],
        };
        let mut add = |dimension, limit: Option<u64>, (used, left): (u64, Option<u64>), reset: u64| {
            if let Some(limit) = limit {
                let remaining = limit.saturating_sub(used).min(left.unwrap_or(limit));
                figures.push(Figures { dimension, limit, remaining, reset: Duration::from_secs(reset) });
            }
        };
        let used = (state.requests.sum(now), state.requests.seconds_until(0, now));
        add(Dimension::Requests, limits.requests_per_minute, (used.0, left_requests), used.1);
        let used = (state.tokens.sum(now), state.tokens.seconds_until(0, now));
        add(Dimension::Tokens, limits.tokens_per_minute, (used.0, left_tokens), used.1);
        add(Dimension::Parallel, limits.parallel_requests, (state.parallel, None), 0);
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(tokens: u64) -> Want {
        Want { tokens, is_request: true }
    }

    fn limits(requests: Option<u64>, tokens: Option<u64>, parallel: Option<u64>) -> Limits {
        Limits { requests_per_minute: requests, tokens_per_minute: tokens, parallel_requests: parallel }
    }

    #[test]
    fn requests_are_let_through_up_to_the_limit_and_again_a_minute_later() {
        let now = Instant::now();
        let scope = Scope::new(limits(Some(20), None, None), now);
        let taken = |at: Instant| (0..100).filter(|_| scope.take(want(5), at).is_ok()).count();
        assert_eq!(taken(now + Duration::from_millis(59_500)), 20);
        assert_eq!(taken(now + Duration::from_millis(60_500)), 0, "no burst at an edge");
        let short = scope.take(want(5), now + Duration::from_secs(60)).unwrap_err();
        assert_eq!(
            (short.dimension, short.limit, short.retry_after.as_secs()),
            (Dimension::Requests, 20, 60)
        );
        assert_eq!(taken(now + Duration::from_secs(120)), 20);
    }

    #[test]
    fn tokens_are_reserved_and_put_right() {
        let now = Instant::now();
        let scope = Scope::new(limits(None, Some(1000), None), now);
        let one = scope.take(want(600), now).unwrap();
        assert_eq!(scope.take(want(600), now).unwrap_err().dimension, Dimension::Tokens);
        scope.settle(&one, 100, now);
        let two = scope.take(want(900), now).unwrap();
        assert!(scope.take(want(1), now).is_err());
        scope.put_back(&two, now);
        assert_eq!(scope.figures(now)[0].remaining, 900);
        assert!(
            scope.take(want(5000), now).is_err(),
            "more than there ever is takes all, and all is not there"
        );
        assert!(scope.take(want(5000), now + Duration::from_secs(61)).is_ok());
        let closed = Scope::new(limits(None, Some(0), None), now);
        assert!(closed.take(want(0), now).is_err());
    }

    #[test]
    fn parallel_requests_leave_their_place_when_they_end() {
        let now = Instant::now();
        let scope = Scope::new(limits(None, None, Some(2)), now);
        let (one, _two) = (scope.take(want(0), now).unwrap(), scope.take(want(0), now).unwrap());
        assert_eq!(scope.take(want(0), now).unwrap_err().dimension, Dimension::Parallel);
        scope.settle(&one, 7, now);
        assert!(scope.take(want(0), now).is_ok());
        scope.limit(Limits::default());
        assert!((0..10).all(|_| scope.take(want(1_000_000), now).is_ok()), "limits may change");
        assert!(scope.figures(now).is_empty());
    }

    #[test]
    fn a_part_of_a_request_takes_tokens_only() {
        let now = Instant::now();
        let scope = Scope::new(limits(Some(1), Some(100), Some(1)), now);
        let whole = scope.take(want(0), now).unwrap();
        let part = || scope.take(Want { tokens: 40, is_request: false }, now);
        let (one, _two) = (part().unwrap(), part().unwrap());
        assert_eq!(part().unwrap_err().dimension, Dimension::Tokens);
        scope.settle(&one, 10, now);
        assert_eq!(scope.take(want(0), now).unwrap_err().dimension, Dimension::Parallel);
        scope.settle(&whole, 0, now);
        assert_eq!(scope.figures(now)[2].remaining, 1);
    }
}
