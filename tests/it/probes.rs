//! Signs of life: who is dead is known before a request meets it, and who is back is asked again at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::engine::fake_llama_server;
use crate::support::{Gateway, Setup, Step, Upstream, answer, eventually, fixture, json as json_step};

const CHAT: &str = "/v1/chat/completions";
/// Too slow a status for any probe here.
const LATE: u16 = 1;

fn says() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
}

/// A server that answers probes with one status and requests with another.
struct Server {
    upstream: Upstream,
    probes: Arc<AtomicU16>,
    requests: Arc<AtomicU16>,
}

fn step(status: u16, headers: &str) -> Vec<Step> {
    match status {
        200 => vec![Step::Send(fixture("openai/chat"))],
        LATE => vec![Step::Pause(Duration::from_secs(30))],
        _ => vec![json_step(status, headers, &json!({"error": {"message": "moody"}}))],
    }
}

impl Server {
    async fn new() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), "")
    }

    fn on(listener: TcpListener, headers: &'static str) -> Self {
        let (probes, requests) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(200)));
        let (to_probes, to_requests) = (probes.clone(), requests.clone());
        let upstream = Upstream::on(listener, move |seen| {
            let mood = if seen.method == "GET" { &to_probes } else { &to_requests };
            step(mood.load(Ordering::SeqCst), headers)
        });
        Self { upstream, probes, requests }
    }

    fn asked(&self, method: &str) -> usize {
        self.upstream.seen().iter().filter(|seen| seen.method == method).count()
    }
}

fn often() -> Value {
    json!({"interval": 0.2, "timeout": 0.2})
}

/// A provider `first` that is probed, and `second` that is not and answers when that one rests.
fn pair(first: &str, second: &Server, probe: Value) -> Value {
    json!({"providers": {
        "first": {"type": "vllm", "base_url": first, "probe": probe, "models": {"m": {"priority": 1}, "alone": {}}},
        "second": {"type": "openai", "base_url": second.upstream.v1(), "models": {"m": {"priority": 2}}},
    }, "routing": {"max_wait": 0}})
}

const ADMIN_KEY: &str = "planted-admin-key-of-the-tests";

/// A service that can be told to reload.
fn administered(models: &Value) -> Gateway {
    Setup::new().env("ADMIN_KEY", ADMIN_KEY).models(models).start()
}

/// Has another models file taken over, and says what is different.
async fn reload(gateway: &Gateway, models: &Value) -> Value {
    std::fs::write(gateway.folder.path().join("models.json"), models.to_string()).unwrap();
    let request = gateway.post("/admin/reload", &json!({})).header("x-admin-key", ADMIN_KEY);
    let (status, body) = answer(request).await;
    assert_eq!(status, 200, "{body}");
    body["changes"].clone()
}

async fn answered_by(gateway: &Gateway) -> (String, u64) {
    let response = gateway.post(CHAT, &says()).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let text = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    (text("x-llm-provider"), text("x-llm-attempts").parse().unwrap())
}

/// The first candidate of the first model.
async fn first(gateway: &Gateway) -> Value {
    answer(gateway.get("/api/routes")).await.1["routes"][0]["candidates"][0].clone()
}

async fn cools_down(gateway: &Gateway) -> bool {
    first(gateway).await["rests_for_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0)
}

async fn is_probed(gateway: &Gateway) {
    eventually("it is probed well", async || first(gateway).await["last_probe"]["ok"] == true).await;
}

#[tokio::test]
async fn a_server_that_dies_rests_before_anybody_asks_and_is_asked_when_it_is_back() {
    let (server, second) = (Server::new().await, Server::new().await);
    let base = server.upstream.v1();
    let address = base.trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    let gateway = Setup::new().models(&pair(&base, &second, often())).start();
    is_probed(&gateway).await;
    assert_eq!(
        server.upstream.seen()[0].path,
        "/health",
        "the usual place of its kind, at the server's root"
    );
    assert_eq!(answered_by(&gateway).await, ("first".to_owned(), 1));

    drop(server);
    eventually("the dead one rests", async || cools_down(&gateway).await).await;
    let told = first(&gateway).await;
    assert_eq!(
        (&told["last_probe"]["ok"], &told["last_probe"]["failure"], &told["failed"]),
        (&json!(false), &json!("unreachable"), &json!(0)),
        "{told}"
    );
    assert!(!told.to_string().contains(&address), "{told}");
    assert_eq!(answered_by(&gateway).await, ("second".to_owned(), 1), "nobody has met the dead one");
    assert!(gateway.logged("does not answer its probe").contains("first"));

    let server = Server::on(TcpListener::bind(&address).await.unwrap(), "");
    let back = Instant::now();
    eventually("it is back", async || !cools_down(&gateway).await).await;
    assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
    assert_eq!(answered_by(&gateway).await, ("first".to_owned(), 1));
    assert_eq!(server.asked("POST"), 1);
    gateway.logged("answers its probe again");
    for (name, label) in
        [("llm_proxy_probes_total", "outcome=\"failed\""), ("llm_proxy_provider_up", "provider=\"first\"")]
    {
        assert!(gateway.figure(name, label).await >= 1.0, "{name}");
    }
}

#[tokio::test]
async fn a_deployment_that_rests_because_nobody_was_there_comes_back_with_the_server() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (url, second) = (format!("http://{free}/v1"), Server::new().await);
    let gateway = administered(&pair(&url, &second, json!(false)));
    // Requests find it, twice, so that it rests for 4 s.
    for _ in 0..2 {
        eventually("a request meets it", async || answered_by(&gateway).await.1 == 2).await;
    }
    let failed = Instant::now();
    let server = Server::on(TcpListener::bind(free).await.unwrap(), "");
    reload(&gateway, &pair(&url, &second, often())).await;
    eventually("it is asked again", async || answered_by(&gateway).await.0 == "first").await;
    assert!(failed.elapsed() < Duration::from_secs(3), "{:?}", failed.elapsed());
    assert_eq!(server.asked("POST"), 1);
}

#[tokio::test]
async fn answers_that_are_broken_or_late_are_none_and_refusals_are_signs_of_life() {
    for (status, is_dead) in [
        (500, true),
        (503, true),
        (LATE, true),
        (401, false),
        (403, false),
        (404, false),
        (429, false),
        (301, false),
    ] {
        let (server, second) = (Server::new().await, Server::new().await);
        server.probes.store(status, Ordering::SeqCst);
        let gateway = Setup::new().models(&pair(&server.upstream.v1(), &second, often())).start();
        eventually("it is probed", async || first(&gateway).await["last_probe"].is_object()).await;
        let told = first(&gateway).await;
        assert_eq!(told["last_probe"]["ok"], json!(!is_dead), "{status}: {told}");
        let expected = if is_dead { "second" } else { "first" };
        assert_eq!(answered_by(&gateway).await, (expected.to_owned(), 1), "{status}");
        if is_dead {
            let alone = json!({"model": "alone", "messages": [{"role": "user", "content": "Hi"}]});
            let response = gateway.post(CHAT, &alone).send().await.unwrap();
            assert_eq!(response.status(), 200, "no other can answer, so it is asked all the same");
            assert_eq!(server.asked("POST"), 1, "{status}: no other request has met it");
        }
    }
}

#[tokio::test]
async fn a_rest_that_was_asked_for_is_not_ended_by_a_probe() {
    for (status, headers) in
        [(429, "retry-after: 40\r\n"), (429, ""), (401, ""), (503, "retry-after: 40\r\n")]
    {
        let second = Server::new().await;
        let server = Server::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), headers);
        server.requests.store(status, Ordering::SeqCst);
        let gateway = Setup::new().models(&pair(&server.upstream.v1(), &second, often())).start();
        is_probed(&gateway).await;
        assert_eq!(answered_by(&gateway).await, ("second".to_owned(), 2), "{status}");
        let (probes, began) = (server.asked("GET"), Instant::now());
        eventually("it is probed again", async || server.asked("GET") >= probes + 3).await;
        assert!(began.elapsed() < Duration::from_millis(1900), "within the shortest rest");
        assert_eq!(answered_by(&gateway).await, ("second".to_owned(), 1), "{status}: it rests still");
        assert_eq!(server.asked("POST"), 1, "{status}");
    }
}

#[tokio::test]
async fn trouble_with_requests_is_not_forgiven_by_a_probe_unless_the_server_was_started_anew() {
    let (server, second) = (Server::new().await, Server::new().await);
    server.requests.store(500, Ordering::SeqCst);
    let gateway = Setup::new().models(&pair(&server.upstream.v1(), &second, often())).start();
    is_probed(&gateway).await;
    assert_eq!(answered_by(&gateway).await, ("second".to_owned(), 2));
    let probes = server.asked("GET");
    eventually("it is probed again", async || server.asked("GET") >= probes + 3).await;
    assert_eq!(
        answered_by(&gateway).await,
        ("second".to_owned(), 1),
        "well by its own words, and yet it rests"
    );

    server.probes.store(503, Ordering::SeqCst);
    eventually("it is seen dead", async || first(&gateway).await["last_probe"]["ok"] == false).await;
    server.probes.store(200, Ordering::SeqCst);
    server.requests.store(200, Ordering::SeqCst);
    let back = Instant::now();
    eventually("it is back", async || !cools_down(&gateway).await).await;
    assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
    assert_eq!(answered_by(&gateway).await, ("first".to_owned(), 1));
}

#[tokio::test]
async fn a_reload_changes_who_is_probed_and_how() {
    let (server, second) = (Server::new().await, Server::new().await);
    let file = |probe: Value| pair(&server.upstream.v1(), &second, probe);
    let gateway = administered(&file(json!(false)));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        (server.asked("GET"), &first(&gateway).await["last_probe"]),
        (0, &Value::Null),
        "nobody said so"
    );

    let changes = reload(&gateway, &file(json!({"path": "/api/version", "interval": 0.2}))).await;
    assert_eq!(changes[0]["details"], json!(["probe changed"]), "{changes}");
    is_probed(&gateway).await;
    assert_eq!(server.upstream.seen()[0].path, "/api/version");

    reload(&gateway, &file(json!(false))).await;
    assert_eq!(first(&gateway).await["last_probe"], Value::Null);
    let asked = server.asked("GET");
    tokio::time::sleep(Duration::from_millis(700)).await;
    // One may have been on its way.
    assert!(server.asked("GET") <= asked + 1, "{} after {asked}", server.asked("GET"));
    assert_eq!(gateway.figure("llm_proxy_provider_up", "").await, 0.0, "nobody is shown any more");
}

#[tokio::test]
async fn every_kind_is_asked_at_its_usual_place_with_its_key() {
    for (kind, path) in
        [("openai", "/v1/models"), ("vllm", "/health"), ("llamacpp", "/health"), ("ollama", "/api/tags")]
    {
        let server = Server::new().await;
        let provider = json!({"type": kind, "base_url": server.upstream.v1(), "api_key": "k", "probe": often(), "models": {"m": {}}});
        let gateway = Setup::new().models(&json!({"providers": {"up": provider}})).start();
        is_probed(&gateway).await;
        let seen = server.upstream.seen();
        assert_eq!((seen[0].method.as_str(), seen[0].path.as_str()), ("GET", path), "{kind}");
        assert_eq!(seen[0].header("authorization"), Some("Bearer k"));
        assert_eq!(seen.iter().filter(|seen| seen.method != "GET").count(), 0);
    }
}

#[test]
fn who_has_no_server_cannot_be_probed() {
    let engine = json!({"type": "llamacpp", "binary": fake_llama_server(), "probe": true, "models": {"m": {"context": 512}}});
    for (provider, words) in [
        (engine, "engines that are run here are watched"),
        (json!({"type": "echo", "probe": {"interval": 3}, "models": {"m": {}}}), "it answers always"),
    ] {
        let ended = Setup::new().models(&json!({"providers": {"p": provider}})).run(&["check"]);
        assert_eq!(ended.code, Some(1), "{}", ended.stdout);
        assert!(ended.stderr.contains("providers.p") && ended.stderr.contains(words), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn probes_end_with_the_service() {
    let (server, second) = (Server::new().await, Server::new().await);
    server.probes.store(LATE, Ordering::SeqCst);
    let probe = json!({"interval": 0.1, "timeout": 30});
    let mut gateway = Setup::new().models(&pair(&server.upstream.v1(), &second, probe)).start();
    eventually("one is on its way", async || server.asked("GET") > 0).await;
    let began = Instant::now();
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
