//! JSON and YAML into values, with faults that say where, what and how to mend it: the same words for both.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};

use super::did_you_mean;

/// The two forms in which operators write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// As machines like it.
    Json,
    /// As people like it.
    Yaml,
}

/// Why a text could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misread {
    /// The keys that lead to the place, with dots between; empty at the top.
    pub path: String,
    /// The line, counted from 1.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: String,
    /// What would mend it.
    pub cure: String,
}

/// A value that is written as an object. By itself, serde takes a list for one, too.
#[derive(Clone, Debug, Default)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

/// What the parsers complain of, before it is put into words.
enum Complaint {
    UnknownKey {
        key: String,
        known: Vec<String>,
    },
    WrongKind {
        found: Option<String>,
        expected: String,
    },
    Twice(Option<String>),
    /// A reader of ours has spoken: the problem, a semicolon, the cure.
    Ours(String),
    /// The text is no text of its form.
    Form(String),
}

/// Reads a text.
///
/// # Errors
/// The first fault.
pub fn read<T: DeserializeOwned>(syntax: Syntax, text: &str) -> Result<T, Misread> {
    match syntax {
        Syntax::Json => read_json(text),
        Syntax::Yaml => read_yaml(text),
    }
}

fn read_json<T: DeserializeOwned>(text: &str) -> Result<T, Misread> {
    let fault = |path: &str, error: &serde_json::Error| {
        let line = Some(error.line()).filter(|line| *line > 0);
        json_complaint(error).in_words(path, line, Syntax::Json)
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| fault(&error.path().to_string(), error.inner()))?;
    deserializer.end().map_err(|error| fault("", &error))?;
    Ok(value)
}

fn json_complaint(error: &serde_json::Error) -> Complaint {
    let whole = error.to_string();
    let message = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(message, _)| message);
    if !error.is_data() {
        return Complaint::Form(message.to_owned());
    }
    if message.starts_with("unknown field") {
        let mut words = message.split('`').skip(1).step_by(2).map(str::to_owned);
        let key = words.next().unwrap_or_default();
        return Complaint::UnknownKey { key, known: words.collect() };
    }
    let kind = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    match kind.and_then(|kind| kind.rsplit_once(", expected ")) {
        Some((found, expected)) => {
            Complaint::WrongKind { found: Some(found.to_owned()), expected: expected.to_owned() }
        }
        None => Complaint::Ours(message.to_owned()),
    }
}

fn read_yaml<T: DeserializeOwned>(text: &str) -> Result<T, Misread> {
    let mut path = String::new();
    let read = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            path = error.path().to_string();
            error.into_inner()
        })
    });
    read.map_err(|error| {
        let line = error.location().and_then(|location| usize::try_from(location.line()).ok());
        yaml_complaint(&error).in_words(&path, line.filter(|line| *line > 0), Syntax::Yaml)
    })
}

fn yaml_complaint(error: &serde_saphyr::Error) -> Complaint {
    use serde_saphyr::Error;
    match error.without_snippet() {
        Error::SerdeUnknownField { field, expected, .. } => Complaint::UnknownKey {
            key: field.clone(),
            known: expected.iter().map(|known| (*known).to_owned()).collect(),
        },
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            Complaint::WrongKind { found: Some(unexpected.clone()), expected: expected.clone() }
        }
        Error::InvalidScalar { ty, .. } => Complaint::WrongKind { found: None, expected: (*ty).to_owned() },
        Error::Unexpected { expected, .. } => {
            Complaint::WrongKind { found: None, expected: (*expected).to_owned() }
        }
        Error::NonFiniteFloat { value, .. } => {
            Complaint::WrongKind { found: Some(format!("`{value}`")), expected: "f64".to_owned() }
        }
        Error::NullIntoString { .. } => {
            Complaint::WrongKind { found: Some("null".to_owned()), expected: "a string".to_owned() }
        }
        Error::DuplicateMappingKey { key, .. } => Complaint::Twice(key.clone()),
        Error::MultipleDocuments { .. } => {
            Complaint::Form("a second document begins, after a line `---`".to_owned())
        }
        Error::Budget { .. } => Complaint::Form("it is too large, or nested too deep".to_owned()),
        Error::Message { msg, .. } => Complaint::Ours(msg.clone()),
        other => {
            // The text may go on with an excerpt of the file, in which a key can stand.
            let whole = other.to_string();
            let first = whole.lines().next().unwrap_or_default();
            // The line is told apart.
            let message = first.rsplit_once(" at line ").map_or(first, |(message, _)| message);
            Complaint::Form(message.to_owned())
        }
    }
}

impl Complaint {
    fn in_words(self, path: &str, line: Option<usize>, syntax: Syntax) -> Misread {
        let path =
            if matches!(path, "." | "?") { String::new() } else { path.trim_end_matches(".?").to_owned() };
        let (path, problem, cure) = match self {
            Self::UnknownKey { key, known } => {
                let cure = did_you_mean(&key, known.iter().map(String::as_str));
                (with_key(path, &key), format!("the key `{key}` is not known here"), cure)
            }
            Self::WrongKind { found, expected } => {
                let (found, expected) = (found.as_deref().map(found_in_words), expected_in_words(&expected));
                let problem = found.map_or_else(
                    || format!("this is not {expected}"),
                    |found| format!("this is {found}, not {expected}"),
                );
                (path, problem, format!("give {expected}"))
            }
            Self::Twice(key) => {
                let key = key.map_or_else(|| "a key".to_owned(), |key| format!("`{key}`"));
                (path, format!("{key} stands twice"), "take one of the two out".to_owned())
            }
            Self::Ours(words) => {
                let (problem, cure) = words.split_once("; ").unwrap_or((&words, "correct it"));
                (path, problem.to_owned(), cure.to_owned())
            }
            Self::Form(problem) => (path, form_in_words(&problem, syntax), form_cure(syntax).to_owned()),
        };
        Misread { path, line, problem, cure }
    }
}

fn with_key(path: String, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else if path.ends_with(&format!(".{key}")) || path == key {
        path
    } else {
        format!("{path}.{key}")
    }
}

fn form_in_words(problem: &str, syntax: Syntax) -> String {
    let form = match syntax {
        Syntax::Json => "JSON",
        Syntax::Yaml => "YAML",
    };
    let problem = match problem.strip_prefix("EOF while parsing ") {
        Some("a value") => "the text ends where a value should stand".to_owned(),
        Some(what) => format!("the text ends within {what}"),
        None => problem.to_owned(),
    };
    format!("this is not {form}: {problem}")
}

fn form_cure(syntax: Syntax) -> &'static str {
    match syntax {
        Syntax::Json => "look at the commas, brackets and quotes before this place",
        Syntax::Yaml => "look at the indentation, the brackets and the quotes before this place",
    }
}

/// What serde calls a value.
fn found_in_words(found: &str) -> String {
    match found {
        "map" => "an object".to_owned(),
        "sequence" | "seq" => "a list".to_owned(),
        "null" | "unit value" | "unit" | "Option value" => "empty".to_owned(),
        _ => match found.split_once(' ') {
            Some(("string" | "str", text)) => format!("the text {text}"),
            // Such as ``integer `7` ``.
            _ => found.split('`').nth(1).unwrap_or(found).to_owned(),
        },
    }
}

/// What serde calls a kind of value.
/// What serde expects, in the words of people.
pub fn expected_in_words(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" | "unsigned integer" => "a whole number from 0",
        "i8" | "i16" | "i32" | "i64" | "isize" | "integer" | "signed integer" => "a whole number",
        "f32" | "f64" | "float" | "floating point" => "a number",
        "a string" | "string" | "string scalar" | "str" => "a text",
        "a boolean" | "bool" | "boolean" => "true or false",
        "a sequence" | "sequence" | "sequence start" => "a list",
        "a map" | "map" | "mapping" | "mapping start" => "an object",
        _ if expected.starts_with("struct ") => "an object",
        _ => expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(default)]
        #[expect(dead_code, reason = "only whether it can be read is of interest")]
        inner: BTreeMap<String, Object<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    #[derive(Default)]
    struct Inner {
        size: Option<u64>,
        rank: Option<i32>,
        share: Option<f64>,
        name: Option<String>,
        names: Vec<String>,
    }

    /// The same fault in both forms, and what is said of it.
    const FAULTS: &[(&str, &str, &str, &str)] = &[
        (
            r#"{"inner": {"a": {"siez": 1}}}"#,
            "inner.a.siez",
            "`siez` is not known here",
            "did you mean `size`?",
        ),
        (
            r#"{"inner": {"a": {"x": 1}}}"#,
            "inner.a.x",
            "`x` is not known",
            "known here are size, rank, share, name, names",
        ),
        (r#"{"iner": {}}"#, "iner", "not known", "did you mean `inner`?"),
        (
            r#"{"inner": {"a": {"size": "big"}}}"#,
            "inner.a.size",
            "not a whole number from 0",
            "give a whole number from 0",
        ),
        (r#"{"inner": {"a": {"rank": "x"}}}"#, "inner.a.rank", "not a whole number", "give a whole number"),
        (r#"{"inner": {"a": {"share": "x"}}}"#, "inner.a.share", "not a number", "give a number"),
        (r#"{"inner": {"a": {"name": [1]}}}"#, "inner.a.name", "not a text", "give a text"),
        (r#"{"inner": {"a": {"names": "x"}}}"#, "inner.a.names", "not a list", "give a list"),
        (r#"{"inner": {"a": [1]}}"#, "inner.a", "not an object", "give an object"),
        ("[]", "", "not an object", "give an object"),
    ];

    #[test]
    fn both_forms_say_the_same_of_the_same_fault() {
        for syntax in [Syntax::Json, Syntax::Yaml] {
            for (text, path, problem, cure) in FAULTS {
                let misread = read::<Object<Outer>>(syntax, text).unwrap_err();
                assert_eq!((misread.path.as_str(), misread.line), (*path, Some(1)), "{syntax:?} {misread:?}");
                assert!(misread.problem.contains(problem), "{syntax:?} {misread:?}");
                assert_eq!(misread.cure, *cure, "{syntax:?} {misread:?}");
            }
        }
    }

    #[test]
    fn the_line_is_that_of_the_fault() {
        let json =
            read::<Object<Outer>>(Syntax::Json, "{\"inner\": {\n\"a\": {\n\"siez\": 1}}}").unwrap_err();
        let yaml = read::<Object<Outer>>(Syntax::Yaml, "inner:\n  a:\n    siez: 1\n").unwrap_err();
        assert_eq!((json.line, yaml.line), (Some(3), Some(3)));
        let yaml =
            read::<Object<Outer>>(Syntax::Yaml, "inner:\n  a:\n    rank: high\n    rank: 1\n").unwrap_err();
        assert_eq!((yaml.line, yaml.path.as_str()), (Some(3), "inner.a.rank"));
    }

    #[test]
    fn what_stands_twice_or_is_no_text_of_the_form_is_told_in_words() {
        let twice = read::<Object<Outer>>(Syntax::Yaml, "inner: {}\ninner: {}\n").unwrap_err();
        assert!(twice.problem.contains("`inner`") && twice.problem.contains("twice"), "{twice:?}");
        for (syntax, text, form) in
            [(Syntax::Json, "{\"inner\": {", "JSON"), (Syntax::Yaml, "inner: {\n", "YAML")]
        {
            let misread = read::<Object<Outer>>(syntax, text).unwrap_err();
            assert!(misread.problem.starts_with(&format!("this is not {form}")), "{misread:?}");
            assert!(misread.line.is_some() && misread.cure.contains("brackets"), "{misread:?}");
        }
    }
}
