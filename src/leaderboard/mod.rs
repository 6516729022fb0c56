//! Leaderboards: how well models do in public benchmarks, as a share from 0 to 1.
//!
//! Figures come from a dated file: one of the operator's own, or the one that comes with the program. Nothing here
//! fetches anything; the command `leaderboard update` does, when somebody asks for it.
//!
//! The fine print:
//!
//! - Each source is scaled to its own rows: its worst is 0, its best 1. A fresh table needs no other scalar.
//! - A model's share is the mean over the sources that have it. A source that does not have it says nothing. So models
//!   that no source has in common compare only roughly: an old source with easy tasks is kinder to all of its models.
//! - Names are matched as `name.rs` says, in the order that `ranking.rs` says. There is no score rather than that of
//!   another model.
//! - All of it happens when routes are made, never for a request.

mod file;
mod formats;
mod name;
mod ranking;
mod update;

use std::path::{Path, PathBuf};

pub use file::{Figures, Source};
pub use formats::{Table, Unreadable, parse};
pub use update::{Changes, Fetched, Update};

use self::ranking::Ranking;
use crate::config::{Fault, LeaderboardConfig, LeaderboardSource};

/// The file that comes with the program.
const SHIPPED: &str = include_str!("../../resources/leaderboard.json");

/// Where figures of one's own are, unless the models file says otherwise.
pub const DEFAULT_FILE: &str = "data/leaderboard.json";

/// The file that a configuration means.
pub fn file_of(config: &LeaderboardConfig) -> &Path {
    config.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE))
}

/// All figures, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Leaderboard {
    figures: Figures,
    /// In the order of the sources.
    rankings: Vec<Ranking>,
    /// None for the one that comes with the program.
    file: Option<PathBuf>,
}

/// Where a model stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// From 0 to 1.
    pub share: f64,
    /// What it is the mean of.
    pub places: Vec<Place>,
}

/// A model's place in one source.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The source.
    pub source: String,
    /// What the source calls the model.
    pub row: String,
    /// In the source's own unit.
    pub figure: f64,
    /// The source's worst and best figure.
    pub range: (f64, f64),
    /// From 0 to 1.
    pub share: f64,
}

impl Leaderboard {
    /// The one that comes with the program.
    ///
    /// # Errors
    /// Never, as a test proves.
    pub fn shipped() -> Result<Self, Fault> {
        Figures::parse("the leaderboard that comes with the program", SHIPPED).map(|it| Self::of(it, None))
    }

    /// Where the figures that come with the program come from, for an update.
    ///
    /// # Errors
    /// Never, as a test proves.
    pub fn shipped_sources() -> Result<Vec<LeaderboardSource>, Fault> {
        Ok(Self::shipped()?.figures.sources.iter().filter_map(Source::config).collect())
    }

    /// The one in a file, or the one that comes with the program where there is no such file.
    ///
    /// # Errors
    /// The file is there and cannot be used.
    pub fn load(path: &Path) -> Result<Self, Fault> {
        if !path.exists() {
            return Self::shipped();
        }
        Figures::read(path).map(|figures| Self::of(figures, Some(path.to_owned())))
    }

    fn of(figures: Figures, file: Option<PathBuf>) -> Self {
        let rankings = figures.sources.iter().map(|source| Ranking::new(figures.rows_of(&source.name)));
        Self { rankings: rankings.collect(), figures, file }
    }

    /// Where a model stands, by whatever name a provider has for it. None if no source has it.
    pub fn standing(&self, model: &str) -> Option<Standing> {
        let places = self.figures.sources.iter().zip(&self.rankings).filter_map(|(source, ranking)| {
            let row = ranking.find(model)?;
            Some(Place {
                source: source.name.clone(),
                row: row.name.clone(),
                figure: row.figure,
                range: ranking.range(),
                share: ranking.share(row.figure),
            })
        });
        let places: Vec<Place> = places.collect();
        #[expect(clippy::cast_precision_loss, reason = "there are few sources")]
        let count = places.len() as f64;
        let sum: f64 = places.iter().map(|place| place.share).sum();
        (!places.is_empty()).then(|| Standing { share: sum / count, places })
    }

    /// What the file holds.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// The file, if it is not the one that comes with the program.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(models: &str) -> Leaderboard {
        let source = |name: &str| {
            format!(
                r#"{{"name": "{name}", "url": "https://x.example", "format": "scores", "date": "2025-01"}}"#
            )
        };
        let text = format!(
            r#"{{"date": "2025-01-01", "sources": [{}, {}], "models": {models}}}"#,
            source("one"),
            source("two")
        );
        Leaderboard::of(Figures::parse("f", &text).unwrap(), None)
    }

    #[test]
    fn a_share_is_the_mean_over_the_sources_that_have_the_model() {
        let board = board(
            r#"{"best": {"one": 90, "two": 1500}, "mid-70b": {"one": 50, "two": 1000}, "worst": {"one": 10, "two": 500},
                "Only-One": {"one": 30}, "other/mid:70b": {"two": 1250}}"#,
        );
        let share = |name: &str| board.standing(name).map(|standing| standing.share);
        assert_eq!((share("best"), share("worst"), share("only-one")), (Some(1.0), Some(0.0), Some(0.25)));
        assert_eq!(share("vendor/Mid-70B-Instruct:free"), Some(0.625), "each source by its own row");
        assert_eq!((share("mid-8b"), share("")), (None, None));
        let standing = board.standing("mid:70b").unwrap();
        let rows: Vec<&str> = standing.places.iter().map(|place| place.row.as_str()).collect();
        assert_eq!(rows, ["mid-70b", "other/mid:70b"]);
    }

    #[test]
    fn the_shipped_file_is_in_order_and_says_where_it_comes_from() {
        let board = Leaderboard::shipped().unwrap();
        let figures = board.figures();
        assert!(figures.sources.len() >= 2 && figures.models.len() > 100, "{}", figures.models.len());
        for source in &figures.sources {
            assert!(source.config().is_some(), "{} can be fetched", source.name);
            assert!(
                source.licence.as_deref().is_some_and(|licence| licence.contains("Apache-2.0")),
                "{source:?}"
            );
            assert!(
                source.measure.is_some() && source.scale.is_some() && source.notes.is_some(),
                "{source:?}"
            );
            assert!(figures.rows_of(&source.name).all(|(_, figure)| (0.0..=100.0).contains(&figure)));
        }
        assert_eq!(figures.text(), SHIPPED, "in the form that an update writes");
    }

    #[test]
    fn well_known_models_stand_where_they_should() {
        let board = Leaderboard::shipped().unwrap();
        let share = |name: &str| board.standing(name).map(|standing| standing.share);
        for (better, worse) in [
            ("gpt-4o", "openai/gpt-4o-mini"),
            ("gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18"),
            ("meta-llama/Llama-3.3-70B-Instruct:free", "llama3.2:3b"),
            ("meta-llama/Meta-Llama-3-70B-Instruct", "meta-llama/Meta-Llama-3-8B-Instruct"),
            ("deepseek/deepseek-chat", "deepseek-coder:1.3b"),
            ("anthropic/claude-3.5-sonnet", "claude-3-haiku-20240307"),
            ("claude-3-5-sonnet-20241022", "claude-3-5-haiku-20241022"),
            ("gpt-5", "gpt-4.1"),
        ] {
            let (better_share, worse_share) = (share(better), share(worse));
            assert!(
                better_share > worse_share && worse_share.is_some(),
                "{better} {better_share:?}, {worse} {worse_share:?}"
            );
        }
        for unknown in
            ["echo", "text-embedding-3-small", "llama-3-400b", "gpt-4o-realtime-preview", "whisper-1"]
        {
            assert_eq!(share(unknown), None, "{unknown}");
        }
    }
}
