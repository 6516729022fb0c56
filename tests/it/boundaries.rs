//! What a key may not do: use another model by another spelling, act as an operator, or spend what nothing counts.

use serde_json::{Value, json};

use crate::support::{
    Events, Gateway, PATIENCE, Setup, Step, Upstream, answer, eventually, json, json_of, sse,
};

const ADMIN: &str = "an-admin-key-of-some-length";
const RAW: &str = "/api/passthrough/up";

/// Members by which some server would choose another model.
const SPELLINGS: &[&str] = &[
    r#""Model":"dear-up""#,
    r#""MODEL":"dear-up""#,
    r#""models":["dear-up"]"#,
    r#""fallbacks":["dear-up"]"#,
    r#""route":"fallback""#,
    r#""\u004dodel":"dear-up""#,
    r#""mode\u006cs":["dear-up"]"#,
    r#""model\u0000":"dear-up""#,
    r#""model ":"dear-up""#,
    r#""engine":"dear-up""#,
    r#""extra_body":{"model":"dear-up"}"#,
    r#""tools":[{"type":"image_generation","model":"dear-up"}]"#,
    r#""tools":[{"type":"function","function":{"name":"f"}},{"type":"x","models":["dear-up"],"y":1e999}]"#,
    r#""providerOptions":{"gateway":{"models":["dear-up"]}}"#,
    r#""mode\ufe0fl":"dear-up""#,
];

/// A provider `up` with a cheap and a dear model, behind a gateway that asks for keys.
fn setup(upstream: &Upstream) -> Setup {
    let models = json!({"cheap": {"upstream": "cheap-up"}, "dear": {"upstream": "dear-up"}});
    let up = json!({"type": "openai", "base_url": upstream.v1(), "models": models});
    let prices = json!({"prices": [
        {"model": "cheap-up", "input": 1.0, "output": 1.0},
        {"model": "dear-up", "input": 1000.0, "output": 1000.0},
        {"model": "painter", "request": 0.5},
    ]});
    Setup::new()
        .models(&json!({"providers": {"up": up}, "prices": "prices.json"}))
        .file("prices.json", &prices.to_string())
        .env("AUTH", "keys")
        .env("ADMIN_KEY", ADMIN)
}

async fn upstream() -> Upstream {
    let chat = json!({"id": "1", "object": "chat.completion", "model": "m", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
        "data": [{"embedding": [1.0]}], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}});
    Upstream::answering(json(200, "", &chat)).await
}

async fn make(gateway: &Gateway, mut key: Value) -> String {
    key["name"] = json!("k");
    let made = answer(gateway.post("/admin/keys", &key).header("x-admin-key", ADMIN)).await;
    assert_eq!(made.0, 200, "{}", made.1);
    made.1["key"].as_str().unwrap().to_owned()
}

/// Posts a body as it stands.
async fn post(gateway: &Gateway, key: &str, path: &str, kind: &str, body: &str) -> (u16, Value) {
    let request = gateway.http().post(format!("{}{path}", gateway.base()));
    answer(request.bearer_auth(key).header("content-type", kind).body(body.to_owned())).await
}

/// Bodies in which readers would find different models, or none.
fn unreadable(rest: &str) -> [String; 4] {
    [
        format!(r#"{{"model":"cheap",{rest},"model":"dear"}}"#),
        format!(r#"{{"model":"cheap",{rest},"mod\u0065l":"dear"}}"#),
        format!(r#"{{"model":["cheap","dear"],{rest}}}"#),
        format!(r#"{{"model":{{"cheap":1}},{rest}}}"#),
    ]
}

#[tokio::test]
async fn another_spelling_of_the_model_is_refused_to_keys_of_some_models_and_carried_for_others() {
    let upstream = upstream().await;
    let gateway = setup(&upstream).start();
    let bound = make(&gateway, json!({"allowed_models": ["cheap"]})).await;
    let free = make(&gateway, json!({})).await;
    for (path, rest) in [
        ("/v1/chat/completions", r#""messages":[{"role":"user","content":"x"}]"#),
        ("/api/chat", r#""stream":false,"messages":[{"role":"user","content":"x"}]"#),
        ("/v1/completions", r#""prompt":"x""#),
        ("/v1/embeddings", r#""input":"x""#),
    ] {
        for spelling in SPELLINGS {
            let body = format!(r#"{{"model":"cheap",{rest},{spelling}}}"#);
            let (status, error) = post(&gateway, &bound, path, "application/json", &body).await;
            assert_eq!(
                (status, &error["error"]["code"]),
                (403, &json!("model_not_allowed")),
                "{path} {body}: {error}"
            );
            assert!(error["error"]["param"].as_str().unwrap().len() > 4, "{error}");
        }
        let seen = upstream.seen().len();
        for spelling in SPELLINGS {
            let body = format!(r#"{{"model":"cheap",{rest},{spelling}}}"#);
            assert_eq!(post(&gateway, &free, path, "application/json", &body).await.0, 200, "{path} {body}");
            let carried = String::from_utf8(upstream.seen().pop().unwrap().body).unwrap();
            assert!(carried.contains(spelling), "{carried}");
        }
        assert_eq!(upstream.seen().len(), seen + SPELLINGS.len(), "what is refused is not sent");
        for body in unreadable(rest) {
            for key in [&bound, &free] {
                assert_eq!(
                    post(&gateway, key, path, "application/json", &body).await.0,
                    400,
                    "{path} {body}"
                );
            }
        }
    }
    let (status, _) = post(
        &gateway,
        &bound,
        "/v1/embeddings",
        "application/json",
        r#"{"model":"cheap","input":"x","user":"u"}"#,
    )
    .await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_raw_request_reaches_no_other_model_by_its_path_query_type_or_body() {
    let upstream = upstream().await;
    let gateway = setup(&upstream).start();
    let bound = make(&gateway, json!({"allowed_models": ["cheap"], "allowed_endpoints": ["/api/*"]})).await;
    let (chat, cheap) = ("/v1/chat/completions", r#"{"model":"cheap-up"}"#);
    let form = "application/x-www-form-urlencoded";
    for (path, kind, body) in [
        ("/openai/deployments/dear-up/chat/completions", "application/json", cheap),
        ("/openai/deployments/dear%2Dup/chat/completions", "application/json", "{}"),
        ("/v1beta/models/dear-up:generateContent", "application/json", "{}"),
        ("/v1beta/models/cheap-up:predict", "application/json", cheap),
        ("/v1/chat/completions?model=dear-up", "application/json", cheap),
        ("/v1/chat/completions?Mod%65l=dear-up", "application/json", cheap),
        (chat, form, r#"{"model":"cheap-up","x":"&model=dear-up&"}"#),
        (chat, "multipart/form-data; boundary=x", cheap),
        (chat, "application/json; charset=utf-7", cheap),
        (chat, "application/json", r#"{"model":"cheap-up","models":["dear-up"]}"#),
        (chat, "application/json", "\u{feff}{\"model\":\"cheap-up\"}"),
        (
            "/v1/responses",
            "application/json",
            r#"{"model":"cheap-up","tools":[{"type":"image_generation","model":"dear-up"}]}"#,
        ),
        (
            "/api/copy",
            "application/json",
            r#"{"model":"cheap-up","source":"dear-up","destination":"cheap-up"}"#,
        ),
        ("/api/create", "application/json", r#"{"model":"cheap-up","from":"dear-up"}"#),
        ("/api/delete", "application/json", cheap),
        ("/v1/fine_tuning/jobs", "application/json", cheap),
        ("/v1/batches", "application/json", cheap),
        ("/v1/chat%20/completions", "application/json", cheap),
    ] {
        let (status, error) = post(&gateway, &bound, &format!("{RAW}{path}"), kind, body).await;
        assert_eq!(
            (status, &error["error"]["code"]),
            (403, &json!("model_not_allowed")),
            "{path} {body}: {error}"
        );
    }
    let hinted =
        gateway.http().post(format!("{}{RAW}/v1/batches", gateway.base())).header("x-llm-model", "cheap");
    let (status, _) =
        answer(hinted.bearer_auth(&bound).header("content-type", "application/json").body("{}")).await;
    assert_eq!(status, 403, "the server does not read the header");
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
    for (path, body) in [
        (chat, cheap),
        ("/v1/c%68at/completions", cheap),
        ("/openai/deployments/cheap-up/chat/completions?api-version=1", "{}"),
        ("/v1beta/models/cheap-up:generateContent", r#"{"contents":[]}"#),
        ("/v1/images/generations", cheap),
        ("/api/embed", r#"{"model":"cheap-up:latest"}"#),
    ] {
        let (status, told) = post(&gateway, &bound, &format!("{RAW}{path}"), "application/json", body).await;
        assert_eq!(status, 200, "{path} {body}: {told}");
    }
}

#[tokio::test]
async fn what_a_model_costs_is_told_by_the_same_decision() {
    let upstream = upstream().await;
    let gateway = setup(&upstream).start();
    let key = make(&gateway, json!({"allowed_endpoints": ["*"]})).await;
    // The path names the dear one, whatever a header says of it.
    let request =
        gateway.http().post(format!("{}{RAW}/openai/deployments/dear-up/chat/completions", gateway.base()));
    let request =
        request.bearer_auth(&key).header("x-llm-model", "cheap").header("content-type", "application/json");
    assert_eq!(answer(request.body("{}")).await.0, 200);
    eventually("it is written", async || {
        let told = answer(gateway.get("/admin/usage?group_by=model").header("x-admin-key", ADMIN)).await.1;
        let row = &told["rows"][0];
        row["model"] == "dear" && (row["cost"].as_f64().unwrap_or(0.0) - 0.002).abs() < 1e-9
    })
    .await;
}

#[tokio::test]
async fn callers_are_no_operators_and_make_raw_requests_only_where_their_key_lists_them() {
    let upstream = upstream().await;
    let gateway = setup(&upstream).start();
    let plain = make(&gateway, json!({})).await;
    let other = make(&gateway, json!({"allowed_endpoints": ["/v1/*", "/api/engines*"]})).await;
    let listed = make(&gateway, json!({"allowed_endpoints": ["/api/passthrough/up/v1/*"]})).await;
    for (method, path) in [
        ("POST", "/api/engines/cheap/load"),
        ("POST", "/api/engines/cheap/unload"),
        ("POST", "/api/engines/org%2Fcheap/unload"),
        ("GET", "/api/engines/cheap/log"),
        ("HEAD", "/api/engines/cheap/log"),
        ("GET", "/api/engines/events"),
    ] {
        let ask = |key: &str| {
            let url = format!("{}{path}", gateway.base());
            gateway.http().request(method.parse().unwrap(), url).bearer_auth(key).send()
        };
        for key in [&plain, &other] {
            assert_eq!(ask(key).await.unwrap().status(), 401, "{method} {path}");
        }
        assert_ne!(ask(ADMIN).await.unwrap().status(), 401, "{method} {path}");
    }
    assert_eq!(answer(gateway.get("/api/engines").bearer_auth(&plain)).await.0, 200);

    let wrapped = json!({"provider": "up", "path": "/v1/files", "method": "GET"});
    for key in [&plain, &other] {
        for request in [gateway.get(&format!("{RAW}/v1/files")), gateway.post("/api/passthrough", &wrapped)] {
            let (status, error) = answer(request.bearer_auth(key)).await;
            assert_eq!((status, &error["error"]["code"]), (403, &json!("endpoint_not_allowed")), "{error}");
            assert!(error["error"]["message"].as_str().unwrap().contains("allowed_endpoints"), "{error}");
        }
    }
    assert!(upstream.seen().is_empty());
    assert_eq!(answer(gateway.get(&format!("{RAW}/v1/files")).bearer_auth(&listed)).await.0, 200);
    assert_eq!(answer(gateway.get(&format!("{RAW}/files")).bearer_auth(&listed)).await.0, 403);
    assert_eq!(answer(gateway.post("/api/passthrough", &wrapped).bearer_auth(&listed)).await.0, 403);

    let open = setup(&upstream).env("RAW_REQUESTS", "open").start();
    let plain = make(&open, json!({})).await;
    let listed = make(&open, json!({"allowed_endpoints": ["/v1/*"]})).await;
    assert_eq!(answer(open.get(&format!("{RAW}/v1/files")).bearer_auth(&plain)).await.0, 200);
    assert_eq!(answer(open.get(&format!("{RAW}/v1/files")).bearer_auth(&listed)).await.0, 403);
    let wrong = setup(&upstream).env("RAW_REQUESTS", "yes").run(&[]);
    assert!(
        wrong.code != Some(0)
            && wrong.stderr.contains("RAW_REQUESTS")
            && wrong.stderr.contains("listed or open")
    );

    let document = answer(gateway.get("/openapi.json")).await.1;
    let security = json!([{"AdminBearer": []}, {"AdminHeader": []}]);
    for (path, method) in [
        ("/api/engines/{model}/load", "post"),
        ("/api/engines/{model}/log", "get"),
        ("/api/engines/events", "get"),
    ] {
        assert_eq!(document["paths"][path][method]["security"], security, "{path}");
    }
    let callers = &document["paths"]["/api/engines"]["get"]["security"];
    assert_eq!(*callers, json!([{"CallerBearer": []}, {"CallerHeader": []}]));
}

#[tokio::test]
async fn a_budget_of_money_meets_no_raw_request_whose_cost_nothing_tells() {
    let upstream = Upstream::answering(json(200, "", &json!({"data": [{"url": "x"}]}))).await;
    let gateway = setup(&upstream).start();
    let budget = json!({"money": 1.0, "period": "day"});
    let key = make(&gateway, json!({"budget": budget, "allowed_endpoints": ["*"]})).await;
    let ask = async |path: &str, body: &str| {
        post(&gateway, &key, &format!("{RAW}{path}"), "application/json", body).await
    };
    for (path, body) in [
        ("/v1/images/generations", r#"{"model":"dear-up"}"#),
        // What names a limit of tokens reports none for that.
        ("/v1/images/generations", r#"{"model":"dear-up","max_tokens":5}"#),
        ("/v1/videos", r#"{"model":"unlisted"}"#),
        ("/v1/fine_tuning/jobs", "{}"),
        ("/v1/chat/completions", r#"{"model":"unlisted"}"#),
        ("/v1/chat/completions", r#"{"Model":"dear-up"}"#),
        // The price of a picture is none of another task, nor of another model.
        ("/v1/fine_tuning/jobs", r#"{"model":"painter","training_file":"f"}"#),
        ("/v1/images/generations?model=dear-up", r#"{"model":"painter"}"#),
        ("/v1/images/generations", r#"{"model":"painter","models":["dear-up"]}"#),
    ] {
        let (status, error) = ask(path, body).await;
        assert_eq!(
            (status, &error["error"]["code"]),
            (403, &json!("price_unknown")),
            "{path} {body}: {error}"
        );
    }
    let url = format!("{}{RAW}/v1/chat/completions", gateway.base());
    let hinted =
        gateway.http().post(url).bearer_auth(&key).header("x-llm-model", "cheap").body("model=dear-up");
    assert_eq!(answer(hinted).await.0, 403, "a header decides on no money");
    assert!(upstream.seen().is_empty());
    assert_eq!(
        answer(gateway.get(&format!("{RAW}/v1/files")).bearer_auth(&key)).await.0,
        200,
        "it makes nothing"
    );
    let paint = async || ask("/v1/images/generations", r#"{"model":"painter"}"#).await;
    assert_eq!([paint().await.0, paint().await.0], [200, 200]);
    let (status, error) = paint().await;
    assert_eq!((status, &error["error"]["code"]), (429, &json!("budget_exhausted")), "{error}");
    eventually("both are written", async || {
        let told = answer(gateway.get("/admin/usage?group_by=key").header("x-admin-key", ADMIN)).await.1;
        told["rows"][0]["cost"].as_f64().is_some_and(|cost| (cost - 1.0).abs() < 1e-9)
    })
    .await;
    let free = make(&gateway, json!({"allowed_endpoints": ["*"]})).await;
    let (status, _) = post(&gateway, &free, &format!("{RAW}/v1/videos"), "application/json", "{}").await;
    assert_eq!(status, 200, "a key without such a budget may");
    for (price, word) in [(json!({"model": "m", "request": -1}), "price"), (json!({"model": "m"}), "input")] {
        let checked =
            setup(&upstream).file("prices.json", &json!({"prices": [price]}).to_string()).run(&["check"]);
        assert!(checked.code == Some(1) && (checked.stdout + &checked.stderr).contains(word));
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_key_is_disabled_or_deleted() {
    let upstream = Upstream::start(|seen| {
        let mut steps = vec![sse(&[])];
        for _ in 0..400 {
            let chunk = json!({"id": "1", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": {"content": "x"}}]});
            steps.push(Step::Send(format!("data: {chunk}\n\n").into_bytes()));
            steps.push(Step::Pause(std::time::Duration::from_millis(50)));
        }
        if seen.path.contains("never") { Vec::new() } else { steps }
    })
    .await;
    let gateway = setup(&upstream).start();
    let body = json!({"model": "cheap", "stream": true, "messages": [{"role": "user", "content": "x"}]});
    for how in ["PATCH", "DELETE"] {
        let made = answer(
            gateway
                .post("/admin/keys", &json!({"name": "k", "allowed_endpoints": ["*"]}))
                .header("x-admin-key", ADMIN),
        )
        .await
        .1;
        let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
        let mut events =
            Events::of(gateway.post("/v1/chat/completions", &body).bearer_auth(key).send().await.unwrap());
        let raw = gateway.post(&format!("{RAW}/v1/chat/completions"), &json!({"model": "cheap-up"}));
        let mut raw = raw.bearer_auth(key).send().await.unwrap();
        assert!(events.next().await.unwrap().contains("\"x\""));
        assert!(raw.chunk().await.unwrap().is_some());
        let url = format!("{}/admin/keys/{id}", gateway.base());
        let change = gateway.http().request(how.parse().unwrap(), url).header("x-admin-key", ADMIN);
        let change =
            change.header("content-type", "application/json").body(json!({"disabled": true}).to_string());
        assert!(change.send().await.unwrap().status().is_success());
        let rest = tokio::time::timeout(PATIENCE / 2, events.rest()).await.expect("it goes on");
        assert!(rest.last().unwrap().contains("invalid_api_key"), "{rest:?}");
        let broken = async {
            while raw.chunk().await?.is_some() {}
            Ok::<_, reqwest::Error>(())
        };
        assert!(tokio::time::timeout(PATIENCE / 2, broken).await.expect("it goes on").is_err());
    }
}

#[tokio::test]
async fn names_of_callers_come_back_cut() {
    let gateway = Setup::new().start();
    let long = format!("\u{1b}[2J{}", "ż".repeat(200_000));
    let texts = json!({"role": "user", "content": "x"});
    for (path, body) in [
        ("/v1/chat/completions", json!({"model": long, "messages": [texts]})),
        (
            "/api/conversation_with_model",
            json!({"model": "echo", "user_last_statement": "x", "prompt": long}),
        ),
        (
            "/api/conversation_with_model",
            json!({"model": "echo", "user_last_statement": "x", "prompt": format!("translate@{long}")}),
        ),
        ("/api/passthrough", json!({"provider": long, "path": "/x"})),
        ("/api/passthrough", json!({"provider": "echo", "path": "/x", (long.clone()): 1})),
        ("/api/passthrough", json!({"provider": "echo", "path": "/x", "headers": {(long.clone()): "1"}})),
        ("/api/passthrough", json!({"provider": "echo", "path": "/x", "query": {(long.clone()): {}}})),
        ("/api/tokenize/count", json!({"model": long, "input": "x"})),
        ("/api/explain", json!({"model": long, "messages": [texts]})),
        ("/api/translate", json!({"model": long, "texts": ["x"]})),
        (
            "/api/generative_answer",
            json!({"model": "echo", "question": "x", "texts": {(long.clone()): [""]}}),
        ),
    ] {
        let response = gateway.post(path, &body).send().await.unwrap();
        assert!(response.status().is_client_error(), "{path}");
        let error = json_of(response).await.to_string();
        assert!(
            error.len() < 4000 && !error.contains("\\u001b"),
            "{path}: {} {}",
            error.len(),
            &error[..200]
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_a_provider_tells_are_held_to_the_same_rules_as_those_of_the_file() {
    let odd = ["a\nb", "a\0b", "\u{1b}[2J", "", " ", "r\u{202e}l", "zero\u{200b}width"];
    let mut all: Vec<Value> = odd.iter().map(|name| json!({"id": name})).collect();
    all.push(json!({"id": "x".repeat(100_000)}));
    all.extend((0..32_000).map(|number| json!({"id": format!("model-{number}")})));
    all.push(json!({"id": "model-1"}));
    let upstream = Upstream::answering(json(200, "", &json!({"data": all}))).await;
    let up = json!({"type": "openai", "base_url": upstream.v1(), "models": "discover"});
    let file = json!({"providers": {"up": up, "echo": {"type": "echo", "models": {"echo": {}}}}});
    let gateway = Setup::new().models(&file).start();
    let models = async || answer(gateway.get("/v1/models")).await.1["data"].as_array().unwrap().clone();
    eventually("they are served", async || models().await.len() > 1).await;
    let models = models().await;
    assert_eq!(models.len(), 10_000 + 2);
    let is_plain = |model: &Value| {
        let id = model["id"].as_str().unwrap();
        id.len() < 100 && id.chars().all(|letter| letter.is_ascii_graphic())
    };
    assert!(models.iter().all(is_plain));
    assert!(gateway.logged("too many models").contains("22001 are not"), "{}", gateway.log());
    let metrics = gateway.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.lines().all(|line| line.len() < 1000));
    let listed = gateway.run(&["models"]);
    let is_shown = |letter: char| letter == '\n' || !letter.is_control();
    assert!(listed.stdout.chars().all(is_shown) && listed.stderr.chars().all(is_shown));
    for name in odd {
        let file = json!({"providers": {"echo": {"type": "echo", "models": {name: {}}}}});
        assert_eq!(Setup::new().models(&file).run(&["check"]).code, Some(1), "{name:?}");
    }
}
