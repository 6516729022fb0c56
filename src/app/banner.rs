//! What a person sees who starts the service.

use std::fmt::Write;

use super::sources::Loaded;
use crate::config::{Auth, ModelSource, Settings};

/// Where the service is to be reached, and by whom.
pub(super) struct Reach {
    pub(super) addresses: Vec<String>,
    /// Of the figures alone.
    pub(super) figures: Vec<String>,
    /// Whether only this machine reaches it.
    pub(super) is_loopback: bool,
    /// Whether there are callers' keys.
    pub(super) has_keys: bool,
}

/// The banner, for the terminal.
pub(super) fn text(settings: &Settings, reach: &Reach, loaded: &Loaded) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, settings, reach, loaded);
    out
}

/// What is to be said behind the address of the page; `None` if it is closed to all.
fn opening_of_page(settings: &Settings, reach: &Reach) -> Option<&'static str> {
    match (reach.is_loopback, reach.has_keys, settings.admin_keys.is_empty()) {
        (true, _, _) => Some(""),
        (false, true, _) => Some(" (asks for a password: any caller's key)"),
        (false, false, false) => Some(" (asks for a password: the admin key)"),
        (false, false, true) => None,
    }
}

fn write(out: &mut String, settings: &Settings, reach: &Reach, loaded: &Loaded) -> std::fmt::Result {
    let addresses = &reach.addresses;
    let base = addresses.iter().find(|address| address.starts_with("http")).cloned();
    writeln!(out, "\nllm-proxy-api {}\n", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "  listening   {}", addresses.join(", "))?;
    if let (Some(base), Some(opening)) = (&base, opening_of_page(settings, reach)) {
        writeln!(out, "  Swagger UI  {base}/docs{opening}")?;
    }
    for address in reach.figures.iter().filter(|address| address.starts_with("http")) {
        writeln!(out, "  figures     {address}/metrics")?;
    }
    let shipped = match loaded.prompts().shipped_count() {
        0 => String::new(),
        count if count == loaded.prompts().list().len() => " (those that come with the program)".to_owned(),
        count => format!(" ({count} of them come with the program)"),
    };
    let languages: Vec<String> = loaded.prompts().languages().iter().map(ToString::to_string).collect();
    writeln!(out, "  prompts     {} in {}{shipped}", loaded.prompts().list().len(), languages.join(", "))?;
    writeln!(out, "  models      {}", models(loaded))?;
    writeln!(out)?;
    providers(out, loaded)?;
    missing(out, loaded)?;
    let usable = loaded.routes().routes().iter().find(|route| !route.deployments.is_empty());
    if let (Some(base), Some(model)) = (base, usable) {
        let model = loaded.routes().route("echo").unwrap_or(model).model.clone();
        let prefix = &settings.prefix;
        writeln!(out, "  Try it:\n")?;
        let key = match settings.auth {
            Auth::Keys => " -H 'authorization: Bearer YOUR_KEY'",
            _ => "",
        };
        writeln!(
            out,
            "    curl {base}{prefix}/chat -H 'content-type: application/json'{key} \\\n      -d '{{\"model\":\"{model}\",\"stream\":false,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello!\"}}]}}'\n"
        )?;
    }
    Ok(())
}

fn models(loaded: &Loaded) -> String {
    const SHOWN: usize = 8;
    let routes = loaded.routes().routes();
    let mut names: Vec<&str> = routes.iter().take(SHOWN).map(|route| &*route.model).collect();
    let more = format!("and {} more", routes.len().saturating_sub(SHOWN));
    if routes.len() > SHOWN {
        names.push(&more);
    }
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn providers(out: &mut String, loaded: &Loaded) -> std::fmt::Result {
    for served in loaded.served() {
        let count = match &served.config.models {
            ModelSource::Listed(models) => models.len(),
            ModelSource::Discovered => served.discovered.len(),
        };
        let plural = if count == 1 { "" } else { "s" };
        let (name, kind) = (&served.config.name, &served.config.kind);
        let listener = loaded.surroundings().listener_of(name);
        let listener = listener.map_or_else(String::new, |user| format!(", run by {user}"));
        writeln!(out, "  + {name} ({kind}): {count} model{plural}{listener}")?;
    }
    Ok(())
}

/// What was looked for and is not there, and how to have it.
fn missing(out: &mut String, loaded: &Loaded) -> std::fmt::Result {
    for place in loaded.surroundings().places() {
        let note = place.note.as_ref().map_or_else(String::new, |note| format!(" ({note})"));
        if place.models().is_none() {
            writeln!(out, "  - {}: not found{note}; {}", place.title, place.advice)?;
        }
    }
    for warning in loaded.warnings() {
        writeln!(out, "  ! {warning}")?;
    }
    writeln!(out)
}
