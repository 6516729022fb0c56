//! Many requests with every kind of end at once: the ledger has each of them, and what it has is what was used.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _, SqliteConnection};

use crate::support::counted::{
    Book, Counted, End, Kind, Plan, Seen, Used, Written, counting, held_against, seed,
};
use crate::support::stores::Chance;
use crate::support::{Gateway, PATIENCE, Setup, Upstream, answer};

const ADMIN: &str = "an-admin-key-of-some-length";
const REQUESTS: u64 = 600;
const AT_ONCE: usize = 50;
/// All at the same time.
const CROWD: u64 = 2000;
/// The first of a crowd to die do so after this.
const FIRST_DEATH: Duration = Duration::from_secs(2);
/// What was written may be so old when a service is killed.
const LAST_SECOND: Duration = Duration::from_secs(1);

fn setup(upstream: &Upstream) -> Setup {
    let providers = json!({"up": {"type": "openai", "base_url": upstream.v1(), "models": {"m": {}}}});
    // Nothing rests for long, and whoever meets a try after a rest waits for it: every request reaches the server.
    let models = json!({"providers": providers, "routing": {"max_cooldown": 0.000_001, "max_wait": 60}});
    Setup::new()
        .env("AUTH", "keys")
        .env("ADMIN_KEY", ADMIN)
        .env("LOG_LEVEL", "ERROR")
        .env("DATABASE_URL", "sqlite://data/ledger.db")
        .models(&models)
}

async fn new_key(gateway: &Gateway) -> String {
    let body = json!({"name": "k", "limits": {"parallel_requests": 5000}});
    let made = answer(gateway.post("/admin/keys", &body).header("x-admin-key", ADMIN)).await.1;
    made["key"].as_str().unwrap().to_owned()
}

fn plan(number: u64) -> Plan {
    let kinds = [Kind::Whole, Kind::Stream, Kind::Died, Kind::Left, Kind::Refused];
    let kind = kinds[usize::try_from(number % 5).unwrap()];
    Plan { number, kind, tokens: number % 7 + 1, pause: Duration::ZERO }
}

fn completion(counted: &Counted) -> u64 {
    counted.lock().unwrap().values().map(|used| used.completion).sum()
}

async fn rows(gateway: &Gateway) -> Value {
    let told = answer(gateway.get("/admin/usage?group_by=model").header("x-admin-key", ADMIN)).await.1;
    told["rows"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_is_what_the_server_counts_however_requests_end() {
    let counted = Counted::default();
    let upstream = counting(counted.clone()).await;
    let mut gateway = setup(&upstream).start();
    let key = new_key(&gateway).await;

    stream::iter(0..REQUESTS)
        .map(|number| plan(number).ask(gateway.http(), gateway.base(), &key))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<Seen>>()
        .await;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    let gateway = gateway.again();

    let row = rows(&gateway).await;
    assert_eq!(row["requests"], REQUESTS, "{row}");
    // Prompts of which nobody reports are estimated, so answers are compared, and what was reported of prompts.
    let prompt: u64 = counted.lock().unwrap().values().map(|used| used.prompt).sum();
    assert_eq!(row["completion_tokens"], completion(&counted), "{row}");
    assert!(row["prompt_tokens"].as_u64().unwrap() > prompt, "{row}");
    assert_eq!(row["cancelled"], REQUESTS / 5, "{row}");
    assert_eq!(row["failed"], REQUESTS / 5 * 2, "{row}");
    assert_eq!(row["estimated_requests"], REQUESTS / 5 * 2, "{row}");
}

#[tokio::test]
async fn a_killed_service_has_written_down_all_but_the_last_second() {
    let counted = Counted::default();
    let upstream = counting(counted.clone()).await;
    let gateway = setup(&upstream).start();
    let key = new_key(&gateway).await;
    for number in (0..200).step_by(5) {
        plan(number).ask(gateway.http(), gateway.base(), &key).await;
    }
    tokio::time::sleep(LAST_SECOND).await;
    // By SIGKILL.
    let gateway = gateway.again();
    let row = rows(&gateway).await;
    assert_eq!(
        (&row["requests"], &row["completion_tokens"]),
        (&json!(40), &json!(completion(&counted))),
        "{row}"
    );
    assert_eq!(answer(gateway.get("/v1/models").bearer_auth(&key)).await.0, 200, "keys are there, too");
}

/// The ledger as it lies on the disk, after a look at whether the file is whole.
async fn book_of(gateway: &Gateway) -> Book {
    let path = gateway.folder.path().join("data/ledger.db");
    let mut file = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let whole = sqlx::query("pragma integrity_check").fetch_one(&mut file).await.unwrap();
    assert_eq!(whole.get::<String, _>(0), "ok");
    let select = "select id, input_tokens, output_tokens from usage_requests";
    let mut book = Book::new();
    for row in sqlx::query(select).fetch_all(&mut file).await.unwrap() {
        let written = Written { prompt: row.get(1), completion: row.get(2) };
        book.entry(row.get(0)).or_default().push(written);
    }
    file.close().await.unwrap();
    book
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_killed_amid_a_crowd_leaves_a_ledger_that_is_whole_and_right() {
    let mut chance = Chance::new(seed());
    let counted = Counted::default();
    let upstream = counting(counted.clone()).await;
    let mut gateway = setup(&upstream).start();
    let key = new_key(&gateway).await;
    let plans: Vec<Plan> = (0..CROWD)
        .map(|number| match Plan::any(number, &mut chance, 4000) {
            plan if number % 10 == 0 => Plan { kind: Kind::Endless, ..plan },
            // After a death the others wait for one that tries: most of them are to be there before.
            plan if plan.kind == Kind::Died => Plan { pause: plan.pause.max(FIRST_DEATH), ..plan },
            plan => plan,
        })
        .collect();

    // However long it takes: who gives up before the server is asked is counted nowhere.
    let patient = reqwest::Client::builder().no_proxy().build().unwrap();
    let asking: Vec<_> = plans
        .iter()
        .map(|plan| {
            let (plan, http, base, key) = (*plan, patient.clone(), gateway.base().to_owned(), key.clone());
            tokio::spawn(async move { plan.ask(&http, &base, &key).await })
        })
        .collect();
    // Two thousand at once are more than the usual patience is for.
    let most = Instant::now() + 6 * PATIENCE;
    while counted.lock().unwrap().len() < plans.len() {
        assert!(Instant::now() < most, "they do not all come: {}", counted.lock().unwrap().len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(2000 + chance.below(1500))).await;
    let killed = Instant::now();
    gateway.signal("KILL");
    gateway.ended().await;
    let mut seen = Vec::new();
    for asked in asking {
        seen.push(asked.await.unwrap());
    }

    let book = book_of(&gateway).await;
    let used = counted.lock().unwrap().clone();
    let certain = held_against(&book, &used, &seen, |one| one.at + LAST_SECOND > killed);
    assert!(certain > 300, "{certain} ended in time");
    let lost = seen.iter().filter(|one| one.end == End::Lost).count();
    assert!(lost as u64 >= CROWD / 10, "{lost} were under way");

    // The sums are those of the records, whoever reads them, and the next ones come on top.
    let gateway = gateway.again();
    let row = rows(&gateway).await;
    let sum: i64 = book.values().flatten().map(|written| written.completion).sum();
    assert_eq!((&row["requests"], &row["completion_tokens"]), (&json!(book.len()), &json!(sum)), "{row}");
    let next = Plan { number: CROWD, ..plan(0) };
    assert_eq!(next.ask(gateway.http(), gateway.base(), &key).await.end, End::Planned);
    let gateway = {
        let mut gateway = gateway;
        gateway.signal("TERM");
        gateway.ended().await;
        gateway
    };
    let again = book_of(&gateway).await;
    assert_eq!(again.len(), book.len() + 1);
    assert_eq!(again[&next.id()], [Written { prompt: 10, completion: 1 }]);
    assert_eq!(counted.lock().unwrap()[&CROWD], Used { prompt: 10, completion: 1, times: 1 });
}
