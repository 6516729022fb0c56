//! Raw requests: what they may use is set aside as for all others, and what they have used is read from what passes.
//!
//! Nobody here understands their dialect. What can be told from outside has to do: the end of the path, a `model` in
//! the body, and the reports of usage that servers write.

mod cut;
mod meant;
mod priced;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Method};

use self::cut::{Passed, RawCut};
use self::meant::{meant, naming_of};
use self::priced::{may_cost, price_of, require_price};
use super::admission::{Expected, USUAL_ANSWER};
use super::asking::Asking;
use super::meter::note_first_token;
use super::{Gateway, GatewayError, note_route};
use crate::lint::percent_decoded;
use crate::llm::{InvalidObject, RawObject, RawTask, Tally, TaskKind, Usage, UsageSource};
use crate::providers::{ProviderError, RawRequest, RawResponse};
use crate::telemetry::RequestRecord;

impl Gateway {
    /// Sends a caller's own request on to one provider. Dropping the future or the answer's body aborts it.
    ///
    /// # Errors
    /// There is no such provider, the caller may not do that, or the provider did not answer.
    pub async fn forward(
        &self,
        provider: &str,
        request: RawRequest,
        record: &Arc<RequestRecord>,
    ) -> Result<RawResponse, GatewayError> {
        let provider = self.provider(provider)?;
        record.facts().provider = Some(provider.name().into());
        let (is_post, may_cost) = (request.method == Method::POST, may_cost(&request.method));
        let object = request.body.clone().map(RawObject::parse);
        let task = task_of(&request, is_post, object.as_ref());
        let naming = naming_of(&request, object.as_ref());
        drop(object);
        let state = self.state();
        let meant = meant(&state, provider.name(), (&request, &naming), record.caller())?;
        if let Some((route, deployment)) = &meant {
            note_route(record, route);
            let mut facts = record.facts();
            facts.deployment = Some(deployment.id.clone());
            facts.metrics = Some(deployment.metrics.clone());
        }
        let price = price_of(&state, provider.name(), (meant.as_ref(), &naming));
        // A price is that of a model: where a server may take another one, nothing tells what the request costs.
        let is_certain =
            naming.doubt.is_none() || meant.as_ref().is_some_and(|(_, deployment)| deployment.is_managed());
        let told = (is_certain && meant.is_some(), price.as_deref().filter(|_| is_certain));
        require_price(&state, (&request.method, &task), told, record)?;
        record.facts().price.clone_from(&price);
        let expected = || Expected {
            usage: task.expected(USUAL_ANSWER),
            is_guess: task.kind == TaskKind::Generates && task.output_tokens.is_none(),
            request_cost: price.as_ref().filter(|_| may_cost).and_then(|price| price.request).unwrap_or(0.0),
            price: price.as_ref(),
        };
        self.admit_expected(meant.as_ref().map(|(route, _)| &**route), record, expected).await?;
        let asked = record.elapsed();
        record.facts().attempts = 1;
        let asking = Asking::new(record, task.expected(0).input_tokens);
        let response = asking.handing_over(provider.forward(request)).await;
        asking.end();
        record.facts().upstream = record.elapsed().saturating_sub(asked);
        let mut response = response.map_err(Box::new)?;
        if may_cost && response.status.is_success() {
            record.accepted();
        }
        if is_post && response.status.is_success() {
            let meter = RawMeter::new(task, &response.headers, record);
            let cut = meter.cut();
            if cut.is_some() {
                // It may become shorter.
                response.headers.remove(CONTENT_LENGTH);
            }
            response.body = Passing { body: response.body, meter, cut }.boxed();
        }
        Ok(response)
    }
}

/// What a request makes a model do.
fn task_of(
    request: &RawRequest,
    is_post: bool,
    object: Option<&Result<RawObject, InvalidObject>>,
) -> RawTask {
    let last = request.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let last = percent_decoded(last.as_bytes()).unwrap_or_default();
    let object = object.and_then(|object| object.as_ref().ok());
    RawTask::of(is_post, &String::from_utf8_lossy(&last), request.body.as_ref(), object)
}

/// In which form an answer comes, which tells how to estimate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Server-sent events: about a token each.
    Events,
    /// Lines of JSON: likewise.
    Lines,
    /// Anything else that is written.
    Text,
    /// Sound, pictures.
    Other,
}

impl Form {
    fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.to_ascii_lowercase();
        let is = |word: &str| kind.contains(word);
        match () {
            () if is("event-stream") => Self::Events,
            () if is("ndjson") || is("jsonl") => Self::Lines,
            () if kind.is_empty() || is("json") || is("text") => Self::Text,
            () => Self::Other,
        }
    }

    fn is_stream(self) -> bool {
        matches!(self, Self::Events | Self::Lines)
    }
}

/// The meter of a raw answer. What it has counted is noted when it is dropped, whatever has ended the answer.
#[derive(Debug)]
struct RawMeter {
    record: Arc<RequestRecord>,
    task: RawTask,
    form: Form,
    tally: Tally,
    has_begun: bool,
}

impl RawMeter {
    fn new(task: RawTask, headers: &HeaderMap, record: &Arc<RequestRecord>) -> Self {
        let form = Form::of(headers);
        record.facts().stream = form.is_stream();
        Self { record: record.clone(), task, form, tally: Tally::default(), has_begun: false }
    }

    /// What may end the answer before its time, if it has a form that can be ended.
    fn cut(&self) -> Option<RawCut> {
        let is_stream = self.form == Form::Events;
        is_stream.then(|| RawCut::of(&self.record, self.task.input_tokens())).flatten()
    }

    fn pass(&mut self, piece: &[u8]) {
        if !std::mem::replace(&mut self.has_begun, true) && self.generates() {
            note_first_token(&self.record);
        }
        self.tally.push(piece);
    }

    /// Whatever the path is called: who answers in events makes it up. (Lines may be the steps of a download.)
    fn generates(&self) -> bool {
        self.task.kind == TaskKind::Generates || self.form == Form::Events
    }

    fn used(&self) -> Option<Usage> {
        let Some(reported) = self.tally.usage() else { return self.estimate() };
        Some(match self.estimate() {
            Some(estimate) if self.generates() => reported.completed_by(&estimate),
            _ => reported.of_prompt_alone(),
        })
    }

    fn estimate(&self) -> Option<Usage> {
        if !self.generates() && self.task.kind == TaskKind::Other {
            return None;
        }
        let output_tokens = match self.form {
            _ if !self.generates() => 0,
            Form::Events => self.tally.events(),
            Form::Lines => self.tally.lines(),
            Form::Other => 0,
            Form::Text => Usage::estimated_tokens(self.tally.bytes()),
        };
        let input_tokens = self.task.input_tokens();
        Some(Usage { input_tokens, output_tokens, source: UsageSource::Estimated, ..Usage::default() })
    }
}

impl Drop for RawMeter {
    fn drop(&mut self) {
        if let Some(usage) = self.used() {
            self.record.used(usage);
        }
    }
}

/// A raw answer on its way to the caller, byte for byte as it comes.
struct Passing {
    body: BoxStream<'static, Result<Bytes, ProviderError>>,
    meter: RawMeter,
    /// What may end it before its time: hardly any has it.
    cut: Option<RawCut>,
}

impl Passing {
    /// What passes of a piece. At the end the upstream's work is ended as well.
    fn pass(&mut self, piece: Bytes) -> Bytes {
        let Some(cut) = &mut self.cut else {
            self.meter.pass(&piece);
            return piece;
        };
        let Passed { mut events, end } = cut.pass(&piece);
        if !events.is_empty() {
            self.meter.pass(&events);
        }
        if let Some(end) = end {
            self.cut = None;
            self.body = futures_util::stream::empty().boxed();
            self.meter.record.facts().is_cut = true;
            events.extend_from_slice(&end);
        }
        events.freeze()
    }

    /// What was held back when the answer has ended by itself.
    fn rest(&mut self) -> Bytes {
        self.body = futures_util::stream::empty().boxed();
        let rest = self.cut.take().map(RawCut::rest).unwrap_or_default();
        if !rest.is_empty() {
            self.meter.pass(&rest);
        }
        rest
    }
}

impl Stream for Passing {
    type Item = Result<Bytes, ProviderError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let passed = match ready!(self.body.as_mut().poll_next(cx)) {
                Some(Ok(piece)) => self.pass(piece),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let rest = self.rest();
                    return Poll::Ready((!rest.is_empty()).then_some(Ok(rest)));
                }
            };
            // Of an event that is not whole nothing passes.
            if !passed.is_empty() {
                return Poll::Ready(Some(Ok(passed)));
            }
        }
    }
}
