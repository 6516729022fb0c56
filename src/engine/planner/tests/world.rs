//! A small world for the planner: engines that load and stop, requests that take their time.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::{EngineTimeouts, EngineVariant};
use crate::engine::need::AnswerLength;
use crate::engine::planner::*;

pub(super) const LOAD: Duration = Duration::from_secs(1);
pub(super) const STOP: Duration = Duration::from_millis(200);

pub(super) fn model(contexts: &[u64]) -> EngineModel {
    let variant = |context: &u64| EngineVariant {
        context_tokens: *context,
        binary: PathBuf::from("llama-server"),
        args: Vec::new(),
        address: None,
        memory_mib: None,
        timeouts: EngineTimeouts::default(),
        environment: crate::config::EngineEnvironment::default(),
    };
    EngineModel {
        variants: contexts.iter().map(variant).collect(),
        tokenization: None,
        default_output_reserve: 2048,
        is_pinned: false,
        is_preloaded: false,
        is_secondary: false,
        keeps_prompt_cache: true,
    }
}

pub(super) fn need(prompt_tokens: u64) -> Need {
    Need {
        prompt_tokens,
        prompt_at_most: prompt_tokens,
        answer: AnswerLength::Open(0),
        is_counted: true,
        is_alone: false,
        growth_tokens: 0,
    }
}

/// A planner, and the world that it decides about.
pub(super) struct World {
    pub(super) planner: Planner,
    pub(super) now: Instant,
    pub(super) slots: usize,
    /// What happens when, in that order.
    pub(super) due: BTreeMap<(Instant, u64), Event>,
    pub(super) events_so_far: u64,
    pub(super) answer_takes: Duration,
    pub(super) arrived: BTreeMap<TicketId, Instant>,
    pub(super) waited: BTreeMap<TicketId, Duration>,
    pub(super) refused: BTreeMap<TicketId, Refusal>,
    pub(super) granted_to: BTreeMap<TicketId, EngineId>,
    /// Which model and variant each engine is of.
    pub(super) started: Vec<(usize, usize)>,
    /// Engines of these models do not start.
    pub(super) broken: Vec<(usize, usize)>,
    /// Engines do not start beside others.
    pub(super) starved: bool,
    pub(super) finished: Vec<TicketId>,
    pub(super) allows_cuts: bool,
}

pub(super) enum Event {
    Ready(EngineId),
    Failed(EngineId),
    Gone(EngineId),
    Answered(TicketId),
}

impl World {
    pub(super) fn new(models: &[&[u64]]) -> Self {
        Self::with(EngineSettings::default(), models)
    }

    pub(super) fn with(settings: EngineSettings, models: &[&[u64]]) -> Self {
        let named =
            models.iter().enumerate().map(|(at, contexts)| (format!("m{at}").into(), model(contexts)));
        Self {
            planner: Planner::new(settings, named.collect()),
            now: Instant::now(),
            slots: 1,
            due: BTreeMap::new(),
            events_so_far: 0,
            answer_takes: Duration::from_millis(100),
            arrived: BTreeMap::new(),
            waited: BTreeMap::new(),
            refused: BTreeMap::new(),
            granted_to: BTreeMap::new(),
            started: Vec::new(),
            broken: Vec::new(),
            starved: false,
            finished: Vec::new(),
            allows_cuts: false,
        }
    }

    pub(super) fn later(&mut self, after: Duration, event: Event) {
        self.events_so_far += 1;
        self.due.insert((self.now + after, self.events_so_far), event);
    }

    pub(super) fn ask(&mut self, ticket: TicketId, model: usize, need: Need) {
        self.arrived.insert(ticket, self.now);
        if let Some(why) = self.planner.arrive(ticket, &format!("m{model}"), need, self.now) {
            self.refused.insert(ticket, why);
        }
        self.act();
    }

    pub(super) fn act(&mut self) {
        for effect in self.planner.plan(self.now) {
            match effect {
                Effect::Start { engine, model, variant } => {
                    self.started.push((model, variant));
                    assert_eq!(self.started.len() as u64, engine);
                    let is_starved = self.starved && self.planner.engines().len() > 1;
                    if is_starved || self.broken.contains(&(model, variant)) {
                        self.later(Duration::from_millis(50), Event::Failed(engine));
                    } else {
                        self.later(LOAD, Event::Ready(engine));
                    }
                }
                Effect::Stop { engine } => {
                    let running =
                        &self.planner.engines().iter().find(|known| known.id == engine).unwrap().running;
                    assert!(running.is_empty() || self.allows_cuts, "nobody is cut off");
                    self.later(STOP, Event::Gone(engine));
                }
                Effect::Grant { ticket, engine, .. } => {
                    self.waited.insert(ticket, self.now - self.arrived[&ticket]);
                    self.granted_to.insert(ticket, engine);
                    self.later(self.answer_takes, Event::Answered(ticket));
                }
                Effect::Refuse { ticket, why } => drop(self.refused.insert(ticket, why)),
                Effect::GivesWay { .. } => {}
            }
        }
        self.check();
    }

    pub(super) fn check(&self) {
        let mut models: Vec<usize> = Vec::new();
        for engine in self.planner.engines() {
            assert!(!models.contains(&engine.model), "one engine a model");
            models.push(engine.model);
            let kept: u64 = engine.running.iter().map(|(_, tokens)| tokens).sum();
            assert!(engine.running.len() <= engine.capacity.slots.max(1));
            assert!(
                engine.running.len() < 2
                    || !engine.capacity.is_shared
                    || kept <= engine.capacity.context_tokens
            );
        }
    }

    /// Lets the next thing happen; false if there is none within `limit`.
    pub(super) fn step(&mut self, limit: Instant) -> bool {
        let event = self.due.first_key_value().map(|((at, _), _)| *at);
        let look = self.planner.next_look(self.now);
        let Some(next) = event.into_iter().chain(look).min().filter(|next| *next <= limit) else {
            self.now = limit;
            return false;
        };
        self.now = self.now.max(next);
        if event.is_some_and(|at| at <= self.now) {
            let (_, event) = self.due.pop_first().unwrap();
            self.happens(&event);
        }
        self.act();
        true
    }

    pub(super) fn happens(&mut self, event: &Event) {
        match *event {
            Event::Ready(engine) => {
                // It may have been stopped while it loaded.
                let Some(known) = self.planner.engines().iter().find(|known| known.id == engine) else {
                    return;
                };
                let context_tokens = known.capacity.context_tokens;
                let is_shared = self.slots > 1;
                let capacity =
                    Capacity { slots: self.slots, context_tokens, is_shared, pool_tokens: context_tokens };
                self.planner.is_ready(engine, capacity, self.now);
            }
            Event::Failed(engine) => {
                let lacks_memory = self.starved && self.planner.engines().len() > 1;
                let failure = Failure { told: "it broke".into(), lacks_memory, taken_port: None };
                self.planner.is_gone(engine, Some(failure), self.now);
            }
            Event::Gone(engine) => self.planner.is_gone(engine, None, self.now),
            Event::Answered(ticket) => {
                self.finished.push(ticket);
                self.planner.leave(ticket, self.now);
            }
        }
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let limit = self.now + time;
        while self.step(limit) {}
    }
}
