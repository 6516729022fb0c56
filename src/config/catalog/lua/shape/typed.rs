//! Values of Lua tables by their kinds, and the faults among them.

use std::collections::BTreeSet;

use mlua::{LuaString, Table, Value};

use crate::config::{ConfigError, Fault};
use crate::lint::nearest;

/// A table, and what leads to it.
pub(super) struct At {
    pub(super) table: Table,
    pub(super) path: String,
}

impl At {
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A member; one that cannot be had is as good as none.
    pub(super) fn get(&self, key: &str) -> Value {
        self.table.get(key).unwrap_or(Value::Nil)
    }
}

/// A kind of value, by Lua's name for it.
pub(super) struct Kind<T> {
    name: &'static str,
    read: fn(&Value) -> Option<T>,
}

pub(super) const TEXT: Kind<String> =
    Kind { name: "string", read: |value| value.as_string().map(LuaString::to_string_lossy) };
pub(super) const TABLE: Kind<Table> = Kind { name: "table", read: |value| value.as_table().cloned() };
pub(super) const BOOLEAN: Kind<bool> = Kind { name: "boolean", read: Value::as_boolean };
const NUMBER: Kind<f64> = Kind { name: "number", read: number };

#[expect(clippy::cast_precision_loss, reason = "no number here is near to 2 to the power of 53")]
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_i64().map(|whole| whole as f64))
}

/// How much is read. A small program can name one long text a million times.
const MOST_BYTES: usize = 8 << 20;

/// How many slips are pointed out.
const MOST_WARNINGS: usize = 100;

/// Collects faults, so that all of them are told at once.
pub(super) struct Checked<'a> {
    bytes_left: usize,
    file: &'a str,
    faults: Vec<Fault>,
    warnings: Vec<String>,
    told: BTreeSet<String>,
}

impl<'a> Checked<'a> {
    pub(super) fn new(file: &'a str) -> Self {
        Self { bytes_left: MOST_BYTES, file, faults: Vec::new(), warnings: Vec::new(), told: BTreeSet::new() }
    }

    /// The warnings.
    ///
    /// # Errors
    /// All faults, if there are any.
    pub(super) fn finish(self) -> Result<Vec<String>, ConfigError> {
        if self.faults.is_empty() { Ok(self.warnings) } else { Err(self.faults.into()) }
    }

    /// How many there are so far.
    pub(super) fn faults(&self) -> usize {
        self.faults.len()
    }

    pub(super) fn fault(&mut self, words: String, cure: &str) {
        if self.has_room_for(words.len()) {
            self.faults.push(Fault::new(self.file, words, cure));
        }
    }

    pub(super) fn warn(&mut self, words: &str) {
        self.warnings.push(format!("{}: {words}", self.file));
    }

    /// Whether there is room for this many more bytes. Where there is none, that is the last fault that is told.
    pub(super) fn has_room_for(&mut self, bytes: usize) -> bool {
        let Some(left) = self.bytes_left.checked_sub(bytes) else {
            if self.bytes_left > 0 {
                self.bytes_left = 0;
                self.faults.push(Fault::new(
                    self.file,
                    format!("it sets more than {} MiB of values", MOST_BYTES >> 20),
                    "look for huge texts and tables in this file",
                ));
            }
            return false;
        };
        self.bytes_left = left;
        left > 0
    }

    pub(super) fn missing(&mut self, path: &str) {
        self.fault(format!("Configuration error: missing required field '{path}'"), "add it");
    }

    pub(super) fn wrong_type(&mut self, path: &str, expected: &str, value: &Value) {
        let got = match value {
            Value::Integer(_) => "number",
            other => other.type_name(),
        };
        let words = format!("Configuration error at '{path}': expected {expected}, got {got}");
        self.fault(words, &format!("give a {expected}"));
    }

    pub(super) fn optional<T>(&mut self, at: &At, key: &str, kind: &Kind<T>) -> Option<T> {
        let value = at.get(key);
        if value.is_nil() {
            return None;
        }
        if !self.has_room_for(size_of(&value)) {
            return None;
        }
        let read = (kind.read)(&value);
        if read.is_none() {
            self.wrong_type(&at.path_of(key), kind.name, &value);
        }
        read
    }

    pub(super) fn required<T>(&mut self, at: &At, key: &str, kind: &Kind<T>) -> Option<T> {
        if at.get(key).is_nil() {
            self.missing(&at.path_of(key));
        }
        self.optional(at, key, kind)
    }

    pub(super) fn seconds(&mut self, at: &At, key: &str) -> Option<f64> {
        let seconds = self.optional(at, key, &NUMBER)?;
        if seconds > 0.0 {
            return Some(seconds);
        }
        let path = at.path_of(key);
        let words = format!("Configuration error at '{path}': must be a positive number, got {seconds}");
        self.fault(words, "give seconds, more than 0");
        None
    }

    pub(super) fn required_seconds(&mut self, at: &At, key: &str) -> Option<f64> {
        if at.get(key).is_nil() {
            self.missing(&at.path_of(key));
        }
        self.seconds(at, key)
    }

    /// A whole number, from `least`.
    pub(super) fn count(&mut self, at: &At, key: &str, least: u64) -> Option<u64> {
        let number = self.optional(at, key, &NUMBER)?;
        // Without its sign and a fraction, the text of a number is that of a count.
        let count = Some(number).filter(|number| number.fract() == 0.0);
        let count = count.and_then(|number| format!("{number:.0}").parse().ok()).filter(|n| *n >= least);
        if count.is_none() {
            let path = at.path_of(key);
            let words = format!("Configuration error at '{path}': must be a positive number, got {number}");
            self.fault(words, &format!("give a whole number from {least}"));
        }
        count
    }

    pub(super) fn required_count(&mut self, at: &At, key: &str, least: u64) -> Option<u64> {
        if at.get(key).is_nil() {
            self.missing(&at.path_of(key));
        }
        self.count(at, key, least)
    }

    /// A list of texts, among which numbers may stand: `{ "-c", 4096 }`.
    pub(super) fn texts(&mut self, at: &At, key: &str) -> Vec<String> {
        let Some(table) = self.optional(at, key, &TABLE) else { return Vec::new() };
        let mut texts = Vec::new();
        for (index, value) in table.sequence_values::<Value>().enumerate() {
            if !self.has_room_for(value.as_ref().map_or(0, size_of)) {
                break;
            }
            match value {
                Ok(Value::String(text)) => texts.push(text.to_string_lossy()),
                Ok(Value::Integer(number)) => texts.push(number.to_string()),
                Ok(Value::Number(number)) => texts.push(number.to_string()),
                other => {
                    let path = format!("{}[{}]", at.path_of(key), index + 1);
                    self.wrong_type(&path, "string", &other.unwrap_or(Value::Nil));
                }
            }
        }
        texts
    }

    pub(super) fn required_texts(&mut self, at: &At, key: &str) -> Vec<String> {
        if at.get(key).is_nil() {
            self.missing(&at.path_of(key));
        }
        self.texts(at, key)
    }

    /// Keys that nobody reads may be slips. They have never been errors in such files.
    pub(super) fn unknown_keys(&mut self, at: &At, known: &[&str]) {
        let pairs = at.table.pairs::<Value, Value>().filter_map(Result::ok);
        let names = pairs.filter_map(|(key, _)| key.as_string().map(LuaString::to_string_lossy));
        let mut unknown: Vec<String> = names.filter(|name| !known.contains(&name.as_str())).collect();
        unknown.sort();
        for name in unknown {
            if self.warnings.len() >= MOST_WARNINGS || !self.told.insert(name.clone()) {
                continue;
            }
            let hint = nearest(&name, known.iter().copied())
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            self.warn(&format!("`{}` has no effect{hint}", at.path_of(&name)));
        }
    }
}

/// What reading a value takes, about.
fn size_of(value: &Value) -> usize {
    64 + value.as_string().map_or(0, |text| text.as_bytes().len())
}
