//! Limits that hold for all nodes together: answered from what this node was given, or by asking, or, while Redis is
//! away, as the operator wants it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use redis::ScriptInvocation;
use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::PREFIX;
use super::link::{Link, channel};
use super::news::{News, Of, What};
use super::scope::{Amounts, BELIEVED_MS, Look, Part, signed};
use super::scripts::{REPORT, SPEND, TAKE};
use crate::callers::{
    Away, CLAIM_BELIEVED_MS, Claim, Dimension, Granted, Limits, Period, Pool, Share, Short, Spending, Spent,
    Taking, Thing, Want, Whose, Withheld,
};

/// So long a request waits for its turn and for an answer. It may have to wait for its key, owner, model, for the whole
/// gateway, and for two budgets, and all that has to be over well within three seconds.
const PATIENCE: Duration = Duration::from_millis(400);
/// What was spent is kept so long after its period has ended, for nodes whose clocks are behind.
const AFTER_PERIOD_MS: i64 = 3_600_000;

/// All limits that were touched.
pub(super) struct Limiter {
    pub(super) link: Arc<Link>,
    /// Questions go on when nobody waits for their answers any more: what is given is not lost.
    tasks: TaskTracker,
    /// The one that they go on on.
    runtime: Handle,
    // A std mutex: held for a look-up.
    scopes: Mutex<HashMap<Thing, Arc<Scope>>>,
}

/// One thing with limits.
pub(super) struct Scope {
    key: String,
    // A std mutex: held for a few additions.
    part: Mutex<Part>,
    /// One asks, or tells, at a time: those who wait for the same are served with it.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A part of a thing that one request has.
#[derive(Debug)]
struct Taken {
    scope: Arc<Scope>,
    amounts: Amounts,
    /// When it was taken, by Redis' clock.
    second: i64,
    /// Whether its place is the node's to keep for a moment.
    is_given: bool,
    left: [Option<u64>; 2],
    is_settled: bool,
}

/// A request that waits for an answer.
struct Waiting<'a> {
    scope: &'a Scope,
    needed: Amounts,
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").finish_non_exhaustive()
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("part", &self.part).finish_non_exhaustive()
    }
}

impl Limiter {
    pub(super) fn new(link: Arc<Link>, tasks: TaskTracker) -> Self {
        Self { link, tasks, runtime: Handle::current(), scopes: Mutex::default() }
    }

    fn scope(&self, thing: &Thing) -> Arc<Scope> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scope) = scopes.get(thing) {
            return scope.clone();
        }
        let scope = Arc::new(Scope {
            key: format!("{PREFIX}limit:{}:{}", thing.of, thing.name),
            part: Mutex::default(),
            turn: Arc::default(),
        });
        scopes.insert(thing.clone(), scope.clone());
        scope
    }

    /// Redis is away, or too slow.
    fn unasked(&self, scope: &Arc<Scope>, needed: Amounts) -> Result<Taken, Withheld> {
        if self.link.is_strict() && !needed.is_none() {
            return Err(Withheld::Away);
        }
        let second = self.link.second();
        scope.part().take_unasked(needed, second, Instant::now());
        Ok(Taken::new(scope, needed, second, false))
    }

    /// Asks for what a request needs, and for more if that is sensible.
    async fn ask(&self, scope: &Arc<Scope>, limits: Limits, needed: Amounts) -> Result<Taken, Withheld> {
        let (held, missing, asked, places) = {
            let mut part = scope.part();
            let held = part.hold(needed);
            let missing = needed.without(held);
            (held, missing, part.ask(missing, limits), part.places())
        };
        let mut take = TAKE.key(&scope.key);
        take.arg(self.link.node()).arg(places).arg(BELIEVED_MS);
        for asked in asked {
            take.arg(asked.limit).arg(asked.needed).arg(asked.waiting).arg(asked.spare);
        }
        let answer = self.link.run::<Vec<i64>>(&take).await.unwrap_or_default();
        let now = Instant::now();
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        match *answer.as_slice() {
            [1, second, requests, tokens, places, left_requests, left_tokens] => {
                self.link.heard(second);
                let given =
                    Amounts { requests: count(requests), tokens: count(tokens), places: count(places) };
                let left = [left_requests, left_tokens].map(|left| u64::try_from(left).ok());
                scope.part().give((given, missing), second, left, now);
                Ok(Taken::new(scope, needed, second, true))
            }
            [0, second, kind, wait, left] => {
                self.link.heard(second);
                let (dimension, limit) = match kind {
                    0 => (Dimension::Requests, limits.requests_per_minute),
                    1 => (Dimension::Tokens, limits.tokens_per_minute),
                    _ => (Dimension::Parallel, limits.parallel_requests),
                };
                let short = Short {
                    dimension,
                    limit: limit.unwrap_or(0),
                    asked: needed.of(dimension),
                    // What the node has of it is its own to use.
                    left: count(left).saturating_add(held.of(dimension)),
                    // What is never enough was refused before anybody was asked.
                    retry_after: Some(Duration::from_secs(count(wait).max(1))),
                };
                let mut part = scope.part();
                part.put_back(held);
                part.refuse(short, needed, now);
                Err(Withheld::Short(short))
            }
            _ => {
                scope.part().put_back(held);
                self.unasked(scope, needed)
            }
        }
    }

    /// Waits for its turn, and asks unless that has been done meanwhile.
    async fn wait(
        self: Arc<Self>,
        scope: Arc<Scope>,
        limits: Limits,
        needed: Amounts,
    ) -> Result<Taken, Withheld> {
        let waiting = Waiting::new(&scope, needed);
        let turn = scope.turn.clone().lock_owned().await;
        if !self.link.is_up() {
            return self.unasked(&scope, needed);
        }
        if let Ok(looked) = scope.look(needed) {
            return looked;
        }
        let asking = {
            let (limiter, scope) = (self.clone(), scope.clone());
            async move {
                let _turn: OwnedMutexGuard<()> = turn;
                limiter.ask(&scope, limits, needed).await
            }
        };
        // Who has the turn is waited for by others, and does not wait for a thread that is busy with another request.
        let answer = self.tasks.spawn_on(asking, &self.runtime).await;
        drop(waiting);
        answer.unwrap_or(Err(Withheld::Away))
    }

    /// Tells Redis of all that is to be put right, and gives back what is old, or everything. Whether Redis was there.
    pub(super) async fn tell(&self, all: bool) -> Result<(), Away> {
        let now = Instant::now();
        let due: Vec<Arc<Scope>> = {
            let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
            scopes.retain(|_, scope| Arc::strong_count(scope) > 1 || !scope.part().is_forgettable(now));
            scopes.values().filter(|scope| scope.part().tidy(all, now)).cloned().collect()
        };
        let told = due
            .chunks(64)
            .map(|some| futures_util::future::join_all(some.iter().map(|scope| self.tell_of(scope))));
        for told in told {
            told.await.into_iter().collect::<Result<(), Away>>()?;
        }
        Ok(())
    }

    async fn tell_of(&self, scope: &Scope) -> Result<(), Away> {
        // Nobody asks meanwhile, so the number of places is the one that holds when this comes.
        let _turn = scope.turn.lock().await;
        let report = scope.part().report(Instant::now());
        let mut script = REPORT.key(&scope.key);
        script.arg(self.link.node()).arg(report.places).arg(BELIEVED_MS);
        for (second, requests, tokens) in &report.corrections {
            script.arg(*second).arg(*requests).arg(*tokens);
        }
        match self.link.run::<i64>(&script).await {
            Ok(second) => {
                self.link.heard(second);
                Ok(())
            }
            Err(away) => {
                scope.part().take_back(report);
                Err(away)
            }
        }
    }

    /// Adds to what was spent of a budget, and says what is claimed of it. What all have spent.
    pub(super) async fn spend(&self, spending: &Spending) -> Result<Spent, Away> {
        let answer = self.link.run::<Vec<String>>(&self.spending(spending)).await?;
        match answer.as_slice() {
            [tokens, money] => sum(tokens, money),
            _ => Err(Away),
        }
    }

    /// Claims more of a budget.
    async fn claim_more(&self, claim: &Claim) -> Result<Granted, Away> {
        let Claim { spending, budget, part, waiting } = claim;
        let mut script = self.spending(spending);
        script.arg(budget.tokens.map_or(-1, signed)).arg(budget.money.unwrap_or(-1.0));
        for need in [part, waiting] {
            script.arg(signed(need.tokens)).arg(need.money);
        }
        let answer = self.link.run::<Vec<String>>(&script).await?;
        match answer.as_slice() {
            [tokens, money] => Ok(Granted { total: sum(tokens, money)?, more: None }),
            [tokens, money, more_tokens, more_money] => {
                Ok(Granted { total: sum(tokens, money)?, more: Some(sum(more_tokens, more_money)?) })
            }
            _ => Err(Away),
        }
    }

    /// What is told of a budget by whoever tells or asks.
    fn spending(&self, spending: &Spending) -> ScriptInvocation<'static> {
        let Spending { whose, period, since_ms, until_ms, before, more, claim } = spending;
        let (of, word, name) = match whose {
            Whose::Key(id) => (Of::Key, "key", id),
            Whose::Owner(name) => (Of::Owner, "owner", name),
        };
        let kind = match period {
            Period::Day => "day",
            Period::Week => "week",
            Period::Month => "month",
        };
        let what = What::Spent {
            of,
            name: name.to_string(),
            period: *period,
            since_ms: since_ms.to_string(),
            tokens: String::new(),
            money: String::new(),
        };
        let left = until_ms.saturating_sub(crate::callers::now_ms()).max(0);
        let mut spend = SPEND.key(format!("{PREFIX}budget:{word}:{kind}:{since_ms}:{name}"));
        spend.arg(signed(before.tokens)).arg(before.money).arg(signed(more.tokens)).arg(more.money);
        spend.arg(left.saturating_add(AFTER_PERIOD_MS)).arg(channel());
        spend.arg(News::text(self.link.node(), what));
        spend.arg(self.link.node()).arg(CLAIM_BELIEVED_MS).arg(signed(claim.tokens)).arg(claim.money);
        spend
    }
}

/// Tokens and money as a script tells them.
fn sum(tokens: &str, money: &str) -> Result<Spent, Away> {
    match (tokens.parse(), money.parse()) {
        (Ok(tokens), Ok(money)) => Ok(Spent { tokens, money }),
        _ => Err(Away),
    }
}

/// It is not here and has to be asked for.
struct Ask;

impl Scope {
    fn part(&self) -> MutexGuard<'_, Part> {
        self.part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What can be said without asking anybody.
    fn look(self: &Arc<Self>, needed: Amounts) -> Result<Result<Taken, Withheld>, Ask> {
        let look = self.part().take(needed, Instant::now());
        match look {
            Look::Taken(second) => Ok(Ok(Taken::new(self, needed, second, true))),
            Look::Dry(short) => Ok(Err(Withheld::Short(short))),
            Look::Ask => Err(Ask),
        }
    }
}

impl Taken {
    fn new(scope: &Arc<Scope>, amounts: Amounts, second: i64, is_given: bool) -> Self {
        let left = scope.part().left();
        Self { scope: scope.clone(), amounts, second, is_given, left, is_settled: false }
    }
}

impl Share for Taken {
    fn settle(&mut self, tokens: u64) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let mut part = self.scope.part();
        part.leave(self.amounts.places, self.is_given, Instant::now());
        if self.amounts.tokens > 0 {
            part.correct(self.second, 0, signed(tokens) - signed(self.amounts.tokens));
        }
    }

    fn left(&self) -> [Option<u64>; 2] {
        self.left
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let mut part = self.scope.part();
        part.leave(self.amounts.places, self.is_given, Instant::now());
        part.correct(self.second, -signed(self.amounts.requests), -signed(self.amounts.tokens));
    }
}

impl<'a> Waiting<'a> {
    fn new(scope: &'a Scope, needed: Amounts) -> Self {
        scope.part().waiting.add(needed);
        Self { scope, needed }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut part = self.scope.part();
        part.waiting = part.waiting.without(self.needed);
    }
}

fn boxed(taken: Result<Taken, Withheld>) -> Result<Box<dyn Share>, Withheld> {
    taken.map(|taken| Box::new(taken) as Box<dyn Share>)
}

impl Pool for Arc<Limiter> {
    fn take(&self, thing: &Thing, limits: Limits, want: Want) -> Taking {
        let needed = Amounts::wanted(want, limits);
        let scope = self.scope(thing);
        if !self.link.is_up() {
            return Taking::Now(boxed(self.unasked(&scope, needed)));
        }
        match scope.look(needed) {
            Ok(looked) => Taking::Now(boxed(looked)),
            Err(Ask) => {
                let limiter = self.clone();
                Taking::Later(Box::pin(async move {
                    let waiting = limiter.clone().wait(scope.clone(), limits, needed);
                    // What is given too late is given back.
                    let taken = timeout(PATIENCE, waiting).await;
                    boxed(taken.unwrap_or_else(|_| limiter.unasked(&scope, needed)))
                }))
            }
        }
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'static, Result<Granted, Away>> {
        let limiter = self.clone();
        Box::pin(async move { limiter.claim_more(&claim).await })
    }

    fn is_up(&self) -> bool {
        self.link.is_up()
    }

    fn is_strict(&self) -> bool {
        self.link.is_strict()
    }
}
