//! In which order the deployments of a model are asked. Nobody who rests is left out here: whoever asks sees to that.

use std::sync::atomic::{self, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};

use super::health::random;
use super::table::Deployment;
use crate::config::Strategy;

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

    /// The deployments, which come by priority, in the order in which they are to be asked now.
    pub(super) fn of<'a>(
        &self,
        deployments: &'a [Arc<Deployment>],
        stream: bool,
    ) -> impl Iterator<Item = &'a Arc<Deployment>> + use<'a> {
        // Nearly all routes are of this kind, for which nothing is allocated.
        let is_straight = self.strategy == Strategy::Priority
            || (deployments.len() < 2 && self.strategy != Strategy::Score);
        let straight = if is_straight { deployments } else { &[] };
        let sorted = if is_straight { Vec::new() } else { self.sorted(deployments, stream) };
        straight.iter().chain(sorted)
    }

    fn sorted<'a>(&self, deployments: &'a [Arc<Deployment>], stream: bool) -> Vec<&'a Arc<Deployment>> {
        if self.strategy == Strategy::Score {
            return self.usual(deployments);
        }
        let mut order: Vec<&Arc<Deployment>> = deployments.iter().collect();
        match self.strategy {
            Strategy::Priority | Strategy::Score => {}
            Strategy::RoundRobin => {
                let turn = self.next.fetch_add(1, atomic::Ordering::Relaxed) % order.len();
                order.rotate_left(turn);
            }
            Strategy::Weighted => {
                let first = self.by_weight(&order);
                put_first(&mut order, first);
            }
            Strategy::LeastLatency => least_latency_first(&mut order, stream),
        }
        order
    }

    /// The order in general, for those who look.
    pub(super) fn usual<'a>(&self, deployments: &'a [Arc<Deployment>]) -> Vec<&'a Arc<Deployment>> {
        let mut order: Vec<&Arc<Deployment>> = deployments.iter().collect();
        match self.strategy {
            Strategy::Priority | Strategy::RoundRobin => {}
            Strategy::Score => {
                order.retain(|deployment| deployment.score.overall > 0.0);
                order.sort_by(|one, other| other.score.overall.total_cmp(&one.score.overall));
            }
            Strategy::Weighted => order.sort_by(|one, other| other.weight.total_cmp(&one.weight)),
            Strategy::LeastLatency => {
                order.sort_by(|one, other| time(one, true).total_cmp(&time(other, true)));
            }
        }
        order
    }

    /// Each as often as its weight says, and as evenly as can be.
    fn by_weight(&self, order: &[&Arc<Deployment>]) -> usize {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.resize(order.len(), 0.0);
        let whole: f64 = order.iter().map(|deployment| deployment.weight).sum();
        for (turn, deployment) in turns.iter_mut().zip(order) {
            *turn += deployment.weight;
        }
        let furthest = turns.iter().enumerate().max_by(|one, other| {
            // Of equals the first.
            one.1.total_cmp(other.1).then(other.0.cmp(&one.0))
        });
        let first = furthest.map_or(0, |(at, _)| at);
        turns.iter_mut().skip(first).take(1).for_each(|turn| *turn -= whole);
        first
    }
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
