//! Values of an older file by their kinds, and what is wrong with them.

use serde_json::{Map, Value};

use crate::config::{ConfigError, Fault};
use crate::lint::did_you_mean;

/// A text of the file is repeated up to here.
const MOST_SHOWN: usize = 60;

/// An object of the file, and what leads to it.
#[derive(Clone, Debug)]
pub(super) struct At<'v> {
    pub(super) members: &'v Map<String, Value>,
    pub(super) place: String,
}

/// Collects faults, so that all of them are told at once.
pub(super) struct Findings<'a> {
    file: &'a str,
    faults: Vec<Fault>,
    warnings: Vec<String>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(file: &'a str) -> Self {
        Self { file, faults: Vec::new(), warnings: Vec::new() }
    }

    /// The warnings.
    ///
    /// # Errors
    /// All faults, if there are any.
    pub(super) fn finish(self) -> Result<Vec<String>, ConfigError> {
        if self.faults.is_empty() { Ok(self.warnings) } else { Err(self.faults.into()) }
    }

    /// Takes over what was found in another file.
    pub(super) fn add(&mut self, others: Findings<'_>) {
        self.faults.extend(others.faults);
        self.warnings.extend(others.warnings);
    }

    pub(super) fn fault(&mut self, place: &str, problem: &str, cure: &str) {
        let place = if place.is_empty() { self.file.to_owned() } else { format!("{}: {place}", self.file) };
        self.told(Fault::new(place, problem, cure));
    }

    pub(super) fn told(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(super) fn warn(&mut self, place: &str, words: &str) {
        self.warnings.push(format!("{}: {place}: {words}", self.file));
    }

    pub(super) fn object<'v>(&mut self, place: String, value: &'v Value) -> Option<At<'v>> {
        match value {
            Value::Object(members) => Some(At { members, place }),
            other => {
                self.fault(&place, &format!("this is {}, not an object", kind(other)), "give an object");
                None
            }
        }
    }

    /// The members of a list; none of one that is not there.
    pub(super) fn list<'v>(&mut self, at: &At<'v>, key: &str) -> &'v [Value] {
        match at.members.get(key) {
            None | Some(Value::Null) => &[],
            Some(Value::Array(members)) => members,
            Some(other) => {
                self.wrong_kind(at, key, kind(other), "a list");
                &[]
            }
        }
    }

    /// Whether a member is there that has to be.
    pub(super) fn requires(&mut self, at: &At<'_>, key: &str, cure: &str) -> bool {
        let blank = |value: &Value| value.as_str().is_some_and(|text| text.trim().is_empty());
        let is_there = at.members.get(key).is_some_and(|value| !value.is_null() && !blank(value));
        if !is_there {
            self.fault(&at.place, &format!("`{key}` is missing"), cure);
        }
        is_there
    }

    /// A text; one that is empty or blank is as good as none.
    pub(super) fn text<'v>(&mut self, at: &At<'v>, key: &str) -> Option<&'v str> {
        match at.members.get(key)? {
            Value::Null => None,
            Value::String(text) => Some(text.trim()).filter(|text| !text.is_empty()),
            other => {
                self.wrong_kind(at, key, kind(other), "a text");
                None
            }
        }
    }

    pub(super) fn flag(&mut self, at: &At<'_>, key: &str) -> Option<bool> {
        match at.members.get(key)? {
            Value::Null => None,
            Value::Bool(flag) => Some(*flag),
            other => {
                self.wrong_kind(at, key, kind(other), "true or false");
                None
            }
        }
    }

    /// A number, also one that stands as a text.
    pub(super) fn number(&mut self, at: &At<'_>, key: &str) -> Option<f64> {
        self.read(at, key, "a number", |value| {
            let number = match value {
                Value::String(text) => text.trim().parse().ok(),
                other => other.as_f64(),
            };
            number.filter(|number| number.is_finite())
        })
    }

    /// The same, as the file has it: a whole one stays whole.
    pub(super) fn number_as_stated(&mut self, at: &At<'_>, key: &str) -> Option<Value> {
        let number = self.number(at, key)?;
        let stated = at.members.get(key).filter(|value| value.is_number());
        Some(stated.cloned().unwrap_or_else(|| number.into()))
    }

    /// A whole number from 0, also one that stands as a text.
    pub(super) fn count(&mut self, at: &At<'_>, key: &str) -> Option<u64> {
        self.read(at, key, "a whole number from 0", |value| match value {
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_u64(),
        })
    }

    fn read<T>(
        &mut self,
        at: &At<'_>,
        key: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = at.members.get(key).filter(|value| !value.is_null())?;
        let read = read(value);
        if read.is_none() {
            let shown = match value {
                Value::String(text) => format!("the text `{}`", shown(text)),
                Value::Number(number) => number.to_string(),
                other => kind(other).to_owned(),
            };
            self.wrong_kind(at, key, &shown, expected);
        }
        read
    }

    fn wrong_kind(&mut self, at: &At<'_>, key: &str, found: &str, expected: &str) {
        let problem = format!("`{key}` is {found}, not {expected}");
        self.fault(&at.place, &problem, &format!("give {expected}"));
    }

    pub(super) fn unknown_keys(&mut self, at: &At<'_>, known: &[&str]) {
        // Anywhere in a file of ours, and in those of others.
        for key in at.members.keys().filter(|key| *key != "comment" && !known.contains(&key.as_str())) {
            let problem = format!("the key `{}` is not known here", shown(key));
            self.fault(&at.place, &problem, &did_you_mean(key, known.iter().copied()));
        }
    }

    /// The address of a server. It may be made of references, and then nothing can be said of it here.
    pub(super) fn address<'v>(&mut self, at: &At<'v>, key: &str) -> Option<&'v str> {
        let text = self.text(at, key)?;
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let host = rest.split('/').next().unwrap_or_default();
        let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        let is_address =
            is_http && !host.is_empty() && !rest.contains(|c: char| c.is_whitespace() || "?#@".contains(c));
        if is_address || text.contains("${") {
            return Some(text);
        }
        // It is not repeated: it may hold a key.
        let problem = format!("`{key}` is no address of an HTTP server");
        self.fault(&at.place, &problem, "give http://host:port, or https");
        None
    }
}

/// A text of the file for a message.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(MOST_SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
