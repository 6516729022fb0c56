//! What there is near by when nothing is configured: servers on this machine, a key in the environment, and always
//! the echo model.
//!
//! Any program can listen where a server is looked for. One of another person is left alone: what listens there must be
//! of this user, of root, or of a service of this machine (Ollama's has a user of its own). The banner says whose it is.

use std::time::Duration;

use futures_util::future::join_all;
use http::Uri;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::config::{Catalog, ModelConfig, ModelSource, ProviderConfig, Settings};
use crate::local::listeners::{self, Untrusted};
use crate::providers::{self, ErrorKind, ModelCard, Shared};

/// A server on this machine answers at once, or is not there.
const NEAR: Duration = Duration::from_millis(700);
/// A cloud takes a little longer.
const FAR: Duration = Duration::from_secs(4);

/// What was looked for, and what of it is there.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    places: Vec<Place>,
}

/// One thing that was looked for.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// What it is called in the banner.
    pub(super) title: String,
    /// What to do to have it.
    pub(super) advice: String,
    /// How to ask it, if it is there.
    found: Option<(ProviderConfig, Vec<ModelCard>)>,
    /// What else there is to say.
    pub(super) note: Option<String>,
    /// Whose it is, if it is a server of this machine.
    listener: Option<String>,
}

impl Place {
    /// How many models it has; `None` if it is not there.
    pub(super) fn models(&self) -> Option<usize> {
        self.found.as_ref().map(|(config, models)| match &config.models {
            ModelSource::Listed(listed) => listed.len(),
            ModelSource::Discovered => models.len(),
        })
    }
}

impl Surroundings {
    pub(super) fn providers(&self) -> Vec<ProviderConfig> {
        self.places
            .iter()
            .filter_map(|place| place.found.as_ref())
            .map(|(config, _)| config.clone())
            .collect()
    }

    /// What was found by that title.
    fn found(&self, title: &str) -> Option<&ProviderConfig> {
        let place = self.places.iter().find(|place| place.title == title)?;
        place.found.as_ref().map(|(config, _)| config)
    }

    /// Whose server a provider is, if it was found on this machine.
    pub(super) fn listener_of(&self, provider: &str) -> Option<&str> {
        let is_it = |place: &&Place| place.found.as_ref().is_some_and(|(config, _)| config.name == provider);
        self.places.iter().find(is_it)?.listener.as_deref()
    }

    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }

    /// The models of a provider that was found, or why it names none; `None` for others.
    pub(super) fn models_of(&self, provider: &str) -> Option<Result<Vec<ModelCard>, String>> {
        self.places.iter().find_map(|place| {
            let (_, models) = place.found.as_ref().filter(|(config, _)| config.name == provider)?;
            Some(place.note.clone().filter(|_| models.is_empty()).map_or_else(|| Ok(models.clone()), Err))
        })
    }
}

/// Looks for what the catalog does not have already. What was there before and is only slow now, is there.
pub(super) async fn look(
    settings: &Settings,
    catalog: &Catalog,
    shared: &Shared,
    former: Option<&Surroundings>,
) -> Surroundings {
    let candidates = [openai(settings), ollama(settings), local_server(settings)];
    let looked = candidates.into_iter().map(|candidate| {
        let before = former.and_then(|former| former.found(&candidate.title));
        seen(candidate, catalog, shared, before)
    });
    let looked = join_all(looked).await;
    let mut places: Vec<Place> = looked.into_iter().flatten().collect();
    places.extend(engines(settings));
    if !has_echo(catalog) {
        let config = echo(settings);
        places.push(Place {
            title: "echo".into(),
            advice: String::new(),
            found: Some((config, Vec::new())),
            note: None,
            listener: None,
        });
    }
    Surroundings { places }
}

/// Something to look for.
struct Candidate {
    title: String,
    advice: String,
    /// `None` if there is no reason to ask.
    config: Option<ProviderConfig>,
    patience: Duration,
    /// What it is, by what it says of its models.
    named_by: fn(&[ModelCard], ProviderConfig) -> ProviderConfig,
}

/// Asks a candidate, unless the catalog has it: then there is nothing to say.
async fn seen(
    candidate: Candidate,
    catalog: &Catalog,
    shared: &Shared,
    before: Option<&ProviderConfig>,
) -> Option<Place> {
    let Candidate { title, advice, config, patience, named_by } = candidate;
    let absent = |title, advice, note| Some(Place { title, advice, found: None, note, listener: None });
    let Some(config) = config else { return absent(title, advice, None) };
    let same = |other: &ProviderConfig| other.name == config.name || other.base_url == config.base_url;
    if catalog.providers.iter().any(same) {
        return None;
    }
    let listener = match listener_of(&config).await {
        Ok(listener) => listener,
        Err(untrusted) => {
            let advice = "name it as a provider in a models file if it is to be used".to_owned();
            return absent(title, advice, Some(untrusted.to_string()));
        }
    };
    let provider = match providers::build(&config, shared) {
        Ok(provider) => provider,
        Err(fault) => return absent(title, advice, Some(fault.problem)),
    };
    let answer = timeout(patience, provider.models()).await;
    let is_nobody_there = matches!(&answer, Ok(Err(error)) if matches!(error.kind, ErrorKind::Unreachable));
    let silent = |config| (Some((config, Vec::new())), Some("does not answer now".to_owned()));
    let (found, note) = match (answer, before) {
        (Ok(Ok(models)), _) => (Some((named_by(&models, config), models)), None),
        (_, Some(before)) if !is_nobody_there => silent(before.clone()),
        // A cloud that does not answer now is still the one whose key there is.
        _ if config.api_key.is_some() => silent(config),
        _ => (None, None),
    };
    Some(Place { title, advice, found, note, listener })
}

/// Whose server it is, if it is one of this machine. Where none is to be seen, none of this machine's users listens.
///
/// # Errors
/// Another person's.
async fn listener_of(config: &ProviderConfig) -> Result<Option<String>, Untrusted> {
    let uri = config.base_url.as_ref().and_then(|url| url.parse::<Uri>().ok());
    let Some((host, port)) = uri.as_ref().and_then(|uri| Some((uri.host()?, uri.port_u16().unwrap_or(80))))
    else {
        return Ok(None);
    };
    let bare_host = host.trim_start_matches('[').trim_end_matches(']');
    let targets = timeout(NEAR, lookup_host((bare_host, port))).await;
    let mut found = None;
    for target in targets.ok().and_then(Result::ok).into_iter().flatten().filter(|to| to.ip().is_loopback()) {
        for listener in listeners::found_at(target).await.unwrap_or_default() {
            if !listeners::is_own_or_of_system(listener.uid) {
                return Err(Untrusted { address: target, uid: Some(listener.uid) });
            }
            found = Some(listeners::user(listener.uid));
        }
    }
    Ok(found)
}

fn provider(
    settings: &Settings,
    name: &str,
    kind: &str,
    base_url: String,
    api_key: Option<SecretString>,
) -> ProviderConfig {
    ProviderConfig {
        base_url: Some(base_url),
        api_key,
        timeouts: settings.timeouts,
        place: format!("{name}, found by itself"),
        ..ProviderConfig::of(name, kind)
    }
}

fn as_named(_: &[ModelCard], config: ProviderConfig) -> ProviderConfig {
    config
}

fn openai(settings: &Settings) -> Candidate {
    let found = &settings.found;
    let base_url = found.openai_base_url.clone().unwrap_or_else(|| "https://api.openai.com/v1".to_owned());
    let key = found.openai_api_key.as_ref().map(|key| SecretString::from(key.expose_secret().to_owned()));
    // An address without a key is a server of one's own.
    let wanted = key.is_some() || found.openai_base_url.is_some();
    Candidate {
        title: "OpenAI".to_owned(),
        advice: "set OPENAI_API_KEY (and OPENAI_BASE_URL for another server)".to_owned(),
        config: wanted.then(|| provider(settings, "openai", "openai", base_url, key)),
        patience: FAR,
        named_by: as_named,
    }
}

fn ollama(settings: &Settings) -> Candidate {
    let base_url = ollama_url(settings.found.ollama_host.as_deref());
    Candidate {
        title: format!("Ollama at {base_url}"),
        advice: "start Ollama, or set OLLAMA_HOST".to_owned(),
        config: Some(provider(settings, "ollama", "ollama", base_url, None)),
        patience: NEAR,
        named_by: as_named,
    }
}

/// `OLLAMA_HOST` may be a host, a port, both, or an address, each with a path; what Ollama listens on may be "all".
fn ollama_url(host: Option<&str>) -> String {
    let host = host.map(str::trim).filter(|host| !host.is_empty()).unwrap_or("127.0.0.1");
    let (scheme, rest) = host.split_once("://").unwrap_or(("http", host));
    let rest = rest.trim_end_matches('/');
    // A path is that of a proxy in front of it.
    let (server, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let server = server.replacen("0.0.0.0", "127.0.0.1", 1);
    let has_port = server.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    match server.strip_prefix(':') {
        Some(port) => format!("{scheme}://127.0.0.1:{port}{path}"),
        None if has_port || scheme == "https" => format!("{scheme}://{server}{path}"),
        None => format!("{scheme}://{server}:11434{path}"),
    }
}

fn local_server(settings: &Settings) -> Candidate {
    Candidate {
        title: "vLLM or llama-server at http://127.0.0.1:8000".to_owned(),
        advice: "start one there, or name it in a models file".to_owned(),
        config: Some(provider(settings, "local-server", "vllm", "http://127.0.0.1:8000/v1".to_owned(), None)),
        patience: NEAR,
        named_by: |models, config| {
            // Both list their models in the same way; each names itself as their owner.
            let of_llama =
                |model: &ModelCard| model.details.get("owned_by").is_some_and(|owner| owner == "llamacpp");
            let is_llama = models.iter().any(of_llama);
            let (name, kind) = if is_llama { ("llama-server", "llamacpp") } else { ("vllm", "vllm") };
            ProviderConfig { name: name.to_owned(), kind: kind.to_owned(), ..config }
        },
    }
}

/// Engines that could be started, which this version leaves to the operator.
fn engines(settings: &Settings) -> Option<Place> {
    let path = settings.found.path.as_deref().unwrap_or_default();
    let program = path
        .split(':')
        .map(|folder| std::path::Path::new(folder).join("llama-server"))
        .find(|file| file.is_file());
    let models = settings.found.gguf_dir.as_ref()?;
    let files = std::fs::read_dir(models).ok()?.filter_map(Result::ok);
    let count = files.filter(|file| file.path().extension().is_some_and(|ending| ending == "gguf")).count();
    let program = program.map_or("no llama-server on the PATH", |_| "a llama-server on the PATH");
    let note = format!("{program}, {count} GGUF files; this version does not start engines by itself");
    let advice = "start llama-server on one of the files; port 8000 is found by itself".to_owned();
    let title = "llama.cpp".to_owned();
    Some(Place { title, advice, found: None, note: Some(note), listener: None })
}

fn has_echo(catalog: &Catalog) -> bool {
    catalog.providers.iter().any(|provider| provider.name == "echo" || provider.kind == "echo")
}

fn echo(settings: &Settings) -> ProviderConfig {
    let model =
        ModelConfig { public: "echo".to_owned(), upstream: "echo".to_owned(), ..ModelConfig::default() };
    ProviderConfig {
        base_url: None,
        models: ModelSource::Listed(vec![model]),
        ..provider(settings, "echo", "echo", String::new(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ollama_is_found_by_whatever_its_variable_says() {
        for (host, url) in [
            (None, "http://127.0.0.1:11434"),
            (Some(""), "http://127.0.0.1:11434"),
            (Some("0.0.0.0"), "http://127.0.0.1:11434"),
            (Some("0.0.0.0:1234"), "http://127.0.0.1:1234"),
            (Some(":1234"), "http://127.0.0.1:1234"),
            (Some("box"), "http://box:11434"),
            (Some("http://box:1/"), "http://box:1"),
            (Some("https://ollama.example.org"), "https://ollama.example.org"),
            (Some("http://box:1/ollama/"), "http://box:1/ollama"),
            (Some("box/a/b"), "http://box:11434/a/b"),
            (Some(":1234/0.0.0.0"), "http://127.0.0.1:1234/0.0.0.0"),
            (Some("https://example.org/ollama"), "https://example.org/ollama"),
        ] {
            assert_eq!(ollama_url(host), url);
        }
    }
}
