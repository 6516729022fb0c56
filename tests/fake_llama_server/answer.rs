//! Slots, and the answers that run in them: a word a token.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::options::Options;

pub(crate) struct Slots {
    pub(crate) options: Arc<Options>,
    free: Arc<Semaphore>,
    /// Prompt and answer of what runs, in tokens.
    running: Mutex<Vec<Option<(usize, usize)>>>,
    /// How often the shared context has overflowed.
    overflows: AtomicU64,
}

/// An answer that holds a slot until it is dropped.
pub(crate) struct Answer {
    slots: Arc<Slots>,
    _permit: OwnedSemaphorePermit,
    slot: usize,
    prompt: usize,
    said: usize,
    most: usize,
    overflows: u64,
    is_done: bool,
    began: Instant,
}

pub(crate) enum Step {
    Word(String),
    /// With its finish reason.
    End(&'static str),
    /// The context that all share is full.
    Overflow,
}

impl Slots {
    pub(crate) fn new(options: Arc<Options>) -> Self {
        let free = Arc::new(Semaphore::new(options.slots));
        let running = Mutex::new(vec![None; options.slots]);
        Self { options, free, running, overflows: AtomicU64::new(0) }
    }

    /// Waits for a slot, as long as it takes.
    pub(crate) async fn answer(self: &Arc<Self>, prompt: &str, request: &Value) -> Answer {
        let permit = self.free.clone().acquire_owned().await.expect("never closed");
        let tokens = words(prompt);
        let slot = {
            let mut running = self.running.lock().unwrap();
            let slot = running.iter().position(Option::is_none).expect("one a permit");
            running[slot] = Some((tokens, 0));
            slot
        };
        self.options.note(&format!("request {tokens}"));
        let asked = ["max_tokens", "max_completion_tokens", "n_predict"];
        let asked = asked.iter().find_map(|name| request[*name].as_u64());
        let wanted = prompt.split_whitespace().find_map(|word| word.strip_prefix("answer=")?.parse().ok());
        let wanted: usize = wanted.or(self.options.number("answer-tokens")).unwrap_or(8);
        Answer {
            slots: self.clone(),
            _permit: permit,
            slot,
            prompt: tokens,
            said: 0,
            most: asked.map_or(wanted, |asked| wanted.min(usize::try_from(asked).unwrap())),
            overflows: self.overflows.load(Ordering::SeqCst),
            is_done: false,
            began: Instant::now(),
        }
    }

    pub(crate) fn shown(&self) -> Value {
        let running = self.running.lock().unwrap();
        let slot = |(id, state): (usize, &Option<(usize, usize)>)| {
            json!({"id": id, "n_ctx": self.options.slot_context(), "is_processing": state.is_some(),
                "n_prompt_tokens": state.map_or(0, |(prompt, _)| prompt),
                "next_token": [{"n_decoded": state.map_or(0, |(_, said)| said)}]})
        };
        running.iter().enumerate().map(slot).collect()
    }

    /// Whether all that runs still fits. If not, all of it fails.
    fn fits(&self, overflows: u64) -> bool {
        let used: usize =
            self.running.lock().unwrap().iter().flatten().map(|(prompt, said)| prompt + said).sum();
        let is_new = self.overflows.load(Ordering::SeqCst) == overflows;
        if is_new && self.options.is_shared && used > self.options.context {
            self.overflows.fetch_add(1, Ordering::SeqCst);
        }
        self.overflows.load(Ordering::SeqCst) == overflows
    }
}

impl Answer {
    pub(crate) async fn next(&mut self) -> Step {
        let options = &self.slots.options;
        tokio::time::sleep(options.time("token-ms").unwrap_or(Duration::from_millis(1))).await;
        if !self.slots.fits(self.overflows) {
            self.is_done = true;
            return Step::Overflow;
        }
        if options.number("crash-after") == Some(self.said) {
            eprintln!("GGML_ASSERT: the device is lost");
            std::process::abort();
        }
        if options.number("killed-after") == Some(self.said) {
            let own = std::process::id().to_string();
            std::process::Command::new("kill").args(["-9", &own]).status().unwrap();
        }
        let is_full = self.prompt + self.said >= options.slot_context();
        if is_full || self.said == self.most {
            self.is_done = true;
            options.note("done");
            return Step::End(if is_full { "length" } else { "stop" });
        }
        self.said += 1;
        self.slots.running.lock().unwrap()[self.slot] = Some((self.prompt, self.said));
        Step::Word(format!("w{} ", self.said))
    }

    pub(crate) fn usage(&self) -> Value {
        json!({"prompt_tokens": self.prompt, "completion_tokens": self.said, "total_tokens": self.prompt + self.said,
            "prompt_tokens_details": {"cached_tokens": 0}})
    }

    pub(crate) fn timings(&self) -> Value {
        let milliseconds = self.began.elapsed().as_secs_f64() * 1000.0;
        json!({"cache_n": 0, "prompt_n": self.prompt, "prompt_ms": 1.0,
            "predicted_n": self.said, "predicted_ms": milliseconds})
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.slots.running.lock().unwrap()[self.slot] = None;
        if !self.is_done {
            self.slots.options.note("left");
        }
    }
}

pub(crate) fn words(text: &str) -> usize {
    text.split_whitespace().count()
}
