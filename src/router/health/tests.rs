//! Cooldowns, with time as a value.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::providers::ErrorKind;

const MOST: Duration = Duration::from_secs(300);

fn trouble(at_least: Option<Duration>) -> Failure {
    Failure { kind: ErrorKind::Unreachable, cause: Cause::Trouble, at_least, most: MOST }
}

fn admit(health: &Health, now: Instant) -> Result<Pass<'_>, Instant> {
    health.admit(Need::Usual, now).map_err(|wait| wait.until)
}

fn failure(cause: Cause) -> Failure {
    Failure { cause, ..trouble(Some(seconds(40))) }
}

fn probed(at: Instant) -> Probed {
    Probed { at, took: Duration::ZERO, failure: Some("x") }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn rests_double_with_each_failure_up_to_the_longest() {
    let (health, now) = (Health::default(), Instant::now());
    let mut now = now;
    for round in 0..20 {
        // All that were under way fail with it, and count once.
        (0..50).for_each(|_| {
            health.failed(&trouble(None), now);
        });
        let rested = health.figures(now).rests_for.unwrap();
        let least = seconds(2 << round.min(9)).min(MOST);
        let most = least.mul_f64(1.25).min(MOST);
        assert!(rested >= least && rested <= most, "{round}: {rested:?}");
        now += rested;
    }
}

#[test]
fn refusals_count_in_a_row_only() {
    let (health, now) = (Health::default(), Instant::now());
    for _ in 0..2 {
        health.refused(&trouble(None), now);
        health.refused(&trouble(None), now);
        assert_eq!(health.figures(now).rests_for, None);
        admit(&health, now).unwrap().succeeded();
    }
    (0..3).for_each(|_| {
        health.refused(&trouble(None), now);
    });
    assert_eq!(health.figures(now).failed, 7);
    let later = now + health.figures(now).rests_for.unwrap();
    admit(&health, later).unwrap().succeeded();
    health.refused(&trouble(None), later);
    assert_eq!(health.figures(later).rests_for, None);
}

#[test]
fn what_is_asked_for_is_kept_and_clamped_and_never_shortened() {
    let (health, now) = (Health::default(), Instant::now());
    health.failed(&trouble(Some(seconds(40))), now);
    assert_eq!(health.figures(now).rests_for, Some(seconds(40)));
    health.failed(&trouble(Some(seconds(7))), now + seconds(1));
    assert_eq!(health.figures(now).rests_for, Some(seconds(40)), "a later, shorter one shortens nothing");
    health.failed(&trouble(Some(seconds(99_999))), now);
    assert_eq!(health.figures(now).rests_for, Some(MOST));
}

#[test]
fn after_its_rest_exactly_one_may_try() {
    let (health, now) = (Health::default(), Instant::now());
    admit(&health, now).unwrap().succeeded();
    health.failed(&trouble(Some(seconds(10))), now);
    assert_eq!(admit(&health, now + seconds(9)).unwrap_err(), now + seconds(10));
    let later = now + seconds(11);
    let probe = admit(&health, later).unwrap();
    assert!(admit(&health, later).is_err());
    drop(probe);
    let probe = admit(&health, later).expect("who has left has tried nothing");
    health.failed(&trouble(None), later);
    drop(probe);
    assert!(admit(&health, later + seconds(1)).is_err(), "it failed again");
    admit(&health, later + seconds(60)).unwrap().succeeded();
    assert!((0..3).all(|_| admit(&health, later + seconds(60)).is_ok()));
    assert_eq!(health.figures(now).failed, 2);
}

#[test]
fn where_nobody_else_can_answer_one_at_a_time_may_try_during_a_cooldown() {
    let now = Instant::now();
    for (cause, is_asked) in
        [(Cause::Absent, true), (Cause::Trouble, true), (Cause::Asked, true), (Cause::Will, false)]
    {
        let health = Health::default();
        health.failed(&failure(cause), now);
        assert!(admit(&health, now).is_err());
        let tried = health.admit(Need::Last, now);
        assert_eq!(tried.is_ok(), is_asked, "{cause:?}");
        let second = health.admit(Need::Last, now).unwrap_err();
        assert_eq!(second.is_tried, is_asked, "{cause:?}");
        assert_eq!(second.until == now + seconds(40), !is_asked, "{cause:?}");
        if let Ok(tried) = tried {
            tried.succeeded();
            assert!((0..3).all(|_| admit(&health, now).is_ok()), "a success ends the cooldown: {cause:?}");
        }
    }
}

#[test]
fn what_a_server_asks_for_is_kept_beside_failures_of_another_kind() {
    let (health, now) = (Health::default(), Instant::now());
    health.failed(&failure(Cause::Will), now);
    health.failed(&Failure { at_least: Some(seconds(90)), ..failure(Cause::Trouble) }, now);
    assert!(health.admit(Need::Last, now + seconds(39)).is_err());
    assert!(health.admit(Need::Last, now + seconds(41)).is_ok());
    assert_eq!(health.useful_at(now + seconds(1)), Some(now + seconds(40)));
    assert_eq!(health.useful_at(now + seconds(60)), Some(now + seconds(60)));
}

#[test]
fn times_are_told_apart_and_summed_up() {
    let health = Health::default();
    let pass = admit(&health, Instant::now()).unwrap();
    (1..=100).for_each(|millisecond| pass.took(Duration::from_millis(millisecond), true));
    pass.took(seconds(9), false);
    let figures = health.figures(Instant::now());
    assert_eq!(figures.first_token_p50, Some(Duration::from_millis(51)));
    assert_eq!(figures.first_token_p95, Some(Duration::from_millis(96)));
    assert_eq!(health.average(false), Some(9.0));
    assert!((0.08..0.1).contains(&health.average(true).unwrap()));
}

/// The way to one other replica.
#[derive(Debug, Default)]
struct Other(Mutex<Option<HealthBook>>);

impl Replicas for Other {
    fn cools_down(&self, name: &str, rest: Rest) {
        if let Some(book) = &*self.0.lock().unwrap() {
            book.told(name, Some(rest));
        }
    }

    fn is_well(&self, name: &str) {
        if let Some(book) = &*self.0.lock().unwrap() {
            book.told(name, None);
        }
    }
}

#[test]
fn replicas_hear_of_each_others_rests() {
    let (north_of, south_of) = (Arc::new(Other::default()), Arc::new(Other::default()));
    let (here, there) = (HealthBook::shared(north_of.clone()), HealthBook::shared(south_of.clone()));
    *north_of.0.lock().unwrap() = Some(there.clone());
    *south_of.0.lock().unwrap() = Some(here.clone());
    let (a_one, other_a, other_b) = (here.of("a"), there.of("a"), there.of("b"));
    let now = Instant::now();

    a_one.failed(&trouble(Some(seconds(40))), now);
    assert!(admit(&other_a, now + seconds(39)).is_err() && admit(&other_b, now).is_ok());
    other_a.failed(&trouble(Some(seconds(90))), now);
    a_one.failed(&trouble(Some(seconds(50))), now);
    assert!(admit(&other_a, now + seconds(85)).is_err(), "a shorter rest shortens nothing, there as here");
    admit(&other_a, now + seconds(100)).unwrap().succeeded();
    assert!((0..3).all(|_| admit(&a_one, now + seconds(1)).is_ok()));
    here.told("unknown", Some(Rest { lasts: seconds(1), is_will: true }));
}

#[test]
fn an_answer_to_what_was_asked_before_a_failure_ends_no_rest() {
    let (health, now) = (Health::default(), Instant::now());
    let (early, other) = (admit(&health, now).unwrap(), admit(&health, now).unwrap());
    drop(other);
    health.failed(&failure(Cause::Will), now + seconds(1));
    early.succeeded();
    assert!(admit(&health, now + seconds(30)).is_err());
    assert_eq!(health.answered(), 1);
    let probe = admit(&health, now + seconds(50)).unwrap();
    assert!(admit(&health, now + seconds(50)).is_err());
    probe.succeeded();
    assert!(admit(&health, now + seconds(50)).is_ok());
}

#[test]
fn chance_is_even_enough() {
    let mean = (0..2000).map(|_| random()).sum::<f64>() / 2000.0;
    assert!((0.45..0.55).contains(&mean), "{mean}");
}

#[test]
fn a_sign_of_life_ends_what_it_disproves_and_nothing_else() {
    let begin = Instant::now();
    let (sent, now) = (begin + seconds(5), begin + seconds(6));
    let rest = |health: &Health| health.figures(now).rests_for.unwrap_or_default();
    for (cause, was_dead, ends) in [
        (Cause::Absent, false, true),
        (Cause::Absent, true, true),
        (Cause::Trouble, false, false),
        (Cause::Trouble, true, true),
        (Cause::Will, false, false),
        (Cause::Will, true, false),
    ] {
        let health = Health::default();
        health.failed(&failure(cause), begin);
        if was_dead {
            health.provider_found_dead();
        }
        assert_eq!(health.found_alive(sent, now), ends, "{cause:?}, {was_dead}");
        assert_eq!(rest(&health), if ends { Duration::ZERO } else { seconds(34) }, "{cause:?}, {was_dead}");
        assert!(!health.found_alive(sent, now), "nothing is left to end");
    }
}

#[test]
fn a_sign_of_life_leaves_the_part_of_a_rest_that_was_asked_for() {
    let begin = Instant::now();
    let now = begin + seconds(1);
    let health = Health::default();
    health.failed(&failure(Cause::Will), begin);
    health.failed(&Failure { at_least: Some(seconds(90)), ..failure(Cause::Absent) }, begin);
    assert_eq!(health.figures(now).rests_for, Some(seconds(89)));
    assert!(health.found_alive(begin, now));
    assert_eq!(health.figures(now).rests_for, Some(seconds(39)), "what was asked for is kept");
}

#[test]
fn an_answer_to_an_older_question_disproves_nothing() {
    let begin = Instant::now();
    let health = Health::default();
    health.failed(&failure(Cause::Absent), begin + seconds(1));
    assert!(!health.found_alive(begin, begin + seconds(2)));
    assert!(health.found_alive(begin + seconds(2), begin + seconds(3)));
}

#[test]
fn trouble_after_a_new_start_is_not_forgiven_by_it() {
    let begin = Instant::now();
    let health = Health::default();
    health.failed(&failure(Cause::Absent), begin);
    health.provider_found_dead();
    health.failed(&failure(Cause::Trouble), begin + seconds(1));
    assert!(!health.found_alive(begin + seconds(2), begin + seconds(2)));
}

#[test]
fn after_a_sign_of_life_one_tries_and_failures_are_not_forgotten() {
    let begin = Instant::now();
    let health = Health::default();
    let dead = Failure { at_least: None, ..failure(Cause::Absent) };
    health.found_dead(&dead, probed(begin));
    assert!(admit(&health, begin).is_err(), "it cools down before any request");
    let now = begin + seconds(1);
    assert!(health.found_alive(now, now));
    let tried = admit(&health, now).expect("it may be tried at once");
    assert!(admit(&health, now).is_err(), "by one");
    assert!(!health.found_alive(now, now), "and that stays so");
    health.failed(&dead, now);
    drop(tried);
    assert!(health.figures(now).rests_for.unwrap() >= seconds(4), "the second failure in a row");
    assert_eq!(health.figures(now).failed, 1, "probes are no requests");
    admit(&health, now + seconds(60)).unwrap().succeeded();
    assert!((0..3).all(|_| admit(&health, now + seconds(60)).is_ok()));
}

#[test]
fn probes_that_fail_one_after_the_other_are_one_failure() {
    let begin = Instant::now();
    let health = Health::default();
    let dead = Failure { at_least: Some(seconds(3)), ..failure(Cause::Absent) };
    (0..20).for_each(|round| health.found_dead(&dead, probed(begin + seconds(2 * round))));
    let left = health.figures(begin + seconds(38)).rests_for.unwrap();
    assert_eq!(left, seconds(3), "always until the next one has looked");
}
