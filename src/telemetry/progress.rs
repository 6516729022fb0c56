//! How far things are that take a while: a line for each, written anew on a terminal, and only its beginning and end
//! where nobody watches.

use std::io::{IsTerminal, Stderr, Write};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines that change, on one output. They stay as they are once this is dropped.
#[derive(Debug)]
pub struct Progress<W: Write = Stderr> {
    screen: Arc<Mutex<Screen<W>>>,
}

/// What stands on the output. A std mutex around it: several tasks run at once, and each holds it for a line.
#[derive(Debug)]
struct Screen<W> {
    out: W,
    is_terminal: bool,
    /// Those that may still change, below everything else.
    lines: Vec<String>,
}

/// Standard error is one for the whole process, log lines included.
static STDERR: LazyLock<Arc<Mutex<Screen<Stderr>>>> = LazyLock::new(|| {
    let out = std::io::stderr();
    Arc::new(Mutex::new(Screen { is_terminal: out.is_terminal(), out, lines: Vec::new() }))
});

/// One of the things that take a while.
#[derive(Debug)]
pub struct Task<'a, W: Write = Stderr> {
    progress: &'a Progress<W>,
    name: String,
    /// Counted from the top.
    line: usize,
    shown: Option<Instant>,
}

/// Log lines on their way to standard error: they go above the lines that change.
#[derive(Debug)]
pub(super) struct LogLines;

impl Write for LogLines {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        held(&STDERR).write_above(text).map(|()| text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        held(&STDERR).out.flush()
    }
}

fn held<W>(screen: &Mutex<Screen<W>>) -> MutexGuard<'_, Screen<W>> {
    // Half a line is the worst that a panic leaves.
    screen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Oftener than this nobody reads.
const BETWEEN: Duration = Duration::from_millis(100);
/// A line that wraps could not be found again.
const MOST_CHARS: usize = 79;

impl Progress {
    /// On standard error.
    pub fn on_stderr() -> Self {
        Self { screen: STDERR.clone() }
    }

    /// On standard error, if somebody watches it.
    pub fn if_watched() -> Option<Self> {
        Some(Self::on_stderr()).filter(|progress| held(&progress.screen).is_terminal)
    }
}

impl<W: Write> Progress<W> {
    /// Begins a task, in a line below the others.
    pub fn task(&self, name: &str, words: &str) -> Task<'_, W> {
        let line = held(&self.screen).begin(&format!("{name}: {words}"));
        Task { progress: self, name: name.to_owned(), line, shown: None }
    }

    /// The same for one that takes a moment: where nobody watches, only its end is told.
    pub fn short_task(&self, name: &str, words: &str) -> Task<'_, W> {
        let mut screen = held(&self.screen);
        let line = if screen.is_terminal { screen.begin(&format!("{name}: {words}")) } else { 0 };
        Task { progress: self, name: name.to_owned(), line, shown: None }
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        held(&self.screen).lines.clear();
    }
}

impl<W: Write> Task<'_, W> {
    /// Says how far it is: on a terminal, and not too often.
    pub fn is_at(&mut self, words: impl FnOnce() -> String) {
        let now = Instant::now();
        let is_time = self.shown.is_none_or(|shown| now.duration_since(shown) >= BETWEEN);
        let mut screen = held(&self.progress.screen);
        if screen.is_terminal && is_time {
            self.shown = Some(now);
            screen.rewrite(self.line, &format!("{}: {}", self.name, words()));
        }
    }

    /// Says how it ended.
    pub fn ends(self, words: &str) {
        let mut screen = held(&self.progress.screen);
        let text = format!("{}: {words}", self.name);
        if screen.is_terminal { screen.rewrite(self.line, &text) } else { screen.write_line(&text) }
    }
}

impl<W: Write> Screen<W> {
    /// A new line; its number.
    fn begin(&mut self, text: &str) -> usize {
        let text = if self.is_terminal { cut(text) } else { text.to_owned() };
        self.write_line(&text);
        self.lines.push(text);
        self.lines.len() - 1
    }

    fn write_line(&mut self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    /// Writes what is no line of these above them: takes them away, and puts them back below it.
    fn write_above(&mut self, text: &[u8]) -> std::io::Result<()> {
        if !self.is_terminal || self.lines.is_empty() {
            return self.out.write_all(text);
        }
        let up = self.lines.len();
        let below: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
        let whole = [format!("\x1b[{up}A\r\x1b[J").as_bytes(), text, below.as_bytes()].concat();
        self.out.write_all(&whole)
    }

    /// Goes up to the line, writes it anew, and comes back.
    fn rewrite(&mut self, line: usize, text: &str) {
        let (up, text) = (self.lines.len().saturating_sub(line), cut(text));
        self.write(&format!("\x1b[{up}A\r\x1b[2K{text}\x1b[{up}B\r"));
        if let Some(shown) = self.lines.get_mut(line) {
            *shown = text;
        }
    }

    fn write(&mut self, text: &str) {
        // Who cannot be told is not told; the work goes on.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

fn cut(text: &str) -> String {
    let is_long = text.chars().count() > MOST_CHARS;
    let mut cut: String = text.chars().take(if is_long { MOST_CHARS - 1 } else { MOST_CHARS }).collect();
    if is_long {
        cut.push('…');
    }
    cut
}

/// A number of bytes, for people.
pub fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let bytes_as_float = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.0} kB", bytes_as_float / 1e3),
        _ => format!("{:.1} MB", bytes_as_float / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Kept = Arc<Mutex<Screen<Vec<u8>>>>;

    /// Lines on an output that is kept, too.
    fn progress(is_terminal: bool) -> (Progress<Vec<u8>>, Kept) {
        let screen = Arc::new(Mutex::new(Screen { out: Vec::new(), is_terminal, lines: Vec::new() }));
        (Progress { screen: screen.clone() }, screen)
    }

    fn written(screen: &Mutex<Screen<Vec<u8>>>) -> String {
        String::from_utf8(screen.lock().unwrap().out.clone()).unwrap()
    }

    #[test]
    fn without_a_terminal_only_beginning_and_end_are_told() {
        let (progress, screen) = progress(false);
        let mut one = progress.task("one", "begins");
        let two = progress.task("two", "begins");
        let short = progress.short_task("short", "begins");
        one.is_at(|| unreachable!("nobody watches"));
        two.ends("failed: gone");
        screen.lock().unwrap().write_above(b"a line of the log\n").unwrap();
        short.ends("done");
        one.ends("done");
        assert_eq!(
            written(&screen),
            "one: begins\ntwo: begins\ntwo: failed: gone\na line of the log\nshort: done\none: done\n"
        );
    }

    #[test]
    fn on_a_terminal_each_task_has_its_line() {
        let (progress, screen) = progress(true);
        let mut one = progress.short_task("one", "begins");
        let two = progress.task("two", "begins");
        one.is_at(|| "half".to_owned());
        one.is_at(|| unreachable!("that is too soon"));
        two.ends("done");
        one.ends(&"long ".repeat(40));
        let text = written(&screen);
        assert!(text.starts_with("one: begins\ntwo: begins\n\x1b[2A\r\x1b[2Kone: half\x1b[2B\r\x1b[1A\r\x1b[2Ktwo: done\x1b[1B\r"), "{text:?}");
        let last = text.rsplit("\x1b[2K").next().unwrap();
        assert!(
            last.starts_with("one: long") && last.ends_with("…\x1b[2B\r") && last.chars().count() == 79 + 5,
            "{last:?}"
        );
    }

    #[test]
    fn lines_of_the_log_go_above_those_that_change_until_they_are_left() {
        let (progress, screen) = progress(true);
        let log = |text: &str| {
            let before = written(&screen).len();
            screen.lock().unwrap().write_above(text.as_bytes()).unwrap();
            written(&screen).split_off(before)
        };
        assert_eq!(log("first\n"), "first\n");
        let one = progress.task("one", "begins");
        let two = progress.task("two", "begins");
        one.ends("done");
        assert_eq!(log("second\n"), "\x1b[2A\r\x1b[Jsecond\none: done\ntwo: begins\n");
        two.ends("done");
        drop(progress);
        assert_eq!(log("third\n"), "third\n");
    }

    #[test]
    fn sizes_are_told_in_round_numbers() {
        assert_eq!([0, 999, 1_000, 62_057, 4_194_304].map(size), ["0 B", "999 B", "1 kB", "62 kB", "4.2 MB"]);
    }
}
