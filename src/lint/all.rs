//! All faults of a text, where a reader stops at the first: what is at fault is left out, and the rest is read again.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::read::{Misread, Syntax, read};

/// Nobody mends more at once.
const MOST_MISREADS: usize = 50;

/// A text that was read as far as that goes.
#[derive(Clone, Debug)]
pub struct Readable<T> {
    /// Whole, if there are no faults. Otherwise without what is at fault: good for finding more, and for nothing else.
    pub value: Option<T>,
    /// All that is wrong, in the order of the text. The first one has a line.
    pub misreads: Vec<Misread>,
    /// The names in what was left out.
    pub left_out: Vec<String>,
}

/// Reads a text, with all its faults.
pub fn read_all<T: DeserializeOwned>(syntax: Syntax, text: &str) -> Readable<T> {
    let first = match read(syntax, text) {
        Ok(value) => return Readable { value: Some(value), misreads: Vec::new(), left_out: Vec::new() },
        Err(misread) => misread,
    };
    let mut judged = Readable { value: None, misreads: vec![first], left_out: Vec::new() };
    // A text that is none of its form says nothing more.
    let Ok(mut rest) = read::<Value>(syntax, text) else { return judged };
    let mut is_first = true;
    while judged.misreads.len() <= MOST_MISREADS {
        let misread = match read(Syntax::Json, &rest.to_string()) {
            Ok(value) => {
                judged.value = Some(value);
                break;
            }
            Err(misread) => misread,
        };
        let path = misread.path.clone();
        // The first one is known, with its line. Not so what only the text can have, such as a key that stands twice.
        let is_known = is_first && judged.misreads.iter().any(|known| known.path == path);
        if !is_known {
            judged.misreads.push(Misread { line: None, ..misread });
        }
        is_first = false;
        match take_out(&mut rest, &path) {
            Some((name, value)) => {
                judged.left_out.push(name);
                add_names(&value, &mut judged.left_out);
            }
            None => break,
        }
    }
    judged
}

/// Takes the member at a path out of a value: its name, and what it was. Keys may have dots in them, so whatever key
/// leads on is tried. Of a list the whole is taken, so that the others keep their numbers.
fn take_out(value: &mut Value, path: &str) -> Option<(String, Value)> {
    let members = match value {
        Value::Object(members) => members,
        Value::Array(items) => {
            let (number, rest) = path.strip_prefix('[')?.split_once(']')?;
            return take_out(items.get_mut(number.parse::<usize>().ok()?)?, rest.strip_prefix('.')?);
        }
        _ => return None,
    };
    let leads_on = |key: &&String| path.strip_prefix(key.as_str()).is_some();
    let mut keys: Vec<String> = members.keys().filter(leads_on).cloned().collect();
    keys.sort_by_key(|key| std::cmp::Reverse(key.len()));
    for key in keys {
        let rest = path.strip_prefix(key.as_str())?;
        let taken = match (rest.strip_prefix('.'), members.get_mut(&key)?) {
            (Some(rest), child) => take_out(child, rest),
            (None, child) if rest.starts_with('[') => match take_out(child, rest) {
                Some(taken) => Some(taken),
                None => members.shift_remove(&key).map(|value| (key, value)),
            },
            (None, _) if rest.is_empty() => members.shift_remove(&key).map(|value| (key, value)),
            (None, _) => None,
        };
        if taken.is_some() {
            return taken;
        }
    }
    None
}

fn add_names(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                names.push(name.clone());
                add_names(value, names);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| match item {
            Value::String(name) => names.push(name.clone()),
            item => add_names(item, names),
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::Object;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Outer {
        number: u32,
        list: Vec<Object<Inner>>,
        inner: BTreeMap<String, Object<Inner>>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        word: String,
    }

    type Places = Vec<(String, Option<usize>)>;

    fn judged(syntax: Syntax, text: &str) -> (Places, Readable<Object<Outer>>) {
        let judged = read_all::<Object<Outer>>(syntax, text);
        (judged.misreads.iter().map(|misread| (misread.path.clone(), misread.line)).collect(), judged)
    }

    #[test]
    fn each_fault_is_found_and_what_is_good_is_read() {
        let text = r#"{"number": -1,
            "inner": {"a.b": {"word": "x", "wrod": "y"}, "a": {"word": 3}, "c": 7, "d": {"word": "kept"}},
            "list": [{"word": "kept"}, {"owrd": 1}, {"word": []}],
            "unknown": {"one": ["two"]}}"#;
        let (places, judged) = judged(Syntax::Json, text);
        let paths: Vec<&str> = places.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "number",
                "inner.a.b.wrod",
                "inner.a.word",
                "inner.c",
                "list[1].owrd",
                "list[2].word",
                "unknown"
            ]
        );
        assert_eq!(places[0].1, Some(1));
        let Object(value) = judged.value.unwrap();
        assert_eq!((value.inner["d"].0.word.as_str(), value.inner.len()), ("kept", 3));
        assert_eq!((value.list[0].0.word.as_str(), value.list.len()), ("kept", 3));
        for name in ["wrod", "c", "unknown", "one", "two"] {
            assert!(judged.left_out.iter().any(|left_out| left_out == name), "{name}");
        }
    }

    #[test]
    fn yaml_is_no_worse() {
        let (places, judged) = judged(Syntax::Yaml, "number: x\ninner:\n  a:\n    wrod: 1\nlist: 3\n");
        assert_eq!(
            places,
            [("number".to_owned(), Some(1)), ("inner.a.wrod".to_owned(), None), ("list".to_owned(), None)]
        );
        assert!(judged.value.is_some());
    }

    #[test]
    fn what_is_no_text_of_its_form_has_one_fault() {
        for (syntax, text) in [(Syntax::Json, "{\"number\": "), (Syntax::Yaml, "a: [\n"), (Syntax::Json, "7")]
        {
            let (places, judged) = judged(syntax, text);
            assert!(places.len() == 1 && judged.value.is_none(), "{text}: {places:?}");
        }
    }
}
