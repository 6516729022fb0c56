//! Log lines: to stderr, and to a file that is rotated daily.
//!
//! Both are written by threads of their own, from bounded buffers: a full disk or a stopped terminal
//! loses lines, never requests.

use std::path::Path;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{Fault, LogFormat, LogSettings};

/// Lines that may wait for the disk or the terminal.
const BUFFERED_LINES: usize = 8192;
/// Days for which a log file is kept.
const KEPT_FILES: usize = 7;

/// Writes out what still waits when it is dropped: hold it to the end of `main`.
#[must_use]
pub struct LogGuard {
    _workers: Vec<WorkerGuard>,
}

/// Starts logging for the whole process.
///
/// # Errors
/// The filter cannot be read, or the file cannot be written.
pub fn init(settings: &LogSettings) -> Result<LogGuard, Fault> {
    let mut workers = Vec::new();
    let mut layers = vec![layer(settings, buffered(std::io::stderr(), &mut workers), Colour::WhereSeen)?];
    if let Some(path) = &settings.file {
        layers.push(layer(settings, buffered(rotated(path)?, &mut workers), Colour::Never)?);
    }
    // A second call can only come from a test that starts the program twice; the first stays.
    let _ = tracing_subscriber::registry().with(layers).try_init();
    Ok(LogGuard { _workers: workers })
}

/// Whether logging could be started like this. Writes nothing.
///
/// # Errors
/// The filter cannot be read.
pub fn check(settings: &LogSettings) -> Result<(), Fault> {
    filter(&settings.filter).map(drop)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Colour {
    WhereSeen,
    Never,
}

fn layer(
    settings: &LogSettings,
    writer: NonBlocking,
    colour: Colour,
) -> Result<Box<dyn Layer<Registry> + Send + Sync>, Fault> {
    let writer = BoxMakeWriter::new(writer);
    let filter = filter(&settings.filter)?;
    Ok(match settings.format {
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_writer(writer)
            .with_filter(filter)
            .boxed(),
        LogFormat::Text => {
            let seen = colour == Colour::WhereSeen && std::io::IsTerminal::is_terminal(&std::io::stderr());
            fmt::layer().with_ansi(seen).with_writer(writer).with_filter(filter).boxed()
        }
    })
}

/// A level applies to this program; of the libraries only warnings are of use. Anything longer is a
/// whole filter expression.
fn filter(text: &str) -> Result<EnvFilter, Fault> {
    let level = text.trim().to_lowercase();
    let expression = match level.as_str() {
        "trace" | "debug" | "info" => format!("warn,llm_proxy_api={level}"),
        "warning" => "warn".to_owned(),
        "" => "warn,llm_proxy_api=info".to_owned(),
        "warn" | "error" | "off" => level,
        _ => text.to_owned(),
    };
    let fault = |why: &str| {
        let problem = format!("`{text}` is not allowed{why}");
        Fault::new("LLM_PROXY_API_LOG_LEVEL", problem, "give DEBUG, INFO, WARN, ERROR or a filter expression")
    };
    // A single word that is no level would be taken for the name of a module, and everything else be silenced.
    if expression.chars().all(char::is_alphanumeric) && expression.parse::<LevelFilter>().is_err() {
        return Err(fault(""));
    }
    EnvFilter::try_new(&expression).map_err(|error| fault(&format!(" ({error})")))
}

fn buffered<W: std::io::Write + Send + 'static>(writer: W, workers: &mut Vec<WorkerGuard>) -> NonBlocking {
    let (writer, worker) =
        NonBlockingBuilder::default().buffered_lines_limit(BUFFERED_LINES).lossy(true).finish(writer);
    workers.push(worker);
    writer
}

/// `name.ext` becomes `name.<date>.ext`, and `name.ext` itself a link to today's.
fn rotated(path: &Path) -> Result<RollingFileAppender, Fault> {
    let fault = |problem: String| {
        Fault::new(
            "LLM_PROXY_API_LOG_FILENAME",
            format!("`{}`: {problem}", path.display()),
            "name a file in a folder that can be written, or set it empty for none",
        )
    };
    let name =
        path.file_name().ok_or_else(|| fault("is no file name".to_owned()))?.to_string_lossy().into_owned();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // In full: the link to today's file would lead astray otherwise.
    let folder = std::fs::create_dir_all(folder).and_then(|()| folder.canonicalize());
    let folder = folder.map_err(|error| fault(error.to_string()))?;
    let builder = RollingFileAppender::builder().rotation(Rotation::DAILY).max_log_files(KEPT_FILES);
    let builder = match (path.file_stem(), path.extension()) {
        (Some(stem), Some(ending)) => {
            builder.filename_prefix(stem.to_string_lossy()).filename_suffix(ending.to_string_lossy())
        }
        _ => builder.filename_prefix(name.as_str()),
    };
    builder.latest_symlink(name).build(folder).map_err(|error| fault(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_in_any_case_and_whole_expressions_are_filters() {
        for text in [
            "INFO",
            "debug",
            "Warn",
            "WARNING",
            "error",
            "off",
            "info,hyper=trace",
            "llm_proxy_api::router=debug",
        ] {
            assert!(filter(text).is_ok(), "{text}");
        }
        let fault = filter("a=b=c=d").unwrap_err().to_string();
        assert!(fault.contains("LLM_PROXY_API_LOG_LEVEL") && fault.contains("a=b=c=d"), "{fault}");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_a_fault() {
        let fault = rotated(Path::new("/proc/nowhere/x.log")).unwrap_err().to_string();
        assert!(fault.contains("LLM_PROXY_API_LOG_FILENAME"), "{fault}");
    }

    #[test]
    fn the_plain_name_leads_to_todays_file() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/service.log");

        writeln!(rotated(&path).unwrap(), "line").unwrap();

        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line\n");
        assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink());
    }
}
