//! Log lines: to standard error, and to a file a day.
//!
//! Both are written by threads of their own, from bounded buffers: a full disk or a stopped terminal
//! loses lines, never requests.

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::json;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use super::fields::PlainFields;
use super::log_file::{self, LogFile};
use super::progress::LogLines;
use crate::config::{Fault, LogFormat, LogSettings};

/// Lines that may wait for the disk or the terminal.
const BUFFERED_LINES: usize = 8192;

/// Writes out what still waits when it is dropped: hold it to the end of `main`.
#[must_use]
pub struct LogGuard {
    file: Option<(PathBuf, Place)>,
    _workers: Vec<WorkerGuard>,
}

/// Where the log file is put when it is open, for the thread that writes to it.
type Place = Arc<Mutex<Option<LogFile>>>;

impl LogGuard {
    /// Opens the log file, which gets all lines from the first one on. Before this nothing is made: a start that fails
    /// leaves no file behind.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open_file(&self) -> Result<(), Fault> {
        if let Some((path, place)) = &self.file {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(LogFile::open(path)?);
        }
        Ok(())
    }
}

/// Lines for a log file that may still have to be opened. The lock is taken for a moment by each line until then.
#[derive(Default)]
struct Lines {
    place: Place,
    file: Option<LogFile>,
    held: Vec<u8>,
}

/// So many bytes are held for a file that is not open yet.
const MOST_HELD_BYTES: usize = 1024 * 1024;

impl Lines {
    /// The file, if it is open, with all that was held for it.
    fn file(&mut self) -> io::Result<Option<&mut LogFile>> {
        if self.file.is_none() {
            self.file = self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(file) = &mut self.file {
                file.write_all(&std::mem::take(&mut self.held))?;
            }
        }
        Ok(self.file.as_mut())
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(file) = self.file()? {
            return file.write(line);
        }
        if self.held.len() < MOST_HELD_BYTES {
            self.held.extend_from_slice(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file()?.map_or(Ok(()), LogFile::flush)
    }
}

/// Starts logging for the whole process. The file is made by [`LogGuard::open_file`].
///
/// # Errors
/// The filter cannot be read, or the file cannot be written.
pub fn init(settings: &LogSettings) -> Result<LogGuard, Fault> {
    let warnings = check(settings)?;
    let mut workers = Vec::new();
    let mut layers = vec![layer(settings, buffered(LogLines, &mut workers), Colour::WhereSeen)?];
    let mut file = None;
    if let Some(path) = &settings.file {
        let lines = Lines::default();
        file = Some((path.clone(), lines.place.clone()));
        layers.push(layer(settings, buffered(lines, &mut workers), Colour::Never)?);
    }
    // A second call can only come from a test that starts the program twice; the first stays.
    let _ = tracing_subscriber::registry().with(layers).try_init();
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(LogGuard { file, _workers: workers })
}

/// Whether logging could be started like this, with what there is to say of it. Writes nothing.
///
/// # Errors
/// The filter cannot be read, or the file cannot be one.
pub fn check(settings: &LogSettings) -> Result<Vec<String>, Fault> {
    filter(&settings.filter)?;
    let warning = settings.file.as_deref().map(log_file::check).transpose()?;
    Ok(warning.flatten().into_iter().collect())
}

/// What ends the program, as a line of a log in JSON: for where there is no log yet, or no more.
pub fn error_line(message: &str) -> String {
    let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    json!({"timestamp": timestamp, "level": "ERROR", "message": message, "target": env!("CARGO_CRATE_NAME")})
        .to_string()
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
            let seen = colour == Colour::WhereSeen && std::io::stderr().is_terminal() && !settings.is_plain;
            let layer = fmt::layer().with_ansi(seen).with_writer(writer);
            if seen {
                layer.with_filter(filter).boxed()
            } else {
                layer.fmt_fields(PlainFields).with_filter(filter).boxed()
            }
        }
    })
}

/// A level applies to this program; of the libraries only warnings are of use. Anything longer is a
/// whole filter expression, in which levels may be spelt as freely.
fn filter(text: &str) -> Result<EnvFilter, Fault> {
    let fault = |why: &str| {
        let problem = format!("`{text}` is not allowed{why}");
        let cure = "give DEBUG, INFO, WARN, ERROR, OFF or a filter expression such as info,llm_proxy_api::router=debug";
        Fault::new("LLM_PROXY_API_LOG_LEVEL", problem, cure)
    };
    let is_of_spans = text.contains(['[', '{']);
    let expression = match level(text) {
        _ if text.trim().is_empty() => "warn,llm_proxy_api=info".to_owned(),
        Some(level @ ("trace" | "debug" | "info")) => format!("warn,llm_proxy_api={level}"),
        Some(level) => level.to_owned(),
        None if is_of_spans => text.to_owned(),
        None => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            let parts: Option<Vec<String>> = parts.map(directive).collect();
            parts.ok_or_else(|| fault(": it has a word that is no level"))?.join(",")
        }
    };
    EnvFilter::try_new(&expression).map_err(|error| fault(&format!(" ({error})")))
}

/// A part of a filter expression. `None` for a word that would be taken for the name of a module, so that everything
/// else would be silenced.
fn directive(part: &str) -> Option<String> {
    match part.split_once('=') {
        Some((target, word)) => Some(format!("{target}={}", level(word).unwrap_or(word))),
        None if part.contains("::") || part.parse::<u8>().is_ok() => Some(part.to_owned()),
        None => level(part).map(str::to_owned),
    }
}

/// A level, by any of its usual names.
fn level(word: &str) -> Option<&'static str> {
    Some(match word.trim().to_lowercase().as_str() {
        "trace" | "verbose" => "trace",
        "debug" => "debug",
        "info" | "information" | "notice" => "info",
        "warn" | "warning" => "warn",
        "error" | "err" | "critical" | "fatal" => "error",
        "off" | "none" => "off",
        _ => return None,
    })
}

fn buffered<W: std::io::Write + Send + 'static>(writer: W, workers: &mut Vec<WorkerGuard>) -> NonBlocking {
    let (writer, worker) =
        NonBlockingBuilder::default().buffered_lines_limit(BUFFERED_LINES).lossy(true).finish(writer);
    workers.push(worker);
    writer
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
            "llm_proxy_api::router",
            "[span{field=1}]=debug",
        ] {
            assert!(filter(text).is_ok(), "{text}");
        }
        for text in ["loud", "warn,loud", "llm_proxy_api", "info,hyper=loud"] {
            let fault = filter(text).unwrap_err().to_string();
            assert!(fault.contains(text) && fault.contains("DEBUG, INFO, WARN, ERROR"), "{fault}");
        }
        let fault = filter("a=b=c=d").unwrap_err().to_string();
        assert!(fault.contains("LLM_PROXY_API_LOG_LEVEL") && fault.contains("a=b=c=d"), "{fault}");
    }

    #[test]
    fn a_level_has_several_names_alone_and_in_expressions() {
        for (text, expression) in [
            ("warning", "warn"),
            (" Warning ", "warn"),
            ("ERR", "error"),
            ("critical", "error"),
            ("Information", "llm_proxy_api=info,warn"),
            ("trace", "llm_proxy_api=trace,warn"),
            ("warning,hyper=Warning", "hyper=warn,warn"),
        ] {
            assert_eq!(filter(text).unwrap().to_string(), expression, "{text}");
        }
    }
}
