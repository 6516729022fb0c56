//! What cools down after which failure, for how long, and what callers get meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::upstream::Seen;
use crate::support::{Gateway, Setup, Step, Upstream, answer, eventually, fixture, json, json_of};

const CHAT: &str = "/v1/chat/completions";
/// The first cooldown is at least as long as this.
const FIRST: Duration = Duration::from_secs(2);

fn says(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]})
}

fn good() -> Step {
    Step::Send(fixture("openai/chat"))
}

fn refusal(status: u16, headers: &str) -> Step {
    json(status, headers, &json!({"error": {"message": "moody"}}))
}

/// A server whose answer to each request follows from model and key.
async fn server(script: impl Fn(&str, &str) -> Step + Send + Sync + 'static) -> Upstream {
    Upstream::start(move |seen: &Seen| {
        let body = seen.json();
        vec![script(body["model"].as_str().unwrap(), seen.header("authorization").unwrap_or_default())]
    })
    .await
}

/// A server that answers well as long as its status is 200, and with that status otherwise, after a pause.
struct Moody {
    upstream: Upstream,
    status: Arc<AtomicU16>,
}

impl Moody {
    async fn new(status: u16, headers: &'static str, pause: Duration) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let mood = status.clone();
        let upstream = Upstream::start(move |_| match mood.load(Ordering::SeqCst) {
            200 => vec![good()],
            code => vec![Step::Pause(pause), refusal(code, headers)],
        });
        Self { upstream: upstream.await, status }
    }

    fn asked(&self) -> usize {
        self.upstream.seen().len()
    }

    fn is_now(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }
}

/// One provider with models `a`, `b`, `c`, which are not waited for.
fn one(url: &str, more: Value) -> Gateway {
    let mut provider = json!({"type": "openai", "base_url": url, "models": {"a": {}, "b": {}, "c": {}}});
    provider.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    let routing = json!({"max_wait": 0, "max_cooldown": 60});
    Setup::new()
        .variable("K1", "key-one")
        .variable("K2", "key-two")
        .models(&json!({"providers": {"up": provider}, "routing": routing}))
        .start()
}

/// Status, code and message, and how long to wait.
async fn told(gateway: &Gateway, model: &str) -> (u16, Value, Option<u64>) {
    let response = gateway.post(CHAT, &says(model)).send().await.unwrap();
    let wait = response.headers().get("retry-after").map(|wait| wait.to_str().unwrap().parse().unwrap());
    (response.status().as_u16(), json_of(response).await["error"].clone(), wait)
}

async fn status(gateway: &Gateway, model: &str) -> u16 {
    told(gateway, model).await.0
}

#[tokio::test]
async fn a_limit_of_one_model_cools_down_that_model_alone_and_as_long_as_asked() {
    for (headers, least, most) in [
        ("retry-after: 40\r\n", 30, 40),
        ("retry-after-ms: 30500\r\n", 20, 31),
        ("retry-after: Fri, 01 Jan 2100 00:00:00 GMT\r\n", 50, 60),
        ("x-ratelimit-reset-requests: 30s\r\nx-ratelimit-remaining-requests: 0\r\n", 20, 30),
        ("x-ratelimit-reset-tokens-day: 6m0s\r\n", 50, 60),
    ] {
        let limited = server(move |model, _| if model == "a" { refusal(429, headers) } else { good() }).await;
        let gateway = one(&limited.v1(), json!({}));
        assert_eq!(status(&gateway, "a").await, 429, "the only one's failure is the caller's answer");
        let (status_of_a, error, wait) = told(&gateway, "a").await;
        assert_eq!((status_of_a, &error["code"]), (503, &json!("all_deployments_cooling")), "{error}");
        assert!((least..=most).contains(&wait.unwrap()), "{headers}: {wait:?}");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains("limited the rate with status 429") && message.contains("next attempt in"),
            "{message}"
        );
        assert_eq!((status(&gateway, "b").await, status(&gateway, "c").await), (200, 200));
        assert_eq!(limited.seen().len(), 3, "{headers}");
    }
}

#[tokio::test]
async fn limits_of_two_models_cool_down_the_key_and_so_does_an_account_without_means() {
    let limited = server(|_, _| refusal(429, "retry-after: 40\r\n")).await;
    let gateway = one(&limited.v1(), json!({}));
    assert_eq!((status(&gateway, "a").await, status(&gateway, "b").await), (429, 429));
    assert_eq!(status(&gateway, "c").await, 503, "now it is the whole key");
    assert_eq!(limited.seen().len(), 2);

    for (code, body) in [(429, "insufficient_quota"), (402, "no_credits")] {
        let step = json(code, "", &json!({"error": {"message": "nothing left", "code": body}}));
        let empty = server(move |_, _| step.clone()).await;
        let gateway = one(&empty.v1(), json!({}));
        let (status_of_a, error, wait) = told(&gateway, "a").await;
        assert_eq!((status_of_a, &error["code"]), (429, &json!("insufficient_quota")), "{error}");
        let shows_words = error["message"].as_str().unwrap().contains("nothing left");
        assert_eq!((shows_words, wait.is_some()), (code == 429, true), "{error}");
        assert_eq!(status(&gateway, "b").await, 503);
        assert_eq!(empty.seen().len(), 1);
    }
}

#[tokio::test]
async fn of_several_keys_the_one_that_is_limited_or_rejected_cools_down() {
    for (code, cools_others) in [(429, false), (401, true)] {
        let upstream = server(move |model, key| match (model, key) {
            ("a", "Bearer key-one") => refusal(code, "retry-after: 40\r\n"),
            _ => good(),
        })
        .await;
        let gateway = one(&upstream.v1(), json!({"api_keys": ["${K1}", "${K2}"]}));
        for model in ["a", "b"] {
            for _ in 0..8 {
                let response =
                    gateway.post(CHAT, &says(model)).header("x-llm-session", "s").send().await.unwrap();
                assert_eq!(response.status(), 200, "{code}");
            }
        }
        let seen = upstream.seen();
        let with_first = |model: &str| {
            let of = seen.iter().filter(|seen| seen.json()["model"] == model);
            of.filter(|seen| seen.header("authorization") == Some("Bearer key-one")).count()
        };
        assert!(with_first("a") <= 1, "{code}");
        let routes = answer(gateway.get("/api/routes")).await.1;
        let resting = |model: &str| {
            let route =
                routes["routes"].as_array().unwrap().iter().find(|route| route["model"] == model).unwrap();
            route["candidates"][0]["resting_keys"].clone()
        };
        let met = with_first("a");
        assert_eq!(
            (resting("a"), resting("b")),
            (json!(met), json!(if cools_others { met } else { 0 })),
            "{code}"
        );
    }
}

#[tokio::test]
async fn a_rejected_key_is_left_alone_by_all_its_models_and_errors_say_so() {
    let rejecting = server(|_, _| refusal(401, "")).await;
    let gateway = one(&rejecting.v1(), json!({}));
    let (code, error, _) = told(&gateway, "a").await;
    assert_eq!((code, &error["code"]), (502, &json!("upstream_credentials")));
    let (code, error, wait) = told(&gateway, "b").await;
    let message = error["message"].as_str().unwrap();
    assert_eq!((code, rejecting.seen().len()), (503, 1), "{message}");
    assert!(
        message.contains("`up` rejected the key with 401 ") && message.contains(" s ago; next attempt in "),
        "{message}"
    );
    assert!((20..=30).contains(&wait.unwrap()), "{wait:?}");
}

#[tokio::test]
async fn a_forbidden_request_cools_down_nothing_until_three_in_a_row() {
    let flagged = json(403, "", &json!({"error": {"message": "Region not supported", "code": 403}}));
    let bad = server(move |model, _| if model == "b" { good() } else { flagged.clone() }).await;
    let spare = server(|_, _| good()).await;
    let provider = |url: String, models: Value| json!({"type": "openai", "base_url": url, "models": models});
    let gateway = Setup::new()
        .models(&json!({"providers": {
            "up": provider(bad.v1(), json!({"m": {"upstream": "a", "priority": 1}, "b": {}, "alone": {"upstream": "c"}})),
            "spare": provider(spare.v1(), json!({"m": {"priority": 2}})),
        }}))
        .start();
    let began = Instant::now();
    let mut attempts = Vec::new();
    for _ in 0..4 {
        let response = gateway.post(CHAT, &says("m")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        attempts.push(response.headers()["x-llm-attempts"].to_str().unwrap().to_owned());
    }
    assert!(attempts == ["2", "2", "2", "1"] || began.elapsed() > FIRST, "{attempts:?}");
    assert_eq!(status(&gateway, "b").await, 200, "other models are not concerned");
    for _ in 0..5 {
        let (code, error, _) = told(&gateway, "alone").await;
        assert_eq!(
            (code, &error["type"], &error["code"]),
            (403, &json!("permission_error"), &json!("upstream_forbidden"))
        );
        assert!(error["message"].as_str().unwrap().contains("Region not supported"), "{error}");
    }
}

#[tokio::test]
async fn a_single_dead_server_is_tried_by_each_request_and_used_as_soon_as_it_is_back() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gateway = one(&format!("http://{free}/v1"), json!({}));
    let mut longest = Duration::ZERO;
    for _ in 0..30 {
        let began = Instant::now();
        let (code, error, wait) = told(&gateway, "a").await;
        assert_eq!((code, &error["code"], wait), (502, &json!("upstream_unreachable"), Some(1)));
        longest = longest.max(began.elapsed());
    }
    assert!(longest < FIRST, "none waits for a cooldown: {longest:?}");
    let _back = Upstream::on(TcpListener::bind(free).await.unwrap(), |_| vec![good()]);
    assert_eq!(status(&gateway, "a").await, 200, "the first request finds it");

    for (code, headers) in [(500, ""), (503, "retry-after: 30\r\n")] {
        let failing = Moody::new(code, headers, Duration::ZERO).await;
        let gateway = one(&failing.upstream.v1(), json!({}));
        for asked in 1..=5 {
            let (told, _, wait) = told(&gateway, "a").await;
            assert_eq!((told, failing.asked()), (502, asked));
            assert!(
                wait.is_some_and(|wait| wait == 1 || (code == 503 && (20..=30).contains(&wait))),
                "{code}: {wait:?}"
            );
        }
        failing.is_now(200);
        assert_eq!(status(&gateway, "a").await, 200);
    }
}

#[tokio::test]
async fn requests_that_meet_an_attempt_wait_for_it_and_share_its_outcome() {
    let failing = Moody::new(500, "", Duration::from_millis(1500)).await;
    let routing = json!({"max_wait": 30});
    let provider = json!({"type": "openai", "base_url": failing.upstream.v1(), "models": {"m": {}}});
    let gateway = Setup::new().models(&json!({"providers": {"up": provider}, "routing": routing})).start();
    assert_eq!(status(&gateway, "m").await, 502);
    let asking: Vec<_> = (0..10).map(|_| told(&gateway, "m")).collect();
    for (code, error, _) in futures_util::future::join_all(asking).await {
        assert_eq!((code, &error["code"]), (502, &json!("upstream_unavailable")), "{error}");
    }
    // One attempt, whose outcome all had; another one for those who came too late for it.
    assert!((2..=3).contains(&failing.asked()), "{}", failing.asked());
    let asked = failing.asked();
    failing.is_now(200);
    let asking: Vec<_> = (0..10).map(|_| status(&gateway, "m")).collect();
    assert!(futures_util::future::join_all(asking).await.iter().all(|status| *status == 200));
    assert_eq!(failing.asked(), asked + 10);
}

#[tokio::test]
async fn a_deployment_that_failed_is_tried_again_when_the_other_one_cannot_answer() {
    let (first, second) =
        (Moody::new(500, "", Duration::ZERO).await, Moody::new(200, "", Duration::ZERO).await);
    let provider = |moody: &Moody, priority: u8| json!({"type": "openai", "base_url": moody.upstream.v1(), "models": {"m": {"priority": priority}}});
    let providers = json!({"first": provider(&first, 1), "second": provider(&second, 2)});
    let gateway = Setup::new().models(&json!({"providers": providers})).start();
    let began = Instant::now();
    for _ in 0..4 {
        assert_eq!(status(&gateway, "m").await, 200);
    }
    assert!(first.asked() == 1 || began.elapsed() > FIRST, "it is left out while another one answers");
    first.is_now(200);
    second.is_now(429);
    let response = gateway.post(CHAT, &says("m")).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-llm-provider"]),
        (200, &"first".parse().unwrap())
    );
}

#[tokio::test]
async fn a_model_that_takes_over_spares_the_one_that_failed_until_it_fails_itself() {
    let (first, second) =
        (Moody::new(500, "", Duration::ZERO).await, Moody::new(200, "", Duration::ZERO).await);
    let provider = |moody: &Moody, model: &str| json!({"type": "openai", "base_url": moody.upstream.v1(), "models": {model: {}}});
    let providers = json!({"first": provider(&first, "m"), "second": provider(&second, "n")});
    let models = json!({"providers": providers, "models": {"m": {"fallbacks": ["n"]}}});
    let gateway = Setup::new().models(&models).start();
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(status(&gateway, "m").await, 200);
    }
    assert!(first.asked() == 1 || began.elapsed() > FIRST);
    first.is_now(200);
    second.is_now(500);
    assert_eq!(status(&gateway, "m").await, 200, "when the other one fails, it is tried all the same");
}

#[tokio::test]
async fn a_changed_models_file_ends_the_cooldowns_that_it_may_have_cured_and_no_others() {
    let upstream = Upstream::start(|seen: &Seen| match seen.header("x-project") {
        Some("right") => vec![good()],
        _ => vec![refusal(401, "")],
    })
    .await;
    let models = |project: &str, more: &str| {
        let provider = |project: &str| json!({"type": "openai", "base_url": upstream.v1(), "headers": {"x-project": project}, "models": {"m": {}}});
        let mut other = provider("wrong");
        other["models"] = json!({"n": {}});
        json!({"providers": {"up": provider(project), "other": other}, "models": {"m": {"aliases": [more]}}, "routing": {"max_wait": 0}})
    };
    let gateway = Setup::new().models(&models("wrong", "x")).start();
    assert_eq!((status(&gateway, "m").await, status(&gateway, "n").await), (502, 502));
    let write = |text: String| std::fs::write(gateway.folder.path().join("models.json"), text).unwrap();
    write(models("wrong", "y").to_string());
    eventually("the alias is served", async || status(&gateway, "y").await != 404).await;
    assert_eq!(
        (status(&gateway, "m").await, upstream.seen().len()),
        (503, 2),
        "nothing of the provider has changed"
    );
    write(models("right", "y").to_string());
    eventually("its new header is used", async || status(&gateway, "m").await == 200).await;
    assert_eq!(status(&gateway, "n").await, 503);
}
