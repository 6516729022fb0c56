//! `leaderboard update` and `leaderboard show`. Nothing else ever fetches figures.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Subcommand;
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};

use super::output::print_json;
use super::{CommandError, print};
use crate::app::Sources;
use crate::config::{Environment, Fault, LeaderboardSource, Settings};
use crate::fetch::{Come, Fetcher};
use crate::leaderboard::{self, Fetched, Leaderboard, Source, Update};
use crate::telemetry::{Metrics, Progress, size};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Fetch fresh figures and write them to the file of the models file's `leaderboard` (data/leaderboard.json).
    Update,
    /// Show where figures come from, or where a model stands.
    Show {
        /// A provider's name of a model.
        name: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Longer documents are no leaderboards.
const MOST_BYTES: usize = 8 * 1024 * 1024;
/// So many sources are asked at a time.
const AT_ONCE: usize = 4;

pub(super) async fn run(
    command: Command,
    settings: Settings,
    folder: PathBuf,
    environment: &Environment,
) -> Result<(), CommandError> {
    // Keys that are unset are no reason not to look at figures.
    let settings = Settings { minimum: true, ..settings };
    let timeouts = settings.timeouts;
    let sources = Sources::new(settings, folder, Metrics::default());
    let config = sources.leaderboard_config(environment)?;
    let board = sources.leaderboard(&config)?;
    match command {
        Command::Update => {
            let fetcher = Fetcher::new(timeouts, MOST_BYTES)
                .map_err(|error| CommandError::Refused(error.to_string()))?;
            let asked = if config.sources.is_empty() {
                Leaderboard::shipped_sources()?
            } else {
                config.sources.clone()
            };
            update(&fetcher, asked, &board, leaderboard::file_of(&config)).await
        }
        Command::Show { name: None, json: false } => print(&overview(&board)),
        Command::Show { name: Some(name), json: false } => print(&standing(&board, &name)),
        Command::Show { name: None, json: true } => print_json(&overview_as_json(&board)),
        Command::Show { name: Some(name), json: true } => print_json(&standing_as_json(&board, &name)),
    }
}

impl From<Fault> for CommandError {
    fn from(fault: Fault) -> Self {
        Self::Faults(fault.into())
    }
}

async fn update(
    fetcher: &Fetcher,
    asked: Vec<LeaderboardSource>,
    board: &Leaderboard,
    file: &Path,
) -> Result<(), CommandError> {
    let progress = Progress::on_stderr();
    let tables: Vec<Fetched> =
        stream::iter(asked).map(|source| fetch(fetcher, source, &progress)).buffered(AT_ONCE).collect().await;
    let (count, today) = (tables.len(), today());
    let Update { figures, changes } = Update::of(board.figures(), tables, &today);
    let shown = file.display();
    if changes.failed == count {
        print(&changes.to_string())?;
        return Err(CommandError::Refused(format!("no source gave any figures; {shown} is left as it was")));
    }
    figures.write(file).map_err(|error| {
        let cure = "make its folder writable, or name another file as `leaderboard.file` in the models file";
        Fault::new(shown.to_string(), format!("cannot be written: {error}"), cure)
    })?;
    print(&format!("{shown}: {} models\n{changes}", figures.models.len()))?;
    match changes.failed {
        0 => Ok(()),
        failed => Err(CommandError::Refused(format!("{failed} of {count} sources gave no figures"))),
    }
}

async fn fetch(fetcher: &Fetcher, source: LeaderboardSource, progress: &Progress) -> Fetched {
    let mut task = progress.task(&source.name, "fetching");
    let come = |Come { bytes, of }: Come| {
        task.is_at(|| match of {
            Some(of) => format!("{} of {}", size(bytes as u64), size(of)),
            None => size(bytes as u64),
        });
    };
    let document = fetcher.document(&source.url, come).await.map_err(|error| error.to_string());
    let bytes = document.as_ref().map_or(0, |document| document.len() as u64);
    let table = document.and_then(|document| {
        leaderboard::parse(source.format, &document).map_err(|error| format!("cannot be read: {error}"))
    });
    match &table {
        Ok(table) => task.ends(&format!("done, {}, {} models", size(bytes), table.rows.len())),
        Err(why) => task.ends(&format!("failed: {why}")),
    }
    Fetched { source, table }
}

/// The day in UTC.
fn today() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string().chars().take(10).collect()
}

/// What there is, in a line.
pub(super) fn line(board: &Leaderboard) -> String {
    let figures = board.figures();
    let from =
        board.file().map_or_else(|| "comes with the program".to_owned(), |file| file.display().to_string());
    format!("leaderboard of {}: {} models ({from})", figures.date, figures.models.len())
}

fn overview(board: &Leaderboard) -> String {
    let mut lines = vec![line(board)];
    for source in &board.figures().sources {
        let count = board.figures().rows_of(&source.name).count();
        let licence = source.licence.as_deref().unwrap_or(Source::UNKNOWN_LICENCE);
        lines.push(format!("\n{}: {count} models of {}, licence: {licence}", source.name, source.date));
        lines.push(format!("  {} [{}]", source.url, source.format));
        let measure = [&source.measure, &source.scale].into_iter().flatten().map(String::as_str);
        let measure = measure.collect::<Vec<_>>().join("; ");
        let texts = [Some(&measure).filter(|text| !text.is_empty()), source.notes.as_ref()];
        lines.extend(texts.into_iter().flatten().map(|text| format!("  {text}")));
    }
    let notes = &board.figures().notes;
    if !notes.is_empty() {
        lines.push(String::new());
        lines.extend(notes.iter().cloned());
    }
    lines.join("\n")
}

fn overview_as_json(board: &Leaderboard) -> Value {
    let source = |source: &Source| {
        json!({
            "name": source.name,
            "models": board.figures().rows_of(&source.name).count(),
            "date": source.date,
            "licence": source.licence,
            "url": source.url,
        })
    };
    json!({
        "date": board.figures().date,
        "models": board.figures().models.len(),
        "file": board.file().map(|file| file.display().to_string()),
        "sources": board.figures().sources.iter().map(source).collect::<Vec<_>>(),
    })
}

fn standing_as_json(board: &Leaderboard, name: &str) -> Value {
    let standing = board.standing(name);
    let places = standing.iter().flat_map(|standing| &standing.places).map(|place| {
        json!({"source": place.source, "share": place.share, "row": place.row, "figure": place.figure})
    });
    json!({
        "model": name,
        "share": standing.as_ref().map(|standing| standing.share),
        "places": places.collect::<Vec<_>>(),
    })
}

fn standing(board: &Leaderboard, name: &str) -> String {
    let Some(standing) = board.standing(name) else {
        return format!("{name}: no source has it, so its score gets nothing for leaderboards");
    };
    let mut lines = vec![format!("{name}: {:.3} of 1, the mean of", standing.share)];
    lines.extend(standing.places.iter().map(|place| {
        let (least, most) = place.range;
        format!(
            "  {}: {:.3}, for `{}` has {} between {least} and {most}",
            place.source, place.share, place.row, place.figure
        )
    }));
    lines.join("\n")
}
