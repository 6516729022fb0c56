//! The guard: what the gateway starts in place of an engine, and what then becomes the engine.
//!
//! Linux ends a process with its parent only if the process itself asks for it. An engine does not ask, so the
//! gateway starts itself, as `engine-guard <gateway> -- <binary> <arguments>`: that asks, looks whether the gateway
//! is still there, and becomes the engine by `exec`, which keeps the wish. It runs before any thread is started.
//!
//! What its standard input leads to is told why it could not become the engine, if so; nothing is told otherwise,
//! and `exec` closes it. That is how the gateway learns that the engine has really been started.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::confined::bind_to;

/// The name of the command by which the gateway starts itself as a guard.
pub const GUARD_COMMAND: &str = "engine-guard";

/// When memory runs out, an engine goes before the gateway does.
const OOM_SCORE: i32 = 300;
const HIGHEST_OOM_SCORE: i32 = 1000;

/// What a guard is to become, and for whom.
#[derive(Debug)]
pub struct Guard {
    gateway: u32,
    binary: PathBuf,
    args: Vec<OsString>,
}

/// Why a guard has not become the engine.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The gateway has ended meanwhile, or never started this.
    #[error("the gateway that wants this engine (process {0}) is not there")]
    Abandoned(u32),
    /// The engine could outlive the gateway.
    #[error("the engine cannot be bound to the gateway: {0}")]
    Unbound(#[source] std::io::Error),
    /// The program is not there, may not be executed, or is none.
    #[error("{} cannot be executed: {error}", binary.display())]
    NotExecutable {
        /// The program.
        binary: PathBuf,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
}

impl GuardError {
    /// With what the guard exits: what shells use, as far as they know the case.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Abandoned(_) | Self::Unbound(_) => 125,
            Self::NotExecutable { .. } => 127,
        }
    }
}

impl Guard {
    /// A guard that the process `gateway` has started, to become `binary` with `args`.
    pub fn new(gateway: u32, binary: impl Into<PathBuf>, args: Vec<OsString>) -> Self {
        Self { gateway, binary: binary.into(), args }
    }

    /// Becomes the engine. Comes back only if it could not, which standard input has been told by then.
    pub fn become_engine(&self) -> GuardError {
        // A copy of its own, closed by `exec`; the engine itself reads nothing.
        let report = std::io::stdin().as_fd().try_clone_to_owned();
        let error = self.try_to_become();
        if let Ok(report) = report {
            // Nobody may listen: standard error and the exit code tell it, too.
            let _ = writeln!(File::from(report), "{error}");
        }
        error
    }

    fn try_to_become(&self) -> GuardError {
        match bind_to(self.gateway) {
            Err(error) => return GuardError::Unbound(error),
            Ok(false) => return GuardError::Abandoned(self.gateway),
            Ok(true) => {}
        }
        raise_oom_score(Path::new("/proc/self/oom_score_adj"));
        let error = Command::new(&self.binary).args(&self.args).stdin(Stdio::null()).exec();
        GuardError::NotExecutable { binary: self.binary.clone(), error }
    }
}

/// A wish: where the system does not have it, engines are as dear as others.
fn raise_oom_score(file: &Path) {
    let own = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let raised = own.map(|own| own.saturating_add(OOM_SCORE).min(HIGHEST_OOM_SCORE));
    if let Some(raised) = raised {
        let _ = std::fs::write(file, raised.to_string());
    }
}
