//! The way from a public model name to an answer: plan, try, commit.
//!
//! A route lists the deployments of a model in the order in which they are asked. The next one takes over
//! when one fails, until the first content has come; after that, never.

mod affinity;
mod attempt;
mod faults;
mod fit;
mod health;
mod hedge;
mod identity;
mod keys;
mod order;
mod probe;
mod round;
mod route;
mod score;
mod table;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::llm::{ChatRequest, Demands, EmbedRequest, Embeddings, InvalidObject, Session, Usage};
use crate::providers::{Answer, Content, CoolingDown, ErrorKind, Failover, Handover, ProviderError};
use crate::wire::Invalid;

use attempt::Outcome;
use fit::{fitting_first, holding};
use round::{Round, Waited};

pub use attempt::Means;
pub use health::{Figures, Health, HealthBook, Probed, Replicas, Rest};
pub use keys::Key;
pub use probe::Probe;
pub use route::Route;
pub use score::Score;
pub use table::{Deployment, MOST_DISCOVERED, RoutingTable, Served};

/// An answer, and who gave it.
#[derive(Debug)]
pub struct Routed<T> {
    /// The answer. If it is a stream, its first content is there already.
    pub answer: T,
    /// Who gave it.
    pub deployment: Arc<Deployment>,
    /// With which key, if its provider has several.
    pub key: Option<Arc<Key>>,
    /// How many were asked.
    pub attempts: u32,
}

/// No deployment of a model gave an answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer from `{deployment}` after {attempts} attempts")]
pub struct RouteError {
    /// The last one that was asked.
    pub deployment: Arc<str>,
    /// How many were asked.
    pub attempts: u32,
    /// When the first of those that rest is back, if any do: before that it is of no use to ask again.
    pub back_at: Option<Instant>,
    /// What the last one said.
    #[source]
    pub source: Box<ProviderError>,
}

/// Sees who is asked, while nobody has answered yet.
pub trait Watch: Sync {
    /// This one is asked now, as so many have been in all.
    fn asked(&self, deployment: &Deployment, attempts: u32);

    /// The id of the request.
    fn request_id(&self) -> Option<&str>;

    /// The conversation that the request's headers name.
    fn session(&self) -> Option<Session>;

    /// A call begins; it is to be noted whether that is handed over.
    fn begins(&self) -> Handover;

    /// The one who was asked has failed, and nobody is asked at the moment.
    fn failed(&self);

    /// An engine that the gateway runs itself has crashed over the request.
    fn engine_crashed(&self);

    /// Whether one has: then the request is sent to no other engine of this machine.
    fn avoids_engines(&self) -> bool;
}

/// Nobody looks.
impl Watch for () {
    fn asked(&self, _: &Deployment, _: u32) {}

    fn request_id(&self) -> Option<&str> {
        None
    }

    fn session(&self) -> Option<Session> {
        None
    }

    fn begins(&self) -> Handover {
        Handover::default()
    }

    fn failed(&self) {}

    fn engine_crashed(&self) {}

    fn avoids_engines(&self) -> bool {
        false
    }
}

/// A request that a deployment can be asked.
pub trait Ask: Sync {
    /// What it answers.
    type Answer: Send;

    /// Whether the answer comes as a stream.
    fn is_stream(&self) -> bool;

    /// What it asks for, of which not every model may be capable.
    fn demands(&self) -> Option<Demands> {
        None
    }

    /// The conversation that it is a turn of.
    fn session(&self) -> Option<Session> {
        None
    }

    /// About so many tokens of it, before the answer.
    fn input_tokens(&self) -> u64;

    /// At least so many; 0 where these are surely not more than `beyond`.
    fn least_input_tokens(&self, _beyond: u64) -> u64 {
        0
    }

    /// The most tokens of an answer; `None` if nobody says.
    fn output_tokens(&self) -> Option<u64>;

    /// How many answers it asks for, each of which may have so many tokens.
    fn answers(&self) -> u64 {
        1
    }

    /// The same with an answer of so many tokens at most, where its provider is to end it.
    fn within(&self, _tokens: u64) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// Asks once.
    fn ask(
        &self,
        deployment: &Deployment,
        means: &Means<'_>,
    ) -> impl Future<Output = Result<Self::Answer, ProviderError>> + Send;
}

impl Ask for ChatRequest {
    type Answer = Answer;

    fn is_stream(&self) -> bool {
        self.stream
    }

    fn demands(&self) -> Option<Demands> {
        Some(Self::demands(self))
    }

    fn session(&self) -> Option<Session> {
        Self::session(self)
    }

    fn input_tokens(&self) -> u64 {
        Usage::estimated_prompt(self.body.text())
    }

    fn least_input_tokens(&self, beyond: u64) -> u64 {
        Self::least_input_tokens(self, beyond)
    }

    fn output_tokens(&self) -> Option<u64> {
        self.most_output_tokens()
    }

    fn answers(&self) -> u64 {
        Self::answers(self)
    }

    /// A stream is ended by the gateway, which sees it pass.
    fn within(&self, tokens: u64) -> Option<Self> {
        (!self.stream).then(|| Self { answer_at_most: Some(tokens), ..self.clone() })
    }

    /// A stream is held until its first content, within the time for that.
    async fn ask(&self, deployment: &Deployment, means: &Means<'_>) -> Result<Answer, ProviderError> {
        let settled = self.with_settings(&deployment.defaults, &deployment.overrides);
        let mut request = settled.map_err(|invalid| deployment.refused(invalid))?;
        if self.answer_at_most.is_some() {
            let within = request.within_means().map_err(|invalid| deployment.refused(invalid))?;
            request = Cow::Owned(within.into_owned());
        }
        if means.patience.is_some() {
            request.to_mut().patience = means.patience;
        }
        let attempt = async {
            let mut answer = means.provider.chat(&deployment.upstream_model, &request).await?;
            if let Content::Stream(frames) = &mut answer.content {
                frames.until_content().await?;
            }
            Ok(answer)
        };
        let (limit, late) = ErrorKind::late(&deployment.timeouts, request.stream);
        timeout(limit, attempt).await.unwrap_or_else(|_| Err(deployment.failed(late)))
    }
}

impl Ask for EmbedRequest {
    type Answer = Embeddings;

    fn is_stream(&self) -> bool {
        false
    }

    fn input_tokens(&self) -> u64 {
        Usage::estimated_prompt(self.body.text())
    }

    fn output_tokens(&self) -> Option<u64> {
        Some(0)
    }

    async fn ask(&self, deployment: &Deployment, means: &Means<'_>) -> Result<Embeddings, ProviderError> {
        let limit = deployment.timeouts.request;
        let settled = self.with_settings(&deployment.defaults, &deployment.overrides);
        let request = settled.map_err(|invalid| deployment.refused(invalid))?;
        let attempt = means.provider.embed(&deployment.upstream_model, &request);
        timeout(limit, attempt).await.unwrap_or_else(|_| Err(deployment.failed(ErrorKind::Overdue(limit))))
    }
}

impl Route {
    /// How long a request may wait while all deployments rest.
    pub fn max_wait(&self) -> Duration {
        self.routing.max_wait
    }

    /// Asks the deployments, one after the other, until one answers. Those that cool down are left out while another one
    /// can answer. With a `deadline` no other can: then those that have failed are tried again, one attempt at a time,
    /// and the first to come back of those that are to be left alone is waited for, those who came first before those who
    /// came later. Those for which the prompt, with its `least_tokens`, is surely too long are passed over, unless it is
    /// that for all of them: then their servers are to say so.
    ///
    /// # Errors
    /// The request was refused, every deployment failed, or all of them cool down.
    pub async fn answer<R: Ask>(
        &self,
        (request, least_tokens): (&R, u64),
        deadline: Option<Instant>,
        watch: &dyn Watch,
    ) -> Result<Routed<R::Answer>, RouteError> {
        let least_tokens = if self.passes_on(least_tokens).is_some() { 0 } else { least_tokens };
        let demands = self.is_choosy.then(|| request.demands()).flatten();
        if self.routing.hedge_after.is_some() {
            self.hedges.earn();
        }
        let session = self.session(watch.session(), request);
        let order = || {
            let order = self.order.of(&self.deployments, request.is_stream(), session);
            fitting_first(holding(order, least_tokens), demands.as_ref())
        };
        let mut round = Round::new((self, watch), order(), session);
        let mut turn = None;
        loop {
            while let Some(candidate) = round.next() {
                // Whoever waits next may look.
                turn = None;
                match self.raced(request, candidate, &mut round).await {
                    Outcome { deployment, key, result: Ok(answer), .. } => {
                        let deployment = deployment.clone();
                        return Ok(Routed { answer, deployment, key, attempts: round.attempts });
                    }
                    failed => {
                        round.failed(failed);
                        watch.failed();
                    }
                }
            }
            let is_last = deadline.is_some();
            if is_last && round.is_worth_a_last_pass(order()) {
                continue;
            }
            let wait = deadline.and_then(|deadline| round.worth_waiting(deadline));
            let Some(Waited { deployment, until, deadline, is_tried }) = wait else {
                return Err(self.unanswered(round, least_tokens));
            };
            if !is_tried && turn.is_none() {
                match timeout_at(deadline, self.line.lock()).await {
                    Ok(own) => turn = Some(own),
                    Err(_) => return Err(self.unanswered(round, least_tokens)),
                }
            } else {
                tokio::select! {
                    () = sleep_until(until.min(Instant::now() + GLANCE)) => {}
                    () = deployment.changed() => {}
                }
            }
            round.begin_last_pass(order());
        }
    }

    /// Why there is no answer: the last failure, or that all cool down, or that there is no deployment.
    fn unanswered<'r, I>(&'r self, round: Round<'r, I>, least_tokens: u64) -> RouteError
    where
        I: Iterator<Item = &'r Arc<Deployment>>,
    {
        if let Some(failure) = round.failure {
            return RouteError { back_at: self.useful_at(least_tokens), ..failure };
        }
        if let Some((_, deployment)) = round.soonest {
            return deployment.cools_down(self.useful_at(least_tokens));
        }
        // The caller has made sure that there is one, which may be an engine.
        let is_crashed = round.avoids_engines();
        let kind = if is_crashed { ErrorKind::EngineCrashed } else { ErrorKind::Unsupported("this model") };
        RouteError {
            deployment: self.model.clone(),
            attempts: 0,
            back_at: None,
            source: ProviderError::new(&self.model, kind).into(),
        }
    }

    /// When the first of those that may be asked is worth asking again: now, where another one does not cool down.
    /// `None` if none of them does.
    fn useful_at(&self, least_tokens: u64) -> Option<Instant> {
        let now = Instant::now();
        let may_be_asked = self.deployments.iter().filter(|deployment| deployment.may_hold(least_tokens));
        let back: Vec<Option<Instant>> = may_be_asked.map(|deployment| deployment.useful_at(now)).collect();
        let does_any_rest = back.iter().any(Option::is_some);
        back.into_iter().map(|until| until.unwrap_or(now)).min().filter(|_| does_any_rest)
    }
}

/// Whoever is next in the line looks again so often: any of the deployments may be back sooner than was thought.
const GLANCE: Duration = Duration::from_millis(250);

impl RouteError {
    /// How long until it is worth asking again, if it is only that all cool down.
    pub fn is_resting(&self) -> Option<Duration> {
        match &self.source.kind {
            ErrorKind::CoolingDown(cooling) => Some(cooling.retry_after),
            _ => None,
        }
    }

    /// Whether another model may be asked instead, and whether it has to have a larger context.
    pub fn fallback(&self) -> Option<Fallback> {
        match (&self.source.kind, self.source.failover()) {
            (ErrorKind::ContextTooLong { .. }, _) => Some(Fallback::Larger),
            (_, Failover::Next(_)) => Some(Fallback::Any),
            (_, Failover::Stop) => None,
        }
    }
}

/// Which model may answer in the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Any that is named for it.
    Any,
    /// One with a larger context.
    Larger,
}

impl Deployment {
    /// It cools down, and is not asked.
    fn cools_down(&self, until: Option<Instant>) -> RouteError {
        let (last, now) = (self.last(), Instant::now());
        let cooling = CoolingDown {
            said: last.as_ref().and_then(|last| last.kind.as_ref()).map(ToString::to_string),
            ago: last.map(|last| now.saturating_duration_since(last.at)).unwrap_or_default(),
            retry_after: until.unwrap_or(now).saturating_duration_since(now),
        };
        let cooling = self.failed(ErrorKind::CoolingDown(cooling.into()));
        RouteError { back_at: until, ..self.route_error(0, cooling) }
    }

    fn route_error(&self, attempts: u32, source: ProviderError) -> RouteError {
        RouteError { deployment: self.id.clone(), attempts, back_at: None, source: source.into() }
    }

    fn failed(&self, kind: ErrorKind) -> ProviderError {
        ProviderError::new(&self.provider_name, kind)
    }

    fn refused(&self, invalid: InvalidObject) -> ProviderError {
        self.failed(ErrorKind::Rejected(Invalid::from(invalid).into()))
    }
}

#[cfg(test)]
mod tests;
