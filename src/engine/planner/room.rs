//! Room for one more engine: whether there is any, and who has to go for it.

use tokio::time::Instant;

use super::{Engine, EngineId, LINGER, Phase, Planner, RESIDENCY, Ticket};

impl Planner {
    /// Whether an engine can be started beside those there are; if not, sees to it that some of them go.
    pub(super) fn has_way(&mut self, ticket: &Ticket, variant: usize, now: Instant) -> bool {
        let memory = self.memory(ticket.model, variant);
        let mut in_the_way = self.in_the_way(memory);
        let at_its_address = self.at_the_address_of(ticket.model, variant);
        in_the_way.retain(|engine| !at_its_address.contains(&engine.id));
        for id in &at_its_address {
            let engine = self.engines.iter().find(|engine| engine.id == *id).cloned();
            if engine.is_some_and(|engine| engine.phase == Phase::Ready && self.may_go(&engine, ticket, now))
            {
                self.give_way_to(*id, ticket);
            }
        }
        if !at_its_address.is_empty() {
            return false;
        }
        if in_the_way.is_empty() {
            return true;
        }
        self.sort_by_loss(&mut in_the_way, memory, now);
        for engine in in_the_way {
            if self.enough_go(memory) {
                break;
            }
            let is_there = matches!(engine.phase, Phase::Ready | Phase::Loading);
            if is_there && self.may_go(&engine, ticket, now) {
                self.give_way_to(engine.id, ticket);
            }
        }
        false
    }

    /// Engines that listen where a variant is to listen, if the models file says where. All of them have to go.
    fn at_the_address_of(&self, model: usize, variant: usize) -> Vec<EngineId> {
        let address = |model: usize, variant: usize| {
            self.models.get(model)?.spec.variants.get(variant)?.address.as_ref()
        };
        let Some(wanted) = address(model, variant) else { return Vec::new() };
        let there =
            self.engines.iter().filter(|engine| address(engine.model, engine.variant) == Some(wanted));
        there.map(|engine| engine.id).collect()
    }

    fn give_way_to(&mut self, engine: EngineId, ticket: &Ticket) {
        self.give_way(engine);
        self.heir = Some(ticket.model);
    }

    /// Whether it may run beside any other.
    pub(super) fn needs_no_room(&self, model: usize, variant: usize) -> bool {
        self.memory(model, variant) == 0
    }

    /// The engines of which at least one has to go before so much more fits; none if it fits now.
    fn in_the_way(&self, memory_mib: u64) -> Vec<Engine> {
        let movable = || self.engines.iter().filter(|engine| !self.stays_put(engine));
        match self.settings.memory_budget_mib {
            None if memory_mib == 0 => Vec::new(),
            None => {
                movable().filter(|engine| self.memory(engine.model, engine.variant) > 0).cloned().collect()
            }
            Some(budget) if self.used_mib(|_| true) + memory_mib <= budget => Vec::new(),
            Some(_) => movable().cloned().collect(),
        }
    }

    /// Puts those first whose end costs least: that have nothing to do, make room enough by themselves, have been idle
    /// for long and load fast.
    fn sort_by_loss(&self, engines: &mut [Engine], memory_mib: u64, now: Instant) {
        let is_enough = |engine: &Engine| {
            let freed = self.memory(engine.model, engine.variant);
            self.settings
                .memory_budget_mib
                .is_none_or(|budget| self.used_mib(|_| true) + memory_mib <= budget + freed)
        };
        let loss = |engine: &Engine| {
            let loading = engine.ready.unwrap_or(now).duration_since(engine.started);
            loading.as_secs_f64() / now.duration_since(engine.idle_since).as_secs_f64().max(0.001)
        };
        engines.sort_by(|one, other| {
            let rank = |engine: &Engine| (!engine.running.is_empty(), !is_enough(engine));
            rank(one).cmp(&rank(other)).then(loss(one).total_cmp(&loss(other)))
        });
    }

    /// Whether what is about to go makes room enough.
    fn enough_go(&self, memory_mib: u64) -> bool {
        let stays = |engine: &Engine| matches!(engine.phase, Phase::Loading | Phase::Ready);
        match self.settings.memory_budget_mib {
            None => !self.engines.iter().any(|engine| {
                stays(engine) && !self.stays_put(engine) && self.memory(engine.model, engine.variant) > 0
            }),
            Some(budget) => self.used_mib(stays) + memory_mib <= budget,
        }
    }

    /// Whether a variant will fit once everything has gone that may.
    pub(super) fn has_room_ever(&self, model: usize, variant: usize) -> bool {
        let stays = self.used_mib(|engine| self.stays_put(engine));
        let memory = self.memory(model, variant);
        self.settings.memory_budget_mib.is_none_or(|budget| stays == 0 || stays + memory <= budget)
    }

    /// What engines take that stay.
    fn kept_mib(&self) -> u64 {
        let stated = |engine: &Engine| self.variant(engine)?.memory_mib;
        self.engines.iter().filter(|engine| self.stays_put(engine)).filter_map(stated).sum()
    }

    fn used_mib(&self, counts: impl Fn(&Engine) -> bool) -> u64 {
        let counted = self.engines.iter().filter(|engine| counts(engine));
        counted.map(|engine| self.memory(engine.model, engine.variant)).sum()
    }

    /// What a variant takes. One that does not say takes all there is. Without a budget only this counts: one that says
    /// it takes nothing, or that it is a helper, may run beside any other.
    fn memory(&self, model: usize, variant: usize) -> u64 {
        let Some(model) = self.models.get(model) else { return 0 };
        if model.spec.is_secondary {
            return 0;
        }
        let stated = model.spec.variants.get(variant).and_then(|variant| variant.memory_mib);
        // One that has shown that it needs more than it says needs all that can be had, like one that says nothing.
        let lacked = model.health.get(variant).is_some_and(|health| health.lacked_memory.is_some());
        let all = || {
            self.settings.memory_budget_mib.map_or(1, |budget| budget.saturating_sub(self.kept_mib()).max(1))
        };
        stated.filter(|_| !lacked).unwrap_or_else(|| all().max(stated.unwrap_or(1)))
    }

    /// Whether stopping the engine for another's sake is out of the question.
    pub(super) fn stays_put(&self, engine: &Engine) -> bool {
        self.models.get(engine.model).is_some_and(|model| model.spec.is_pinned || model.spec.is_secondary)
    }

    pub(super) fn is_pinned(&self, engine: &Engine) -> bool {
        self.models.get(engine.model).is_some_and(|model| model.spec.is_pinned)
    }

    /// Whether an engine may go for the sake of another model's request.
    fn may_go(&self, engine: &Engine, ticket: &Ticket, now: Instant) -> bool {
        if engine.phase == Phase::Ready && now.duration_since(ticket.arrived) >= self.settings.max_unfairness
        {
            return true;
        }
        let is_wanted = self
            .waiting
            .iter()
            .any(|other| other.model == engine.model && self.fits(&other.need, engine.model, engine.variant));
        let is_loaded_for_somebody = engine.phase == Phase::Loading && self.waiting_for(engine.model) > 0;
        if is_wanted || is_loaded_for_somebody || !engine.running.is_empty() {
            return false;
        }
        let ready = engine.ready.unwrap_or(engine.started);
        let loading = ready.duration_since(engine.started);
        let linger = (loading / 10).clamp(LINGER.0, LINGER.1);
        now.duration_since(ready) >= RESIDENCY || now.duration_since(engine.idle_since) >= linger
    }
}
