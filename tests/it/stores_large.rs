//! A ledger of ten million requests. It takes minutes to fill, so it is run by name:
//!
//! ```sh
//! cargo test --release --test it -- --ignored --nocapture ten_million
//! ```
//!
//! `LLM_PROXY_API_TESTS_RECORDS` says how many it is instead.

use std::time::{Duration, Instant};

use llm_proxy_api::callers::{UsageRecord, Whose, Zone};
use llm_proxy_api::store::{By, UsageQuery};

use crate::support::stores::{Chance, record, sqlite};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// A month that begins with a UTC day.
const BEGIN: i64 = 20_500 * DAY;
const DAYS: i64 = 30;
const BATCH: u64 = 10_000;

/// Two hundred keys of twenty owners, each with a few of twelve models, which two providers each serve.
fn made_up(chance: &mut Chance, number: u64, records: u64) -> UsageRecord {
    let key = chance.below(200);
    let model = (key * 5 + chance.below(3)) % 12;
    let time = i128::from(DAYS * DAY) * i128::from(number) / i128::from(records);
    UsageRecord {
        key: Some(format!("key-{key:03}").into()),
        owner: Some(format!("owner-{:02}", key % 20).into()),
        model: Some(format!("model-{model:02}").into()),
        provider: Some(format!("provider-{}", chance.below(2) + model % 4).into()),
        input_tokens: chance.below(4000),
        output_tokens: chance.below(800),
        ..record(&format!("request-{number}"), BEGIN + i64::try_from(time).unwrap())
    }
}

#[tokio::test]
#[ignore = "it takes minutes"]
async fn a_month_of_ten_million_requests_is_told_in_a_moment() {
    let records: u64 =
        std::env::var("LLM_PROXY_API_TESTS_RECORDS").map_or(10_000_000, |records| records.parse().unwrap());
    let opened = sqlite().await;
    let (mut chance, began) = (Chance::new(1), Instant::now());
    for first in (0..records).step_by(usize::try_from(BATCH).unwrap()) {
        let numbers = first..records.min(first + BATCH);
        let batch: Vec<UsageRecord> = numbers.map(|number| made_up(&mut chance, number, records)).collect();
        opened.store.record(&batch).await.unwrap();
    }
    let bytes = std::fs::metadata(opened.folder.path().join("data/usage.db")).unwrap().len();
    println!("{records} records written in {:?}, {} MiB", began.elapsed(), bytes >> 20);

    let query = |by: &[By], zone: &str| UsageQuery {
        from_ms: BEGIN,
        to_ms: BEGIN + DAYS * DAY,
        by: by.to_vec(),
        zone: Zone::named(zone).unwrap(),
        ..UsageQuery::default()
    };
    let mut slowest = Duration::ZERO;
    for (by, zone) in [
        (&[By::Day, By::Model][..], "UTC"),
        (&[By::Day, By::Model], "Europe/Warsaw"),
        (&[By::Day, By::Model], "Asia/Kolkata"),
        (&[By::Day, By::Key], "UTC"),
        (&[By::Owner], "UTC"),
        (&[By::Key, By::Model], "UTC"),
        (&[], "UTC"),
    ] {
        for round in 0..2 {
            let began = Instant::now();
            let rows = opened.store.usage(&query(by, zone)).await.unwrap();
            let took = began.elapsed();
            println!("{by:?} in {zone}, round {round}: {} rows in {took:?}", rows.len());
            assert_eq!(rows.iter().map(|row| row.requests).sum::<u64>(), records);
            if by == [By::Day, By::Model] && zone != "Asia/Kolkata" {
                slowest = slowest.max(took);
            }
        }
    }
    for (whose, since) in [
        (Whose::Key("key-007".into()), BEGIN),
        (Whose::Owner("owner-07".into()), BEGIN),
        (Whose::Key("key-007".into()), BEGIN + 29 * DAY + HOUR / 2),
    ] {
        let began = Instant::now();
        let spent = opened.store.spent(&whose, since).await.unwrap();
        println!("spent by {whose:?}: {} tokens in {:?}", spent.tokens, began.elapsed());
    }
    let began = Instant::now();
    let all = opened.store.all_spent(BEGIN).await.unwrap();
    println!("spent by all {} in {:?}", all.len(), began.elapsed());
    assert!(slowest < Duration::from_millis(200), "a month by day and model took {slowest:?}");
}
