//! What nodes tell each other of budgets, and what one of them may spend before it asks the others again: its claim.
//!
//! A node's claim is spent already to all others. As long as what is open here, spent and not told or set aside, fits
//! into it, nobody has to be asked; what is told is taken out of it, for the others know it as spent from then on.

use std::sync::Arc;

use super::super::Budget;
use super::super::pool::Granted;
use super::account::Account;
use super::{Budgets, Holder, Reserve, Spending, Spent, UsedUp};

/// A wish for more of a budget.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Whose, and what is claimed already. Nothing is told with it, so who gives up asking loses nothing.
    pub spending: Spending,
    /// How much there is for all.
    pub budget: Budget,
    /// What is needed. If anything is left it is granted, as the last part may go beyond the budget.
    pub part: Spent,
    /// What all need who wait here, this part included.
    pub waiting: Spent,
}

/// What can be said without asking the others.
#[derive(Debug)]
pub(in super::super) enum Look {
    /// The part is set aside.
    Taken(Reserve),
    /// There is nothing left.
    UsedUp(UsedUp),
    /// Only they know.
    Ask,
}

/// Somebody who waits for an answer, until it is dropped.
#[derive(Debug)]
pub(in super::super) struct Waiting<'a> {
    budgets: &'a Budgets,
    holder: Holder,
    part: Spent,
    /// Whose turn it is to ask for this budget. As long as somebody holds it, the account stays.
    pub(in super::super) turn: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(account) = self.budgets.books().accounts.get_mut(&self.holder) {
            account.waiting = account.waiting.less(self.part);
        }
    }
}

impl Spending {
    fn of(holder: &Holder, account: &Account, more: Spent) -> Self {
        Self {
            whose: holder.0.clone(),
            period: holder.1,
            since_ms: account.since_ms,
            until_ms: account.until_ms,
            before: account.settled,
            more,
            claim: account.claim,
        }
    }

    fn holder(&self) -> Holder {
        (self.whose.clone(), self.period)
    }
}

impl Budgets {
    /// Sets a part aside if this node's claim has room for it.
    pub(in super::super) fn look(&self, holder: &Holder, budget: Budget, part: Spent, now_ms: i64) -> Look {
        let looked = self.books().touched(holder, &self.zone, now_ms, |account| {
            // Others who have not heard of it yet are to be asked, so that they do.
            if account.agreed_ms.is_some() {
                account.has_left(budget).map_err(Some)?;
            }
            if account.covers(budget, part, now_ms) {
                account.reserve(part, now_ms);
                return Ok(());
            }
            Err(account.is_dry(now_ms).then_some(UsedUp::SetAside))
        });
        match looked {
            Ok(()) => Look::Taken(Reserve { holder: holder.clone(), budget, reserved: part }),
            Err(Some(used_up)) => Look::UsedUp(used_up),
            Err(None) => Look::Ask,
        }
    }

    /// Waits for the turn to ask for a part.
    pub(in super::super) fn wait(&self, holder: &Holder, part: Spent, now_ms: i64) -> Waiting<'_> {
        let turn = self.books().touched(holder, &self.zone, now_ms, |account| {
            account.waiting = account.waiting.plus(part);
            account.turn.clone()
        });
        Waiting { budgets: self, holder: holder.clone(), part, turn }
    }

    /// What is to be asked. Nothing beyond what is open is claimed until it is [`Budgets::answered`]: so whatever
    /// becomes of the question, the others believe in no less than this node does.
    pub(in super::super) fn ask(&self, holder: &Holder, budget: Budget, part: Spent, now_ms: i64) -> Claim {
        self.books().touched(holder, &self.zone, now_ms, |account| {
            account.claim = account.open();
            account.is_misjudged = true;
            let spending = Spending::of(holder, account, Spent::default());
            Claim { spending, budget, part, waiting: account.waiting }
        })
    }

    /// The answer to a question of then. What was granted is claimed, and the part set aside, in one step.
    ///
    /// # Errors
    /// Nothing is left.
    pub(in super::super) fn answered(
        &self,
        claim: &Claim,
        granted: Granted,
        asked_ms: i64,
    ) -> Result<Reserve, UsedUp> {
        let Claim { spending, budget, part, .. } = claim;
        let holder = spending.holder();
        self.books().touched(&holder, &self.zone, asked_ms, |account| {
            if account.since_ms == spending.since_ms {
                account.settled = account.settled.most(granted.total);
                account.agreed_ms = Some(asked_ms);
                account.is_misjudged = false;
                account.refused_ms = granted.more.is_none().then_some(asked_ms);
                if let Some(more) = granted.more {
                    account.claim = spending.claim.plus(more);
                    account.reserve(*part, asked_ms);
                    return Ok(());
                }
                // Somebody may have given something back meanwhile.
                account.has_left(*budget)?;
                if !account.covers(*budget, *part, asked_ms) {
                    return Err(UsedUp::SetAside);
                }
            } else {
                // Another period has begun meanwhile: of that nobody has used much.
                account.has_left(*budget)?;
            }
            account.reserve(*part, asked_ms);
            Ok(())
        })?;
        Ok(Reserve { holder, budget: *budget, reserved: *part })
    }

    /// Of which budgets the others are to be told something now. `all`: what is not needed goes back at once.
    pub fn due(&self, all: bool, now_ms: i64) -> Vec<Holder> {
        let mut books = self.books();
        let super::Books { accounts, listed, .. } = &mut *books;
        listed.retain(|holder| {
            let account = accounts.get_mut(holder);
            account.is_some_and(|account| {
                account.is_listed = account.is_open();
                account.is_listed
            })
        });
        let is_due =
            |holder: &&Holder| accounts.get(holder).is_some_and(|account| account.is_due(all, now_ms));
        listed.iter().filter(is_due).cloned().collect()
    }

    /// Whoever tells of a budget holds this until the answer has come, as those do who ask. `None` if nobody knows it.
    pub fn turn(&self, holder: &Holder) -> Option<Arc<tokio::sync::Mutex<()>>> {
        self.books().accounts.get(holder).map(|account| account.turn.clone())
    }

    /// What is to be told now, in this budget's turn: what was spent since the last time, and what is still claimed.
    /// `None` if that has been done. It is to be [`Budgets::accepted`] or [`Budgets::not_told`].
    pub fn begin_telling(&self, holder: &Holder, all: bool, now_ms: i64) -> Option<Spending> {
        let mut books = self.books();
        let account = books.accounts.get_mut(holder).filter(|account| account.is_due(all, now_ms))?;
        let open = account.open();
        let is_kept = !all && !account.is_idle(now_ms);
        let keeps = if is_kept { account.claim.most(open) } else { open };
        account.telling = std::mem::take(&mut account.untold);
        account.claim = keeps.less(account.telling);
        account.is_misjudged = true;
        Some(Spending::of(holder, account, account.telling))
    }

    /// The others know since then of what was told, and this is what all have spent.
    pub fn accepted(&self, spending: &Spending, total: Spent, told_ms: i64) {
        if let Some(account) = self.books().accounts.get_mut(&spending.holder())
            && account.since_ms == spending.since_ms
        {
            account.telling = Spent::default();
            account.settled = account.settled.most(total);
            account.agreed_ms = Some(told_ms);
            account.is_misjudged = false;
        }
    }

    /// The others could not be told; it stays to be told.
    pub fn not_told(&self, spending: &Spending) {
        if let Some(account) = self.books().accounts.get_mut(&spending.holder())
            && account.since_ms == spending.since_ms
        {
            let telling = std::mem::take(&mut account.telling);
            account.untold = account.untold.plus(telling);
            account.claim = account.claim.plus(telling);
        }
    }

    /// All have spent this in the period that began then. News overtake each other, and within a period nothing is
    /// unspent, so the most that was told holds.
    pub fn told(&self, holder: Holder, since_ms: i64, total: Spent) {
        let mut books = self.books();
        let account = books.accounts.entry(holder).or_insert_with(|| Account::new(since_ms, since_ms));
        if account.since_ms < since_ms {
            account.begin(since_ms, since_ms);
        }
        if account.since_ms == since_ms {
            account.settled = account.settled.most(total);
        }
    }

    /// News may have been missed, and what the others were told may be lost: they are to be asked before anything more
    /// is set aside.
    pub fn doubt(&self) {
        for account in self.books().accounts.values_mut() {
            account.claim = Spent::default();
            (account.agreed_ms, account.refused_ms) = (None, None);
        }
    }
}

#[cfg(test)]
mod tests;
