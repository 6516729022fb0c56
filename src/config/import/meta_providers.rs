//! `meta-providers.yaml`: clouds that are asked daily what models they have, and beside it `model-adjustments.yaml`, which
//! says what their operator thinks of these. The best score is asked first.

use std::path::Path;

use serde_json::{Map, Value};

use super::adjustments_beside;
use super::findings::{At, Findings, shown};
use super::ours::Ours;
use crate::config::Fault;
use crate::lint::{self, Syntax};

const PROVIDER: &[&str] = &["api_key_env_var", "base_url", "model_url", "base_priority"];
const ADJUSTMENT: &[&str] = &["priority", "regex"];

/// What ends the name of a variable that holds a key, the longest first.
const ENDINGS: &[&str] = &["_API_KEY", "_API_TOKEN", "_KEY", "_TOKEN"];

/// Seconds: the original asks for the models when its own list is older than a day.
const DAILY: u64 = 86_400;

pub(super) fn translate(top: &Map<String, Value>, path: &Path, findings: &mut Findings<'_>) -> Ours {
    let mut ours = Ours::default();
    ours.set_usual_strategy("score");
    let top = At { members: top, place: String::new() };
    findings.unknown_keys(&top, &["providers"]);
    for (index, value) in findings.list(&top, "providers").iter().enumerate() {
        if let Some(at) = findings.object(format!("providers[{index}]"), value) {
            provider(&at, &mut ours, findings);
        }
    }
    adjustments(&adjustments_beside(path), &mut ours, findings);
    ours
}

fn provider(at: &At<'_>, ours: &mut Ours, findings: &mut Findings<'_>) {
    findings.unknown_keys(at, PROVIDER);
    let variable = variable(at, findings);
    let mut provider = Map::new();
    let mut set = |key: &str, value: Value| drop(provider.insert(key.to_owned(), value));
    set("type", "openai".into());
    if findings.requires(at, "base_url", "say where it is, without `/chat/completions`")
        && let Some(url) = findings.address(at, "base_url")
    {
        if url.split_once("://").is_some_and(|(_, rest)| !rest.trim_end_matches('/').contains('/')) {
            findings.warn(&at.place, "`base_url` has no path, so `/v1` is put behind it");
        }
        set("base_url", url.into());
    }
    if let Some(url) = findings.address(at, "model_url") {
        set("models_url", url.into());
    }
    set("api_key", format!("${{{}}}", variable.unwrap_or_default()).into());
    set("optional", true.into());
    if findings.requires(at, "base_priority", "give what its scores are multiplied by, such as 1")
        && let Some(factor) = findings.number_as_stated(at, "base_priority")
    {
        set("base_priority", factor);
    }
    set("discover_every", DAILY.into());
    set("models", "discover".into());
    ours.add_provider(&name_of(variable.unwrap_or_default()), &at.place, provider);
}

fn variable<'v>(at: &At<'v>, findings: &mut Findings<'_>) -> Option<&'v str> {
    let cure = "name the variable that holds the key, such as ALPHA_API_KEY";
    if !findings.requires(at, "api_key_env_var", cure) {
        return None;
    }
    let name = findings.text(at, "api_key_env_var")?;
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if !is_name {
        // It is not repeated: it may be the key itself.
        findings.fault(&at.place, "`api_key_env_var` is no name of an environment variable", cure);
    }
    Some(name).filter(|_| is_name)
}

/// What a provider is called whose key is in this variable: `GROQ_API_KEY` is that of `groq`.
fn name_of(variable: &str) -> String {
    let stem = ENDINGS.iter().find_map(|ending| variable.strip_suffix(ending));
    stem.filter(|stem| !stem.is_empty()).unwrap_or(variable).to_ascii_lowercase().replace('_', "-")
}

/// Reads the opinions on models, if there are any.
fn adjustments(path: &Path, ours: &mut Ours, findings: &mut Findings<'_>) {
    let file = path.display().to_string();
    let text = match lint::read_text(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tracing::debug!(file, "There is no file of adjustments, so scores are as they are");
            return;
        }
        Err(error) => return findings.told(Fault::new(file, error.to_string(), "make it readable")),
    };
    let mut of_file = Findings::new(&file);
    match lint::read::<Value>(Syntax::Yaml, &text) {
        Ok(Value::Null) => {}
        Ok(value) => {
            if let Some(top) = of_file.object(String::new(), &value) {
                of_file.unknown_keys(&top, &["adjustments"]);
                ours.set_adjustments(&file, groups(&top, &mut of_file));
            }
        }
        Err(misread) => of_file.told(Fault::misread(&file, misread)),
    }
    findings.add(of_file);
}

fn groups(top: &At<'_>, findings: &mut Findings<'_>) -> Map<String, Value> {
    let mut groups = Map::new();
    let Some(stated) = top.members.get("adjustments").filter(|value| !value.is_null()) else { return groups };
    let Some(stated) = findings.object("adjustments".to_owned(), stated) else { return groups };
    for (name, value) in stated.members {
        let Some(at) = findings.object(format!("adjustments.{}", shown(name)), value) else { continue };
        findings.unknown_keys(&at, ADJUSTMENT);
        let mut group = Map::new();
        if findings.requires(&at, "priority", "give points, such as 30 or -1000")
            && let Some(points) = findings.number_as_stated(&at, "priority")
        {
            group.insert("priority".to_owned(), points);
        }
        let patterns = findings.list(&at, "regex");
        if !patterns.iter().all(Value::is_string) {
            findings.fault(&at.place, "`regex` lists something that is no text", "put it in quotes");
        }
        group.insert("regex".to_owned(), patterns.into());
        groups.insert(name.clone(), Value::Object(group));
    }
    groups
}
