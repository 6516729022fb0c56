//! One engine, from its start to its end: started, watched while it loads and while it serves, stopped.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::arrivals::Arrivals;
use super::endpoint::{Endpoint, Port, Stranger};
use super::holder;
use super::log::Log;
use super::planner::{Capacity, Failure};
use super::probe::{Door, Introduction};
use super::process::{Launch, Launcher, Process};
use super::prompt_cache::PromptCache;
use super::run_folder::SocketFile;
use super::vitals::{Pulse, Vitals, model_bytes};
use crate::config::{EngineAddress, EngineVariant};
use crate::telemetry::{EngineMetrics, StartOutcome};

/// How often a loading engine is asked whether it has loaded: soon at first, then less often.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));
/// How long an engine that is asked to end may take.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How often an engine that serves is asked whether it is well.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// So many questions without an answer mean that it hangs.
const MOST_UNANSWERED: u32 = 2;
/// How many times as long an engine may take to answer between two steps of its work.
const WORK_PATIENCE: u32 = 6;
/// An engine that uses this part of a processor is at work.
const BUSY_SHARE: u128 = 10;
/// How often it is looked whether a loading engine gets on.
const FEEL_EVERY: Duration = Duration::from_millis(250);
/// What an engine said last, for whoever looks for the cause of a failure.
const LAST_LINES: usize = 12;

/// What engines say when they do not get the memory that they need. It is only looked for in the words of one that
/// has failed.
const LACK_OF_MEMORY: &[&str] = &[
    "out of memory",
    "insufficient memory",
    "cannot allocate memory",
    "failed to allocate",
    "unable to allocate",
    "device memory allocation of size",
    "erroroutof",
    "bad_alloc",
    "ctx->mem_buffer != null",
];
/// What an engine says when it cannot listen where it is to.
const UNBOUND: &[&str] = &["couldn't bind", "bind http server"];
/// For servers that know TCP only.
const NEEDS_A_PORT: &str = "it did not listen on the unix socket that `--host` names; a server that cannot needs a fixed address: `--port` in its `args`, or `connect`";
/// So far back the cause of an end may stand: an engine that gives up may say much before it goes.
const CAUSE_LINES: usize = 200;

/// What is to run.
pub(super) struct Order {
    /// `<model>@<context>`.
    pub(super) name: Arc<str>,
    pub(super) model: Arc<str>,
    pub(super) variant: EngineVariant,
    pub(super) launcher: Launcher,
    /// Asks for an end.
    pub(super) stop: CancellationToken,
    /// Somebody got no answer for long.
    pub(super) doubt: Arc<Notify>,
    /// The figures of its model's engines.
    pub(super) metrics: EngineMetrics,
    /// How long it took to load the last time.
    pub(super) load_time: Option<Duration>,
    /// Where what it has read is kept, if it is.
    pub(super) cache: Option<Arc<PromptCache>>,
}

/// How it went so far.
pub(super) enum Report {
    /// Its process runs, under this number; this is what it says.
    Started(u32, Arc<Log>),
    /// It has loaded so much, in per cent.
    Progress(u8),
    /// It serves.
    Ready(Arc<Door>, Capacity),
    /// It has ended, and why, if nobody asked for it.
    Gone(Option<Failure>),
}

/// Why an engine ended.
enum End {
    Asked,
    Failed(Failure),
}

/// Runs an engine to its end. The last report is that it is gone.
pub(super) async fn run(order: Order, mut report: impl FnMut(Report)) {
    order.metrics.started();
    let end = run_metered(&order, &mut report).await;
    order.metrics.ended();
    let failure = match end {
        End::Asked => None,
        End::Failed(failure) => Some(failure),
    };
    if let Some(failure) = &failure {
        tracing::error!(engine = %order.name, reason = %failure.told, "The engine has failed");
    }
    report(Report::Gone(failure));
}

async fn run_metered(order: &Order, report: &mut impl FnMut(Report)) -> End {
    let started = Instant::now();
    let mut has_loaded = false;
    let mut metered = |told: Report| {
        if matches!(told, Report::Ready(..)) {
            has_loaded = true;
            order.metrics.loaded(StartOutcome::Ready, started.elapsed());
        }
        report(told);
    };
    let end = run_once(order, &mut metered).await;
    if !has_loaded {
        let outcome = if matches!(end, End::Asked) { StartOutcome::Stopped } else { StartOutcome::Failed };
        order.metrics.loaded(outcome, started.elapsed());
    }
    end
}

async fn run_once(order: &Order, report: &mut impl FnMut(Report)) -> End {
    let started = Instant::now();
    let prepared = match Prepared::of(order) {
        Ok(prepared) => prepared,
        Err(error) => return End::failed(format!("it has no key, or nothing to listen on: {error}")),
    };
    tracing::info!(engine = %order.name, "The engine is started");
    let process = match order.launcher.start(prepared.launch.clone()).await {
        Ok(process) => process,
        Err(error) => return End::failed(error.to_string()),
    };
    let door = Arc::new(prepared.door(order, &process));
    report(Report::Started(process.pid(), process.log()));
    let capacity = match loaded(order, &door, &process, report).await {
        Ok(capacity) => capacity,
        Err(end) => {
            process.stop(STOP_PATIENCE).await;
            return end;
        }
    };
    if capacity.context_tokens < order.variant.context_tokens {
        tracing::warn!(engine = %order.name, context_tokens = capacity.context_tokens, "The engine holds less than the models file says");
    }
    tracing::info!(engine = %order.name, load_ms = started.elapsed().as_millis(), slots = capacity.slots,
        context_tokens = capacity.context_tokens, "The engine is ready");
    if let Some(cache) = &order.cache {
        tokio::select! {
            biased;
            () = order.stop.cancelled() => {}
            _ = process.exited() => {}
            () = cache.restore(&door, &order.variant, capacity) => {}
        }
    }
    report(Report::Ready(door.clone(), capacity));
    let end = served(order, &door, &process).await;
    if let (End::Asked, Some(cache)) = (&end, &order.cache) {
        tokio::select! {
            _ = process.exited() => {}
            () = cache.save(&door, &order.variant) => {}
        }
    }
    // One that has failed is not given time.
    let patience = if matches!(end, End::Asked) { STOP_PATIENCE } else { Duration::ZERO };
    process.stop(patience).await;
    end
}

/// Waits until the engine has loaded, and asks what it can take.
async fn loaded(
    order: &Order,
    door: &Door,
    process: &Process,
    report: &mut impl FnMut(Report),
) -> Result<Capacity, End> {
    let limit = order.variant.timeouts.startup;
    let exit = tokio::select! {
        biased;
        () = order.stop.cancelled() => return Err(End::Asked),
        exit = process.exited() => exit,
        asked = timeout(limit, asked(order, door, process, report)) => {
            return asked.unwrap_or_else(|_| {
                let told = format!("it has not loaded within {} s", limit.as_secs_f64());
                Err(End::Failed(failure(&with_endpoint(told, door), process)))
            });
        }
    };
    // What it said last comes a moment after its end.
    sleep(ASK_AGAIN.0).await;
    let lines = process.log().tail(CAUSE_LINES);
    let says =
        |words: &[&str]| lines.iter().any(|line| words.iter().any(|word| line.to_lowercase().contains(word)));
    let ended = format!("it ended while it loaded ({exit})");
    Err(End::Failed(match &order.variant.address {
        Some(address) if says(UNBOUND) => {
            let told = failure(&format!("port {} is taken; {ended}", address.port), process);
            Failure { taken_port: Some(address.port), ..told }
        }
        _ if says(LACK_OF_MEMORY) => {
            let told = failure(&format!("it did not get the memory that it needs; {ended}"), process);
            Failure { lacks_memory: true, ..told }
        }
        None if says(UNBOUND) => failure(&format!("{ended}; {NEEDS_A_PORT}"), process),
        _ => failure(&ended, process),
    }))
}

/// Asks an engine that loads until it has loaded, or gets on no more.
async fn asked(
    order: &Order,
    door: &Door,
    process: &Process,
    report: &mut impl FnMut(Report),
) -> Result<Capacity, End> {
    let started = Instant::now();
    let stall = order.variant.timeouts.stall;
    let model_bytes = order.variant.model_file().and_then(|file| model_bytes(&file));
    let (mut pause, mut pulse, mut felt) = (ASK_AGAIN.0, Pulse::starting(started), started);
    loop {
        if let Some(known) = introduced(order, door).await {
            return known;
        }
        sleep(pause).await;
        pause = (pause * 5 / 4).min(ASK_AGAIN.1);
        if felt.elapsed() < FEEL_EVERY {
            continue;
        }
        felt = Instant::now();
        let vitals = Vitals::of_group(process.pid(), process.log().bytes());
        if pulse.feel(vitals, Instant::now()) >= stall {
            let told = format!(
                "it has neither said nor done anything for {} s while it loaded",
                stall.as_secs_f64()
            );
            return Err(End::Failed(failure(&with_endpoint(told, door), process)));
        }
        let percent = match (order.load_time, model_bytes) {
            (Some(last), _) => Some(percent(started.elapsed(), last)),
            (None, Some(bytes)) => Some(vitals.percent_of(bytes)),
            (None, None) => None,
        };
        percent.into_iter().for_each(|percent| report(Report::Progress(percent)));
    }
}

/// How much of a load is done, if it takes as long as the last one: never all of it.
fn percent(elapsed: Duration, last: Duration) -> u8 {
    let percent = elapsed.as_millis() * 100 / last.as_millis().max(1);
    u8::try_from(percent).unwrap_or(99).min(99)
}

impl End {
    fn failed(told: String) -> Self {
        Self::Failed(Failure { told: told.into(), ..Failure::default() })
    }
}

impl From<Stranger> for End {
    fn from(stranger: Stranger) -> Self {
        let told = format!("{stranger}; nothing has been sent to it");
        Self::Failed(Failure { taken_port: Some(stranger.port), told: told.into(), ..Failure::default() })
    }
}

fn failure(told: &str, process: &Process) -> Failure {
    let told = format!("{told}; its last words: {}", process.log().tail(LAST_LINES).join(" | "));
    Failure { told: told.into(), ..Failure::default() }
}

/// With what there is to say of where it should listen.
fn with_endpoint(told: String, door: &Door) -> String {
    if door.endpoint.is_there() { told } else { format!("{told}; {NEEDS_A_PORT}") }
}

/// What the engine can take, once it is well; `None` as long as it is not.
async fn introduced(order: &Order, door: &Door) -> Option<Result<Capacity, End>> {
    let limit = order.variant.timeouts.health_check;
    match door.health(limit).await {
        Ok(true) => {}
        Ok(false) => return None,
        Err(stranger) => return Some(Err(stranger.into())),
    }
    let meant = order.variant.context_tokens;
    match door.capacity(order.variant.whole_context_tokens(), limit).await {
        Introduction::Known(capacity) => Some(Ok(capacity)),
        // One that does not say is asked for one thing after the other.
        Introduction::Unknown => {
            Some(Ok(Capacity { slots: 1, context_tokens: meant, is_shared: false, pool_tokens: meant }))
        }
        Introduction::Silent => None,
        // Its own process listens there, so it is not the server that the models file means.
        Introduction::Stranger => {
            Some(Err(End::failed("it does not accept the key that it was given".to_owned())))
        }
    }
}

/// Watches an engine that serves, until it ends or is to end.
async fn served(order: &Order, door: &Door, process: &Process) -> End {
    let limit = order.variant.timeouts.health_check;
    let watching = async {
        let mut unanswered = 0;
        while unanswered < MOST_UNANSWERED {
            let is_doubted = timeout(CHECK_EVERY, order.doubt.notified()).await.is_ok();
            // Its threads may say that it is well while the one that does the work hangs.
            if is_doubted && hangs(door, process, limit * WORK_PATIENCE).await {
                return;
            }
            unanswered = if door.is_well(limit).await { 0 } else { unanswered + 1 };
        }
    };
    let told = tokio::select! {
        biased;
        () = order.stop.cancelled() => return End::Asked,
        exit = process.exited() => format!("it ended by itself ({exit})"),
        () = watching => "it does not answer any more".to_owned(),
    };
    End::Failed(failure(&told, process))
}

/// Whether an engine neither answers between two steps of its work, nor works at a long one.
async fn hangs(door: &Door, process: &Process, limit: Duration) -> bool {
    let before = Vitals::of_group(process.pid(), 0);
    if door.is_at_work(limit).await {
        return false;
    }
    let worked = Vitals::of_group(process.pid(), 0).worked_since(&before);
    u128::from(worked) * 10 < limit.as_millis() / BUSY_SHARE
}

/// How an engine is started, and where it will listen.
struct Prepared {
    launch: Launch,
    place: Listening,
    api_key: SecretString,
}

enum Listening {
    /// Removed with this.
    Socket(SocketFile),
    Port(EngineAddress),
}

impl Prepared {
    fn of(order: &Order) -> std::io::Result<Self> {
        let variant = &order.variant;
        let place = match &variant.address {
            Some(address) => Listening::Port(address.clone()),
            None => Listening::Socket(order.launcher.socket()?),
        };
        let api_key = SecretString::from(holder::unguessable()?);
        let set = variant.environment.exposed();
        let mut variables: Vec<_> = set.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        variables.extend([
            // In its arguments everybody could read it.
            ("LLAMA_API_KEY".to_owned(), api_key.expose_secret().to_owned()),
            // Otherwise it calls its model by the path of its file, also to callers. Arguments come first.
            ("LLAMA_ARG_ALIAS".to_owned(), order.model.to_string()),
        ]);
        if let Some(folder) = order.cache.as_ref().and_then(|cache| cache.path()?.to_str()) {
            // As arguments they would end those that do not know them. Without the second, only the last conversation
            // stays in the slots.
            let added = [("LLAMA_ARG_SLOT_SAVE_PATH", folder), ("LLAMA_ARG_CACHE_IDLE_SLOTS", "0")];
            variables.extend(added.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        let args = match &place {
            Listening::Port(EngineAddress { host, port }) => variant.full_args(host, Some(*port)),
            Listening::Socket(socket) => {
                variant.full_args(socket.path().to_str().ok_or(ErrorKind::InvalidFilename)?, None)
            }
        };
        let launch = Launch {
            name: order.name.to_string(),
            binary: variant.binary.clone(),
            args,
            variables,
            withheld: variant.environment.withheld.clone(),
            folder: None,
        };
        Ok(Self { launch, place, api_key })
    }

    /// The way to the engine that this process runs.
    fn door(&self, order: &Order, process: &Process) -> Door {
        let endpoint = match &self.place {
            Listening::Socket(socket) => Endpoint::Socket(socket.path().to_owned()),
            Listening::Port(address) => {
                Endpoint::Port(Port::new(address.clone(), process.pid(), process.mark().to_owned()))
            }
        };
        Door {
            endpoint,
            api_key: self.api_key.clone(),
            exit: process.end(),
            stop: order.stop.clone(),
            arrivals: Arc::new(Arrivals::default()),
        }
    }
}
