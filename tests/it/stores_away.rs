//! Databases that hang, die and come back, and the recorder that nobody waits for meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use llm_proxy_api::accounts::{Accounts, Actor};
use llm_proxy_api::callers::{Change, KeyRing, NewKey, UsageRecord};
use llm_proxy_api::store::{self, MOST_WAITING, Recorder, Store, UsageQuery};
use llm_proxy_api::telemetry::Metrics;
use sqlx::{Connection as _, Executor as _, PgConnection, SqliteConnection};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::stores::{Opened, bare_key, note, postgres, record, sqlite, stores};
use crate::support::{Setup, eventually};

/// A recorder and what belongs to it.
struct Recording {
    recorder: Recorder,
    metrics: Metrics,
    end: CancellationToken,
    task: JoinHandle<()>,
    used_ms: Arc<AtomicI64>,
}

fn recording(store: &Arc<dyn Store>) -> Recording {
    let (metrics, end, used_ms) = (Metrics::default(), CancellationToken::new(), Arc::new(AtomicI64::new(0)));
    let used = used_ms.clone();
    let touched = Arc::new(move || match used.load(Ordering::Relaxed) {
        0 => Vec::new(),
        used_ms => vec![("a".to_owned(), used_ms)],
    });
    let (recorder, task) = Recorder::start(store.clone(), metrics.clone(), touched, end.clone());
    Recording { recorder, metrics, end, task: tokio::spawn(task), used_ms }
}

async fn requests(store: &Arc<dyn Store>) -> u64 {
    store.usage(&UsageQuery::default()).await.unwrap()[0].requests
}

fn numbered(number: u64) -> UsageRecord {
    record(&format!("r{number}"), i64::try_from(number).unwrap())
}

#[tokio::test]
async fn a_server_that_hangs_is_away_within_seconds_and_works_again_after() {
    let Some(Opened { store, url, postgres: Some(server), .. }) = postgres().await else { return };
    store.insert_key(&bare_key("a"), &note()).await.unwrap();
    store.keys().await.unwrap();
    server.stop();
    let began = Instant::now();
    let (keys, version, insert, write, usage, open) = tokio::join!(
        async { store.keys().await.map(drop) },
        async { store.keys_version().await.map(drop) },
        async { store.insert_key(&bare_key("b"), &note()).await.map(drop) },
        async { store.record(&[numbered(1)]).await },
        async { store.usage(&UsageQuery::default()).await.map(drop) },
        async { store::open(&url).await.map(drop) },
    );
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    for answer in [keys, version, insert, write, usage, open] {
        let error = answer.unwrap_err();
        assert!(error.is_away(), "{error}");
        assert!(
            !error.to_string().contains("127.0.0.1") && !error.to_string().contains("a-secret"),
            "{error}"
        );
    }
    server.go_on();
    eventually("it answers again", async || store.keys().await.is_ok()).await;
    assert_eq!(store.keys().await.unwrap().len(), 1);
    store.record(&[numbered(1)]).await.unwrap();
    assert_eq!(requests(&store).await, 1);
}

#[tokio::test]
async fn a_server_that_dies_is_away_and_works_again_after() {
    let Some(Opened { store, url, postgres: Some(mut server), .. }) = postgres().await else { return };
    store.insert_key(&bare_key("a"), &note()).await.unwrap();
    server.kill();
    let began = Instant::now();
    let error = store.keys_version().await.unwrap_err();
    assert!(error.is_away(), "{error}");
    assert!(store::open(&url).await.unwrap_err().is_away());
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    server.run();
    assert_eq!(store.keys().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_password_or_a_database_that_is_wrong_is_not_away() {
    let Some(Opened { url, postgres: Some(_server), .. }) = postgres().await else { return };
    for (url, words) in [
        (url.replace("/postgres", "/nowhere"), "no database of that name"),
        (url.replace("gateway", "nobody"), "the user or the password"),
    ] {
        // The scheme has the same name as the database.
        let url = url.replacen("/nowhere://", "/postgres://", 1);
        let error = store::open(&url).await.unwrap_err();
        assert!(!error.is_away() && error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_server_is_reached_through_tls_if_its_certificate_is_trusted() {
    let Some(Opened { url, postgres: Some(mut server), .. }) = postgres().await else { return };
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = server.encrypt(&made.cert.pem(), &made.signing_key.serialize_pem());
    let url = url.replace("127.0.0.1", "localhost");
    let with = |mode: &str| format!("{url}?sslmode={mode}");
    let checked = format!("{}&sslrootcert={}", with("verify-full"), file.display());
    for url in [with("require"), checked.clone()] {
        let store = store::open(&url).await.unwrap();
        store.record(&[record(&url, 1)]).await.unwrap();
        assert!(requests(&store).await > 0);
    }
    for (url, words) in [
        (with("verify-full"), "its certificate is not trusted"),
        (checked.replace("localhost", "127.0.0.1"), "its certificate is not trusted"),
        (with("disable"), "the user or the password"),
    ] {
        let error = store::open(&url).await.unwrap_err();
        assert!(!error.is_away() && error.to_string().contains(words), "{url}: {error}");
    }
}

#[tokio::test]
async fn a_file_that_another_program_holds_is_away_within_seconds() {
    let opened = sqlite().await;
    let mut other = SqliteConnection::connect(&opened.url).await.unwrap();
    other.execute("begin immediate").await.unwrap();
    let began = Instant::now();
    let error = opened.store.insert_key(&bare_key("a"), &note()).await.map(drop).unwrap_err();
    assert!(error.is_away() && error.to_string().contains("another program"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(opened.store.keys().await.is_ok(), "who reads does not wait");
    other.execute("rollback").await.unwrap();
    assert!(opened.store.insert_key(&bare_key("a"), &note()).await.unwrap());
}

#[tokio::test]
async fn records_are_written_soon_and_flushed_at_once() {
    for Opened { store, postgres: _server, .. } in stores().await {
        store.insert_key(&bare_key("a"), &note()).await.unwrap();
        let recording = recording(&store);
        recording.recorder.record(numbered(0));
        let began = Instant::now();
        eventually("the record is written", async || requests(&store).await == 1).await;
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());

        (1..2000).for_each(|number| recording.recorder.record(numbered(number)));
        recording.used_ms.store(77, Ordering::Relaxed);
        recording.recorder.flush(Duration::from_secs(10)).await.unwrap();
        assert_eq!(requests(&store).await, 2000);
        assert_eq!(store.keys().await.unwrap()[0].last_used_ms, Some(77));
        assert_eq!(recording.metrics.usage_written.get(), 2000);
        assert_eq!((recording.recorder.state().waiting, recording.metrics.usage_waiting.get()), (0, 0));
        assert!(recording.recorder.is_well());
    }
}

#[tokio::test]
async fn the_end_loses_nothing() {
    for Opened { store, postgres: _server, .. } in stores().await {
        store.insert_key(&bare_key("a"), &note()).await.unwrap();
        let recording = recording(&store);
        recording.used_ms.store(5, Ordering::Relaxed);
        (0..1700).for_each(|number| recording.recorder.record(numbered(number)));
        recording.end.cancel();
        recording.task.await.unwrap();
        assert_eq!(requests(&store).await, 1700);
        assert_eq!(store.keys().await.unwrap()[0].last_used_ms, Some(5));
        recording.recorder.record(numbered(5000));
        assert_eq!(recording.metrics.usage_dropped.get(), 1, "nobody writes it any more, and that is told");
        assert_eq!(recording.recorder.flush(Duration::from_secs(5)).await, Ok(()), "nothing waits");
    }
}

#[tokio::test]
async fn what_was_used_while_the_server_was_dead_arrives_complete_and_once() {
    let Some(Opened { store, postgres: Some(mut server), .. }) = postgres().await else { return };
    let recording = recording(&store);
    let recorder = &recording.recorder;
    let mut number = 0;
    let mut some = |count: u64| {
        (number..number + count).for_each(|number| recorder.record(numbered(number)));
        number += count;
    };
    some(700);
    // In the middle of writing.
    tokio::time::sleep(Duration::from_millis(260)).await;
    some(900);
    server.kill();
    some(5000);
    eventually("it is noticed", async || !recorder.is_well()).await;
    assert!(recorder.flush(Duration::from_millis(300)).await.unwrap_err() >= 5000);
    let state = recorder.state();
    assert!(state.error.unwrap().contains("write usage") && state.waiting >= 5000);
    server.run();
    some(300);
    eventually("it is noticed", async || recorder.is_well()).await;
    recorder.flush(Duration::from_secs(15)).await.unwrap();
    assert_eq!(requests(&store).await, 6900);
    assert_eq!(recording.metrics.usage_dropped.get(), 0);
}

#[tokio::test]
async fn what_was_used_while_the_server_hung_arrives_complete_and_once() {
    let Some(Opened { store, postgres: Some(server), .. }) = postgres().await else { return };
    let recording = recording(&store);
    (0..3000).for_each(|number| recording.recorder.record(numbered(number)));
    server.stop();
    eventually("it is noticed", async || !recording.recorder.is_well()).await;
    server.go_on();
    recording.recorder.flush(Duration::from_secs(15)).await.unwrap();
    assert_eq!(requests(&store).await, 3000);
}

#[tokio::test]
async fn more_than_can_be_kept_is_lost_and_counted_and_nobody_waits() {
    let opened = sqlite().await;
    let mut other = SqliteConnection::connect(&opened.url).await.unwrap();
    other.execute("begin immediate").await.unwrap();
    let recording = recording(&opened.store);
    let (most, began) = (MOST_WAITING as u64, Instant::now());
    (0..most + 123).for_each(|number| recording.recorder.record(numbered(number)));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(recording.metrics.usage_dropped.get(), 123);
    assert_eq!(recording.recorder.state().waiting, MOST_WAITING);
    eventually("it is noticed", async || !recording.recorder.is_well()).await;
    other.execute("rollback").await.unwrap();
    recording.recorder.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!(requests(&opened.store).await, most);
}

#[tokio::test]
async fn an_end_while_the_database_is_away_does_not_hang() {
    let opened = sqlite().await;
    let mut other = SqliteConnection::connect(&opened.url).await.unwrap();
    other.execute("begin immediate").await.unwrap();
    let recording = recording(&opened.store);
    (0..10).for_each(|number| recording.recorder.record(numbered(number)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    recording.end.cancel();
    tokio::time::timeout(Duration::from_secs(8), recording.task).await.unwrap().unwrap();
    assert_eq!(recording.metrics.usage_dropped.get(), 10);
}

#[tokio::test]
async fn nodes_that_write_at_once_do_not_get_in_each_others_way() {
    for opened in stores().await {
        let nodes = [opened.store.clone(), opened.again().await, opened.again().await];
        let writes = (0_u64..30).map(|batch| {
            let store = nodes[usize::try_from(batch % 3).unwrap()].clone();
            let records: Vec<UsageRecord> = (0..200)
                .map(|number| UsageRecord {
                    model: Some(format!("model-{}", (number * 7 + batch) % 40).into()),
                    key: Some(format!("key-{}", (number * 11 + batch * 3) % 50).into()),
                    ..record(&format!("r{batch}-{number}"), 1000)
                })
                .collect();
            async move { store.record(&records).await }
        });
        let written = futures_util::future::join_all(writes).await;
        assert!(written.iter().all(Result::is_ok), "{written:?}");
        assert_eq!(requests(&opened.store).await, 6000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_revoked_within_a_second_though_switches_hang() {
    let Some(opened) = postgres().await else { return };
    let accounts = Arc::new(Accounts::new(opened.store.clone(), Arc::new(KeyRing::default())));
    let mut keys = Vec::new();
    for _ in 0..3 {
        let new = NewKey { name: "k".to_owned(), ..NewKey::default() };
        keys.push(accounts.create(Actor::Cli, new).await.unwrap());
    }
    let gateway = Setup::new().env("AUTH", "keys").env("DATABASE_URL", &opened.url).start();
    let mut holding = PgConnection::connect(&opened.url).await.unwrap();
    holding.execute("begin; lock table models in access exclusive mode").await.unwrap();
    let mut other = PgConnection::connect(&opened.url).await.unwrap();
    other.execute("update marks set value = value + 1 where name = 'models_version'").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    for (key, secret) in keys {
        let status = async || {
            gateway.get("/v1/models").bearer_auth(secret.reveal()).send().await.unwrap().status().as_u16()
        };
        assert_eq!(status().await, 200);
        let off = Change { disabled: Some(true), ..Change::default() };
        accounts.change(Actor::Cli, &key.id, off.into()).await.unwrap();
        let began = Instant::now();
        eventually("it is revoked", async || status().await == 401).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    holding.execute("rollback").await.unwrap();
}

#[tokio::test]
async fn keys_are_taken_over_though_switches_cannot_be_read() {
    let Opened { store, folder, .. } = sqlite().await;
    let ring = Arc::new(KeyRing::default());
    let accounts = Accounts::new(store.clone(), ring.clone());
    accounts.sync().await.unwrap();
    store.insert_key(&bare_key("a"), &note()).await.unwrap();
    let path = folder.path().join("data/usage.db");
    let mut other = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    other.execute("alter table models rename to gone").await.unwrap();
    other.execute("update marks set value = value + 1 where name = 'models_version'").await.unwrap();
    let error = accounts.sync().await.unwrap_err().to_string();
    assert!(error.contains("which models are off"), "{error}");
    assert!(ring.get("a").is_some(), "the key is known all the same");
}
