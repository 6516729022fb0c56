//! Callers with keys, as they see it: who may pass, how much, and what is written down of it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, Step, Upstream, answer, eventually, fixture, json_of};

const CHAT: &str = "/v1/chat/completions";
const ADMIN: &str = "an-admin-key-of-some-length";

fn says(model: &str) -> Value {
    json!({"model": model, "max_tokens": 20, "messages": [{"role": "user", "content": "Hi"}]})
}

/// A service that asks for keys, before these models of the echo provider.
fn keyed(more: Value) -> Setup {
    let models = json!({"echo": {}, "other": {"upstream": "echo"}});
    let mut file = json!({"providers": {"echo": {"type": "echo", "models": models}}});
    file.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    Setup::new().models(&file).env("AUTH", "keys").env("ADMIN_KEY", ADMIN)
}

async fn make(gateway: &Gateway, key: Value) -> (String, String) {
    let made = answer(gateway.post("/admin/keys", &key).header("x-admin-key", ADMIN)).await;
    assert_eq!(made.0, 200, "{}", made.1);
    (made.1["key"].as_str().unwrap().to_owned(), made.1["id"].as_str().unwrap().to_owned())
}

async fn ask(gateway: &Gateway, key: &str, body: &Value) -> reqwest::Response {
    gateway.post(CHAT, body).bearer_auth(key).send().await.unwrap()
}

async fn usage(gateway: &Gateway, by: &str) -> Vec<Value> {
    let path = format!("/admin/usage?group_by={by}");
    let told = answer(gateway.get(&path).header("x-admin-key", ADMIN)).await.1;
    told["rows"].as_array().unwrap_or_else(|| panic!("{told}")).clone()
}

#[tokio::test]
async fn nobody_passes_without_a_key_but_to_what_is_open() {
    let gateway = keyed(json!({})).start();
    for open in ["/livez", "/readyz", "/api/ping", "/metrics", "/docs", "/openapi.json"] {
        assert_eq!(gateway.get(open).send().await.unwrap().status(), 200, "{open}");
    }
    for closed in ["/v1/models", "/api/tags", "/api/v1/models", "/api/routes", "/api/prompts", "/api/me"] {
        let refused = gateway.get(closed).send().await.unwrap();
        assert_eq!(
            (refused.status(), &refused.headers()["www-authenticate"]),
            (401.try_into().unwrap(), &"Bearer".try_into().unwrap())
        );
        assert_eq!(json_of(refused).await["error"]["code"], "missing_api_key", "{closed}");
    }
    for wrong in [ADMIN, "sk-1", &format!("llmp_{}", "a".repeat(43))] {
        let refused = ask(&gateway, wrong, &says("echo")).await;
        assert_eq!(refused.status(), 401);
        assert_eq!(json_of(refused).await["error"]["code"], "invalid_api_key");
    }
    let (key, _) = make(&gateway, json!({"name": "one"})).await;
    assert_eq!(ask(&gateway, &key, &says("echo")).await.status(), 200);
    for header in ["x-api-key", "api-key"] {
        assert_eq!(
            gateway.post(CHAT, &says("echo")).header(header, &key).send().await.unwrap().status(),
            200
        );
    }
    assert!(!gateway.log().contains(&key[5..]));
}

#[tokio::test]
async fn the_model_of_all_is_that_of_the_allowed_ones() {
    let models = json!({"plain": {"upstream": "plain-7b", "score_adjustment": 10}, "fine": {"upstream": "fine-70b", "score_adjustment": 90}});
    let providers = json!({"providers": {"one": {"type": "echo", "models": models}, "echo": {"type": "echo", "models": {"echo": {}}}}});
    let gateway = keyed(providers.clone()).start();
    let by = async |key: &str| {
        let answered = ask(&gateway, key, &says("priority-auto")).await;
        (answered.status().as_u16(), answered.headers().get("x-llm-model").cloned())
    };
    let (wide, _) = make(&gateway, json!({"name": "wide"})).await;
    assert_eq!(by(&wide).await, (200, Some("fine-70b".parse().unwrap())));
    let (narrow, _) = make(&gateway, json!({"name": "narrow", "allowed_models": ["plain"]})).await;
    assert_eq!(by(&narrow).await, (200, Some("plain-7b".parse().unwrap())), "its name need not be allowed");
    let explained =
        async |model: &str| answer(gateway.post("/api/explain", &says(model)).bearer_auth(&narrow)).await;
    assert_eq!(explained("priority-auto").await.1["candidates"].as_array().unwrap().len(), 1);
    assert_eq!(explained("fine").await.0, 403);
    let listed = async |key: &str| {
        let list = answer(gateway.get("/v1/models").bearer_auth(key)).await.1;
        let ids = list["data"].as_array().unwrap().iter().map(|card| card["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(listed(&wide).await, ["plain", "fine", "echo", "priority-auto"]);
    assert_eq!(listed(&narrow).await, ["plain", "priority-auto"]);
    let card = async |key: &str| answer(gateway.get("/v1/models/priority-auto").bearer_auth(key)).await.0;
    assert_eq!(card(&narrow).await, 200);
    let routes = answer(gateway.get("/api/routes").bearer_auth(&narrow)).await.1;
    assert_eq!(routes["routes"].as_array().unwrap().len(), 1, "{routes}");
    let (none, _) = make(&gateway, json!({"name": "none", "allowed_models": ["priority-auto"]})).await;
    assert_eq!(by(&none).await.0, 403, "there is nothing that it may use");
    assert_eq!((listed(&none).await, card(&none).await), (Vec::new(), 403));

    let mut limited = providers;
    limited["limits"] = json!({"models": {"fine": {"requests_per_minute": 1}}});
    let gateway = keyed(limited).start();
    let (wide, _) = make(&gateway, json!({"name": "wide"})).await;
    let answered = ask(&gateway, &wide, &says("priority-auto")).await;
    assert_eq!(answered.headers()["x-llm-model"], "plain-7b", "a limit is not gone round");
}

#[tokio::test]
async fn whoever_holds_a_key_may_ask_about_it_whatever_else_it_may_ask() {
    let gateway = keyed(json!({})).start();
    let (key, id) = make(&gateway, json!({"name": "narrow", "allowed_endpoints": ["/v1/*"]})).await;
    let me = answer(gateway.get("/api/me").bearer_auth(&key)).await;
    assert_eq!((me.0, &me.1["id"]), (200, &json!(id)));
    assert_eq!(answer(gateway.get("/api/me/usage").bearer_auth(&key)).await.0, 200);
    assert_eq!(answer(gateway.get("/api/tags").bearer_auth(&key)).await.0, 403);
}

#[tokio::test]
async fn a_new_key_says_what_makes_sense_and_the_audit_tells_all_of_it() {
    let gateway = keyed(json!({})).start();
    let new = |key: Value| answer(gateway.post("/admin/keys", &key).header("x-admin-key", ADMIN));
    let refused = new(json!({"name": "late", "expires_at": "2020-01-01"})).await;
    assert_eq!((refused.0, &refused.1["error"]["param"]), (400, &json!("expires_at")));
    make(&gateway, json!({"name": "k", "limits": {"requests_per_minute": 5}, "allowed_models": ["echo"]}))
        .await;
    let audit = answer(gateway.get("/admin/audit?limit=1").header("x-admin-key", ADMIN)).await.1;
    let detail = &audit["entries"][0]["detail"];
    assert_eq!((&detail["name"], &detail["allowed_models"]), (&json!("k"), &json!(["echo"])), "{audit}");
    assert_eq!(detail["limits"]["requests_per_minute"], 5);
    assert!(detail.get("budget").is_none() && detail.get("disabled").is_none(), "{detail}");
}

#[tokio::test]
async fn a_key_may_use_what_it_is_allowed_and_nothing_else() {
    let gateway = keyed(json!({"models": {"other": {"fallbacks": ["echo"]}}})).start();
    let allowed = json!({"name": "narrow", "allowed_models": ["ec*"], "allowed_endpoints": ["/v1/*"], "language": "pl"});
    let (key, _) = make(&gateway, allowed).await;
    assert_eq!(ask(&gateway, &key, &says("echo")).await.status(), 200);
    let refused = ask(&gateway, &key, &says("other")).await;
    assert_eq!(refused.status(), 403);
    assert_eq!(json_of(refused).await["error"]["code"], "model_not_allowed");
    assert_eq!(ask(&gateway, &key, &says("other,echo")).await.status(), 200, "the other one is left out");
    let models = answer(gateway.get("/v1/models").bearer_auth(&key)).await.1;
    let ids: Vec<&Value> = models["data"].as_array().unwrap().iter().map(|card| &card["id"]).collect();
    assert_eq!(ids, ["echo", "priority-auto"]);
    let refused = answer(gateway.get("/api/tags").bearer_auth(&key)).await;
    assert_eq!((refused.0, &refused.1["error"]["code"]), (403, &json!("endpoint_not_allowed")));
    let raw = json!({"provider": "echo", "path": "/v1/chat/completions", "body": says("other")});
    let (wide, _) =
        make(&gateway, json!({"name": "raw", "allowed_models": ["ec*"], "allowed_endpoints": ["/api/*"]}))
            .await;
    let refused = answer(gateway.post("/api/passthrough", &raw).bearer_auth(&wide)).await;
    assert_eq!((refused.0, &refused.1["error"]["code"]), (403, &json!("model_not_allowed")));

    let body = json!({"model_name": "echo", "user_last_statement": "Hi", "stream": false});
    let (polish, _) = make(&gateway, json!({"name": "polish", "language": "pl"})).await;
    let told = answer(
        gateway
            .post("/api/conversation_with_model", &body)
            .bearer_auth(&polish)
            .header("accept-language", "en"),
    )
    .await;
    assert_eq!(told.1["prompt"]["language"], "pl", "{}", told.1);
}

#[tokio::test]
async fn limits_let_through_what_they_say_and_tell_what_is_left() {
    let gateway = keyed(json!({})).start();
    let (key, _) = make(&gateway, json!({"name": "l", "limits": {"requests_per_minute": 20}})).await;
    let brief = json!({"model": "echo", "messages": [{"role": "user", "content": "x"}]});
    let asked = (0..60).map(|_| ask(&gateway, &key, &brief));
    let answers = futures_util::future::join_all(asked).await;
    assert_eq!(answers.iter().filter(|answer| answer.status() == 200).count(), 20);
    let refused = answers.iter().find(|answer| answer.status() == 429).unwrap();
    assert_eq!(refused.headers()["x-ratelimit-limit-requests"], "20");
    assert_eq!(refused.headers()["x-ratelimit-remaining-requests"], "0");
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((55..=61).contains(&wait), "{wait}");

    let (tokens, _) = make(&gateway, json!({"name": "t", "limits": {"tokens_per_minute": 1000}})).await;
    let answer = ask(&gateway, &tokens, &says("echo")).await;
    assert_eq!(
        (answer.status(), &answer.headers()["x-ratelimit-limit-tokens"]),
        (200.try_into().unwrap(), &"1000".try_into().unwrap())
    );
    let refused = ask(
        &gateway,
        &tokens,
        &json!({"model": "echo", "max_tokens": 990, "messages": [{"role": "user", "content": "x"}]}),
    )
    .await;
    assert_eq!(json_of(refused).await["error"]["code"], "request_exceeds_limit");
}

#[tokio::test]
async fn two_hundred_at_once_do_not_exceed_a_limit_of_tokens() {
    let upstream = Upstream::answering(Step::Send(fixture("openai/chat"))).await;
    let providers = json!({"up": {"type": "openai", "base_url": upstream.v1(), "models": {"m": {}}}});
    let setup = Setup::new().env("AUTH", "keys").env("ADMIN_KEY", ADMIN);
    let gateway = setup.models(&json!({"providers": providers})).start();
    let (key, _) = make(&gateway, json!({"name": "k", "limits": {"tokens_per_minute": 2000}})).await;
    let body = says("m");
    let asked = (0..200).map(|_| ask(&gateway, &key, &body));
    let answers = futures_util::future::join_all(asked).await;
    let answered = answers.iter().filter(|answer| answer.status() == 200).count() as u64;
    // What the recorded answer says that it used.
    let each = 27;
    assert!(answered > 20 && answered * each <= 2000, "{answered}");
}

#[tokio::test]
async fn a_budget_ends_and_says_so() {
    let gateway = keyed(json!({})).start();
    let budget = json!({"name": "b", "budget": {"tokens": 3, "period": "day"}});
    let (key, _) = make(&gateway, budget).await;
    assert_eq!(ask(&gateway, &key, &says("echo")).await.status(), 200);
    let mut refused = ask(&gateway, &key, &says("echo")).await;
    while refused.status() == 200 {
        refused = ask(&gateway, &key, &says("echo")).await;
    }
    assert_eq!(
        (refused.status(), &refused.headers()["x-should-retry"]),
        (429.try_into().unwrap(), &"false".try_into().unwrap())
    );
    let error = json_of(refused).await["error"].clone();
    assert_eq!((&error["code"], &error["type"]), (&json!("budget_exhausted"), &json!("insufficient_quota")));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("the next begins at 2") && message.ends_with(":00Z"), "{message}");
    let me = answer(gateway.get("/api/me").bearer_auth(&key)).await.1;
    assert!(me["budget"]["spent_tokens"].as_u64().unwrap_or_else(|| panic!("{me}")) >= 3);
}

#[tokio::test]
async fn what_is_spent_outlives_the_process() {
    let mut gateway = keyed(json!({})).start();
    let (key, id) = make(&gateway, json!({"name": "b", "budget": {"tokens": 4, "period": "month"}})).await;
    while ask(&gateway, &key, &says("echo")).await.status() == 200 {}
    gateway.signal("TERM");
    gateway.ended().await;
    let gateway = gateway.again();
    assert_eq!(ask(&gateway, &key, &says("echo")).await.status(), 429);
    let rows = usage(&gateway, "key").await;
    assert_eq!(rows.iter().filter(|row| row["key"] == *id).count(), 1, "{rows:?}");
}

#[tokio::test]
async fn a_key_that_is_disabled_or_deleted_opens_nothing_at_once() {
    let gateway = keyed(json!({})).start();
    let (key, id) = make(&gateway, json!({"name": "k"})).await;
    let path = format!("/admin/keys/{id}");
    let change = gateway.http().patch(format!("{}{path}", gateway.base())).header("x-admin-key", ADMIN);
    let disabled =
        change.header("content-type", "application/json").body(json!({"disabled": true}).to_string());
    assert_eq!(disabled.send().await.unwrap().status(), 200);
    assert_eq!(ask(&gateway, &key, &says("echo")).await.status(), 401);

    let (key, id) = make(&gateway, json!({"name": "k2"})).await;
    // By another process, on the same store.
    let ended = gateway.run(&["keys", "delete", &id]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let began = std::time::Instant::now();
    eventually("the key is revoked", async || ask(&gateway, &key, &says("echo")).await.status() == 401).await;
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn every_end_of_a_request_is_in_the_ledger() {
    let upstream = Upstream::start(|seen| {
        let said = seen.json()["messages"][0]["content"].as_str().unwrap().to_owned();
        let whole = fixture("openai/chat_stream_usage");
        match said.as_str() {
            "cut" => vec![Step::Send(whole[..whole.len() / 2].to_vec()), Step::Close],
            "slow" => vec![Step::Send(whole[..whole.len() / 2].to_vec()), Step::Hold],
            _ if seen.json()["stream"] == json!(true) => vec![Step::Send(whole), Step::Close],
            _ => vec![Step::Send(fixture("openai/chat"))],
        }
    })
    .await;
    let prices =
        json!({"currency": "USD", "prices": [{"model": "m", "input": 1_000_000.0, "output": 2_000_000.0}]});
    let providers =
        json!({"up": {"type": "openai", "base_url": upstream.v1(), "models": {"m": {}, "free": {}}}});
    let models = json!({"providers": providers, "prices": "prices.json", "routing": {"max_cooldown": 0.01}});
    let setup =
        Setup::new().env("AUTH", "keys").env("ADMIN_KEY", ADMIN).file("prices.json", &prices.to_string());
    let gateway = setup.models(&models).start();
    let (key, _) = make(&gateway, json!({"name": "k", "owner": "team"})).await;
    let body = |model: &str, said: &str, stream: bool| json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": said}]});
    for (model, said, stream) in
        [("m", "whole", false), ("m", "stream", true), ("m", "cut", true), ("free", "whole", false)]
    {
        let response = ask(&gateway, &key, &body(model, said, stream)).await;
        let _ = response.bytes().await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let mut leaving = ask(&gateway, &key, &body("m", "slow", true)).await;
    leaving.chunk().await.unwrap();
    drop(leaving);

    let mut rows = Vec::new();
    eventually("all are written", async || {
        rows = usage(&gateway, "model").await;
        rows.iter().map(|row| row["requests"].as_u64().unwrap()).sum::<u64>() == 5
    })
    .await;
    let of = |model: &str| rows.iter().find(|row| row["model"] == *model).unwrap().clone();
    let (m, free) = (of("m"), of("free"));
    assert_eq!((&m["cancelled"], &m["failed"]), (&json!(1), &json!(1)), "{m}");
    assert!(m["cost"].as_f64().unwrap() > 0.0 && m["completion_tokens"].as_u64().unwrap() > 0, "{m}");
    assert_eq!(free["unpriced_requests"], 1, "{free}");
    let owners = usage(&gateway, "owner").await;
    assert_eq!((owners.len(), &owners[0]["owner"]), (1, &json!("team")));
}

#[tokio::test]
async fn every_request_of_a_key_is_in_the_ledger_however_early_it_is_refused() {
    let limits = json!({"limits": {"models": {"other": {"requests_per_minute": 1}}}});
    let gateway = keyed(limits).env("MAX_BODY_BYTES", "1000").start();
    let (key, _) =
        make(&gateway, json!({"name": "k", "allowed_models": ["echo", "other"], "allowed_endpoints": ["*"]}))
            .await;
    let chat = |body: Value| gateway.post(CHAT, &body);
    let planted = json!({"model": "planted-name", "messages": [{"role": "user", "content": "Hi"}]});
    let prompt = json!({"model": "echo", "user_last_statement": "Hi", "prompt": "none"});
    let long = json!({"model": "echo", "messages": [{"role": "user", "content": "w ".repeat(1000)}]});
    let wrapped = json!({"provider": "planted-name", "path": "/v1/x"});
    for (request, status) in [
        (chat(says("other")), 200),
        (chat(says("other")), 429),
        (chat(json!({"model": "echo"})), 400),
        (chat(planted), 404),
        (chat(long), 413),
        (gateway.post("/api/conversation_with_model", &prompt), 404),
        (gateway.post("/v1/embeddings", &json!({"model": "planted-name", "input": "x"})), 404),
        (gateway.post("/api/translate", &json!({"model": "planted-name", "texts": ["x"]})), 404),
        (gateway.post("/api/passthrough", &wrapped), 404),
    ] {
        let told = answer(request.bearer_auth(&key)).await;
        assert_eq!(told.0, status, "{}", told.1);
    }
    // Who is not known leaves nothing, and what uses nothing neither.
    assert_eq!(ask(&gateway, "llmp_wrong", &says("echo")).await.status(), 401);
    for (path, body) in [
        ("/api/tokenize/count", json!({"model": "echo", "input": "Hi"})),
        ("/extras/tokenize/count", json!({"model": "planted-name", "input": "Hi"})),
        ("/api/explain", says("echo")),
    ] {
        let _ = gateway.post(path, &body).bearer_auth(&key).send().await.unwrap();
    }
    gateway.get("/v1/models").bearer_auth(&key).send().await.unwrap();
    // The last of all, which is written after the others.
    assert_eq!(ask(&gateway, &key, &says("echo")).await.status(), 200);

    let mut rows = Vec::new();
    eventually("all are written", async || {
        rows = usage(&gateway, "model").await;
        rows.iter().any(|row| row["model"] == "echo" && row["completion_tokens"] != 0)
    })
    .await;
    let told = |model: Value| {
        let row =
            rows.iter().find(|row| row["model"] == model).unwrap_or_else(|| panic!("{model}: {rows:?}"));
        [&row["requests"], &row["failed"], &row["completion_tokens"]].map(|count| count.as_u64().unwrap())
    };
    assert_eq!(told(json!(null))[..2], [6, 6], "{rows:?}");
    assert_eq!(told(json!("other"))[..2], [2, 1], "{rows:?}");
    assert_eq!(told(json!("echo"))[..2], [2, 1], "{rows:?}");
    assert_eq!(told(json!(null))[2], 0);
    assert_eq!(rows.len(), 3, "no word of a caller's is a name: {rows:?}");
}

#[tokio::test]
async fn a_secret_that_is_sent_as_a_requests_id_is_told_nowhere() {
    let gateway = keyed(json!({})).env("LOG_LEVEL", "DEBUG").start();
    let (secret, _) = make(&gateway, json!({"name": "k"})).await;
    for id in
        [secret.clone(), format!("of:{secret}"), format!("{ADMIN}.1"), "sk-0123456789abcdefgh".to_owned()]
    {
        let request = gateway.post("/v1/chat/completions", &says("echo")).bearer_auth(&secret);
        let answer = request.header("x-admin-key", ADMIN).header("x-request-id", &id).send().await.unwrap();
        let told = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert!(answer.status() == 200 && told.starts_with("req_"), "{told}");
        let log = gateway.logged(&told);
        assert!(log.contains("Request"), "{log}");
        assert!(!gateway.log().contains(&id), "it is in the log");
    }
}
