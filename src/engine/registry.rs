//! All pools of the service, which outlive a change of the configuration, and how prompts are counted for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::estimate::{self, Experience, Guess};
use super::need::Need;
use super::pool::{EngineState, Pool};
use super::process::Launcher;
use crate::config::{EngineModel, EngineSettings};
use crate::llm::ChatRequest;

/// How long an engine may take to count a prompt.
const COUNTING: Duration = Duration::from_secs(2);

/// All engines of the service.
#[derive(Clone, Debug, Default)]
pub struct Engines {
    // A std mutex: held for a look into a map.
    pools: Arc<Mutex<HashMap<String, Arc<Pool>>>>,
    tasks: TaskTracker,
    launcher: Launcher,
}

impl Engines {
    /// Engines that are started in this way.
    pub fn started_by(launcher: Launcher) -> Self {
        Self { launcher, ..Self::default() }
    }

    /// The pool of a provider. One that is configured as before is the same as before; another takes the place of the
    /// old one, whose engines end with their answers.
    pub fn pool(
        &self,
        provider: &str,
        settings: &EngineSettings,
        models: Vec<(Arc<str>, EngineModel)>,
    ) -> Arc<Pool> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(provider).filter(|pool| pool.is_for(settings, &models)) {
            return pool.clone();
        }
        let pool = Arc::new(Pool::new(settings.clone(), models, self.tasks.clone(), self.launcher.clone()));
        if let Some(old) = pools.insert(provider.to_owned(), pool.clone()) {
            old.close();
        }
        pool
    }

    /// All engines of a provider, as they were a moment ago.
    pub fn states(&self, provider: &str) -> Vec<EngineState> {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.get(provider).map(|pool| pool.states()).unwrap_or_default()
    }

    /// Stops all engines, and comes back when the last of them has ended.
    pub async fn end(&self) {
        for pool in self.pools.lock().unwrap_or_else(PoisonError::into_inner).values() {
            pool.close();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// How the prompts of one model are counted.
#[derive(Debug)]
pub struct Counting {
    model: Arc<str>,
    answer_reserve: u64,
    experience: Experience,
}

/// What was thought of a prompt, to be compared with what it turned out to be.
#[derive(Clone, Copy, Debug)]
pub struct Thought(Guess);

impl Counting {
    /// For a model that keeps so many tokens for answers of open length.
    pub fn new(model: Arc<str>, answer_reserve: u64) -> Self {
        Self { model, answer_reserve, experience: Experience::default() }
    }

    /// What a request needs. The engine that runs counts it exactly, where only that can tell whether it fits.
    pub async fn need(&self, pool: &Pool, request: &ChatRequest) -> (Need, Thought) {
        let guess = estimate::guess(request);
        let answer = estimate::answer_length(request, self.answer_reserve);
        let of = |prompt_tokens| Need { prompt_tokens, answer };
        let mut prompt_tokens = self.experience.corrected(guess);
        if let Some((place, context_tokens)) = pool.locate(&self.model).await
            && !of(guess.at_most).fits(context_tokens, false)
        {
            let counted = place.door.input_tokens(request.body.text().clone(), COUNTING).await;
            prompt_tokens = counted.unwrap_or(prompt_tokens);
        }
        (of(prompt_tokens), Thought(guess))
    }

    /// A prompt turned out to be so long.
    pub fn learn(&self, thought: Thought, counted: u64) {
        self.experience.learn(thought.0, counted);
    }
}
