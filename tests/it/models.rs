//! Models that are switched off and on by whoever has the admin key: nobody reaches one that is off, by whatever way.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Events, Gateway, Setup, Step, Upstream, answer, eventually, json};

const ADMIN: &str = "planted-admin-key-of-the-tests";
const CHAT: &str = "/v1/chat/completions";

/// `m` with its alias and its fallback, `other` which falls back to it, and one with a slash in its name.
fn models() -> Value {
    let provider = |models: Value| json!({"type": "echo", "models": models});
    json!({
        "providers": {
            "one": provider(json!({"m": {"upstream": "up-m"}, "spare": {}, "org/slash": {}})),
            "two": provider(json!({"m": {"upstream": "up-m2", "priority": 2}})),
            "broken": {"type": "echo", "models": {"other": {"defaults": {"echo": {"status": 503}}}}}
        },
        "models": {"m": {"aliases": ["small"]}, "other": {"fallbacks": ["m", "spare"]}},
        "routing": {"max_cooldown": 0.000_001}
    })
}

fn setup() -> Setup {
    Setup::new().env("ADMIN_KEY", ADMIN).env("DATABASE_URL", "sqlite://data/store.db").models(&models())
}

async fn admin(gateway: &Gateway, method: &str, path: &str, body: Value) -> (u16, Value) {
    let request = gateway.http().request(method.parse().unwrap(), format!("{}{path}", gateway.base()));
    let request = request.header("x-admin-key", ADMIN);
    let body = body.to_string();
    answer(match method {
        "GET" => request,
        _ => request.header("content-type", "application/json").body(body),
    })
    .await
}

async fn switch(gateway: &Gateway, name: &str, body: Value) -> Value {
    let (status, told) = admin(gateway, "PATCH", &format!("/admin/models/{name}"), body).await;
    assert_eq!(status, 200, "{told}");
    told
}

async fn list(gateway: &Gateway) -> Vec<Value> {
    let (status, told) = admin(gateway, "GET", "/admin/models", json!(null)).await;
    assert_eq!(status, 200, "{told}");
    told["models"].as_array().unwrap().clone()
}

/// What the audit says: who, what, to what, and the details; the first first.
async fn audit(gateway: &Gateway) -> Vec<(String, String, String, Value)> {
    let (_, told) = admin(gateway, "GET", "/admin/audit?limit=1000", json!(null)).await;
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    let entry = |entry: &Value| {
        (text(entry, "actor"), text(entry, "action"), text(entry, "subject"), entry["detail"].clone())
    };
    told["entries"].as_array().unwrap().iter().rev().map(entry).collect()
}

fn said(model: &str) -> Value {
    json!({"model": model, "stream": false, "messages": [{"role": "user", "content": "hello"}]})
}

async fn ask(gateway: &Gateway, model: &str) -> (u16, Value) {
    gateway.ask(CHAT, &said(model)).await
}

async fn listed(gateway: &Gateway, path: &str, list: &str, name: &str) -> Vec<String> {
    let told = answer(gateway.get(path)).await.1;
    told[list].as_array().unwrap().iter().map(|model| model[name].as_str().unwrap().to_owned()).collect()
}

fn is_off(told: &(u16, Value)) -> bool {
    told.0 == 404 && told.1["error"]["code"] == "model_disabled"
}

#[tokio::test]
async fn nobody_reaches_a_model_that_is_off_by_whatever_way() {
    let gateway = setup().start();
    assert_eq!(ask(&gateway, "m").await.0, 200);
    let told = switch(&gateway, "m", json!({"disabled": true, "note": "too dear"})).await;
    assert_eq!(
        (&told["name"], &told["disabled"], &told["note"]),
        (&json!("m"), &json!(true), &json!("too dear"))
    );

    let error = json!({"error": {"message": "the model `m` is switched off for now; ask for another one",
        "type": "not_found_error", "param": "model", "code": "model_disabled"}});
    for name in ["m", "small", "m:latest", "m,small", " m , nobody"] {
        assert_eq!(ask(&gateway, name).await, (404, error.clone()), "{name}");
    }
    let conversation = json!({"model_name": "small", "user_last_statement": "x", "stream": false});
    let simplify = json!({"model_name": "m", "texts": ["x"]});
    let raw = |body: Value| json!({"provider": "one", "path": "/v1/chat/completions", "body": body});
    for (path, body) in [
        ("/api/chat", said("m")),
        ("/api/conversation_with_model", conversation.clone()),
        ("/api/extended_conversation_with_model", conversation.clone()),
        ("/api/simplify_text", simplify),
        ("/v1/completions", json!({"model": "m", "prompt": "x"})),
        ("/v1/embeddings", json!({"model": "small", "input": "x"})),
        ("/api/explain", said("m")),
        ("/api/explain", conversation),
        ("/api/tokenize/count", json!({"model": "m", "input": "x"})),
        ("/api/passthrough", json!({"model": "m", "path": "/v1/chat/completions", "body": said("m")})),
        ("/api/passthrough", raw(said("up-m"))),
        ("/api/passthrough/one/v1/chat/completions", said("up-m")),
    ] {
        let told = gateway.ask(path, &body).await;
        assert!(is_off(&told), "{path}: {told:?}");
    }
    assert!(is_off(&answer(gateway.get("/v1/models/m")).await));
    assert!(is_off(&answer(gateway.get("/v1/models/small")).await));
    let listed_ones = ["spare", "org/slash", "other", "priority-auto"];
    assert_eq!(listed(&gateway, "/v1/models", "data", "id").await, listed_ones);
    assert_eq!(listed(&gateway, "/api/tags", "models", "name").await, listed_ones);
    assert_eq!(listed(&gateway, "/api/routes", "routes", "model").await, ["spare", "org/slash", "other"]);

    // Others take over in its place, and all together do without it.
    let (status, answered) = ask(&gateway, "m,spare").await;
    assert_eq!((status, &answered["model"]), (200, &json!("spare")), "{answered}");
    let response = gateway.post(CHAT, &said("other")).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-llm-model"]),
        (200, &"spare".parse().unwrap())
    );
    let (_, told) = gateway.ask("/api/explain", &said("other")).await;
    assert_eq!(told["fallbacks"], json!(["spare"]));
    let (_, told) = gateway.ask("/api/explain", &said("priority-auto")).await;
    assert!(
        told["candidates"].as_array().unwrap().len() == 3 && !told.to_string().contains("up-m"),
        "{told}"
    );

    let told = switch(&gateway, "small", json!({"disabled": false})).await;
    assert_eq!((&told["name"], &told["disabled"], &told["note"]), (&json!("m"), &json!(false), &json!(null)));
    assert_eq!(ask(&gateway, "small").await.0, 200);
    assert_eq!(listed(&gateway, "/v1/models", "data", "id").await[0], "m");
    let (_, told) = gateway.ask("/api/explain", &said("priority-auto")).await;
    assert_eq!(told["candidates"].as_array().unwrap().len(), 5, "{told}");
}

#[tokio::test]
async fn all_models_are_told_with_their_switches_and_deployments() {
    let gateway = setup().start();
    let before = list(&gateway).await;
    let up = |provider: &str, upstream: &str, priority: i32| json!({"provider": provider, "upstream": upstream, "priority": priority});
    assert_eq!(
        before[0],
        json!({"name": "m", "aliases": ["small"], "disabled": false, "since": null, "note": null, "served": true,
            "deployments": [up("one", "up-m", 0), up("two", "up-m2", 2)]})
    );
    let names: Vec<&Value> = before.iter().map(|model| &model["name"]).collect();
    assert_eq!(names, ["m", "spare", "org/slash", "other"]);

    let told = switch(&gateway, "org/slash", json!({"disabled": true, "note": "a\nb"})).await;
    let since = told["since"].as_str().unwrap().to_owned();
    assert_eq!(list(&gateway).await[2], told);
    // Neither another note nor the same again is another switch.
    for (body, note) in [
        (json!({"note": "c"}), json!("c")),
        (json!({"disabled": true}), json!("c")),
        (json!({"note": null}), json!(null)),
        (json!({"disabled": true, "note": "d"}), json!("d")),
    ] {
        let told = switch(&gateway, "org%2Fslash", body.clone()).await;
        assert_eq!(
            (&told["since"], &told["note"], &told["disabled"]),
            (&json!(since), &note, &json!(true)),
            "{body}"
        );
    }
}

#[tokio::test]
async fn what_is_under_way_ends_as_it_was() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let event = |delta: Value, end: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": end});
        format!(
            "data: {}\n\n",
            json!({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})
        )
    };
    let first = format!("{head}{}", event(json!({"content": "a"}), json!(null)));
    let last = format!("{}data: [DONE]\n\n", event(json!({}), json!("stop")));
    let upstream = Upstream::start(move |_| {
        let pause = Step::Pause(Duration::from_millis(700));
        vec![
            Step::Send(first.clone().into_bytes()),
            pause,
            Step::Send(last.clone().into_bytes()),
            Step::Close,
        ]
    })
    .await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"])
        .env("ADMIN_KEY", ADMIN)
        .env("DATABASE_URL", "sqlite://data/store.db")
        .start();
    let mut streamed = said("m");
    streamed["stream"] = json!(true);
    let mut events = Events::of(gateway.post(CHAT, &streamed).send().await.unwrap());
    assert!(events.next().await.unwrap().contains("\"a\""));
    switch(&gateway, "m", json!({"disabled": true})).await;
    assert!(is_off(&gateway.ask(CHAT, &streamed).await), "a stream is refused by a plain answer");
    assert_eq!(events.rest().await.last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn a_switch_outlives_restarts_reloads_and_the_model_itself() {
    let gateway = setup().start();
    switch(&gateway, "m", json!({"disabled": true, "note": "n"})).await;
    let gateway = gateway.again();
    assert!(is_off(&ask(&gateway, "m").await));
    let (status, _) = admin(&gateway, "POST", "/admin/reload", json!({})).await;
    assert_eq!((status, is_off(&ask(&gateway, "m").await)), (200, true));

    let write = |models: &Value| {
        std::fs::write(gateway.folder.path().join("models.json"), models.to_string()).unwrap();
    };
    write(&json!({"providers": {"echo": {"type": "echo", "models": {"echo": {}}}}}));
    admin(&gateway, "POST", "/admin/reload", json!({})).await;
    assert_eq!(ask(&gateway, "m").await.1["error"]["code"], "model_not_found");
    let all = list(&gateway).await;
    assert_eq!(
        (&all[1]["name"], &all[1]["disabled"], &all[1]["deployments"]),
        (&json!("m"), &json!(true), &json!([]))
    );
    write(&models());
    admin(&gateway, "POST", "/admin/reload", json!({})).await;
    assert!(is_off(&ask(&gateway, "small").await), "it has come back, and is off");

    write(&json!({"providers": {"echo": {"type": "echo", "models": {"echo": {}}}}}));
    admin(&gateway, "POST", "/admin/reload", json!({})).await;
    switch(&gateway, "m", json!({"disabled": false})).await;
    assert_eq!(list(&gateway).await.len(), 1, "what is neither there nor off is not told of");
    write(&models());
    admin(&gateway, "POST", "/admin/reload", json!({})).await;
    assert_eq!(ask(&gateway, "m").await.0, 200);
}

#[tokio::test]
async fn a_switch_at_one_service_holds_at_the_other_within_a_second() {
    let one = setup().start();
    let database = format!("sqlite://{}", one.folder.path().join("data/store.db").display());
    let other = setup().env("DATABASE_URL", &database).start();
    for disabled in [true, false, true] {
        switch(&one, "m", json!({"disabled": disabled})).await;
        let switched = Instant::now();
        assert_eq!(is_off(&ask(&one, "m").await), disabled, "here at once");
        eventually("it holds there", async || is_off(&ask(&other, "m").await) == disabled).await;
        assert!(switched.elapsed() < Duration::from_secs(1), "{:?}", switched.elapsed());
    }
}

#[tokio::test]
async fn only_who_may_use_a_model_is_told_that_it_is_off() {
    let gateway = setup().env("AUTH", "keys").start();
    let (_, made) =
        admin(&gateway, "POST", "/admin/keys", json!({"name": "k", "allowed_models": ["spare"]})).await;
    let key = made["key"].as_str().unwrap();
    for model in ["m", "spare"] {
        switch(&gateway, model, json!({"disabled": true})).await;
    }
    let with_key = async |model: &str| answer(gateway.post(CHAT, &said(model)).bearer_auth(key)).await;
    assert!(is_off(&with_key("spare").await));
    for model in ["m", "small"] {
        let (status, told) = with_key(model).await;
        assert_eq!((status, &told["error"]["code"]), (403, &json!("model_not_allowed")), "{told}");
        let one = answer(gateway.get(&format!("/v1/models/{model}")).bearer_auth(key)).await;
        assert_eq!(one.0, 403);
    }
    let (status, _) = answer(gateway.get("/admin/models").bearer_auth(key)).await;
    assert_eq!(status, 401, "a caller's key is no admin key");
}

#[tokio::test]
async fn an_order_that_makes_no_sense_changes_nothing() {
    let gateway = setup().start();
    for (name, body, status, code) in [
        ("nobody", json!({"disabled": true}), 404, "model_not_found"),
        ("priority-auto", json!({"disabled": true}), 404, "model_not_found"),
        ("m", json!({}), 400, "missing_field"),
        ("m", json!({"disabled": "yes"}), 400, "invalid_value"),
        ("m", json!({"disabled": true, "reason": "x"}), 400, "invalid_value"),
        ("m", json!({"disabled": true, "note": "x".repeat(2001)}), 400, "invalid_value"),
        ("m", json!({"disabled": true, "note": "\u{7}"}), 400, "invalid_value"),
        ("m?force=1", json!({"disabled": true}), 400, "invalid_value"),
    ] {
        let (found, told) = admin(&gateway, "PATCH", &format!("/admin/models/{name}"), body.clone()).await;
        assert_eq!((found, &told["error"]["code"]), (status, &json!(code)), "{name} {body}: {told}");
    }
    assert_eq!(ask(&gateway, "m").await.0, 200);
    assert_eq!(audit(&gateway).await, []);
}

#[tokio::test]
async fn the_audit_has_every_act_and_none_that_was_refused() {
    let gateway = setup().start();
    let (_, made) = admin(&gateway, "POST", "/admin/keys", json!({"name": "k"})).await;
    let id = made["id"].as_str().unwrap();
    let one = format!("/admin/keys/{id}");
    let acts = [
        ("POST", "/admin/keys".to_owned(), json!({"name": ""})),
        ("PATCH", one.clone(), json!({"note": "n"})),
        ("PATCH", one.clone(), json!({"limits": {"requests_per_minute": 0}})),
        ("PATCH", "/admin/keys/key_gone".to_owned(), json!({"note": "n"})),
        ("POST", format!("{one}/rotate"), json!({})),
        ("POST", format!("{one}/rotate"), json!({"grace_seconds": 99_999_999})),
        ("PATCH", "/admin/models/small".to_owned(), json!({"disabled": true, "note": "n"})),
        ("PATCH", "/admin/models/gone".to_owned(), json!({"disabled": true})),
        ("POST", "/admin/reload?dry_run=true".to_owned(), json!({})),
        ("DELETE", one.clone(), json!(null)),
        ("DELETE", one.clone(), json!(null)),
    ];
    for (method, path, body) in acts {
        admin(&gateway, method, &path, body).await;
    }
    std::fs::write(gateway.folder.path().join("models.json"), "{").unwrap();
    assert_eq!(admin(&gateway, "POST", "/admin/reload", json!({})).await.0, 409);
    std::fs::write(gateway.folder.path().join("models.json"), models().to_string()).unwrap();
    assert_eq!(admin(&gateway, "POST", "/admin/reload", json!({})).await.0, 200);

    // A reload is noted beside its answer.
    eventually("all acts are noted", async || audit(&gateway).await.len() == 6).await;
    let all = audit(&gateway).await;
    let told: Vec<_> = all.iter().map(|(who, what, whom, _)| (&**who, &**what, &**whom)).collect();
    assert_eq!(
        told,
        [
            ("admin", "key.create", id),
            ("admin", "key.change", id),
            ("admin", "key.rotate", id),
            ("admin", "model.change", "m"),
            ("admin", "key.delete", id),
            ("admin", "configuration.reload", ""),
        ]
    );
    assert_eq!(all[3].3, json!({"disabled": {"from": false, "to": true}, "note": {"from": null, "to": "n"}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_is_noted_though_its_caller_has_left() {
    let upstream = Upstream::start(|_| {
        vec![Step::Pause(Duration::from_secs(1)), json(200, "", &json!({"data": [{"id": "x"}]}))]
    })
    .await;
    let discovering = json!({"providers": {"up": {"type": "openai", "base_url": upstream.v1(), "models": "discover"}, "echo": {"type": "echo", "models": {"echo": {}}}}});
    let gateway = setup().models(&discovering).start();
    let before = upstream.seen().len();
    let asked = gateway.post("/admin/reload", &json!({})).header("x-admin-key", ADMIN).send();
    tokio::select! {
        answer = asked => panic!("it waits for the provider: {answer:?}"),
        () = eventually("the provider is asked", async || upstream.seen().len() > before) => {}
    }
    eventually("it is noted", async || {
        audit(&gateway).await.iter().any(|(_, action, _, _)| action == "configuration.reload")
    })
    .await;
}

#[tokio::test]
async fn the_commands_switch_models_of_a_service_that_runs() {
    let gateway = setup().start();
    let run = |arguments: &[&str]| {
        let ended = gateway.run(&[&["models"], arguments].concat());
        (ended.code, ended.stdout, ended.stderr)
    };
    let told = |text: &str| (Some(0), format!("{text}\n"), String::new());
    assert_eq!(run(&["disable", "small", "--note", "too\ndear"]), told("m is off"));
    let switched = Instant::now();
    eventually("the service knows", async || is_off(&ask(&gateway, "m").await)).await;
    assert!(switched.elapsed() < Duration::from_secs(1), "{:?}", switched.elapsed());
    for arguments in [&[][..], &["list"]] {
        let (_, lines, _) = run(arguments);
        let first = lines.lines().next().unwrap();
        assert!(first.starts_with("m (also small): one/up-m, then two/up-m2 (off since 2"), "{first}");
        assert!(first.ends_with("Z: too dear)") && lines.matches("(off").count() == 1, "{lines}");
    }
    assert_eq!(run(&["enable", "m"]), told("m is on"));
    eventually("the service knows", async || ask(&gateway, "m").await.0 == 200).await;
    let (code, out, error) = run(&["disable", "nobody"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(error.contains("no model of the name `nobody`"), "{error}");
    let (who, what, whom, _) = &audit(&gateway).await[1];
    assert_eq!((who.as_str(), what.as_str(), whom.as_str()), ("cli", "model.change", "m"));

    let setup = setup().env("DATABASE_URL", "sqlite://none/store.db");
    assert_eq!(setup.run(&["models"]).code, Some(0));
    assert!(!setup.path("none").exists(), "who looks makes no database");
}

#[tokio::test]
async fn the_switch_of_a_model_that_is_gone_is_not_that_of_one_which_is_reached_by_its_name() {
    let file = |model: &str, more: Value| {
        let models = json!({model: {}, "other": {}});
        json!({"providers": {"one": {"type": "echo", "models": models}}, "models": more})
    };
    let gateway = setup().models(&file("m", json!({}))).start();
    assert_eq!(switch(&gateway, "m", json!({"disabled": true})).await["served"], true);
    for (model, more) in [("m:latest", json!({})), ("n", json!({"n": {"aliases": ["m"]}}))] {
        std::fs::write(gateway.folder.path().join("models.json"), file(model, more).to_string()).unwrap();
        let reload = gateway.post("/admin/reload", &json!({})).header("x-admin-key", ADMIN);
        assert_eq!(answer(reload).await.0, 200);
        assert_eq!(ask(&gateway, "m").await.0, 200, "requests reach {model} by that name");

        let told = switch(&gateway, "m", json!({"note": "gone"})).await;
        assert_eq!(
            (&told["name"], &told["served"], &told["deployments"]),
            (&json!("m"), &json!(false), &json!([]))
        );
        let told = switch(&gateway, "m", json!({"disabled": false})).await;
        assert_eq!(
            (&told["name"], &told["disabled"], &told["served"]),
            (&json!("m"), &json!(false), &json!(false))
        );
        assert!(!list(&gateway).await.iter().any(|told| told["name"] == "m"), "it is removed");
        // Now there is nothing left of the one before, and the name is that of the one it reaches.
        let told = switch(&gateway, "m", json!({"disabled": true})).await;
        assert_eq!((&told["name"], &told["served"]), (&json!(model), &json!(true)));
        assert!(is_off(&ask(&gateway, "m").await));
        assert_eq!(switch(&gateway, "m", json!({"disabled": false})).await["name"], model);

        std::fs::write(gateway.folder.path().join("models.json"), file("m", json!({})).to_string()).unwrap();
        let reload = gateway.post("/admin/reload", &json!({})).header("x-admin-key", ADMIN);
        assert_eq!(answer(reload).await.0, 200);
        switch(&gateway, "m", json!({"disabled": true})).await;
    }
}

#[tokio::test]
async fn a_switch_is_of_one_of_two_models_whose_names_differ_by_latest() {
    let gateway = setup()
        .models(&json!({
            "providers": {
                "one": {"type": "echo", "models": {"m": {}, "m:latest": {}, "n:latest": {}}},
                "broken": {"type": "echo", "models": {"other": {"defaults": {"echo": {"status": 503}}}}}
            },
            "models": {"other": {"fallbacks": ["m"]}},
            "routing": {"max_cooldown": 0.000_001}
        }))
        .start();
    for (off, on) in [("m", "m:latest"), ("m:latest", "m")] {
        assert_eq!(switch(&gateway, off, json!({"disabled": true})).await["name"], off);
        for names in [off.to_owned(), format!("{off},nobody")] {
            let told = ask(&gateway, &names).await;
            assert!(is_off(&told), "{names}: {told:?}");
        }
        assert_eq!(ask(&gateway, on).await.0, 200, "{on}");
        assert_eq!(
            ask(&gateway, "other").await.0 == 200,
            on == "m",
            "who takes over is the one that is named"
        );
        let told = switch(&gateway, off, json!({"note": "x"})).await;
        assert_eq!((&told["name"], &told["disabled"]), (&json!(off), &json!(true)));
        assert_eq!(switch(&gateway, off, json!({"disabled": false})).await["name"], off);
        assert_eq!(ask(&gateway, off).await.0, 200, "{off}");
    }
    // Where there is one of them only, both names are its own.
    assert_eq!(switch(&gateway, "n", json!({"disabled": true})).await["name"], "n:latest");
    assert!(is_off(&ask(&gateway, "n").await) && is_off(&ask(&gateway, "n:latest").await));
}

#[tokio::test]
async fn a_database_that_comes_later_is_told_of_before_and_holds_then() {
    let kept = setup();
    assert_eq!(kept.run(&["models", "disable", "m"]).code, Some(0));
    let setup = setup().file("data", "a file where the folder of the database is to be");
    let (gateway, data) = (setup.start(), kept.path("data"));
    let line = gateway.logged("LLM_PROXY_API_DATABASE_URL");
    assert!(line.contains("WARN") && line.contains("models") && line.contains("sage"), "{line}");
    let ready = async || answer(gateway.get("/readyz")).await.1;
    let told = ready().await;
    assert_eq!((&told["status"], &told["store"]["ok"]), (&json!("ready"), &json!(false)), "{told}");
    assert!(told["store"]["error"].as_str().is_some_and(|error| error.contains("database")), "{told}");
    assert_eq!(ask(&gateway, "m").await.0, 200, "nobody knows yet that it is off");
    assert_eq!(admin(&gateway, "GET", "/admin/models", json!(null)).await.0, 503);

    std::fs::remove_file(gateway.folder.path().join("data")).unwrap();
    std::fs::rename(data, gateway.folder.path().join("data")).unwrap();
    let mut answered = 1;
    eventually("the switch holds", async || {
        let answer = ask(&gateway, "m").await;
        answered += u32::from(answer.0 == 200);
        is_off(&answer)
    })
    .await;
    eventually("all is well", async || ready().await["store"] == json!({"ok": true, "error": null})).await;
    switch(&gateway, "m", json!({"disabled": false})).await;
    assert_eq!(ask(&gateway, "m").await.0, 200);
    let (status, key) = admin(&gateway, "POST", "/admin/keys", json!({"name": "k"})).await;
    assert_eq!(status, 200, "{key}");
    let all = json!(answered + 1);
    eventually("what was used before is written down, too", async || {
        let (_, told) = admin(&gateway, "GET", "/admin/usage", json!(null)).await;
        told["rows"][0]["requests"] == all
    })
    .await;
}

#[tokio::test]
async fn the_commands_switch_models_that_are_not_there_just_now() {
    let lines = |ended: crate::support::Ended| (ended.code, ended.stdout, ended.stderr);
    let gone = setup();
    assert_eq!(gone.run(&["models", "disable", "m", "--note", "n"]).code, Some(0));
    let gone = gone.models(&json!({"providers": {"echo": {"type": "echo", "models": {"echo": {}}}}}));
    let (_, out, _) = lines(gone.run(&["models"]));
    let last = out.lines().last().unwrap();
    assert!(
        last.starts_with("m: nobody serves it just now (off since 2") && last.ends_with("Z: n)"),
        "{out}"
    );
    assert_eq!(lines(gone.run(&["models", "enable", "m"])), (Some(0), "m is on\n".to_owned(), String::new()));
    assert!(!lines(gone.run(&["models"])).1.contains("nobody serves"), "what is on and gone is not told of");
    let (code, _, error) = lines(gone.run(&["models", "disable", "nobody"]));
    assert_eq!(code, Some(1), "who lists all its models has no others: {error}");

    let silent = setup().models(&json!({"providers": {
        "up": {"type": "openai", "base_url": "http://127.0.0.1:1/v1", "models": "discover"},
        "echo": {"type": "echo", "models": {"echo": {}}}}}));
    let (code, out, error) = lines(silent.run(&["models", "disable", "ghost"]));
    assert_eq!((code, out.as_str()), (Some(0), "ghost is off\n"), "{error}");
    assert!(error.contains("warning: no model of the name `ghost` is known just now"), "{error}");
    let (_, out, _) = lines(silent.run(&["models", "list"]));
    assert!(out.contains("\nghost: nobody serves it just now (off since 2"), "{out}");
    let (code, out, error) = lines(silent.run(&["models", "enable", "ghost"]));
    assert_eq!((code, out.as_str()), (Some(0), "ghost is on\n"), "{error}");
    assert!(error.contains("warning: provider `up`") && !error.contains("`ghost`"), "{error}");
    for arguments in [["models", "enable", "nobody"], ["models", "disable", "priority-auto"]] {
        let (code, out, error) = lines(silent.run(&arguments));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?}: {error}");
    }
}
