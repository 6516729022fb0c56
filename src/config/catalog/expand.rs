//! `${NAME}`, `${NAME:-default}` and `${file:/path}` in the models file.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::{Environment, Fault};
use crate::lint;

/// So deep may references stand in the defaults of others.
const DEEPEST: usize = 16;
/// No secret is larger.
const MOST_FILE_BYTES: u64 = 1024 * 1024;

/// Replaces references, and notes those that lead nowhere.
pub(super) struct Expansion<'a> {
    environment: &'a Environment,
    pub(super) missing: Vec<Fault>,
    /// The variables that were read for something that engines are not given.
    pub(super) withheld: BTreeSet<String>,
    /// The files that were read, or could not be.
    pub(super) files: Vec<PathBuf>,
    depth: usize,
}

impl<'a> Expansion<'a> {
    pub(super) fn new(environment: &'a Environment) -> Self {
        Self { environment, missing: Vec::new(), withheld: BTreeSet::new(), files: Vec::new(), depth: 0 }
    }

    /// As [`Expansion::expand`], for what an engine is given anyway, in its arguments or its environment.
    pub(super) fn expand_for_engine(&mut self, text: &str) -> String {
        let withheld = std::mem::take(&mut self.withheld);
        let expanded = self.expand(text);
        self.withheld = withheld;
        expanded
    }

    /// The text with every reference replaced. `$${` stands for `${` itself.
    pub(super) fn expand(&mut self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, from) = rest.split_at(start);
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = from.get(2..).unwrap_or_default();
                continue;
            }
            out.push_str(before);
            let Some(end) = closing(from) else {
                self.missing.push(Fault::new("", "`${` is not closed", "write ${NAME}"));
                return out;
            };
            let reference = from.get(2..end).unwrap_or_default();
            if self.depth == DEEPEST {
                let problem = format!("references stand in each other more than {DEEPEST} deep");
                self.missing.push(Fault::new("", problem, "write the value itself, or fewer defaults"));
                return out;
            }
            self.depth += 1;
            out.push_str(&self.resolve(reference));
            self.depth -= 1;
            rest = from.get(end + 1..).unwrap_or_default();
        }
        out.push_str(rest);
        out
    }

    fn resolve(&mut self, reference: &str) -> String {
        if let Some(path) = reference.strip_prefix("file:") {
            let path = self.expand(path);
            self.files.push(PathBuf::from(&path));
            return secret_in(Path::new(&path)).map_or_else(
                |error| {
                    let problem = format!("the file {path} cannot be read: {error}");
                    self.missing.push(Fault::new("", problem, "create it, readable for this user"));
                    String::new()
                },
                |text| text.trim().to_owned(),
            );
        }
        let (name, default) = match reference.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (reference, None),
        };
        self.withheld.insert(name.to_owned());
        match (self.environment.get(name), default) {
            (Some(value), _) => value.to_owned(),
            (None, Some(default)) => self.expand(default),
            (None, None) => {
                let problem = format!("the environment variable {name} is not set");
                self.missing.push(Fault::new("", problem, format!("set {name}, or take the provider out")));
                String::new()
            }
        }
    }
}

/// The text of a file. Devices and pipes may have no end, or wait for one who writes.
fn secret_in(path: &Path) -> io::Result<String> {
    let file = path.metadata()?;
    if !file.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if file.len() > MOST_FILE_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    lint::read_text(path)
}

/// Where the brace that opens at the text's start is closed again.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_missing_ones_noted() {
        let environment = Environment::of([("A", "1"), ("EMPTY", "")]);
        let mut expansion = Expansion::new(&environment);

        assert_eq!(expansion.expand("x${A}y${A}"), "x1y1");
        assert_eq!(expansion.expand("${B:-http://${A}}"), "http://1");
        assert_eq!(expansion.expand("$${A} $A {A}"), "${A} $A {A}");
        assert!(expansion.missing.is_empty());
        assert_eq!(expansion.withheld, ["A", "B"].map(str::to_owned).into());

        assert_eq!(expansion.expand_for_engine("${EMPTY}-${NOPE}"), "-");
        assert!(!expansion.withheld.contains("NOPE"), "it is in the engine's arguments");
        expansion.expand("${A");
        expansion.expand("${file:/does/not/exist}");
        assert_eq!(expansion.missing.len(), 4);
    }

    #[test]
    fn references_in_each_other_end_at_a_depth() {
        let nested = |depth: usize| format!("{}end{}", "${N:-".repeat(depth), "}".repeat(depth));
        let environment = Environment::of([("A", "1")]);
        let mut expansion = Expansion::new(&environment);
        assert_eq!(expansion.expand(&nested(DEEPEST)), "end");
        assert!(expansion.missing.is_empty());
        for text in [nested(DEEPEST + 1), nested(100_000), "${file:".repeat(100_000) + &"}".repeat(100_000)] {
            let mut expansion = Expansion::new(&environment);
            expansion.expand(&text);
            assert!(
                expansion.missing[0].to_string().contains("more than 16 deep"),
                "{}",
                expansion.missing[0]
            );
        }
        // Others beside it are as deep as before.
        assert_eq!(expansion.expand(&format!("{}{}", nested(DEEPEST), nested(DEEPEST))), "endend");
    }
}
