//! The outermost room: every request gets its record, every error its shape, every end its line in the log.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, SizeHint};
use poem::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use poem::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use poem::{Endpoint, Request, Response};
use serde_json::json;
use tokio::time::Instant;
use tracing::Level;

use super::context::{Admitted, Context};
use super::cors::Pages;
use super::error::{ApiError, ErrorLabel, SHOULD_RETRY};
use super::guards;
use super::header_text::HeaderText;
use super::host::Host;
use super::peer::Peer;
use super::request_id::{REQUEST_ID, request_id};
use super::standing::{self, Refused};
use super::{admin, cors, door};
use crate::accounts::Actor;
use crate::callers::{Ending, UsageRecord};
use crate::llm::{Session, unique_number};
use crate::telemetry::{Facts, Metrics, Outcome, RequestRecord};

/// OpenAI's clients count in this how often they have tried already.
const RETRIES: HeaderName = HeaderName::from_static("x-stainless-retry-count");

/// Whether a client has sent the same before. Every try of it is one of all deployments here, so one more is enough.
fn is_retry(headers: &HeaderMap) -> bool {
    headers.get(RETRIES).is_some_and(|count| !matches!(count.as_bytes(), b"" | b"0"))
}

/// The conversation that headers name.
fn session(headers: &HeaderMap) -> Option<Session> {
    Session::of_headers(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

/// Wraps all endpoints.
pub(super) struct Access<E> {
    inner: E,
    context: Arc<Context>,
    /// Which pages may call here, if others than usual.
    pages: Option<Pages>,
}

impl<E> Access<E> {
    pub(super) fn new(inner: E, context: Arc<Context>) -> Self {
        Self { inner, context, pages: None }
    }

    /// The same for listeners where other pages may call.
    pub(super) fn with_pages(self, pages: Pages) -> Self {
        Self { pages: Some(pages), ..self }
    }
}

impl<E: Endpoint<Output = Response>> Endpoint for Access<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let mut record = RequestRecord::new(request_id(request.headers()));
        record.session = session(request.headers());
        let record = Arc::new(record);
        let is_retry = is_retry(request.headers());
        let is_raw = cors::is_raw(&request);
        let peer = Peer::of(&request, &self.context.trusted_proxies);
        let mut guard = Guard {
            record: record.clone(),
            context: self.context.clone(),
            method: request.method().clone(),
            peer,
            status: None,
            ended: false,
        };
        request.extensions_mut().insert(Admitted::new(&record, &self.context, peer));
        let answer = if let Some(error) = self.turned_away(&request) {
            Ok(Err(error.into()))
        } else {
            // Pinned here and lent, because every move of it copies some kilobytes.
            let answering = pin!(AssertUnwindSafe(self.inner.call(request)).catch_unwind());
            self.unless_cut_off(answering).await.unwrap_or_else(|| Ok(Err(ApiError::draining().into())))
        };
        let mut response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => self.refused(ApiError::from_poem(&error), &guard).await,
            Err(_panic) => {
                tracing::error!(request_id = %record.id, "A request ended in a panic; its place stands in the lines before");
                ApiError::internal().respond(self.context.in_debug)
            }
        };
        let label = response.extensions().get::<ErrorLabel>().copied();
        let mut refused = None;
        if let Some(ErrorLabel(label)) = label {
            record.facts().error = Some(label);
            refused = response.extensions().get::<Refused>().copied();
        }
        if let Some(refused) = refused {
            self.context.metrics.refused(refused.of, refused.limit);
        }
        if is_retry
            && let Some(label) = label
            && label.has_tried_everyone()
        {
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        add_headers(response.headers_mut(), &record, &self.context.metrics);
        guards::add_headers(response.headers_mut(), is_raw);
        standing::add_headers(response.headers_mut(), self.context.gateway.gate(), &record, refused);
        guard.status = Some(response.status().as_u16());
        let (parts, body) = response.into_parts();
        let inner: BoxBody<Bytes, std::io::Error> = body.into();
        // Of a body whose length is told, nobody asks for the end; to a HEAD nothing is sent at all.
        let is_head = guard.method == Method::HEAD;
        let left = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        guard.ended = is_head || left == Some(0) || inner.is_end_stream();
        let body = BoxBody::new(Watched { inner, guard, left });
        Ok(Response::from_parts(parts, body.into()))
    }
}

impl<E> Access<E> {
    /// Why a request is not even looked at.
    fn turned_away(&self, request: &Request) -> Option<ApiError> {
        let Context { health, pages, .. } = &*self.context;
        let pages = self.pages.as_ref().unwrap_or(pages);
        if health.is_draining() && !is_probe(request.uri().path()) {
            return Some(ApiError::draining());
        }
        if !is_coded_as_here(request.headers()) {
            let message = "the only transfer coding that is known here is one `chunked`";
            return Some(ApiError::new(
                StatusCode::NOT_IMPLEMENTED,
                "unsupported_transfer_encoding",
                message,
            ));
        }
        match Host::of(request) {
            Ok(host) => pages.refusal(request, host.as_ref()),
            Err(error) => Some(error),
        }
    }

    /// The refusal, and when it is sent: a wrong key is refused later and later.
    async fn refused(&self, error: ApiError, guard: &Guard) -> Response {
        let Context { guesses, in_debug, .. } = &*self.context;
        guard.note_rejection(&error);
        if error.label() != door::WRONG_KEY {
            return error.respond(*in_debug);
        }
        if guard.is_of_admin() {
            guesses.warn(guard.peer);
        }
        // Boxed, because it is rare: the space for it is not to be kept free in every request.
        let instead = Box::pin(guesses.failed(guard.peer)).await;
        instead.unwrap_or(error).respond(*in_debug)
    }

    /// `None` if there is no more time for it. Whoever ends the time looks at everything once more.
    async fn unless_cut_off<F: Future>(&self, mut answering: Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|cx| match answering.as_mut().poll(cx) {
            Poll::Pending if self.context.health.is_cutting_off() => Poll::Ready(None),
            answered => answered.map(Some),
        })
        .await
    }
}

/// Whether a body comes as it is, or in chunks. A server that reads another coding than was meant takes a part of the body
/// for the next request.
fn is_coded_as_here(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Probes are answered to the very end.
fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/metrics")
}

static SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

fn add_headers(headers: &mut HeaderMap, record: &RequestRecord, metrics: &Metrics) {
    if let Ok(id) = HeaderValue::from_str(&record.id) {
        headers.insert(&REQUEST_ID, id);
    }
    let (upstream, asked_a_model) = {
        let facts = record.facts();
        (facts.upstream, facts.metrics.is_some())
    };
    let own = record.elapsed().saturating_sub(upstream);
    if asked_a_model {
        metrics.took(own);
    }
    if let Some(timing) = server_timing(own, upstream) {
        headers.insert(&SERVER_TIMING, timing);
    }
}

/// Milliseconds with three digits behind the point.
fn server_timing(own: Duration, upstream: Duration) -> Option<HeaderValue> {
    let mut text = HeaderText::new();
    for (name, time) in [("gateway;dur=", own), (", upstream;dur=", upstream)] {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        text = text.text(name).number(micros / 1000).text(".").thousandths(micros);
    }
    text.value()
}

/// Writes a request down when it has ended, in whatever way.
struct Guard {
    record: Arc<RequestRecord>,
    context: Arc<Context>,
    method: Method,
    peer: Peer,
    /// Known once there is a response.
    status: Option<u16>,
    /// Whether the whole body was handed over.
    ended: bool,
}

/// What is said of a request whose caller left before there was a response.
const CALLER_LEFT: u16 = 499;

impl Guard {
    /// Notes in the audit that an admin call was rejected for its key.
    fn note_rejection(&self, error: &ApiError) {
        let Context { accounts, rejections, .. } = &*self.context;
        let (Some(accounts), door::WRONG_KEY | door::NO_KEY) = (accounts, error.label()) else { return };
        let endpoint = self.record.facts().endpoint.as_ref().map(|endpoint| endpoint.name.clone());
        let Some(endpoint) = endpoint.filter(|name| is_of_operators(name)) else { return };
        if let Some(unnoted) = rejections.another(Instant::now()) {
            let others = (unnoted > 0).then_some(unnoted);
            let (method, code) = (self.method.as_str(), error.label());
            let detail = json!({"method": method, "code": code, "others_not_noted": others});
            accounts.noted(Actor::Unknown.at(self.peer), "admin.rejected", &endpoint, detail);
        }
    }

    fn is_of_admin(&self) -> bool {
        self.record.facts().endpoint.as_ref().is_some_and(|endpoint| door::is_for_admin(&endpoint.name))
    }

    /// The line of a request: a warning where the gateway or an upstream has failed.
    fn log(&self, facts: &Facts, endpoint: &str, (status, outcome, duration): (u16, Outcome, Duration)) {
        let is_peer_named = names_its_peer(endpoint, status, self.record.caller().is_some());
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    request_id = %self.record.id,
                    method = %self.method,
                    endpoint = %endpoint,
                    status,
                    outcome = outcome.as_str(),
                    error = facts.error,
                    key_id = self.record.caller().map(|caller| &*caller.id),
                    admin = self.record.operator().map(|name| &**name),
                    peer = is_peer_named.then(|| tracing::field::display(self.peer)),
                    gen_ai.request.model = facts.model.as_deref(),
                    gen_ai.provider.name = facts.provider.as_deref(),
                    deployment = facts.deployment.as_deref(),
                    attempts = (facts.attempts > 0).then_some(facts.attempts),
                    prompt = facts.prompt.as_deref(),
                    stream = facts.stream.then_some(true),
                    gen_ai.usage.input_tokens = facts.usage.map(|usage| usage.input_tokens),
                    gen_ai.usage.output_tokens = facts.usage.map(|usage| usage.output_tokens),
                    usage_source = facts.usage.map(|usage| usage.source.as_str()),
                    first_token_ms = facts.first_token.map(milliseconds),
                    duration_ms = milliseconds(duration),
                    "Request"
                )
            };
        }
        if status >= 500 { line!(Level::WARN) } else { line!(Level::INFO) }
    }
}

/// Whether the line of a request says where it came from: one that was refused, and one that the admin key opens.
fn names_its_peer(endpoint: &str, status: u16, is_known: bool) -> bool {
    matches!(status, 401 | 403) || status == 429 && !is_known || is_of_operators(endpoint)
}

/// Whether an admin key opens an endpoint.
fn is_of_operators(endpoint: &str) -> bool {
    endpoint.starts_with(admin::ROOT) || door::is_for_operators(endpoint)
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut facts = std::mem::take(&mut *self.record.facts());
        facts.settle();
        let duration = self.record.elapsed();
        let outcome = facts.outcome(self.ended);
        let status = self.status.unwrap_or(CALLER_LEFT);
        let Context { metrics, ledger, unmatched, .. } = &*self.context;
        let taken = facts.endpoint.take();
        let endpoint = taken.as_ref().unwrap_or(unmatched);
        metrics.request_ended(endpoint, status);
        if outcome == Outcome::Cancelled {
            metrics.cancelled(endpoint);
        }
        note_duration(&facts, duration, outcome);
        if let Some(code) = facts.error {
            metrics.error(code);
        }
        self.log(&facts, &endpoint.name, (status, outcome, duration));
        if ledger.is_kept()
            && endpoint.asks_models
            && let Some(record) = written(&self.record, facts, &endpoint.name, (outcome, duration))
        {
            ledger.record(record);
        }
    }
}

/// How long the model took, of a request that one was asked.
fn note_duration(facts: &Facts, duration: Duration, outcome: Outcome) {
    let Some(metrics) = &facts.metrics else { return };
    metrics.ended(duration);
    if let (true, Outcome::Completed, Some(first), Some(usage)) =
        (facts.stream, outcome, facts.first_token, facts.usage)
    {
        metrics.streamed(usage.output_tokens, duration.saturating_sub(first));
    }
}

/// The line of the ledger for a request of somebody who is known, or that came as far as a model. (Who was turned away at
/// the door has used nothing and is nobody.)
fn written(
    record: &RequestRecord,
    facts: Facts,
    endpoint: &Arc<str>,
    (outcome, duration): (Outcome, Duration),
) -> Option<UsageRecord> {
    let caller = record.caller();
    let is_of_model = facts.model.is_some() || facts.provider.is_some() || facts.usage.is_some();
    let is_known = is_of_model || caller.is_some();
    let ending = match outcome {
        Outcome::Cut => Ending::Cut,
        Outcome::Completed => Ending::Completed,
        Outcome::Cancelled => Ending::Cancelled,
        Outcome::Failed => Ending::Failed,
    };
    let usage = facts.usage.unwrap_or_default();
    is_known.then(|| UsageRecord {
        id: record.id.clone(),
        mark: unique_number(),
        time_ms: record.started_ms,
        key: caller.map(|caller| caller.id.clone()),
        owner: caller.and_then(|caller| caller.owner.clone()),
        endpoint: endpoint.clone(),
        model: facts.model,
        provider: facts.provider,
        deployment: facts.deployment,
        prompt: facts.prompt.as_deref().map(Arc::from),
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        cached_input_tokens: usage.cached_input_tokens,
        reasoning_tokens: usage.reasoning_tokens,
        source: usage.source,
        ending,
        error: facts.error.map(Arc::from),
        first_token_ms: facts.first_token.map(milliseconds),
        total_ms: milliseconds(duration),
        attempts: facts.attempts,
        cost: (facts.request_cost.is_some() || (facts.usage.is_some() && !facts.is_unpriced))
            .then_some(facts.cost),
    })
}

/// As a number that every format of the log knows as one.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A body that is watched to its end.
struct Watched {
    inner: BoxBody<Bytes, std::io::Error>,
    guard: Guard,
    /// Bytes that are still to come, where that is told.
    left: Option<u64>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let sent = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref().map(Bytes::len));
        self.left = self.left.map(|left| left.saturating_sub(sent.unwrap_or(0) as u64));
        self.guard.ended = frame.is_none() || self.left == Some(0) || self.inner.is_end_stream();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds() {
        let timing = server_timing(Duration::from_micros(1_002_003), Duration::from_nanos(999));
        assert_eq!(timing.unwrap(), "gateway;dur=1002.003, upstream;dur=0.000");
    }
}
