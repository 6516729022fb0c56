//! What a claim covers, what is told of it, and what becomes of it.

use super::super::{Period, Whose};
use super::*;

const DAY: i64 = 86_400_000;
const BUDGET: Budget = Budget { tokens: Some(1000), money: None, period: Period::Day, cut_off: false };

fn tokens(tokens: u64) -> Spent {
    Spent { tokens, money: 0.0 }
}

fn holder() -> Holder {
    (Whose::Key("k".into()), Period::Day)
}

fn shared() -> Budgets {
    let budgets = Budgets::default();
    budgets.share();
    budgets
}

fn granted(total: u64, more: Option<u64>) -> Granted {
    Granted { total: tokens(total), more: more.map(tokens) }
}

fn taken(budgets: &Budgets, part: u64, now_ms: i64) -> Reserve {
    match budgets.look(&holder(), BUDGET, tokens(part), now_ms) {
        Look::Taken(reserve) => reserve,
        other => panic!("{other:?}"),
    }
}

fn asks(budgets: &Budgets, part: u64, now_ms: i64) -> bool {
    matches!(budgets.look(&holder(), BUDGET, tokens(part), now_ms), Look::Ask)
}

/// Asks for a part, and is granted so much.
fn claimed(budgets: &Budgets, part: u64, more: u64, now_ms: i64) -> Reserve {
    let claim = budgets.ask(&holder(), BUDGET, tokens(part), now_ms);
    budgets.answered(&claim, granted(0, Some(more)), now_ms).unwrap()
}

#[test]
fn a_claim_covers_what_fits_into_it_and_no_request_beyond() {
    let budgets = shared();
    assert!(asks(&budgets, 10, 5), "nothing is known");
    let waiting = (budgets.wait(&holder(), tokens(10), 5), budgets.wait(&holder(), tokens(7), 5));
    let claim = budgets.ask(&holder(), BUDGET, tokens(10), 5);
    assert_eq!((claim.spending.claim, claim.waiting), (tokens(0), tokens(17)));
    drop(waiting);
    assert!(asks(&budgets, 10, 5), "nothing is here before there is an answer");
    let first = budgets.answered(&claim, granted(300, Some(25)), 5).unwrap();
    assert_eq!(budgets.spent(&holder().0, &BUDGET, 5).0, tokens(300));

    let second = taken(&budgets, 10, 5);
    assert!(asks(&budgets, 6, 5), "that is more than the claim");
    let third = taken(&budgets, 5, 5);
    assert!(asks(&budgets, 0, 5), "all of it is set aside");
    // What was set aside and is not spent is the node's to use.
    budgets.settle(&first, tokens(4), 6);
    assert!(asks(&budgets, 7, 6));
    let fourth = taken(&budgets, 6, 6);
    let claim = budgets.ask(&holder(), BUDGET, tokens(7), 6);
    assert_eq!((claim.spending.claim, claim.spending.more), (tokens(25), tokens(0)), "told and set aside");
    assert_eq!(claim.waiting, tokens(0), "they have left");
    for reserve in [second, third, fourth] {
        budgets.settle(&reserve, Spent::default(), 6);
    }
}

#[test]
fn a_part_that_is_asked_for_is_taken_away_from_nobody_who_takes_unasked() {
    let budgets = shared();
    claimed(&budgets, 10, 30, 0);
    let claim = budgets.ask(&holder(), BUDGET, tokens(25), 0);
    assert_eq!(claim.spending.claim, tokens(10));
    assert!(asks(&budgets, 1, 0), "what the others may already have in another way");
    budgets.answered(&claim, granted(0, Some(25)), 0).unwrap();
    assert!(asks(&budgets, 1, 0));
}

#[test]
fn what_the_last_request_had_beyond_the_budget_nobody_has_after_it() {
    let budgets = shared();
    let last = claimed(&budgets, 500, 3, 0);
    budgets.settle(&last, tokens(1), 0);
    assert!(asks(&budgets, 3, 0), "one is spent, and three are the node's");
    taken(&budgets, 2, 0);
}

#[test]
fn a_claim_is_relied_on_no_longer_than_others_believe_it() {
    let budgets = shared();
    claimed(&budgets, 1, 20, 10_000);
    taken(&budgets, 1, 13_999);
    assert!(asks(&budgets, 1, 14_000) && asks(&budgets, 1, 9_999), "nor by a clock that was put back");
    budgets.doubt();
    assert!(asks(&budgets, 1, 10_001), "Redis may have lost it");
}

#[test]
fn a_refusal_holds_for_a_moment_or_until_something_is_given_back() {
    let budgets = shared();
    let held = claimed(&budgets, 10, 10, 100);
    let ask = |now_ms| {
        let claim = budgets.ask(&holder(), BUDGET, tokens(10), now_ms);
        budgets.answered(&claim, granted(500, None), now_ms).unwrap_err()
    };
    assert_eq!(ask(100), UsedUp::SetAside);
    let is_dry = |now_ms| {
        matches!(budgets.look(&holder(), BUDGET, tokens(10), now_ms), Look::UsedUp(UsedUp::SetAside))
    };
    assert!(is_dry(100) && is_dry(119) && !is_dry(120));
    assert_eq!(ask(200), UsedUp::SetAside);
    budgets.settle(&held, tokens(9), 201);
    assert!(!is_dry(201), "something was given back");

    // What is known to be spent is refused by who knows, once the others know as well.
    let claim = budgets.ask(&holder(), BUDGET, tokens(1), 300);
    let refused = budgets.answered(&claim, granted(1000, None), 300).unwrap_err();
    assert_eq!(refused, UsedUp::Spent { until_ms: DAY });
    let look = || budgets.look(&holder(), BUDGET, tokens(1), 5000);
    assert!(matches!(look(), Look::UsedUp(UsedUp::Spent { .. })));
    budgets.doubt();
    assert!(matches!(look(), Look::Ask), "they may have to be told");
}

#[test]
fn what_is_told_is_taken_out_of_the_claim_and_comes_back_if_it_cannot_be() {
    let budgets = shared();
    let (first, second) = (claimed(&budgets, 10, 40, 0), taken(&budgets, 20, 0));
    assert_eq!(budgets.due(false, 10), [], "nothing has been spent");
    budgets.settle(&first, tokens(12), 10);
    assert_eq!(budgets.due(false, 10), [holder()]);
    let tell = |now_ms| budgets.begin_telling(&holder(), false, now_ms);
    let spending = tell(10).unwrap();
    assert_eq!((spending.before, spending.more, spending.claim), (tokens(0), tokens(12), tokens(28)));
    taken(&budgets, 8, 10);
    assert!(asks(&budgets, 1, 10));
    budgets.not_told(&spending);
    let spending = tell(11).unwrap();
    assert_eq!((spending.more, spending.claim), (tokens(12), tokens(28)), "as before");
    budgets.accepted(&spending, tokens(512), 11);
    assert_eq!((tell(12), budgets.spent(&holder().0, &BUDGET, 12).0), (None, tokens(512)));
    // An answer that was longer than what was set aside is claimed when it is told.
    budgets.settle(&second, tokens(60), 12);
    let spending = tell(12).unwrap();
    assert_eq!((spending.more, spending.claim), (tokens(60), tokens(8)), "what is under way");
}

#[test]
fn a_claim_is_told_again_while_it_is_needed_and_goes_back_when_it_is_not() {
    let budgets = shared();
    let held = claimed(&budgets, 10, 40, 0);
    taken(&budgets, 1, 500);
    let tell = |all, now_ms| budgets.begin_telling(&holder(), all, now_ms);
    assert!(tell(false, 999).is_none());
    let spending = tell(false, 1000).unwrap();
    assert_eq!(spending.claim, tokens(40), "it was used half a second ago");
    budgets.accepted(&spending, tokens(0), 1000);
    let spending = tell(false, 1500).unwrap();
    assert_eq!(spending.claim, tokens(11), "only what is under way");
    budgets.accepted(&spending, tokens(0), 1500);
    assert!(tell(false, 2499).is_none() && tell(false, 2500).is_some(), "which is told every second");

    // A question of which nobody has heard the end is put right at once.
    let budgets = shared();
    budgets.ask(&holder(), BUDGET, tokens(10), 0);
    assert_eq!(budgets.due(false, 1), [holder()]);
    let spending = budgets.begin_telling(&holder(), false, 1).unwrap();
    assert_eq!(spending.claim, tokens(0));
    budgets.accepted(&spending, tokens(0), 1);
    assert_eq!(budgets.due(true, 1), []);

    // At the end all goes back.
    budgets.settle(&claimed(&budgets, 10, 40, 2), Spent::default(), 2);
    assert_eq!(budgets.due(false, 3), []);
    assert_eq!(budgets.due(true, 3), [holder()]);
    assert_eq!(budgets.begin_telling(&holder(), true, 3).unwrap().claim, tokens(0));
    drop(held);
}

#[test]
fn a_new_period_begins_with_no_claim_and_with_what_is_under_way() {
    let budgets = shared();
    let held = claimed(&budgets, 10, 40, DAY - 2);
    let asked = budgets.ask(&holder(), BUDGET, tokens(5), DAY - 1);
    assert!(asks(&budgets, 1, DAY + 1));
    let claim = budgets.ask(&holder(), BUDGET, tokens(5), DAY + 1);
    assert_eq!((claim.spending.since_ms, claim.spending.claim), (DAY, tokens(10)));
    // The answer of yesterday is late: it says nothing of today.
    let late = budgets.answered(&asked, granted(999, Some(5)), DAY - 1).unwrap();
    assert_eq!(budgets.spent(&holder().0, &BUDGET, DAY + 2).0, tokens(0));
    budgets.settle(&late, tokens(5), DAY + 2);
    budgets.settle(&held, tokens(10), DAY + 2);
    budgets.tidy(3 * DAY, |_, _| false);
    assert_eq!(budgets.due(false, 3 * DAY), [holder()], "it is not tidied away before it is told");
}

#[test]
fn money_is_claimed_as_tokens_are_and_what_is_not_limited_is_not() {
    let budgets = shared();
    let budget = Budget { tokens: None, money: Some(2.0), ..BUDGET };
    let part = Spent { tokens: 1_000_000, money: 0.25 };
    let claim = budgets.ask(&holder(), budget, part, 0);
    let more = Spent { tokens: 0, money: 0.5 };
    let answer = Granted { total: Spent::default(), more: Some(more) };
    let reserve = budgets.answered(&claim, answer, 0).unwrap();
    assert!(matches!(budgets.look(&holder(), budget, part, 0), Look::Taken(_)));
    assert!(matches!(budgets.look(&holder(), budget, part, 0), Look::Ask));
    budgets.settle(&reserve, part, 0);
    let spending = budgets.begin_telling(&holder(), false, 0).unwrap();
    assert_eq!((spending.more, spending.claim), (part, Spent { tokens: 1_000_000, money: 0.25 }));
}
