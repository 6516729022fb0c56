//! How long a prompt is: as exactly as the choice of an engine needs it, and no more.
//!
//! What it takes grows with the exactness, so the sources are asked in this order, until the answer can change nothing:
//! the length in bytes; what the conversation took the last time; the engine that runs; the model's own file; a program
//! that the models file names. Where none of them knows, a guess is right that has learned from earlier ones.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::counter::Counter;
use super::estimate::{self, Experience, Guess, Sketch};
use super::lease::{Death, EngineError, Place};
use super::memory::{Mark, Memory};
use super::need::Need;
use super::planner::Capacity;
use super::pool::Pool;
use super::tokenizer;
use crate::config::{EngineModel, Tokenization};
use crate::llm::{ChatRequest, Count, CountRequest, CountSource, RawObject, RequestKind, Usage};
use crate::telemetry::EngineMetrics;

/// What takes no more than this part of a context is not worth counting.
const SHORT: u64 = 16;
/// How long an engine may take to count a prompt.
const PATIENCE: Duration = Duration::from_secs(2);
/// The end of a process is noticed a moment after its connections broke.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// By the model's file a prompt is counted nearly right. So many of its tokens are sure, of a hundred.
const SURE: u64 = 95;

/// How the prompts of one model are counted.
pub struct Counting {
    model: Arc<str>,
    /// Of the variants, smallest first.
    contexts: Vec<u64>,
    answer_reserve: u64,
    tokenization: Option<Tokenization>,
    /// One count at a time, where it costs much.
    turns: Semaphore,
    /// By the model's own file, while no engine runs.
    counter: Option<Counter>,
    experience: Experience,
    memory: Memory,
    metrics: EngineMetrics,
}

impl std::fmt::Debug for Counting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counting").field("model", &self.model).finish_non_exhaustive()
    }
}

/// What was thought of a prompt, to be compared with what it turned out to be.
#[derive(Clone, Copy, Debug)]
pub struct Thought {
    guess: Guess,
    /// In the end.
    tokens: u64,
    mark: Mark,
}

impl Counting {
    /// For a model, by its name and what is said of its engines. `program` is this one, of which children are started.
    pub fn new(model: Arc<str>, engine: &EngineModel, program: &Path, metrics: EngineMetrics) -> Self {
        let mut files = engine.variants.iter().map(crate::config::EngineVariant::model_file);
        let file = files.next().flatten();
        // Variants of different models would have to be counted one by one.
        let file = file.filter(|file| files.all(|other| other.as_ref() == Some(file)));
        Self {
            model,
            contexts: engine.variants.iter().map(|variant| variant.context_tokens).collect(),
            answer_reserve: engine.default_output_reserve,
            tokenization: engine.tokenization.clone(),
            turns: Semaphore::new(1),
            counter: file.map(|file| Counter::new(program, file)),
            experience: Experience::default(),
            memory: Memory::default(),
            metrics,
        }
    }

    /// What a request needs, and what was thought for it; nothing if it was not worth a thought.
    ///
    /// # Errors
    /// The engine that was to count it crashed over it.
    pub async fn need(
        &self,
        pool: &Pool,
        request: &ChatRequest,
    ) -> Result<(Need, Option<Thought>), EngineError> {
        let answer = estimate::answer_length(request, self.answer_reserve);
        let of = |tokens| Need { prompt_tokens: tokens, prompt_at_most: tokens, answer, ..Need::NOTHING };
        let smallest = self.contexts.first().copied().unwrap_or(0);
        if let Some(tokens) = estimate::at_most(request).filter(|tokens| *tokens <= smallest / SHORT) {
            return Ok((of(tokens), None));
        }
        let (guess, learned, mark, growth_tokens) = {
            let sketch = Sketch::of(request);
            match self.memory.recall(&sketch) {
                (Some(recalled), mark) => (recalled.guess, sketch.guess, mark, recalled.growth_tokens),
                (None, mark) => {
                    let tokens = self.experience.corrected(sketch.guess);
                    (Guess { tokens, ..sketch.guess }, sketch.guess, mark, 0)
                }
            }
        };
        let largest = self.contexts.last().copied().unwrap_or(0);
        let (tokens, at_most, is_counted) = match self.counted(pool, request, guess, &of).await? {
            Some((tokens, true)) => (tokens, tokens, true),
            Some((tokens, false)) => (tokens, guess.at_most.min(tokens * 100 / SURE), false),
            // Whatever the tokens of this model are, they are too many.
            None if guess.at_least >= largest => (guess.at_least, guess.at_most, true),
            None => (guess.tokens, guess.at_most, false),
        };
        let need = Need { is_counted, growth_tokens, prompt_at_most: at_most, ..of(tokens) };
        Ok((need, Some(Thought { guess: learned, tokens, mark })))
    }

    /// What a request without a conversation needs: its longest text, whatever the tokens are.
    pub fn need_of_texts(&self, body: &RawObject) -> Need {
        let input = body.get("input").and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
        let tokens = estimate::longest_text(&input);
        Need { prompt_tokens: tokens, prompt_at_most: tokens, ..Need::NOTHING }
    }

    /// The number of tokens, and whether it is sure; `None` where a guess has to do, or does.
    async fn counted(
        &self,
        pool: &Pool,
        request: &ChatRequest,
        guess: Guess,
        of: &impl Fn(u64) -> Need,
    ) -> Result<Option<(u64, bool)>, EngineError> {
        let same = self.smallest(of(guess.at_most)) == self.smallest(of(guess.at_least));
        let Some((_, capacity)) = pool.serving(&self.model) else {
            return if same { Ok(None) } else { self.by_hand(pool, request, guess).await };
        };
        if of(guess.at_most).fits(capacity.context_tokens, false) {
            // In a context of its own nobody is harmed by a wrong guess.
            let is_vague = is_worth_counting(guess, capacity);
            return if is_vague { self.by_the_running(pool, request).await } else { Ok(None) };
        }
        let must_grow = same && !of(guess.at_least).fits(capacity.context_tokens, false);
        if must_grow { Ok(None) } else { self.by_the_running(pool, request).await }
    }

    /// Counts prompts for somebody who wants to know: by the engine that runs, or by the model's own file. Nothing is
    /// started for it.
    pub async fn count(&self, pool: &Pool, request: &CountRequest) -> Option<Count> {
        if let Some(tokens) = self.all_by_engine(pool, request).await {
            return Some(Count { tokens, source: CountSource::Engine });
        }
        let _turn = self.turns.acquire().await.ok()?;
        let mut tokens = Vec::with_capacity(request.prompts.len());
        for prompt in &request.prompts {
            // Of pictures the file says nothing.
            if Sketch::of(prompt).guess.pictures > 0 {
                return None;
            }
            tokens.push(self.by_vocabulary(prompt).await?);
        }
        Some(Count { tokens, source: CountSource::Tokenizer })
    }

    async fn all_by_engine(&self, pool: &Pool, request: &CountRequest) -> Option<Vec<u64>> {
        let mut tokens = Vec::with_capacity(request.prompts.len());
        for prompt in &request.prompts {
            tokens.push(self.by_engine(pool, prompt).await.ok()??);
        }
        Some(tokens)
    }

    async fn by_the_running(
        &self,
        pool: &Pool,
        request: &ChatRequest,
    ) -> Result<Option<(u64, bool)>, EngineError> {
        Ok(self.by_engine(pool, request).await?.map(|tokens| (tokens, true)))
    }

    /// Counts by the engine that runs, if one does.
    ///
    /// # Errors
    /// It crashed over this request.
    async fn by_engine(&self, pool: &Pool, request: &ChatRequest) -> Result<Option<u64>, EngineError> {
        let Some((place, _)) = pool.serving(&self.model) else { return Ok(None) };
        let arrival = place.arrive();
        match self.asked(&place, request).await {
            Ok(counted) => Ok(counted),
            // It may be at work.
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Ok(None),
            Err(_)
                if place.death(LAST_MOMENT).await == Some(Death::Crash) && arrival.has_ended_the_engine() =>
            {
                Err(EngineError::Crashed)
            }
            Err(_) => Ok(None),
        }
    }

    async fn asked(&self, place: &Place, request: &ChatRequest) -> std::io::Result<Option<u64>> {
        // It knows its own tokens.
        if let Some(counter) = &self.counter {
            counter.end();
        }
        let body = request.body.text().clone();
        match request.kind {
            RequestKind::Chat => place.door.input_tokens(body, PATIENCE).await,
            RequestKind::Completion => match request.body.get("prompt") {
                Some(prompt) => place.door.tokens_of(prompt, PATIENCE).await,
                None => Ok(None),
            },
        }
    }

    /// Counts while no engine runs, a request after the other.
    async fn by_hand(
        &self,
        pool: &Pool,
        request: &ChatRequest,
        guess: Guess,
    ) -> Result<Option<(u64, bool)>, EngineError> {
        let Ok(_turn) = self.turns.acquire().await else { return Ok(None) };
        // Meanwhile another request has had an engine started, mostly.
        if let Some(counted) = self.by_engine(pool, request).await? {
            return Ok(Some((counted, true)));
        }
        Ok(self.without_engine(request, guess).await)
    }

    async fn without_engine(&self, request: &ChatRequest, guess: Guess) -> Option<(u64, bool)> {
        // Pictures are not in the text.
        if let Some(counted) = self.by_vocabulary(request).await {
            let largest = self.contexts.last().copied().unwrap_or(0);
            return Some((counted + guess.pictures, counted * SURE / 100 >= largest));
        }
        let tokenization = self.tokenization.as_ref()?;
        let (text, messages) = estimate::text_of(request);
        let counted = tokenizer::count(tokenization, &text, messages).await?;
        Some((counted + guess.pictures, true))
    }

    /// Counts by the model's own file.
    async fn by_vocabulary(&self, request: &ChatRequest) -> Option<u64> {
        self.counter.as_ref()?.count(request).await
    }

    /// The variant that would be started.
    fn smallest(&self, need: Need) -> Option<usize> {
        let largest = self.contexts.last().copied().unwrap_or(0);
        self.contexts.iter().position(|context| need.fits(*context, *context == largest))
    }

    /// A prompt, answered there, turned out to be so long.
    pub fn learn(&self, thought: Option<Thought>, place: &Place, usage: Usage) {
        if let Some(cache) = &place.cache {
            cache.judge(thought.and_then(|thought| thought.mark.before), usage.cached_input_tokens);
        }
        let Some(thought) = thought.filter(|_| usage.input_tokens > 0) else { return };
        self.metrics.estimated(thought.tokens, usage.input_tokens);
        self.experience.learn(thought.guess, usage.input_tokens);
        self.memory.remember(thought.mark, usage.input_tokens, usage.output_tokens);
    }
}

/// Whether it matters how much exactly a prompt takes of a context that holds it. Where it is shared, too much would be
/// kept free for it, and too little would harm others.
fn is_worth_counting(guess: Guess, capacity: Capacity) -> bool {
    let Capacity { slots, context_tokens, is_shared, .. } = capacity;
    let is_vague = guess.at_most - guess.at_least.min(guess.at_most) > context_tokens / SHORT;
    is_shared && is_vague && guess.at_most > context_tokens / (slots.max(1) as u64 * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_matters_is_counted() {
        let guess = |at_least, at_most| Guess { tokens: at_most, at_most, at_least, pictures: 0 };
        let shared = Capacity { slots: 4, context_tokens: 4096, is_shared: true, pool_tokens: 4096 };
        assert!(is_worth_counting(guess(100, 2000), shared));
        assert!(!is_worth_counting(guess(1900, 2000), shared), "it is known well enough");
        assert!(!is_worth_counting(guess(10, 500), shared), "eight of them fit");
        assert!(!is_worth_counting(guess(100, 2000), Capacity { is_shared: false, ..shared }));
    }
}
