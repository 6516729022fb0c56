//! Two whole services over one PostgreSQL and one Redis, each killed and started again under load: one limit, one ledger,
//! and keys and models that are the same for both.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::task::JoinHandle;

use crate::support::counted::{Book, Counted, End, Plan, Seen, Written, counting, held_against, seed};
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;
use crate::support::stores::Chance;
use crate::support::{Gateway, PATIENCE, Setup, Upstream, answer};

const ADMIN: &str = "an-admin-key-of-some-length";
/// What one key may ask for in a minute, at both together.
const LIMIT: u64 = 300;
/// What was written may be so old when a service is killed.
const LAST_SECOND: Duration = Duration::from_secs(1);
const KILLS: u64 = 6;
/// Callers at the same time.
const CALLERS: u64 = 16;

fn setup(upstream: &Upstream, postgres: &Postgres, redis: &Redis) -> Setup {
    let up = json!({"type": "openai", "base_url": upstream.v1(), "models": {"m": {}, "other": {}}});
    let models = json!({"providers": {"up": up}, "routing": {"max_cooldown": 0.000_001}});
    Setup::new()
        .env("AUTH", "keys")
        .env("ADMIN_KEY", ADMIN)
        .env("LOG_LEVEL", "ERROR")
        .env("DATABASE_URL", &postgres.url())
        .env("REDIS_URL", &redis.url())
        // A busy machine is no reason for a limit of one's own here.
        .env("REDIS_FAIL", "closed")
        .models(&models)
}

/// A service that is killed and started again, as its callers find it.
struct Node {
    gateway: Option<Gateway>,
    at: Arc<Mutex<Address>>,
    /// When its first process was killed, its second one, and so on.
    kills: Vec<Instant>,
}

/// Where a service is.
#[derive(Clone)]
struct Address {
    base: String,
    http: reqwest::Client,
    /// Which of the node's processes this is.
    process: usize,
}

impl Address {
    fn of(gateway: &Gateway, process: usize) -> Self {
        Self { base: gateway.base().to_owned(), http: gateway.http().clone(), process }
    }

    async fn admin(&self, method: &str, path: &str, body: Value) -> Value {
        let request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.base));
        let request = request.header("x-admin-key", ADMIN).header("content-type", "application/json");
        let (status, told) = answer(request.body(body.to_string())).await;
        assert_eq!(status, 200, "{told}");
        told
    }

    async fn new_key(&self, limits: Value) -> (String, String) {
        let made = self.admin("POST", "/admin/keys", json!({"name": "k", "limits": limits})).await;
        (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
    }

    /// The status of a question that uses nothing.
    async fn status(&self, path: &str, key: &str) -> u16 {
        answer(self.http.get(format!("{}{path}", self.base)).bearer_auth(key)).await.0
    }

    /// How long until that status is there.
    async fn until(&self, path: &str, key: &str, status: u16) -> Duration {
        let began = Instant::now();
        while self.status(path, key).await != status {
            assert!(began.elapsed() < PATIENCE, "{path} never is {status}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        began.elapsed()
    }
}

impl Node {
    fn new(gateway: Gateway) -> Self {
        let at = Arc::new(Mutex::new(Address::of(&gateway, 0)));
        Self { gateway: Some(gateway), at, kills: Vec::new() }
    }

    fn at(&self) -> Address {
        self.at.lock().unwrap().clone()
    }

    /// By SIGKILL. It is away for so long.
    async fn killed(&mut self, away: Duration) {
        let gateway = self.gateway.take().unwrap();
        self.kills.push(Instant::now());
        gateway.signal("KILL");
        tokio::time::sleep(away).await;
        let gateway = tokio::task::spawn_blocking(move || gateway.again()).await.unwrap();
        *self.at.lock().unwrap() = Address::of(&gateway, self.kills.len());
        self.gateway = Some(gateway);
    }

    /// Whether a request may have gone with the last second of the process that has answered it.
    fn may_have_lost(&self, process: usize, one: &Seen) -> bool {
        self.kills.get(process).is_some_and(|kill| one.at + LAST_SECOND > *kill)
    }
}

/// Whose request it was.
#[derive(Clone, Copy, Debug)]
struct Asked {
    node: usize,
    process: usize,
    is_limited: bool,
    seen: Seen,
}

/// Callers who ask either service with either key, one question after the other, until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    /// How often they have asked with the key that is limited.
    limited: Arc<AtomicU64>,
    callers: Vec<JoinHandle<Vec<Asked>>>,
}

/// One of them.
struct Caller {
    stop: Arc<AtomicBool>,
    limited: Arc<AtomicU64>,
    numbers: Arc<AtomicU64>,
    addresses: Vec<Arc<Mutex<Address>>>,
    keys: [String; 2],
    chance: Chance,
}

impl Caller {
    async fn run(mut self) -> Vec<Asked> {
        let mut all = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let asked = self.ask().await;
            // As many as the machine bears beside everything else.
            let is_lost = asked.seen.end == End::Lost;
            let rest = if is_lost { 50 } else { self.chance.below(120) };
            all.push(asked);
            tokio::time::sleep(Duration::from_millis(rest)).await;
        }
        all
    }

    async fn ask(&mut self) -> Asked {
        let node = usize::from(self.chance.below(2) == 1);
        let is_limited = self.chance.below(3) == 0;
        self.limited.fetch_add(u64::from(is_limited), Ordering::Relaxed);
        let plan = Plan::any(self.numbers.fetch_add(1, Ordering::Relaxed), &mut self.chance, 40);
        let at = self.addresses[node].lock().unwrap().clone();
        let seen = plan.ask(&at.http, &at.base, &self.keys[usize::from(is_limited)]).await;
        Asked { node, process: at.process, is_limited, seen }
    }
}

impl Load {
    fn start(nodes: &[Node], keys: &[String; 2], beginning: u64) -> Self {
        let (stop, numbers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let limited = Arc::new(AtomicU64::new(0));
        let caller = |number| Caller {
            stop: stop.clone(),
            limited: limited.clone(),
            numbers: numbers.clone(),
            addresses: nodes.iter().map(|node| node.at.clone()).collect(),
            keys: keys.clone(),
            chance: Chance::new(beginning.wrapping_mul(1000) + number),
        };
        let callers = (0..CALLERS).map(|number| tokio::spawn(caller(number).run())).collect();
        Self { stop, limited, callers }
    }

    async fn end(self) -> Vec<Asked> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for caller in self.callers {
            all.extend(caller.await.unwrap());
        }
        all
    }
}

async fn book_of(postgres: &Postgres) -> Book {
    let mut server = PgConnection::connect(&postgres.url()).await.unwrap();
    let mut book = Book::new();
    let select = "select id, input_tokens, output_tokens from usage_requests";
    for row in sqlx::query(select).fetch_all(&mut server).await.unwrap() {
        let written = Written { prompt: row.get(1), completion: row.get(2) };
        book.entry(row.get(0)).or_default().push(written);
    }
    book
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_services_of_which_one_is_killed_again_and_again_keep_one_limit_and_one_ledger() {
    let (Some(postgres), Some(redis)) = (Postgres::start(), Redis::start()) else { return };
    let beginning = seed();
    let mut chance = Chance::new(beginning);
    let counted = Counted::default();
    let upstream = counting(counted.clone()).await;
    let start = || setup(&upstream, &postgres, &redis).start();
    let mut nodes = [Node::new(start()), Node::new(start())];
    // Made at one, used at both.
    let (_, free) = nodes[0].at().new_key(json!({})).await;
    let (_, limited) = nodes[1].at().new_key(json!({"requests_per_minute": LIMIT})).await;
    for (node, key) in [(&nodes[1], &free), (&nodes[0], &limited)] {
        assert!(node.at().until("/v1/models", key, 200).await < LAST_SECOND);
    }

    let began = Instant::now();
    let load = Load::start(&nodes, &[free, limited], beginning);
    let mut slowest = Duration::ZERO;
    for kill in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(300 + chance.below(1500))).await;
        let node = usize::try_from(kill % 2).unwrap();
        nodes[node].killed(Duration::from_millis(chance.below(400))).await;
        // The one that has just come back is told by the other, and tells it.
        let (from, to) = (nodes[1 - node].at(), nodes[node].at());
        let (from, to) = if chance.below(2) == 0 { (from, to) } else { (to, from) };
        let (id, key) = from.new_key(json!({})).await;
        to.until("/v1/models", &key, 200).await;
        from.admin("PATCH", &format!("/admin/keys/{id}"), json!({"disabled": true})).await;
        slowest = slowest.max(to.until("/v1/models", &key, 401).await);
    }
    while load.limited.load(Ordering::Relaxed) < 2 * LIMIT && began.elapsed() < Duration::from_secs(50) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let all = load.end().await;
    assert!(began.elapsed() < Duration::from_secs(55), "{:?}: the limit would begin anew", began.elapsed());
    assert!(slowest < Duration::from_secs(1), "a revoked key was let in for {slowest:?}");

    // One limit. The server's count is the truth: a request may have reached it though its caller has heard of nothing.
    let used = counted.lock().unwrap().clone();
    let limited = all.iter().filter(|asked| asked.is_limited);
    let through = limited.clone().filter(|asked| used.contains_key(&asked.seen.plan.number)).count() as u64;
    let refused = limited.clone().filter(|asked| asked.seen.end == End::Status(429)).count();
    let bound = LIMIT + 2 * LIMIT / 50;
    let told = format!("{through} of {LIMIT} let through, {refused} refused, a revoked key for {slowest:?}");
    let _ = writeln!(std::io::stderr(), "{told}, {} requests, {KILLS} kills", all.len());
    assert!(through <= bound, "more than {bound}: {told}");
    // What a killed one had taken to give out is gone for a minute.
    assert!(through >= LIMIT - (KILLS + 2) * LIMIT / 50 && refused > 0, "{told}");

    // One ledger: what was not lost with the last second of a killed one is there once, as the server counts it.
    tokio::time::sleep(LAST_SECOND).await;
    let book = book_of(&postgres).await;
    let mut certain = 0;
    for (at, process) in (0..2).flat_map(|at| (0..=nodes[at].kills.len()).map(move |process| (at, process))) {
        let own = all.iter().filter(|asked| (asked.node, asked.process) == (at, process));
        let own: Vec<Seen> = own.map(|asked| asked.seen).collect();
        certain += held_against(&book, &used, &own, |one| nodes[at].may_have_lost(process, one));
    }
    assert!(certain * 3 > all.len(), "{certain} of {}", all.len());
    let sum: i64 = book.values().flatten().map(|written| written.completion).sum();
    let sums: HashMap<usize, Value> = HashMap::from([
        (0, nodes[0].at().admin("GET", "/admin/usage?group_by=model&model=m", json!(null)).await),
        (1, nodes[1].at().admin("GET", "/admin/usage?group_by=model&model=m", json!(null)).await),
    ]);
    assert_eq!(sums[&0]["rows"], sums[&1]["rows"]);
    assert_eq!(sums[&0]["rows"][0]["completion_tokens"], sum);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_at_one_service_holds_at_the_other_at_once() {
    let (Some(postgres), Some(mut redis)) = (Postgres::start(), Redis::start()) else { return };
    let upstream = counting(Counted::default()).await;
    let start = || setup(&upstream, &postgres, &redis).start();
    let (north, south) = (start(), start());
    let (north, south) = (&Address::of(&north, 0), &Address::of(&south, 0));
    let (_, key) = north.new_key(json!({})).await;
    south.until("/v1/models", &key, 200).await;
    let switched = async |disabled: bool| {
        north.admin("PATCH", "/admin/models/m", json!({"disabled": disabled})).await;
        let status = if disabled { 404 } else { 200 };
        assert_eq!(north.status("/v1/models/m", &key).await, status);
        let took = south.until("/v1/models/m", &key, status).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
        took
    };
    // Who only looks now and then finds a quarter of them so soon.
    let mut soon = 0;
    for number in 0..20 {
        soon += usize::from(switched(number % 2 == 0).await < Duration::from_millis(100));
    }
    assert!(soon >= 12, "{soon} of 20 were told of by Redis");
    redis.kill();
    switched(true).await;
}
