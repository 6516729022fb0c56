//! What replicas share through a real Redis: limits, budgets, rests, the word that keys have changed; and what holds
//! while it is away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use llm_proxy_api::callers::{
    Budget, Budgets, Caller, Dimension, Gate, Key, KeyRing, Limits, Part, Period, Permit, Refusal, Rules,
    Spent, Whose, now_ms,
};
use llm_proxy_api::config::OnRedisAway::{self, Closed, Open};
use llm_proxy_api::shared::Shared;
use llm_proxy_api::telemetry::{Health, Metrics, Replication};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::redis::Redis;
use crate::support::{Gateway, Setup, eventually};

/// What was told of rests elsewhere, by name.
type Told = Arc<Mutex<HashMap<String, Heard>>>;

/// What was told last.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Heard {
    Rests(Duration),
    Well,
}

/// One replica: everything of it that shares something.
struct Node {
    gate: Arc<Gate>,
    shared: Shared,
    health: Arc<Health>,
    told: Told,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Node {
    async fn new(redis: &Redis, away: OnRedisAway, rules: Rules) -> Self {
        let health = Arc::new(Health::default());
        let replication = Replication::new(health.clone(), Metrics::default());
        let shared = Shared::open(&redis.url().into(), away, replication).await.unwrap();
        let gate = Arc::new(Gate::new(rules, Budgets::default()));
        gate.share(shared.pool());
        let (told, stop) = (Told::default(), CancellationToken::new());
        let hears = told.clone();
        let running = tokio::spawn(shared.clone().run(
            gate.clone(),
            move |name: &str, rest: Option<(Duration, bool)>| {
                hears
                    .lock()
                    .unwrap()
                    .insert(name.to_owned(), rest.map_or(Heard::Well, |(lasts, _)| Heard::Rests(lasts)));
            },
            stop.clone(),
        ));
        Self { gate, shared, health, told, stop, running }
    }

    async fn several<const N: usize>(redis: &Redis, rules: &Rules) -> [Self; N] {
        Self::several_who(redis, Open, rules).await
    }

    async fn several_who<const N: usize>(redis: &Redis, away: OnRedisAway, rules: &Rules) -> [Self; N] {
        let mut nodes = Vec::new();
        for _ in 0..N {
            nodes.push(Self::new(redis, away, rules.clone()).await);
        }
        nodes.try_into().ok().unwrap()
    }

    async fn ask(&self, tokens: u64) -> Result<Permit, Refusal> {
        let part = Part {
            spent: Spent { tokens, money: 0.0 },
            guessed: 0,
            least: Spent::default(),
            ..Part::REQUEST
        };
        self.gate.admit_shared(None, "m", part, now_ms()).await
    }

    /// How many of so many requests, one after the other, are let through. They end at once.
    async fn let_through(&self, requests: usize) -> usize {
        let mut count = 0;
        for _ in 0..requests {
            count += usize::from(self.ask(1).await.is_ok());
        }
        count
    }

    /// Ends in order.
    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }

    /// Ends as a power cut does.
    fn vanish(self) {
        self.running.abort();
    }

    fn is_up(&self) -> bool {
        self.health.redis() == Some(true)
    }

    fn heard(&self, name: &str) -> Option<Heard> {
        self.told.lock().unwrap().get(name).copied()
    }
}

fn of_gateway(limits: Limits) -> Rules {
    Rules { gateway: limits, ..Rules::default() }
}

fn requests(limit: u64) -> Rules {
    of_gateway(Limits { requests_per_minute: Some(limit), ..Limits::default() })
}

fn tokens(limit: u64) -> Rules {
    of_gateway(Limits { tokens_per_minute: Some(limit), ..Limits::default() })
}

fn parallel(limit: u64) -> Rules {
    of_gateway(Limits { parallel_requests: Some(limit), ..Limits::default() })
}

/// How many requests are let through by all nodes, each of which is asked so often, many at a time.
async fn flood(nodes: &[Node], each: usize, at_once: usize) -> usize {
    let askers = nodes.iter().flat_map(|node| std::iter::repeat_n(node, at_once));
    let asking: Vec<_> =
        askers.map(|node| tokio::spawn(ask_often(node.gate.clone(), each / at_once))).collect();
    let mut count = 0;
    for asked in asking {
        count += asked.await.unwrap();
    }
    count
}

async fn ask_often(gate: Arc<Gate>, times: usize) -> usize {
    let part =
        Part { spent: Spent { tokens: 1, money: 0.0 }, guessed: 0, least: Spent::default(), ..Part::REQUEST };
    let mut count = 0;
    for _ in 0..times {
        let mut asked = gate.admit_shared(None, "m", part, now_ms()).await;
        // A machine that is busy with other tests may be too slow once.
        while matches!(asked, Err(Refusal::Unavailable)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            asked = gate.admit_shared(None, "m", part, now_ms()).await;
        }
        count += usize::from(asked.is_ok());
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_limit_is_exact_however_requests_are_spread() {
    let Some(redis) = Redis::start() else { return };
    let nodes: [Node; 2] = Node::several(&redis, &requests(20)).await;
    assert_eq!((nodes[0].let_through(8).await, nodes[1].let_through(15).await), (8, 12));
    let refused = nodes[0].ask(1).await.unwrap_err();
    let Refusal::Limit { of: "gateway", dimension: Dimension::Requests, limit: 20, retry_after, .. } =
        refused
    else {
        panic!("{refused:?}")
    };
    assert!((50..=61).contains(&retry_after.as_secs()), "{retry_after:?}");

    redis.ask(&["FLUSHALL"]);
    let nodes: [Node; 4] = Node::several_who(&redis, Closed, &requests(20)).await;
    assert_eq!(flood(&nodes, 50, 25).await, 20, "all at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_limit_is_overshot_by_the_documented_bound_at_most() {
    let Some(redis) = Redis::start() else { return };
    let nodes: [Node; 4] = Node::several_who(&redis, Closed, &requests(1000)).await;
    let began = Instant::now();
    let count = flood(&nodes, 1000, 20).await;
    let bound = 1000 + 4 * 1000 / 50;
    assert!((950..=bound).contains(&count), "{count} in {:?}", began.elapsed());
    let asked: u64 = figure(&redis, "cmdstat_evalsha:calls=");
    assert!(asked < 1000, "most are answered here: {asked} questions for {count} requests");
}

fn figure(redis: &Redis, name: &str) -> u64 {
    let text = redis.ask(&["INFO", "commandstats"]);
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
    line.split(',').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_does_not_use_is_there_for_the_others() {
    let Some(redis) = Redis::start() else { return };
    let [one, other]: [Node; 2] = Node::several(&redis, &requests(1000)).await;
    assert_eq!(one.let_through(1).await, 1);
    let mut count = 0;
    eventually("all of it is used", async || {
        count += other.let_through(1000).await;
        count == 999
    })
    .await;
    assert_eq!(one.let_through(10).await, 0);

    redis.ask(&["FLUSHALL"]);
    let [one, other]: [Node; 2] = Node::several(&redis, &requests(500)).await;
    assert_eq!(one.let_through(1).await, 1);
    one.end().await;
    assert_eq!(other.let_through(600).await, 499, "a node that ends gives back at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_reserved_for_all_and_put_right() {
    let Some(redis) = Redis::start() else { return };
    let [one, other]: [Node; 2] = Node::several(&redis, &tokens(99)).await;
    let permit = one.ask(80).await.unwrap();
    let refused = other.ask(30).await.unwrap_err();
    assert!(matches!(refused, Refusal::Limit { dimension: Dimension::Tokens, .. }), "{refused:?}");
    permit.settle(Spent { tokens: 10, money: 0.0 }, now_ms());
    eventually("what was not used is free again", async || other.ask(89).await.is_ok()).await;
    // That was dropped unsettled, so nothing was used.
    eventually("that, too", async || match one.ask(89).await {
        Ok(permit) => {
            permit.settle(Spent { tokens: 95, money: 0.0 }, now_ms());
            true
        }
        Err(_) => false,
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(other.ask(1).await.is_err(), "more was used than reserved");
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_counted_together_and_those_of_a_dead_node_come_free() {
    let Some(redis) = Redis::start() else { return };
    let [one, other, late]: [Node; 3] = Node::several(&redis, &parallel(4)).await;
    let mut held = vec![one.ask(0).await.unwrap(), one.ask(0).await.unwrap(), one.ask(0).await.unwrap()];
    let own = other.ask(0).await.unwrap();
    for node in [&one, &other] {
        let refused = node.ask(0).await.unwrap_err();
        assert!(matches!(refused, Refusal::Limit { dimension: Dimension::Parallel, limit: 4, .. }));
    }
    drop(held.pop());
    eventually("a place that is left is there for others", async || late.ask(0).await.is_ok()).await;
    // Places are held longer than they are believed without being heard of.
    let taken = eventually_some(&late).await;
    tokio::time::sleep(Duration::from_millis(6500)).await;
    assert!(other.ask(0).await.is_err(), "all are still held");
    let died = Instant::now();
    late.vanish();
    std::mem::forget(taken);
    eventually("the dead node's place is free", async || other.ask(0).await.is_ok()).await;
    assert!(died.elapsed() < Duration::from_secs(7), "{:?}", died.elapsed());
    drop((held, own));
}

/// A permit, as soon as there is one.
async fn eventually_some(node: &Node) -> Permit {
    loop {
        if let Ok(permit) = node.ask(0).await {
            return permit;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Who has a key with a budget.
fn caller() -> Caller {
    let key: Key = serde_json::from_value(json!({
        "id": "k1", "name": "n", "prefix": "llmp_0000000", "digest": "0".repeat(64), "created_ms": 0,
        "limits": {"requests_per_minute": 20}, "budget": {"tokens": 1000, "period": "day"},
    }))
    .unwrap();
    let ring = KeyRing::default();
    ring.put(key);
    ring.get("k1").unwrap()
}

impl Node {
    /// What it believes to be spent of the key's budget today.
    fn spent(&self) -> u64 {
        let budget = Budget { tokens: Some(1000), money: None, period: Period::Day, cut_off: false };
        self.gate.budgets().spent(&Whose::Key("k1".into()), &budget, now_ms()).0.tokens
    }

    async fn spend(&self, tokens: u64) -> Result<(), Refusal> {
        let part = Part {
            spent: Spent { tokens, money: 0.5 },
            guessed: 0,
            least: Spent::default(),
            ..Part::REQUEST
        };
        let permit = self.gate.admit_shared(Some(&caller()), "m", part, now_ms()).await?;
        permit.settle(Spent { tokens, money: 0.5 }, now_ms());
        Ok(())
    }
}

async fn within(what: &str, most: Duration, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    eventually(what, async || holds()).await;
    assert!(began.elapsed() < most, "{what}: {:?}", began.elapsed());
}

const SOON: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_spent_is_known_to_all_and_to_those_who_come_later() {
    let Some(mut redis) = Redis::start() else { return };
    let [one, other]: [Node; 2] = Node::several(&redis, &Rules::default()).await;
    for _ in 0..5 {
        one.spend(70).await.unwrap();
        other.spend(30).await.unwrap();
    }
    within("both know the sum", SOON, || one.spent() == 500 && other.spent() == 500).await;

    let late = Node::new(&redis, Open, Rules::default()).await;
    late.spend(499).await.unwrap();
    within("who comes later goes on from there", SOON, || one.spent() == 999 && late.spent() == 999).await;
    one.spend(1).await.unwrap();
    within("it is used up", SOON, || other.spent() == 1000).await;
    for node in [&one, &other, &late] {
        assert!(matches!(node.spend(1).await, Err(Refusal::Budget { of: "key", .. })));
    }

    // A server that has lost everything is told again by those who know.
    redis.kill();
    redis.revive();
    eventually("it is found", async || one.is_up() && other.is_up()).await;
    assert!(one.spend(1).await.is_err());
    let later = Node::new(&redis, Open, Rules::default()).await;
    assert!(later.spend(1).await.is_err(), "one told it when it was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledgers_sum_is_where_an_empty_redis_begins() {
    let Some(redis) = Redis::start() else { return };
    let [one, other]: [Node; 2] = Node::several(&redis, &Rules::default()).await;
    let budget = caller().key.budget.unwrap();
    let before = Spent { tokens: 900, money: 0.0 };
    one.gate.budgets().at_least(&Whose::Key("k1".into()), &budget, before, now_ms());
    one.spend(50).await.unwrap();
    within("both know it", SOON, || one.spent() == 950 && other.spent() == 950).await;
    other.spend(50).await.unwrap();
    within("it is used up", SOON, || one.spent() == 1000).await;
    let ttl: i64 = redis.ask(&["PTTL", redis.ask(&["KEYS", "*budget*"]).trim()]).trim().parse().unwrap();
    assert!(ttl > 3_500_000, "kept to the end of the day: {ttl}");
    assert_eq!(one.shared.keys().borrow().to_owned(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rests_and_changed_keys_are_heard_of_at_once_by_all_others() {
    let Some(redis) = Redis::start() else { return };
    let [one, other]: [Node; 2] = Node::several(&redis, &Rules::default()).await;
    let mut keys = other.shared.keys();
    eventually("they listen", async || *keys.borrow_and_update() > 0).await;
    let own = *one.shared.keys().borrow();

    one.shared.cools_down("up/m", (Duration::from_secs(40), true));
    one.shared.cools_down("up", (Duration::from_secs(30), true));
    one.shared.is_well("up");
    one.shared.keys_changed();
    within("the rest is heard of", SOON, || other.heard("up/m").is_some()).await;
    let Some(Heard::Rests(rest)) = other.heard("up/m") else { panic!("{:?}", other.heard("up/m")) };
    assert!((39_000..=40_000).contains(&rest.as_millis()), "{rest:?}");
    within("keys", SOON, || keys.has_changed().unwrap()).await;

    let late = Node::new(&redis, Open, Rules::default()).await;
    within("who starts later knows", SOON, || matches!(late.heard("up/m"), Some(Heard::Rests(_)))).await;
    assert!(late.heard("up").is_none(), "who is well again is not spoken of");

    other.shared.is_well("up/m");
    within("all know that it is well", SOON, || {
        one.heard("up/m") == Some(Heard::Well) && late.heard("up/m") == Some(Heard::Well)
    })
    .await;
    assert!(one.heard("up").is_none(), "nobody hears of itself");
    assert_eq!(*one.shared.keys().borrow(), own, "of its keys neither");
    let fresh = Node::new(&redis, Open, Rules::default()).await;
    eventually("it listens", async || *fresh.shared.keys().borrow() > 0).await;
    assert!(fresh.heard("up/m").is_none());
}

/// Breaks Redis in all its ways, one after the other, and mends it.
async fn in_all_troubles(redis: &mut Redis, nodes: &[Node], meanwhile: impl AsyncFn(&str)) {
    for trouble in ["dead", "hanging", "read only", "loading"] {
        match trouble {
            "dead" => redis.kill(),
            "hanging" => redis.signal("STOP"),
            "read only" => drop(redis.ask(&["REPLICAOF", "127.0.0.1", "1"])),
            _ => drop(redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "3"])),
        }
        let began = Instant::now();
        meanwhile(trouble).await;
        assert!(began.elapsed() < Duration::from_secs(3), "{trouble}: {:?}", began.elapsed());
        within("it is noticed", Duration::from_secs(3), || nodes.iter().all(|node| !node.is_up())).await;
        match trouble {
            "dead" => redis.revive(),
            "hanging" => redis.signal("CONT"),
            "read only" => drop(redis.ask(&["REPLICAOF", "NO", "ONE"])),
            _ => drop(redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"])),
        }
        within("it is found again", Duration::from_secs(5), || nodes.iter().all(Node::is_up)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_open_means_that_each_nodes_own_limits_hold() {
    let Some(mut redis) = Redis::start() else { return };
    let nodes: [Node; 2] = Node::several(&redis, &requests(200)).await;
    let count = Mutex::new(0);
    in_all_troubles(&mut redis, &nodes, async |trouble| {
        let some = flood(&nodes, 20, 10).await;
        assert_eq!(some, 40, "{trouble}");
        *count.lock().unwrap() += some;
    })
    .await;
    assert_eq!(*count.lock().unwrap(), 160);
    // What was let through meanwhile has been told since the last loss of everything.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let rest = flood(&nodes, 200, 10).await;
    // Questions that a hanging server answers to nobody when it goes on are counted there, too.
    assert!((10..=40).contains(&rest), "{rest}");

    redis.kill();
    let alone = [Node::new(&redis, Open, requests(7)).await, Node::new(&redis, Open, requests(7)).await];
    assert_eq!(flood(&alone, 50, 10).await, 14, "never without any limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_closed_means_that_what_is_limited_is_refused() {
    let Some(mut redis) = Redis::start() else { return };
    let node = Node::new(&redis, Closed, requests(1000)).await;
    let budgeted = Node::new(&redis, Closed, Rules::default()).await;
    let nodes = [node, budgeted];
    in_all_troubles(&mut redis, &nodes, async |trouble| {
        eventually("it is refused", async || nodes[0].ask(1).await.err() == Some(Refusal::Unavailable)).await;
        let budget = async || nodes[1].spend(1).await == Err(Refusal::Unavailable);
        eventually("budgets, too", budget).await;
        assert!(nodes[1].ask(1).await.is_ok(), "{trouble}: where nothing is limited, nothing is refused");
    })
    .await;
    assert!(nodes[0].ask(1).await.is_ok() && nodes[1].spend(1).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_later_is_found_and_told_of_what_was_before() {
    let Some(mut redis) = Redis::absent() else { return };
    let began = Instant::now();
    let node = Node::new(&redis, Open, Rules::default()).await;
    assert!(began.elapsed() < Duration::from_secs(2) && !node.is_up());
    node.spend(300).await.unwrap();
    node.shared.cools_down("up", (Duration::from_secs(60), false));
    redis.revive();
    eventually("it is found", async || node.is_up()).await;
    let late = Node::new(&redis, Open, Rules::default()).await;
    within("what was spent and who rests is known", Duration::from_secs(7), || late.heard("up").is_some())
        .await;
    late.spend(1).await.unwrap();
    within("what was spent", SOON, || late.spent() == 301 && node.spent() == 301).await;
}

fn setup(redis: &Redis, limits: serde_json::Value) -> Setup {
    let models = json!({
        "providers": {"echo": {"type": "echo", "models": {"echo": {}}}},
        "limits": limits,
    });
    Setup::new().models(&models).env("REDIS_URL", &redis.url())
}

async fn chat(gateway: &Gateway) -> (u16, serde_json::Value) {
    gateway
        .ask(
            "/v1/chat/completions",
            &json!({"model": "echo", "messages": [{"role": "user", "content": "hi"}]}),
        )
        .await
}

async fn ready(gateway: &Gateway) -> serde_json::Value {
    crate::support::answer(gateway.get("/readyz")).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_share_a_limit_and_say_how_redis_is() {
    let Some(mut redis) = Redis::start() else { return };
    let limits = json!({"models": {"echo": {"requests_per_minute": 20}}});
    let north = setup(&redis, limits.clone()).start();
    let south = setup(&redis, limits).env("REDIS_FAIL", "closed").start();
    let mut counts = [0, 0];
    for _ in 0..15 {
        for (gateway, count) in [&north, &south].into_iter().zip(&mut counts) {
            *count += usize::from(chat(gateway).await.0 == 200);
        }
    }
    assert_eq!(counts, [10, 10]);
    let (status, error) = chat(&south).await;
    assert_eq!((status, error["error"]["code"].as_str()), (429, Some("rate_limit_exceeded")));
    assert_eq!(ready(&north).await["redis"], json!({"ok": true}));
    assert_eq!(north.figure("llm_proxy_redis_up", "").await, 1.0);

    redis.kill();
    // Until they know, what Redis said a moment ago holds.
    let know = async || {
        let gone = json!({"ok": false});
        ready(&north).await["redis"] == gone && ready(&south).await["redis"] == gone
    };
    eventually("both know that it is gone", know).await;
    let began = Instant::now();
    assert_eq!(chat(&north).await.0, 200, "ten of its own twenty are left");
    let request = json!({"model": "echo", "messages": [{"role": "user", "content": "hi"}]});
    let refused = south.post("/v1/chat/completions", &request).send().await.unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    assert!(refused.text().await.unwrap().contains("limits_unavailable"));
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(ready(&south).await["redis"], json!({"ok": false}));
    assert_eq!(north.figure("llm_proxy_redis_up", "").await, 0.0);

    redis.revive();
    eventually("it is back", async || ready(&south).await["redis"]["ok"] == true).await;
    assert_eq!(chat(&south).await.0, 200);
    let log = south.log();
    assert_eq!(log.matches("what is limited is refused").count(), 1, "{log}");
    assert!(log.contains("Redis is back") && !log.contains("redis.sock"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_on_every_replica_that_nothing_is_left() {
    let Some(redis) = Redis::start() else { return };
    let limits = json!({"models": {"echo": {"requests_per_minute": 3, "tokens_per_minute": 5000}}});
    let start = || setup(&redis, limits.clone()).start();
    let nodes = [start(), start()];
    for node in [&nodes[0], &nodes[1], &nodes[0]] {
        assert_eq!(chat(node).await.0, 200);
    }
    let request = json!({"model": "echo", "messages": [{"role": "user", "content": "hi"}]});
    for node in &nodes {
        let refused = node.post("/v1/chat/completions", &request).send().await.unwrap();
        let header = |name: &str| refused.headers()[name].to_str().unwrap();
        assert_eq!(refused.status(), 429);
        assert_eq!(
            (header("x-ratelimit-limit-requests"), header("x-ratelimit-remaining-requests")),
            ("3", "0")
        );
        assert_ne!(header("x-ratelimit-remaining-tokens"), "0", "tokens are left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_takes_over_counts_for_all_replicas() {
    let Some(redis) = Redis::start() else { return };
    let models = json!({
        "providers": {
            "gone": {"type": "openai", "base_url": "http://127.0.0.1:9/v1", "models": {"first": {}}},
            "echo": {"type": "echo", "models": {"echo": {}}},
        },
        "models": {"first": {"fallbacks": ["echo"]}},
        "limits": {"models": {"echo": {"requests_per_minute": 20}}},
    });
    let start = || Setup::new().models(&models).env("REDIS_URL", &redis.url()).start();
    let nodes = [start(), start()];
    let body = json!({"model": "first", "messages": [{"role": "user", "content": "hi"}]});
    let mut statuses = Vec::new();
    for turn in 0..40 {
        statuses.push(nodes[turn % 2].ask("/v1/chat/completions", &body).await.0);
    }
    let count = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!((count, statuses[39]), (20, 429), "{statuses:?}");
    assert_eq!(chat(&nodes[0]).await.0, 429, "whoever asks for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_starts_without_its_redis_and_ends_in_order() {
    let Some(redis) = Redis::absent() else { return };
    let mut gateway = setup(&redis, json!({"gateway": {"requests_per_minute": 3}})).start();
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(chat(&gateway).await.0);
    }
    assert_eq!(statuses, [200, 200, 200, 429]);
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_reached_through_tls_with_a_password() {
    let Some(redis) = Redis::start() else { return };
    let path = |name: &str| redis.folder.path().join(name).to_str().unwrap().to_owned();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let redis = redis.with(&[
        "--tls-port",
        &free,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "planted",
    ]);
    let limits = json!({"gateway": {"requests_per_minute": 1}});
    let start = |url: &str| {
        let setup = setup(&redis, limits.clone()).env("REDIS_URL", url).env("REDIS_FAIL", "closed");
        setup.variable("SSL_CERT_FILE", &certificate).start()
    };
    let one = start(&format!("rediss://:planted@localhost:{free}/1"));
    let other = start(&format!("rediss://:planted@localhost:{free}/1"));
    assert_eq!((chat(&one).await.0, chat(&other).await.0), (200, 429), "{}", one.log());
    let stranger = start(&format!("rediss://:planted-wrong@localhost:{free}/1"));
    assert_eq!(chat(&stranger).await.0, 503);
    assert!(stranger.log().contains("Redis cannot be used") && !stranger.log().contains("planted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_redis_delays_a_request_by_less_than_three_seconds() {
    let Some(redis) = Redis::start() else { return };
    let rules = Rules {
        models: [("m".to_owned(), requests(50).gateway)].into(),
        ..of_gateway(Limits { parallel_requests: Some(40), ..requests(50).gateway })
    };
    for away in [Open, Closed] {
        let node = Node::new(&redis, away, rules.clone()).await;
        // It answers, and each answer takes nearly as long as anybody waits for one.
        let busy = CancellationToken::new();
        let (url, ending) = (redis.url(), busy.clone());
        let blocking = std::thread::spawn(move || {
            let socket = url.strip_prefix("unix://").unwrap();
            while !ending.is_cancelled() {
                let sleep = ["-s", socket, "DEBUG", "SLEEP", "0.35"];
                std::process::Command::new("redis-cli").args(sleep).output().unwrap();
            }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let began = Instant::now();
        let asking = (0..20).map(|_| async {
            let outcome = node.ask(1).await;
            (outcome.map(drop), began.elapsed())
        });
        for (outcome, took) in futures_util::future::join_all(asking).await {
            assert!(took < Duration::from_secs(2), "{outcome:?} after {took:?}");
            assert!(outcome.is_ok() || outcome == Err(Refusal::Unavailable) && away == Closed, "{outcome:?}");
        }
        busy.cancel();
        blocking.join().unwrap();
        redis.ask(&["FLUSHALL"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_see_what_is_left_for_them_at_all_replicas() {
    let Some(redis) = Redis::start() else { return };
    let [one, other]: [Node; 2] = Node::several(&redis, &Rules::default()).await;
    let (here, there) = (caller(), caller());
    let part =
        Part { spent: Spent { tokens: 1, money: 0.0 }, guessed: 0, least: Spent::default(), ..Part::REQUEST };
    for _ in 0..5 {
        one.gate.admit_shared(Some(&here), "m", part, now_ms()).await.unwrap();
    }
    other.gate.admit_shared(Some(&there), "m", part, now_ms()).await.unwrap();
    let figures = there.figures().next().unwrap();
    assert_eq!((figures.limit, figures.remaining), (20, 14));
}

#[test]
fn a_bad_redis_url_is_a_fault_that_does_not_tell_it() {
    let ended = Setup::new().env("REDIS_URL", "redis://:planted@h:notaport").run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(
        ended.stderr.contains("REDIS_URL: names no Redis") && !ended.stderr.contains("planted"),
        "{}",
        ended.stderr
    );
}

/// What a request takes of budgets; nothing of it is a guess.
fn part_of(spent: Spent) -> Part {
    Part { spent, guessed: 0, least: Spent::default(), ..Part::REQUEST }
}

/// Who has a key with this budget, and no limits.
fn spender(budget: serde_json::Value) -> Caller {
    let key: Key = serde_json::from_value(json!({
        "id": "k2", "name": "n", "prefix": "llmp_0000002", "digest": "0".repeat(64), "created_ms": 0,
        "budget": budget,
    }))
    .unwrap();
    let ring = KeyRing::default();
    ring.put(key);
    ring.get("k2").unwrap()
}

/// Asks until it is let through, holds its part for a moment and spends it; or until the budget is used up. Whether it
/// was let through.
async fn spend_or_end(gate: Arc<Gate>, caller: Caller, part: Spent) -> bool {
    loop {
        match gate.admit_shared(Some(&caller), "m", part_of(part), now_ms()).await {
            Ok(permit) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                permit.settle(part, now_ms());
                return true;
            }
            Err(Refusal::Budget { .. }) => return false,
            // A machine that is busy with other tests may be too slow once.
            Err(Refusal::SetAside { .. } | Refusal::Unavailable) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(refused) => panic!("{refused:?}"),
        }
    }
}

/// How many of so many requests at once of each node are let through, by node. Each node's requests take a part of
/// their own size.
async fn spend_all(nodes: &[Node], caller: &Caller, each: usize, parts: &[Spent]) -> Vec<usize> {
    let start = |(node, part): (&Node, &Spent)| -> Vec<JoinHandle<bool>> {
        let one = || tokio::spawn(spend_or_end(node.gate.clone(), caller.clone(), *part));
        (0..each).map(|_| one()).collect()
    };
    let started: Vec<_> = nodes.iter().zip(parts.iter().cycle()).map(start).collect();
    let mut counts = Vec::new();
    for of_node in started {
        let mut count = 0;
        for asking in of_node {
            count += usize::from(asking.await.unwrap());
        }
        counts.push(count);
    }
    counts
}

const fn of_tokens(tokens: u64) -> Spent {
    Spent { tokens, money: 0.0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_not_overspent_in_a_burst_and_nothing_of_it_is_lost() {
    let Some(redis) = Redis::start() else { return };
    let caller = spender(json!({"tokens": 1000, "period": "month"}));
    let nodes: [Node; 2] = Node::several_who(&redis, Closed, &Rules::default()).await;
    let counts = spend_all(&nodes, &caller, 300, &[of_tokens(10)]).await;
    assert_eq!(counts.iter().sum::<usize>(), 100, "{counts:?}");

    redis.ask(&["FLUSHALL"]);
    let nodes: [Node; 3] = Node::several_who(&redis, Closed, &Rules::default()).await;
    let counts = spend_all(&nodes, &caller, 300, &[of_tokens(10)]).await;
    assert_eq!(counts.iter().sum::<usize>(), 100, "{counts:?}");

    // Of several sizes only the last request may go beyond, as it may where there is one node.
    redis.ask(&["FLUSHALL"]);
    let nodes: [Node; 3] = Node::several_who(&redis, Closed, &Rules::default()).await;
    let counts = spend_all(&nodes, &caller, 200, &[7, 13, 31].map(of_tokens)).await;
    let spent: usize = counts.iter().zip([7, 13, 31]).map(|(count, part)| count * part).sum();
    assert!((1000..1031).contains(&spent), "{spent}: {counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn money_is_not_overspent_in_a_burst_either() {
    let Some(redis) = Redis::start() else { return };
    let caller = spender(json!({"money": 12.5, "period": "month"}));
    let nodes: [Node; 2] = Node::several_who(&redis, Closed, &Rules::default()).await;
    let part = Spent { tokens: 1_000_000, money: 0.125 };
    let counts = spend_all(&nodes, &caller, 300, &[part]).await;
    assert_eq!(counts.iter().sum::<usize>(), 100, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_node_had_set_aside_is_free_again_and_what_it_spent_is_not() {
    let Some(redis) = Redis::start() else { return };
    let caller = spender(json!({"tokens": 1000, "period": "month"}));
    let [one, other]: [Node; 2] = Node::several(&redis, &Rules::default()).await;
    let ask = async |node: &Node, tokens: u64| {
        node.gate.admit_shared(Some(&caller), "m", part_of(of_tokens(tokens)), now_ms()).await
    };
    ask(&one, 300).await.unwrap().settle(of_tokens(300), now_ms());
    let spent = |node: &Node| {
        let budget = caller.key.budget.unwrap();
        node.gate.budgets().spent(&Whose::Key("k2".into()), &budget, now_ms()).0.tokens
    };
    within("what was spent is told", SOON, || spent(&other) == 300).await;
    let under_way = ask(&one, 700).await.unwrap();
    // Longer than anybody is believed who is not heard of.
    tokio::time::sleep(Duration::from_millis(6500)).await;
    assert_eq!(ask(&other, 1).await.unwrap_err(), Refusal::SetAside { of: "key" });

    let died = Instant::now();
    one.vanish();
    let mut held = None;
    eventually("it is free again", async || {
        held = ask(&other, 700).await.ok();
        held.is_some()
    })
    .await;
    let after = died.elapsed();
    assert!((3500..7000).contains(&after.as_millis()), "{after:?}");
    assert_eq!(ask(&other, 1).await.unwrap_err(), Refusal::SetAside { of: "key" }, "but no more than that");
    drop((under_way, held));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_does_not_spend_of_a_budget_is_there_for_the_others() {
    let Some(redis) = Redis::start() else { return };
    let caller = spender(json!({"tokens": 1000, "period": "month"}));
    let [one, other]: [Node; 2] = Node::several(&redis, &Rules::default()).await;
    let ask = async |node: &Node, tokens: u64| {
        node.gate.admit_shared(Some(&caller), "m", part_of(of_tokens(tokens)), now_ms()).await
    };
    let under_way = ask(&one, 1000).await.unwrap();
    assert_eq!(ask(&other, 1).await.unwrap_err(), Refusal::SetAside { of: "key" });
    under_way.settle(of_tokens(10), now_ms());
    let began = Instant::now();
    let mut count = 0;
    eventually("all the rest is free", async || {
        if let Ok(permit) = ask(&other, 990).await {
            permit.settle(of_tokens(990), now_ms());
            count += 1;
        }
        count == 1
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(ask(&other, 1).await.is_err());

    // They would tell what they have spent again.
    one.end().await;
    other.end().await;
    redis.ask(&["FLUSHALL"]);
    let [one, other]: [Node; 2] = Node::several(&redis, &Rules::default()).await;
    drop(ask(&one, 1000).await.unwrap());
    one.end().await;
    assert!(ask(&other, 1).await.is_ok(), "a node that ends gives back at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_budget_far_from_its_end_most_requests_are_let_through_unasked() {
    let Some(redis) = Redis::start() else { return };
    let caller = spender(json!({"tokens": 1_000_000, "period": "month"}));
    let nodes: [Node; 2] = Node::several_who(&redis, Closed, &Rules::default()).await;
    let began = Instant::now();
    let counts = spend_all(&nodes, &caller, 2000, &[of_tokens(100)]).await;
    assert_eq!(counts, [2000, 2000]);
    let asked: u64 = figure(&redis, "cmdstat_evalsha:calls=");
    // Each node tells ten times a second what it has spent, whoever asks.
    let telling = 20 * (1 + u64::try_from(began.elapsed().as_millis()).unwrap() / 1000);
    assert!(asked < 100 + telling, "{asked} questions in {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_amid_the_question_leaves_nothing_of_a_budget_set_aside() {
    let Some(redis) = Redis::start() else { return };
    let caller = spender(json!({"tokens": 1000, "period": "month"}));
    let [one, other]: [Node; 2] = Node::several_who(&redis, Closed, &Rules::default()).await;
    let whole = part_of(of_tokens(1000));
    // From here on the server knows the script, and runs it for those who have left, too.
    drop(other.gate.admit_shared(Some(&caller), "m", part_of(of_tokens(1)), now_ms()).await.unwrap());
    redis.signal("STOP");
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let (gate, caller) = (one.gate.clone(), caller.clone());
            tokio::spawn(async move { gate.admit_shared(Some(&caller), "m", whole, now_ms()).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(60)).await;
    for asking in asking {
        asking.abort();
        assert!(asking.await.is_err_and(|error| error.is_cancelled()), "nobody has been answered");
    }
    redis.signal("CONT");
    let began = Instant::now();
    eventually("all of it is there", async || {
        let asked = other.gate.admit_shared(Some(&caller), "m", whole, now_ms()).await;
        asked.is_ok()
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let own = async || one.gate.admit_shared(Some(&caller), "m", whole, now_ms()).await.is_ok();
    eventually("there, too", own).await;
}

/// How an outcome looks to a caller.
fn in_short(outcome: &Result<Permit, Refusal>) -> &'static str {
    match outcome {
        Ok(_) => "passes",
        Err(Refusal::SetAside { .. }) => "set aside",
        Err(Refusal::Budget { .. }) => "used up",
        Err(_) => "else",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_with_redis_lets_through_what_it_would_without() {
    let Some(redis) = Redis::start() else { return };
    let caller = spender(json!({"tokens": 6000, "period": "month"}));
    let node = Node::new(&redis, Closed, Rules::default()).await;
    let alone = Arc::new(Gate::new(Rules::default(), Budgets::default()));
    let mut chance = 7_u64;
    let mut below = move |most: u64| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) % most
    };
    let (mut held, mut seen) = (Vec::new(), HashMap::<&str, usize>::new());
    for step in 0..1500 {
        // Most that is set aside is not spent, some answers are longer; and by and by fewer end than begin.
        if below(2) == 0 && !held.is_empty() {
            let index = usize::try_from(below(held.len() as u64)).unwrap();
            let (here, there): (Permit, Permit) = held.swap_remove(index);
            let spent = of_tokens(below(20));
            here.settle(spent, now_ms());
            there.settle(spent, now_ms());
        } else {
            let part = part_of(of_tokens(below(400)));
            let here = node.gate.admit_shared(Some(&caller), "m", part, now_ms()).await;
            let there = alone.admit_shared(Some(&caller), "m", part, now_ms()).await;
            assert_eq!(in_short(&here), in_short(&there), "step {step}");
            *seen.entry(in_short(&here)).or_default() += 1;
            held.extend(here.ok().zip(there.ok()));
        }
        if below(20) == 0 {
            tokio::time::sleep(Duration::from_millis(10 + below(40))).await;
        }
    }
    assert!(["passes", "set aside", "used up"].iter().all(|way| seen.contains_key(way)), "{seen:?}");
}
