//! The gateway's side of a confined child: starts it, asks it, ends it.
//!
//! Every child has a thread that starts it, carries questions and answers, and reaps it. So a child is reaped whatever
//! the runtime does, and questions may be asked from tasks and from threads alike.

use std::ffi::OsString;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{CONFINED_COMMAND, frames, spawn};

/// One that is not asked for so long ends: it holds memory.
const IDLE: Duration = Duration::from_secs(60);

/// A confined child. Dropping it kills it.
#[derive(Debug)]
pub struct Child {
    jobs: Sender<Job>,
    life: Arc<Life>,
}

/// Why there is no answer. In both cases the child has been ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It went beyond its limits, has crashed, was idle for too long, or could not be started.
    #[error("the process that reads it has ended")]
    Ended,
    /// The answer has not come in time.
    #[error("the process that reads it takes too long")]
    TooSlow,
}

struct Job {
    question: Vec<u8>,
    answered: Box<dyn FnOnce(Vec<u8>) + Send>,
}

impl Child {
    /// Has `program` started as a child that does `work` on `file`. Comes back before it runs.
    ///
    /// # Errors
    /// The system starts no more threads.
    pub fn start(program: &Path, work: &str, file: &Path) -> Result<Self> {
        let gateway = std::process::id().to_string();
        let mut command = Command::new(program);
        command
            .args([CONFINED_COMMAND.into(), OsString::from(gateway), work.into(), file.into()])
            .env_clear()
            // No signal for the gateway's group is meant for it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let (jobs, waiting) = channel();
        let life = Arc::new(Life::default());
        let of_thread = life.clone();
        let keep = move || {
            // Whatever ends it, those who wait hear of it by what is dropped.
            let _ = of_thread.begin(command).and_then(|pipes| carry(pipes, &waiting));
            of_thread.end();
        };
        std::thread::Builder::new().name("confined".to_owned()).spawn(keep)?;
        Ok(Self { jobs, life })
    }

    /// Asks it, and gives it back with the answer. It is killed if the answer does not come in time, and if the future
    /// is dropped.
    ///
    /// # Errors
    /// There is no answer, and no child any more.
    pub async fn ask(
        self,
        question: Vec<u8>,
        patience: Duration,
    ) -> std::result::Result<(Self, Vec<u8>), Failure> {
        let (sender, answer) = oneshot::channel();
        self.put(question, move |answer| drop(sender.send(answer)))?;
        match timeout(patience, answer).await {
            Ok(Ok(answer)) => Ok((self, answer)),
            Ok(Err(_)) => Err(Failure::Ended),
            Err(_) => Err(Failure::TooSlow),
        }
    }

    /// The same for a thread that may wait, and for one question.
    ///
    /// # Errors
    /// There is no answer.
    pub fn ask_once(self, question: Vec<u8>, patience: Duration) -> std::result::Result<Vec<u8>, Failure> {
        let (sender, answer) = sync_channel(1);
        self.put(question, move |answer| drop(sender.send(answer)))?;
        answer.recv_timeout(patience).map_err(|error| match error {
            std::sync::mpsc::RecvTimeoutError::Timeout => Failure::TooSlow,
            std::sync::mpsc::RecvTimeoutError::Disconnected => Failure::Ended,
        })
    }

    fn put(
        &self,
        question: Vec<u8>,
        answered: impl FnOnce(Vec<u8>) + Send + 'static,
    ) -> std::result::Result<(), Failure> {
        let job = Job { question, answered: Box::new(answered) };
        self.jobs.send(job).map_err(|_| Failure::Ended)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.life.kill();
    }
}

type Pipes = (ChildStdin, ChildStdout);

/// Carries questions and answers, until the child ends, is idle for too long, or has no owner any more.
fn carry((mut to, mut from): Pipes, waiting: &Receiver<Job>) -> Result<()> {
    while let Ok(Job { question, answered }) = waiting.recv_timeout(IDLE) {
        frames::write(&mut to, &question)?;
        let answer = frames::read(&mut from)?;
        answered(answer.ok_or(ErrorKind::UnexpectedEof)?);
    }
    Ok(())
}

/// The process itself, from before its start to after its end.
#[derive(Debug, Default)]
struct Life {
    // A std mutex: held for a signal. What is to be reaped is taken out first, so that it is never signalled once its
    // number may be another's.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    process: Option<std::process::Child>,
    is_over: bool,
}

impl Life {
    fn begin(&self, command: Command) -> Result<Pipes> {
        let mut process = spawn(command)?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = state.is_over;
        state.process = Some(process);
        pipes.filter(|_| !is_over).ok_or_else(|| Error::other("it is not wanted any more"))
    }

    fn kill(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_over = true;
        if let Some(process) = &mut state.process {
            // It fails only if there is nothing left to kill.
            let _ = process.kill();
        }
    }

    fn end(&self) {
        self.kill();
        // Taken out first: one that hangs inside of the kernel blocks this thread only.
        let process = self.state.lock().unwrap_or_else(PoisonError::into_inner).process.take();
        if let Some(mut process) = process {
            let _ = process.wait();
        }
    }
}
