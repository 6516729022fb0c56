//! What the command line says of settings. It is as much a part of the process as its environment, and read together with it,
//! at the start and at each reload.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

static SAID: OnceLock<CommandLine> = OnceLock::new();

/// Flags that stand for settings.
#[derive(Clone, Debug, Default)]
pub struct CommandLine {
    /// A file in the place of `.env`.
    pub env_file: Option<PathBuf>,
    /// Settings that hold before all others, by their names with the prefix.
    pub settings: Vec<(&'static str, String)>,
}

impl CommandLine {
    /// From now on it holds. Once only: another is not taken.
    pub fn hold(self) {
        drop(SAID.set(self));
    }
}

/// The file that is read in the place of `.env`, if one was named.
pub(super) fn env_file() -> Option<&'static Path> {
    SAID.get()?.env_file.as_deref()
}

/// The settings that were given.
pub(super) fn settings() -> impl Iterator<Item = (String, String)> {
    let said = SAID.get().into_iter().flat_map(|said| &said.settings);
    said.map(|(name, value)| ((*name).to_owned(), value.clone()))
}
