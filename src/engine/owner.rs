//! The task that owns all engines of a provider: it hears of requests and of processes, asks the planner, and acts.
//!
//! Nobody else changes anything. What others see of engines is a picture from a moment ago, and nothing is decided
//! by it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lease::{EngineError, Place};
use super::log::Log;
use super::planner::{Effect, Engine, EngineId, Phase, Planner, Refusal, TicketId};
use super::pool::{Answer, Command, Configured, Granted, Stage};
use super::probe::Door;
use super::process::Launcher;
use super::prompt_cache::PromptCache;
use super::prompt_folder::PromptFolder;
use super::runner::{self, Order, Report};
use super::view::{EngineState, Picture, steps};
use crate::config::EngineSettings;

/// The task.
pub(super) struct Owner {
    planner: Planner,
    waiting: HashMap<TicketId, Answer>,
    engines: HashMap<EngineId, Known>,
    tasks: TaskTracker,
    launcher: Launcher,
    reports: mpsc::UnboundedSender<Command>,
    is_closing: bool,
    pictures: watch::Sender<Vec<Picture>>,
    stage: Stage,
    /// What the last engine of each model has said, also when it is gone.
    logs: HashMap<Arc<str>, Arc<Log>>,
    /// Who waits for the end of an engine.
    unloading: Vec<(EngineId, oneshot::Sender<()>)>,
    /// What the engines of each model have read, kept over a switch.
    caches: HashMap<Arc<str>, Arc<PromptCache>>,
    prompts: Option<Arc<PromptFolder>>,
    /// How long each variant took to load the last time.
    load_times: HashMap<Arc<str>, Duration>,
    /// Who waits until the states are shown.
    looking: Vec<oneshot::Sender<()>>,
}

/// What belongs to an engine beside what the planner knows.
struct Known {
    variant: Arc<str>,
    model: Arc<str>,
    started: Instant,
    stop: CancellationToken,
    doubt: Arc<Notify>,
    door: Option<Arc<Door>>,
    cache: Option<Arc<PromptCache>>,
    pid: Option<u32>,
    load_ms: Option<u64>,
    /// How much of it has loaded, in per cent.
    progress: Option<u8>,
    memory_mib: Option<u64>,
}

impl Owner {
    pub(super) fn new(
        configured: Configured,
        (tasks, launcher): (TaskTracker, Launcher),
        reports: mpsc::UnboundedSender<Command>,
        pictures: watch::Sender<Vec<Picture>>,
        stage: Stage,
    ) -> Self {
        Self {
            planner: Planner::new(configured.settings, configured.models),
            waiting: HashMap::new(),
            engines: HashMap::new(),
            tasks,
            launcher,
            reports,
            is_closing: false,
            pictures,
            stage,
            logs: HashMap::new(),
            unloading: Vec::new(),
            caches: HashMap::new(),
            prompts: None,
            load_times: HashMap::new(),
            looking: Vec::new(),
        }
    }

    /// Runs until it is closed and the last engine is gone.
    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        loop {
            let look = self.planner.next_look(Instant::now());
            let looking = async {
                match look {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // It holds a sender itself, so this always brings something.
                Some(command) = inbox.recv() => self.apply(command),
                () = looking => {}
            }
            while let Ok(command) = inbox.try_recv() {
                self.apply(command);
            }
            if self.is_closing {
                self.close();
            }
            self.act();
            if self.is_closing && self.engines.is_empty() {
                return;
            }
        }
    }

    fn apply(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Ask { ticket, model, need, answer } => {
                let refused = if self.is_closing {
                    Some(Refusal::Gone)
                } else {
                    self.planner.arrive(ticket, &model, need, now)
                };
                self.waiting.insert(ticket, answer);
                refused.into_iter().for_each(|why| self.answer(ticket, Err(why.into())));
            }
            Command::Leave(ticket) => {
                self.waiting.remove(&ticket);
                self.planner.leave(ticket, now);
            }
            Command::Doubt(engine) => {
                self.engines.get(&engine).iter().for_each(|known| known.doubt.notify_one());
            }
            Command::Report(engine, Report::Started(pid, log)) => {
                if let Some(known) = self.engines.get_mut(&engine) {
                    known.pid = Some(pid);
                    self.logs.insert(known.model.clone(), log);
                }
            }
            Command::Report(engine, Report::Progress(percent)) => {
                if let Some(known) = self.engines.get_mut(&engine) {
                    known.progress = Some(percent);
                }
            }
            Command::Report(engine, Report::Ready(door, capacity)) => {
                if let Some(known) = self.engines.get_mut(&engine) {
                    let took = known.started.elapsed();
                    known.door = Some(door);
                    known.load_ms = u64::try_from(took.as_millis()).ok();
                    known.progress = None;
                    self.load_times.insert(known.variant.clone(), took);
                }
                self.planner.is_ready(engine, capacity, now);
            }
            Command::Report(engine, Report::Gone(failure)) => {
                self.engines.remove(&engine);
                self.planner.is_gone(engine, failure, now);
            }
            Command::Failure { model, answer } => drop(answer.send(self.planner.failure_of(&model))),
            Command::Log { model, answer } => drop(answer.send(self.logs.get(&model).cloned())),
            Command::Show(shown) => self.looking.push(shown),
            Command::Unload { model, answer } => {
                let index = self.planner.index_of(&model);
                let engine = index.and_then(|index| self.planner.unload(index));
                self.unloading.extend(engine.map(|engine| (engine, answer)));
            }
            Command::Configure(configured) => self.configure(configured),
            Command::Close => self.is_closing = true,
        }
    }

    fn act(&mut self) {
        let effects = self.planner.plan(Instant::now());
        for effect in &effects {
            match effect {
                Effect::Start { engine, model, variant } => self.start(*engine, *model, *variant),
                Effect::Stop { engine } => {
                    if let Some(known) = self.engines.get(engine) {
                        known.stop.cancel();
                    }
                }
                Effect::GivesWay { model } => {
                    if let Some((model, _)) = self.planner.model(*model) {
                        self.stage.metrics.of_engines(&self.stage.provider, model).switched();
                    }
                }
                Effect::Grant { .. } | Effect::Refuse { .. } => {}
            }
        }
        // First: whoever is answered sees the engines as they are now.
        self.show();
        for effect in effects {
            match effect {
                Effect::Grant { ticket, engine, answer_limit } => {
                    let place = self.place(engine).ok_or(EngineError::Gone);
                    self.answer(ticket, place.map(|place| (place, answer_limit)));
                }
                Effect::Refuse { ticket, why } => self.answer(ticket, Err(why.into())),
                Effect::Start { .. } | Effect::Stop { .. } | Effect::GivesWay { .. } => {}
            }
        }
        // Dropped, a sender has told what was waited for.
        self.looking.clear();
        self.unloading.retain(|(engine, _)| self.engines.contains_key(engine));
    }

    fn answer(&mut self, ticket: TicketId, answer: Granted) {
        // A caller who has left says so by another way.
        if let Some(asking) = self.waiting.remove(&ticket) {
            let _ = asking.send(answer);
        }
    }

    /// Lets others see what has changed.
    fn show(&mut self) {
        let pictures = self.pictured();
        for event in steps(&self.stage.provider, &self.pictures.borrow(), &pictures) {
            // Mostly nobody listens.
            let _ = self.stage.events.send(event);
        }
        self.pictures.send_replace(pictures);
    }

    fn start(&mut self, engine: EngineId, model: usize, variant: usize) {
        let Some((model, spec)) = self.planner.model(model) else { return };
        let Some(variant) = spec.variants.get(variant).cloned() else { return };
        // Of a model that is fetched nobody knows whether it is still the same.
        let keeps = spec.keeps_prompt_cache && !variant.saves_slots_itself() && !variant.is_fetched();
        let model = model.clone();
        let cache = keeps.then(|| self.cache(&model)).flatten();
        let name: Arc<str> = format!("{model}@{}", variant.context_tokens).into();
        let (stop, doubt) = (CancellationToken::new(), Arc::new(Notify::new()));
        let known = Known {
            variant: name.clone(),
            model: model.clone(),
            started: Instant::now(),
            stop: stop.clone(),
            doubt: doubt.clone(),
            door: None,
            cache: cache.clone(),
            pid: None,
            load_ms: None,
            progress: None,
            memory_mib: variant.memory_mib,
        };
        self.engines.insert(engine, known);
        let order = Order {
            load_time: self.load_times.get(&name).copied(),
            metrics: self.stage.metrics.of_engines(&self.stage.provider, &model),
            launcher: self.launcher.clone(),
            name,
            model,
            variant,
            stop,
            doubt,
            cache,
        };
        let reports = self.reports.clone();
        self.tasks.spawn(runner::run(order, move |report| {
            // The task that hears it lives longer than its engines.
            let _ = reports.send(Command::Report(engine, report));
        }));
    }

    /// Where what the engines of a model have read is kept; `None` if there is no place for it.
    fn cache(&mut self, model: &Arc<str>) -> Option<Arc<PromptCache>> {
        if let Some(cache) = self.caches.get(model) {
            return Some(cache.clone());
        }
        let settings = self.planner.settings();
        if self.prompts.is_none() {
            let base = settings.prompt_cache_dir.as_deref().or(self.launcher.folder())?;
            let made = PromptFolder::make(base);
            let told = |error: &std::io::Error| {
                tracing::warn!(folder = %base.display(), %error, "Prompt caches are not kept over a switch");
            };
            self.prompts = made.inspect_err(told).ok().map(Arc::new);
        }
        let cache = PromptCache::new(model.clone(), self.prompts.clone()?, settings.prompt_cache_mib);
        let cache = Arc::new(cache);
        self.caches.insert(model.clone(), cache.clone());
        Some(cache)
    }

    fn place(&self, engine: EngineId) -> Option<Place> {
        let known = self.engines.get(&engine)?;
        let (variant, cache) = (known.variant.clone(), known.cache.clone());
        Some(Place { engine, variant, door: known.door.clone()?, cache })
    }

    fn configure(&mut self, configured: Configured) {
        self.forget_caches(&configured);
        for effect in self.planner.configure(configured.settings, configured.models) {
            if let Effect::Refuse { ticket, why } = effect {
                self.answer(ticket, Err(why.into()));
            }
        }
    }

    /// Lets go of what another configuration does not keep, or keeps elsewhere.
    fn forget_caches(&mut self, configured: &Configured) {
        let where_and_how_much =
            |settings: &EngineSettings| (settings.prompt_cache_dir.clone(), settings.prompt_cache_mib);
        let is_moved =
            where_and_how_much(self.planner.settings()) != where_and_how_much(&configured.settings);
        let is_kept = |model: &Arc<str>| {
            let found = configured.models.iter().find(|(name, _)| name == model);
            found.is_some_and(|(_, engine)| engine.keeps_prompt_cache) && !is_moved
        };
        self.caches.retain(|model, cache| {
            let stays = is_kept(model);
            if !stays {
                cache.close();
            }
            stays
        });
        if is_moved {
            self.prompts = None;
        }
    }

    fn close(&mut self) {
        for answer in std::mem::take(&mut self.waiting).into_values() {
            let _ = answer.send(Err(EngineError::Gone));
        }
        self.caches.values().for_each(|cache| cache.close());
        self.planner.close();
    }

    fn pictured(&self) -> Vec<Picture> {
        let picture = |engine: &Engine| {
            let known = self.engines.get(&engine.id)?;
            let state = EngineState {
                id: engine.id,
                variant: known.variant.clone(),
                model: known.model.clone(),
                pid: known.pid,
                load_ms: known.load_ms,
                progress: known.progress,
                memory_mib: known.memory_mib,
                phase: match engine.phase {
                    Phase::Loading => "loading",
                    Phase::Ready => "ready",
                    Phase::Draining => "draining",
                    Phase::Stopping => "stopping",
                },
                context_tokens: engine.capacity.context_tokens,
                running: engine.running.len(),
                slots: engine.capacity.slots,
                waiting: self.planner.waiting_for(engine.model),
            };
            Some(Picture { state, place: self.place(engine.id), capacity: engine.capacity })
        };
        self.planner.engines().iter().filter_map(picture).collect()
    }
}
