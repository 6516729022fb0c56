//! Tells Redis, in the background and in batches, what this node has to tell: rests at once, the rest ten times a second.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::limits::Limiter;
use super::link::Link;
use super::rests::Rests;
use crate::callers::{Away, Gate, Period, Whose, now_ms};

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
        self.tell_spendings(all).await?;
        self.limiter.tell(all).await
    }

    async fn tell_spendings(&self, all: bool) -> Result<(), Away> {
        for some in self.gate.budgets().due(all, now_ms()).chunks(AT_ONCE) {
            let told = join_all(some.iter().map(|holder| self.tell_spending(holder, all))).await;
            told.into_iter().collect::<Result<(), Away>>()?;
        }
        Ok(())
    }

    /// Tells what was spent of one budget and what is still claimed, while nobody asks for more of it.
    async fn tell_spending(&self, holder: &(Whose, Period), all: bool) -> Result<(), Away> {
        let budgets = self.gate.budgets();
        let Some(turn) = budgets.turn(holder) else { return Ok(()) };
        let _turn = turn.lock().await;
        let told_ms = now_ms();
        let Some(spending) = budgets.begin_telling(holder, all, told_ms) else { return Ok(()) };
        match self.limiter.spend(&spending).await {
            Ok(total) => {
                budgets.accepted(&spending, total, told_ms);
                Ok(())
            }
            Err(away) => {
                budgets.not_told(&spending);
                Err(away)
            }
        }
    }
}
