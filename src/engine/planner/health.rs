//! How variants have fared: which of them rests after a failure, for how long, and which may be tried instead.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{EngineId, Failure, Model, Phase, Planner, Refusal, Ticket};

/// A variant that fails again and again rests no longer than this.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// After that, what took the memory may be gone.
const LACK_IS_OLD: Duration = Duration::from_secs(600);
/// A rest that whoever waits may wait for as well: the first one, for what failed once may have failed by chance.
const SHORT_REST: Duration = Duration::from_secs(1);
/// An engine that has run for so long makes earlier failures forgotten.
const PROVEN_AFTER: Duration = Duration::from_secs(300);

/// How a variant has fared.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    pub(super) failures: u32,
    pub(super) rests_until: Option<Instant>,
    pub(super) failure: Option<Failure>,
    /// What an engine of it said it can hold, which may be less or more than the file says.
    pub(super) context_tokens: Option<u64>,
    /// When it found too little memory beside other engines, whatever the file says of what it takes.
    pub(super) lacked_memory: Option<Instant>,
}

impl Planner {
    /// An engine has ended; `failure` says why, if nobody asked it to.
    pub(in crate::engine) fn is_gone(&mut self, engine: EngineId, failure: Option<Failure>, now: Instant) {
        let Some(at) = self.engines.iter().position(|known| known.id == engine) else { return };
        let engine = self.engines.remove(at);
        let has_others = self.engines.iter().any(|other| !self.stays_put(other));
        let Some(health) = health_of(&mut self.models, engine.model, engine.variant) else { return };
        let has_proved = engine.ready.is_some_and(|ready| now.duration_since(ready) >= PROVEN_AFTER);
        if has_proved {
            health.failures = 0;
        }
        match failure.filter(|_| engine.phase != Phase::Stopping) {
            // It is tried again once the others have gone.
            Some(failure) if failure.lacks_memory && has_others && health.lacked_memory.is_none() => {
                health.lacked_memory = Some(now);
                health.failure = Some(failure);
            }
            Some(failure) => {
                health.failures += 1;
                health.failure = Some(failure);
                // One that has run gets a second chance at once.
                let exponent = if engine.ready.is_some() { health.failures - 1 } else { health.failures };
                let rest = match exponent {
                    0 => Duration::ZERO,
                    exponent => Duration::from_secs(1 << (exponent - 1).min(6)).min(LONGEST_REST),
                };
                health.rests_until = Some(now + rest);
            }
            None if engine.ready.is_some() => {
                health.failures = 0;
                health.rests_until = None;
            }
            // That it was stopped while it loaded says nothing of it.
            None => {}
        }
    }

    /// The smallest variant that fits and has not failed lately; `None` if it will be one in a moment.
    pub(super) fn choose(&self, ticket: &Ticket, now: Instant) -> Result<Option<usize>, Refusal> {
        let Some(model) = self.models.get(ticket.model) else { return Err(Refusal::Gone) };
        let fitting =
            || (0..model.health.len()).filter(|variant| self.fits(&ticket.need, ticket.model, *variant));
        if fitting().all(|variant| !self.has_room_ever(ticket.model, variant)) && fitting().next().is_some() {
            let told = "the memory budget has no room for it beside engines that are never stopped".into();
            let failure = Failure { told, ..Failure::default() };
            return Err(Refusal::StartFailed { retry_after: LONGEST_REST, failure });
        }
        let fitting = || fitting().filter(|variant| self.has_room_ever(ticket.model, *variant));
        let rest = |variant: usize| {
            let until = model.health.get(variant)?.rests_until?;
            until.checked_duration_since(now).filter(|rest| !rest.is_zero())
        };
        let able = || fitting().filter(|variant| rest(*variant).is_none());
        // One that will still do when the conversation has gone on a little, if there is one.
        let lasting = able().find(|variant| ticket.need.lasts(self.context(ticket.model, *variant)));
        if let Some(variant) = lasting.or_else(|| able().next_back()) {
            return Ok(Some(variant));
        }
        let Some((wait, variant)) = fitting().filter_map(|variant| Some((rest(variant)?, variant))).min()
        else {
            // An engine has said since that it holds less than the file says.
            let context_tokens = self.largest_context(ticket.model);
            return Err(Refusal::TooLarge { needed_tokens: ticket.need.prompt_tokens, context_tokens });
        };
        if wait <= SHORT_REST {
            return Ok(None);
        }
        let failure = model.health.get(variant).and_then(|health| health.failure.clone());
        Err(Refusal::StartFailed { retry_after: wait, failure: failure.unwrap_or_default() })
    }

    /// Why a variant of a model has failed lately.
    pub(in crate::engine) fn failure_of(&self, model: &str) -> Option<Arc<str>> {
        let model = self.models.get(self.index_of(model)?)?;
        let failed = model.health.iter().filter(|health| health.failures > 0);
        failed.max_by_key(|health| health.rests_until)?.failure.as_ref().map(|failure| failure.told.clone())
    }

    pub(super) fn forget_old_lacks(&mut self, now: Instant) {
        for health in self.models.iter_mut().flat_map(|model| &mut model.health) {
            health.lacked_memory = health.lacked_memory.filter(|at| now.duration_since(*at) < LACK_IS_OLD);
        }
    }
}

pub(super) fn health_of(models: &mut [Model], model: usize, variant: usize) -> Option<&mut Health> {
    models.get_mut(model)?.health.get_mut(variant)
}
