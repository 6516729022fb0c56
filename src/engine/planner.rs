//! Decides which engine runs, which stops, and who may ask it. Does nothing itself.
//!
//! Values and the time go in, effects come out, so that every decision can be tested without a process or a clock.
//! What it knows of engines is what it was told: whoever acts on an effect reports how it went.
//!
//! The rules, in the order in which they hold:
//!
//! 1. A request that fits a running engine stays with it, even if the engine is larger than it need be.
//! 2. Requests for one engine are served in their order, as many at once as its slots and its context hold.
//! 3. A model runs in one variant at a time: when one has to be started, the smallest that fits and leaves room for
//!    the conversation to go on. It grows when a request needs more, and becomes smaller only by a stop for idleness.
//! 4. Another model's engine goes when it has nothing to do, or when somebody has waited for as long as is fair.

mod health;
mod room;
mod state;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::need::Need;
use crate::config::{EngineModel, EngineSettings, EngineTimeouts};

use health::{Health, health_of};
pub(super) use state::{Capacity, Effect, Engine, EngineId, Failure, Phase, Refusal, TicketId};

/// An engine that has served for so long may go as soon as it is idle.
const RESIDENCY: Duration = Duration::from_secs(10);
/// One that has not is waited for a little, for the next request of the same caller may be on its way: a tenth of what
/// it takes to load, within these.
const LINGER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How often those who wait are looked at.
const GLANCE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
struct Model {
    name: Arc<str>,
    spec: EngineModel,
    health: Vec<Health>,
    /// Not configured any more, and kept for the engine that still runs.
    is_retired: bool,
}

impl Model {
    fn new((name, spec): (Arc<str>, EngineModel)) -> Self {
        let health = vec![Health::default(); spec.variants.len()];
        Self { name, spec, health, is_retired: false }
    }
}

#[derive(Clone, Debug)]
struct Ticket {
    id: TicketId,
    model: usize,
    need: Need,
    arrived: Instant,
}

/// The state of all engines of a provider, and those who wait for them.
#[derive(Clone, Debug)]
pub(super) struct Planner {
    settings: EngineSettings,
    models: Vec<Model>,
    engines: Vec<Engine>,
    waiting: VecDeque<Ticket>,
    engines_so_far: EngineId,
    /// The models of engines that go for others, until it is told.
    giving_way: Vec<usize>,
    /// The model for whose sake engines go that others still want: it comes next, whoever has waited for longer.
    heir: Option<usize>,
}

impl Planner {
    pub(super) fn new(settings: EngineSettings, models: Vec<(Arc<str>, EngineModel)>) -> Self {
        Self {
            settings,
            models: models.into_iter().map(Model::new).collect(),
            engines: Vec::new(),
            waiting: VecDeque::new(),
            engines_so_far: 0,
            giving_way: Vec::new(),
            heir: None,
        }
    }

    /// Another configuration holds from now on. Engines whose variant is the same run on, the others end with their
    /// answers; requests of models that are gone are turned away.
    pub(super) fn configure(
        &mut self,
        settings: EngineSettings,
        models: Vec<(Arc<str>, EngineModel)>,
    ) -> Vec<Effect> {
        self.settings = settings;
        let old = std::mem::replace(&mut self.models, models.into_iter().map(Model::new).collect());
        let mut effects = Vec::new();
        self.waiting.retain_mut(|ticket| {
            let name = old.get(ticket.model).map(|model| model.name.clone()).unwrap_or_default();
            let index = self.models.iter().position(|model| model.name == name);
            ticket.model = index.unwrap_or(ticket.model);
            if index.is_none() {
                effects.push(Effect::Refuse { ticket: ticket.id, why: Refusal::Gone });
            }
            index.is_some()
        });
        for at in 0..self.engines.len() {
            self.reassign(at, &old);
        }
        effects
    }

    /// Finds the place of an engine in a new configuration, or keeps its old one until it has ended.
    fn reassign(&mut self, at: usize, old: &[Model]) {
        let Some(engine) = self.engines.get_mut(at) else { return };
        let Some(was) = old.get(engine.model) else { return };
        let variant = was.spec.variants.get(engine.variant);
        let index = self.models.iter().position(|model| model.name == was.name && !was.is_retired);
        let same = index.and_then(|index| {
            let model = self.models.get_mut(index)?;
            let same = model
                .spec
                .variants
                .iter()
                .position(|other| variant.is_some_and(|variant| other.is_started_as(variant)))?;
            *model.health.get_mut(same)? = was.health.get(engine.variant)?.clone();
            Some((index, same))
        });
        if let Some((model, variant)) = same {
            (engine.model, engine.variant) = (model, variant);
            return;
        }
        self.models.push(Model { is_retired: true, ..was.clone() });
        engine.model = self.models.len() - 1;
        engine.drain(&was.name, "it is configured otherwise now");
    }

    /// Where a model stands, by its name.
    pub(super) fn index_of(&self, model: &str) -> Option<usize> {
        self.models.iter().position(|known| *known.name == *model && !known.is_retired)
    }

    /// A model's name, and how it is run.
    pub(super) fn model(&self, model: usize) -> Option<(&Arc<str>, &EngineModel)> {
        self.models.get(model).map(|model| (&model.name, &model.spec))
    }

    /// What holds for all engines.
    pub(super) fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    /// A request arrives. It may be turned away at once.
    pub(super) fn arrive(
        &mut self,
        ticket: TicketId,
        model: &str,
        need: Need,
        now: Instant,
    ) -> Option<Refusal> {
        let Some(index) = self.index_of(model) else { return Some(Refusal::Gone) };
        let largest = self.largest_context(index);
        let need = if need.is_counted || need.fits(largest, true) {
            need
        } else {
            // Only who has counted can say that it is too long.
            let prompt_tokens = largest.saturating_sub(1);
            Need { prompt_tokens, prompt_at_most: prompt_tokens, ..need }
        };
        if !need.fits(largest, true) {
            return Some(Refusal::TooLarge { needed_tokens: need.prompt_tokens, context_tokens: largest });
        }
        if self.waiting_for(index) >= self.settings.queue_max.max(1) {
            return Some(Refusal::QueueFull);
        }
        self.waiting.push_back(Ticket { id: ticket, model: index, need, arrived: now });
        None
    }

    /// Whoever waited, or was answered, needs nothing any more.
    pub(super) fn leave(&mut self, ticket: TicketId, now: Instant) {
        self.waiting.retain(|waiting| waiting.id != ticket);
        for engine in &mut self.engines {
            let before = engine.running.len();
            engine.running.retain(|(running, _)| *running != ticket);
            if engine.running.len() < before {
                engine.idle_since = now;
            }
        }
    }

    /// An engine has loaded.
    pub(super) fn is_ready(&mut self, engine: EngineId, capacity: Capacity, now: Instant) {
        let Some(engine) = self.engines.iter_mut().find(|known| known.id == engine) else { return };
        engine.capacity = capacity;
        engine.ready = Some(now);
        engine.idle_since = now;
        if engine.phase == Phase::Loading {
            engine.phase = Phase::Ready;
        }
        if let Some(health) = health_of(&mut self.models, engine.model, engine.variant) {
            health.context_tokens = Some(capacity.context_tokens);
        }
    }

    /// The engine of a model, if there is one, ends with the answers that it is giving. Which one that is.
    pub(super) fn unload(&mut self, model: usize) -> Option<EngineId> {
        let engine = self.engines.iter_mut().find(|engine| engine.model == model)?;
        let name = self.models.get(model).map(|model| &*model.name).unwrap_or_default();
        engine.drain(name, "it is unloaded");
        Some(engine.id)
    }

    /// Nothing more is wanted: engines end with the answers that they are giving. Whoever waits is forgotten.
    pub(super) fn close(&mut self) {
        self.waiting.clear();
        for engine in &mut self.engines {
            let name = self.models.get(engine.model).map(|model| &*model.name).unwrap_or_default();
            engine.drain(name, "the service ends");
        }
    }

    /// Everything that is to be done now.
    pub(super) fn plan(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.forget_old_lacks(now);
        self.grant(&mut effects);
        self.make_way(now, &mut effects);
        effects.extend(self.giving_way.drain(..).map(|model| Effect::GivesWay { model }));
        self.stop_idle(now, &mut effects);
        self.stop_drained(now, &mut effects);
        effects
    }

    /// When to look again, if nothing happens before.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        if !self.waiting.is_empty() {
            return Some(now + GLANCE);
        }
        let due = |engine: &Engine| match engine.draining {
            Some(since) if engine.phase == Phase::Draining => Some(since + self.timeouts(engine).drain),
            _ if engine.phase == Phase::Draining => Some(now),
            _ if self.may_idle_out(engine) => Some(engine.idle_since + self.timeouts(engine).idle),
            _ => None,
        };
        self.engines.iter().filter_map(due).min()
    }

    /// All engines there are.
    pub(super) fn engines(&self) -> &[Engine] {
        &self.engines
    }

    /// How many wait for a model.
    pub(super) fn waiting_for(&self, model: usize) -> usize {
        self.waiting.iter().filter(|ticket| ticket.model == model).count()
    }

    /// The largest context of a model, as far as is known.
    pub(super) fn largest_context(&self, model: usize) -> u64 {
        let variants = || 0..self.models.get(model).map_or(0, |model| model.spec.variants.len());
        let context = |variant| self.context(model, variant);
        // What has no room beside engines that are never stopped is as good as not there.
        let usable = variants().filter(|variant| self.has_room_ever(model, *variant)).map(context).max();
        usable.or_else(|| variants().map(context).max()).unwrap_or(0)
    }

    fn context(&self, model: usize, variant: usize) -> u64 {
        let Some(model) = self.models.get(model) else { return 0 };
        let said = model.health.get(variant).and_then(|health| health.context_tokens);
        said.or_else(|| model.spec.variants.get(variant).map(|variant| variant.context_tokens)).unwrap_or(0)
    }

    fn variant(&self, engine: &Engine) -> Option<&crate::config::EngineVariant> {
        self.models.get(engine.model)?.spec.variants.get(engine.variant)
    }

    fn timeouts(&self, engine: &Engine) -> EngineTimeouts {
        self.variant(engine).map(|variant| variant.timeouts).unwrap_or_default()
    }

    fn fits(&self, need: &Need, model: usize, variant: usize) -> bool {
        let context = self.context(model, variant);
        need.fits(context, context >= self.largest_context(model))
    }

    fn grant(&mut self, effects: &mut Vec<Effect>) {
        // Engines for which somebody waits who comes before all others.
        let mut taken: Vec<EngineId> = Vec::new();
        let mut at = 0;
        while let Some(ticket) = self.waiting.get(at).cloned() {
            let engine = self.engines.iter().position(|engine| {
                engine.model == ticket.model
                    && engine.phase == Phase::Ready
                    && self.fits(&ticket.need, engine.model, engine.variant)
            });
            let Some(engine) = engine.and_then(|engine| self.engines.get_mut(engine)) else {
                at += 1;
                continue;
            };
            if taken.contains(&engine.id) || !engine.has_room_for(&ticket.need) {
                taken.push(engine.id);
                at += 1;
                continue;
            }
            engine.running.push((ticket.id, ticket.need.reserved(engine.capacity)));
            let answer_limit = ticket.need.answer_limit(engine.capacity);
            effects.push(Effect::Grant { ticket: ticket.id, engine: engine.id, answer_limit });
            self.waiting.remove(at);
        }
    }

    /// Sees to it that those who wait get an engine. Only the first who has to wait for another engine's end is looked
    /// at: whoever comes later has less of a claim.
    fn make_way(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let mut at = 0;
        self.heir = self.heir.filter(|heir| self.waiting_for(*heir) > 0);
        let mut somebody_waits = false;
        while let Some(ticket) = self.waiting.get(at).cloned() {
            let is_behind = somebody_waits || self.heir.is_some_and(|heir| heir != ticket.model);
            let own = self.engines.iter().position(|engine| engine.model == ticket.model);
            match own.and_then(|own| self.engines.get(own)).cloned() {
                Some(engine) => {
                    if engine.phase == Phase::Ready && !self.fits(&ticket.need, engine.model, engine.variant)
                    {
                        self.outgrow(&engine, &ticket, now);
                    }
                    at += 1;
                }
                None => match self.choose(&ticket, now) {
                    Err(why) => {
                        self.waiting.remove(at);
                        effects.push(Effect::Refuse { ticket: ticket.id, why });
                    }
                    // Only what takes nothing of the others may start before them.
                    Ok(Some(variant))
                        if (!is_behind || self.needs_no_room(ticket.model, variant))
                            && self.has_way(&ticket, variant, now) =>
                    {
                        effects.push(self.start(ticket.model, variant, now));
                        self.heir = self.heir.filter(|heir| *heir != ticket.model);
                        at += 1;
                    }
                    Ok(Some(_)) => {
                        somebody_waits |= self.heir.is_none_or(|heir| heir == ticket.model);
                        at += 1;
                    }
                    // Its rest is short.
                    Ok(None) => at += 1,
                },
            }
        }
    }

    fn start(&mut self, model: usize, variant: usize, now: Instant) -> Effect {
        self.engines_so_far += 1;
        let id = self.engines_so_far;
        let context_tokens = self.context(model, variant);
        self.engines.push(Engine {
            id,
            model,
            variant,
            phase: Phase::Loading,
            capacity: Capacity { slots: 0, context_tokens, is_shared: false, pool_tokens: context_tokens },
            running: Vec::new(),
            started: now,
            ready: None,
            draining: None,
            idle_since: now,
        });
        Effect::Start { engine: id, model, variant }
    }

    /// A request needs more than its model's engine has. Those that it serves well may go on for as long as is fair.
    fn outgrow(&mut self, engine: &Engine, ticket: &Ticket, now: Instant) {
        let serves_others = self
            .waiting
            .iter()
            .any(|other| other.model == engine.model && self.fits(&other.need, engine.model, engine.variant));
        if !serves_others || now.duration_since(ticket.arrived) >= self.settings.max_unfairness {
            self.give_way(engine.id);
        }
    }

    fn drain(&mut self, engine: EngineId, why: &'static str) {
        if let Some(engine) = self.engines.iter_mut().find(|known| known.id == engine) {
            let name = self.models.get(engine.model).map(|model| &*model.name).unwrap_or_default();
            engine.drain(name, why);
        }
    }

    /// An engine goes for the sake of another one.
    fn give_way(&mut self, engine: EngineId) {
        let is_new = |known: &&Engine| matches!(known.phase, Phase::Loading | Phase::Ready);
        if let Some(known) = self.engines.iter().find(|known| known.id == engine).filter(is_new) {
            self.giving_way.push(known.model);
            self.drain(engine, "another engine needs its place");
        }
    }

    fn may_idle_out(&self, engine: &Engine) -> bool {
        engine.phase == Phase::Ready && engine.running.is_empty() && !self.is_pinned(engine)
    }

    fn stop_idle(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let waited_for = |model: usize| self.waiting.iter().any(|ticket| ticket.model == model);
        let is_over = |engine: &Engine| {
            self.may_idle_out(engine)
                && !waited_for(engine.model)
                && now.duration_since(engine.idle_since) >= self.timeouts(engine).idle
        };
        let over: Vec<EngineId> =
            self.engines.iter().filter(|e| is_over(e)).map(|engine| engine.id).collect();
        over.into_iter().for_each(|engine| self.drain(engine, "it is idle"));
        self.stop_drained(now, effects);
    }

    fn stop_drained(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for at in 0..self.engines.len() {
            let Some(limit) = self.engines.get(at).map(|engine| self.timeouts(engine).drain) else { return };
            let Some(engine) = self.engines.get_mut(at).filter(|engine| engine.phase == Phase::Draining)
            else {
                continue;
            };
            let since = *engine.draining.get_or_insert(now);
            if engine.running.is_empty() || now.duration_since(since) >= limit {
                engine.phase = Phase::Stopping;
                effects.push(Effect::Stop { engine: engine.id });
            }
        }
    }
}

#[cfg(test)]
mod tests;
