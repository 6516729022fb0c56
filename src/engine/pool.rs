//! One task that owns all engines of a provider: it hears of requests and of processes, asks the planner, and acts.
//!
//! Nobody else changes anything. What others see of engines is a picture from a moment ago, and nothing is decided
//! by it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::log::Log;
use super::need::Need;
use super::planner::{Effect, EngineId, Phase, Planner, Refusal, TicketId};
use super::probe::Door;
use super::process::Launcher;
use super::runner::{self, Order, Report};
use crate::config::{EngineModel, EngineSettings};

/// The engines of one provider.
#[derive(Debug)]
pub struct Pool {
    settings: EngineSettings,
    models: Vec<(Arc<str>, EngineModel)>,
    tasks: TaskTracker,
    launcher: Launcher,
    /// Begins with the first request: whoever only looks at the configuration starts nothing.
    running: OnceLock<Running>,
    tickets: AtomicU64,
    stage: Stage,
}

/// Where the engines of a provider are seen.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    /// The provider.
    pub(super) provider: Arc<str>,
    /// The steps of all providers' engines.
    pub(super) events: broadcast::Sender<EngineEvent>,
}

#[derive(Debug)]
struct Running {
    // Unbounded, but each entry stands for a request that is held elsewhere, or for a step in an engine's life.
    commands: mpsc::UnboundedSender<Command>,
    states: watch::Receiver<Vec<EngineState>>,
}

/// A step in an engine's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EngineEvent {
    /// The provider's name.
    pub provider: Arc<str>,
    /// `<model>@<context>`.
    pub variant: Arc<str>,
    /// The model's name.
    pub model: Arc<str>,
    /// `loading`, `ready`, `draining`, `stopping`, or `gone`.
    pub phase: &'static str,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// An engine as it was a moment ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EngineState {
    /// No other engine of the provider ever has the same number.
    pub id: u64,
    /// `<model>@<context>`.
    pub variant: Arc<str>,
    /// The model's name.
    pub model: Arc<str>,
    /// `loading`, `ready`, `draining` or `stopping`.
    pub phase: &'static str,
    /// Context in tokens, as the engine says once it is ready.
    pub context_tokens: u64,
    /// Requests that it is answering.
    pub running: usize,
    /// Requests that it can answer at once; 0 while it loads.
    pub slots: usize,
    /// Requests that wait for its model.
    pub waiting: usize,
    /// Its process, once it runs.
    pub pid: Option<u32>,
    /// How long it took to load, in milliseconds, once it has.
    pub load_ms: Option<u64>,
    /// What it may take, in MiB, if the models file says.
    pub memory_mib: Option<u64>,
}

/// Why a request gets no engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Too many wait already.
    #[error("too many requests wait for this model")]
    QueueFull,
    /// No engine starts.
    #[error("the engine cannot be started")]
    StartFailed {
        /// When it is worth trying again.
        retry_after: Duration,
        /// Why, with the engine's last words. For operators.
        told: Arc<str>,
    },
    /// No variant is large enough.
    #[error("the prompt needs {needed_tokens} tokens, and the largest context has {context_tokens}")]
    TooLarge {
        /// What the prompt needs.
        needed_tokens: u64,
        /// What there is.
        context_tokens: u64,
    },
    /// The service is about to end, or the model is not configured any more.
    #[error("the engine is not served any more")]
    Gone,
}

/// The right to ask an engine. Dropping it ends the right, and frees the place.
#[derive(Debug)]
pub struct Lease {
    place: Place,
    _turn: Turn,
}

/// Where a leased engine is asked.
#[derive(Clone, Debug)]
pub struct Place {
    /// Which process; no other ever has the same number in this pool.
    pub engine: u64,
    /// `<model>@<context>`.
    pub variant: Arc<str>,
    pub(super) door: Arc<Door>,
}

impl Place {
    /// The address of its API.
    pub fn base_url(&self) -> String {
        let address = &self.door.address;
        if address.host.contains(':') {
            format!("http://[{}]:{}/v1", address.host, address.port)
        } else {
            format!("http://{}:{}/v1", address.host, address.port)
        }
    }

    /// The key that opens it.
    pub fn api_key(&self) -> &secrecy::SecretString {
        &self.door.api_key
    }
}

impl Lease {
    /// Where the engine is asked.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

/// A place in the queue, and later at an engine.
#[derive(Debug)]
struct Turn {
    ticket: TicketId,
    commands: mpsc::UnboundedSender<Command>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // When the pool has ended there is nothing to leave.
        let _ = self.commands.send(Command::Leave(self.ticket));
    }
}

type Answer = oneshot::Sender<Result<Place, EngineError>>;

enum Command {
    Ask { ticket: TicketId, model: Arc<str>, need: Need, answer: Answer },
    Leave(TicketId),
    Report(EngineId, Report),
    Locate { model: Arc<str>, answer: oneshot::Sender<Option<(Place, u64)>> },
    Log { model: Arc<str>, answer: oneshot::Sender<Option<Arc<Log>>> },
    Unload { model: Arc<str>, answer: oneshot::Sender<()> },
    Close,
}

impl Pool {
    pub(super) fn new(
        settings: EngineSettings,
        models: Vec<(Arc<str>, EngineModel)>,
        tasks: TaskTracker,
        launcher: Launcher,
        stage: Stage,
    ) -> Self {
        let (running, tickets) = (OnceLock::new(), AtomicU64::new(0));
        Self { settings, models, tasks, launcher, running, tickets, stage }
    }

    pub(super) fn is_for(&self, settings: &EngineSettings, models: &[(Arc<str>, EngineModel)]) -> bool {
        self.settings == *settings && self.models == models
    }

    fn running(&self) -> &Running {
        self.running.get_or_init(|| {
            let (commands, inbox) = mpsc::unbounded_channel();
            let (states, seen) = watch::channel(Vec::new());
            let owner = Owner {
                planner: Planner::new(self.settings.clone(), self.models.clone()),
                models: self.models.clone(),
                waiting: HashMap::new(),
                engines: HashMap::new(),
                tasks: self.tasks.clone(),
                launcher: self.launcher.clone(),
                reports: commands.downgrade(),
                is_closing: false,
                states,
                stage: self.stage.clone(),
                logs: HashMap::new(),
                unloading: Vec::new(),
            };
            self.tasks.spawn(owner.run(inbox));
            Running { commands, states: seen }
        })
    }

    /// Waits for the right to ask an engine that runs `model` and holds what is needed. Dropping the future gives up
    /// the place in the queue.
    ///
    /// # Errors
    /// There will be no such engine.
    pub async fn lease(&self, model: &str, need: Need) -> Result<Lease, EngineError> {
        let running = self.running();
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let turn = Turn { ticket, commands: running.commands.clone() };
        let ask = Command::Ask { ticket, model: model.into(), need, answer };
        running.commands.send(ask).map_err(|_| EngineError::Gone)?;
        let place = answered.await.map_err(|_| EngineError::Gone)??;
        Ok(Lease { place, _turn: turn })
    }

    /// The engine that runs a model now, and its context; `None` if none does.
    pub(super) async fn locate(&self, model: &str) -> Option<(Place, u64)> {
        let running = self.running.get()?;
        let (answer, answered) = oneshot::channel();
        running.commands.send(Command::Locate { model: model.into(), answer }).ok()?;
        answered.await.ok().flatten()
    }

    /// All engines, as they were a moment ago.
    pub fn states(&self) -> Vec<EngineState> {
        self.running.get().map(|running| running.states.borrow().clone()).unwrap_or_default()
    }

    /// Whether a model is one of this pool's.
    pub fn has(&self, model: &str) -> bool {
        self.models.iter().any(|(name, _)| **name == *model)
    }

    /// The models, each with its variants' contexts in tokens.
    pub fn models(&self) -> impl Iterator<Item = (&str, Vec<u64>)> {
        self.models.iter().map(|(name, engine)| {
            (&**name, engine.variants.iter().map(|variant| variant.context_tokens).collect())
        })
    }

    /// What the last engine of a model said, the newest last; `None` if none has been started.
    pub async fn log(&self, model: &str) -> Option<Vec<String>> {
        let running = self.running.get()?;
        let (answer, answered) = oneshot::channel();
        running.commands.send(Command::Log { model: model.into(), answer }).ok()?;
        Some(answered.await.ok()??.lines())
    }

    /// Starts an engine of a model, if none runs, and waits until it has loaded.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn load(&self, model: &str) -> Result<(), EngineError> {
        self.lease(model, Need::NOTHING).await.map(drop)
    }

    /// Ends the engine of a model once its answers have ended, and waits for that.
    pub async fn unload(&self, model: &str) {
        let Some(running) = self.running.get() else { return };
        let (answer, answered) = oneshot::channel();
        let _ = running.commands.send(Command::Unload { model: model.into(), answer });
        // Answered, or dropped with the pool: it is gone.
        let _ = answered.await;
    }

    /// Starts what is to run from the beginning. Nobody waits for it.
    pub(super) fn preload(self: &Arc<Self>) {
        let preloaded = self.models.iter().filter(|(_, engine)| engine.is_preloaded);
        for (name, _) in preloaded {
            let (pool, name) = (self.clone(), name.clone());
            self.tasks.spawn(async move {
                if let Err(error) = pool.load(&name).await {
                    tracing::warn!(model = %name, %error, "The model is not preloaded");
                }
            });
        }
    }

    /// Ends all engines, once their answers have ended.
    pub(super) fn close(&self) {
        if let Some(running) = self.running.get() {
            let _ = running.commands.send(Command::Close);
        }
    }
}

/// The task.
struct Owner {
    planner: Planner,
    models: Vec<(Arc<str>, EngineModel)>,
    waiting: HashMap<TicketId, Answer>,
    engines: HashMap<EngineId, Known>,
    tasks: TaskTracker,
    launcher: Launcher,
    /// Weak, or the task would keep itself alive.
    reports: mpsc::WeakUnboundedSender<Command>,
    is_closing: bool,
    states: watch::Sender<Vec<EngineState>>,
    stage: Stage,
    /// What the last engine of each model has said, also when it is gone.
    logs: HashMap<Arc<str>, Arc<Log>>,
    /// Who waits for the end of an engine.
    unloading: Vec<(EngineId, oneshot::Sender<()>)>,
}

/// What belongs to an engine beside what the planner knows.
struct Known {
    variant: Arc<str>,
    model: Arc<str>,
    started: Instant,
    stop: CancellationToken,
    door: Option<Arc<Door>>,
    pid: Option<u32>,
    load_ms: Option<u64>,
    memory_mib: Option<u64>,
}

impl Owner {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        loop {
            let look = self.planner.next_look(Instant::now());
            let looking = async {
                match look {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.apply(command),
                    None => self.is_closing = true,
                },
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
                match refused {
                    Some(why) => drop(answer.send(Err(why.into()))),
                    None => drop(self.waiting.insert(ticket, answer)),
                }
            }
            Command::Leave(ticket) => {
                self.waiting.remove(&ticket);
                self.planner.leave(ticket, now);
            }
            Command::Report(engine, Report::Started(pid, log)) => {
                if let Some(known) = self.engines.get_mut(&engine) {
                    known.pid = Some(pid);
                    self.logs.insert(known.model.clone(), log);
                }
            }
            Command::Report(engine, Report::Ready(door, capacity)) => {
                if let Some(known) = self.engines.get_mut(&engine) {
                    known.door = Some(door);
                    known.load_ms = u64::try_from(known.started.elapsed().as_millis()).ok();
                }
                self.planner.is_ready(engine, capacity, now);
            }
            Command::Report(engine, Report::Gone(told)) => {
                self.engines.remove(&engine);
                self.planner.is_gone(engine, told, now);
            }
            Command::Locate { model, answer } => drop(answer.send(self.located(&model))),
            Command::Log { model, answer } => drop(answer.send(self.logs.get(&model).cloned())),
            Command::Unload { model, answer } => {
                let index = self.models.iter().position(|(name, _)| *name == model);
                let engine = index.and_then(|index| self.planner.unload(index));
                self.unloading.extend(engine.map(|engine| (engine, answer)));
            }
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
                Effect::Grant { .. } | Effect::Refuse { .. } => {}
            }
        }
        // First: whoever is answered sees the engines as they are now.
        self.show();
        for effect in effects {
            match effect {
                Effect::Grant { ticket, engine } => {
                    let place = self.place(engine).ok_or(EngineError::Gone);
                    self.answer(ticket, place);
                }
                Effect::Refuse { ticket, why } => self.answer(ticket, Err(why.into())),
                Effect::Start { .. } | Effect::Stop { .. } => {}
            }
        }
        // Dropped, the sender has told that it is gone.
        self.unloading.retain(|(engine, _)| self.engines.contains_key(engine));
    }

    fn answer(&mut self, ticket: TicketId, answer: Result<Place, EngineError>) {
        // A caller who has left says so by another way.
        if let Some(asking) = self.waiting.remove(&ticket) {
            let _ = asking.send(answer);
        }
    }

    /// Lets others see what has changed.
    fn show(&mut self) {
        let states = self.pictured();
        let known = self.states.borrow().clone();
        if states == known {
            return;
        }
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        let step = |state: &EngineState, phase| EngineEvent {
            provider: self.stage.provider.clone(),
            variant: state.variant.clone(),
            model: state.model.clone(),
            phase,
            at_ms,
        };
        let find = |among: &[EngineState], state: &EngineState| {
            among.iter().find(|other| other.id == state.id).map(|other| other.phase)
        };
        let gone =
            known.iter().filter(|state| find(&states, state).is_none()).map(|state| step(state, "gone"));
        let moved = states.iter().filter(|state| find(&known, state) != Some(state.phase));
        for event in gone.chain(moved.map(|state| step(state, state.phase))) {
            // Mostly nobody listens.
            let _ = self.stage.events.send(event);
        }
        self.states.send_replace(states);
    }

    fn start(&mut self, engine: EngineId, model: usize, variant: usize) {
        let Some((name, spec)) = self.models.get(model) else { return };
        let Some(variant) = spec.variants.get(variant) else { return };
        let Some(reports) = self.reports.upgrade() else { return };
        let name: Arc<str> = format!("{name}@{}", variant.context_tokens).into();
        let stop = CancellationToken::new();
        let known = Known {
            variant: name.clone(),
            model: self.models.get(model).map_or_else(|| name.clone(), |(name, _)| name.clone()),
            started: Instant::now(),
            stop: stop.clone(),
            door: None,
            pid: None,
            load_ms: None,
            memory_mib: variant.memory_mib,
        };
        self.engines.insert(engine, known);
        let order = Order { name, variant: variant.clone(), launcher: self.launcher.clone(), stop };
        // The pool may have been dropped when the last report comes, and then nobody needs it.
        let reports = reports.downgrade();
        self.tasks.spawn(runner::run(order, move |report| {
            if let Some(reports) = reports.upgrade() {
                let _ = reports.send(Command::Report(engine, report));
            }
        }));
    }

    fn place(&self, engine: EngineId) -> Option<Place> {
        let known = self.engines.get(&engine)?;
        Some(Place { engine, variant: known.variant.clone(), door: known.door.clone()? })
    }

    fn located(&self, model: &str) -> Option<(Place, u64)> {
        let index = self.models.iter().position(|(name, _)| **name == *model)?;
        let engine = self
            .planner
            .engines()
            .iter()
            .find(|engine| engine.model == index && engine.phase == Phase::Ready)?;
        Some((self.place(engine.id)?, engine.capacity.context_tokens))
    }

    fn close(&mut self) {
        for answer in std::mem::take(&mut self.waiting).into_values() {
            let _ = answer.send(Err(EngineError::Gone));
        }
        self.planner.close();
    }

    fn pictured(&self) -> Vec<EngineState> {
        let picture = |engine: &super::planner::Engine| {
            let known = self.engines.get(&engine.id)?;
            Some(EngineState {
                id: engine.id,
                variant: known.variant.clone(),
                model: known.model.clone(),
                pid: known.pid,
                load_ms: known.load_ms,
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
            })
        };
        self.planner.engines().iter().filter_map(picture).collect()
    }
}

impl From<Refusal> for EngineError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::QueueFull => Self::QueueFull,
            Refusal::StartFailed { retry_after, told } => Self::StartFailed { retry_after, told },
            Refusal::TooLarge { needed_tokens, context_tokens } => {
                Self::TooLarge { needed_tokens, context_tokens }
            }
            Refusal::Gone => Self::Gone,
        }
    }
}
