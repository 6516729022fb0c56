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
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Parallel => "parallel",
        }
    }

    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::Requests => "requests per minute",
            Self::Tokens => "tokens per minute",
            Self::Parallel => "parallel requests",
        }
    }

    /// How little there is for what is asked, where that is not plain.
    pub(super) fn shortage(self, asked: u64, left: u64) -> String {
        match self {
            Self::Tokens => format!(": the request needs {asked}, and {left} are left"),
            Self::Requests | Self::Parallel => String::new(),
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

impl Figures {
    /// Whether it is met before the other: less is left of it, or as much of less.
    pub(super) fn is_tighter_than(&self, other: &Self) -> bool {
        (self.remaining, self.limit, other.reset) < (other.remaining, other.limit, self.reset)
    }
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
    /// Whether it has a place among those at the same time.
    has_place: bool,
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
    /// How much there is in all.
    pub limit: u64,
    /// How much is asked for.
    pub asked: u64,
    /// How much is left.
    pub left: u64,
    /// When it is worth trying again; `None` if more is asked for than there ever is.
    pub retry_after: Option<Duration>,
}

impl Short {
    /// `None` if of so much, of which so much is used, there is what is asked for. How many seconds it takes until then
    /// is only asked where there ever is.
    fn of(
        dimension: Dimension,
        (limit, asked, used): (u64, u64, u64),
        seconds: impl FnOnce() -> u64,
    ) -> Option<Self> {
        let retry_after = || (asked <= limit).then(|| Duration::from_secs(seconds().max(1)));
        let left = limit.saturating_sub(used);
        let is_enough = used.saturating_add(asked) <= limit;
        (!is_enough).then(|| Self { dimension, limit, asked, left, retry_after: retry_after() })
    }

    /// The one that lasts longer: who waits for the other meets this one then.
    pub(super) fn longer(self, other: Self) -> Self {
        let lasts = |short: &Self| (short.retry_after.is_none(), short.retry_after);
        if lasts(&other) > lasts(&self) { other } else { self }
    }
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

    /// Takes a request and so many tokens.
    ///
    /// # Errors
    /// Something is short; nothing is taken then.
    pub(super) fn take(&self, asked: Want, now: Instant) -> Result<Hold, Short> {
        self.take_beside(asked, asked.is_request, now)
    }

    /// The same for a request that has its place already.
    pub(super) fn take_in_place(&self, asked: Want, now: Instant) -> Result<Hold, Short> {
        self.take_beside(asked, false, now)
    }

    fn take_beside(&self, asked: Want, wants_place: bool, now: Instant) -> Result<Hold, Short> {
        let Want { tokens, is_request } = asked;
        let mut state = self.state();
        state.has_enough(asked, wants_place, now)?;
        // Without a limit nothing is counted before it is known.
        let reserved = state.limits.tokens_per_minute.map_or(0, |_| tokens);
        let request = is_request.then(|| state.requests.add(1, now));
        state.parallel += u64::from(wants_place);
        Ok(Hold { request, has_place: wants_place, tokens: state.tokens.add(reserved, now), reserved })
    }

    /// Takes a place among the requests at the same time, for one of which nothing else is known yet. `None` where there is
    /// no such limit.
    ///
    /// # Errors
    /// All places are taken.
    pub(super) fn take_place(&self, now: Instant) -> Result<Option<Hold>, Short> {
        let mut state = self.state();
        if state.limits.parallel_requests.is_none() {
            return Ok(None);
        }
        state.lack_of_places().map_or(Ok(()), Err)?;
        state.parallel += 1;
        Ok(Some(Hold { request: None, has_place: true, tokens: state.tokens.add(0, now), reserved: 0 }))
    }

    /// What would be short for a request.
    pub(super) fn lacks(&self, asked: Want, now: Instant) -> Option<Short> {
        self.state().has_enough(asked, asked.is_request, now).err()
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
        state.parallel = state.parallel.saturating_sub(u64::from(hold.has_place));
        state.tokens.correct(hold.tokens, hold.reserved, tokens, now);
    }

    /// How much is left of what is limited: of requests, of tokens, and of those at a time.
    pub(super) fn figures(&self, now: Instant) -> [Option<Figures>; 3] {
        let mut state = self.state();
        let limits = state.limits;
        let is_fresh = |at: &Instant| now.saturating_duration_since(*at) < LEFT_HOLDS;
        let [left_requests, left_tokens] = match &state.left {
            Some((left, at)) if is_fresh(at) => *left,
            _ => [None, None],
        };
        let in_minute = |dimension, limit: Option<u64>, window: &mut Window, left: Option<u64>| {
            let limit = limit?;
            let remaining = limit.saturating_sub(window.sum(now)).min(left.unwrap_or(limit));
            let reset = Duration::from_secs(window.seconds_until(0, now));
            Some(Figures { dimension, limit, remaining, reset })
        };
        let requests =
            in_minute(Dimension::Requests, limits.requests_per_minute, &mut state.requests, left_requests);
        let tokens = in_minute(Dimension::Tokens, limits.tokens_per_minute, &mut state.tokens, left_tokens);
        let at_a_time = limits.parallel_requests.map(|limit| {
            let remaining = limit.saturating_sub(state.parallel);
            Figures { dimension: Dimension::Parallel, limit, remaining, reset: Duration::ZERO }
        });
        [requests, tokens, at_a_time]
    }
}

impl State {
    fn lack_of_places(&self) -> Option<Short> {
        let limit = self.limits.parallel_requests?;
        Short::of(Dimension::Parallel, (limit, 1, self.parallel), || 1)
    }

    /// # Errors
    /// Something is short.
    fn has_enough(&mut self, asked: Want, wants_place: bool, now: Instant) -> Result<(), Short> {
        let Limits { requests_per_minute, tokens_per_minute, .. } = self.limits;
        let places = if wants_place { self.lack_of_places() } else { None };
        let requests = requests_per_minute.filter(|_| asked.is_request).and_then(|limit| {
            let window = &mut self.requests;
            let used = window.sum(now);
            Short::of(Dimension::Requests, (limit, 1, used), || window.seconds_until(limit - 1, now))
        });
        let tokens = tokens_per_minute.and_then(|limit| {
            let window = &mut self.tokens;
            // Where nothing is let through, nothing is too much.
            let (asked, used) =
                (if limit == 0 { asked.tokens.max(1) } else { asked.tokens }, window.sum(now));
            Short::of(Dimension::Tokens, (limit, asked, used), || window.seconds_until(limit - asked, now))
        });
        [places, requests, tokens].into_iter().flatten().reduce(Short::longer).map_or(Ok(()), Err)
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
            (short.dimension, short.limit, short.asked, short.left, short.retry_after),
            (Dimension::Requests, 20, 1, 0, Some(Duration::from_secs(60)))
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
        assert_eq!(scope.figures(now)[1].unwrap().remaining, 900);
        let short = scope.take(want(950), now).unwrap_err();
        assert_eq!((short.limit, short.asked, short.left), (1000, 950, 900));
        assert!(scope.take(want(950), now + short.retry_after.unwrap()).is_ok(), "as it was told");
    }

    #[test]
    fn more_than_there_ever_is_is_refused_for_good() {
        let now = Instant::now();
        let scope = Scope::new(limits(None, Some(1000), None), now);
        let never =
            |scope: &Scope, tokens: u64| scope.take(want(tokens), now).unwrap_err().retry_after.is_none();
        assert!(never(&scope, 1001) && scope.figures(now)[1].unwrap().remaining == 1000);
        assert!(scope.take(want(1000), now).is_ok());
        for closed in [(Some(0), None, None), (None, Some(0), None), (None, None, Some(0))] {
            assert!(never(&Scope::new(limits(closed.0, closed.1, closed.2), now), 0));
        }
    }

    #[test]
    fn of_all_that_is_short_the_longest_wait_is_told() {
        let now = Instant::now();
        let scope = Scope::new(limits(Some(2), Some(100), Some(2)), now);
        let _first = scope.take(want(90), now).unwrap();
        let later = now + Duration::from_secs(5);
        let second = scope.take(want(5), later).unwrap();
        let short = scope.take(want(96), later).unwrap_err();
        assert_eq!((short.dimension, short.retry_after), (Dimension::Tokens, Some(Duration::from_secs(61))));
        scope.settle(&second, 5, later);
        let again = later + short.retry_after.unwrap();
        assert!(scope.take(want(96), again - Duration::from_secs(1)).is_err());
        assert!(scope.take(want(95), again).is_ok());
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
        assert!(scope.figures(now) == [None; 3]);
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
        assert_eq!(scope.take(want(0), now).unwrap_err().dimension, Dimension::Requests);
        scope.settle(&whole, 0, now);
        assert_eq!(scope.figures(now)[2].unwrap().remaining, 1);
    }

    #[test]
    fn a_place_may_be_taken_before_the_rest() {
        let now = Instant::now();
        let scope = Scope::new(limits(Some(5), None, Some(2)), now);
        let one = scope.take_place(now).unwrap().unwrap();
        let two = scope.take_place(now).unwrap().unwrap();
        assert_eq!(scope.take_place(now).unwrap_err().dimension, Dimension::Parallel);
        assert_eq!(scope.take(want(0), now).unwrap_err().dimension, Dimension::Parallel);
        let rest = scope.take_in_place(want(0), now).unwrap();
        assert_eq!(scope.figures(now)[0].unwrap().remaining, 4, "it is one request");
        scope.settle(&rest, 0, now);
        assert_eq!(scope.figures(now)[2].unwrap().remaining, 0, "its place is given back by its holder");
        scope.settle(&one, 0, now);
        scope.settle(&two, 0, now);
        assert_eq!(scope.figures(now)[2].unwrap().remaining, 2);
        scope.limit(limits(Some(5), None, None));
        assert!(scope.take_place(now).unwrap().is_none());
    }
}
