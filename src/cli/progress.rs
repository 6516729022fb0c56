//! How far things are that take a while: a line for each, written anew on a terminal, and only its beginning and end
//! where nobody watches.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines that change, on one output.
#[derive(Debug)]
pub(super) struct Progress<W> {
    /// Several tasks run at once.
    screen: Mutex<Screen<W>>,
}

#[derive(Debug)]
struct Screen<W> {
    out: W,
    is_terminal: bool,
    lines: usize,
}

/// One of the things that take a while.
#[derive(Debug)]
pub(super) struct Task<'a, W> {
    progress: &'a Progress<W>,
    name: String,
    /// Counted from the top.
    line: usize,
    shown: Option<Instant>,
}

/// Oftener than this nobody reads.
const BETWEEN: Duration = Duration::from_millis(100);
/// A line that wraps could not be found again.
const MOST_CHARS: usize = 79;

impl<W: Write> Progress<W> {
    pub(super) fn new(out: W, is_terminal: bool) -> Self {
        Self { screen: Mutex::new(Screen { out, is_terminal, lines: 0 }) }
    }

    /// Begins a task, in a line below the others.
    pub(super) fn task(&self, name: &str, words: &str) -> Task<'_, W> {
        let mut screen = self.screen();
        let line = screen.lines;
        screen.lines += 1;
        screen.write_line(&format!("{name}: {words}"));
        Task { progress: self, name: name.to_owned(), line, shown: None }
    }

    fn screen(&self) -> std::sync::MutexGuard<'_, Screen<W>> {
        // Half a line is the worst that a panic leaves.
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Write> Task<'_, W> {
    /// Says how far it is: on a terminal, and not too often.
    pub(super) fn is_at(&mut self, words: impl FnOnce() -> String) {
        let now = Instant::now();
        let is_time = self.shown.is_none_or(|shown| now.duration_since(shown) >= BETWEEN);
        let mut screen = self.progress.screen();
        if screen.is_terminal && is_time {
            self.shown = Some(now);
            screen.rewrite(self.line, &format!("{}: {}", self.name, words()));
        }
    }

    /// Says how it ended.
    pub(super) fn ends(self, words: &str) {
        let mut screen = self.progress.screen();
        let text = format!("{}: {words}", self.name);
        if screen.is_terminal { screen.rewrite(self.line, &text) } else { screen.write_line(&text) }
    }
}

impl<W: Write> Screen<W> {
    fn write_line(&mut self, text: &str) {
        let text = if self.is_terminal { cut(text) } else { text.to_owned() };
        self.write(&format!("{text}\n"));
    }

    /// Goes up to the line, writes it anew, and comes back.
    fn rewrite(&mut self, line: usize, text: &str) {
        let up = self.lines - line;
        self.write(&format!("\x1b[{up}A\r\x1b[2K{}\x1b[{up}B\r", cut(text)));
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
pub(super) fn size(bytes: u64) -> String {
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

    fn written(progress: Progress<Vec<u8>>) -> String {
        String::from_utf8(progress.screen.into_inner().unwrap().out).unwrap()
    }

    #[test]
    fn without_a_terminal_only_beginning_and_end_are_told() {
        let progress = Progress::new(Vec::new(), false);
        let mut one = progress.task("one", "begins");
        let two = progress.task("two", "begins");
        one.is_at(|| unreachable!("nobody watches"));
        two.ends("failed: gone");
        one.ends("done");
        assert_eq!(written(progress), "one: begins\ntwo: begins\ntwo: failed: gone\none: done\n");
    }

    #[test]
    fn on_a_terminal_each_task_has_its_line() {
        let progress = Progress::new(Vec::new(), true);
        let mut one = progress.task("one", "begins");
        let two = progress.task("two", "begins");
        one.is_at(|| "half".to_owned());
        one.is_at(|| unreachable!("that is too soon"));
        two.ends("done");
        one.ends(&"long ".repeat(40));
        let text = written(progress);
        assert!(text.starts_with("one: begins\ntwo: begins\n\x1b[2A\r\x1b[2Kone: half\x1b[2B\r\x1b[1A\r\x1b[2Ktwo: done\x1b[1B\r"), "{text:?}");
        let last = text.rsplit("\x1b[2K").next().unwrap();
        assert!(
            last.starts_with("one: long") && last.ends_with("…\x1b[2B\r") && last.chars().count() == 79 + 5,
            "{last:?}"
        );
    }

    #[test]
    fn sizes_are_told_in_round_numbers() {
        assert_eq!([0, 999, 1_000, 62_057, 4_194_304].map(size), ["0 B", "999 B", "1 kB", "62 kB", "4.2 MB"]);
    }
}
