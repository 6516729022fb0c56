//! The gate, with limits of several things at once.

use std::collections::HashSet;

use serde_json::json;

use super::super::{Key, Period, Spent};
use super::*;

fn tokens(limit: u64) -> Limits {
    Limits { tokens_per_minute: Some(limit), ..Limits::default() }
}

fn requests(limit: u64) -> Limits {
    Limits { requests_per_minute: Some(limit), ..Limits::default() }
}

fn key(id: &str, limits: Limits) -> Key {
    let key = json!({"id": id, "name": id, "owner": "shop", "prefix": format!("llmp_{id}"), "digest": "0".repeat(64), "created_ms": 0});
    Key { limits, ..serde_json::from_value(key).unwrap() }
}

fn caller(limits: Limits) -> Caller {
    let ring = KeyRing::default();
    ring.put(key("k", limits));
    ring.get("k").unwrap()
}

fn gate(rules: Rules) -> Arc<Gate> {
    Arc::new(Gate::new(rules, Budgets::default()))
}

fn part(tokens: u64, guessed: u64) -> Part {
    Part { spent: Spent { tokens, money: 0.0 }, guessed, ..Part::REQUEST }
}

fn named<T>(name: &str, what: T) -> HashMap<String, T> {
    HashMap::from([(name.to_owned(), what)])
}

#[test]
fn a_guess_is_bounded_by_the_smallest_limit_and_what_is_sure_is_not() {
    let want = |tokens, guessed, fewest| part(tokens, guessed).want(fewest).tokens;
    assert_eq!(want(1034, 1024, None), 1034);
    assert_eq!(want(1034, 1024, Some(100_000)), 1034);
    assert_eq!(want(1034, 1024, Some(1000)), 260, "a quarter");
    assert_eq!(want(1934, 1024, Some(1000)), 1000, "all that there ever is");
    assert_eq!(want(2044, 1024, Some(1000)), 1020, "which is too much by itself");
    assert_eq!(want(910, 0, Some(1000)), 910);
    assert_eq!(want(5, 3, Some(1)), 2);
}

#[tokio::test(start_paused = true)]
async fn small_requests_pass_whatever_the_limit_and_the_others() {
    let gate = gate(Rules { owners: named("shop", tokens(9000)), ..Rules::default() });
    let caller = caller(tokens(400));
    let mut permits = Vec::new();
    for _ in 0..3 {
        permits.push(gate.admit(Some(&caller), "m", part(1034, 1024), 0).unwrap());
    }
    let refused = gate.admit(Some(&caller), "m", part(1034, 1024), 0).unwrap_err();
    let wait = Duration::from_secs(61);
    let told = Refusal::Limit {
        of: "key",
        dimension: Dimension::Tokens,
        limit: 400,
        asked: 110,
        left: 70,
        retry_after: wait,
    };
    assert_eq!(refused, told);
    assert_eq!(
        refused.to_string(),
        "the limit of 400 tokens per minute of the key is reached: the request needs 110, and 70 are left"
    );
    let figures: Vec<Figures> = gate.standing(Some(&caller), Some("m")).collect();
    assert_eq!((figures.len(), figures[0].limit, figures[0].remaining), (1, 400, 70), "as it was told");
    permits.into_iter().for_each(|permit| permit.settle(Spent { tokens: 20, money: 0.0 }, 0));
    assert!(gate.admit(Some(&caller), "m", part(1034, 1024), 0).is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_waits_as_long_as_told_gets_through() {
    let gate = gate(Rules { gateway: requests(2), models: named("m", tokens(500)), ..Rules::default() });
    let caller = caller(tokens(200));
    for _ in 0..2 {
        let permit = gate.admit(Some(&caller), "other", part(90, 0), 0).unwrap();
        permit.settle(Spent { tokens: 90, money: 0.0 }, 0);
        tokio::time::advance(Duration::from_secs(20)).await;
    }
    // Of tokens there is enough in 21 s, of requests as well.
    let refused = gate.admit(Some(&caller), "m", part(100, 0), 0).unwrap_err();
    let Refusal::Limit { retry_after, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(retry_after.as_secs(), 21);
    // For more tokens it takes longer, and that is what is told, whoever was looked at first.
    let refused = gate.admit(Some(&caller), "m", part(150, 0), 0).unwrap_err();
    let Refusal::Limit { of: "key", retry_after, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(retry_after.as_secs(), 41);
    tokio::time::advance(Duration::from_secs(40)).await;
    assert!(gate.admit(Some(&caller), "m", part(150, 0), 0).is_err());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(gate.admit(Some(&caller), "m", part(150, 0), 0).is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_there_never_is_is_refused_for_good_and_takes_nothing() {
    let gate = gate(Rules { gateway: requests(1), models: named("m", tokens(50)), ..Rules::default() });
    let caller = caller(tokens(200));
    let refused = gate.admit(Some(&caller), "m", part(100, 0), 0).unwrap_err();
    assert_eq!(refused, Refusal::Never { of: "model", dimension: Dimension::Tokens, limit: 50, asked: 100 });
    assert!(refused.is_for_good());
    let figures: Vec<Figures> = gate.standing(Some(&caller), Some("m")).collect();
    let left: HashSet<u64> = figures.iter().map(|figures| figures.remaining).collect();
    assert_eq!(left, HashSet::from([1, 50]));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_takes_over_counts_and_is_settled_with_the_request() {
    let gate = gate(Rules { models: named("spare", tokens(100)), ..Rules::default() });
    let mut permit = gate.admit(None, "first", part(60, 0), 0).unwrap();
    assert!(gate.admit_also("free", part(60, 0)).await.unwrap().is_none(), "nothing is limited");
    permit.join(gate.admit_also("spare", part(60, 0)).await.unwrap().unwrap());
    assert!(gate.admit_also("spare", part(60, 0)).await.is_err());
    permit.settle(Spent { tokens: 10, money: 0.0 }, 0);
    assert_eq!(gate.standing(None, Some("spare")).next().unwrap().remaining, 90);
}

#[test]
fn what_was_taken_counts_under_other_rules_and_is_gone_with_the_last() {
    let rules = |limit: u64| Rules { models: named("m", requests(limit)), ..Rules::default() };
    let gate = gate(rules(9));
    let under_way = gate.admit(None, "m", part(1, 0), 0).unwrap();
    gate.replace_rules(rules(1));
    assert!(gate.admit(None, "m", part(1, 0), 0).is_err(), "it counts");
    gate.replace_rules(Rules::default());
    assert!(gate.rules().of_models.is_empty());
    drop(under_way);
    gate.replace_rules(rules(1));
    assert!(gate.admit(None, "m", part(1, 0), 0).is_ok());
}

#[test]
fn who_is_refused_takes_nothing_from_others() {
    let rules = Rules { models: named("m", requests(9)), gateway: requests(1), ..Rules::default() };
    let gate = gate(rules);
    gate.admit(None, "other", part(1, 0), 0).unwrap().settle(part(1, 0).spent, 0);
    assert!(gate.admit(None, "m", part(1, 0), 0).is_err());
    assert_eq!(gate.rules().of_models["m"].figures(Instant::now())[0].unwrap().remaining, 9);
}

#[test]
fn what_deleted_keys_have_spent_is_forgotten() {
    let (gate, ring) = (gate(Rules::default()), KeyRing::default());
    let budget = Budget { tokens: Some(9), money: None, period: Period::Month, cut_off: false };
    for id in ["a", "b"] {
        ring.put(Key { budget: Some(budget), ..key(id, Limits::default()) });
        gate.admit(ring.get(id).as_ref(), "m", part(1, 0), 0).unwrap().settle(part(5, 0).spent, 0);
    }
    ring.remove("b");
    (0..2).for_each(|_| gate.tidy(&ring, 0));
    let left = |id: &str| gate.budgets().spent(&Whose::Key(id.into()), &budget, 0).0.tokens;
    assert_eq!((left("a"), left("b")), (5, 0));
}
