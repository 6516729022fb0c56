//! What has been spent in the running periods of budgets.

mod account;
mod claims;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Budget, Period, Price, Zone};

use self::account::Account;

pub use self::claims::Claim;
pub(super) use self::claims::Look;

/// For so many milliseconds others believe a claim of which they hear nothing.
pub const CLAIM_BELIEVED_MS: i64 = account::BELIEVED_MS;

/// Whose budget it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    /// A key's, by its id.
    Key(Arc<str>),
    /// An owner's.
    Owner(Arc<str>),
}

/// Whose budget, and of which kind of period.
type Holder = (Whose, Period);

/// Tokens and money.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Tokens of prompts and answers.
    pub tokens: u64,
    /// What they cost.
    pub money: f64,
}

impl Spent {
    /// Nothing.
    pub const NONE: Self = Self { tokens: 0, money: 0.0 };
}

/// All budgets that have been touched.
#[derive(Debug, Default)]
pub struct Budgets {
    zone: Zone,
    // A std mutex: held for a look-up and an addition.
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// One for each kind of period, so that another budget for the same loses nothing.
    accounts: HashMap<Holder, Account>,
    /// Whether other replicas spend from the same.
    is_shared: bool,
    /// Of whom there may be something to tell the others.
    listed: HashSet<Holder>,
}

/// What was spent of one budget in one period.
#[derive(Clone, Debug, PartialEq)]
pub struct Spending {
    /// Whose budget it is.
    pub whose: Whose,
    /// What kind of period.
    pub period: Period,
    /// When it began.
    pub since_ms: i64,
    /// When it ends.
    pub until_ms: i64,
    /// What was spent by all before, as far as this process knows.
    pub before: Spent,
    /// What this process has spent since.
    pub more: Spent,
    /// What it may spend beyond that before it asks again.
    pub claim: Spent,
}

/// Why nothing can be set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UsedUp {
    /// All is spent, until the period ends.
    Spent { until_ms: i64 },
    /// All that is left is set aside for requests under way.
    SetAside,
}

/// There is too little left for the shortest answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lack {
    /// When there is enough; `None` if never.
    pub(super) until_ms: Option<i64>,
}

/// What is left of budgets that end answers when they are used up; `None` where there is no such.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Left {
    /// Of tokens.
    pub tokens: Option<u64>,
    /// Of money.
    pub money: Option<f64>,
}

/// A part of a budget that is set aside.
#[derive(Debug)]
pub(super) struct Reserve {
    holder: Holder,
    budget: Budget,
    reserved: Spent,
}

impl Spent {
    fn plus(self, more: Self) -> Self {
        Self { tokens: self.tokens.saturating_add(more.tokens), money: self.money + more.money }
    }

    fn less(self, other: Self) -> Self {
        let money = (self.money - other.money).max(0.0);
        Self { tokens: self.tokens.saturating_sub(other.tokens), money }
    }

    fn most(self, other: Self) -> Self {
        Self { tokens: self.tokens.max(other.tokens), money: self.money.max(other.money) }
    }

    /// Whether it is more than nothing. (Of sums of money that were set aside and given back, a trace may stay.)
    fn is_something(self) -> bool {
        self.tokens > 0 || self.money > 1e-9
    }
}

impl Left {
    /// The less of both.
    pub(super) fn least(self, other: Self) -> Self {
        let tokens = self.tokens.into_iter().chain(other.tokens).min();
        let money = self.money.into_iter().chain(other.money).reduce(f64::min);
        Self { tokens, money }
    }

    /// How many tokens an answer may have, after a prompt of so many. `None` if nothing ends it: money has no meaning for
    /// what has no price.
    pub fn for_answer(&self, input_tokens: u64, price: Option<&Price>) -> Option<u64> {
        let by_tokens = self.tokens.map(|tokens| tokens.saturating_sub(input_tokens));
        let by_money = || price?.answer_for(self.money?, input_tokens);
        by_tokens.into_iter().chain(by_money()).min()
    }
}

impl Books {
    /// The account, in the period that runs now.
    fn account<T>(
        &mut self,
        holder: &Holder,
        zone: &Zone,
        now_ms: i64,
        at: impl FnOnce(&mut Account) -> T,
    ) -> T {
        if let Some(account) = self.accounts.get_mut(holder) {
            account.go_to(holder.1, zone, now_ms);
            return at(account);
        }
        let (since_ms, until_ms) = zone.around(holder.1, now_ms);
        at(self.accounts.entry(holder.clone()).or_insert_with(|| Account::new(since_ms, until_ms)))
    }

    /// The same, of which there may be something to tell afterwards.
    fn touched<T>(
        &mut self,
        holder: &Holder,
        zone: &Zone,
        now_ms: i64,
        at: impl FnOnce(&mut Account) -> T,
    ) -> T {
        let is_shared = self.is_shared;
        let (outcome, is_new) = self.account(holder, zone, now_ms, |account| {
            let outcome = at(account);
            (outcome, is_shared && !std::mem::replace(&mut account.is_listed, is_shared))
        });
        if is_new {
            self.listed.insert(holder.clone());
        }
        outcome
    }
}

impl Budgets {
    /// No budget has been touched.
    pub fn new(zone: Zone) -> Self {
        Self { zone, books: Mutex::default() }
    }

    /// In which zone periods begin.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other replicas spend from the same budgets.
    pub(super) fn share(&self) {
        self.books().is_shared = true;
    }

    /// At least this was spent in the period that runs now, as the ledger has it: at the start, or when another node
    /// tells. What is known of here and not there yet stays.
    pub fn at_least(&self, whose: &Whose, budget: &Budget, spent: Spent, now_ms: i64) {
        self.books().account(&(whose.clone(), budget.period), &self.zone, now_ms, |account| {
            // What was spent here is in the ledger already, and must not count twice.
            let of_others = spent.less(account.telling).less(account.untold);
            account.settled = account.settled.most(of_others);
        });
    }

    /// What was spent in the period that runs now, and when that ends.
    pub fn spent(&self, whose: &Whose, budget: &Budget, now_ms: i64) -> (Spent, i64) {
        self.spent_by(&(whose.clone(), budget.period), now_ms)
    }

    fn spent_by(&self, holder: &Holder, now_ms: i64) -> (Spent, i64) {
        self.books().account(holder, &self.zone, now_ms, |account| (account.spent(), account.until_ms))
    }

    /// Sets a part aside, if anything is left that is not spent and not set aside: so the last request may go beyond
    /// the budget, and only that one. Nobody else is asked.
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
        let holder = (whose, budget.period);
        self.books().touched(&holder, &self.zone, now_ms, |account| {
            account.has_left(budget)?;
            account.reserve(part, now_ms);
            Ok(())
        })?;
        Ok(Reserve { holder, budget, reserved: part })
    }

    /// Whether a budget that ends answers has less left than this, which the shortest answer would take.
    pub(super) fn lack(&self, reserve: &Reserve, least: Spent, now_ms: i64) -> Option<Lack> {
        let Reserve { holder, budget, .. } = reserve;
        if !budget.cut_off || least == Spent::default() {
            return None;
        }
        let (spent, until_ms) = self.spent_by(holder, now_ms);
        let is_short = |spent: Spent| {
            budget.tokens.is_some_and(|most| most.saturating_sub(spent.tokens) < least.tokens)
                // A sum that is a whole number of tokens stays one, however it is rounded.
                || budget.money.is_some_and(|most| most - spent.money + 1e-12 < least.money)
        };
        is_short(spent).then(|| Lack { until_ms: (!is_short(Spent::default())).then_some(until_ms) })
    }

    /// A request has ended, and has spent this. It counts in the period that runs now.
    pub(super) fn settle(&self, reserve: &Reserve, spent: Spent, now_ms: i64) {
        let mut books = self.books();
        let is_shared = books.is_shared;
        books.touched(&reserve.holder, &self.zone, now_ms, |account| {
            account.reserved = account.reserved.less(reserve.reserved);
            if is_shared {
                account.untold = account.untold.plus(spent);
            } else {
                account.settled = account.settled.plus(spent);
            }
            if reserve.reserved.less(spent).is_something() {
                // What the others did not have is here now.
                account.refused_ms = None;
            }
        });
    }

    /// What is left until the budget is used up, whatever others use meanwhile; nothing is said if it lets answers end by
    /// themselves.
    pub(super) fn left_for(&self, reserve: &Reserve, now_ms: i64) -> Left {
        let Budget { tokens, money, cut_off, .. } = reserve.budget;
        if !cut_off {
            return Left::default();
        }
        let (spent, _) = self.spent_by(&reserve.holder, now_ms);
        Left {
            tokens: tokens.map(|most| most.saturating_sub(spent.tokens)),
            money: money.map(|most| (most - spent.money).max(0.0)),
        }
    }

    /// Forgets what was spent in periods that are over, and of budgets that are not needed: the second time that they are
    /// not, so that the ledger has all of it by then, from which it comes back if the budget does.
    pub(super) fn tidy(&self, now_ms: i64, is_needed: impl Fn(&Whose, Period) -> bool) {
        let mut books = self.books();
        let Books { accounts, listed, .. } = &mut *books;
        accounts.retain(|account, state| {
            if state.is_open() {
                return true;
            }
            let (whose, period) = account;
            let is_over = state.since_ms < self.zone.around(*period, now_ms).0;
            let is_needed = is_needed(whose, *period);
            let was_needed = !std::mem::replace(&mut state.is_unneeded, !is_needed);
            !is_over && (is_needed || was_needed)
        });
        accounts.shrink_to_fit();
        // While nobody can be told, nobody else looks through these.
        listed.retain(|holder| accounts.contains_key(holder));
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
        Whose::Key("k".into())
    }

    #[test]
    fn a_budget_is_used_up_by_what_is_spent_and_by_what_is_set_aside() {
        let (budgets, budget) = (Budgets::default(), budget(Some(1000), None));
        let one = budgets.take(whose(), budget, tokens(800), 5).unwrap();
        let two = budgets.take(whose(), budget, tokens(800), 5).unwrap();
        assert_eq!(budgets.take(whose(), budget, tokens(1), 5).unwrap_err(), UsedUp::SetAside);
        budgets.settle(&one, tokens(100), 6);
        let three = budgets.take(whose(), budget, tokens(1), 6).unwrap();
        assert_eq!(budgets.left_for(&three, 6), Left { tokens: Some(900), money: None });
        budgets.settle(&two, tokens(950), 7);
        budgets.settle(&three, tokens(0), 7);
        assert_eq!(
            budgets.take(whose(), budget, tokens(1), DAY - 1).unwrap_err(),
            UsedUp::Spent { until_ms: DAY }
        );
        assert!(budgets.take(whose(), budget, tokens(1), DAY).is_ok(), "a new day");
        assert!(budgets.take(Whose::Owner("k".into()), budget, tokens(1), 7).is_ok());
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
        let left = budgets.left_for(&two, DAY);
        assert!(left.tokens.is_none() && (left.money.unwrap() - 0.3).abs() < 1e-9, "{left:?}");
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

    #[test]
    fn money_that_is_left_becomes_tokens_by_the_price() {
        let price = Price {
            model: "m".to_owned(),
            provider: None,
            from_ms: 0,
            input: 1_000_000.0,
            output: 2_000_000.0,
            cached_input: None,
            request: None,
        };
        let free = Price { output: 0.0, ..price.clone() };
        let left = |tokens, money| Left { tokens, money };
        assert_eq!(left(None, Some(20.0)).for_answer(4, Some(&price)), Some(8));
        assert_eq!(left(None, Some(20.0)).for_answer(21, Some(&price)), Some(0));
        assert_eq!(left(Some(9), Some(20.0)).for_answer(4, Some(&price)), Some(5), "the less of both");
        assert_eq!(left(Some(100), Some(20.0)).for_answer(4, None), Some(96));
        for (price, money) in [(None, Some(0.1)), (Some(&free), Some(20.0)), (Some(&price), None)] {
            assert_eq!(left(None, money).for_answer(4, price), None, "nothing ends it");
        }
        let least = left(Some(3), None).least(left(Some(2), Some(0.5))).least(left(None, Some(0.7)));
        assert_eq!(least, left(Some(2), Some(0.5)));
    }

    #[test]
    fn what_is_over_or_nobodys_is_forgotten_and_nothing_else() {
        let (budgets, day) = (Budgets::default(), budget(Some(100), None));
        let month = Budget { period: Period::Month, ..day };
        let of = |name: &str| Whose::Key(name.into());
        let known = |budgets: &Budgets| {
            let mut names: Vec<String> = budgets
                .books()
                .accounts
                .keys()
                .map(|(whose, period)| format!("{whose:?} {period:?}"))
                .collect();
            names.sort();
            names.len()
        };
        for name in ["stays", "deleted"] {
            for budget in [day, month] {
                let reserve = budgets.take(of(name), budget, tokens(1), DAY).unwrap();
                budgets.settle(&reserve, tokens(60), DAY);
            }
        }
        let is_needed = |whose: &Whose, _| *whose == of("stays");
        budgets.tidy(DAY, is_needed);
        assert_eq!(known(&budgets), 4, "it may be needed again in a moment");
        assert_eq!(budgets.spent(&of("deleted"), &month, DAY).0, tokens(60));
        budgets.tidy(DAY, is_needed);
        assert_eq!(known(&budgets), 3, "one was touched since");
        budgets.tidy(DAY, is_needed);
        assert_eq!((known(&budgets), budgets.spent(&of("stays"), &day, DAY).0), (2, tokens(60)));
        budgets.tidy(2 * DAY, |_, _| true);
        assert_eq!((known(&budgets), budgets.spent(&of("stays"), &month, 2 * DAY).0), (1, tokens(60)));

        // What is under way or has not been told stays, whoever needs it.
        budgets.share();
        let under_way = budgets.take(of("busy"), day, tokens(5), 2 * DAY).unwrap();
        let told = budgets.take(of("told"), day, tokens(5), 2 * DAY).unwrap();
        budgets.settle(&told, tokens(7), 2 * DAY);
        for _ in 0..3 {
            budgets.tidy(9 * DAY, |_, _| false);
        }
        assert_eq!(known(&budgets), 2);
        budgets.settle(&under_way, Spent::default(), 9 * DAY);
        for holder in budgets.due(true, 9 * DAY) {
            let spending = budgets.begin_telling(&holder, true, 9 * DAY).unwrap();
            budgets.accepted(&spending, tokens(7), 9 * DAY);
        }
        (0..3).for_each(|_| budgets.tidy(9 * DAY, |_, _| false));
        assert_eq!(known(&budgets), 0);
    }
}
