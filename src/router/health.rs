//! How deployments and providers fare: which rest after a failure, for how long, and who may try them again.
//!
//! Outlives a change of the configuration, so that a reload forgets no rest. Time goes in as a value.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The first rest; each further failure doubles it.
const FIRST_REST: Duration = Duration::from_secs(2);
/// So many refusals in a row are no longer those of single requests.
const MOST_REFUSALS: u32 = 3;
/// Others ask again so long after a probe has begun.
const PROBE_GLANCE: Duration = Duration::from_millis(250);
/// How much a single time to the first token changes the average.
const HASTE: f64 = 0.2;
/// So many times to the first token are kept for the figures.
const MOST_TIMES: usize = 256;

/// A failure, as far as it matters for a rest.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// A word for it.
    pub word: &'static str,
    /// What it tells of the server.
    pub cause: Cause,
    /// The least rest that was asked for.
    pub at_least: Option<Duration>,
    /// The longest rest there is.
    pub most: Duration,
}

/// What a failure tells of the server, and by that, what may end the rest for it before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nobody was there. Whoever answers now disproves it.
    Absent,
    /// Something went wrong there. A sign of life disproves it only where the server was seen dead in between.
    Trouble,
    /// It wants to be left alone, or does not take the key. Nothing ends that early.
    Will,
}

/// How one deployment, or one provider, fares.
#[derive(Debug, Default)]
pub struct Health {
    /// Whether there is more to know of it than that it is well. Most requests need to look no further.
    is_troubled: AtomicBool,
    answered: AtomicU64,
    // A std mutex: held for a few comparisons.
    state: Mutex<State>,
    changed: Notify,
    /// Under which name it is known to other replicas, and how they hear of it.
    others: Option<(Box<str>, Arc<dyn Replicas>)>,
}

/// The other replicas of the gateway, which leave alone whoever rests here. Both calls come back at once, whatever the
/// way to the others is like.
pub trait Replicas: Debug + Send + Sync {
    /// It rests from now on, for so long.
    fn rests(&self, name: &str, rest: Duration);

    /// It answers again.
    fn is_well(&self, name: &str);
}

#[derive(Debug, Default)]
struct State {
    /// One after the other.
    failures: u32,
    /// Since the last success.
    refusals: u32,
    rests_until: Option<Instant>,
    /// The part of the rest that nothing ends early.
    willed_until: Option<Instant>,
    /// The part of it that only a new start of the server ends.
    troubled_until: Option<Instant>,
    /// Whether the server was seen dead since the last failure.
    was_dead: bool,
    failed_at: Option<Instant>,
    last_probe: Option<Probed>,
    /// Somebody tries whether it is well again.
    is_probed: bool,
    failed: u64,
    last_failure: Option<&'static str>,
    /// Until the first content of streams, and until the end of whole answers, in seconds.
    averages: [Option<f64>; 2],
    times: VecDeque<Duration>,
}

/// The leave to ask. Dropped without a word, it says nothing of how that went.
#[derive(Debug)]
pub struct Pass<'a> {
    health: &'a Health,
    admitted: Instant,
    is_probe: bool,
    /// Whether somebody was asked by it.
    is_used: bool,
}

/// How a probe went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// When it was over.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
    /// What was wrong, if anything was.
    pub failure: Option<&'static str>,
}

/// What has been seen so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that failed, callers' mistakes left out.
    pub failed: u64,
    /// What the last failure was.
    pub last_failure: Option<&'static str>,
    /// How much longer it rests.
    pub rests_for: Option<Duration>,
    /// Half of the streams began within this time.
    pub first_token_p50: Option<Duration>,
    /// Nearly all streams began within this time.
    pub first_token_p95: Option<Duration>,
    /// How the last probe of a provider went, if there was one.
    pub last_probe: Option<Probed>,
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it may be asked; if not, when it is worth looking again. After a rest one request may try, and the
    /// others wait for how that goes.
    ///
    /// # Errors
    /// It rests until then.
    pub fn admit(&self, now: Instant) -> Result<Pass<'_>, Instant> {
        if !self.is_troubled.load(Ordering::Acquire) {
            return Ok(Pass { health: self, admitted: now, is_probe: false, is_used: false });
        }
        let mut state = self.state();
        let is_probe = match state.rests_until {
            None => false,
            Some(until) if until > now => return Err(until),
            Some(_) if state.is_probed => return Err(now + PROBE_GLANCE),
            Some(_) => true,
        };
        state.is_probed |= is_probe;
        Ok(Pass { health: self, admitted: now, is_probe, is_used: false })
    }

    /// Whether it rests.
    pub(super) fn rests(&self, now: Instant) -> bool {
        self.rests_until(now).is_some()
    }

    /// Until when it rests, if it does.
    pub(super) fn rests_until(&self, now: Instant) -> Option<Instant> {
        if !self.is_troubled.load(Ordering::Acquire) {
            return None;
        }
        self.state().rests_until.filter(|until| *until > now)
    }

    /// Comes back when it may be worth looking again.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// It failed, and rests: longer with each failure, at least as long as it asks for, and never longer than `most`.
    /// A rest that ends later already stays as it is.
    pub fn failed(&self, failure: &Failure, now: Instant) {
        let until = {
            let mut state = self.state();
            state.note_failure(failure.word);
            self.rest(&mut state, failure, now);
            state.rests_until.unwrap_or(now)
        };
        if let Some((name, others)) = &self.others {
            others.rests(name, until.saturating_duration_since(now));
        }
        self.changed.notify_waiters();
    }

    /// It refused one request, and rests only after several in a row.
    pub fn refused(&self, failure: &Failure, now: Instant) {
        let is_enough = {
            let mut state = self.state();
            state.refusals = state.refusals.saturating_add(1);
            state.refusals >= MOST_REFUSALS
        };
        if is_enough {
            return self.failed(failure, now);
        }
        // So that the next success has a look.
        self.is_troubled.store(true, Ordering::Release);
        self.note_failure(failure.word);
    }

    /// Another replica says how it fares: it rests for so long, or is well again.
    fn told(&self, rest: Option<Duration>, now: Instant) {
        let mut state = self.state();
        match rest {
            Some(rest) => {
                self.is_troubled.store(true, Ordering::Release);
                let until = Some(now + rest);
                state.rests_until = state.rests_until.max(until);
                // Signs of life that are seen here say nothing of what was seen there.
                state.willed_until = state.willed_until.max(until);
                state.failed_at = Some(now);
            }
            None => self.is_well(&mut state),
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn is_well(&self, state: &mut State) {
        (state.rests_until, state.willed_until, state.troubled_until) = (None, None, None);
        (state.failures, state.refusals) = (0, 0);
        self.is_troubled.store(false, Ordering::Release);
    }

    fn rest(&self, state: &mut State, failure: &Failure, now: Instant) {
        // Those who had asked before it began to rest tell nothing new.
        if state.rests_until.is_none_or(|until| until <= now) {
            state.failures = state.failures.saturating_add(1);
        }
        let doubled = FIRST_REST.saturating_mul(1 << state.failures.saturating_sub(1).min(16));
        // A little apart, so that not all replicas come back at once.
        let rest = doubled.mul_f64(1.0 + random() / 4.0);
        let until = Some(now + rest.max(failure.at_least.unwrap_or_default()).min(failure.most));
        self.is_troubled.store(true, Ordering::Release);
        // Nothing is later than never.
        state.rests_until = state.rests_until.max(until);
        match failure.cause {
            Cause::Absent => {}
            Cause::Trouble => state.troubled_until = state.troubled_until.max(until),
            Cause::Will => state.willed_until = state.willed_until.max(until),
        }
        (state.failed_at, state.was_dead) = (Some(now), false);
    }

    /// A probe found its server dead: it rests until the next one has looked, which is not a failure of any request.
    pub fn found_dead(&self, failure: &Failure, probed: Probed) {
        {
            let mut state = self.state();
            self.rest(&mut state, failure, probed.at);
            (state.was_dead, state.last_probe) = (true, Some(probed));
        }
        self.changed.notify_waiters();
    }

    /// A probe found dead the server of its provider. Whether it rests is not changed by that, but what may end its rest.
    pub fn provider_found_dead(&self) {
        self.state().was_dead = true;
    }

    /// A probe that was sent at `sent` found its server alive. What that disproves ends: then one request may try at
    /// once, as after any rest. Whether something has ended.
    pub fn found_alive(&self, sent: Instant, now: Instant) -> bool {
        let has_ended = self.state().has_ended_early(sent, now);
        if has_ended {
            self.changed.notify_waiters();
        }
        has_ended
    }

    /// Keeps how a probe went.
    pub fn note_probe(&self, probed: Probed) {
        self.state().last_probe = Some(probed);
    }

    /// How many requests were answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// It failed, for which it need not rest.
    pub fn note_failure(&self, word: &'static str) {
        self.state().note_failure(word);
    }

    /// The mean time to the first content of streams, or to the end of whole answers; `None` if none was seen.
    pub fn average(&self, stream: bool) -> Option<f64> {
        *self.state().averages.get(usize::from(stream))?
    }

    /// What has been seen so far.
    pub fn figures(&self, now: Instant) -> Figures {
        let state = self.state();
        let mut times: Vec<Duration> = state.times.iter().copied().collect();
        times.sort_unstable();
        let at = |hundredth: usize| {
            times.get((times.len() * hundredth / 100).min(times.len().max(1) - 1)).copied()
        };
        Figures {
            answered: self.answered.load(Ordering::Relaxed),
            failed: state.failed,
            last_failure: state.last_failure,
            rests_for: state.rests_until.and_then(|until| until.checked_duration_since(now)),
            first_token_p50: at(50),
            first_token_p95: at(95),
            last_probe: state.last_probe,
        }
    }
}

impl State {
    fn note_failure(&mut self, word: &'static str) {
        self.failed += 1;
        self.last_failure = Some(word);
    }

    fn has_ended_early(&mut self, sent: Instant, now: Instant) -> bool {
        let Some(until) = self.rests_until.filter(|until| *until > now) else { return false };
        // What failed after the question was sent is not disproved by its answer.
        if self.failed_at.is_some_and(|failed| failed > sent) {
            return false;
        }
        let troubled = self.troubled_until.filter(|_| !self.was_dead);
        let kept = self.willed_until.max(troubled).max(Some(now));
        self.rests_until = kept.min(Some(until));
        self.rests_until < Some(until)
    }
}

impl Pass<'_> {
    /// Somebody is asked by it.
    pub(super) fn is_used(&mut self) {
        self.is_used = true;
    }

    /// It answered: its rest, if it had one, is over and forgotten. An answer to what was asked before the last failure
    /// says nothing of what is now.
    pub fn succeeded(self) {
        self.health.answered.fetch_add(1, Ordering::Relaxed);
        if !self.health.is_troubled.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.health.state();
        if !self.is_probe && state.failed_at.is_some_and(|failed| failed >= self.admitted) {
            return;
        }
        self.health.is_well(&mut state);
        drop(state);
        if let Some((name, others)) = &self.health.others {
            others.is_well(name);
        }
        self.health.changed.notify_waiters();
    }

    /// How long it took.
    pub fn took(&self, time: Duration, stream: bool) {
        let mut state = self.health.state();
        if let Some(average) = state.averages.get_mut(usize::from(stream)) {
            let seconds = time.as_secs_f64();
            *average = Some(average.map_or(seconds, |before| before + (seconds - before) * HASTE));
        }
        if stream {
            state.times.push_back(time);
            if state.times.len() > MOST_TIMES {
                state.times.pop_front();
            }
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.health.state().is_probed = false;
            // Those who wait look again by themselves. If nobody was asked, there is nothing new to see: waiters that
            // woke each other for that would never sleep.
            if self.is_used {
                self.health.changed.notify_waiters();
            }
        }
    }
}

/// From 0 to 1.
pub(super) fn random() -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "it only has to be about even")]
    let part = (RandomState::new().build_hasher().finish() >> 11) as f64 / (1_u64 << 53) as f64;
    part
}

/// The health of everyone, by names. Shared by all states of the configuration.
#[derive(Clone, Debug, Default)]
pub struct HealthBook {
    // A std mutex: held for a look into a map, when routes are made.
    known: Arc<Mutex<HashMap<String, Arc<Health>>>>,
    others: Option<Arc<dyn Replicas>>,
}

impl HealthBook {
    /// One whose rests other replicas hear of. What they say themselves comes by [`HealthBook::told`].
    pub fn shared(others: Arc<dyn Replicas>) -> Self {
        Self { others: Some(others), ..Self::default() }
    }

    /// Another replica says of someone that it rests for so long, or with `None` that it is well again.
    pub fn told(&self, name: &str, rest: Option<Duration>) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(health) = known {
            health.told(rest, Instant::now());
        }
    }

    /// That of a deployment, or of a provider, as before if it was known.
    pub(super) fn of(&self, id: &str) -> Arc<Health> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let others = || self.others.clone().map(|others| (id.into(), others));
        let new = || Arc::new(Health { others: others(), ..Health::default() });
        known.entry(id.to_owned()).or_insert_with(new).clone()
    }

    /// Forgets those that no route speaks of any more.
    pub(super) fn forget_the_unused(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, health| Arc::strong_count(health) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(300);

    fn trouble(at_least: Option<Duration>) -> Failure {
        Failure { word: "x", cause: Cause::Trouble, at_least, most: MOST }
    }

    fn failure(cause: Cause) -> Failure {
        Failure { cause, ..trouble(Some(seconds(40))) }
    }

    fn probed(at: Instant) -> Probed {
        Probed { at, took: Duration::ZERO, failure: Some("x") }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn rests_double_with_each_failure_up_to_the_longest() {
        let (health, now) = (Health::default(), Instant::now());
        let mut now = now;
        for round in 0..20 {
            // All that were under way fail with it, and count once.
            (0..50).for_each(|_| health.failed(&trouble(None), now));
            let rested = health.figures(now).rests_for.unwrap();
            let least = seconds(2 << round.min(9)).min(MOST);
            let most = least.mul_f64(1.25).min(MOST);
            assert!(rested >= least && rested <= most, "{round}: {rested:?}");
            now += rested;
        }
    }

    #[test]
    fn refusals_count_in_a_row_only() {
        let (health, now) = (Health::default(), Instant::now());
        for _ in 0..2 {
            health.refused(&trouble(None), now);
            health.refused(&trouble(None), now);
            assert_eq!(health.figures(now).rests_for, None);
            health.admit(now).unwrap().succeeded();
        }
        (0..3).for_each(|_| health.refused(&trouble(None), now));
        assert_eq!(health.figures(now).failed, 7);
        let later = now + health.figures(now).rests_for.unwrap();
        health.admit(later).unwrap().succeeded();
        health.refused(&trouble(None), later);
        assert_eq!(health.figures(later).rests_for, None);
    }

    #[test]
    fn what_is_asked_for_is_kept_and_clamped_and_never_shortened() {
        let (health, now) = (Health::default(), Instant::now());
        health.failed(&trouble(Some(seconds(40))), now);
        assert_eq!(health.figures(now).rests_for, Some(seconds(40)));
        health.failed(&trouble(Some(seconds(7))), now + seconds(1));
        assert_eq!(health.figures(now).rests_for, Some(seconds(40)), "a later, shorter one shortens nothing");
        health.failed(&trouble(Some(seconds(99_999))), now);
        assert_eq!(health.figures(now).rests_for, Some(MOST));
    }

    #[test]
    fn after_its_rest_exactly_one_may_try() {
        let (health, now) = (Health::default(), Instant::now());
        health.admit(now).unwrap().succeeded();
        health.failed(&trouble(Some(seconds(10))), now);
        assert_eq!(health.admit(now + seconds(9)).unwrap_err(), now + seconds(10));
        let later = now + seconds(11);
        let probe = health.admit(later).unwrap();
        assert!(health.admit(later).is_err());
        drop(probe);
        let probe = health.admit(later).expect("who has left has tried nothing");
        health.failed(&trouble(None), later);
        drop(probe);
        assert!(health.admit(later + seconds(1)).is_err(), "it failed again");
        health.admit(later + seconds(60)).unwrap().succeeded();
        assert!((0..3).all(|_| health.admit(later + seconds(60)).is_ok()));
        assert_eq!(health.figures(now).failed, 2);
    }

    #[test]
    fn times_are_told_apart_and_summed_up() {
        let health = Health::default();
        let pass = health.admit(Instant::now()).unwrap();
        (1..=100).for_each(|millisecond| pass.took(Duration::from_millis(millisecond), true));
        pass.took(seconds(9), false);
        let figures = health.figures(Instant::now());
        assert_eq!(figures.first_token_p50, Some(Duration::from_millis(51)));
        assert_eq!(figures.first_token_p95, Some(Duration::from_millis(96)));
        assert_eq!(health.average(false), Some(9.0));
        assert!((0.08..0.1).contains(&health.average(true).unwrap()));
    }

    /// The way to one other replica.
    #[derive(Debug, Default)]
    struct Other(Mutex<Option<HealthBook>>);

    impl Replicas for Other {
        fn rests(&self, name: &str, rest: Duration) {
            if let Some(book) = &*self.0.lock().unwrap() {
                book.told(name, Some(rest));
            }
        }

        fn is_well(&self, name: &str) {
            if let Some(book) = &*self.0.lock().unwrap() {
                book.told(name, None);
            }
        }
    }

    #[test]
    fn replicas_hear_of_each_others_rests() {
        let (north_of, south_of) = (Arc::new(Other::default()), Arc::new(Other::default()));
        let (here, there) = (HealthBook::shared(north_of.clone()), HealthBook::shared(south_of.clone()));
        *north_of.0.lock().unwrap() = Some(there.clone());
        *south_of.0.lock().unwrap() = Some(here.clone());
        let (a_one, other_a, other_b) = (here.of("a"), there.of("a"), there.of("b"));
        let now = Instant::now();

        a_one.failed(&trouble(Some(seconds(40))), now);
        assert!(other_a.admit(now + seconds(39)).is_err() && other_b.admit(now).is_ok());
        other_a.failed(&trouble(Some(seconds(90))), now);
        a_one.failed(&trouble(Some(seconds(50))), now);
        assert!(other_a.admit(now + seconds(85)).is_err(), "a shorter rest shortens nothing, there as here");
        other_a.admit(now + seconds(100)).unwrap().succeeded();
        assert!((0..3).all(|_| a_one.admit(now + seconds(1)).is_ok()));
        here.told("nobody", Some(seconds(1)));
    }

    #[test]
    fn an_answer_to_what_was_asked_before_a_failure_ends_no_rest() {
        let (health, now) = (Health::default(), Instant::now());
        let (early, other) = (health.admit(now).unwrap(), health.admit(now).unwrap());
        drop(other);
        health.failed(&failure(Cause::Will), now + seconds(1));
        early.succeeded();
        assert!(health.admit(now + seconds(30)).is_err());
        assert_eq!(health.answered(), 1);
        let probe = health.admit(now + seconds(50)).unwrap();
        assert!(health.admit(now + seconds(50)).is_err());
        probe.succeeded();
        assert!(health.admit(now + seconds(50)).is_ok());
    }

    #[test]
    fn chance_is_even_enough() {
        let mean = (0..2000).map(|_| random()).sum::<f64>() / 2000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }

    #[test]
    fn a_sign_of_life_ends_what_it_disproves_and_nothing_else() {
        let begin = Instant::now();
        let (sent, now) = (begin + seconds(5), begin + seconds(6));
        let rest = |health: &Health| health.figures(now).rests_for.unwrap_or_default();
        for (cause, was_dead, ends) in [
            (Cause::Absent, false, true),
            (Cause::Absent, true, true),
            (Cause::Trouble, false, false),
            (Cause::Trouble, true, true),
            (Cause::Will, false, false),
            (Cause::Will, true, false),
        ] {
            let health = Health::default();
            health.failed(&failure(cause), begin);
            if was_dead {
                health.provider_found_dead();
            }
            assert_eq!(health.found_alive(sent, now), ends, "{cause:?}, {was_dead}");
            assert_eq!(
                rest(&health),
                if ends { Duration::ZERO } else { seconds(34) },
                "{cause:?}, {was_dead}"
            );
            assert!(!health.found_alive(sent, now), "nothing is left to end");
        }
    }

    #[test]
    fn a_sign_of_life_leaves_the_part_of_a_rest_that_was_asked_for() {
        let begin = Instant::now();
        let now = begin + seconds(1);
        let health = Health::default();
        health.failed(&failure(Cause::Will), begin);
        health.failed(&Failure { at_least: Some(seconds(90)), ..failure(Cause::Absent) }, begin);
        assert_eq!(health.figures(now).rests_for, Some(seconds(89)));
        assert!(health.found_alive(begin, now));
        assert_eq!(health.figures(now).rests_for, Some(seconds(39)), "what was asked for is kept");
    }

    #[test]
    fn an_answer_to_an_older_question_disproves_nothing() {
        let begin = Instant::now();
        let health = Health::default();
        health.failed(&failure(Cause::Absent), begin + seconds(1));
        assert!(!health.found_alive(begin, begin + seconds(2)));
        assert!(health.found_alive(begin + seconds(2), begin + seconds(3)));
    }

    #[test]
    fn trouble_after_a_new_start_is_not_forgiven_by_it() {
        let begin = Instant::now();
        let health = Health::default();
        health.failed(&failure(Cause::Absent), begin);
        health.provider_found_dead();
        health.failed(&failure(Cause::Trouble), begin + seconds(1));
        assert!(!health.found_alive(begin + seconds(2), begin + seconds(2)));
    }

    #[test]
    fn after_a_sign_of_life_one_tries_and_failures_are_not_forgotten() {
        let begin = Instant::now();
        let health = Health::default();
        let dead = Failure { at_least: None, ..failure(Cause::Absent) };
        health.found_dead(&dead, probed(begin));
        assert!(health.admit(begin).is_err(), "it rests before anybody has asked");
        let now = begin + seconds(1);
        assert!(health.found_alive(now, now));
        let tried = health.admit(now).expect("it may be tried at once");
        assert!(health.admit(now).is_err(), "by one");
        assert!(!health.found_alive(now, now), "and that stays so");
        health.failed(&dead, now);
        drop(tried);
        assert!(health.figures(now).rests_for.unwrap() >= seconds(4), "the second failure in a row");
        assert_eq!(health.figures(now).failed, 1, "probes are no requests");
        health.admit(now + seconds(60)).unwrap().succeeded();
        assert!((0..3).all(|_| health.admit(now + seconds(60)).is_ok()));
    }

    #[test]
    fn probes_that_fail_one_after_the_other_are_one_failure() {
        let begin = Instant::now();
        let health = Health::default();
        let dead = Failure { at_least: Some(seconds(3)), ..failure(Cause::Absent) };
        (0..20).for_each(|round| health.found_dead(&dead, probed(begin + seconds(2 * round))));
        let rests = health.figures(begin + seconds(38)).rests_for.unwrap();
        assert_eq!(rests, seconds(3), "always until the next one has looked");
    }
}
