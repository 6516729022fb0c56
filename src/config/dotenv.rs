//! Reads `.env`: `NAME=value`, one a line.
//!
//! A value is what stands there. Names in it are not replaced: a `$` is a part of many passwords.

use std::path::Path;

use super::Fault;
use crate::lint;

/// The variables of a file in the order of their lines. A fault ends them.
pub(super) struct Variables<'t> {
    file: &'t Path,
    rest: &'t str,
    /// Of the first line of `rest`, counted from 1.
    line: usize,
}

/// What is wrong with a line, and the cure. Neither repeats the line, which may hold a key.
type Slip = (&'static str, &'static str);

const NO_PAIR: Slip = ("this is not NAME=value", "write NAME=value, one a line");
const BLANK: Slip = ("a value without quotes holds a blank", "put the value in single quotes");
const NOT_CLOSED: Slip =
    ("the quote that opens the value is not closed", "close it, or put the value in the other quotes");
const BEHIND: Slip =
    ("text stands behind the quote that closes the value", "put the whole value in single quotes");

/// The text of a file, in which all lines end alike.
///
/// # Errors
/// The file cannot be read.
pub(super) fn text_of(file: &Path) -> Result<String, Fault> {
    match lint::read_text(file) {
        Ok(text) => Ok(text.replace("\r\n", "\n")),
        Err(error) => Err(Fault::new(
            file.display().to_string(),
            error.to_string(),
            "make it readable for this user, or take it away",
        )),
    }
}

impl<'t> Variables<'t> {
    pub(super) fn of(file: &'t Path, text: &'t str) -> Self {
        Self { file, rest: text, line: 1 }
    }

    fn next_pair(&mut self) -> Option<Result<(String, String), Slip>> {
        loop {
            let line = self.rest.trim_start_matches(BLANKS);
            if line.is_empty() {
                return None;
            }
            let end = line.find('\n').map_or(line.len(), |end| end + 1);
            if !line.starts_with(['#', '\n']) {
                return Some(self.pair(line));
            }
            self.rest = line.get(end..).unwrap_or_default();
            self.line += 1;
        }
    }

    /// The pair with which `text` begins. What is behind it is left.
    fn pair(&mut self, text: &'t str) -> Result<(String, String), Slip> {
        let exported = text.strip_prefix("export").filter(|rest| rest.starts_with(BLANKS));
        let (name, behind) = exported.unwrap_or(text).split_once('=').ok_or(NO_PAIR)?;
        let name = name.trim_matches(BLANKS);
        if !is_name(name) {
            return Err(NO_PAIR);
        }
        let begin = behind.trim_start_matches(BLANKS);
        let (value, rest) = match begin.chars().next() {
            Some('\'') => single_quoted(begin)?,
            Some('"') => double_quoted(begin)?,
            _ => plain(behind)?,
        };
        let lines = text.len() - rest.len();
        self.line += text.get(..lines).unwrap_or_default().matches('\n').count();
        self.rest = rest;
        Ok((name.to_owned(), value))
    }
}

impl Iterator for Variables<'_> {
    type Item = Result<(String, String), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.next_pair()?;
        Some(pair.map_err(|(problem, cure)| {
            self.rest = "";
            Fault::new(format!("{}: line {}", self.file.display(), self.line), problem, cure)
        }))
    }
}

const BLANKS: [char; 3] = [' ', '\t', '\r'];

fn is_name(text: &str) -> bool {
    let is_sane = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    text.bytes().all(is_sane) && text.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

/// A value without quotes, and what is behind its line. A `#` behind a blank begins a comment.
fn plain(text: &str) -> Result<(String, &str), Slip> {
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    let comment =
        line.match_indices('#').map(|(at, _)| line.split_at(at).0).find(|before| before.ends_with(BLANKS));
    let value = comment.unwrap_or(line).trim_matches(BLANKS);
    if value.contains(BLANKS) { Err(BLANK) } else { Ok((value.to_owned(), rest)) }
}

/// A value in single quotes, in which nothing has a meaning but the quote.
fn single_quoted(text: &str) -> Result<(String, &str), Slip> {
    let (value, behind) = text.strip_prefix('\'').and_then(|text| text.split_once('\'')).ok_or(NOT_CLOSED)?;
    Ok((value.to_owned(), behind_quote(behind)?))
}

/// A value in double quotes: `\n` is the end of a line, and a backslash stands before `"`, `\` and `$`. Before anything else it
/// is a backslash.
fn double_quoted(text: &str) -> Result<(String, &str), Slip> {
    let mut value = String::new();
    let mut letters = text.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        let escaped = letters.peek().map(|(_, next)| *next).filter(|_| letter == '\\');
        match (letter, escaped) {
            ('"', _) => return Ok((value, behind_quote(text.get(at + 1..).unwrap_or_default())?)),
            (_, Some(next @ ('"' | '\\' | '$' | 'n'))) => {
                value.push(if next == 'n' { '\n' } else { next });
                letters.next();
            }
            _ => value.push(letter),
        }
    }
    Err(NOT_CLOSED)
}

/// What is behind the line on which a quoted value ends.
fn behind_quote(text: &str) -> Result<&str, Slip> {
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    let more = line.trim_matches(BLANKS);
    if more.is_empty() || more.starts_with('#') { Ok(rest) } else { Err(BEHIND) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, String> {
        Variables::of(Path::new(".env"), text)
            .collect::<Result<_, _>>()
            .map_err(|fault: Fault| fault.to_string())
    }

    #[test]
    fn a_value_is_what_stands_there() {
        for (line, value) in [
            ("A=p@ss$w0rd!", "p@ss$w0rd!"),
            ("A=$2y$10$abc", "$2y$10$abc"),
            ("A=a${HOME}$$b$", "a${HOME}$$b$"),
            ("A=\"pa$word ${HOME}\"", "pa$word ${HOME}"),
            ("A=ab\\cd", "ab\\cd"),
            ("A=\"C:\\tmp\"", "C:\\tmp"),
            ("A=\"a\\\"b\\\\c\\$d\\ne\"", "a\"b\\c$d\ne"),
            ("A='a \"$b\\n' # mine", "a \"$b\\n"),
            ("A='sk-a#b$c'", "sk-a#b$c"),
            ("A=a#b", "a#b"),
            ("A=#b", "#b"),
            ("A=a # b # c", "a"),
            ("A= # nothing", ""),
            ("A=", ""),
            ("  export\tA = \"sk\" # mine", "sk"),
            ("A=b=c==", "b=c=="),
            ("A={\"a\":1}", "{\"a\":1}"),
            ("A=it's", "it's"),
            ("A=zażółć", "zażółć"),
            ("A=\"-----BEGIN-----\nab\n-----END-----\n\"", "-----BEGIN-----\nab\n-----END-----\n"),
        ] {
            assert_eq!(read(line), Ok(vec![("A".to_owned(), value.to_owned())]), "{line}");
        }
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            read("# one\n\n \nA='1\n2'\nexport_b=3\nA=4").unwrap(),
            [pair("A", "1\n2"), pair("export_b", "3"), pair("A", "4")]
        );
    }

    #[test]
    fn a_fault_has_its_line_and_a_cure_and_repeats_no_value() {
        for (text, line, told) in [
            ("A=1\nB=sk planted", 2, "single quotes"),
            ("A=1\nB={\"planted\": 1}", 2, "single quotes"),
            ("# c\n\nplanted", 3, "NAME=value"),
            ("A='\n\n'\nexport planted", 4, "NAME=value"),
            ("1A=planted", 1, "NAME=value"),
            ("pl-anted=1", 1, "NAME=value"),
            ("=planted", 1, "NAME=value"),
            ("A=\"\n\"\nB='planted\nC=1\n", 3, "not closed"),
            ("A=\"planted\\\"", 1, "not closed"),
            ("A=\"a\"planted", 1, "behind the quote"),
            ("A\nplanted=1", 1, "NAME=value"),
        ] {
            let fault = read(text).unwrap_err();
            assert!(fault.contains(&format!(".env: line {line}: ")), "{text}: {fault}");
            assert!(fault.contains(told) && !fault.contains("planted"), "{text}: {fault}");
        }
    }
}
