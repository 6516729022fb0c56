//! Front matter: what stands above a template, between two lines `---`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::fault::DocumentFault;
use crate::lint::{self, Object, Syntax};
use crate::llm::option_names;

/// The keys are Dotprompt's, and two of our own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FrontMatter {
    pub(super) description: Option<String>,
    #[serde(deserialize_with = "object")]
    pub(super) input: Input,
    pub(super) model: Option<String>,
    /// `None` where it is not stated: a translation then has that of its source.
    pub(super) config: Option<Map<String, Value>>,
    /// Kept as text: `1.10` is not `1.1`.
    #[serde(deserialize_with = "text_or_number")]
    pub(super) version: Option<String>,
    pub(super) source_hash: Option<String>,
    // Known to Dotprompt, without meaning here.
    #[serde(rename = "name")]
    _name: Option<Value>,
    #[serde(rename = "variant")]
    _variant: Option<Value>,
    #[serde(rename = "tools")]
    _tools: Option<Value>,
    #[serde(rename = "output")]
    _output: Option<Value>,
    #[serde(rename = "metadata")]
    _metadata: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Input {
    pub(super) schema: Option<Value>,
    pub(super) default: Map<String, Value>,
}

/// A file in two parts.
pub(super) struct Parts<'t> {
    /// Empty if there is none. As many empty lines stand above it as stand above the line `---` in the file, so that its lines
    /// keep their numbers.
    pub(super) front: Cow<'t, str>,
    pub(super) body: &'t str,
    /// How many lines stand above `body`.
    pub(super) lines_above: usize,
}

/// Splits the front matter from the template.
pub(super) fn split(text: &str) -> Result<Parts<'_>, DocumentFault> {
    let text = lint::without_byte_order_mark(text);
    let no_front = Parts { front: "".into(), body: text, lines_above: 0 };
    let Some((above, rest)) = opened(text) else { return Ok(no_front) };
    let mut at = 0;
    for (index, line) in rest.split_inclusive('\n').enumerate() {
        if line.trim_end() == "---" {
            let (front, body) = (rest.get(..at), rest.get(at + line.len()..));
            let (front, body) = (front.unwrap_or_default(), body.unwrap_or_default());
            let front = if above == 0 { front.into() } else { ("\n".repeat(above) + front).into() };
            return Ok(Parts { front, body, lines_above: above + index + 2 });
        }
        at += line.len();
    }
    if above > 0 {
        // A heading and a ruler, for example.
        return Ok(no_front);
    }
    Err(DocumentFault::new(Some(1), "the front matter is not closed", "write a line `---` below it"))
}

/// How many lines stand above the line `---` that opens front matter, and what is below that line. As in Dotprompt, lines above it
/// may be empty or begin with `#`.
fn opened(text: &str) -> Option<(usize, &str)> {
    let mut rest = text;
    let mut above = 0;
    while let Some((line, below)) = rest.split_once('\n') {
        match line.trim_end() {
            "---" => return Some((above, below)),
            "" => {}
            line if line.starts_with('#') => {}
            _ => return None,
        }
        rest = below;
        above += 1;
    }
    None
}

impl FrontMatter {
    /// Reads front matter, of which there may be none, with all that is wrong with it. What is wrong is left out.
    pub(super) fn read(yaml: &str) -> (Self, Vec<DocumentFault>) {
        let judged = lint::read_all::<Option<Object<Self>>>(Syntax::Yaml, yaml);
        let faults = judged.misreads.into_iter().map(|misread| {
            let is_named =
                misread.path.is_empty() || misread.problem.contains(&format!("`{}`", misread.path));
            let place = if is_named { String::new() } else { format!("{}: ", misread.path) };
            let keys: Vec<&str> = misread.path.split('.').collect();
            // The line `---` stands above what the parser saw.
            let line = misread.line.map(|line| line + 1).or_else(|| line_of(yaml, &keys));
            DocumentFault::new(line, format!("{place}{}", misread.problem), misread.cure)
        });
        let faults = faults.collect();
        (judged.value.flatten().unwrap_or_default().0, faults)
    }

    /// Options that no provider takes, with what was perhaps meant.
    pub(super) fn unknown_options(&self) -> impl Iterator<Item = (&str, String)> {
        let unknown =
            self.config.iter().flat_map(Map::keys).filter(|name| !option_names().any(|known| known == *name));
        unknown.map(|name| (name.as_str(), lint::did_you_mean(name, option_names())))
    }

    /// What could be read and makes no sense.
    pub(super) fn faults(&self, yaml: &str) -> Vec<DocumentFault> {
        let Some(config) = &self.config else { return Vec::new() };
        let faults = lint::out_of_range(config).into_iter().map(|(member, value, allowed)| {
            let problem = format!("config.{member} is {value}");
            DocumentFault::new(line_of(yaml, &["config", &member]), problem, format!("give {allowed}"))
        });
        faults.collect()
    }
}

/// The line of the file in which a key stands, or the nearest above it that can be found.
pub(super) fn line_of(yaml: &str, keys: &[&str]) -> Option<usize> {
    let mut lines = yaml.lines().enumerate();
    let mut found = None;
    for key in keys {
        let mut rest = lines.clone();
        let Some((index, _)) = rest.find(|(_, line)| begins_with_key(line, key)) else { break };
        found = Some(index + 2);
        lines = rest;
    }
    found
}

fn begins_with_key(line: &str, key: &str) -> bool {
    let line = line.trim_start().trim_start_matches(['"', '\'']);
    let behind = line.strip_prefix(key).map(|rest| rest.trim_start_matches(['"', '\'']).trim_start());
    // Picoschema's `name?` and `name(array)` are the variable `name`, too.
    behind.is_some_and(|rest| rest.starts_with([':', '?', '(']))
}

fn object<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Input, D::Error> {
    Ok(Option::<Object<Input>>::deserialize(deserializer)?.unwrap_or_default().0)
}

fn text_or_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Option::<Value>::deserialize(deserializer)? {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(_) => {
            return Err(serde::de::Error::custom(
                "the version is neither a text nor a number; give one of the two",
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_below_those_that_lead_to_it() {
        let yaml = "description: a\nconfig:\n  a: 1\ninput:\n  schema:\n    b?: string\n    \"a\": string\n    c(array): string\n";
        for (keys, line) in [
            (&["description"][..], Some(2)),
            (&["config", "a"], Some(4)),
            (&["input", "schema", "b"], Some(7)),
            (&["input", "schema", "a"], Some(8)),
            (&["input", "schema", "c"], Some(9)),
            (&["input", "schema", "gone"], Some(6)),
            (&["gone"], None),
        ] {
            assert_eq!(line_of(yaml, keys), line, "{keys:?}");
        }
    }

    #[test]
    fn slips_are_told_with_the_line_in_the_file_and_a_cure() {
        for (yaml, line, problem, cure) in [
            (
                "version: 1\ndescripton: x",
                3,
                "the key `descripton` is not known here",
                "did you mean `description`?",
            ),
            ("input:\n  shema: {}", 3, "input.shema: the key `shema`", "did you mean `schema`?"),
            ("config: [1]", 2, "config: this is not an object", "give an object"),
            ("- a", 2, "this is not an object", "give an object"),
            ("config: {", 2, "this is not YAML", "brackets"),
        ] {
            let (_, faults) = FrontMatter::read(yaml);
            let [fault] = &faults[..] else { panic!("{yaml}: {faults:?}") };
            assert!(fault.problem.contains(problem) && fault.cure.contains(cure), "{yaml}: {fault:?}");
            assert!(fault.line.is_some_and(|told| told >= line), "{yaml}: {fault:?}");
        }
        let yaml = "version: 1\nconfig:\n  temperature: 9";
        let faults = FrontMatter::read(yaml).0.faults(yaml);
        assert_eq!(
            faults,
            [DocumentFault::new(Some(4), "config.temperature is 9", "give a number from 0 to 2")]
        );
    }
}
