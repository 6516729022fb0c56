//! The gateway without listeners, for one person at a terminal: the same models, prompts, providers and engines, and nothing
//! that is kept.

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::timeout;

use super::{ENGINES_END, Faults, Sources};
use crate::callers::Budgets;
use crate::config::{Environment, Settings};
use crate::engine::{Engines, Launcher, RunPlace};
use crate::gateway::{Gateway, GatewayError, Generated, MeteredStream};
use crate::llm::unique_number;
use crate::telemetry::{Metrics, Progress, RequestRecord};
use crate::wire::openai;

/// A gateway for this process alone.
#[derive(Debug)]
pub struct Alone {
    gateway: Gateway,
    engines: Engines,
}

impl Alone {
    /// Reads everything, and asks the providers what they have.
    ///
    /// # Errors
    /// All faults of the configuration.
    pub async fn build(
        settings: Settings,
        folder: PathBuf,
        environment: &Environment,
    ) -> Result<Self, Faults> {
        let metrics = Metrics::default();
        let run_place = Arc::new(RunPlace::in_folder(&settings.folders.run).await);
        let launcher = Launcher::default().recording_at(run_place);
        let engines = Engines::started_by(launcher).metered_by(metrics.clone());
        let zone = settings.storage.zone.clone();
        let sources = Sources::new(settings, folder, metrics).with_engines(engines.clone());
        let progress = Progress::if_watched();
        let loaded = sources.load(environment, progress.as_ref()).await?;
        let providers: Vec<&str> = loaded.served().iter().map(|served| served.config.name.as_str()).collect();
        engines.settle(&providers);
        Ok(Self { gateway: Gateway::new(loaded.state(), Budgets::new(zone)), engines })
    }

    /// The names of all models, in the order of the catalog.
    pub fn models(&self) -> Vec<String> {
        self.gateway.state().listed(None).iter().map(|route| route.model.to_string()).collect()
    }

    /// Whether there is a model of that name.
    ///
    /// # Errors
    /// There is none, with the one that was probably meant.
    pub fn knows(&self, model: &str) -> Result<(), GatewayError> {
        self.gateway.first_deployment(model, None).map(drop)
    }

    /// Asks for an answer as a stream of events, in OpenAI's form. Dropping it ends it everywhere.
    ///
    /// # Errors
    /// There is none, in words for people.
    pub async fn chat(&self, body: Bytes) -> Result<MeteredStream, String> {
        let request = openai::chat_request(body, true).map_err(|invalid| invalid.message)?;
        let record = Arc::new(RequestRecord::new(format!("{:016x}", unique_number())));
        let reply = self.gateway.chat(request, record).await.map_err(|error| in_words(&error))?;
        match reply.body {
            Generated::Stream(stream) => Ok(stream),
            Generated::Whole(_) => Err("the answer is no stream".to_owned()),
        }
    }

    /// Ends the engines that were started.
    pub async fn end(self) {
        // What is left ends with the process.
        drop(timeout(ENGINES_END, self.engines.end()).await);
    }
}

/// An error with its cause: of a route that gives no answer, what the last provider said.
fn in_words(error: &GatewayError) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
