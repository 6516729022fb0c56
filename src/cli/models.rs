//! `models`: those that would be served, and whether they are switched off. A switch goes straight into the database; a
//! service that runs on it knows of it within a second.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use secrecy::ExposeSecret;

use super::{CommandError, line, print};
use crate::accounts::{Accounts, Actor, SwitchEdit};
use crate::app::Sources;
use crate::callers::{KeyRing, moment_as_text};
use crate::config::{Environment, Settings};
use crate::store::{self, ModelSwitch, StoreError};
use crate::telemetry::{Metrics, Progress};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the models with their providers, and tell which are off (what happens without a command, too).
    List,
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
    let (switch, disabled) = match command {
        Command::Disable(switch) => (switch, true),
        Command::Enable(switch) => (switch, false),
        Command::List => {
            let switches = switches(url.expose_secret()).await;
            let (switches, trouble) = match switches {
                Ok(switches) => (switches, None),
                Err(error) => (HashMap::new(), Some(error.to_string())),
            };
            for warning in loaded.warnings().into_iter().chain(trouble) {
                writeln!(std::io::stderr(), "warning: {warning}")?;
            }
            let lines = loaded.routes().routes().iter().map(|route| {
                let off = switches.get(&*route.model).filter(|switch| switch.disabled);
                line(route) + &off.map(told).unwrap_or_default()
            });
            return print(&lines.collect::<Vec<_>>().join("\n"));
        }
    };
    let mut routes = loaded.routes().routes().iter();
    let route = routes.find(|route| route.names().any(|name| name == switch.name));
    let Some(route) = route else {
        let words =
            format!("there is no model of the name `{}`; `models list` tells which there are", switch.name);
        return Err(CommandError::Refused(words));
    };
    let store = store::open(url.expose_secret()).await;
    let store = store.map_err(|error| CommandError::Refused(error.to_string()))?;
    let accounts = Arc::new(Accounts::new(store, Arc::new(KeyRing::default())));
    let edit = SwitchEdit { disabled: Some(disabled), note: switch.note.map(Some) };
    let switch = accounts.switch(Actor::Cli, &route.model, edit).await?;
    print(&format!("{} is {}", switch.model, if switch.disabled { "off" } else { "on" }))
}

/// Those of the database, by the names of their models. Nobody makes one to find that nothing is in it.
async fn switches(url: &str) -> Result<HashMap<String, ModelSwitch>, StoreError> {
    if url.strip_prefix("sqlite://").is_some_and(|path| !Path::new(path).exists()) {
        return Ok(HashMap::new());
    }
    let switches = store::open(url).await?.models().await?;
    Ok(switches.into_iter().map(|switch| (switch.model.clone(), switch)).collect())
}

fn told(switch: &ModelSwitch) -> String {
    let since = switch.since_ms.map(|ms| format!(" since {}", moment_as_text(ms))).unwrap_or_default();
    let note = switch.note.as_ref().map(|note| format!(": {}", note.replace('\n', " "))).unwrap_or_default();
    format!(" (off{since}{note})")
}
