//! Asks providers what models they have: all at once, each with a line for whoever waits.
//!
//! Nobody holds the others up: who has not answered in time goes on being asked, and keeps the models that it had.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::surroundings::Surroundings;
use crate::config::ProviderConfig;
use crate::providers::{ErrorKind, ModelCard, Provider};
use crate::router::Served;
use crate::telemetry::{Progress, Task};

/// How long all wait for who may be slow.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// How long a provider may take, whoever waits for it.
const LAST_ANSWER: Duration = Duration::from_secs(15);

/// What a provider says it has, or why it does not say.
pub(super) type Told = Result<Vec<ModelCard>, String>;

/// Why providers that were asked for their models named none, by their names.
pub(super) type Silent = BTreeMap<String, String>;

/// Those who are being asked yet.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// Their names.
    pub(super) names: Vec<String>,
    /// Each with what it says, once it does.
    pub(super) answers: FuturesUnordered<BoxFuture<'static, (String, Told)>>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Discovery {
    /// The providers, with their models.
    pub(super) served: Vec<Served>,
    pub(super) silent: Silent,
    pub(super) asking: Asking,
}

/// Asks all providers whose models are to be discovered, but for those that have just been asked. Those of `former` keep
/// the models that they had there as long as they do not answer.
pub(super) async fn discover(
    mut served: Vec<Served>,
    surroundings: &Surroundings,
    former: &[Served],
    progress: Option<&Progress>,
) -> Discovery {
    let (known, unknown): (Vec<&Served>, Vec<&Served>) = served
        .iter()
        .filter(|served| served.discovers())
        .partition(|served| surroundings.models_of(&served.config.name).is_some());
    let names: Vec<&str> = known.iter().chain(&unknown).map(|served| served.config.name.as_str()).collect();
    if !names.is_empty() {
        tracing::info!(providers = names.join(", "), "Asking what models there are");
    }
    let mut told: BTreeMap<String, Told> = known
        .iter()
        .filter_map(|served| Some((served.config.name.clone(), surroundings.models_of(&served.config.name)?)))
        .collect();
    let asking = ask_all(&unknown, &mut told, progress).await;
    let mut silent = Silent::new();
    for served in &mut served {
        match told.remove(&served.config.name) {
            Some(Ok(models)) => served.discovered = models,
            Some(Err(why)) => {
                let before = former.iter().find(|before| is_same(&before.config, &served.config));
                served.discovered = before.map(|before| before.discovered.clone()).unwrap_or_default();
                silent.insert(served.config.name.clone(), why);
            }
            None => {}
        }
    }
    Discovery { served, silent, asking }
}

/// Whether two configurations are of one server, whatever else they say of it.
fn is_same(one: &ProviderConfig, other: &ProviderConfig) -> bool {
    let server = |config: &ProviderConfig| {
        (config.name.clone(), config.kind.clone(), config.base_url.clone(), config.models_url.clone())
    };
    server(one) == server(other)
}

/// Asks all, and waits a moment for what they say. With those who have not said it by then.
async fn ask_all(
    providers: &[&Served],
    told: &mut BTreeMap<String, Told>,
    progress: Option<&Progress>,
) -> Asking {
    let began = Instant::now();
    let mut lines: BTreeMap<String, Option<Task<'_>>> = BTreeMap::new();
    let mut answers = FuturesUnordered::new();
    for served in providers {
        let name = &served.config.name;
        lines
            .insert(name.clone(), progress.map(|progress| progress.short_task(name, "asked for its models")));
        answers.push(ask(served).boxed());
    }
    while let Ok(Some((name, answer))) = timeout_at(began + FIRST_ANSWER, answers.next()).await {
        let line = lines.remove(&name).flatten();
        note(&name, &answer, began.elapsed(), line);
        told.insert(name, answer);
    }
    let names: Vec<String> = lines.keys().cloned().collect();
    for (name, line) in lines {
        let late = Err(format!("has not answered within {} s", FIRST_ANSWER.as_secs()));
        note(&name, &late, began.elapsed(), line);
        told.insert(name, late);
    }
    Asking { names, answers }
}

/// Says how it went: to whoever watches, or else in the log.
fn note(provider: &str, told: &Told, took: Duration, line: Option<Task<'_>>) {
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match (told, line) {
        (Ok(models), Some(line)) => {
            let plural = if models.len() == 1 { "" } else { "s" };
            line.ends(&format!("done, {} model{plural}, {ms} ms", models.len()));
        }
        (Err(why), Some(line)) => line.ends(&format!("failed: {why}, {ms} ms")),
        (Ok(models), None) => {
            tracing::info!(provider, models = models.len(), ms, "The provider has told its models");
        }
        (Err(why), None) => tracing::info!(provider, why, ms, "The provider has not told its models"),
    }
}

/// Asks a provider what models it has: its name, and what it says.
pub(super) fn ask(served: &Served) -> impl Future<Output = (String, Told)> + Send + use<> {
    let (name, provider) = (served.config.name.clone(), served.provider.clone());
    async move { (name, told(provider.as_ref()).await) }
}

async fn told(provider: &dyn Provider) -> Told {
    match timeout(LAST_ANSWER, provider.models()).await {
        Ok(Ok(models)) => Ok(models),
        Ok(Err(error)) => {
            tracing::debug!(provider = provider.name(), %error, "The provider does not say what models it has");
            Err(match error.kind {
                ErrorKind::Unreachable => error.kind.to_string(),
                kind => format!("does not say what models it has: it {kind}"),
            })
        }
        Err(_) => Err(format!("has not answered within {} s", LAST_ANSWER.as_secs())),
    }
}
