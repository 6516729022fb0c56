//! Generated answers on their way out: whole, as server-sent events, or line by line.
//!
//! Runs of events leave as they came. What else a stream needs is added here: a sign of life while nothing
//! comes (which says more while an engine is loaded for it), an error in the place of an end, and `[DONE]`.

mod several;
mod waiting;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::Stream;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame};
use poem::http::header::{ACCEPT, CONTENT_TYPE};
use poem::http::{HeaderMap, HeaderName, HeaderValue};
use poem::{IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::registry::{
    MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use poem_openapi::types::Type;
use sync_wrapper::SyncWrapper;
use tokio::time::{Instant, Sleep, sleep_until};

use super::context::Context;
use super::error::ApiError;
use super::payload::{self, json_response};
use super::prompt_headers::PROMPT;
use crate::fairness;
use crate::gateway::{GatewayError, Generated, MeteredStream, Reply};
use crate::llm::{Completion, Frames};
use crate::prompts::Rendered;
use crate::telemetry::RequestRecord;
use waiting::EngineWait;

pub(super) use several::{SeveralResponse, add_headers_of_several};

/// How long a stream may be silent before a sign of life is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const SIGN_OF_LIFE: &[u8] = b": keep-alive\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";
/// Runs that are there at once leave together, up to this size.
const PIECE_BYTES: usize = 16 * 1024;

/// The answer of an operation that generates text: `W` whole, or `C` in pieces.
#[derive(Debug)]
pub(super) struct GeneratedResponse<W, C> {
    response: Response,
    described: std::marker::PhantomData<fn() -> (W, C)>,
}

impl<W, C> From<Response> for GeneratedResponse<W, C> {
    fn from(response: Response) -> Self {
        Self { response, described: std::marker::PhantomData }
    }
}

impl<W: Send, C: Send> IntoResponse for GeneratedResponse<W, C> {
    fn into_response(self) -> Response {
        self.response
    }
}

impl<W: Type, C: Type> ApiResponse for GeneratedResponse<W, C> {
    fn meta() -> MetaResponses {
        let content: Vec<MetaMediaType> = payload::whole_or_stream::<W, C>();
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The answer: one JSON object, or with `stream` a stream of chunks. A stream comes as \
                    server-sent events and ends with `data: [DONE]`; with `Accept: application/x-ndjson` it comes as one chunk a line. \
                    An answer that fails midway ends with an `error` object, and without `[DONE]`.",
                status: Some(200),
                status_range: None,
                content,
                headers: documented_headers(),
            }],
        }
    }

    fn register(registry: &mut Registry) {
        W::register(registry);
        C::register(registry);
    }
}

fn documented_headers() -> Vec<MetaHeader> {
    let header = |(name, kind, description): (&str, &'static str, &str)| MetaHeader {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        required: false,
        deprecated: false,
        schema: MetaSchemaRef::Inline(Box::new(MetaSchema::new(kind))),
    };
    [
        ("x-request-id", "string", "The caller's own id, or one that was made."),
        ("x-llm-provider", "string", "The provider that answered."),
        ("x-llm-model", "string", "The provider's own name of the model."),
        ("x-llm-attempts", "integer", "How many deployments were asked; for several texts, all together."),
        ("x-llm-variant", "string", "`model@context` of the engine, if the gateway runs it itself."),
        ("x-llm-prompt", "string", "`name@version/language` of the prompt that was used; `name@language` of one that states no version."),
        ("x-llm-ignored-options", "string", "Options of the request that the provider cannot take."),
        (
            "server-timing",
            "string",
            "Milliseconds until the answer began: the gateway's own, and the upstream's.",
        ),
    ]
    .map(header)
    .into()
}

/// The form in which a caller wants a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamForm {
    /// Server-sent events.
    Events,
    /// One JSON object a line.
    Lines,
}

impl StreamForm {
    /// What `Accept` asks for.
    pub(super) fn wanted(headers: &HeaderMap) -> Self {
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        if accept.contains("application/x-ndjson") { Self::Lines } else { Self::Events }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Events => "text/event-stream; charset=utf-8",
            Self::Lines => "application/x-ndjson",
        })
    }

    /// A run of events in this form.
    fn encode(self, run: Bytes) -> Bytes {
        match self {
            Self::Events => run,
            Self::Lines => {
                let mut lines = BytesMut::with_capacity(run.len());
                for json in Frames::of_events(run).jsons() {
                    lines.put_slice(json);
                    lines.put_u8(b'\n');
                }
                lines.freeze()
            }
        }
    }
}

/// What is asked for, boxed: many rooms hand it on, and each would copy some kilobytes.
pub(super) type Waiting = Pin<Box<dyn Future<Output = Result<Reply<Generated>, GatewayError>> + Send>>;

/// How an operation puts a whole answer into words.
#[derive(Clone, Copy)]
pub(super) enum WholeForm {
    /// As the provider gave it.
    AsItIs,
    /// In words of its own, which takes time that grows with the answer.
    Own(fn(&Completion, Option<&Rendered>, &RequestRecord) -> Result<Bytes, ApiError>),
}

/// Answers with what `asked` brings. A stream that is slow to begin is begun without it, so that
/// nobody on the way takes it for dead; whatever goes wrong from then on is told in the stream.
pub(super) async fn respond(
    context: &Arc<Context>,
    record: &Arc<RequestRecord>,
    mut asked: Waiting,
    stream: Option<StreamForm>,
    whole: WholeForm,
) -> Result<Response, ApiError> {
    let Some(form) = stream else {
        let reply = asked.await?;
        return whole_response(reply, record, whole).await;
    };
    let (phase, engine) = match waiting::first(context, record, &mut asked).await {
        Ok(reply) => {
            let mut reply = reply?;
            let mut response = Response::default();
            add_headers(response.headers_mut(), &reply);
            let body = std::mem::replace(
                &mut reply.body,
                Generated::Whole(Completion { body: Bytes::new(), usage: None, text_bytes: 0 }),
            );
            let Generated::Stream(frames) = body else {
                return whole_response(Reply { body, ..reply }, record, whole).await;
            };
            return Ok(stream_response(
                response,
                EventBody::new(context, record, form, Phase::Streaming(frames)),
            ));
        }
        Err(engine) => (Phase::Waiting(SyncWrapper::new(asked)), engine),
    };
    let mut body = EventBody::new(context, record, form, phase);
    body.engine = engine;
    // The time to the first sign of life is over already.
    body.heard = Instant::now() - KEEP_ALIVE;
    Ok(stream_response(Response::default(), body))
}

async fn whole_response(
    reply: Reply<Generated>,
    record: &Arc<RequestRecord>,
    form: WholeForm,
) -> Result<Response, ApiError> {
    let Generated::Whole(completion) = &reply.body else { return Err(ApiError::internal()) };
    let body = completion.body.clone();
    let body = match form {
        WholeForm::AsItIs => body,
        WholeForm::Own(form) => {
            let (completion, prompt, record) = (completion.clone(), reply.prompt.clone(), record.clone());
            let made = fairness::aside(body.len(), move || form(&completion, prompt.as_ref(), &record));
            made.await.ok_or_else(ApiError::internal)??
        }
    };
    let mut response = json_response(body);
    add_headers(response.headers_mut(), &reply);
    Ok(response)
}

fn stream_response(mut response: Response, body: EventBody) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, body.form.content_type());
    payload::not_held_back(headers);
    response.set_body(BoxBody::new(body));
    response
}

static PROVIDER: HeaderName = HeaderName::from_static("x-llm-provider");
static MODEL: HeaderName = HeaderName::from_static("x-llm-model");
static ATTEMPTS: HeaderName = HeaderName::from_static("x-llm-attempts");
static VARIANT: HeaderName = HeaderName::from_static("x-llm-variant");
static IGNORED_OPTIONS: HeaderName = HeaderName::from_static("x-llm-ignored-options");

/// Says who answered, and how.
pub(super) fn add_headers<T>(headers: &mut HeaderMap, reply: &Reply<T>) {
    let how = How {
        provider: &reply.deployment.provider_name,
        model: &reply.deployment.upstream_model,
        variant: reply.variant.as_deref().unwrap_or_default(),
        ignored_options: &reply.ignored_options.join(", "),
        prompt: reply.prompt.as_ref(),
        attempts: reply.attempts,
    };
    how.put_into(headers);
}

/// So many headers have room at once: these, and those that every answer has, with what is left of limits.
const USUAL_HEADERS: usize = 14;

/// Who answered, and how, in the words of headers.
struct How<'r> {
    provider: &'r str,
    model: &'r str,
    variant: &'r str,
    ignored_options: &'r str,
    prompt: Option<&'r Rendered>,
    attempts: u32,
}

impl How<'_> {
    fn put_into(&self, headers: &mut HeaderMap) {
        headers.reserve(USUAL_HEADERS);
        let mut add = |name: &'static HeaderName, value: &str| {
            // Names of models may hold letters that headers cannot; then they are left out.
            if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        };
        add(&PROVIDER, self.provider);
        add(&MODEL, self.model);
        if let Some(prompt) = self.prompt {
            add(&PROMPT, &prompt.reference());
        }
        add(&VARIANT, self.variant);
        add(&IGNORED_OPTIONS, self.ignored_options);
        let attempts = match self.attempts {
            1 => HeaderValue::from_static("1"),
            more => HeaderValue::from(more),
        };
        headers.insert(&ATTEMPTS, attempts);
    }
}

/// The body of a stream.
struct EventBody {
    phase: Phase,
    form: StreamForm,
    context: Arc<Context>,
    record: Arc<RequestRecord>,
    /// The engine that is waited for, if the gateway runs it itself.
    engine: Option<EngineWait>,
    /// When something was last sent.
    heard: Instant,
    /// One timer, set anew only when it goes off.
    timer: Option<Pin<Box<Sleep>>>,
}

#[expect(clippy::large_enum_variant, reason = "one for each answer, which streams nearly all of the time")]
enum Phase {
    /// Nobody has answered yet.
    Waiting(SyncWrapper<Waiting>),
    Streaming(MeteredStream),
    Over,
}

impl Drop for EventBody {
    fn drop(&mut self) {
        self.context.metrics.streams_open.dec();
    }
}

impl EventBody {
    fn new(context: &Arc<Context>, record: &Arc<RequestRecord>, form: StreamForm, phase: Phase) -> Self {
        context.metrics.streams_open.inc();
        Self {
            phase,
            form,
            context: context.clone(),
            record: record.clone(),
            engine: None,
            heard: Instant::now(),
            timer: None,
        }
    }

    /// The next run of the answer, or what ends it. `None` once it is over.
    fn poll_run(&mut self, cx: &mut TaskContext<'_>) -> Poll<Option<Bytes>> {
        loop {
            match &mut self.phase {
                Phase::Over => return Poll::Ready(None),
                Phase::Waiting(waiting) => match ready!(waiting.get_mut().as_mut().poll(cx)) {
                    Ok(Reply { body: Generated::Stream(frames), .. }) => {
                        self.phase = Phase::Streaming(frames);
                        self.engine = None;
                    }
                    Ok(_) => return Poll::Ready(Some(self.fail(&ApiError::internal()))),
                    Err(error) => return Poll::Ready(Some(self.fail(&error.into()))),
                },
                Phase::Streaming(frames) => {
                    let run = match ready!(Pin::new(frames).poll_next(cx)) {
                        Some(Ok(run)) => self.form.encode(run),
                        Some(Err(error)) => self.fail(&error.into()),
                        None => return Poll::Ready(self.end()),
                    };
                    return Poll::Ready(Some(run));
                }
            }
        }
    }

    fn end(&mut self) -> Option<Bytes> {
        self.phase = Phase::Over;
        (self.form == StreamForm::Events).then(|| Bytes::from_static(DONE))
    }

    /// The error in the place of the rest.
    fn fail(&mut self, error: &ApiError) -> Bytes {
        self.phase = Phase::Over;
        self.record.facts().error = Some(error.label());
        let json = error.body(self.context.in_debug).to_string();
        self.form.encode(Frames::of_json(json.as_bytes()).bytes().clone())
    }

    fn poll_keep_alive(&mut self, cx: &mut TaskContext<'_>) -> Poll<Bytes> {
        loop {
            let due = self.heard + KEEP_ALIVE;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            let comment = self.engine.as_ref().and_then(EngineWait::comment);
            let look = if self.engine.is_some() { now + waiting::LOOK_AGAIN } else { due };
            timer.as_mut().reset(look.max(now + Duration::from_millis(1)));
            if now < due && comment.is_none() {
                continue;
            }
            self.heard = now;
            // A line that is no JSON would break a reader of lines; it has no comments.
            if self.form == StreamForm::Events {
                return Poll::Ready(comment.unwrap_or(Bytes::from_static(SIGN_OF_LIFE)));
            }
        }
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if !matches!(self.phase, Phase::Over)
            && self.record.caller().is_some_and(|caller| caller.is_revoked())
        {
            let end = self.fail(&ApiError::revoked_key());
            return Poll::Ready(Some(Ok(Frame::data(end))));
        }
        let first = match self.poll_run(cx) {
            Poll::Ready(first) => first,
            Poll::Pending if self.context.health.is_cutting_off() => Some(self.fail(&ApiError::draining())),
            Poll::Pending => return self.poll_keep_alive(cx).map(|comment| Some(Ok(Frame::data(comment)))),
        };
        let Some(first) = first else { return Poll::Ready(None) };
        self.heard = Instant::now();
        // What else is there already leaves with it: a run in the hand costs less than one more write.
        let mut piece = Piece::One(first);
        while piece.len() < PIECE_BYTES
            && let Poll::Ready(Some(run)) = self.poll_run(cx)
        {
            piece = piece.and(&run);
        }
        Poll::Ready(Some(Ok(Frame::data(piece.into_bytes()))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }
}

/// Runs that leave together. One alone is not copied.
enum Piece {
    One(Bytes),
    Several(BytesMut),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::One(run) => run.len(),
            Self::Several(runs) => runs.len(),
        }
    }

    fn and(self, run: &Bytes) -> Self {
        let mut runs = match self {
            Self::One(first) => {
                let mut runs = BytesMut::with_capacity(first.len() + run.len() + 1024);
                runs.put_slice(&first);
                runs
            }
            Self::Several(runs) => runs,
        };
        runs.put_slice(run);
        Self::Several(runs)
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::One(run) => run,
            Self::Several(runs) => runs.freeze(),
        }
    }
}
