//! The models file of the llama.cpp runner that this service follows: a Lua program that sets `server` and `models`.
//!
//! It is run in a sandbox within a confined child, and what it has set is read into the shapes of the other files. The
//! sandbox ends a program in time, unless it is within a function of Lua's own, such as an endless `string.find`: then the
//! child is ended.

mod sandbox;
mod shape;
mod told;

use std::path::Path;
use std::time::Duration;

use self::told::Told;
use super::raw::RawCatalog;
use crate::config::{ConfigError, Fault};
use crate::confined::{Failure, Limits};

/// The name of the child's work, in the gateway's command for confined children.
pub const RUN_LUA: &str = "run-lua";

/// What the child may take: more than the sandbox gives, so that it is the sandbox that says what was too much.
pub const LUA_LIMITS: Limits = Limits { memory_bytes: 512 << 20, cpu_seconds: 10 };

/// Longer than the sandbox lets a program run.
const PATIENCE: Duration = Duration::from_secs(4);

/// Runs the program and reads what it sets.
pub(super) fn read(path: &Path, text: &str) -> Result<RawCatalog, ConfigError> {
    let unusable = |problem: &str| {
        Fault::new(path.display().to_string(), problem, "look for loops without an end in this file")
    };
    let answer = run(path, text).map_err(|failure| match failure {
        Failure::TooSlow => unusable(sandbox::TOO_LONG),
        Failure::Ended => unusable("it takes too much memory or time, or it cannot be run"),
    })?;
    let told: Told = serde_json::from_slice(&answer).map_err(|_| unusable("it sets what cannot be read"))?;
    for line in &told.lines {
        tracing::info!("The models file says: {line}");
    }
    told.into_catalog()
}

/// The child's side: runs the text that it is asked about, as the file at `path`.
pub fn running_lua(path: &Path) -> impl FnMut(&[u8]) -> Vec<u8> {
    let file = path.display().to_string();
    let folder = path.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
    move |text| {
        let text = String::from_utf8_lossy(text);
        let (lines, read) = sandbox::Sandbox::new(&folder)
            .and_then(|sandbox| {
                let mut read = sandbox.run(&text, |globals| shape::read(globals, &file))?;
                if let Ok(catalog) = &mut read {
                    let slips = sandbox.slips(&text).into_iter();
                    catalog.warnings.extend(slips.map(|slip| format!("{file}: {slip}")));
                }
                Ok((sandbox.lines(), read))
            })
            .unwrap_or_else(|stopped| (Vec::new(), Err(stopped.in_file(&file).into())));
        serde_json::to_vec(&Told::of(lines, read)).unwrap_or_default()
    }
}

#[cfg(not(test))]
fn run(path: &Path, text: &str) -> Result<Vec<u8>, Failure> {
    use crate::confined::{Child, THIS_PROGRAM};

    let child = Child::start(Path::new(THIS_PROGRAM), RUN_LUA, path).map_err(|_| Failure::Ended)?;
    child.ask_once(text.as_bytes().to_vec(), PATIENCE)
}

/// The program of the tests is another: it has a thread in the child's place.
#[cfg(test)]
fn run(path: &Path, text: &str) -> Result<Vec<u8>, Failure> {
    let (path, text) = (path.to_owned(), text.to_owned());
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || drop(sender.send(running_lua(&path)(text.as_bytes()))));
    receiver.recv_timeout(PATIENCE).map_err(|_| Failure::TooSlow)
}

#[cfg(test)]
mod tests;
