//! What an engine has written lately: its last lines, within bounds.
//!
//! Serves the errors that tell why an engine ended, and whoever asks whether it still says something. Refuses to
//! grow: whatever an engine writes, it takes no more than [`MOST_BYTES`].

use std::collections::VecDeque;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Lines that are kept.
const MOST_LINES: usize = 1000;
/// What the lines that are kept take together, in bytes.
const MOST_BYTES: usize = 256 * 1024;
/// Where a line is cut, in bytes.
const LONGEST_LINE: usize = 4 * 1024;

/// The last lines of one process, standard output and standard error as they came. Old lines make room.
#[derive(Debug, Default)]
pub struct Log {
    // Held for a few copies only, by the thread that reads and by those that look.
    kept: Mutex<Kept>,
    bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    bytes: usize,
    /// The begin of a line whose end has not come.
    open: Vec<u8>,
    /// The line was cut already; what is left of it does not count.
    is_cut: bool,
}

impl Log {
    /// The lines, oldest first. What has come of a line that has not ended is the last one.
    pub fn lines(&self) -> Vec<String> {
        self.tail(MOST_LINES)
    }

    /// The last `count` lines, oldest first.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let open = (!kept.open.is_empty() && !kept.is_cut).then(|| readable(&kept.open));
        let all = kept.lines.len() + usize::from(open.is_some());
        kept.lines.iter().cloned().chain(open).skip(all.saturating_sub(count)).collect()
    }

    /// How many bytes the process has written since its start, kept or not: while this grows, it lives.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Reads until there is nothing left to come.
    pub(super) fn drain(&self, mut source: impl Read) {
        let mut chunk = [0; 16 * 1024];
        loop {
            match source.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => self.push(chunk.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).end_line();
    }

    fn push(&self, chunk: &[u8]) {
        self.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // A bar that paints over itself ends its lines with a carriage return.
        let mut pieces = chunk.split(|byte| matches!(byte, b'\n' | b'\r'));
        if let Some(first) = pieces.next() {
            kept.extend(first);
        }
        for piece in pieces {
            kept.end_line();
            kept.extend(piece);
        }
    }
}

impl Kept {
    fn extend(&mut self, piece: &[u8]) {
        if self.is_cut {
            return;
        }
        let room = LONGEST_LINE - self.open.len();
        self.open.extend(piece.iter().take(room));
        if piece.len() > room {
            self.keep();
            self.is_cut = true;
        }
    }

    fn end_line(&mut self) {
        self.keep();
        self.is_cut = false;
    }

    /// Keeps the open line, and lets go of the oldest ones until all fit. Empty lines tell nothing.
    fn keep(&mut self) {
        let line = readable(&self.open);
        self.open.clear();
        if line.trim().is_empty() {
            return;
        }
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > MOST_LINES || self.bytes > MOST_BYTES {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }
}

/// Text that is safe to show: what is no UTF-8, and what steers a terminal, is replaced.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let shown = |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    let mut text: String = text.chars().map(shown).collect();
    text.truncate(text.floor_char_boundary(LONGEST_LINE));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(chunks: &[&[u8]]) -> Log {
        let log = Log::default();
        chunks.iter().for_each(|chunk| log.push(chunk));
        log
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut_into_chunks() {
        let text = "first\r\nsecond zażółć\n\nthird";
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        for log in [log(&[text.as_bytes()]), log(&bytes)] {
            assert_eq!(log.lines(), ["first", "second zażółć", "third"]);
            assert_eq!(log.tail(2), ["second zażółć", "third"]);
            assert_eq!((log.tail(0).len(), log.bytes()), (0, text.len() as u64));
        }
    }

    #[test]
    fn the_last_thousand_lines_are_kept() {
        let log = Log::default();
        (0..2500).for_each(|number| log.push(format!("line {number}\n").as_bytes()));
        let lines = log.lines();
        assert_eq!((lines.len(), lines[0].as_str(), lines[999].as_str()), (1000, "line 1500", "line 2499"));
    }

    #[test]
    fn a_line_is_cut_and_what_is_left_of_it_is_let_go() {
        let log = log(&[&[b'x'; 10_000], &[b'y'; 10_000], b"\nnext\n"]);
        assert_eq!(log.lines(), ["x".repeat(LONGEST_LINE), "next".to_owned()]);
    }

    #[test]
    fn a_line_without_end_is_seen_before_it_ends() {
        assert_eq!(log(&[b"loading ...."]).lines(), ["loading ...."]);
    }

    #[test]
    fn all_lines_together_stay_within_their_bytes() {
        // Each of these bytes becomes three.
        let log = Log::default();
        (0..1000).for_each(|_| log.push(&[&[0xff; 5000][..], b"\n"].concat()));
        let held: usize = log.lines().iter().map(String::len).sum();
        assert!(held <= MOST_BYTES && held > MOST_BYTES / 2, "{held}");
    }

    #[test]
    fn nothing_that_steers_a_terminal_is_shown() {
        assert_eq!(log(&[b"\x1b[31mred\x07\xff\n"]).lines(), ["\u{fffd}[31mred\u{fffd}\u{fffd}"]);
    }
}
