//! All pools of the service, which outlive a change of the configuration, and how prompts are counted for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast};
use tokio_util::task::TaskTracker;

use super::estimate::{self, Experience, Guess};
use super::need::Need;
use super::pool::{Configured, Pool, Stage};
use super::process::Launcher;
use super::tokenizer;
use super::view::EngineEvent;
use crate::config::{EngineModel, EngineSettings, Tokenization};
use crate::llm::{ChatRequest, RawObject};
use crate::telemetry::Metrics;

/// A prompt that takes no more than this part of a context, whatever its tokens, is not counted.
const SHORT: u64 = 16;
/// How long an engine may take to count a prompt.
const COUNTING: Duration = Duration::from_secs(2);

/// All engines of the service.
#[derive(Clone, Debug)]
pub struct Engines {
    // A std mutex: held for a look into two maps.
    pools: Arc<Mutex<Pools>>,
    tasks: TaskTracker,
    launcher: Launcher,
    events: broadcast::Sender<EngineEvent>,
    metrics: Metrics,
}

/// So many steps are kept for a listener that is slow; then it misses some.
const EVENTS_KEPT: usize = 256;

#[derive(Debug, Default)]
struct Pools {
    current: HashMap<String, Arc<Pool>>,
    /// Of providers that are new in a configuration that may still be refused.
    new: HashMap<String, Arc<Pool>>,
    /// What such a configuration says.
    proposed: HashMap<String, Configured>,
}

impl Default for Engines {
    fn default() -> Self {
        Self {
            pools: Arc::default(),
            tasks: TaskTracker::new(),
            launcher: Launcher::default(),
            events: broadcast::Sender::new(EVENTS_KEPT),
            metrics: Metrics::default(),
        }
    }
}

impl Engines {
    /// Engines that are started in this way.
    pub fn started_by(launcher: Launcher) -> Self {
        Self { launcher, ..Self::default() }
    }

    /// The same, with their figures among these.
    #[must_use]
    pub fn metered_by(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Where their figures are.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn locked(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool of a provider, the same as before if there was one. What is said of it holds with [`Engines::settle`].
    pub fn pool(
        &self,
        provider: &str,
        settings: &EngineSettings,
        models: Vec<(Arc<str>, EngineModel)>,
    ) -> Arc<Pool> {
        let configured = Configured { settings: settings.clone(), models };
        let mut pools = self.locked();
        pools.proposed.insert(provider.to_owned(), configured.clone());
        if let Some(pool) = pools.current.get(provider) {
            return pool.clone();
        }
        let stage =
            Stage { provider: provider.into(), events: self.events.clone(), metrics: self.metrics.clone() };
        let (tasks, launcher) = (self.tasks.clone(), self.launcher.clone());
        let pool = Arc::new(Pool::new(configured, tasks, launcher, stage));
        pools.new.insert(provider.to_owned(), pool.clone());
        pool
    }

    /// The configuration that was proposed last holds from now on, with these providers. Engines that it does not know
    /// any more end with their answers.
    pub fn settle(&self, providers: &[&str]) {
        let mut pools = self.locked();
        let Pools { current, new, proposed } = &mut *pools;
        current.extend(std::mem::take(new));
        let proposed = std::mem::take(proposed);
        current.retain(|provider, pool| {
            let configured = proposed.get(provider).filter(|_| providers.contains(&provider.as_str()));
            match configured {
                Some(configured) => pool.configure(configured.clone()),
                None => pool.close(),
            }
            configured.is_some()
        });
    }

    /// All pools with their providers' names, in the order of those.
    pub fn pools(&self) -> Vec<(String, Arc<Pool>)> {
        let pools = self.locked();
        let mut pools: Vec<_> =
            pools.current.iter().map(|(name, pool)| (name.clone(), pool.clone())).collect();
        pools.sort_by(|one, other| one.0.cmp(&other.0));
        pools
    }

    /// The pool of a provider, if the gateway runs its engines.
    pub fn pool_of(&self, provider: &str) -> Option<Arc<Pool>> {
        self.locked().current.get(provider).cloned()
    }

    /// Every step in any engine's life from now on.
    pub fn events(&self) -> broadcast::Receiver<EngineEvent> {
        self.events.subscribe()
    }

    /// Starts the engines that are to run from the beginning. Nobody waits for them.
    pub fn preload(&self) {
        self.pools().iter().for_each(|(_, pool)| pool.preload());
    }

    /// Stops all engines, and comes back when the last of them has ended.
    pub async fn end(&self) {
        for (_, pool) in self.pools() {
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
    /// Of the variants, smallest first.
    contexts: Vec<u64>,
    answer_reserve: u64,
    tokenization: Option<Tokenization>,
    /// One program at a time.
    programs: Semaphore,
    experience: Experience,
}

/// What was thought of a prompt, to be compared with what it turned out to be.
#[derive(Clone, Copy, Debug)]
pub struct Thought(Guess);

impl Counting {
    /// For a model, by its name and what is said of its engines.
    pub fn new(model: Arc<str>, engine: &EngineModel) -> Self {
        Self {
            model,
            contexts: engine.variants.iter().map(|variant| variant.context_tokens).collect(),
            answer_reserve: engine.default_output_reserve,
            tokenization: engine.tokenization.clone(),
            programs: Semaphore::new(1),
            experience: Experience::default(),
        }
    }

    /// What a request needs. It is counted exactly only where a guess cannot tell which variant will do: by the engine
    /// that runs, or else by the program that the models file names.
    pub async fn need(&self, pool: &Pool, request: &ChatRequest) -> (Need, Thought) {
        let guess = estimate::guess(request);
        let answer = estimate::answer_length(request, self.answer_reserve);
        let of = |prompt_tokens, is_counted| Need {
            prompt_tokens,
            answer,
            is_counted,
            is_alone: false,
            growth_tokens: 0,
        };
        let guessed = self.experience.corrected(guess);
        let counted = match self.by_engine(pool, request, guess).await {
            None if self.smallest(of(guess.at_most, false)) != self.smallest(of(guess.at_least, false)) => {
                self.by_program(pool, request, guess).await
            }
            counted => counted,
        };
        let largest = self.contexts.last().copied().unwrap_or(0);
        let need = match counted {
            Some(tokens) => of(tokens, true),
            // Whatever the tokens of this model are, they are too many.
            None if guess.at_least >= largest => of(guess.at_least, true),
            None => of(guessed, false),
        };
        (need, Thought(guess))
    }

    /// What a request without a conversation needs: its longest text, whatever the tokens are.
    pub fn need_of_texts(&self, body: &RawObject) -> Need {
        let input = body.get("input").and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
        let prompt_tokens = estimate::longest_text(&input);
        Need { prompt_tokens, ..Need::NOTHING }
    }

    /// Counts by the engine that runs, if one does.
    async fn by_engine(&self, pool: &Pool, request: &ChatRequest, guess: Guess) -> Option<u64> {
        let (place, context_tokens) = pool.locate(&self.model).await?;
        // So short that it does not matter how much of the bound is used.
        if guess.at_most <= context_tokens / SHORT {
            return Some(guess.at_most);
        }
        place.door.input_tokens(request.body.text().clone(), COUNTING).await
    }

    /// Counts by the program, a request after the other: it loads the vocabulary anew each time.
    async fn by_program(&self, pool: &Pool, request: &ChatRequest, guess: Guess) -> Option<u64> {
        let tokenization = self.tokenization.as_ref()?;
        let _turn = self.programs.acquire().await.ok()?;
        // Meanwhile another request has had an engine started, mostly.
        if let Some(counted) = self.by_engine(pool, request, guess).await {
            return Some(counted);
        }
        let (text, messages) = estimate::text_of(request);
        let counted = tokenizer::count(tokenization, &text, messages).await?;
        // Pictures are not in the text.
        Some(counted + guess.pictures)
    }

    /// The variant that would be started.
    fn smallest(&self, need: Need) -> Option<usize> {
        let largest = self.contexts.last().copied().unwrap_or(0);
        self.contexts.iter().position(|context| need.fits(*context, *context == largest))
    }

    /// A prompt turned out to be so long.
    pub fn learn(&self, thought: Thought, counted: u64) {
        self.experience.learn(thought.0, counted);
    }
}
