//! What the models file says of leaderboards: where their figures are kept, and where fresh ones come from.

use std::path::PathBuf;

/// The top-level `leaderboard`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderboardConfig {
    /// The data file, seen from where the program was started.
    pub file: Option<PathBuf>,
    /// What an update fetches; those of the shipped file if none are named.
    pub sources: Vec<LeaderboardSource>,
}

/// Where figures are fetched, when somebody asks for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderboardSource {
    /// A short name.
    pub name: String,
    /// Its address.
    pub url: String,
    /// In which form it has them.
    pub format: LeaderboardFormat,
    /// On what terms.
    pub licence: Option<String>,
    /// What else there is to know.
    pub notes: Option<String>,
}

/// The form in which a leaderboard is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderboardFormat {
    /// A list of runs in YAML, as Aider's.
    Aider,
    /// An object of models in JSON, each with its `pass@1`, as that of `BigCodeBench`.
    BigCodeBench,
    /// An object of names and numbers in JSON.
    Scores,
}

impl LeaderboardFormat {
    /// All of them, by their names in the file.
    pub const NAMES: [(&'static str, Self); 3] =
        [("aider", Self::Aider), ("bigcodebench", Self::BigCodeBench), ("scores", Self::Scores)];

    /// The one of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("scores", |(name, _)| name)
    }
}
