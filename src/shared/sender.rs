//! Tells Redis, in the background and in batches, what this node has to tell: rests at once, the rest ten times a second.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::limits::Limiter;
use super::link::Link;
use super::rests::Rests;
use crate::callers::{Away, Gate};

/// So often.
const TICK: Duration = Duration::from_millis(100);
/// So many budgets are told of at the same time.
const AT_ONCE: usize = 64;

/// One node's voice.
pub(super) struct Sender {
    link: Arc<Link>,
    limiter: Arc<Limiter>,
    rests: Arc<Rests>,
    gate: Arc<Gate>,
}

impl Sender {
    pub(super) fn new(link: Arc<Link>, limiter: Arc<Limiter>, rests: Arc<Rests>, gate: Arc<Gate>) -> Self {
        Self { link, limiter, rests, gate }
    }

    /// Tells until `stop`.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                // What cannot be told stays, and is told when Redis is back.
                () = self.rests.ready.notified() => drop(self.rests.tell(&self.link).await),
                _ = tick.tick() => drop(self.tell(false).await),
            }
        }
    }

    /// The last word: all that is not used goes back.
    pub(super) async fn end(&self) {
        let _ = self.tell(true).await;
    }

    async fn tell(&self, all: bool) -> Result<(), Away> {
        if !self.link.is_up() {
            return Err(Away);
        }
        self.rests.tell(&self.link).await?;
        self.tell_spendings().await?;
        self.limiter.tell(all).await
    }

    async fn tell_spendings(&self) -> Result<(), Away> {
        let budgets = self.gate.budgets();
        let mut outcome = Ok(());
        for some in budgets.untold().chunks(AT_ONCE) {
            if outcome.is_err() {
                some.iter().for_each(|spending| budgets.not_told(spending));
                continue;
            }
            let told = join_all(some.iter().map(|spending| self.limiter.spend(spending))).await;
            for (spending, told) in some.iter().zip(told) {
                match told {
                    Ok(total) => budgets.accepted(spending, total),
                    Err(away) => {
                        budgets.not_told(spending);
                        outcome = Err(away);
                    }
                }
            }
        }
        outcome
    }
}
