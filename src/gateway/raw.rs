//! Raw requests: what they may use is set aside as for all others, and what they have used is read from what passes.
//!
//! Nobody here understands their dialect. What can be told from outside has to do: the end of the path, a `model` in
//! the body, and the reports of usage that servers write.

mod cut;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Method};

use self::cut::{Passed, RawCut};
use super::admission::{Expected, USUAL_ANSWER, may_use};
use super::asking::Asking;
use super::meter::note_first_token;
use super::{Gateway, GatewayError, State, note_route};
use crate::callers::{Caller, now_ms};
use crate::lint::percent_decoded;
use crate::llm::{NamedModel, RawTask, Tally, TaskKind, Usage, UsageSource};
use crate::providers::{ProviderError, RawRequest, RawResponse};
use crate::router::{Deployment, Route};
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
        let last = request.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let last = percent_decoded(last.as_bytes()).unwrap_or_default();
        let is_post = request.method == Method::POST;
        let task = RawTask::of(is_post, &String::from_utf8_lossy(&last), request.body.as_ref());
        let meant = meant(&self.state(), provider.name(), (&request, &task), record.caller())?;
        if let Some((route, deployment)) = &meant {
            note_route(record, route);
            let mut facts = record.facts();
            facts.deployment = Some(deployment.id.clone());
            facts.price = deployment.prices.at(now_ms()).cloned();
        }
        let of_model = meant.as_ref().map(|(route, deployment)| (&**route, Some(deployment)));
        let expected = || Expected {
            usage: task.expected(USUAL_ANSWER),
            is_guess: task.kind == TaskKind::Generates && task.output_tokens.is_none(),
        };
        self.admit_expected(of_model, record, expected).await?;
        let asked = record.elapsed();
        record.facts().attempts = 1;
        let asking = Asking::new(record, task.expected(0).input_tokens);
        let response = asking.handing_over(provider.forward(request)).await;
        asking.end();
        record.facts().upstream = record.elapsed().saturating_sub(asked);
        let mut response = response.map_err(Box::new)?;
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

/// A model, and who serves it.
type Meant = (Arc<Route>, Arc<Deployment>);

/// The model that a raw request is for, as one that is served there; `None` if it is none of those, or nobody says.
///
/// # Errors
/// The caller may not use it, or it is off. Who may not use all models must say which one is meant, where the server reads
/// it; where one is off, nobody may say it in a way that can be read as that one.
fn meant(
    state: &State,
    provider: &str,
    (request, task): (&RawRequest, &RawTask),
    caller: Option<&Caller>,
) -> Result<Option<Meant>, GatewayError> {
    let served = || {
        let routes = state.routes.on_and_off().iter();
        let all = routes.flat_map(|route| route.all_deployments().map(move |deployment| (route, deployment)));
        all.filter(|(_, deployment)| *deployment.provider_name == *provider)
    };
    let caller = caller.filter(|caller| !caller.key.allowed_models.is_empty());
    let is_on = |route: &Route| !state.routes.is_off(&route.model);
    let is_managed = served().any(|(_, deployment)| deployment.is_managed());
    let named = if is_managed {
        // Each model has a server of its own, whatever a body says. Where there is one only, it need not be named.
        let first = served().next().map(|(_, deployment)| &deployment.upstream_model);
        let is_only = served().all(|(_, deployment)| Some(&deployment.upstream_model) == first);
        request.model.as_deref().or(first.filter(|_| is_only).map(|name| &**name))
    } else {
        match &task.model {
            NamedModel::Named(name) => Some(name.as_str()),
            // A header would be believed here, and not be read there.
            _ if caller.is_some() => None,
            _ => request.model.as_deref(),
        }
    };
    let is_it = |deployment: &Deployment| named.is_some_and(|name| is_same(name, &deployment.upstream_model));
    let is_allowed = |route: &Route| may_use(caller, route);
    if !is_managed && task.model == NamedModel::Unclear && served().any(|(route, _)| !is_on(route)) {
        // The server may read the one that is off.
        return Err(GatewayError::ModelUntold);
    }
    let mut known = served().filter(|(route, deployment)| is_it(deployment) && is_allowed(route));
    let found = known.clone().find(|(route, _)| is_on(route)).or_else(|| known.next());
    match (found, caller, named) {
        (Some((route, _)), _, _) if !is_on(route) => Err(GatewayError::Off(route.model.to_string())),
        (Some((route, deployment)), _, _) => Ok(Some((route.clone(), deployment.clone()))),
        (None, None, _) => Ok(None),
        (None, Some(_), Some(name)) => Err(GatewayError::NotAllowed(name.to_owned())),
        (None, Some(_), None) => Err(GatewayError::ModelUntold),
    }
}

/// Ollama's `:latest` may be left out.
fn is_same(name: &str, upstream: &str) -> bool {
    let short = |name| str::strip_suffix(name, ":latest").unwrap_or(name);
    short(name) == short(upstream)
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
    /// Whether the bytes are what they mean.
    is_plain: bool,
    tally: Tally,
    has_begun: bool,
}

impl RawMeter {
    fn new(task: RawTask, headers: &HeaderMap, record: &Arc<RequestRecord>) -> Self {
        let form = Form::of(headers);
        let encodings = headers.get_all(CONTENT_ENCODING).iter();
        let is_plain = encodings.into_iter().all(|encoding| encoding == "identity");
        record.facts().stream = form.is_stream();
        Self { record: record.clone(), task, form, is_plain, tally: Tally::default(), has_begun: false }
    }

    /// What may end the answer before its time, if it has a form that can be ended.
    fn cut(&self) -> Option<RawCut> {
        let is_stream = self.form == Form::Events && self.is_plain;
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

    fn estimate(&self) -> Option<Usage> {
        if !self.generates() && self.task.kind == TaskKind::Other {
            return None;
        }
        let output_tokens = match self.form {
            _ if !self.generates() => 0,
            Form::Events if self.is_plain => self.tally.events(),
            Form::Lines if self.is_plain => self.tally.lines(),
            Form::Other => 0,
            Form::Events | Form::Lines | Form::Text => Usage::estimated_tokens(self.tally.bytes()),
        };
        let input_tokens = self.task.input_tokens();
        Some(Usage { input_tokens, output_tokens, source: UsageSource::Estimated, ..Usage::default() })
    }
}

impl Drop for RawMeter {
    fn drop(&mut self) {
        let told = self.tally.usage().filter(|_| self.is_plain);
        if let Some(usage) = told.or_else(|| self.estimate()) {
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
