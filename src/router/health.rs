//! How deployments and providers fare: which rest after a failure, for how long, and who may try them again.
//!
//! Outlives a change of the configuration, so that a reload forgets no rest. Time goes in as a value.

mod book;

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::providers::ErrorKind;

pub use book::{HealthBook, Replicas, Rest};

/// The first rest; each further failure doubles it.
const FIRST_REST: Duration = Duration::from_secs(2);
/// Where no cooldown may be this long, nothing cools down.
const LEAST_COOLDOWN: Duration = Duration::from_millis(1);
/// So many refusals in a row are no longer those of single requests.
const MOST_REFUSALS: u32 = 3;
/// Others ask again so long after a probe has begun.
const PROBE_GLANCE: Duration = Duration::from_millis(250);
/// How much a single time to the first token changes the average.
const HASTE: f64 = 0.2;
/// So many times to the first token are kept for the figures.
const MOST_TIMES: usize = 256;

/// A failure, as far as it matters for a rest.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What it was.
    pub kind: ErrorKind,
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
    /// Something went wrong there, and it says when to come back. No sign of life ends that early.
    Asked,
    /// It limits the rate, or does not take the key. Nothing ends that early, and it is not asked before.
    Will,
}

/// The last failure, which errors during the cooldown repeat.
#[derive(Clone, Debug)]
pub(super) struct Last {
    pub(super) at: Instant,
    /// Unknown if another replica has seen it.
    pub(super) kind: Option<ErrorKind>,
}

/// Why a question has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// When it is worth looking again.
    pub(super) until: Instant,
    /// Whether another request tries whether it is well again.
    pub(super) is_tried: bool,
}

impl Wait {
    /// Of two that would each be enough.
    pub(super) fn or(self, other: Self) -> Self {
        Self { until: self.until.min(other.until), is_tried: self.is_tried || other.is_tried }
    }
}

/// How much a question depends on this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Another one may answer.
    Usual,
    /// No other can: a failure is no reason to wait then.
    Last,
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

#[derive(Debug, Default)]
struct State {
    /// One after the other.
    failures: u32,
    /// Since the last success.
    refusals: u32,
    rests_until: Option<Instant>,
    /// The part of the rest that nothing ends early.
    willed_until: Option<Instant>,
    /// The part in which it is not asked, even if no other can answer.
    alone_until: Option<Instant>,
    /// The part of it that only a new start of the server ends.
    troubled_until: Option<Instant>,
    /// Whether the server was seen dead since the last failure.
    was_dead: bool,
    last: Option<Last>,
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
pub(super) struct Pass<'a> {
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
    pub(super) fn admit(&self, need: Need, now: Instant) -> Result<Pass<'_>, Wait> {
        if !self.is_troubled.load(Ordering::Acquire) {
            return Ok(Pass { health: self, admitted: now, is_probe: false, is_used: false });
        }
        let mut state = self.state();
        let until = match need {
            Need::Usual => state.rests_until,
            Need::Last => state.alone_until,
        };
        if let Some(until) = until.filter(|until| *until > now) {
            return Err(Wait { until, is_tried: false });
        }
        let is_probe = state.rests_until.is_some();
        if is_probe && state.is_probed {
            return Err(Wait { until: now + PROBE_GLANCE, is_tried: true });
        }
        state.is_probed |= is_probe;
        Ok(Pass { health: self, admitted: now, is_probe, is_used: false })
    }

    /// Whether it rests.
    pub(super) fn cools_down(&self, now: Instant) -> bool {
        self.rests_until(now).is_some()
    }

    /// Until when it rests, if it does.
    pub(super) fn rests_until(&self, now: Instant) -> Option<Instant> {
        if !self.is_troubled.load(Ordering::Acquire) {
            return None;
        }
        self.state().rests_until.filter(|until| *until > now)
    }

    /// When it is worth asking again, if it cools down: at once, unless it has said when.
    pub(super) fn useful_at(&self, now: Instant) -> Option<Instant> {
        self.rests_until(now)?;
        self.state().willed_until.max(Some(now))
    }

    /// The last failure, if it has cooled down since then.
    pub(super) fn last(&self) -> Option<Last> {
        if !self.is_troubled.load(Ordering::Acquire) {
            return None;
        }
        let state = self.state();
        state.last.clone().filter(|_| state.rests_until.is_some())
    }

    /// Comes back when it may be worth looking again.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// It failed, and rests: longer with each failure, at least as long as it asks for, and never longer than `most`.
    /// A rest that ends later already stays as it is. Whether a rest begins.
    pub fn failed(&self, failure: &Failure, now: Instant) -> bool {
        if failure.most < LEAST_COOLDOWN {
            self.note_failure(failure.kind.word());
            return false;
        }
        let (until, is_will, begins) = {
            let mut state = self.state();
            let begins = state.rests_until.is_none_or(|until| until <= now);
            state.note_failure(failure.kind.word());
            self.rest(&mut state, failure, now);
            (state.rests_until.unwrap_or(now), state.alone_until >= state.rests_until, begins)
        };
        if let Some((name, others)) = &self.others {
            others.cools_down(name, Rest { lasts: until.saturating_duration_since(now), is_will });
        }
        self.changed.notify_waiters();
        begins
    }

    /// It refused one request, and cools down only after several in a row. Whether a cooldown begins.
    pub fn refused(&self, failure: &Failure, now: Instant) -> bool {
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
        self.note_failure(failure.kind.word())
    }

    /// Another replica says how it fares: it rests for so long, or is well again.
    fn told(&self, rest: Option<Rest>, now: Instant) {
        let mut state = self.state();
        match rest {
            Some(Rest { lasts, is_will }) => {
                self.is_troubled.store(true, Ordering::Release);
                let until = Some(now + lasts);
                state.rests_until = state.rests_until.max(until);
                // Signs of life that are seen here say nothing of what was seen there.
                state.willed_until = state.willed_until.max(until);
                if is_will {
                    state.alone_until = state.alone_until.max(until);
                }
                state.last = Some(Last { at: now, kind: None });
            }
            None => self.is_well(&mut state),
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn is_well(&self, state: &mut State) {
        (state.rests_until, state.willed_until) = (None, None);
        (state.alone_until, state.troubled_until) = (None, None);
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
            Cause::Asked => state.willed_until = state.willed_until.max(until),
            Cause::Will => {
                state.willed_until = state.willed_until.max(until);
                state.alone_until = state.alone_until.max(until);
            }
        }
        state.last = Some(Last { at: now, kind: Some(failure.kind.clone()) });
        state.was_dead = false;
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

    /// It failed, for which it need not rest: none begins.
    pub fn note_failure(&self, word: &'static str) -> bool {
        self.state().note_failure(word);
        false
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
        if self.last.as_ref().is_some_and(|last| last.at > sent) {
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
    pub(super) fn succeeded(self) {
        self.health.answered.fetch_add(1, Ordering::Relaxed);
        if !self.health.is_troubled.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.health.state();
        if !self.is_probe && state.last.as_ref().is_some_and(|last| last.at >= self.admitted) {
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
    pub(super) fn took(&self, time: Duration, stream: bool) {
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

#[cfg(test)]
mod tests;
