//! The models file of the llama.cpp runner that this service follows: a Lua program that sets `server` and `models`.
//!
//! It is run in a sandbox, on a thread of its own, and what it has set is read into the shapes of the other files.
//! It guards against slips, not against an enemy: whoever writes this file may have programs started anyway.

mod sandbox;
mod shape;

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use super::raw::RawCatalog;
use crate::config::{ConfigError, Fault};

/// The sandbox ends a program in time, unless it is within a function of Lua's own, such as an endless `string.find`.
/// Then its thread is left to itself, for nothing can end it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the program and reads what it sets.
pub(super) fn read(path: &Path, text: &str) -> Result<RawCatalog, ConfigError> {
    let file = path.display().to_string();
    let folder = path.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
    let (sender, receiver) = mpsc::sync_channel(1);
    let (of_thread, text) = (file.clone(), text.to_owned());
    let run = move || {
        let read = sandbox::Sandbox::new(&folder)
            .and_then(|sandbox| sandbox.run(&text, |globals| shape::read(globals, &of_thread)))
            .unwrap_or_else(|stopped| Err(stopped.in_file(&of_thread).into()));
        // Nobody waits any more if it took too long.
        drop(sender.send(read));
    };
    let unusable = |problem: String| Fault::new(&file, problem, "look for loops without an end in this file");
    let thread = std::thread::Builder::new().name("models file".to_owned()).spawn(run);
    thread.map_err(|error| unusable(format!("it cannot be run: {error}")))?;
    receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(unusable(sandbox::TOO_LONG.to_owned()).into()))
}

#[cfg(test)]
mod tests;
