//! Files as they were when they were looked at.

use std::path::PathBuf;

use crate::prompts::Fingerprint;

/// What changes with a file: models, prompts, leaderboard, adjustments, prices, secrets.
pub(super) type Files = [Fingerprint; 6];

/// Files that hold secrets, certificates among them, and what they were before the last load.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    pub(super) paths: Vec<PathBuf>,
    pub(super) fingerprint: Fingerprint,
}

impl Secrets {
    /// What they are now.
    pub(super) fn now(paths: Vec<PathBuf>) -> Self {
        Self { fingerprint: Fingerprint::of_all(&paths), paths }
    }
}

/// A file that the models file may name, and what it was.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) path: Option<PathBuf>,
    pub(super) fingerprint: Fingerprint,
}

impl Seen {
    /// What it is now.
    pub(super) fn now(path: Option<PathBuf>) -> Self {
        Self { fingerprint: path.as_deref().map(Fingerprint::of).unwrap_or_default(), path }
    }

    /// What it is now, in the place of what it was.
    pub(super) fn again(&self) -> Fingerprint {
        Self::now(self.path.clone()).fingerprint
    }
}
