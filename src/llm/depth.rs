//! How deeply JSON may be nested, wherever it comes from.
//!
//! `serde_json` passes over values that it need not understand at any depth. Servers and clients behind this gateway
//! read them by recursion, so a text of some hundred kilobytes would end them.

use std::ops::Range;

use memchr::{memchr2, memchr2_iter};

/// Lists and objects within each other.
pub const MAX_JSON_DEPTH: usize = 128;

/// Why a text is refused that is nested more deeply.
pub const TOO_DEEP: &str = "lists and objects are nested more than 128 levels deep";

/// Whether a JSON text is nested more deeply than [`MAX_JSON_DEPTH`]. The text need not be valid.
pub fn is_too_deep(json: &[u8]) -> bool {
    is_too_deep_around(json, &[])
}

/// The same, for a text of which the ranges are known to be strings. They are in order and do not overlap.
pub fn is_too_deep_around(json: &[u8], strings: &[Range<usize>]) -> bool {
    opens_many(json, strings) && depth_exceeds(json, MAX_JSON_DEPTH)
}

/// Whether one of the events of a run is nested too deeply. No event contains a line end.
pub(super) fn has_deep_line(run: &[u8]) -> bool {
    // A valid event needs two bytes for a level.
    run.len() > 2 * MAX_JSON_DEPTH
        && opens_many(run, &[])
        && run.split(|byte| *byte == b'\n').any(|line| depth_exceeds(line, MAX_JSON_DEPTH))
}

/// The cheap question: whether there are enough opening brackets at all. Brackets within strings count, too.
fn opens_many(json: &[u8], strings: &[Range<usize>]) -> bool {
    let starts = std::iter::once(0).chain(strings.iter().map(|string| string.end));
    let ends = strings.iter().map(|string| string.start).chain([json.len()]);
    let parts = starts.zip(ends).filter_map(|(start, end)| json.get(start..end));
    parts.flat_map(|part| memchr2_iter(b'[', b'{', part)).nth(MAX_JSON_DEPTH).is_some()
}

/// The exact question.
fn depth_exceeds(json: &[u8], most: usize) -> bool {
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(byte) = json.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > most {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = end_of_string(json, at),
            _ => {}
        }
    }
    false
}

/// Behind the quote that closes the string that begins at `at`.
fn end_of_string(json: &[u8], mut at: usize) -> usize {
    while let Some(found) = memchr2(b'"', b'\\', json.get(at..).unwrap_or_default()) {
        at += found;
        if json.get(at) == Some(&b'"') {
            return at + 1;
        }
        at += 2;
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn nested(open: &str, close: &str, depth: usize) -> String {
        format!("{}1{}", open.repeat(depth), close.repeat(depth))
    }

    #[test]
    fn a_hundred_and_twenty_eight_levels_are_the_most() {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"a":["#, "]}]"), ("[ \n", "\t]")] {
            let levels = open.matches(['[', '{']).count();
            let most = MAX_JSON_DEPTH / levels;
            assert!(!is_too_deep(nested(open, close, most).as_bytes()), "{open}");
            assert!(is_too_deep(nested(open, close, most + 1).as_bytes()), "{open}");
            assert!(is_too_deep(nested(open, close, 200_000).as_bytes()), "{open}");
        }
    }

    #[test]
    fn brackets_in_strings_are_no_levels() {
        for text in [
            format!(r#"{{"content":"{}"}}"#, "[{".repeat(10_000)),
            format!(r#"["\"{}","\\"]"#, "[".repeat(1000)),
            format!("[{}]", "[],{},".repeat(1000)),
        ] {
            assert!(!is_too_deep(text.as_bytes()));
        }
        // They hide none either.
        let hidden = format!(r#"{{"a":"]]]]\\","b":{}}}"#, nested(r#"["]}",{"x]":"#, "}]", 65));
        assert!(is_too_deep(hidden.as_bytes()));
    }

    #[test]
    fn strings_that_are_known_are_passed_over() {
        let text = format!(r#"{{"a":"{}","b":{}}}"#, "[".repeat(500), nested("[", "]", 200));
        let string = 5..5 + 502;
        assert_eq!(text.get(string.clone()).map(|string| string.ends_with("[\"")), Some(true));
        assert!(is_too_deep_around(text.as_bytes(), std::slice::from_ref(&string)));
        let text = format!(r#"{{"a":"{}","b":{}}}"#, "[".repeat(500), nested("[", "]", 100));
        assert!(!is_too_deep_around(text.as_bytes(), &[string]));
    }

    #[test]
    fn events_of_a_run_are_looked_at_one_by_one() {
        let shallow = "data: {\"choices\":[{\"delta\":{\"content\":\"[\"}}]}\n\n".repeat(500);
        assert!(!has_deep_line(shallow.as_bytes()));
        let deep = format!("{shallow}data: {}\n\n{shallow}", nested(r#"{"x":"#, "}", 129));
        assert!(has_deep_line(deep.as_bytes()));
        // What one event opens does not count for the next.
        let broken = "data: {\"choices\":[{\"delta\":\n\n".repeat(500);
        assert!(!has_deep_line(broken.as_bytes()));
    }

    proptest! {
        #[test]
        fn the_depth_is_the_one_that_a_parser_finds(value in any_json()) {
            let text = value.to_string();
            let depth = depth_of(&value);
            prop_assert!(!depth_exceeds(text.as_bytes(), depth));
            prop_assert!(depth == 0 || depth_exceeds(text.as_bytes(), depth - 1));
        }

        #[test]
        fn any_text_gets_an_answer(text in r#"[\[\]{}"\\a]{0,600}"#) {
            is_too_deep(text.as_bytes());
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let text = r#"[\[\]{}"\\a]{0,6}"#;
        let leaf = prop_oneof![Just(Value::Null), text.prop_map(Value::from)];
        leaf.prop_recursive(8, 64, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((text, inner), 0..4)
                    .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    fn depth_of(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
            Value::Object(members) => 1 + members.values().map(depth_of).max().unwrap_or(0),
            _ => 0,
        }
    }
}
