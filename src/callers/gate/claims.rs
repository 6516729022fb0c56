//! Budgets that are shared with other replicas: mostly this one's claim suffices, else the others are asked.

use std::time::Duration;

use tokio::time::timeout;

use super::super::budget::{Look, Reserve, UsedUp};
use super::super::pool::{Away, Pool};
use super::super::{Budget, Period, Spent, Whose};
use super::{Gate, now_ms};

/// So long a request waits for its turn and for an answer, for each of its budgets: longer than it takes to find that
/// nobody answers, and all that a request waits for has to be over within three seconds.
const PATIENCE: Duration = Duration::from_millis(600);

impl Gate {
    /// Sets a part of a budget aside, so that all replicas together go no further beyond it than one alone would.
    ///
    /// # Errors
    /// Nobody can be asked, and nothing is given unasked. Inside: nothing is left.
    pub(super) async fn reserve_shared(
        &self,
        pool: &dyn Pool,
        (whose, budget): (Whose, Budget),
        part: Spent,
        at_ms: i64,
    ) -> Result<Result<Reserve, UsedUp>, Away> {
        let holder = (whose, budget.period);
        if pool.is_up() {
            match self.budgets.look(&holder, budget, part, at_ms) {
                Look::Taken(reserve) => return Ok(Ok(reserve)),
                Look::UsedUp(used_up) => return Ok(Err(used_up)),
                Look::Ask => {}
            }
            let asking = self.ask_for(pool, &holder, budget, part);
            if let Ok(Ok(answer)) = timeout(PATIENCE, asking).await {
                return Ok(answer);
            }
        }
        if pool.is_strict() {
            return Err(Away);
        }
        // What this process knows is what holds.
        Ok(self.budgets.take(holder.0, budget, part, at_ms))
    }

    /// Waits for its turn, and asks unless that has been done meanwhile. Dropped at any moment, nothing is set aside.
    async fn ask_for(
        &self,
        pool: &dyn Pool,
        holder: &(Whose, Period),
        budget: Budget,
        part: Spent,
    ) -> Result<Result<Reserve, UsedUp>, Away> {
        let waiting = self.budgets.wait(holder, part, now_ms());
        let _turn = waiting.turn.lock().await;
        let asked_ms = now_ms();
        match self.budgets.look(holder, budget, part, asked_ms) {
            Look::Taken(reserve) => return Ok(Ok(reserve)),
            Look::UsedUp(used_up) => return Ok(Err(used_up)),
            Look::Ask => {}
        }
        let claim = self.budgets.ask(holder, budget, part, asked_ms);
        let granted = pool.claim(claim.clone()).await?;
        Ok(self.budgets.answered(&claim, granted, asked_ms))
    }
}
