//! The two threads of every engine: one reads what it writes, one waits for its end.
//!
//! Both are threads, not tasks, so that an engine is drained and reaped whatever the runtime does, and also after
//! it. They end with the engine.

use std::io::{PipeReader, Read};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::sync::{oneshot, watch};

use super::{Exit, Process, StartError};
use crate::confined;
use crate::engine::holder;
use crate::engine::identity::Identity;
use crate::engine::log::Log;
use crate::engine::run_folder::Entry;

/// How long the end of an engine waits for its last words: they are there already, unless somebody who left its
/// group holds the pipe.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// More than any guard says.
const LONGEST_REPORT: u64 = 4096;

/// An engine's process group. It is signalled only while its leader is not reaped, so that its number is still its.
#[derive(Debug)]
pub(super) struct Group {
    leader: Pid,
    mark: String,
    // Held while signalling and while reaping, so that these never overlap.
    is_reaped: Mutex<bool>,
}

impl Group {
    pub(super) fn leader(&self) -> u32 {
        self.leader.as_raw_pid().unsigned_abs()
    }

    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    /// Signals everyone in the group, or nobody if it is gone.
    pub(super) fn signal(&self, signal: Signal) {
        let is_reaped = self.is_reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_reaped {
            // It can only fail because nobody is left.
            let _ = kill_process_group(self.leader, signal);
        }
    }

    /// Waits for the leader's end, ends all that is left of the group or has left it, and reaps the leader.
    fn outlive(&self, mut child: Child) -> Exit {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(Errno::INTR) = waitid(WaitId::Pid(self.leader), ended) {}
        let mut is_reaped = self.is_reaped.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = kill_process_group(self.leader, Signal::KILL);
        let exit = child.wait().map_or(Exit::Unknown, Exit::from);
        *is_reaped = true;
        drop(is_reaped);
        Identity::await_ends(&Identity::kill_all_with(&format!("{}={}", holder::MARK, self.mark)));
        exit
    }
}

/// What is needed to start and keep an engine.
pub(super) struct Keeper {
    pub(super) name: String,
    /// By what the engine's processes are known.
    pub(super) mark: String,
    pub(super) command: Command,
    /// All that the engine writes.
    pub(super) output: PipeReader,
    /// What the guard says if it cannot become the engine.
    pub(super) report: PipeReader,
    pub(super) entry: Option<Entry>,
}

type Started = oneshot::Sender<Result<Process, StartError>>;

impl Keeper {
    /// Starts the threads, and with them the engine.
    ///
    /// Whoever does not wait for the answer gets no engine: it is ended as soon as it has started.
    pub(super) fn start(self) -> std::io::Result<oneshot::Receiver<Result<Process, StartError>>> {
        let (started, answer) = oneshot::channel();
        std::thread::Builder::new().name("engine-keeper".to_owned()).spawn(move || self.run(started))?;
        Ok(answer)
    }

    fn run(self, started: Started) {
        let Self { name, mark, command, output, mut report, entry } = self;
        let log = Arc::new(Log::default());
        let spawned = drained(log.clone(), output)
            .and_then(|drained| confined::spawn(command).map(|child| (drained, child)));
        let (drained, child) = match spawned {
            Ok(both) => both,
            Err(error) => {
                let _ = started.send(Err(StartError::NoProcess { name, error }));
                return;
            }
        };
        let group = Arc::new(Group { leader: Pid::from_child(&child), mark, is_reaped: Mutex::new(false) });
        let record = entry.and_then(|entry| entry.write(group.leader()));
        let mut refusal = Vec::new();
        // Whatever could not be read was not said.
        let _ = report.by_ref().take(LONGEST_REPORT).read_to_end(&mut refusal);
        let (ended, exit) = watch::channel(None);
        if refusal.is_empty() {
            // If nobody waits any more, the process comes back and is ended by being dropped.
            let _ = started.send(Ok(Process { name, group: group.clone(), log, exit }));
            let exit = end(&group, child, &drained);
            drop(record);
            ended.send_replace(Some(exit));
        } else {
            end(&group, child, &drained);
            drop(record);
            let reason = String::from_utf8_lossy(&refusal).trim().to_owned();
            let _ = started.send(Err(StartError::Refused { name, reason }));
        }
    }
}

/// Waits for the end, and for the last words.
fn end(group: &Group, child: Child, drained: &Receiver<()>) -> Exit {
    let exit = group.outlive(child);
    // Either way it is over: the sender is dropped when all is read.
    let _ = drained.recv_timeout(LAST_WORDS);
    exit
}

/// Reads everything from now on. The receiver hears of the end.
fn drained(log: Arc<Log>, output: PipeReader) -> std::io::Result<Receiver<()>> {
    let (sender, drained) = channel();
    std::thread::Builder::new().name("engine-log".to_owned()).spawn(move || {
        log.drain(output);
        drop(sender);
    })?;
    Ok(drained)
}
