//! The tolerant reader of an upstream's JSON.
//!
//! Readers that skip a member accept more than readers that decode it. So a text that is refused is repaired and read once
//! more. Everything that reads an upstream's JSON does so by this.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use super::json_fault;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A text without the byte order mark that it may begin with.
pub fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// Reads JSON of an upstream, and once more repaired if it cannot be read.
///
/// # Errors
/// It cannot be read, repaired or not.
pub fn read_lenient<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| json_fault(&error)).or_else(|fault| {
        let repaired = repaired(json).ok_or_else(|| fault.clone())?;
        serde_json::from_slice(&repaired).map_err(|_| fault)
    })
}

/// A text with U+FFFD for each half of a surrogate pair and for bytes that are not UTF-8, escapes for control characters in
/// strings, and null for numbers that no double holds, NaN and Infinity among them. `None` if it has none of these.
pub fn repaired(json: &[u8]) -> Option<Vec<u8>> {
    let mut repair = Repair { json, at: 0, copied: 0, out: Vec::new() };
    while let Some(byte) = json.get(repair.at) {
        match byte {
            b'"' => repair.string(),
            b'-' | b'+' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => repair.word(),
            _ => repair.at += 1,
        }
    }
    let Repair { copied, mut out, .. } = repair;
    out.extend_from_slice(json.get(copied..)?);
    match String::from_utf8_lossy(&out) {
        Cow::Owned(text) => Some(text.into_bytes()),
        Cow::Borrowed(_) => (copied > 0).then_some(out),
    }
}

struct Repair<'a> {
    json: &'a [u8],
    at: usize,
    /// The text up to here is in `out`, repaired.
    copied: usize,
    out: Vec<u8>,
}

impl Repair<'_> {
    /// Puts `text` in the place of so many bytes that come next.
    fn replace(&mut self, bytes: usize, text: &[u8]) {
        self.out.extend_from_slice(self.json.get(self.copied..self.at).unwrap_or_default());
        self.out.extend_from_slice(text);
        self.at += bytes;
        self.copied = self.at;
    }

    fn string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.json.get(self.at) {
            match byte {
                b'"' => {
                    self.at += 1;
                    return;
                }
                b'\\' => self.escape(),
                control if *control < b' ' => {
                    self.replace(1, format!("\\u{control:04x}").as_bytes());
                }
                _ => self.at += 1,
            }
        }
    }

    fn escape(&mut self) {
        match (self.unit(self.at), self.unit(self.at + 6)) {
            (None, _) => self.at += 2,
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => self.at += 12,
            (Some(0xD800..=0xDFFF), _) => self.replace(6, b"\\ufffd"),
            (Some(_), _) => self.at += 6,
        }
    }

    /// The number of a `\u` escape.
    fn unit(&self, at: usize) -> Option<u16> {
        let digits = self.json.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
        u16::from_str_radix(digits, 16).ok()
    }

    /// A number or a word.
    fn word(&mut self) {
        let rest = self.json.get(self.at..).unwrap_or_default();
        let is_of_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
        let length = rest.iter().position(|byte| !is_of_word(byte)).unwrap_or(rest.len());
        let word = rest.get(..length).and_then(|word| std::str::from_utf8(word).ok());
        let number = word.and_then(|word| word.parse::<f64>().ok());
        if number.is_some_and(|number| !number.is_finite()) {
            self.replace(length, b"null");
        } else {
            self.at += length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn what_readers_stumble_over_is_put_right() {
        for (text, expected) in [
            (r#"{"a":"odd \ud83d end"}"#, json!({"a": "odd \u{fffd} end"})),
            (r#"["\udc00\ud83d\ude00\ud83d","\\ud83d"]"#, json!(["\u{fffd}\u{1f600}\u{fffd}", "\\ud83d"])),
            (r#"["\ud83d\n","\uD83D"]"#, json!(["\u{fffd}\n", "\u{fffd}"])),
            (r"[1e400,-1E+999,1.5]", json!([null, null, 1.5])),
            (
                r#"{"p":-Infinity,"q":NaN,"r":[Infinity],"NaN":"-Infinity NaN"}"#,
                json!({"p": null, "q": null, "r": [null], "NaN": "-Infinity NaN"}),
            ),
            ("[nan,inf,-inf,true,null]", json!([null, null, null, true, null])),
            ("[\"a\tb\u{1}\"]", json!(["a\tb\u{1}"])),
        ] {
            assert_eq!(read_lenient::<Value>(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_replaced() {
        assert_eq!(read_lenient::<Value>(b"{\"a\":\"caf\xE9\"}"), Ok(json!({"a": "caf\u{fffd}"})));
    }

    #[test]
    fn what_is_no_json_stays_none() {
        for text in ["", "<html>", "{\"a\":", "[NaN", "nul", "\"\\ud83d", "[\"\\u+123\"]"] {
            assert!(read_lenient::<Value>(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(without_byte_order_mark(b"\xEF\xBB\xBF{}"), b"{}");
    }

    proptest! {
        #[test]
        fn good_json_is_left_alone(text in "[\\PC\"\\\\\n]{0,12}", number in any::<f64>()) {
            let json = json!([text, number, {"a": text}]).to_string();
            prop_assert_eq!(repaired(json.as_bytes()), None);
        }

        #[test]
        fn any_text_gets_an_answer(text in prop::collection::vec(any::<u8>(), 0..64)) {
            repaired(&text);
        }
    }
}
