//! What is known of one request: filled in by those who know, written out once when it has ended.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{DeploymentMetrics, EndpointMetrics};
use crate::callers::{Caller, Permit, Price, Spent, now_ms};
use crate::llm::{Session, Usage};

/// One request, from its head to the last byte of its answer.
#[derive(Debug)]
pub struct RequestRecord {
    /// The caller's own id, if it was sane, or one that was made here.
    pub id: Arc<str>,
    /// When its head had been read.
    pub started: Instant,
    /// The same by the clock, in milliseconds since 1970.
    pub started_ms: i64,
    // A std mutex: held for an assignment or two, never across an await, a few times a request.
    facts: Mutex<Facts>,
    /// Known at the door or never: read often, and not copied for that.
    caller: OnceLock<Caller>,
    /// Whose admin key it shows, where that opens.
    operator: OnceLock<Arc<str>>,
    /// The conversation that its headers name.
    pub session: Option<Session>,
    /// The request that this is a part of, where one request is several to upstreams.
    whole: Option<Arc<Self>>,
}

/// What becomes known on the way.
#[derive(Debug, Default)]
pub struct Facts {
    /// Which endpoint it came to, with its figures; `None` if there is none at its path.
    pub endpoint: Option<Arc<EndpointMetrics>>,
    /// The public model that was asked for, if it exists. (Other names must not become labels.)
    pub model: Option<Arc<str>>,
    /// The figures of the model at the provider that answered, or is asked, or was asked last.
    pub metrics: Option<Arc<DeploymentMetrics>>,
    /// The provider that answered, or is asked, or was asked last.
    pub provider: Option<Arc<str>>,
    /// Its deployment.
    pub deployment: Option<Arc<str>>,
    /// How many deployments were asked.
    pub attempts: u32,
    /// `name@version/language` of the prompt that was used.
    pub prompt: Option<String>,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// What was used.
    pub usage: Option<Usage>,
    /// From the start to the first content.
    pub first_token: Option<Duration>,
    /// How much of the time until the answer's head was spent on waiting for the upstream.
    pub upstream: Duration,
    /// The `code` of the error that the caller was told.
    pub error: Option<&'static str>,
    /// Its leave to be looked at, where something is limited: its place among the requests of its key.
    pub place: Option<Permit>,
    /// What was reserved for it, where something is limited.
    pub permit: Option<Permit>,
    /// The price at that deployment.
    pub price: Option<Arc<Price>>,
    /// What it cost, as far as there are prices.
    pub cost: f64,
    /// What it costs besides its tokens, which is a part of `cost`.
    pub request_cost: Option<f64>,
    /// Whether there is something without a price in it.
    pub is_unpriced: bool,
    /// Whether the gateway ended the answer, for a budget was used up.
    pub is_cut: bool,
    /// What its parts have settled already.
    settled: Spent,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer was handed over.
    Completed,
    /// The caller left before that.
    Cancelled,
    /// The caller was told of an error.
    Failed,
    /// The gateway ended the answer, for a budget was used up.
    Cut,
}

impl Outcome {
    /// The word for logs and figures.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Cut => "cut",
        }
    }
}

impl RequestRecord {
    /// A record that begins now.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self {
            id: id.into(),
            started: Instant::now(),
            started_ms: now_ms(),
            facts: Mutex::default(),
            caller: OnceLock::new(),
            operator: OnceLock::new(),
            session: None,
            whole: None,
        }
    }

    /// The record of a part, for a request that asks upstreams several times at once. Each part has facts of its own, so
    /// that none of them writes over another's; they are added to the whole's when the part is dropped.
    pub fn part(self: &Arc<Self>) -> Self {
        Self {
            id: self.id.clone(),
            started: self.started,
            started_ms: self.started_ms,
            facts: Mutex::default(),
            caller: OnceLock::new(),
            operator: OnceLock::new(),
            session: self.session,
            whole: Some(self.clone()),
        }
    }

    /// The facts, to read or to add to. Never hold them across an await.
    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        // A panic while they were held leaves facts that are as good as any.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is a part of a request.
    pub fn is_part(&self) -> bool {
        self.whole.is_some()
    }

    /// Who calls, if that is asked.
    pub fn caller(&self) -> Option<&Caller> {
        self.whole.as_ref().map_or_else(|| self.caller.get(), |whole| whole.caller())
    }

    /// Notes who calls. Once only: another is not taken.
    pub fn comes_from(&self, caller: Caller) {
        drop(self.caller.set(caller));
    }

    /// Notes whose admin key has opened. Once only.
    pub fn opened_by(&self, operator: Arc<str>) {
        drop(self.operator.set(operator));
    }

    /// Whose admin key has opened, if one has.
    pub fn operator(&self) -> Option<&Arc<str>> {
        self.operator.get()
    }

    /// Notes what was used, and what that costs.
    pub fn used(&self, usage: Usage) {
        let mut facts = self.facts();
        facts.usage = Some(usage);
        match &facts.price {
            Some(price) => facts.cost = price.cost(&usage) + facts.request_cost.unwrap_or(0.0),
            None => facts.is_unpriced = true,
        }
        if let Some(metrics) = &facts.metrics {
            metrics.used(&usage);
        }
    }

    /// Notes that a raw request was accepted, which costs what its price says of requests.
    pub fn accepted(&self) {
        let mut facts = self.facts();
        facts.request_cost = facts.price.as_ref().and_then(|price| price.request);
        facts.cost += facts.request_cost.unwrap_or(0.0);
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Notes that content has come. The time until then, if it is the first of the whole request.
    pub fn content_came(&self) -> Option<Duration> {
        if let Some(whole) = &self.whole {
            return whole.content_came();
        }
        let elapsed = self.elapsed();
        let mut facts = self.facts();
        facts.first_token.is_none().then(|| *facts.first_token.insert(elapsed))
    }
}

impl Facts {
    /// How the request ended, whose whole answer was handed over or not.
    pub fn outcome(&self, is_whole: bool) -> Outcome {
        match (is_whole, self.error) {
            // Whether its caller took the last of it or not.
            _ if self.is_cut => Outcome::Cut,
            (false, _) => Outcome::Cancelled,
            (true, Some(_)) => Outcome::Failed,
            (true, None) => Outcome::Completed,
        }
    }

    /// What was reserved is put right by what was used, and was not settled with a part. What was settled by now.
    pub fn settle(&mut self) -> Spent {
        let used = self.usage.map_or(0, |usage| usage.input_tokens.saturating_add(usage.output_tokens));
        let all = Spent { tokens: used, money: self.cost };
        if let Some(permit) = self.permit.take() {
            let rest = Spent {
                tokens: all.tokens.saturating_sub(self.settled.tokens),
                money: (all.money - self.settled.money).max(0.0),
            };
            permit.settle(rest, now_ms());
            self.settled = all;
        }
        self.settled
    }

    /// Adds what is known of a part. Who answered is told of the last part; times are the whole's own.
    fn add(&mut self, mut part: Self) {
        let settled = part.settle();
        self.settled.tokens += settled.tokens;
        self.settled.money += settled.money;
        self.cost += part.cost;
        self.is_unpriced |= part.is_unpriced;
        self.model = part.model.or(self.model.take());
        self.metrics = part.metrics.or(self.metrics.take());
        self.provider = part.provider.or(self.provider.take());
        self.deployment = part.deployment.or(self.deployment.take());
        self.attempts = self.attempts.saturating_add(part.attempts);
        self.usage = match (self.usage, part.usage) {
            (Some(usage), Some(more)) => Some(usage.plus(more)),
            (usage, more) => usage.or(more),
        };
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        if let Some(whole) = self.whole.take() {
            let facts = std::mem::take(&mut *self.facts());
            whole.facts().add(facts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(tokens: u64) -> Usage {
        Usage { input_tokens: tokens, output_tokens: 1, ..Usage::default() }
    }

    #[test]
    fn parts_add_up_however_they_end() {
        let whole = Arc::new(RequestRecord::new("id"));
        let parts = [whole.part(), whole.part(), whole.part()];
        for (part, (tokens, provider)) in parts.iter().zip([(3, "a"), (4, "b")]) {
            let mut facts = part.facts();
            (facts.usage, facts.attempts, facts.provider) = (Some(used(tokens)), 2, Some(provider.into()));
        }
        assert_eq!(whole.facts().usage, None, "they are told when they end");

        // The last one was given up before it had used anything.
        drop(parts);

        let facts = whole.facts();
        assert_eq!(facts.usage.map(|usage| (usage.input_tokens, usage.output_tokens)), Some((7, 2)));
        assert_eq!((facts.attempts, facts.provider.as_deref()), (4, Some("b")));
    }

    #[test]
    fn an_answer_that_was_ended_here_is_none_that_was_given_up() {
        let of =
            |is_cut, error, is_whole| Facts { error, is_cut, ..Facts::default() }.outcome(is_whole).as_str();
        assert_eq!([of(true, None, true), of(true, None, false)], ["cut", "cut"]);
        assert_eq!([of(false, None, true), of(false, None, false)], ["completed", "cancelled"]);
        assert_eq!([of(false, Some("x"), true), of(false, Some("x"), false)], ["failed", "cancelled"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_content_of_any_part_is_the_requests() {
        let whole = Arc::new(RequestRecord::new("id"));
        let (one, other) = (whole.part(), whole.part());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(other.content_came(), Some(Duration::from_secs(2)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(one.content_came(), None);
        assert_eq!(whole.facts().first_token, Some(Duration::from_secs(2)));
    }
}
