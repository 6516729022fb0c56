//! What one request takes of all that is limited, and puts right when it has ended.

use std::sync::Arc;

use tokio::time::Instant;

use super::super::Left;
use super::super::budget::{Lack, Reserve, Spent, UsedUp};
use super::super::pool::{Pool, Share, Taking, Withheld};
use super::super::scope::{Hold, Scope, Short, Want};
use super::{Gate, Refusal, now_ms};

/// What a request may use, for all that is known before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// So much.
    pub spent: Spent,
    /// So many of the tokens are a guess, for nobody says how long the answer may get.
    pub guessed: u64,
    /// What the prompt and the shortest answer take; nothing, where no answer can be ended.
    pub least: Spent,
    /// Whether it is a request of its own, and not only a part of one that has passed.
    pub is_request: bool,
    /// Whether it has its place among the parallel requests of its key already.
    pub has_place: bool,
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

/// What a key is called among the things with limits.
const KEY: &str = "key";

/// An answer of unknown length has at most this part of a limit of tokens set aside for it, so that several fit in.
const GUESSED_PART: u64 = 4;

impl Part {
    /// A request that uses nothing.
    pub const REQUEST: Self =
        Self { spent: Spent::NONE, guessed: 0, least: Spent::NONE, is_request: true, has_place: false };

    /// What is to be taken of things of which the one with the fewest tokens has so many.
    pub(super) fn want(&self, fewest: Option<u64>) -> Want {
        let Self { spent, guessed, is_request, .. } = *self;
        let sure = spent.tokens.saturating_sub(guessed);
        let tokens = fewest.map_or(spent.tokens, |limit| {
            let guessed = guessed.min(limit / GUESSED_PART).min(limit.saturating_sub(sure));
            sure.saturating_add(guessed)
        });
        Want { tokens, is_request }
    }
}

impl Permit {
    pub(super) fn of(gate: &Arc<Gate>, part: Part) -> Self {
        Self {
            gate: gate.clone(),
            part,
            holds: Vec::new(),
            reserves: Vec::new(),
            shares: Vec::new(),
            is_settled: false,
        }
    }

    /// A part of a budget was set aside, or could not be; and one that ends answers has enough for the shortest, or not.
    pub(super) fn reserve(
        &mut self,
        of: &'static str,
        reserve: Result<Reserve, UsedUp>,
        now_ms: i64,
    ) -> Result<(), Refusal> {
        let reserve = reserve.map_err(|used_up| match used_up {
            UsedUp::Spent { until_ms } => Refusal::Budget { of, until_ms },
            UsedUp::SetAside => Refusal::SetAside { of },
        })?;
        let lack = self.gate.budgets.lack(&reserve, self.part.least, now_ms);
        self.reserves.push(reserve);
        lack.map_or(Ok(()), |Lack { until_ms }| Err(Refusal::TooLittle { of, until_ms }))
    }

    /// Takes from all of them, or from none. Of several in which something is short the one is told for which it takes
    /// longest: who came back earlier would meet that. Once something is short the others are only looked at: nobody else
    /// is to be refused for what is not taken.
    pub(super) fn take<'a>(
        &mut self,
        scopes: impl Iterator<Item = &'a Arc<Scope>> + Clone,
        now: Instant,
    ) -> Result<(), Refusal> {
        let fewest = scopes.clone().filter_map(|scope| scope.limits().tokens_per_minute).min();
        let want = self.part.want(fewest);
        let mut refused: Option<(&'static str, Short)> = None;
        for scope in scopes {
            let of = scope.thing.of;
            let Some((_, worst)) = &refused else {
                let has_place = self.part.has_place && of == KEY;
                let taken = if has_place { scope.take_in_place(want, now) } else { scope.take(want, now) };
                match taken {
                    Ok(hold) => self.holds.push((scope.clone(), hold)),
                    Err(short) => refused = Some((of, short)),
                }
                continue;
            };
            if let Some(short) = scope.lacks(want, now).filter(|short| worst.longer(*short) != *worst) {
                refused = Some((of, short));
            }
        }
        let Some((of, short)) = refused else { return Ok(()) };
        self.put_back(now);
        Err(Refusal::short(of, short))
    }

    /// Takes a place among those at the same time, if there is such a limit. Whether there is.
    pub(super) fn take_place(&mut self, scope: &Arc<Scope>) -> Result<bool, Refusal> {
        let place =
            scope.take_place(Instant::now()).map_err(|short| Refusal::short(scope.thing.of, short))?;
        let has_place = place.is_some();
        self.holds.extend(place.map(|hold| (scope.clone(), hold)));
        Ok(has_place)
    }

    /// What was taken for another model that takes over is settled together with this.
    pub fn join(&mut self, mut other: Self) {
        self.holds.append(&mut other.holds);
        self.shares.append(&mut other.shares);
        self.reserves.append(&mut other.reserves);
        other.is_settled = true;
    }

    /// The request has ended, and has used this.
    pub fn settle(mut self, spent: Spent, now_ms: i64) {
        self.close(spent, now_ms);
    }

    /// What is left of the budgets that end answers when they are used up.
    pub fn left(&self, now_ms: i64) -> Left {
        let left = self.reserves.iter().map(|reserve| self.gate.budgets.left_for(reserve, now_ms));
        left.fold(Left::default(), Left::least)
    }

    /// Takes from other replicas' limits what was taken here, all of it or nothing.
    pub(super) async fn share(&mut self, pool: &dyn Pool) -> Result<(), Refusal> {
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
