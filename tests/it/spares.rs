//! What several deployments and several keys are good for: slow ones are raced, long queues left, limits shared out.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::engine::fake_llama_server;
use crate::support::upstream::Seen;
use crate::support::{Gateway, Setup, Step, Upstream, answer, events_of, fixture, json, json_of};

const CHAT: &str = "/v1/chat/completions";

fn says(model: &str, stream: bool) -> Value {
    json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]})
}

/// Two providers of the model `m`, in this order.
fn two(first: &Upstream, second: &Upstream, routing: Value) -> Gateway {
    let provider = |upstream: &Upstream, priority: i32| json!({"type": "openai", "base_url": upstream.v1(), "models": {"m": {"priority": priority}}});
    let providers = json!({"first": provider(first, 1), "second": provider(second, 2)});
    Setup::new().models(&json!({"providers": providers, "routing": routing})).start()
}

/// Who answered, and how many were asked.
async fn ask(gateway: &Gateway, body: &Value) -> (String, String) {
    let response = gateway.post(CHAT, body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    let told = (header("x-llm-provider"), header("x-llm-attempts"));
    response.bytes().await.unwrap();
    told
}

async fn good() -> Upstream {
    Upstream::start(|request| {
        let is_stream = request.json()["stream"] == json!(true);
        vec![Step::Send(fixture(if is_stream { "openai/chat_stream_usage" } else { "openai/chat" }))]
    })
    .await
}

#[tokio::test]
async fn a_slow_deployment_is_raced_and_given_up() {
    let second = good().await;
    for stream in [false, true] {
        let mut slow = Upstream::answering(Step::Hold).await;
        let gateway = two(&slow, &second, json!({"hedge_after": 0.3}));
        let started = Instant::now();
        assert_eq!(ask(&gateway, &says("m", stream)).await, ("second".to_owned(), "2".to_owned()));
        assert!(started.elapsed() >= Duration::from_millis(300));
        let left = slow.left().await;
        assert!(left < Instant::now() && left.duration_since(started) < Duration::from_millis(1500));
        let metrics = gateway.get("/metrics").send().await.unwrap().text().await.unwrap();
        assert!(metrics.contains(r#"provider="first",model="m",outcome="outrun"} 1"#), "{metrics}");
        let routes = json_of(gateway.get("/api/routes").send().await.unwrap()).await;
        let candidate = &routes["routes"][0]["candidates"][0];
        assert_eq!((&candidate["failed"], &candidate["rests_for_seconds"]), (&json!(0), &json!(null)));
    }
}

#[tokio::test]
async fn keys_share_the_load_and_a_limited_one_rests_alone() {
    let upstream = Upstream::start(|request: &Seen| match request.header("authorization") {
        Some("Bearer key-a") => {
            vec![json(429, "retry-after: 60\r\n", &json!({"error": {"message": "slowly"}}))]
        }
        _ => vec![Step::Send(fixture("openai/chat"))],
    })
    .await;
    let provider = json!({"type": "openai", "base_url": upstream.v1(), "models": {"m": {}},
        "api_keys": ["${KEY_A}", "${KEY_B}", "${KEY_C}"]});
    let setup = ["a", "b", "c"].into_iter().fold(Setup::new(), |setup, name| {
        setup.variable(&format!("KEY_{}", name.to_uppercase()), &format!("key-{name}"))
    });
    let models = json!({"providers": {"up": provider}, "models": {"m": {"affinity": false}}});
    let gateway = setup.models(&models).start();
    for _ in 0..9 {
        assert_eq!(ask(&gateway, &says("m", false)).await.0, "up");
    }
    let used = |key: &str| {
        let bearer = format!("Bearer {key}");
        upstream.seen().iter().filter(|seen| seen.header("authorization") == Some(&*bearer)).count()
    };
    assert_eq!(used("key-a"), 1);
    assert!(used("key-b") >= 3 && used("key-c") >= 3, "{} and {}", used("key-b"), used("key-c"));
    let routes = json_of(gateway.get("/api/routes").send().await.unwrap()).await;
    let candidate = &routes["routes"][0]["candidates"][0];
    assert_eq!((&candidate["keys"], &candidate["resting_keys"]), (&json!(3), &json!(1)));
    assert!(!routes.to_string().contains("key-"), "{routes}");
}

#[tokio::test]
async fn a_provider_all_of_whose_keys_rest_is_shown_as_resting() {
    let upstream =
        Upstream::start(|_| vec![json(429, "retry-after: 60\r\n", &json!({"error": {"message": "slowly"}}))])
            .await;
    let provider = json!({"type": "openai", "base_url": upstream.v1(), "models": {"m": {}}, "api_keys": ["${A}", "${B}"]});
    let setup = Setup::new().variable("A", "key-a").variable("B", "key-b");
    let gateway = setup.models(&json!({"providers": {"up": provider}})).start();
    assert_eq!(answer(gateway.post(CHAT, &says("m", false))).await.0, 429);
    for told in [
        json_of(gateway.get("/api/routes").send().await.unwrap()).await["routes"][0].clone(),
        answer(gateway.post("/api/explain", &says("m", false))).await.1,
    ] {
        let candidate = &told["candidates"][0];
        assert_eq!(candidate["resting_keys"], json!(2));
        assert!(candidate["reason"].as_str().unwrap().starts_with("rests for "), "{candidate}");
        assert!(candidate["rests_for_seconds"].as_f64().unwrap() > 50.0, "{candidate}");
    }
}

#[tokio::test]
async fn a_providers_time_holds_for_the_first_content_of_a_stream() {
    let slow = Upstream::start(|_| {
        let late = Step::Pause(Duration::from_secs(2));
        vec![late, Step::Send(fixture("openai/chat_stream_usage"))]
    })
    .await;
    let second = good().await;
    let with = |timeout: Value| {
        let mut first = json!({"type": "openai", "base_url": slow.v1(), "models": {"m": {"priority": 1}}});
        first["timeout"] = timeout;
        let second = json!({"type": "openai", "base_url": second.v1(), "models": {"m": {"priority": 2}}});
        Setup::new().models(&json!({"providers": {"first": first, "second": second}}))
    };
    // The longer of both times is never the one that holds, wherever they are said.
    let by_settings = with(Value::Null).env("TIMEOUT", "0.5").env("FIRST_TOKEN_TIMEOUT", "30");
    for setup in [with(json!(0.5)), by_settings] {
        let gateway = setup.start();
        let started = Instant::now();
        assert_eq!(ask(&gateway, &says("m", true)).await, ("second".to_owned(), "2".to_owned()));
        assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    }
}

#[test]
fn keys_that_make_no_sense_are_faults() {
    for (members, told) in [
        (json!({"api_key": "${K}", "api_keys": ["${K}"]}), "write all of them as `api_keys`"),
        (json!({"api_keys": ["${NOPE}"]}), "NOPE"),
    ] {
        let mut provider =
            json!({"type": "openai", "base_url": "http://127.0.0.1:9/v1", "models": {"m": {}}});
        provider.as_object_mut().unwrap().extend(members.as_object().cloned().unwrap());
        let setup = Setup::new().variable("K", "k").models(&json!({"providers": {"up": provider}}));
        let ended = setup.run(&["check"]);
        assert!(ended.code == Some(1) && ended.stderr.contains(told), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_mended_key_need_not_wait_for_the_rest_of_the_one_before() {
    let upstream = Upstream::start(|request: &Seen| match request.header("authorization") {
        Some("Bearer right") => vec![Step::Send(fixture("openai/chat"))],
        _ => vec![json(401, "", &json!({"error": {"message": "wrong key"}}))],
    })
    .await;
    let models = |key: &str| {
        json!({"providers": {"up": {"type": "openai", "base_url": upstream.v1(), "api_key": key, "models": {"m": {}}}},
            "routing": {"max_wait": 0}})
    };
    let gateway = Setup::new().models(&models("wrong")).start();
    let status = async || gateway.post(CHAT, &says("m", false)).send().await.unwrap().status().as_u16();
    assert_eq!((status().await, status().await), (502, 503));
    std::fs::write(gateway.folder.path().join("models.json"), models("right").to_string()).unwrap();
    crate::support::eventually("the new key is used", async || status().await == 200).await;
}

#[tokio::test]
async fn a_prompt_too_long_for_one_goes_to_one_with_more_room() {
    let small = Upstream::answering(Step::Send(fixture("vllm/err_context"))).await;
    let large = good().await;
    let provider = |upstream: &Upstream, priority: i32, context: u64| json!({"type": "vllm", "base_url": upstream.v1(), "models": {"m": {"priority": priority, "context": context}}});
    for (context, status, asked) in [(100_000, 200, 1), (50, 400, 0)] {
        let providers = json!({"small": provider(&small, 1, 2000), "large": provider(&large, 2, context)});
        let gateway = Setup::new().models(&json!({"providers": providers})).start();
        let before = large.seen().len();
        let response = gateway.post(CHAT, &says("m", false)).send().await.unwrap();
        assert_eq!((response.status().as_u16(), large.seen().len() - before), (status, asked));
        let routes = json_of(gateway.get("/api/routes").send().await.unwrap()).await;
        assert!(routes["routes"][0]["candidates"][0]["rests_for_seconds"].is_null(), "{routes}");
    }
}

#[tokio::test]
async fn explain_says_who_does_not_take_the_request() {
    let model = |priority: i32, supports: Value| json!({"m": {"priority": priority, "supports": supports}});
    let echo = |models: Value| json!({"type": "echo", "models": models});
    let providers = json!({"a": echo(model(1, json!({"images": false}))), "b": echo(model(2, json!({})))});
    let gateway = Setup::new().models(&json!({"providers": providers})).start();
    let image = json!([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]);
    let body = json!({"model": "m", "messages": [{"role": "user", "content": image}]});
    let way = answer(gateway.post("/api/explain", &body)).await.1;
    let candidates: Vec<(&Value, &Value)> = way["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|candidate| (&candidate["provider"], &candidate["reason"]))
        .collect();
    let last = json!("is asked last: it does not take images");
    assert_eq!(candidates, [(&json!("b"), &json!("can be asked")), (&json!("a"), &last)]);
    assert_eq!(ask(&gateway, &body).await.0, "b");
    assert_eq!(ask(&gateway, &says("m", true)).await.0, "a");
}

/// An engine that takes its time to load, and a server far away, for the same model.
fn engine_and_cloud(cloud: &Upstream, routing: Value) -> Gateway {
    let setup = Setup::new();
    let runtime = setup.path(".").display().to_string();
    let args = json!(["--fake-load-ms", "1500"]);
    let providers = json!({
        "local": {"type": "llamacpp", "binary": fake_llama_server(),
            "models": {"m": {"priority": 1, "variants": [{"context": 1024, "args": args}]}}},
        "cloud": {"type": "openai", "base_url": cloud.v1(), "models": {"m": {"priority": 2}}},
    });
    let models = json!({"providers": providers, "routing": routing});
    setup.models(&models).variable("XDG_RUNTIME_DIR", &runtime).start()
}

#[tokio::test]
async fn a_long_queue_overflows_to_another_and_the_engine_goes_on_loading() {
    let cloud = good().await;
    let gateway = engine_and_cloud(&cloud, json!({"overflow_after": 0.2}));
    let started = Instant::now();
    assert_eq!(ask(&gateway, &says("m", true)).await, ("cloud".to_owned(), "2".to_owned()));
    assert!(started.elapsed() < Duration::from_millis(1400), "{:?}", started.elapsed());
    crate::support::eventually("the engine answers", async || {
        ask(&gateway, &says("m", true)).await == ("local".to_owned(), "1".to_owned())
    })
    .await;
    let routes = json_of(gateway.get("/api/routes").send().await.unwrap()).await;
    assert!(routes["routes"][0]["candidates"][0]["rests_for_seconds"].is_null(), "{routes}");
}

#[tokio::test]
async fn who_overflows_in_vain_comes_back_to_the_queue() {
    let refusal = json(503, "retry-after: 300\r\n", &json!({"error": {"message": "no"}}));
    let cloud = Upstream::answering(refusal).await;
    let gateway = engine_and_cloud(&cloud, json!({"overflow_after": 0.2}));
    assert_eq!(ask(&gateway, &says("m", true)).await, ("local".to_owned(), "3".to_owned()));
    // Now the other one rests, and the queue is all there is.
    answer(gateway.post("/api/engines/m/unload", &json!({}))).await;
    let stopped = gateway.logged("The engine is stopped");
    assert!(stopped.contains("it is unloaded"), "{stopped}");
    let events = events_of(gateway.post(CHAT, &says("m", true))).await;
    assert_eq!(events.last().unwrap(), &json!("[DONE]"));
    assert_eq!(cloud.seen().len(), 1);
}

#[tokio::test]
async fn who_has_tried_before_is_told_not_to_try_again() {
    let failing = Upstream::answering(json(401, "", &json!({"error": {"message": "no"}}))).await;
    let provider = json!({"type": "openai", "base_url": failing.v1(), "models": {"m": {}}});
    let gateway =
        Setup::new().models(&json!({"providers": {"up": provider}, "routing": {"max_wait": 0}})).start();
    let told = async |retries: &str| {
        let request = gateway.post(CHAT, &says("m", false)).header("x-stainless-retry-count", retries);
        let response = request.send().await.unwrap();
        let header = response.headers().get("x-should-retry").map(|value| value.to_str().unwrap().to_owned());
        (response.status().as_u16(), header)
    };
    assert_eq!(told("0").await, (502, None), "the first failure is the client's to try again");
    assert_eq!(told("0").await, (503, Some("true".to_owned())));
    assert_eq!(told("1").await, (503, Some("false".to_owned())));
    let mistake = gateway.post(CHAT, &json!({})).header("x-stainless-retry-count", "1").send().await.unwrap();
    assert!(mistake.headers().get("x-should-retry").is_none());
}
