//! Stores: the same holds for every kind of them, with real servers.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use llm_proxy_api::callers::{Ending, Key, Period, Spent, UsageRecord, Whose, Zone};
use llm_proxy_api::llm::UsageSource;
use llm_proxy_api::store::{self, AuditEntry, By, ModelSwitch, Store, UsageQuery, UsageRow};
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection, SqliteConnection};

use crate::support::stores::{
    Chance, Opened, any_record, bare_key, key, note, noted, record, sqlite, stores,
};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

fn ms(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_millisecond()
}

#[tokio::test]
async fn keys_are_kept_with_all_they_have() {
    for Opened { store, .. } in stores().await {
        assert!(store.keys().await.unwrap().is_empty());
        let (full, bare) = (key("full"), Key { created_ms: 5, ..bare_key("bare") });
        assert!(store.insert_key(&full, &note()).await.unwrap());
        assert!(store.insert_key(&bare, &note()).await.unwrap());
        assert_eq!(store.keys().await.unwrap(), [bare.clone(), full.clone()]);

        assert!(!store.insert_key(&Key { name: "other".to_owned(), ..full.clone() }, &note()).await.unwrap());
        assert_eq!(store.keys().await.unwrap()[1], full, "a key that is there is not overwritten");

        store.put_key(&Key { name: "other".to_owned(), ..full.clone() }).await.unwrap();
        assert_eq!(store.keys().await.unwrap()[1].name, "other");

        assert_eq!(store.key("bare").await.unwrap(), Some(bare.clone()));
        assert_eq!(store.key("full").await.unwrap().unwrap().name, "other");
        assert_eq!(store.key("ful").await.unwrap(), None);

        let change = |key: Key| Key { disabled: false, id: "x".to_owned(), last_used_ms: None, ..key };
        let changed = store.update_key("full", &change, &noted).await.unwrap().unwrap();
        assert!(!changed.disabled && changed.name == "other");
        assert_eq!((changed.id.as_str(), changed.last_used_ms), ("full", full.last_used_ms));
        assert_eq!(store.keys().await.unwrap()[1], changed);
        assert!(store.update_key("gone", &change, &noted).await.unwrap().is_none());

        assert!(store.delete_key("full", &note()).await.unwrap());
        assert!(!store.delete_key("full", &note()).await.unwrap());
        assert_eq!(store.keys().await.unwrap(), [bare]);
    }
}

#[tokio::test]
async fn the_version_tells_other_processes_of_every_change() {
    for opened in stores().await {
        let (here, there) = (&opened.store, opened.again().await);
        let mut before = there.keys_version().await.unwrap();
        for step in 0..4 {
            match step {
                0 => assert!(here.insert_key(&key("a"), &note()).await.unwrap()),
                1 => here.put_key(&key("a")).await.unwrap(),
                2 => assert!(here.update_key("a", &|key| key, &noted).await.unwrap().is_some()),
                _ => assert!(here.delete_key("a", &note()).await.unwrap()),
            }
            let after = there.keys_version().await.unwrap();
            assert_ne!(before, after, "{step}");
            before = after;
        }
        assert!(!here.delete_key("a", &note()).await.unwrap());
        assert!(here.update_key("a", &|key| key, &noted).await.unwrap().is_none());
        here.insert_key(&key("b"), &note()).await.unwrap();
        let before = there.keys_version().await.unwrap();
        assert!(!here.insert_key(&key("b"), &note()).await.unwrap());
        here.touch_keys(&[("b".to_owned(), i64::MAX)]).await.unwrap();
        assert_eq!(there.keys_version().await.unwrap(), before, "nothing has changed");
    }
}

#[tokio::test]
async fn changes_by_several_nodes_at_once_are_all_kept() {
    for opened in stores().await {
        let nodes = [opened.store.clone(), opened.again().await];
        let inserts = (0..20).map(|number| {
            let store = nodes[number % 2].clone();
            async move { store.insert_key(&bare_key("same"), &note()).await.unwrap() }
        });
        let inserted = futures_util::future::join_all(inserts).await;
        assert_eq!(inserted.iter().filter(|is_new| **is_new).count(), 1);

        let updates = (0..40).map(|number| {
            let store = nodes[number % 2].clone();
            async move {
                let longer = |key: Key| Key { note: Some(key.note.unwrap_or_default() + "x"), ..key };
                store.update_key("same", &longer, &noted).await.unwrap().unwrap();
            }
        });
        futures_util::future::join_all(updates).await;
        let keys = nodes[0].keys().await.unwrap();
        assert_eq!(keys[0].note.as_deref(), Some("x".repeat(40).as_str()));
    }
}

#[tokio::test]
async fn the_last_use_of_keys_only_goes_forward() {
    for Opened { store, .. } in stores().await {
        store.insert_key(&bare_key("a"), &note()).await.unwrap();
        store.insert_key(&bare_key("b"), &note()).await.unwrap();
        let used = |a: i64, b: i64| {
            [("a".to_owned(), a), ("gone".to_owned(), 7), ("b".to_owned(), b), ("a".to_owned(), 1)]
        };
        for (a, b, expected) in [(50, 60, [50, 60]), (40, 70, [50, 70]), (51, 70, [51, 70])] {
            store.touch_keys(&used(a, b)).await.unwrap();
            let keys = store.keys().await.unwrap();
            assert_eq!(keys.iter().filter_map(|key| key.last_used_ms).collect::<Vec<_>>(), expected);
        }
        store.touch_keys(&[]).await.unwrap();
        let many: Vec<_> = (0..2500).map(|number| (format!("key-{number}"), 5)).collect();
        store.touch_keys(&many).await.unwrap();
    }
}

#[tokio::test]
async fn switches_of_models_are_kept_and_every_one_is_told_to_others() {
    for opened in stores().await {
        let (here, there) = (&opened.store, opened.again().await);
        assert!(here.models().await.unwrap().is_empty());
        let mut version = there.models_version().await.unwrap();
        let keys_version = there.keys_version().await.unwrap();
        let off = ModelSwitch {
            model: "b/Łódź'; drop table models".to_owned(),
            disabled: true,
            since_ms: Some(1_700_000_000_000),
            note: Some("a\nb".to_owned()),
        };
        let on = ModelSwitch { model: "a".to_owned(), ..ModelSwitch::default() };
        for (expected, before) in [(&off, None), (&on, None), (&on, Some(on.clone()))] {
            let change = |seen| {
                assert_eq!(seen, before);
                ModelSwitch { model: "another name".to_owned(), ..expected.clone() }
            };
            let told = here.switch_model(&expected.model, &change, &noted).await.unwrap();
            assert_eq!(told, (before.clone(), expected.clone()));
            let now = there.models_version().await.unwrap();
            assert_ne!(version, now);
            version = now;
        }
        assert_eq!(there.models().await.unwrap(), [on, off.clone()]);
        assert_eq!(there.keys_version().await.unwrap(), keys_version, "keys are another matter");

        let flip = |model: Option<ModelSwitch>| ModelSwitch { disabled: false, ..model.unwrap() };
        let (_, flipped) = there.switch_model(&off.model, &flip, &noted).await.unwrap();
        assert_eq!(flipped, ModelSwitch { disabled: false, ..off });
        assert_eq!(opened.again().await.models().await.unwrap()[1], flipped);
    }
}

#[tokio::test]
async fn long_names_and_notes_of_switches_are_kept_whole() {
    for opened in stores().await {
        let expected = ModelSwitch {
            model: "ż".repeat(500),
            disabled: true,
            since_ms: Some(5),
            note: Some("ż\n".repeat(1000)),
        };
        let change =
            |_| ModelSwitch { note: Some(format!("\0{}\0", "ż\n".repeat(1000))), ..expected.clone() };
        let (_, after) = opened.store.switch_model(&expected.model, &change, &noted).await.unwrap();
        assert_eq!(opened.again().await.models().await.unwrap(), std::slice::from_ref(&expected));
        assert_eq!(after, expected, "what is told is what is kept");
    }
}

#[tokio::test]
async fn switches_by_several_nodes_at_once_are_all_kept() {
    for opened in stores().await {
        let nodes = [opened.store.clone(), opened.again().await];
        let longer = |model: Option<ModelSwitch>| {
            let model = model.unwrap_or_default();
            ModelSwitch { note: Some(model.note.unwrap_or_default() + "x"), ..model }
        };
        let switches = (0..40).map(|number| nodes[number % 2].switch_model("m", &longer, &noted));
        futures_util::future::join_all(switches).await;
        assert_eq!(nodes[0].models().await.unwrap()[0].note.as_deref(), Some("x".repeat(40).as_str()));
    }
}

async fn total(opened: &Opened) -> UsageRow {
    let rows = opened.store.usage(&UsageQuery::default()).await.unwrap();
    assert_eq!(rows.len(), 1);
    rows[0].clone()
}

#[tokio::test]
async fn a_record_that_is_written_twice_counts_once() {
    for opened in stores().await {
        let store = &opened.store;
        assert_eq!(total(&opened).await, UsageRow::default());
        let batch: Vec<UsageRecord> =
            (0..1200).map(|number| record(&format!("r{number}"), number * 1000)).collect();
        store.record(&batch).await.unwrap();
        store.record(&batch).await.unwrap();
        store
            .record(&[batch[3].clone(), record("new", 3), record("new", 3), batch[4].clone()])
            .await
            .unwrap();
        let row = total(&opened).await;
        assert_eq!((row.requests, row.input_tokens), (1201, 120_100));

        // The id is what a caller says: another request is another one.
        let other = UsageRecord { mark: 1, ..record("new", 3) };
        store.record(&[other, record("new", 4)]).await.unwrap();
        assert_eq!(total(&opened).await.requests, 1203);
        store.record(&[]).await.unwrap();
    }
}

#[tokio::test]
async fn whatever_a_record_holds_can_be_written() {
    for opened in stores().await {
        let odd = UsageRecord {
            id: "a\0b'; drop table keys; --".into(),
            mark: u64::MAX,
            time_ms: -5,
            model: Some("ż\0".repeat(5000).into()),
            input_tokens: u64::MAX,
            cached_input_tokens: u64::MAX,
            total_ms: u64::MAX,
            first_token_ms: Some(u64::MAX),
            attempts: u32::MAX,
            cost: Some(f64::INFINITY),
            ..record("", 0)
        };
        let nan = UsageRecord { cost: Some(f64::NAN), time_ms: i64::MAX / 2, ..odd.clone() };
        for batch in [vec![odd.clone(), nan.clone()], vec![nan, odd]] {
            opened.store.record(&batch).await.unwrap();
            assert_eq!(total(&opened).await.requests, 2);
        }
    }
}

#[tokio::test]
async fn usage_says_how_requests_ended_and_what_they_cost() {
    for opened in stores().await {
        let base = |id: &str| record(id, 1000);
        let records = [
            base("a"),
            UsageRecord {
                ending: Ending::Cancelled,
                source: UsageSource::Estimated,
                cost: None,
                ..base("b")
            },
            UsageRecord { ending: Ending::Cut, ..base("c") },
            UsageRecord {
                ending: Ending::Failed,
                input_tokens: 0,
                output_tokens: 0,
                cost: None,
                ..base("d")
            },
        ];
        opened.store.record(&records).await.unwrap();
        let row = total(&opened).await;
        let expected = UsageRow {
            requests: 4,
            input_tokens: 300,
            output_tokens: 30,
            cached_input_tokens: 80,
            reasoning_tokens: 20,
            cost: 0.003,
            unpriced: 1,
            estimated: 1,
            cancelled: 1,
            failed: 1,
            cut: 1,
            total_ms: 3600,
            ..UsageRow::default()
        };
        assert_eq!(row, expected);
    }
}

#[tokio::test]
async fn days_are_those_of_the_zone() {
    // Clocks go forward in Warsaw on 2026-03-29, back on 2026-10-25; Kolkata is five and a half hours ahead.
    let times = [
        "2026-03-28T22:59:59Z",
        "2026-03-28T23:00:00Z",
        "2026-03-29T21:59:59Z",
        "2026-03-29T22:00:00Z",
        "2026-10-24T21:59:59Z",
        "2026-10-24T22:00:00Z",
        "2026-10-25T22:59:59Z",
        "2026-10-25T23:00:00Z",
        "2026-05-01T18:29:59Z",
        "2026-05-01T18:30:00Z",
    ];
    for Opened { store, .. } in stores().await {
        let records: Vec<UsageRecord> =
            times.iter().enumerate().map(|(number, time)| record(&format!("r{number}"), ms(time))).collect();
        store.record(&records).await.unwrap();
        for (zone, expected) in [
            (
                "Europe/Warsaw",
                vec![
                    ("2026-03-28", 1),
                    ("2026-03-29", 2),
                    ("2026-03-30", 1),
                    ("2026-05-01", 2),
                    ("2026-10-24", 1),
                    ("2026-10-25", 2),
                    ("2026-10-26", 1),
                ],
            ),
            (
                "Asia/Kolkata",
                vec![
                    ("2026-03-29", 2),
                    ("2026-03-30", 2),
                    ("2026-05-01", 1),
                    ("2026-05-02", 1),
                    ("2026-10-25", 2),
                    ("2026-10-26", 2),
                ],
            ),
        ] {
            let zone = Zone::named(zone).unwrap();
            let query = UsageQuery { by: vec![By::Day], zone, ..UsageQuery::default() };
            let rows = store.usage(&query).await.unwrap();
            let days: Vec<_> = rows.iter().map(|row| (row.day.as_deref().unwrap(), row.requests)).collect();
            assert_eq!(days, expected);
        }
    }
}

/// What names a row of the answer, in its order.
fn name_of(record: &UsageRecord, by: &[By], zone: &str) -> Vec<String> {
    let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    let name = |by: &By| match by {
        By::Hour => format!("{:020}", record.time_ms - record.time_ms % HOUR),
        By::Day => {
            let zone = TimeZone::get(zone).unwrap();
            Timestamp::from_millisecond(record.time_ms).unwrap().to_zoned(zone).date().to_string()
        }
        By::Model => text(&record.model),
        By::Key => text(&record.key),
        By::Owner => text(&record.owner),
        By::Provider => text(&record.provider),
        By::Endpoint => record.endpoint.to_string(),
        By::Prompt => text(&record.prompt),
        By::Outcome => record.ending.as_str().to_owned(),
    };
    by.iter().map(name).collect()
}

fn name_of_row(row: &UsageRow, by: &[By]) -> Vec<String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let name = |by: &By| match by {
        By::Hour => format!("{:020}", row.hour_ms.unwrap()),
        By::Day => row.day.clone().unwrap(),
        By::Model => text(&row.model),
        By::Key => text(&row.key),
        By::Owner => text(&row.owner),
        By::Provider => text(&row.provider),
        By::Endpoint => text(&row.endpoint),
        By::Prompt => text(&row.prompt),
        By::Outcome => text(&row.outcome),
    };
    by.iter().map(name).collect()
}

/// What a reader with pencil and paper would find.
type Plain = BTreeMap<Vec<String>, PlainSums>;
type PlainSums = (u64, u64, u64, i64, u64);

fn plain(records: &[UsageRecord], query: &UsageQuery, zone: &str) -> Plain {
    let is = |wanted: &Option<String>, found: &Option<Arc<str>>| {
        wanted.is_none() || wanted.as_deref() == found.as_deref()
    };
    let mut plain = Plain::new();
    for record in records {
        let counts = (query.from_ms..query.to_ms).contains(&record.time_ms)
            && is(&query.key, &record.key)
            && is(&query.owner, &record.owner)
            && is(&query.model, &record.model);
        if counts {
            let sums = plain.entry(name_of(record, &query.by, zone)).or_default();
            sums.0 += 1;
            sums.1 += record.input_tokens;
            sums.2 += record.output_tokens;
            #[expect(clippy::cast_possible_truncation, reason = "small sums of money")]
            let cost = (record.cost.unwrap_or(0.0) * 1e9).round() as i64;
            sums.3 += cost;
            sums.4 += u64::from(record.ending == Ending::Cancelled);
        }
    }
    plain
}

fn plain_of(rows: &[UsageRow], by: &[By]) -> Vec<(Vec<String>, PlainSums)> {
    rows.iter()
        .map(|row| {
            #[expect(clippy::cast_possible_truncation, reason = "small sums of money")]
            let cost = (row.cost * 1e9).round() as i64;
            (name_of_row(row, by), (row.requests, row.input_tokens, row.output_tokens, cost, row.cancelled))
        })
        .collect()
}

#[tokio::test]
async fn sums_by_the_hour_tell_the_same_as_the_records_would() {
    const BYS: [By; 9] = [
        By::Hour,
        By::Day,
        By::Model,
        By::Key,
        By::Owner,
        By::Provider,
        By::Endpoint,
        By::Prompt,
        By::Outcome,
    ];
    const ZONES: [&str; 6] =
        ["UTC", "Europe/Warsaw", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns"];
    let (from, to) = (ms("2026-03-24T10:20:30Z"), ms("2026-04-06T07:08:09Z"));
    let mut chance = Chance::new(7);
    let records: Vec<UsageRecord> =
        (0..3000).map(|number| any_record(&mut chance, number, from, to)).collect();
    for Opened { store, url, .. } in stores().await {
        for batch in records.chunks(700) {
            store.record(batch).await.unwrap();
        }
        let mut chance = Chance::new(11);
        for round in 0..120 {
            let zone = chance.of(&ZONES);
            let some = |chance: &mut Chance, names: &[&str]| {
                (chance.below(3) == 0).then(|| chance.of(names).to_owned())
            };
            let mut by = BYS.to_vec();
            by.retain(|_| chance.below(3) == 0);
            let begin = chance.time(from - DAY, to);
            let query = UsageQuery {
                from_ms: begin,
                to_ms: chance.of(&[begin + 1000, begin + HOUR, begin + 30 * HOUR, to + DAY, i64::MAX]),
                by,
                zone: Zone::named(zone).unwrap(),
                key: some(&mut chance, &["key-1", "key-2"]),
                owner: some(&mut chance, &["ann", "bob"]),
                model: some(&mut chance, &["fast", "Ärger"]),
                ..UsageQuery::default()
            };
            let mut expected = plain(&records, &query, zone);
            if query.by.is_empty() {
                expected.entry(Vec::new()).or_default();
            }
            let expected: Vec<_> = expected.into_iter().collect();
            let rows = plain_of(&store.usage(&query).await.unwrap(), &query.by);
            assert_eq!(rows, expected, "round {round} of {url}: {query:?}");

            let few = UsageQuery { limit: 5, ..query.clone() };
            let rows = plain_of(&store.usage(&few).await.unwrap(), &query.by);
            assert_eq!(rows, expected[..expected.len().min(5)], "limited round {round} of {url}: {query:?}");
        }
    }
}

fn spent_in(records: &[UsageRecord], whose: &Whose, since_ms: i64) -> Spent {
    let is_whose = |record: &&UsageRecord| match whose {
        Whose::Key(key) => record.key.as_deref() == Some(&**key),
        Whose::Owner(owner) => record.owner.as_deref() == Some(&**owner),
    };
    let of = records.iter().filter(|record| record.time_ms >= since_ms).filter(is_whose);
    of.fold(Spent::default(), |spent, record| Spent {
        tokens: spent.tokens + record.input_tokens + record.output_tokens,
        money: spent.money + record.cost.unwrap_or(0.0),
    })
}

async fn compare_spent(store: &dyn Store, records: &[UsageRecord], since_ms: i64) {
    let all = store.all_spent(since_ms).await.unwrap();
    let keys = ["key-1", "key-2", "key-3"].map(|key| Whose::Key(key.into()));
    let owners = ["ann", "bob"].map(|owner| Whose::Owner(owner.into()));
    let mut named = 0;
    for whose in keys.into_iter().chain(owners) {
        let (spent, expected) =
            (store.spent(&whose, since_ms).await.unwrap(), spent_in(records, &whose, since_ms));
        assert_eq!(spent.tokens, expected.tokens, "{whose:?} since {since_ms}");
        assert!((spent.money - expected.money).abs() < 1e-6, "{whose:?} since {since_ms}");
        named += usize::from(spent.tokens > 0);
        assert_eq!(all.contains(&(whose, spent)), spent.tokens > 0);
    }
    assert_eq!(all.len(), named);
}

#[tokio::test]
async fn what_was_spent_is_the_sum_of_the_records() {
    let (from, to) = (ms("2026-10-20T00:00:00Z"), ms("2026-11-02T00:00:00Z"));
    let mut chance = Chance::new(3);
    let records: Vec<UsageRecord> =
        (0..2000).map(|number| any_record(&mut chance, number, from, to)).collect();
    for Opened { store, .. } in stores().await {
        store.record(&records).await.unwrap();
        for zone in ["UTC", "Europe/Warsaw", "Asia/Kolkata", "Asia/Kathmandu"] {
            for period in [Period::Day, Period::Week, Period::Month] {
                let (since, _) = Zone::named(zone).unwrap().around(period, to - 1);
                compare_spent(&*store, &records, since).await;
            }
        }
        compare_spent(&*store, &records, to - 1).await;
        let nobody = store.spent(&Whose::Owner("nobody".into()), 0).await.unwrap();
        assert_eq!(nobody, Spent::default());
    }
}

#[tokio::test]
async fn old_records_are_forgotten_and_their_sums_stay() {
    let now = ms("2026-11-21T10:30:00Z");
    for opened in stores().await {
        let store = &opened.store;
        let records: Vec<UsageRecord> =
            (0..200).map(|number| record(&format!("r{number}"), now - number * HOUR)).collect();
        store.record(&records).await.unwrap();
        assert_eq!(store.tidy(now, 100 * HOUR).await.unwrap(), 99);
        assert_eq!(store.tidy(now, 100 * HOUR).await.unwrap(), 0);
        assert_eq!(total(&opened).await.requests, 200);

        // Records are at half past. Of an hour that has its records a part can be told, of others the whole alone.
        let of = async |from_ms: i64, to_ms: i64| {
            let query = UsageQuery { from_ms, to_ms, ..UsageQuery::default() };
            store.usage(&query).await.unwrap()[0].requests
        };
        let (young, old) = (now - 10 * HOUR, now - 150 * HOUR);
        assert_eq!((of(young - 1, young).await, of(young, young + 1).await), (0, 1));
        assert_eq!((of(old - 30 * 60_000, old).await, of(old, old + 1).await), (1, 0));
        assert_eq!(of(old - 1, now + 1).await, 150, "the hour before counts where it begins");

        // One that arrives late counts with the sums.
        store.record(&[record("late", old)]).await.unwrap();
        assert_eq!(total(&opened).await.requests, 201);
        assert_eq!(of(old - 30 * 60_000, old).await, 2);
    }
}

#[tokio::test]
async fn changes_are_noted_the_last_first() {
    for Opened { store, .. } in stores().await {
        let entry = |number: i64| AuditEntry {
            time_ms: number,
            actor: "admin".to_owned(),
            peer: (number > 2).then(|| "192.0.2.1".to_owned()),
            action: "key.create".to_owned(),
            subject: format!("key-{number}"),
            detail: json!({"name": "Łódź", "number": number}),
        };
        for number in 0..7 {
            store.audit(&entry(number)).await.unwrap();
        }
        let first = store.audits(None, 3).await.unwrap();
        let second = store.audits(Some(first[2].number), 100).await.unwrap();
        let found: Vec<AuditEntry> = first.iter().chain(&second).map(|audit| audit.entry.clone()).collect();
        assert_eq!(found, (0..7).rev().map(entry).collect::<Vec<_>>());
        assert!(store.audits(Some(first[0].number - 6), 5).await.unwrap().is_empty());
    }
}

/// Runs a statement on the database as somebody else.
async fn meddle(opened: &Opened, sql: &'static str) {
    if opened.postgres.is_some() {
        PgConnection::connect(&opened.url).await.unwrap().execute(sql).await.unwrap();
    } else {
        let path = opened.folder.path().join("data/usage.db");
        let mut file = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
        file.execute(sql).await.unwrap();
    }
}

#[tokio::test]
async fn an_act_is_kept_together_with_its_note_or_not_at_all() {
    for opened in stores().await {
        let store = &opened.store;
        let off = |_| ModelSwitch { disabled: true, ..ModelSwitch::default() };
        let renamed = |key: Key| Key { name: "other".to_owned(), ..key };
        let told =
            |before: &Key, after: &Key| AuditEntry { detail: json!([before.name, after.name]), ..note() };
        let switched = |before: &ModelSwitch, after: &ModelSwitch| AuditEntry {
            detail: json!([before.disabled, after.disabled]),
            ..note()
        };
        let key = Key { name: "one".to_owned(), ..bare_key("a") };
        store.insert_key(&key, &note()).await.unwrap();
        store.update_key("a", &renamed, &told).await.unwrap().unwrap();
        store.switch_model("m", &off, &switched).await.unwrap();
        store.insert_key(&key, &note()).await.unwrap();
        store.delete_key("gone", &note()).await.unwrap();
        store.update_key("gone", &renamed, &told).await.unwrap();
        let notes = store.audits(None, 10).await.unwrap();
        let details: Vec<_> = notes.iter().map(|audit| audit.entry.detail.clone()).collect();
        assert_eq!(
            details,
            [json!([false, true]), json!(["one", "other"]), json!(null)],
            "what is done is noted"
        );

        meddle(&opened, "alter table audit rename to elsewhere").await;
        let on = |_| ModelSwitch::default();
        store.insert_key(&bare_key("b"), &note()).await.map(drop).unwrap_err();
        store
            .update_key("a", &|key| Key { name: "third".to_owned(), ..key }, &told)
            .await
            .map(drop)
            .unwrap_err();
        store.delete_key("a", &note()).await.map(drop).unwrap_err();
        store.switch_model("m", &on, &switched).await.map(drop).unwrap_err();
        let keys = store.keys().await.unwrap();
        assert_eq!(keys.iter().map(|key| &*key.name).collect::<Vec<_>>(), ["other"]);
        assert!(store.models().await.unwrap()[0].disabled, "what cannot be noted is not done");
    }
}

#[tokio::test]
async fn everything_is_there_again_after_the_store_is_opened_anew() {
    for opened in stores().await {
        opened.store.insert_key(&key("a"), &note()).await.unwrap();
        opened.store.record(&[record("r", 5)]).await.unwrap();
        let (keys, usage) = (opened.store.keys().await.unwrap(), total(&opened).await);
        let again = opened.again().await;
        assert_eq!(again.keys().await.unwrap(), keys);
        assert_eq!(again.usage(&UsageQuery::default()).await.unwrap(), [usage]);
    }
}

#[tokio::test]
async fn several_processes_may_open_a_new_store_at_once() {
    for opened in stores().await {
        // A server's tables are there already after the first round; a file is a new one each time.
        for round in 0..20 {
            let url = opened.url.replace("usage.db", &format!("other-{round}.db"));
            let all = futures_util::future::join_all((0..6).map(|_| store::open(&url))).await;
            let failed: Vec<_> = all.iter().filter_map(|opened| opened.as_ref().err()).collect();
            assert!(failed.is_empty(), "{failed:?}");
        }
    }
}

#[tokio::test]
async fn files_of_a_store_are_for_its_user_alone() {
    let opened = sqlite().await;
    opened.store.record(&[record("r", 5)]).await.unwrap();
    let mode = |path: &str| {
        let path = opened.folder.path().join(path);
        let metadata = std::fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("data"), 0o700);
    for file in ["data/usage.db", "data/usage.db-wal", "data/usage.db-shm"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_used_says_why() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(
        path("text.db"),
        "this is a text and no database at all, and long enough to tell".repeat(9),
    )
    .unwrap();
    std::fs::create_dir(path("folder.db")).unwrap();
    let whole = sqlite().await;
    let batch: Vec<UsageRecord> =
        (0..5000).map(|number| record(&format!("r{number}"), number * HOUR)).collect();
    whole.store.record(&batch).await.unwrap();
    let mut other = SqliteConnection::connect(&whole.url).await.unwrap();
    other.execute("pragma wal_checkpoint(truncate)").await.unwrap();
    let mut bytes = std::fs::read(whole.folder.path().join("data/usage.db")).unwrap();
    bytes[100..8192].fill(0x5a);
    std::fs::write(path("damaged.db"), bytes).unwrap();
    for (name, words) in [
        ("text.db", "not a database"),
        ("folder.db", "cannot be opened"),
        ("text.db/x.db", "cannot be made"),
        ("damaged.db", "damaged"),
    ] {
        let url = format!("sqlite://{}", path(name).display());
        let error = store::open(&url).await.map(drop).unwrap_err();
        assert!(!error.is_away(), "{error}");
        assert!(error.to_string().contains(words), "{name}: {error}");
        assert!(!error.to_string().to_lowercase().contains("select"), "{error}");
    }
    for url in ["mysql://u:planted@h/d", "sqlite://", "sqlite://:memory:", "sqlite://x?mode=planted"] {
        let error = store::open(url).await.map(drop).unwrap_err().to_string();
        assert!(error.contains("URL") && !error.contains("planted"), "{error}");
    }
}
