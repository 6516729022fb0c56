//! In which order the deployments of a model are asked. Nobody who rests is left out here: whoever asks sees to that.
//!
//! Those of equal priority are a tier. Turns, weights and times choose within a tier; a later tier stands in when all of
//! the earlier ones fail. Only scores go over all tiers.

use std::sync::atomic::{self, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::affinity::distance;
use super::health::random;
use super::table::Deployment;
use crate::config::Strategy;
use crate::llm::Session;

/// Two times are about equal if the longer is no more than so many of the shorter, and this.
const TOLERANCE: f64 = 1.25;
const TOLERATED_SECONDS: f64 = 0.05;

/// The order of one route, with what it has to remember from one request to the next.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) strategy: Strategy,
    next: AtomicUsize,
    // A std mutex: held for a pass over a short list.
    turns: Mutex<Vec<f64>>,
}

impl Order {
    pub(super) fn new(strategy: Strategy, deployments: usize) -> Self {
        Self { strategy, next: AtomicUsize::new(0), turns: Mutex::new(vec![0.0; deployments]) }
    }

    /// The deployments, which come as [`ranked`] has left them, in the order in which they are to be asked now.
    pub(super) fn of<'a>(
        &self,
        deployments: &'a [Arc<Deployment>],
        stream: bool,
        session: Option<Session>,
    ) -> impl Iterator<Item = &'a Arc<Deployment>> + use<'a> {
        // Nearly all routes are of this kind, for which nothing is allocated.
        let is_straight = match self.strategy {
            Strategy::Score => true,
            Strategy::Priority => session.is_none(),
            _ => false,
        };
        let is_straight = is_straight || deployments.len() < 2;
        let straight = if is_straight { deployments } else { &[] };
        let sorted = match session {
            _ if is_straight => Vec::new(),
            Some(session) => self.by_session(deployments, stream, session),
            None => self.sorted(deployments, stream),
        };
        straight.iter().chain(sorted)
    }

    fn sorted<'a>(&self, deployments: &'a [Arc<Deployment>], stream: bool) -> Vec<&'a Arc<Deployment>> {
        let mut order: Vec<&Arc<Deployment>> = deployments.iter().collect();
        match self.strategy {
            Strategy::Priority | Strategy::Score => {}
            Strategy::RoundRobin => {
                let (turn, now) = (self.next.fetch_add(1, atomic::Ordering::Relaxed), Instant::now());
                tiers(&mut order).for_each(|tier| in_turns(tier, turn, now));
            }
            Strategy::Weighted => self.by_weight(&mut order),
            Strategy::LeastLatency => {
                tiers(&mut order).for_each(|tier| least_latency_first(tier, stream));
            }
        }
        order
    }

    /// In each tier, those first that are equal by the strategy, the nearest to the conversation before all.
    fn by_session<'a>(
        &self,
        deployments: &'a [Arc<Deployment>],
        stream: bool,
        session: Session,
    ) -> Vec<&'a Arc<Deployment>> {
        let mut order: Vec<&Arc<Deployment>> = deployments.iter().collect();
        for tier in tiers(&mut order) {
            match self.strategy {
                Strategy::Score => {}
                Strategy::Priority | Strategy::Weighted => {
                    nearest_first(tier, session, |deployment| deployment.weight);
                }
                Strategy::RoundRobin => nearest_first(tier, session, |_| 1.0),
                Strategy::LeastLatency => nearest_first(fast_first(tier, stream), session, |_| 1.0),
            }
        }
        order
    }

    /// The order in general, or that for a conversation, for those who look.
    pub(super) fn usual<'a>(
        &self,
        deployments: &'a [Arc<Deployment>],
        session: Option<Session>,
    ) -> Vec<&'a Arc<Deployment>> {
        if session.is_some() {
            return self.of(deployments, true, session).collect();
        }
        let mut order: Vec<&Arc<Deployment>> = deployments.iter().collect();
        match self.strategy {
            Strategy::Priority | Strategy::Score | Strategy::RoundRobin => {}
            Strategy::Weighted => tiers(&mut order)
                .for_each(|tier| tier.sort_by(|one, other| other.weight.total_cmp(&one.weight))),
            Strategy::LeastLatency => tiers(&mut order)
                .for_each(|tier| tier.sort_by(|one, other| time(one, true).total_cmp(&time(other, true)))),
        }
        order
    }

    /// In each tier, each comes first as often as its weight says, and as evenly as can be.
    fn by_weight(&self, order: &mut [&Arc<Deployment>]) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.resize(order.len(), 0.0);
        let mut rest = turns.as_mut_slice();
        for tier in tiers(order) {
            let Some((own, others)) = rest.split_at_mut_checked(tier.len()) else { return };
            put_first(tier, whose_turn(own, tier));
            rest = others;
        }
    }
}

/// Deployments, which come by priority, as a strategy wants them once and for all, and those that it leaves out: scores do
/// not change from one request to the next.
pub(super) fn ranked(
    strategy: Strategy,
    deployments: Vec<Arc<Deployment>>,
) -> (Vec<Arc<Deployment>>, Vec<Arc<Deployment>>) {
    if strategy != Strategy::Score {
        return (deployments, Vec::new());
    }
    let (mut asked, left_out): (Vec<_>, Vec<_>) =
        deployments.into_iter().partition(|deployment| deployment.score.suffices);
    // Stable: equals stay as they are.
    asked.sort_by(|one, other| other.score.overall.total_cmp(&one.score.overall));
    (asked, left_out)
}

/// Groups of equal priority.
fn tiers<'o, 'a>(
    order: &'o mut [&'a Arc<Deployment>],
) -> impl Iterator<Item = &'o mut [&'a Arc<Deployment>]> {
    order.chunk_by_mut(|one, other| one.priority == other.priority)
}

/// Those that rest come last, so that their share is the others', and not their neighbour's alone.
fn in_turns(tier: &mut [&Arc<Deployment>], turn: usize, now: Instant) {
    tier.sort_by_key(|deployment| !deployment.is_ready(now));
    let ready = tier.iter().filter(|deployment| deployment.is_ready(now)).count();
    let among = if ready == 0 { tier.len() } else { ready };
    if let Some(ready) = tier.get_mut(..among) {
        ready.rotate_left(turn % among);
    }
}

/// The one that is furthest behind what is due to it. Its turn is over then.
fn whose_turn(turns: &mut [f64], tier: &[&Arc<Deployment>]) -> usize {
    let now = Instant::now();
    let nobody_is = !tier.iter().any(|deployment| deployment.is_ready(now));
    // Who rests has no turn, and is owed none.
    let takes_part = |deployment: &Deployment| nobody_is || deployment.is_ready(now);
    let mut whole = 0.0;
    let mut furthest: Option<(usize, f64)> = None;
    for (at, (turn, deployment)) in turns.iter_mut().zip(tier).enumerate() {
        if !takes_part(deployment) {
            continue;
        }
        *turn += deployment.weight;
        whole += deployment.weight;
        // Of equals the first.
        if furthest.is_none_or(|(_, most)| *turn > most) {
            furthest = Some((at, *turn));
        }
    }
    let first = furthest.map_or(0, |(at, _)| at);
    turns.iter_mut().skip(first).take(1).for_each(|turn| *turn -= whole);
    first
}

/// Of two that chance chooses the faster one, so that not all requests go to one and the same; then the others, the
/// fastest first. One that nobody has asked yet may be the fastest.
fn least_latency_first(order: &mut [&Arc<Deployment>], stream: bool) {
    order.sort_by(|one, other| time(one, stream).total_cmp(&time(other, stream)));
    let (one, other) = (chosen(order.len()), chosen(order.len() - 1));
    let other = if other >= one { other + 1 } else { other };
    // They stand in their order already.
    put_first(order, one.min(other));
}

/// Puts those first that are about as fast as the fastest, and answers with them. Those that were not asked yet come before
/// all: one of them may be the fastest, and no conversation is to stay with a slow one because it was asked first.
fn fast_first<'o, 'a>(tier: &'o mut [&'a Arc<Deployment>], stream: bool) -> &'o mut [&'a Arc<Deployment>] {
    tier.sort_by(|one, other| time(one, stream).total_cmp(&time(other, stream)));
    let (unasked, now) = (tier.partition_point(|deployment| time(deployment, stream) <= 0.0), Instant::now());
    if tier.iter().take(unasked).any(|deployment| deployment.is_ready(now)) {
        return tier.get_mut(..unasked).unwrap_or_default();
    }
    let fastest = tier.iter().map(|deployment| time(deployment, stream)).find(|time| *time > 0.0);
    let most = fastest.map_or(0.0, |fastest| fastest * TOLERANCE + TOLERATED_SECONDS);
    let fast = tier.partition_point(|deployment| time(deployment, stream) <= most);
    tier.get_mut(..fast).unwrap_or_default()
}

/// The nearest to a conversation first.
fn nearest_first(tier: &mut [&Arc<Deployment>], session: Session, weight: fn(&Deployment) -> f64) {
    if tier.len() > 1 {
        tier.sort_by_cached_key(|deployment| distance(session, deployment.target, weight(deployment)));
    }
}

fn time(deployment: &Deployment, stream: bool) -> f64 {
    deployment.health.average(stream).unwrap_or(0.0)
}

fn put_first(order: &mut [&Arc<Deployment>], at: usize) {
    if let Some(until) = order.get_mut(..=at) {
        until.rotate_right(1);
    }
}

fn chosen(among: usize) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a small number, not below zero"
    )]
    let at = (random() * among as f64) as usize;
    at.min(among.saturating_sub(1))
}

#[cfg(test)]
mod tests;
