//! `models`: those that would be served, and whether they are switched off. A switch goes straight into the database; a
//! service that runs on it knows of it within a second.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::output::print_json;
use super::{CommandError, line, print};
use crate::accounts::{Accounts, Actor, SwitchEdit};
use crate::app::Sources;
use crate::callers::{KeyRing, moment_as_text};
use crate::config::{Environment, Settings};
use crate::llm::is_invisible;
use crate::router::{Deployment, Route, RoutingTable};
use crate::store::{self, ModelSwitch, StoreError};
use crate::telemetry::{Metrics, Progress};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the models with their providers, and tell which are off (what happens without a command, too).
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Switch a model off: no caller finds or reaches it.
    Disable(Switch),
    /// Switch a model on.
    Enable(Switch),
}

#[derive(Debug, Args)]
pub(super) struct Switch {
    /// Any of its names.
    name: String,
    /// Why.
    #[arg(long)]
    note: Option<String>,
}

pub(super) async fn run(
    command: Command,
    settings: Settings,
    folder: PathBuf,
    environment: &Environment,
) -> Result<(), CommandError> {
    let url = settings.storage.database_url.clone();
    let progress = Progress::on_stderr();
    let loaded =
        Sources::new(settings, folder, Metrics::default()).load(environment, Some(&progress)).await?;
    warn(loaded.warnings())?;
    let (switch, disabled) = match command {
        Command::Disable(switch) => (switch, true),
        Command::Enable(switch) => (switch, false),
        Command::List { json } => return list(loaded.routes(), url.expose_secret(), json).await,
    };
    let model = match known(loaded.routes(), url.expose_secret(), &switch.name).await? {
        Some(model) => model,
        None if disabled && loaded.discovers() && loaded.routes().route(&switch.name).is_none() => {
            let words = format!(
                "no model of the name `{}` is known just now; one that a provider turns out to have will be off",
                switch.name
            );
            warn([words])?;
            switch.name
        }
        None => {
            let words = format!(
                "there is no model of the name `{}`; `models list` tells which there are",
                switch.name
            );
            return Err(CommandError::Refused(words));
        }
    };
    let store =
        store::open(url.expose_secret()).await.map_err(|error| refused(&error, url.expose_secret()))?;
    let accounts = Arc::new(Accounts::new(store.clone(), Arc::new(KeyRing::default())));
    let edit = SwitchEdit { disabled: Some(disabled), note: switch.note.map(Some) };
    let switched = accounts.switch(Actor::Cli, &model, edit).await;
    // So that a copy of the file has what was done.
    store.close().await;
    let switch = switched?;
    print(&format!("{} is {}", switch.model, if switch.disabled { "off" } else { "on" }))
}

fn warn(warnings: impl IntoIterator<Item = String>) -> Result<(), CommandError> {
    for warning in warnings {
        writeln!(std::io::stderr(), "warning: {warning}")?;
    }
    Ok(())
}

fn refused(error: &StoreError, url: &str) -> CommandError {
    CommandError::Refused(format!("{error}{}", store::file_in_words(url)))
}

async fn list(routes: &RoutingTable, url: &str, in_json: bool) -> Result<(), CommandError> {
    let mut switches = match switches(url).await {
        Ok(switches) => switches,
        Err(error) => {
            warn([format!("{error}{}", store::file_in_words(url))])?;
            BTreeMap::new()
        }
    };
    switches.retain(|_, switch| switch.disabled);
    if in_json {
        return print_json(&as_json(routes, &switches));
    }
    let mut lines: Vec<String> = Vec::new();
    for route in routes.routes() {
        let off = switches.remove(&*route.model);
        lines.push(line(route) + &off.as_ref().map(told).unwrap_or_default());
    }
    let gone = switches.values();
    lines.extend(gone.map(|switch| format!("{}: nobody serves it just now{}", switch.model, told(switch))));
    // Names and notes may hold what would move a terminal's cursor.
    let visible = |line: &String| line.chars().filter(|letter| !is_invisible(*letter)).collect::<String>();
    print(&lines.iter().map(visible).collect::<Vec<_>>().join("\n"))
}

/// The public name of the model that a name is for: one that is served, or one that was switched before.
async fn known(routes: &RoutingTable, url: &str, name: &str) -> Result<Option<String>, CommandError> {
    let mut served = routes.routes().iter();
    if let Some(route) = served.find(|route| route.names().any(|known| known == name)) {
        return Ok(Some(route.model.to_string()));
    }
    let switches = switches(url).await.map_err(|error| refused(&error, url))?;
    Ok(switches.contains_key(name).then(|| name.to_owned()))
}

/// Those of the database, by the names of their models. Nobody makes one to find that nothing is in it.
async fn switches(url: &str) -> Result<BTreeMap<String, ModelSwitch>, StoreError> {
    if store::missing_file(url).is_some() {
        return Ok(BTreeMap::new());
    }
    let switches = store::open(url).await?.models().await?;
    Ok(switches.into_iter().map(|switch| (switch.model.clone(), switch)).collect())
}

fn as_json(routes: &RoutingTable, off: &BTreeMap<String, ModelSwitch>) -> Value {
    let deployment = |deployment: &Arc<Deployment>| json!({"id": deployment.id, "context_tokens": deployment.context_tokens});
    let model = |route: &Arc<Route>| {
        let switch = off.get(&*route.model);
        json!({
            "model": route.model,
            "aliases": route.aliases,
            "strategy": route.strategy().name(),
            "deployments": route.candidates(None, None).into_iter().map(deployment).collect::<Vec<_>>(),
            "left_out": route.left_out.iter().map(deployment).collect::<Vec<_>>(),
            "fallbacks": route.fallbacks,
            "context_fallbacks": route.context_fallbacks,
            "disabled": switch.is_some(),
            "note": switch.and_then(|switch| switch.note.clone()),
        })
    };
    json!({"models": routes.routes().iter().map(model).collect::<Vec<_>>()})
}

fn told(switch: &ModelSwitch) -> String {
    let since = switch.since_ms.map(|ms| format!(" since {}", moment_as_text(ms))).unwrap_or_default();
    let note = switch.note.as_ref().map(|note| format!(": {}", note.replace('\n', " "))).unwrap_or_default();
    format!(" (off{since}{note})")
}
