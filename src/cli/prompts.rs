//! `prompts`: the library, listed, rendered, and its translations.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::CommandError;
use super::output::{print, print_json};
use crate::app::Sources;
use crate::config::Settings;
use crate::prompts::{Coverage, Language, PromptLibrary, PromptSummary, Row, Translation, Wanted};
use crate::telemetry::Metrics;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all prompts with their languages.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print a prompt with its variables put in.
    Render(Render),
    /// Show which translations are missing or older than their source.
    Coverage {
        /// Exit with 1 if anything is missing or stale, or does not say what it translates.
        #[arg(long)]
        strict: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Render {
    /// The prompt's name, with a label behind `@` if need be.
    name: String,
    /// The language, as a tag such as pl or pt-BR.
    #[arg(long, short)]
    language: Option<String>,
    /// Refuse to render another language.
    #[arg(long)]
    strict: bool,
    /// A variable, as name=value. The value is read as JSON if it is JSON, else as text.
    #[arg(long = "var", short = 'v', value_name = "NAME=VALUE")]
    variables: Vec<String>,
}

pub(super) fn run(command: &Command, settings: Settings, folder: PathBuf) -> Result<(), CommandError> {
    let library = Sources::new(settings, folder, Metrics::default()).prompts()?;
    match command {
        Command::List { json: true } => {
            let prompts: Vec<Value> = library.list().iter().map(prompt_as_json).collect();
            print_json(&json!({ "prompts": prompts }))
        }
        Command::List { json: false } => {
            let line = |prompt: &PromptSummary| {
                let languages: Vec<&str> = prompt.translations.iter().map(|t| t.language.as_str()).collect();
                let description = prompt.description.as_deref().unwrap_or_default();
                format!("{} [{}] {description}", prompt.name, languages.join(", "))
            };
            print(&library.list().iter().map(line).collect::<Vec<_>>().join("\n"))
        }
        Command::Render(render) => print(&rendered(&library, render)?),
        Command::Coverage { strict, json } => {
            let coverage = Coverage::of(&library);
            if *json { print_json(&coverage_as_json(&coverage)) } else { print(&coverage.to_string()) }?;
            if *strict && !coverage.is_complete() {
                return Err(CommandError::Refused("some translations are missing or stale, or do not say what they translate (`source_hash`)"
                        .to_owned()));
            }
            Ok(())
        }
    }
}

fn prompt_as_json(prompt: &PromptSummary) -> Value {
    let translation = |it: &Translation| json!({"language": it.language.as_str(), "version": it.version});
    json!({
        "name": prompt.name,
        "description": prompt.description,
        "translations": prompt.translations.iter().map(translation).collect::<Vec<_>>(),
    })
}

fn coverage_as_json(coverage: &Coverage) -> Value {
    let row = |row: &Row| {
        let states = coverage.languages.iter().zip(&row.states);
        let states = states.map(|(language, state)| {
            (language.to_string(), Value::from(state.as_str().to_ascii_lowercase()))
        });
        json!({"name": row.name, "source_hash": row.hash, "states": states.collect::<Map<_, _>>()})
    };
    json!({
        "complete": coverage.is_complete(),
        "prompts": coverage.rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn rendered(library: &PromptLibrary, render: &Render) -> Result<String, CommandError> {
    let refused = CommandError::Refused;
    let requested = render.language.as_deref().map(|tag| {
        Language::parse(tag)
            .ok_or_else(|| refused(format!("`{tag}` is no language tag; give one such as pl or pt-BR")))
    });
    let mut variables = Map::new();
    for pair in &render.variables {
        let (name, text) =
            pair.split_once('=').ok_or_else(|| refused(format!("`{pair}` is not NAME=VALUE")))?;
        variables.insert(name.to_owned(), serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)));
    }
    let wanted = Wanted { requested: requested.transpose()?, accepted: Vec::new(), strict: render.strict };
    let rendered =
        library.render(&render.name, &wanted, &variables).map_err(|error| refused(error.to_string()))?;
    Ok(rendered.text)
}
