//! Counts what an answer took, however it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;

use super::cut_off::{CutOff, Rest};
use crate::llm::{ChatRequest, Completion, EmbedRequest, Embeddings, Frames, Usage, UsageSource, text_bytes};
use crate::providers::{FrameStream, ProviderError};
use crate::router::{Deployment, Key};
use crate::telemetry::RequestRecord;

/// No event of a single token is longer than this.
const LONG_EVENT_BYTES: usize = 512;

/// The meter of one answer. What it has counted goes into the request's record when it is dropped, so
/// that no end of an answer can pass it by.
#[derive(Debug)]
pub struct Meter {
    record: Arc<RequestRecord>,
    /// Who answers.
    deployment: Arc<Deployment>,
    /// With which key, if there are several.
    key: Option<Arc<Key>>,
    /// For the estimate where the provider does not count.
    request_tokens: u64,
    /// Whether the caller is to see the usage chunk.
    shows_usage: bool,
    usage: Option<Usage>,
    /// An estimate of the answer so far. Most engines send an event a token; longer events are measured by their text.
    answer_tokens: u64,
    /// What may end it before its time, boxed, for hardly any has it.
    cut_off: Option<Box<CutOff>>,
}

impl Meter {
    pub(super) fn new(
        request: &ChatRequest,
        record: Arc<RequestRecord>,
        (deployment, key): (Arc<Deployment>, Option<Arc<Key>>),
    ) -> Self {
        let cut_off = if request.stream { CutOff::of(request, &record) } else { None };
        Self {
            cut_off: cut_off.map(Box::new),
            record,
            deployment,
            key,
            request_tokens: Usage::estimated_prompt(request.body.text()),
            shows_usage: request.include_usage,
            usage: None,
            answer_tokens: 0,
        }
    }

    /// Meters an answer that came in one piece. A count that its provider leaves out is put into it.
    pub(super) fn whole(mut self, completion: &mut Completion) {
        self.usage = completion.usage;
        self.answer_tokens = Usage::estimated_tokens(completion.text_bytes);
        if self.lacks_a_count() {
            completion.set_usage(self.used());
        }
        note_first_token(&self.record);
    }

    /// Meters an answer as it passes.
    pub(super) fn stream(self, frames: FrameStream) -> MeteredStream {
        self.record.facts().stream = true;
        MeteredStream { frames: Some(frames), meter: self }
    }

    /// Counts a run, and leaves out of it what only the gateway wanted to know.
    fn pass(
        &mut self,
        frames: Frames,
        usage: Option<Usage>,
        usage_only: &[std::ops::Range<usize>],
    ) -> Option<Frames> {
        if self.answer_tokens == 0 {
            note_first_token(&self.record);
        }
        self.usage = usage.map(|usage| usage.after(self.usage)).or(self.usage);
        self.answer_tokens += frames.jsons().map(tokens_of).sum::<u64>();
        match usage_only {
            [] => Some(frames),
            _ if !self.shows_usage => frames.without(usage_only),
            _ if self.lacks_a_count() => Some(frames.with_usage(usage_only, &self.used())),
            _ => Some(frames),
        }
    }

    /// Whether the provider has reported only one of the two counts.
    fn lacks_a_count(&self) -> bool {
        self.usage.is_some_and(|usage| usage.missing.is_some())
    }

    /// Ends the answer with this run, of which only a part passes.
    fn cut(&mut self, rest: Rest) -> Frames {
        let usage = rest.frames.read().usage;
        self.pass(rest.frames.clone(), usage, &[]);
        self.record.facts().is_cut = true;
        let usage = self.used();
        rest.into_frames(self.shows_usage.then_some(&usage))
    }

    /// What was used, for all that is known now.
    fn used(&self) -> Usage {
        let estimate = Usage {
            input_tokens: self.request_tokens,
            output_tokens: self.answer_tokens,
            source: UsageSource::Estimated,
            ..Usage::default()
        };
        self.usage.map_or(estimate, |usage| usage.completed_by(&estimate))
    }
}

/// About how many tokens an event has.
fn tokens_of(json: &[u8]) -> u64 {
    if json.len() <= LONG_EVENT_BYTES { 1 } else { Usage::estimated_tokens(text_bytes(json)).max(1) }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.record.used(self.used());
    }
}

/// Notes that the first content of an answer has come.
pub(super) fn note_first_token(record: &RequestRecord) {
    let Some(elapsed) = record.content_came() else { return };
    if let Some(metrics) = &record.facts().metrics {
        metrics.content_came(elapsed);
    }
}

/// Meters embeddings.
pub(super) fn embeddings(record: &RequestRecord, request: &EmbedRequest, answer: &Embeddings) {
    let estimated = || Usage {
        input_tokens: request.body.get("input").map_or(0, Usage::estimated_prompt),
        source: UsageSource::Estimated,
        ..Usage::default()
    };
    record.used(answer.usage.unwrap_or_else(estimated));
}

/// A streamed answer on its way to the caller: runs of events, counted as they pass.
#[derive(Debug)]
pub struct MeteredStream {
    /// None once it has been ended here, which ends the upstream's work as well.
    frames: Option<FrameStream>,
    meter: Meter,
}

impl MeteredStream {
    /// The record of the request that it answers.
    pub fn record(&self) -> &Arc<RequestRecord> {
        &self.meter.record
    }
}

impl Stream for MeteredStream {
    type Item = Result<Bytes, ProviderError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(frames) = &mut self.frames else { return Poll::Ready(None) };
            let item = match ready!(Pin::new(frames).poll_next(cx)) {
                Some(Ok(item)) => item,
                Some(Err(error)) => {
                    // The caller is told; the next one is better sent elsewhere.
                    self.meter.deployment.has_failed(&error, self.meter.key.as_deref());
                    self.meter.deployment.note_fault(&error, Some(&self.meter.record.id));
                    return Poll::Ready(Some(Err(error)));
                }
                None => return Poll::Ready(None),
            };
            let watch = self.meter.cut_off.as_mut();
            if let Some(rest) = watch.and_then(|watch| watch.pass(&item.frames, item.reading.ends)) {
                self.frames = None;
                return Poll::Ready(Some(Ok(self.meter.cut(rest).bytes().clone())));
            }
            let usage = item.usage();
            let passed = self.meter.pass(item.frames, usage, &item.reading.usage_only);
            if let Some(frames) = passed {
                return Poll::Ready(Some(Ok(frames.bytes().clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_token_or_as_long_as_its_text() {
        let event = |content: &str, more: &str| {
            format!(r#"{{"choices":[{{"delta":{{"content":"{content}"}},"logprobs":{{"x":"{more}"}}}}]}}"#)
        };
        assert_eq!(tokens_of(event("Hello", "").as_bytes()), 1);
        assert_eq!(tokens_of(event("Hello", &"x".repeat(4000)).as_bytes()), 2);
        assert_eq!(tokens_of(event(&"word ".repeat(400), "").as_bytes()), 500);
        assert_eq!(tokens_of(event("", &"x".repeat(4000)).as_bytes()), 1);
    }
}
