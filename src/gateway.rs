//! The story: what happens to a request between the API and a provider.
//!
//! A conversation gets its prompt from the library; every request finds its route, is tried on the route's
//! deployments, and its answer is metered on the way back. Nothing here knows HTTP.

mod admission;
mod asking;
mod chain;
mod count;
mod course;
mod cut_off;
mod meter;
mod opening;
mod raw;
mod several;
mod state;
mod way;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::{Map, Value, json};

pub use self::admission::may_use;
use self::asking::{Asking, note_asked};
use self::chain::{Chain, Tried};
use self::course::Course;
use self::cut_off::bounded;
use crate::callers::{Budgets, Caller, Gate, Refusal};
use crate::llm::{
    ChatRequest, Completion, Doubt, EmbedRequest, Embeddings, Options, Places, RawObject, RequestKind,
    shortened,
};
use crate::prompts::{PromptError, Rendered};
use crate::providers::{Content, Provider, ProviderError};
use crate::router::{Ask, Deployment, Fallback, Route, RouteError, Routed};
use crate::telemetry::RequestRecord;

pub use meter::{Meter, MeteredStream};
use opening::behind;
pub use opening::{Offer, Opening};
pub use several::{Replies, Unanswered};
pub use state::State;
pub use way::{Way, WayStop};

/// Everything between the API and the providers.
#[derive(Debug)]
pub struct Gateway {
    /// What a reload replaces. Each request takes what is there when it begins, and keeps it.
    state: ArcSwap<State>,
    /// The models that are off, whatever is reloaded. A std mutex: held while a state is put in place, so that none of
    /// them comes back with a state that was made before it went off.
    off: Mutex<HashSet<String>>,
    /// What callers have taken of their limits, whatever is reloaded.
    gate: Arc<Gate>,
}

/// A request of the facade: what was said, and how the prompt before it is found.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The public model name.
    pub model: String,
    /// What stands before everything that was said.
    pub opening: Opening,
    /// What was said before, oldest first: role and text.
    pub history: Vec<(Role, String)>,
    /// What the user says now.
    pub statement: String,
    /// Whether the answer is to be a stream.
    pub stream: bool,
    /// Generation options.
    pub options: Options,
}

/// Who said something in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// An answer, and how it came about.
#[derive(Debug)]
pub struct Reply<T> {
    /// The answer.
    pub body: T,
    /// Who gave it.
    pub deployment: Arc<Deployment>,
    /// How many deployments were asked.
    pub attempts: u32,
    /// Options that the provider could not take.
    pub ignored_options: Vec<String>,
    /// `<model>@<context>` of the engine that answers, if the gateway runs that itself.
    pub variant: Option<Arc<str>>,
    /// The prompt that was put before the conversation.
    pub prompt: Option<Rendered>,
}

/// A generated answer in the form that was asked for.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each request, and it is not moved often")]
pub enum Generated {
    /// In one piece.
    Whole(Completion),
    /// As it is generated.
    Stream(MeteredStream),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Nobody serves a model of that name.
    #[error("the model `{}` is not configured{}", shortened(name), suggestion(nearest.as_deref()))]
    UnknownModel {
        /// The name.
        name: String,
        /// One that was perhaps meant.
        nearest: Option<String>,
    },
    /// The model is off.
    #[error("the model `{}` is switched off for now; ask for another one", shortened(.0))]
    Off(String),
    /// Scores leave out all deployments of the model, and no other model takes over.
    #[error("no deployment of the model `{0}` can be used; ask for another one")]
    Nobody(String),
    /// There is no provider of that name.
    #[error("the provider `{}` is not configured", shortened(.0))]
    UnknownProvider(String),
    /// The caller may not use that model.
    #[error("the key may not use the model `{}`", shortened(.0))]
    NotAllowed(String),
    /// The caller may use some models only, or one of the provider is off, and it is not certain which one is meant.
    #[error(
        "not every model may be used here, so it must be certain which one a request is for: a JSON body names it once, as `model`; but {0}"
    )]
    ModelUntold(Doubt),
    /// The caller has a budget of money, and nothing tells what the request costs.
    #[error(
        "what this request costs is not known, and the key has a budget of money; the operator can give its model a price for a `request`"
    )]
    PriceUnknown,
    /// There is not enough left for the caller.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The prompt cannot be made.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// Nobody answered.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// One provider, asked directly, did not answer.
    #[error(transparent)]
    Provider(#[from] Box<ProviderError>),
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

impl Gateway {
    /// A gateway that begins with this state, and with budgets of which this is spent.
    pub fn new(state: State, budgets: Budgets) -> Self {
        let gate = Arc::new(Gate::new(state.rules.clone(), budgets));
        Self { state: ArcSwap::from_pointee(state), off: Mutex::default(), gate }
    }

    /// What callers have taken of their limits.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Puts another state in place. Requests under way keep theirs, and models that are off stay off.
    pub fn replace(&self, state: State) {
        let off = self.off.lock().unwrap_or_else(PoisonError::into_inner);
        self.gate.replace_rules(state.rules.clone());
        let routes = Arc::new(state.routes.without(&off));
        self.state.store(Arc::new(State { routes, ..state }));
    }

    /// Switches these models off, by their public names, and all others on. Requests under way end as they were.
    pub fn switch_off(&self, models: HashSet<String>) {
        let mut off = self.off.lock().unwrap_or_else(PoisonError::into_inner);
        if *off != models {
            self.state.store(Arc::new(self.state.load().without(&models)));
            *off = models;
        }
    }

    /// What requests that begin now will see.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Answers a chat or completion request. The future and the answer may be dropped at any time, which
    /// aborts the upstream request.
    ///
    /// # Errors
    /// The model is unknown, or nobody answered.
    pub async fn chat(
        &self,
        request: ChatRequest,
        record: Arc<RequestRecord>,
    ) -> Result<Reply<Generated>, GatewayError> {
        let course =
            self.course_of_body(&request.model, (request.rival.as_deref(), &request.body), &record)?;
        self.generated(course, request, record).await
    }

    /// As [`Gateway::chat`], for a request whose way is known.
    async fn generated(
        &self,
        course: Course,
        request: ChatRequest,
        record: Arc<RequestRecord>,
    ) -> Result<Reply<Generated>, GatewayError> {
        let routed = self.routed(course, &request, &record).await?;
        let meter = Meter::new(&request, record, (routed.deployment.clone(), routed.key));
        let body = match routed.answer.content {
            Content::Whole(mut completion) => {
                meter.whole(&mut completion);
                Generated::Whole(completion)
            }
            Content::Stream(frames) => Generated::Stream(meter.stream(frames)),
        };
        Ok(Reply {
            body,
            deployment: routed.deployment,
            attempts: routed.attempts,
            ignored_options: routed.answer.ignored_options,
            variant: routed.answer.variant,
            prompt: None,
        })
    }

    /// As [`Gateway::chat`], behind a prompt of the library.
    ///
    /// # Errors
    /// As there, or the prompt cannot be made.
    pub async fn chat_behind(
        &self,
        opening: &Opening,
        request: ChatRequest,
        record: Arc<RequestRecord>,
    ) -> Result<Reply<Generated>, GatewayError> {
        let course =
            self.course_of_body(&request.model, (request.rival.as_deref(), &request.body), &record)?;
        let prompt = course.opened(opening, &record)?;
        let reply = self.generated(course, behind(prompt.as_ref(), request), record).await?;
        Ok(Reply { prompt, ..reply })
    }

    /// Answers a conversation, with its system prompt from the library or from the caller.
    ///
    /// # Errors
    /// As [`Gateway::chat`], or the prompt cannot be made.
    pub async fn converse(
        &self,
        conversation: Conversation,
        record: Arc<RequestRecord>,
    ) -> Result<Reply<Generated>, GatewayError> {
        // A model that is not there is told before a variable that is missing.
        let course = self.course(&conversation.model, &record)?;
        let prompt = course.opened(&conversation.opening, &record)?;
        let request = conversation.into_request(prompt.as_ref());
        let reply = self.generated(course, request, record).await?;
        Ok(Reply { prompt, ..reply })
    }

    /// Embeds texts.
    ///
    /// # Errors
    /// The model is unknown, or nobody answered.
    pub async fn embed(
        &self,
        request: EmbedRequest,
        record: Arc<RequestRecord>,
    ) -> Result<Reply<Embeddings>, GatewayError> {
        let course =
            self.course_of_body(&request.model, (request.rival.as_deref(), &request.body), &record)?;
        let routed = self.routed(course, &request, &record).await?;
        meter::embeddings(&record, &request, &routed.answer);
        Ok(Reply {
            body: routed.answer,
            deployment: routed.deployment,
            attempts: routed.attempts,
            ignored_options: Vec::new(),
            variant: None,
            prompt: None,
        })
    }

    /// A provider by its name.
    ///
    /// # Errors
    /// There is none.
    pub fn provider(&self, name: &str) -> Result<Arc<dyn Provider>, GatewayError> {
        let state = self.state.load();
        state.routes.provider(name).cloned().ok_or_else(|| GatewayError::UnknownProvider(name.to_owned()))
    }

    /// The deployment that is asked first for a public model.
    ///
    /// # Errors
    /// The model is unknown, or off.
    pub fn first_deployment(
        &self,
        model: &str,
        caller: Option<&Caller>,
    ) -> Result<Arc<Deployment>, GatewayError> {
        let route = self.state.load().route(model, caller)?;
        let nobody = || GatewayError::Nobody(route.model.to_string());
        route.deployments.first().cloned().ok_or_else(nobody)
    }

    /// Asks for a model, and for those that take over from it.
    async fn routed<R: Ask>(
        &self,
        course: Course,
        request: &R,
        record: &RequestRecord,
    ) -> Result<Routed<R::Answer>, GatewayError> {
        let Course { state, first: mut route, mut others } = course;
        let mut tried = Tried::default();
        let asked = record.elapsed();
        let mut asking = Asking::new(record, request.input_tokens());
        loop {
            // Before anybody was asked, a refusal is of the model that was wanted.
            let is_noted = tried.seen.is_empty();
            if is_noted {
                note_route(record, &route);
            }
            if let Err(refusal) = self.admit_to(request, &route, &tried, record).await {
                route = others.next().ok_or(refusal)?;
                continue;
            }
            if !is_noted {
                note_route(record, &route);
            }
            let bounded = bounded(request, &route, record);
            asking.earlier = tried.attempts;
            let within = bounded.as_ref().unwrap_or(request);
            let least = route.least_tokens(request);
            let passes_on = |_| state.passes_on((&route, least), &tried.seen, record.caller());
            let fallback = match route.passes_on(least).and_then(passes_on) {
                Some(fallback) => Some(fallback),
                None => {
                    let deadline = tried.deadline(&route, &others);
                    match route.answer((within, least), deadline, &asking).await {
                        Ok(mut routed) => {
                            asking.end();
                            routed.attempts += tried.attempts;
                            note_answer(record, &routed.deployment, routed.attempts, asked);
                            return Ok(routed);
                        }
                        Err(error) => tried.failed(&route, error),
                    }
                }
            };
            tried.is_over(&route);
            let taking_over = state.taking_over(&route, fallback, record.caller());
            // After a prompt that is too long, and after a caller's mistake, the others would say the same.
            let listed = others.filter(|_| fallback == Some(Fallback::Any));
            let next = listed.chain(taking_over).filter(|route| !tried.seen.contains(&route.model));
            let next: Vec<Arc<Route>> = next.collect();
            let next = if next.is_empty() { tried.worth_waiting().into_iter().collect() } else { next };
            let mut next = next.into_iter();
            let Some(next_route) = next.next() else {
                asking.end();
                return Err(unanswered(tried, &route, record, asked));
            };
            match &tried.failure {
                _ if next_route.model == route.model => {}
                Some(failure) => {
                    tracing::warn!(model = %route.model, error = %failure.source, "Another model takes over");
                }
                // What it lacks for this request was known beforehand.
                None => {
                    tracing::debug!(model = %route.model, ?fallback, "Another model answers in its place");
                }
            }
            (route, others) = (next_route, Chain::Several(next));
        }
    }
}

fn note_route(record: &RequestRecord, route: &Route) {
    record.facts().model = Some(route.model.clone());
}

fn note_answer(record: &RequestRecord, deployment: &Deployment, attempts: u32, asked: Duration) {
    let mut facts = record.facts();
    // Of several that were asked it may be another one than the last.
    if !facts.deployment.as_ref().is_some_and(|asked| Arc::ptr_eq(asked, &deployment.id)) {
        note_asked(&mut facts, deployment);
    }
    facts.attempts = attempts;
    facts.upstream = record.elapsed().saturating_sub(asked);
}

/// Why there is no answer, of all the models that were tried: the last failure of one that was asked.
fn unanswered(tried: Tried, route: &Route, record: &RequestRecord, asked: Duration) -> GatewayError {
    let Some(mut error) = tried.failure else { return GatewayError::Nobody(route.model.to_string()) };
    (error.attempts, error.back_at) = (tried.attempts, tried.back_at);
    note_failure(record, &error, asked);
    error.into()
}

fn note_failure(record: &RequestRecord, error: &RouteError, asked: Duration) {
    let mut facts = record.facts();
    // One that rests was not asked: if anybody was, that one is known.
    if error.is_resting().is_none() || facts.deployment.is_none() {
        facts.provider = Some(error.source.provider.clone());
        facts.deployment = Some(error.deployment.clone());
    }
    facts.attempts = error.attempts;
    facts.upstream = record.elapsed().saturating_sub(asked);
}

impl Conversation {
    /// The conversation as a chat request: prompt, history, and what is said now.
    fn into_request(self, prompt: Option<&Rendered>) -> ChatRequest {
        let opening = match (self.opening, prompt) {
            (Opening::Text(text), _) => text,
            (Opening::Prompt { .. }, prompt) => prompt.map(|prompt| prompt.text.clone()).unwrap_or_default(),
        };
        let mut messages = Vec::with_capacity(self.history.len() + 2);
        if !opening.is_empty() {
            messages.push(message(Role::System, &opening));
        }
        messages.extend(self.history.iter().map(|(role, text)| message(*role, text)));
        messages.push(message(Role::User, &self.statement));
        let mut body = Map::new();
        body.insert("model".into(), self.model.as_str().into());
        body.insert("messages".into(), Value::Array(messages));
        body.insert("stream".into(), self.stream.into());
        let body = RawObject::from_map(&body);
        let mut options = Options::default();
        // What the prompt suggests holds where the caller says nothing.
        options.extend(prompt.map(|prompt| prompt.config.clone()).unwrap_or_default());
        self.options.iter().for_each(|(name, value)| options.set(name, value.clone()));
        ChatRequest {
            model: self.model,
            kind: RequestKind::Chat,
            stream: self.stream,
            include_usage: false,
            max_output_tokens: options.get("max_tokens").and_then(Value::as_u64),
            n: None,
            options,
            patience: None,
            answer_at_most: None,
            rival: None,
            places: Places::of(&body),
            body,
        }
    }
}

fn message(role: Role, text: &str) -> Value {
    let role = match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    json!({"role": role, "content": text})
}

#[cfg(test)]
mod tests;
