//! The gate that every request passes: what its key may do, and whether there is enough of everything for it now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::time::Instant;

use super::budget::{Budgets, Reserve, Spent, UsedUp, Whose};
use super::pool::{Pool, Share, Taking, Withheld};
use super::ring::Caller;
use super::scope::{Dimension, Hold, Scope, Short, Want};
use super::{Budget, Limits};

/// All limits but those of keys, and what has been taken of them.
#[derive(Debug)]
pub struct Gate {
    whole: Arc<Scope>,
    // A std mutex: held for a look-up.
    scopes: Mutex<HashMap<(Kind, String), Arc<Scope>>>,
    rules: ArcSwap<Rules>,
    budgets: Budgets,
    /// What is shared with other replicas, if there are any.
    pool: OnceLock<Arc<dyn Pool>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Owner,
    Model,
}

/// The limits that are not those of a key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Of the whole gateway.
    pub gateway: Limits,
    /// Of each model, by its public name.
    pub models: HashMap<String, Limits>,
    /// Of each owner, by name.
    pub owners: HashMap<String, Limits>,
    /// What each owner may spend.
    pub owner_budgets: HashMap<String, Budget>,
}

impl Rules {
    /// Whether nothing is limited.
    fn is_none(&self) -> bool {
        self.gateway.is_none()
            && self.models.is_empty()
            && self.owners.is_empty()
            && self.owner_budgets.is_empty()
    }
}

/// What a request may use, for all that is known before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// So much.
    pub spent: Spent,
    /// Whether it is a request of its own, and not only a part of one that has passed.
    pub is_request: bool,
}

/// Why a request does not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something is short for now.
    #[error("the limit of {limit} {} of the {of} is reached", dimension.in_words())]
    Limit {
        /// Of what: `key`, `owner`, `model` or `gateway`.
        of: &'static str,
        /// What is short.
        dimension: Dimension,
        /// How much there is.
        limit: u64,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// A budget is used up.
    #[error("the budget of the {of} is used up")]
    Budget {
        /// Of what: `key` or `owner`.
        of: &'static str,
        /// When its period ends, in milliseconds since 1970.
        until_ms: i64,
    },
    /// What is left of a budget is set aside for requests under way.
    #[error("what is left of the budget of the {of} is set aside for requests that are under way")]
    SetAside {
        /// Of what: `key` or `owner`.
        of: &'static str,
    },
    /// What is shared with other replicas cannot be asked for.
    #[error("limits cannot be checked at the moment")]
    Unavailable,
}

/// The leave to make a request. What it has reserved is put right when it is settled, or given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    part: Part,
    holds: Vec<(Arc<Scope>, Hold)>,
    reserves: Vec<Reserve>,
    shares: Vec<Box<dyn Share>>,
    is_settled: bool,
}

impl Refusal {
    fn short(of: &'static str, short: Short) -> Self {
        let Short { dimension, limit, retry_after } = short;
        Self::Limit { of, dimension, limit, retry_after }
    }
}

impl Gate {
    /// A gate with these rules.
    pub fn new(rules: Rules, budgets: Budgets) -> Self {
        let whole = Arc::new(Scope::new(rules.gateway, Instant::now()).called("gateway", ""));
        let rules = ArcSwap::from_pointee(rules);
        Self { whole, scopes: Mutex::default(), rules, budgets, pool: OnceLock::new() }
    }

    /// Limits and budgets are shared with other replicas from now on. Once only: another pool is not taken.
    pub fn share(&self, pool: Arc<dyn Pool>) {
        if self.pool.set(pool).is_ok() {
            self.budgets.share();
        }
    }

    /// Puts other rules in place. What has been taken is not forgotten.
    pub fn replace_rules(&self, rules: Rules) {
        self.whole.limit(rules.gateway);
        self.rules.store(Arc::new(rules));
    }

    /// What has been spent of budgets.
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// The budgets of owners.
    pub fn owner_budgets(&self) -> Vec<(Whose, Budget)> {
        let rules = self.rules();
        rules.owner_budgets.iter().map(|(owner, budget)| (Whose::Owner(owner.clone()), *budget)).collect()
    }

    /// The limits and budgets that are not those of a key.
    pub fn rules(&self) -> Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// Whether anything is limited for a caller. If not, there is nothing to reserve.
    pub fn limits(&self, caller: Option<&Caller>) -> bool {
        let is_limited = |caller: &Caller| !caller.key.limits.is_none() || caller.key.budget.is_some();
        caller.is_some_and(is_limited) || !self.rules().is_none()
    }

    /// Whether a request for a model may be made, which may use this much. All that is limited is taken at once, or
    /// nothing.
    ///
    /// # Errors
    /// It may not, or not now.
    pub fn admit(
        self: &Arc<Self>,
        caller: Option<&Caller>,
        model: &str,
        part: Part,
        now_ms: i64,
    ) -> Result<Permit, Refusal> {
        // From here on it gives back what it has if something else is short.
        let mut permit = Permit {
            gate: self.clone(),
            part,
            holds: Vec::new(),
            reserves: Vec::new(),
            shares: Vec::new(),
            is_settled: false,
        };
        let rules = self.rules();
        for (of, whose, budget) in budgets_of(caller, &rules) {
            let reserve = self.budgets.take(whose, budget, part.spent, now_ms);
            permit.reserves.push(reserve.map_err(|used_up| match used_up {
                UsedUp::Spent { until_ms } => Refusal::Budget { of, until_ms },
                UsedUp::SetAside => Refusal::SetAside { of },
            })?);
        }
        let now = Instant::now();
        for (of, scope) in self.scopes_of(caller, model, &rules) {
            if let Err(refusal) = permit.take(of, scope, now) {
                permit.put_back(now);
                return Err(refusal);
            }
        }
        Ok(permit)
    }

    /// The same, counted together with other replicas if there are any. Without them it never waits.
    ///
    /// # Errors
    /// As [`Gate::admit`], or nobody can be asked and nothing is let through unasked.
    pub async fn admit_shared(
        self: &Arc<Self>,
        caller: Option<&Caller>,
        model: &str,
        part: Part,
        now_ms: i64,
    ) -> Result<Permit, Refusal> {
        let Some(pool) = self.pool.get() else { return self.admit(caller, model, part, now_ms) };
        // A guard is not for holding while others are asked.
        let rules = Guard::into_inner(self.rules());
        for (_, whose, budget) in budgets_of(caller, &rules) {
            if pool.is_closed() {
                return Err(Refusal::Unavailable);
            }
            let Some(spending) = self.budgets.unknown(&whose, &budget, now_ms) else { continue };
            match pool.learn(spending.clone()).await {
                Ok(total) => self.budgets.told((whose, budget.period), spending.since_ms, total),
                Err(_) if pool.is_closed() => return Err(Refusal::Unavailable),
                // What this process knows is what holds.
                Err(_) => {}
            }
        }
        let mut permit = self.admit(caller, model, part, now_ms)?;
        permit.share(pool.as_ref()).await?;
        Ok(permit)
    }

    fn scopes_of(
        &self,
        caller: Option<&Caller>,
        model: &str,
        rules: &Rules,
    ) -> Vec<(&'static str, Arc<Scope>)> {
        let mut scopes = Vec::new();
        if let Some(caller) = caller.filter(|caller| !caller.key.limits.is_none()) {
            scopes.push(("key", caller.scope.clone()));
        }
        let owner = caller.and_then(|caller| caller.key.owner.as_deref());
        if let Some((owner, limits)) = owner.and_then(|owner| Some((owner, rules.owners.get(owner)?))) {
            scopes.push(("owner", self.scope(Kind::Owner, owner, *limits)));
        }
        if let Some(limits) = rules.models.get(model) {
            scopes.push(("model", self.scope(Kind::Model, model, *limits)));
        }
        if !rules.gateway.is_none() {
            scopes.push(("gateway", self.whole.clone()));
        }
        scopes
    }

    fn scope(&self, kind: Kind, name: &str, limits: Limits) -> Arc<Scope> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        let of = match kind {
            Kind::Owner => "owner",
            Kind::Model => "model",
        };
        let new = || Arc::new(Scope::new(limits, Instant::now()).called(of, name));
        let scope = scopes.entry((kind, name.to_owned())).or_insert_with(new);
        // Rules may have changed.
        scope.limit(limits);
        scope.clone()
    }
}

/// The budgets that hold for a caller.
fn budgets_of(caller: Option<&Caller>, rules: &Rules) -> impl Iterator<Item = (&'static str, Whose, Budget)> {
    let of_key =
        caller.and_then(|caller| Some(("key", Whose::Key(caller.key.id.clone()), caller.key.budget?)));
    let owner = caller.and_then(|caller| caller.key.owner.clone());
    let of_owner = owner.and_then(|owner| {
        let budget = *rules.owner_budgets.get(&owner)?;
        Some(("owner", Whose::Owner(owner), budget))
    });
    of_key.into_iter().chain(of_owner)
}

impl Permit {
    fn take(&mut self, of: &'static str, scope: Arc<Scope>, now: Instant) -> Result<(), Refusal> {
        let want = Want { tokens: self.part.spent.tokens, is_request: self.part.is_request };
        let Short { dimension, limit, retry_after } = match scope.take(want, now) {
            Ok(hold) => {
                self.holds.push((scope, hold));
                return Ok(());
            }
            Err(short) => short,
        };
        Err(Refusal::Limit { of, dimension, limit, retry_after })
    }

    /// Another model takes over, which may have limits of its own.
    ///
    /// # Errors
    /// There is not enough left of them.
    pub fn extend(&mut self, model: &str) -> Result<(), Refusal> {
        let gate = self.gate.clone();
        let Some(limits) = gate.rules().models.get(model).copied() else { return Ok(()) };
        self.take("model", gate.scope(Kind::Model, model, limits), Instant::now())
    }

    /// The request has ended, and has used this.
    pub fn settle(mut self, spent: Spent, now_ms: i64) {
        self.close(spent, now_ms);
    }

    /// How many tokens the answer may have until a budget is used up that ends answers; `None` if there is no such.
    pub fn left(&self, now_ms: i64) -> Option<u64> {
        let left = self.reserves.iter().filter_map(|reserve| self.gate.budgets.left_for(reserve, now_ms));
        left.min()
    }

    /// Takes from other replicas' limits what was taken here, all of it or nothing.
    async fn share(&mut self, pool: &dyn Pool) -> Result<(), Refusal> {
        for index in 0..self.holds.len() {
            let Some((scope, hold)) = self.holds.get(index) else { break };
            let taken = match pool.take(&scope.thing, scope.limits(), hold.want()) {
                Taking::Now(taken) => taken,
                Taking::Later(taken) => taken.await,
            };
            match taken {
                Ok(share) => {
                    scope.note_left(share.left(), Instant::now());
                    self.shares.push(share);
                }
                Err(withheld) => {
                    let of = scope.thing.of;
                    self.put_back(Instant::now());
                    return Err(match withheld {
                        Withheld::Short(short) => Refusal::short(of, short),
                        Withheld::Away => Refusal::Unavailable,
                    });
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, spent: Spent, now_ms: i64) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let now = Instant::now();
        for (scope, hold) in &self.holds {
            scope.settle(hold, spent.tokens, now);
        }
        for share in &mut self.shares {
            share.settle(spent.tokens);
        }
        for reserve in &self.reserves {
            self.gate.budgets.settle(reserve, spent, now_ms);
        }
    }

    /// The request is not made: it does not even count as one.
    fn put_back(&mut self, now: Instant) {
        // Shares that are dropped give back what they have.
        self.shares.clear();
        for (scope, hold) in self.holds.drain(..) {
            scope.put_back(&hold, now);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // The day in which nothing was spent does not matter.
        self.close(Spent::default(), now_ms());
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
