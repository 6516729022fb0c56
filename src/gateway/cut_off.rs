//! Ends a stream when a budget that ends answers is used up.
//!
//! Events are taken for tokens, as engines send one for each. What others spend meanwhile is looked at now and then, and
//! before anything is ended: a new day may have begun.

use std::sync::Arc;

use crate::callers::now_ms;
use crate::llm::{ChatRequest, Ends, Frames, RequestKind, Usage};
use crate::router::{Ask, Route};
use crate::telemetry::RequestRecord;
use crate::wire::openai::ChunkWriter;

/// After so many events it is looked at again how much is left.
const LOOK_AFTER: u64 = 32;

/// Watches a stream whose caller has such a budget.
#[derive(Debug)]
pub(super) struct CutOff {
    record: Arc<RequestRecord>,
    kind: RequestKind,
    model: String,
    /// How many answers are asked for.
    answers: u64,
    input_tokens: u64,
    /// So many events may pass.
    allowed: u64,
    looked_at: u64,
    passed: u64,
    ends: Ends,
    writer: Option<ChunkWriter>,
}

/// What is still sent of a stream that is ended.
#[derive(Debug)]
pub(super) struct Rest {
    /// The first events of the run.
    pub(super) frames: Frames,
    /// The choices that are ended by it.
    choices: Vec<u32>,
    writer: ChunkWriter,
}

impl CutOff {
    /// For the answer to a request; `None` if it may end by itself.
    pub(super) fn of(request: &ChatRequest, record: &Arc<RequestRecord>) -> Option<Self> {
        let input_tokens = Usage::estimated_prompt(request.body.text());
        let model = request.model.clone();
        Some(Self { model, answers: request.answers(), ..Self::of_raw(request.kind, input_tokens, record)? })
    }

    /// The same for the answer to a raw request, whose prompt has so many tokens. Which model answers is told by its chunks.
    pub(super) fn of_raw(kind: RequestKind, input_tokens: u64, record: &Arc<RequestRecord>) -> Option<Self> {
        let allowed = left(record, input_tokens)?;
        Some(Self {
            record: record.clone(),
            kind,
            model: String::new(),
            answers: 1,
            input_tokens,
            allowed,
            looked_at: 0,
            passed: 0,
            ends: Ends::default(),
            writer: None,
        })
    }

    /// Whether there is a budget that may end the answer to a request.
    pub(super) fn is_wanted(record: &RequestRecord) -> bool {
        left(record, 0).is_some()
    }

    /// Lets a run pass, or says what is left of the stream with it.
    pub(super) fn pass(&mut self, frames: &Frames, ends: Ends) -> Option<Rest> {
        if self.writer.is_none() {
            let first = frames.jsons().next().unwrap_or_default();
            self.writer = Some(ChunkWriter::like(self.kind, first, &self.model));
        }
        let events = frames.jsons().count() as u64;
        let passed = self.passed.saturating_add(events);
        if passed >= self.allowed || passed - self.looked_at >= LOOK_AFTER {
            self.look(passed);
        }
        let mut all = self.ends;
        all.add(ends);
        // Of an answer that has come to its end there is nothing to be ended.
        if passed < self.allowed || all.are_all() {
            (self.passed, self.ends) = (passed, all);
            return None;
        }
        let still = usize::try_from(self.allowed.saturating_sub(self.passed)).unwrap_or(usize::MAX);
        let frames = frames.first(still);
        let mut ends = self.ends;
        ends.add(frames.read().ends);
        let mut writer = self.writer.take()?;
        if self.passed > 0 || still > 0 {
            writer.has_begun();
        }
        let is_meant = |choice: &u32| ends.is_seen(*choice) || u64::from(*choice) < self.answers;
        let choices = (0..Ends::MOST).filter(is_meant).filter(|choice| !ends.has_ended(*choice)).collect();
        Some(Rest { frames, choices, writer })
    }

    fn look(&mut self, passed: u64) {
        self.looked_at = passed;
        // Without a permit any more, nobody would count what comes.
        self.allowed = left(&self.record, self.input_tokens).unwrap_or(0);
    }
}

/// How many tokens the budgets have for the answer to a prompt of so many, at the price of who answers.
fn left(record: &RequestRecord, input_tokens: u64) -> Option<u64> {
    let facts = record.facts();
    facts.permit.as_ref()?.left(now_ms()).for_answer(input_tokens, facts.price.as_deref())
}

/// The request for an answer in one piece that may become no longer than budgets allow that would end it: by the price of
/// who is asked first. `None` if nothing ends it, or the gateway does.
pub(super) fn bounded<R: Ask>(request: &R, route: &Route, record: &RequestRecord) -> Option<R> {
    let left = record.facts().permit.as_ref()?.left(now_ms());
    let price = route.deployments.first().and_then(|deployment| deployment.prices.now());
    let most = left.for_answer(request.input_tokens(), price.map(|price| &**price))?;
    request.within(most.max(1))
}

impl Rest {
    /// The event that ends all choices, alone.
    pub(super) fn into_end(mut self) -> Frames {
        self.writer.finish_each(&self.choices, "length")
    }

    /// The events in the place of all that would have come, with what was used if that is to be shown.
    pub(super) fn into_frames(mut self, usage: Option<&Usage>) -> Frames {
        let end = self.writer.finish_each(&self.choices, "length");
        let usage = usage.map(|usage| self.writer.usage(usage));
        let runs = [Some(&self.frames), Some(&end), usage.as_ref()];
        let bytes: Vec<&[u8]> = runs.into_iter().flatten().map(|run| run.bytes().as_ref()).collect();
        Frames::of_events(bytes.concat().into())
    }
}
