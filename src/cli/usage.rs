//! `usage`: what was used, straight from the database.

use std::io::stdout;
use std::sync::Arc;

use clap::Args;
use secrecy::ExposeSecret;
use serde_json::Value;

use super::CommandError;
use super::output::{Paint, print, print_json, table};
use crate::accounts::Accounts;
use crate::api::{self, UsageQuestion};
use crate::callers::KeyRing;
use crate::config::{Environment, Settings};
use crate::store;

#[derive(Debug, Args)]
pub(super) struct Usage {
    /// A comma list of hour, day, model, key, owner, provider, endpoint, prompt, outcome.
    #[arg(long, value_name = "GROUPS", default_value = "model")]
    by: String,
    /// From then on: a time such as 2026-11-21T10:00:00Z, or a date; 24 hours before the end otherwise.
    #[arg(long)]
    from: Option<String>,
    /// Until before then, or to the end of that date; now otherwise.
    #[arg(long)]
    to: Option<String>,
    /// Only what this key used, by its id.
    #[arg(long)]
    key: Option<String>,
    /// Only what keys of this owner used.
    #[arg(long)]
    owner: Option<String>,
    /// Only what was asked of this model.
    #[arg(long)]
    model: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Those of the measures that are shown.
const MEASURES: [&str; 6] = ["requests", "prompt_tokens", "completion_tokens", "cost", "cancelled", "failed"];

pub(super) async fn run(
    usage: Usage,
    settings: &Settings,
    environment: &Environment,
) -> Result<(), CommandError> {
    let url = settings.storage.database_url.expose_secret();
    if let Some(file) = store::missing_file(url) {
        let words = format!("there is no database {file} here; LLM_PROXY_API_DATABASE_URL says where it is");
        return Err(CommandError::Refused(words));
    }
    let store = store::open(url).await;
    let store =
        store.map_err(|error| CommandError::Refused(format!("{error}{}", store::file_in_words(url))))?;
    let accounts = Accounts::new(store, Arc::new(KeyRing::default()));
    let Usage { by, from, to, key, owner, model, json } = usage;
    let asked = UsageQuestion { from, to, group_by: Some(by), key, owner, model };
    let told = api::usage_as_json(asked, &settings.storage.zone, &accounts).await;
    let told = told.map_err(CommandError::Refused)?;
    if json { print_json(&told) } else { print(&in_words(&told, Paint::of(&stdout(), environment))) }
}

fn in_words(told: &Value, paint: Paint) -> String {
    let rows: Vec<&serde_json::Map<String, Value>> =
        told["rows"].as_array().into_iter().flatten().filter_map(Value::as_object).collect();
    let span = format!("{} to {}", text(&told["from"]), text(&told["to"]));
    let Some(first) = rows.first() else { return format!("nothing was used from {span}") };
    let is_group =
        |name: &&String| !first.keys().skip_while(|key| *key != "requests").any(|key| key == *name);
    let groups = first.keys().filter(is_group).map(String::as_str);
    let names: Vec<&str> = groups.chain(MEASURES).collect();
    let cells = rows
        .iter()
        .map(|row| names.iter().map(|name| row.get(*name).map_or_else(String::new, text)).collect());
    let cells: Vec<Vec<String>> = cells.collect();
    let more = if told["truncated"] == true { "\n… and more; narrow the time, or use --json" } else { "" };
    format!("{}\n\n{span}{more}", table(&names, &cells, paint))
}

/// A cell: nothing stands for what there is not.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.chars().filter(|letter| !crate::llm::is_invisible(*letter)).collect(),
        other => other.to_string(),
    }
}
