//! The gate that every request passes: what its key may do, and whether there is enough of everything for it now.

mod claims;
mod owners;
mod permit;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::time::Instant;

use super::budget::{Budgets, Whose};
use super::pool::Pool;
use super::ring::{Caller, KeyRing};
use super::scope::{Dimension, Figures, Scope, Short};
use super::{Away, Budget, Limits, moment_as_text};

pub use permit::{Part, Permit};

/// All limits but those of keys, and what has been taken of them.
#[derive(Debug)]
pub struct Gate {
    whole: Arc<Scope>,
    rules: ArcSwap<Ruled>,
    budgets: Budgets,
    /// What is shared with other replicas, if there are any.
    pool: OnceLock<Arc<dyn Pool>>,
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

/// The same, with what has been taken of each: looked up without a lock.
#[derive(Debug, Default)]
pub struct Ruled {
    rules: Rules,
    of_owners: HashMap<String, Arc<Scope>>,
    of_models: HashMap<String, Arc<Scope>>,
}

impl Deref for Ruled {
    type Target = Rules;

    fn deref(&self) -> &Rules {
        &self.rules
    }
}

impl Ruled {
    /// These rules after others. What has been taken is not forgotten of what was limited before and is now.
    fn after(before: &Self, rules: Rules) -> Self {
        let of_owners = scopes("owner", &before.of_owners, &rules.owners);
        let of_models = scopes("model", &before.of_models, &rules.models);
        Self { rules, of_owners, of_models }
    }
}

fn scopes(
    of: &'static str,
    before: &HashMap<String, Arc<Scope>>,
    limits: &HashMap<String, Limits>,
) -> HashMap<String, Arc<Scope>> {
    let scope = |(name, limits): (&String, &Limits)| {
        let known = before.get(name).cloned();
        let scope = known.unwrap_or_else(|| Arc::new(Scope::new(*limits, Instant::now()).called(of, name)));
        scope.limit(*limits);
        (name.clone(), scope)
    };
    limits.iter().map(scope).collect()
}

impl Rules {
    /// Whether nothing is limited.
    fn is_none(&self) -> bool {
        let Self { gateway, models, owners, owner_budgets } = self;
        gateway.is_none() && models.is_empty() && owners.is_empty() && owner_budgets.is_empty()
    }
}

/// Why a request does not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something is short for now.
    #[error("the limit of {limit} {} of the {of} is reached{}", dimension.in_words(), dimension.shortage(*asked, *left))]
    Limit {
        /// Of what: `key`, `owner`, `model` or `gateway`.
        of: &'static str,
        /// What is short.
        dimension: Dimension,
        /// How much there is.
        limit: u64,
        /// How much is asked for.
        asked: u64,
        /// How much is left.
        left: u64,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// More is asked for than there ever is.
    #[error("the request needs {asked}, and the limit of the {of} is {limit} {}", dimension.in_words())]
    Never {
        /// Of what: `key`, `owner`, `model` or `gateway`.
        of: &'static str,
        /// What there is too little of.
        dimension: Dimension,
        /// How much there is.
        limit: u64,
        /// How much is asked for.
        asked: u64,
    },
    /// A budget is used up.
    #[error("the budget of the {of} is used up; the next begins at {}", moment_as_text(*until_ms))]
    Budget {
        /// Of what: `key` or `owner`.
        of: &'static str,
        /// When its period ends, in milliseconds since 1970.
        until_ms: i64,
    },
    /// What is left of a budget that ends answers is less than the shortest answer takes.
    #[error("what is left of the budget of the {of} does not last for the prompt and any answer to it")]
    TooLittle {
        /// Of what: `key` or `owner`.
        of: &'static str,
        /// When there is enough, in milliseconds since 1970; `None` if never.
        until_ms: Option<i64>,
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

impl Refusal {
    fn short(of: &'static str, short: Short) -> Self {
        let Short { dimension, limit, asked, left, retry_after } = short;
        match retry_after {
            Some(retry_after) => Self::Limit { of, dimension, limit, asked, left, retry_after },
            None => Self::Never { of, dimension, limit, asked },
        }
    }

    /// What refuses, and by which of its limits, in single words; `None` where it is none of these.
    pub fn limit(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Limit { of, dimension, .. } | Self::Never { of, dimension, .. } => {
                Some((of, dimension.word()))
            }
            Self::Budget { of, .. } | Self::TooLittle { of, .. } | Self::SetAside { of } => {
                Some((of, "budget"))
            }
            Self::Unavailable => None,
        }
    }

    /// Whether it would be the same at any other time.
    pub fn is_for_good(&self) -> bool {
        matches!(self, Self::Never { .. })
    }
}

impl Gate {
    /// A gate with these rules.
    pub fn new(rules: Rules, budgets: Budgets) -> Self {
        let whole = Arc::new(Scope::new(rules.gateway, Instant::now()).called("gateway", ""));
        let rules = ArcSwap::from_pointee(Ruled::after(&Ruled::default(), rules));
        Self { whole, rules, budgets, pool: OnceLock::new() }
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
        let after = Ruled::after(&self.rules.load(), rules);
        self.rules.store(Arc::new(after));
    }

    /// What has been spent of budgets.
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// All budgets there are: of keys, and of owners.
    pub fn all_budgets(&self, ring: &KeyRing) -> Vec<(Whose, Budget)> {
        let of_keys = ring.all().into_iter();
        let of_keys = of_keys.filter_map(|caller| Some((Whose::Key(caller.id.clone()), caller.key.budget?)));
        of_keys.chain(self.owner_budgets()).collect()
    }

    /// The budgets of owners.
    pub fn owner_budgets(&self) -> Vec<(Whose, Budget)> {
        let rules = self.rules();
        rules
            .owner_budgets
            .iter()
            .map(|(owner, budget)| (Whose::Owner(owner.as_str().into()), *budget))
            .collect()
    }

    /// The limits and budgets that are not those of a key.
    pub fn rules(&self) -> Guard<Arc<Ruled>> {
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
        let mut permit = Permit::of(self, part);
        let rules = self.rules();
        for (of, whose, budget) in budgets_of(caller, &rules) {
            let reserve = self.budgets.take(whose, budget, part.spent, now_ms);
            permit.reserve(of, reserve, now_ms)?;
        }
        permit.take(self.scopes_of(caller, Some(model), &rules), Instant::now())?;
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
        let mut permit = Permit::of(self, part);
        for (of, whose, budget) in budgets_of(caller, &rules) {
            let reserve = self.reserve_shared(pool.as_ref(), (whose, budget), part.spent, now_ms).await;
            permit.reserve(of, reserve.map_err(|Away| Refusal::Unavailable)?, now_ms)?;
        }
        permit.take(self.scopes_of(caller, Some(model), &rules), Instant::now())?;
        permit.share(pool.as_ref()).await?;
        Ok(permit)
    }

    /// A place among the parallel requests of a caller's key, for a request of which nothing is known but who sends it: its
    /// body is not read before it has one. `None` where there is no such limit.
    ///
    /// # Errors
    /// All of them are taken.
    pub fn place(self: &Arc<Self>, caller: Option<&Caller>) -> Result<Option<Permit>, Refusal> {
        let limited = caller.filter(|caller| caller.key.limits.parallel_requests.is_some());
        let Some(caller) = limited else { return Ok(None) };
        let mut permit = Permit::of(self, Part::REQUEST);
        let has_place = permit.take_place(&caller.scope)?;
        Ok(has_place.then_some(permit))
    }

    /// Lets in a request that is asked of no model and uses no tokens: it counts as a request of its caller. `None` if
    /// nothing is limited.
    ///
    /// # Errors
    /// There are too many, or Redis is away and nothing is let through without it.
    pub async fn admit_unmetered(
        self: &Arc<Self>,
        caller: Option<&Caller>,
    ) -> Result<Option<Permit>, Refusal> {
        if !self.limits(caller) {
            return Ok(None);
        }
        let rules = Guard::into_inner(self.rules());
        let mut permit = Permit::of(self, Part::REQUEST);
        permit.take(self.scopes_of(caller, None, &rules), Instant::now())?;
        if let Some(pool) = self.pool.get() {
            permit.share(pool.as_ref()).await?;
        }
        Ok(Some(permit))
    }

    /// Another model takes over a request that has passed. `None` if that model has no limits of its own, which alone
    /// matter now; else what is to be joined to the request's leave.
    ///
    /// # Errors
    /// There is not enough left of them, or nobody can be asked and nothing is let through unasked.
    pub async fn admit_also(self: &Arc<Self>, model: &str, part: Part) -> Result<Option<Permit>, Refusal> {
        let Some(scope) = self.rules().of_models.get(model).cloned() else { return Ok(None) };
        let mut permit = Permit::of(self, part);
        permit.take([&scope].into_iter(), Instant::now())?;
        if let Some(pool) = self.pool.get() {
            permit.share(pool.as_ref()).await?;
        }
        Ok(Some(permit))
    }

    /// How much is left for a caller's requests, by the limit that binds them first: of the key and its owner, and, for
    /// a request that is asked of a model, of that and of the whole gateway. (Nobody's own figures are told to others:
    /// of what many share it is told what is left of it.)
    pub fn standing(&self, caller: Option<&Caller>, model: Option<&str>) -> impl Iterator<Item = Figures> {
        let now = Instant::now();
        let rules = self.rules();
        let all = self.scopes_of(caller, model, &rules).map(|scope| scope.figures(now));
        let tightest = |one: Option<Figures>, other: Option<Figures>| match (one, other) {
            (Some(one), Some(other)) if other.is_tighter_than(&one) => Some(other),
            (one, other) => one.or(other),
        };
        let all = all.reduce(|[a, b, c], [d, e, f]| [tightest(a, d), tightest(b, e), tightest(c, f)]);
        all.into_iter().flatten().flatten()
    }

    /// Forgets what nobody needs any more: what was spent of budgets that are over or are nobody's. To be called every
    /// minute or so; what is not needed once may be the next time.
    pub fn tidy(&self, ring: &KeyRing, now_ms: i64) {
        let rules = self.rules();
        self.budgets.tidy(now_ms, |whose, period| {
            let budget = match whose {
                Whose::Key(id) => ring.get(id).and_then(|caller| caller.key.budget),
                Whose::Owner(owner) => rules.owner_budgets.get(&**owner).copied(),
            };
            budget.is_some_and(|budget| budget.period == period)
        });
    }

    /// All that holds for a request: for one that is asked of no model only what is the caller's.
    fn scopes_of<'a>(
        &'a self,
        caller: Option<&'a Caller>,
        model: Option<&str>,
        rules: &'a Ruled,
    ) -> impl Iterator<Item = &'a Arc<Scope>> + Clone + use<'a> {
        let of_key = caller.filter(|caller| !caller.key.limits.is_none()).map(|caller| &caller.scope);
        let owner = caller.and_then(|caller| caller.owner.as_deref());
        let of_owner = owner.and_then(|owner| rules.of_owners.get(owner));
        let of_model = model.and_then(|model| rules.of_models.get(model));
        let of_all = model.filter(|_| !rules.gateway.is_none()).map(|_| &self.whole);
        [of_key, of_owner, of_model, of_all].into_iter().flatten()
    }
}

/// The budgets that hold for a caller.
fn budgets_of(caller: Option<&Caller>, rules: &Rules) -> impl Iterator<Item = (&'static str, Whose, Budget)> {
    let of_key = caller.and_then(|caller| Some(("key", Whose::Key(caller.id.clone()), caller.key.budget?)));
    let owner = caller.and_then(|caller| caller.owner.as_ref());
    let of_owner = owner.and_then(|owner| {
        let budget = *rules.owner_budgets.get(&**owner)?;
        Some(("owner", Whose::Owner(owner.clone()), budget))
    });
    of_key.into_iter().chain(of_owner)
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests;
