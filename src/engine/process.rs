//! An engine's process: started so that it cannot outlive the gateway, watched, and ended for good.
//!
//! Serves the supervisor, which decides when. Knows nothing of models or requests.
//!
//! - It is started through the [guard](super::guard) and from one thread that never ends, so that even `kill -9` of
//!   the gateway ends it.
//! - It leads a process group of its own; every signal goes to the whole group, and whoever is left of the group when
//!   the leader ends is killed. So are processes that have left the group, which are known by the engine's mark.
//! - What it writes is always read, and kept within bounds ([`Log`]).
//! - It is reaped by a thread of its own: no zombie, whether or not anybody waits.

mod keeper;

use std::collections::BTreeSet;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::timeout;

use super::guard::GUARD_COMMAND;
use super::holder;
use super::inherited::inherited;
use super::log::Log;
use super::run_folder::{self, RunFolder, RunPlace, SocketFile};
use crate::confined::THIS_PROGRAM;

/// Between the second, urgent request to end and the end.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// What the engine is called in errors and logs.
    pub name: String,
    /// The program. Without a slash it is looked for on the `PATH`.
    pub binary: PathBuf,
    /// Its arguments. Everyone on this machine can read them: no secrets.
    pub args: Vec<String>,
    /// Variables besides those that are inherited. Secrets belong here.
    pub variables: Vec<(String, String)>,
    /// Names of variables that it does not inherit, even if engines usually do.
    pub withheld: Arc<BTreeSet<String>>,
    /// The folder it runs in; `None` for the gateway's own.
    pub folder: Option<PathBuf>,
}

/// Starts engines.
#[derive(Clone, Debug)]
pub struct Launcher {
    program: PathBuf,
    run_place: Option<Arc<RunPlace>>,
}

impl Default for Launcher {
    fn default() -> Self {
        Self { program: PathBuf::from(THIS_PROGRAM), run_place: None }
    }
}

impl Launcher {
    /// Writes down what runs, for the gateway's next start.
    #[must_use]
    pub fn recording_in(self, run_folder: Arc<RunFolder>) -> Self {
        self.recording_at(Arc::new(RunPlace::of(run_folder)))
    }

    /// The same in a folder that is made when it is first needed.
    #[must_use]
    pub fn recording_at(self, run_place: Arc<RunPlace>) -> Self {
        Self { run_place: Some(run_place), ..self }
    }

    fn run_folder(&self) -> Option<&Arc<RunFolder>> {
        self.run_place.as_ref().and_then(|place| place.folder())
    }

    /// The program that guards engines, and counts while none runs.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// Where engines may put what is to outlive them, and not the gateway.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.run_folder().map(|folder| folder.path())
    }

    /// A name for a unix socket on which an engine may listen. No other user can get at it.
    ///
    /// # Errors
    /// There is no folder of this user for it.
    pub(super) fn socket(&self) -> std::io::Result<SocketFile> {
        let missing = || {
            std::io::Error::other(
                "this user has no run folder; set LLM_PROXY_API_DATA_DIR or XDG_RUNTIME_DIR to a folder of this user",
            )
        };
        self.run_folder().map(|folder| folder.socket()).ok_or_else(missing)?
    }

    /// Guards engines with this program, which has to know the guard's command, instead of the running one.
    #[must_use]
    pub fn guarding_with(self, program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), ..self }
    }

    /// Starts an engine. It is running when this returns; whether it is of use, only it can tell.
    ///
    /// Dropping the future before it is done ends what was started.
    ///
    /// # Errors
    /// The program cannot be executed, its folder is not there, or the system starts no more processes.
    pub async fn start(&self, launch: Launch) -> Result<Process, StartError> {
        let name = launch.name.clone();
        let no_process = |error| StartError::NoProcess { name: name.clone(), error };
        if let Some(folder) = launch.folder.as_ref().filter(|folder| !folder.is_dir()) {
            return Err(StartError::NoFolder { name, folder: folder.clone() });
        }
        let answer = self.keeper(launch).and_then(keeper::Keeper::start).map_err(no_process)?;
        let gone = |_| no_process(std::io::Error::other("the thread that keeps it has ended"));
        answer.await.map_err(gone)?
    }

    fn keeper(&self, launch: Launch) -> std::io::Result<keeper::Keeper> {
        let mark = holder::unguessable()?;
        let (output, written) = std::io::pipe()?;
        let (report, said) = std::io::pipe()?;
        let mut command = Command::new(&self.program);
        command
            .arg(GUARD_COMMAND)
            .arg(std::process::id().to_string())
            .arg("--")
            .arg(&launch.binary)
            .args(&launch.args)
            .env_clear()
            .envs(inherited(&launch.withheld))
            .envs(run_folder::mark())
            .envs(launch.variables)
            .env(holder::MARK, &mark)
            .process_group(0)
            .stdin(Stdio::from(said))
            .stdout(Stdio::from(written.try_clone()?))
            .stderr(Stdio::from(written));
        if let Some(folder) = launch.folder {
            command.current_dir(folder);
        }
        if let Some(folder) = self.run_folder() {
            folder.have_watched(&self.program);
        }
        let entry = self.run_folder().map(|folder| folder.entry(&launch.name, &launch.binary));
        Ok(keeper::Keeper { name: launch.name, mark, command, output, report, entry })
    }
}

/// Why an engine has not been started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program cannot be executed.
    #[error("engine `{name}` does not start: {reason}")]
    Refused {
        /// The engine.
        name: String,
        /// What the guard says.
        reason: String,
    },
    /// The folder to run in is not there.
    #[error("engine `{name}` does not start: the folder {} is not there", folder.display())]
    NoFolder {
        /// The engine.
        name: String,
        /// Its folder.
        folder: PathBuf,
    },
    /// The system starts no more processes or threads.
    #[error("engine `{name}` does not start: no process can be started: {error}")]
    NoProcess {
        /// The engine.
        name: String,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
}

/// How an engine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// The system does not tell.
    Unknown,
}

impl Exit {
    /// Whether it ended by a fault of its own, and not because it was asked to, or killed from outside. A shell that ran
    /// it tells a signal by a code.
    pub fn is_crash(self) -> bool {
        const SHELL: i32 = 128;
        let from_outside = [Signal::HUP, Signal::INT, Signal::TERM, Signal::KILL].map(Signal::as_raw);
        match self {
            Self::Code(0) | Self::Unknown => false,
            Self::Code(code) => !from_outside.contains(&(code - SHELL)),
            Self::Signal(signal) => !from_outside.contains(&signal),
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        let signal = status.signal().map(Self::Signal);
        status.code().map(Self::Code).or(signal).unwrap_or(Self::Unknown)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "was ended by signal {signal} ({name})"),
                None => write!(f, "was ended by signal {signal}"),
            },
            Self::Unknown => f.write_str("ended, and the system does not tell how"),
        }
    }
}

/// The signals that end engines.
fn signal_name(signal: i32) -> Option<&'static str> {
    const NAMES: &[(Signal, &str)] = &[
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL, an instruction that this processor does not have"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT, it gave up"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL, by somebody or for lack of memory"),
        (Signal::SEGV, "SIGSEGV, it crashed"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::TERM, "SIGTERM"),
    ];
    NAMES.iter().find(|(known, _)| known.as_raw() == signal).map(|(_, name)| *name)
}

/// A running engine. Dropping it kills it and everyone in its group at once; it is reaped all the same.
#[derive(Debug)]
pub struct Process {
    name: String,
    group: Arc<keeper::Group>,
    log: Arc<Log>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Process {
    /// Starts an engine without writing down that it runs; [`Launcher::start`] tells the rest.
    ///
    /// # Errors
    /// Those of [`Launcher::start`].
    pub async fn start(launch: Launch) -> Result<Self, StartError> {
        Launcher::default().start(launch).await
    }

    /// What it was called at its start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, and that of its group. Another process may have it once this one has ended.
    pub fn pid(&self) -> u32 {
        self.group.leader()
    }

    /// By what its processes are known.
    pub(super) fn mark(&self) -> &str {
        self.group.mark()
    }

    /// What it writes. Outlives it.
    pub fn log(&self) -> Arc<Log> {
        self.log.clone()
    }

    /// How it ended, if it did.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Tells of its end, also when this is gone.
    pub(super) fn end(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.clone()
    }

    /// Waits for its end. By then its last words are in the log, its group is gone and it is reaped.
    ///
    /// May be dropped and asked again at any time.
    pub async fn exited(&self) -> Exit {
        let mut exit = self.exit.clone();
        // The keeper always tells before it goes.
        exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit).unwrap_or(Exit::Unknown)
    }

    /// Ends it: asks, waits for `patience`, asks once more, which llama-server takes as "at once", and kills the
    /// whole group a second later.
    ///
    /// Returns when it is reaped. Only a process that hangs inside of the kernel makes that long; dropping the future
    /// leaves things as they are.
    pub async fn stop(&self, patience: Duration) -> Exit {
        for patience in [patience, LAST_PATIENCE] {
            self.group.signal(Signal::TERM);
            if let Ok(exit) = timeout(patience, self.exited()).await {
                return exit;
            }
        }
        self.group.signal(Signal::KILL);
        self.exited().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.group.signal(Signal::KILL);
    }
}
