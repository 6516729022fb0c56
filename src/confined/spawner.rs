//! The one thread from which all child processes are started that have to end with the gateway.
//!
//! The wish to end with the parent is bound to the thread that started the process, not to the whole parent: when
//! that thread ends, Linux kills the child. So this thread never ends, and nothing else starts such processes.

use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

struct Job {
    command: Command,
    reply: Sender<std::io::Result<Child>>,
}

// One for the whole program, since it has to live as long. Held only to hand a job over.
static SPAWNER: Mutex<Option<Sender<Job>>> = Mutex::new(None);

/// Starts a process whose parent is the thread that never ends. Blocks until it is started.
///
/// # Errors
/// The process, or the thread that starts it, cannot be started.
pub fn spawn(command: Command) -> std::io::Result<Child> {
    let (reply, answer) = channel();
    spawner()?.send(Job { command, reply }).map_err(|_| ended())?;
    answer.recv().map_err(|_| ended())?
}

fn spawner() -> std::io::Result<Sender<Job>> {
    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = spawner.as_ref() {
        return Ok(sender.clone());
    }
    // Unbounded, but everyone who sends a job waits for its end.
    let (sender, jobs) = channel::<Job>();
    std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
        for Job { mut command, reply } in jobs {
            let child = command.spawn();
            // What stays open in the command would keep its readers waiting.
            drop(command);
            if let Err(unheard) = reply.send(child) {
                reap(unheard.0);
            }
        }
    })?;
    *spawner = Some(sender.clone());
    Ok(sender)
}

/// Nobody waits for this child: it ends here.
fn reap(child: std::io::Result<Child>) {
    if let Ok(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn ended() -> std::io::Error {
    std::io::Error::other("the thread that starts processes has ended")
}
