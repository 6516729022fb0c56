//! How much memory JSON takes once it is read, which may be many times its length.

use std::io::{self, Write};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::read_lenient;

/// A whole answer beyond this is refused, whether it came whole or was folded. (A large batch of embeddings comes to tens
/// of megabytes.)
pub const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Texts that are no longer than this become no larger than what may be kept anyway.
const SMALL_BYTES: usize = 256 * 1024;

/// Reads JSON that becomes values, each of which takes more memory than it has letters.
///
/// # Errors
/// It cannot be read, or would take too much.
pub fn read_within<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    let takes = |values: usize| json.len() + values * size_of::<Value>();
    let is_in_doubt = json.len() > SMALL_BYTES && takes(letters(json)) > MAX_ANSWER_BYTES;
    if is_in_doubt && takes(values(json)) > MAX_ANSWER_BYTES {
        return Err(too_long());
    }
    read_lenient(json)
}

pub(super) fn too_long() -> String {
    format!("its answer is longer than {MAX_ANSWER_BYTES} bytes")
}

/// No text has more values than these letters, for before each of them there is one.
fn letters(json: &[u8]) -> usize {
    memchr::memchr3_iter(b',', b'[', b'{', json).count()
}

/// The same without those letters that stand in strings.
fn values(json: &[u8]) -> usize {
    let (mut count, mut is_string, mut is_escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_string,
            b'"' => is_string = !is_string,
            b',' | b'[' | b'{' if !is_string => count += 1,
            _ => {}
        }
    }
    count
}

/// Lists and maps have room for so many, if there is anything in them.
const LEAST_ROOM: usize = 4;

/// About what a value takes.
pub(super) fn of(value: &Value) -> usize {
    let inner = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => {
            let spare = LEAST_ROOM.saturating_sub(items.len()).min(items.len() * LEAST_ROOM);
            items.iter().map(of).sum::<usize>() + spare * size_of::<Value>()
        }
        Value::Object(members) => of_members(members),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    size_of::<Value>() + inner
}

/// About what members take: with each of them goes its hash, and its place in an index.
pub(super) fn of_members(members: &Map<String, Value>) -> usize {
    let one = size_of::<String>() + size_of::<Value>() + 2 * size_of::<usize>();
    let spare = LEAST_ROOM.saturating_sub(members.len()).min(members.len() * LEAST_ROOM);
    let inner = |(name, value): (&String, &Value)| name.len() + of(value) - size_of::<Value>();
    members.iter().map(inner).sum::<usize>() + (members.len() + spare) * one
}

/// The JSON of an object, which some texts make many times longer.
///
/// # Errors
/// It is too long.
pub(super) fn written(members: &Map<String, Value>) -> Result<Bytes, String> {
    let mut json = Bounded(Vec::with_capacity(1024));
    serde_json::to_writer(&mut json, members).map_err(|_| too_long())?;
    Ok(json.0.into())
}

/// Takes so many bytes and no more.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_ANSWER_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
