//! What has been spent in the running periods of budgets.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Budget, Period, Zone};

/// Whose budget it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    /// A key's, by its id.
    Key(String),
    /// An owner's.
    Owner(String),
}

/// Tokens and money.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Tokens of prompts and answers.
    pub tokens: u64,
    /// What they cost.
    pub money: f64,
}

/// All budgets that have been touched.
#[derive(Debug, Default)]
pub struct Budgets {
    zone: Zone,
    // A std mutex: held for a look-up and an addition.
    accounts: Mutex<Accounts>,
}

/// One for each kind of period, so that another budget for the same loses nothing.
type Accounts = HashMap<(Whose, Period), Account>;

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// When the period began that `spent` is of.
    since_ms: i64,
    spent: Spent,
    /// What requests under way may still spend.
    reserved: Spent,
}

/// Why nothing can be set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UsedUp {
    /// All is spent, until the period ends.
    Spent { until_ms: i64 },
    /// All that is left is set aside for requests under way.
    SetAside,
}

/// A part of a budget that is set aside.
#[derive(Debug)]
pub(super) struct Reserve {
    whose: Whose,
    budget: Budget,
    reserved: Spent,
}

impl Budgets {
    /// No budget has been touched.
    pub fn new(zone: Zone) -> Self {
        Self { zone, accounts: Mutex::default() }
    }

    /// In which zone periods begin.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account, in the period that runs now, and when that ends.
    fn account<'a>(
        &self,
        accounts: &'a mut Accounts,
        whose: &Whose,
        budget: &Budget,
        now_ms: i64,
    ) -> (&'a mut Account, i64) {
        let (since_ms, until_ms) = self.zone.around(budget.period, now_ms);
        let account = accounts
            .entry((whose.clone(), budget.period))
            .or_insert(Account { since_ms, ..Account::default() });
        // Only forward: a clock that is put back begins no period anew.
        if account.since_ms < since_ms {
            (account.since_ms, account.spent) = (since_ms, Spent::default());
        }
        (account, until_ms)
    }

    /// At least this was spent in the period that runs now, as the ledger has it: at the start, or when another node
    /// tells. What is known of here and not there yet stays.
    pub fn at_least(&self, whose: &Whose, budget: &Budget, spent: Spent, now_ms: i64) {
        let mut accounts = self.accounts();
        let known = &mut self.account(&mut accounts, whose, budget, now_ms).0.spent;
        known.tokens = known.tokens.max(spent.tokens);
        known.money = known.money.max(spent.money);
    }

    /// What was spent in the period that runs now, and when that ends.
    pub fn spent(&self, whose: &Whose, budget: &Budget, now_ms: i64) -> (Spent, i64) {
        let mut accounts = self.accounts();
        let (account, until_ms) = self.account(&mut accounts, whose, budget, now_ms);
        (account.spent, until_ms)
    }

    /// Sets a part aside, if anything is left that is not spent and not set aside: so the last request may go beyond
    /// the budget, and only that one.
    ///
    /// # Errors
    /// Nothing is left.
    pub(super) fn take(
        &self,
        whose: Whose,
        budget: Budget,
        part: Spent,
        now_ms: i64,
    ) -> Result<Reserve, UsedUp> {
        let mut accounts = self.accounts();
        let (account, until_ms) = self.account(&mut accounts, &whose, &budget, now_ms);
        let (spent, reserved) = (account.spent, account.reserved);
        let is_beyond = |tokens: u64, money: f64| {
            budget.tokens.is_some_and(|most| tokens >= most) || budget.money.is_some_and(|most| money >= most)
        };
        if is_beyond(spent.tokens, spent.money) {
            return Err(UsedUp::Spent { until_ms });
        }
        if is_beyond(spent.tokens.saturating_add(reserved.tokens), spent.money + reserved.money) {
            return Err(UsedUp::SetAside);
        }
        account.reserved.tokens = reserved.tokens.saturating_add(part.tokens);
        account.reserved.money += part.money;
        Ok(Reserve { whose, budget, reserved: part })
    }

    /// A request has ended, and has spent this. It counts in the period that runs now.
    pub(super) fn settle(&self, reserve: &Reserve, spent: Spent, now_ms: i64) {
        let mut accounts = self.accounts();
        let (account, _) = self.account(&mut accounts, &reserve.whose, &reserve.budget, now_ms);
        account.reserved.tokens = account.reserved.tokens.saturating_sub(reserve.reserved.tokens);
        account.reserved.money = (account.reserved.money - reserve.reserved.money).max(0.0);
        account.spent.tokens = account.spent.tokens.saturating_add(spent.tokens);
        account.spent.money += spent.money;
    }

    /// How many tokens an answer may have until the budget is used up, whatever others use meanwhile; `None` if the
    /// budget lets answers end by themselves.
    pub(super) fn left_for(&self, reserve: &Reserve, now_ms: i64) -> Option<u64> {
        let most = reserve.budget.tokens.filter(|_| reserve.budget.cut_off)?;
        let (spent, _) = self.spent(&reserve.whose, &reserve.budget, now_ms);
        Some(most.saturating_sub(spent.tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    fn budget(tokens: Option<u64>, money: Option<f64>) -> Budget {
        Budget { tokens, money, period: Period::Day, cut_off: true }
    }

    fn tokens(tokens: u64) -> Spent {
        Spent { tokens, money: 0.0 }
    }

    fn whose() -> Whose {
        Whose::Key("k".to_owned())
    }

    #[test]
    fn a_budget_is_used_up_by_what_is_spent_and_by_what_is_set_aside() {
        let (budgets, budget) = (Budgets::default(), budget(Some(1000), None));
        let one = budgets.take(whose(), budget, tokens(800), 5).unwrap();
        let two = budgets.take(whose(), budget, tokens(800), 5).unwrap();
        assert_eq!(budgets.take(whose(), budget, tokens(1), 5).unwrap_err(), UsedUp::SetAside);
        budgets.settle(&one, tokens(100), 6);
        let three = budgets.take(whose(), budget, tokens(1), 6).unwrap();
        assert_eq!(budgets.left_for(&three, 6), Some(900));
        budgets.settle(&two, tokens(950), 7);
        budgets.settle(&three, tokens(0), 7);
        assert_eq!(
            budgets.take(whose(), budget, tokens(1), DAY - 1).unwrap_err(),
            UsedUp::Spent { until_ms: DAY }
        );
        assert!(budgets.take(whose(), budget, tokens(1), DAY).is_ok(), "a new day");
        assert!(budgets.take(Whose::Owner("k".to_owned()), budget, tokens(1), 7).is_ok());
    }

    #[test]
    fn money_counts_as_tokens_do_and_the_ledger_knows_better() {
        let (budgets, budget) = (Budgets::default(), budget(None, Some(1.5)));
        let money = |money: f64| Spent { tokens: 10, money };
        let one = budgets.take(whose(), budget, money(0.1), 0).unwrap();
        budgets.settle(&one, money(1.6), 0);
        assert!(budgets.take(whose(), budget, money(0.1), 0).is_err());
        budgets.at_least(&whose(), &budget, money(1.2), DAY);
        let two = budgets.take(whose(), budget, money(0.1), DAY).unwrap();
        assert_eq!(budgets.spent(&whose(), &budget, DAY), (money(1.2), 2 * DAY));
        budgets.at_least(&whose(), &budget, money(0.2), DAY);
        assert_eq!(budgets.spent(&whose(), &budget, DAY), (money(1.2), 2 * DAY), "less says nothing");
        assert_eq!(budgets.left_for(&two, DAY), None);
    }

    #[test]
    fn a_request_over_midnight_counts_for_the_day_in_which_it_ends() {
        let (budgets, budget) = (Budgets::default(), budget(Some(100), None));
        let one = budgets.take(whose(), budget, tokens(60), DAY - 1).unwrap();
        budgets.settle(&one, tokens(70), DAY + 1);
        assert_eq!(budgets.spent(&whose(), &budget, DAY + 2).0, tokens(70));
        assert!(
            budgets.take(whose(), budget, tokens(60), DAY + 2).is_ok(),
            "what was set aside is free again"
        );
    }

    #[test]
    fn another_period_and_a_clock_put_back_lose_nothing() {
        let (budgets, day) = (Budgets::default(), budget(Some(100), None));
        let month = Budget { period: Period::Month, tokens: Some(1000), ..day };
        let under_way = budgets.take(whose(), day, tokens(10), DAY).unwrap();
        budgets.at_least(&whose(), &month, tokens(900), DAY);
        budgets.settle(&under_way, tokens(60), DAY);
        assert_eq!(budgets.spent(&whose(), &month, DAY).0, tokens(900));
        assert_eq!(budgets.spent(&whose(), &day, DAY).0, tokens(60));
        assert_eq!(budgets.spent(&whose(), &day, DAY - 1).0, tokens(60));
        assert!(budgets.take(whose(), day, tokens(u64::MAX), DAY).is_ok());
        assert!(budgets.take(whose(), day, tokens(u64::MAX), DAY).is_err(), "sums have an end");
    }
}
