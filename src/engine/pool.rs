//! The engines of one provider, as seen by those who need one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::counting::Counting;
use super::lease::{EngineError, Lease, Place, Turn};
use super::log::Log;
use super::need::Need;
use super::owner::Owner;
use super::planner::{Capacity, EngineId, TicketId};
use super::process::Launcher;
use super::runner::Report;
use super::view::{EngineEvent, EngineState, Picture};
use crate::config::{EngineModel, EngineSettings};
use crate::telemetry::Metrics;

/// The engines of one provider.
#[derive(Debug)]
pub struct Pool {
    // A std mutex: held for a comparison or a copy.
    configured: Mutex<Configured>,
    tasks: TaskTracker,
    /// The one it was made on, if there was one.
    runtime: Option<Handle>,
    launcher: Launcher,
    /// Begins with the first request: whoever only looks at the configuration starts nothing.
    running: OnceLock<Running>,
    tickets: AtomicU64,
    stage: Stage,
    /// How the prompts of each model are counted, which outlives a change of other things.
    // A std mutex: held for a look into a short list.
    counted: Mutex<Vec<Counted>>,
}

/// A model, what is said of its engines, and how its prompts are counted.
type Counted = (Arc<str>, EngineModel, Arc<Counting>);

/// What the models file says of a provider's engines.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Configured {
    pub(super) settings: EngineSettings,
    pub(super) models: Vec<(Arc<str>, EngineModel)>,
}

/// Where the engines of a provider are seen.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    /// The provider.
    pub(super) provider: Arc<str>,
    /// The steps of all providers' engines.
    pub(super) events: broadcast::Sender<EngineEvent>,
    /// Where their figures are.
    pub(super) metrics: Metrics,
}

#[derive(Debug)]
struct Running {
    // Unbounded, but each entry stands for a request that is held elsewhere, or for a step in an engine's life.
    commands: mpsc::UnboundedSender<Command>,
    pictures: watch::Receiver<Vec<Picture>>,
}

/// The right to ask, and how long the answer may become, if that is not for the caller to say.
pub(super) type Granted = Result<(Place, Option<u64>), EngineError>;
pub(super) type Answer = oneshot::Sender<Granted>;

/// What the task hears.
pub(super) enum Command {
    Ask {
        ticket: TicketId,
        model: Arc<str>,
        need: Need,
        answer: Answer,
    },
    Leave(TicketId),
    Doubt(EngineId),
    Report(EngineId, Report),
    Log {
        model: Arc<str>,
        answer: oneshot::Sender<Option<Arc<Log>>>,
    },
    Failure {
        model: Arc<str>,
        answer: oneshot::Sender<Option<Arc<str>>>,
    },
    Unload {
        model: Arc<str>,
        answer: oneshot::Sender<()>,
    },
    /// Dropped when all that was sent before it is to be seen in the states.
    Show(oneshot::Sender<()>),
    Configure(Configured),
    Close,
}

impl Pool {
    pub(super) fn new(configured: Configured, tasks: TaskTracker, launcher: Launcher, stage: Stage) -> Self {
        let (running, tickets) = (OnceLock::new(), AtomicU64::new(0));
        let counted = Mutex::default();
        let runtime = Handle::try_current().ok();
        Self {
            configured: Mutex::new(configured),
            tasks,
            runtime,
            launcher,
            running,
            tickets,
            stage,
            counted,
        }
    }

    fn configured(&self) -> MutexGuard<'_, Configured> {
        self.configured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another configuration holds from now on.
    pub(super) fn configure(&self, configured: Configured) {
        let mut known = self.configured();
        if *known == configured {
            return;
        }
        *known = configured.clone();
        if let Some(running) = self.running.get() {
            let _ = running.commands.send(Command::Configure(configured));
        }
    }

    fn running(&self) -> &Running {
        self.running.get_or_init(|| {
            let (commands, inbox) = mpsc::unbounded_channel();
            let (pictures, seen) = watch::channel(Vec::new());
            let means = (self.tasks.clone(), self.launcher.clone());
            let configured = self.configured().clone();
            let owner = Owner::new(configured, means, commands.clone(), pictures, self.stage.clone());
            // Whoever asks first is on a thread that serves callers, which engines are not to keep waiting, nor to wait for.
            match &self.runtime {
                Some(runtime) => self.tasks.spawn_on(owner.run(inbox), runtime),
                None => self.tasks.spawn(owner.run(inbox)),
            };
            Running { commands, pictures: seen }
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
        let (place, answer_limit) = answered.await.map_err(|_| EngineError::Gone)??;
        Ok(Lease { place, answer_limit, turn })
    }

    /// How the prompts of a model are counted: as before, with all that was learned, if nothing is said anew of it.
    pub fn counting(&self, model: &Arc<str>, engine: &EngineModel) -> Arc<Counting> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counted.iter().find(|(name, known, _)| name == model && known == engine);
        if let Some((.., counting)) = known {
            return counting.clone();
        }
        let metrics = self.stage.metrics.of_engines(&self.stage.provider, model);
        let counting = Arc::new(Counting::new(model.clone(), engine, self.launcher.program(), metrics));
        counted.retain(|(name, ..)| name != model);
        counted.push((model.clone(), engine.clone(), counting.clone()));
        counting
    }

    /// The engine that served a model a moment ago, and what it can take; `None` if none did.
    pub(super) fn serving(&self, model: &str) -> Option<(Place, Capacity)> {
        let pictures = self.running.get()?.pictures.borrow();
        let of_model = |picture: &&Picture| *picture.state.model == *model;
        let picture = pictures.iter().filter(of_model).find(|picture| picture.state.phase == "ready")?;
        Some((picture.place.clone()?, picture.capacity))
    }

    /// All engines, as they were a moment ago.
    pub fn states(&self) -> Vec<EngineState> {
        let Some(running) = self.running.get() else { return Vec::new() };
        running.pictures.borrow().iter().map(|picture| picture.state.clone()).collect()
    }

    /// Whether an engine takes no more requests, now or within that time.
    pub async fn is_gone(&self, engine: EngineId, within: Duration) -> bool {
        let Some(running) = self.running.get() else { return true };
        let is_ready = |picture: &Picture| picture.state.id == engine && picture.state.phase == "ready";
        let mut pictures = running.pictures.clone();
        let gone = pictures.wait_for(|pictures| !pictures.iter().any(is_ready));
        timeout(within, gone).await.is_ok()
    }

    /// What the last engine of a model said, the newest last; `None` if none has been started.
    pub async fn log(&self, model: &str) -> Option<Vec<String>> {
        let running = self.running.get()?;
        let (answer, answered) = oneshot::channel();
        running.commands.send(Command::Log { model: model.into(), answer }).ok()?;
        Some(answered.await.ok()??.lines())
    }

    /// Why the last engine of a model that failed did so; `None` if none has, or if one has served since for long.
    pub async fn last_failure(&self, model: &str) -> Option<Arc<str>> {
        let running = self.running.get()?;
        let (answer, answered) = oneshot::channel();
        running.commands.send(Command::Failure { model: model.into(), answer }).ok()?;
        answered.await.ok().flatten()
    }

    /// Starts an engine of a model, if none runs, and waits until it has loaded. The states show it then.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn load(&self, model: &str) -> Result<(), EngineError> {
        drop(self.lease(model, Need::NOTHING).await?);
        let (shown, seen) = oneshot::channel();
        let _ = self.running().commands.send(Command::Show(shown));
        // An error is the answer.
        let _ = seen.await;
        Ok(())
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
        let models = self.configured().models.clone();
        for (name, _) in models.into_iter().filter(|(_, engine)| engine.is_preloaded) {
            let pool = self.clone();
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

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}
