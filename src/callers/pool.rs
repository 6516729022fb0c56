//! What replicas of the gateway share: the hook by which the gate asks for what this process cannot know by itself.

use std::fmt::Debug;

use futures_util::future::BoxFuture;

use super::Limits;
use super::budget::{Claim, Spent};
use super::scope::{Short, Want};

/// One thing with limits, as all replicas know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Thing {
    /// `key`, `owner`, `model` or `gateway`.
    pub of: &'static str,
    /// A key's id, or a name; empty for the gateway.
    pub name: Box<str>,
}

/// What replicas share. The gate has counted for itself before it asks here, so that what is let through here is what
/// this process alone would let through, too.
pub trait Pool: Debug + Send + Sync {
    /// Takes a part of a thing for a request. A future that is dropped takes nothing.
    fn take(&self, thing: &Thing, limits: Limits, want: Want) -> Taking;

    /// Claims a part of a budget for this process. To be asked for one after the other: what is answered last holds.
    fn claim(&self, claim: Claim) -> BoxFuture<'static, Result<Granted, Away>>;

    /// Whether what is shared can be reached, as far as anybody knows.
    fn is_up(&self) -> bool;

    /// Whether nothing that is shared is given unasked: what is out of reach is refused, for the operator wants that.
    fn is_strict(&self) -> bool;
}

/// What becomes of a claim.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Granted {
    /// What all replicas have spent of the budget.
    pub total: Spent,
    /// What this process may have open beyond what it had claimed; `None` if nothing is left. If it is less than the part
    /// that was asked for, that is the last that is set aside, and goes beyond the budget.
    pub more: Option<Spent>,
}

/// What becomes of a wish: known at once, or when the others have been asked.
pub enum Taking {
    /// Nobody had to be asked.
    Now(Result<Box<dyn Share>, Withheld>),
    /// Somebody is asked.
    Later(BoxFuture<'static, Result<Box<dyn Share>, Withheld>>),
}

/// A part of a thing that one request has. Dropped without a settlement, it is put back as if never taken.
pub trait Share: Debug + Send + Sync {
    /// The request has ended, and has used so many tokens.
    fn settle(&mut self, tokens: u64);

    /// How many requests and tokens are left for everybody, as far as that is known.
    fn left(&self) -> [Option<u64>; 2];
}

/// Why a part is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// All replicas together have used too much.
    Short(Short),
    /// It cannot be asked for, and nothing is given unasked.
    Away,
}

/// What is shared is out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what replicas share is out of reach")]
pub struct Away;

impl From<Away> for Withheld {
    fn from(_: Away) -> Self {
        Self::Away
    }
}
