//! The admin API: its key, reloads on demand, and what a reload would change.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::engine::fake_llama_server;
use crate::support::{Gateway, Setup, Step, Upstream, answer, eventually, json as json_step, json_of};

const KEY: &str = "planted-admin-key-of-the-tests";
const RELOAD: &str = "/admin/reload";

fn setup() -> Setup {
    Setup::new().env("ADMIN_KEY", KEY)
}

fn models(names: &[&str]) -> Value {
    let models: Value = names.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
    json!({"providers": {"echo": {"type": "echo", "models": models}}})
}

fn write(gateway: &Gateway, text: &str) {
    // As editors do it, so that nobody reads half of it.
    let path = gateway.folder.path().join("models.json");
    std::fs::write(path.with_extension("new"), text).unwrap();
    std::fs::rename(path.with_extension("new"), path).unwrap();
}

fn admin(gateway: &Gateway, path: &str) -> reqwest::RequestBuilder {
    gateway.http().post(format!("{}{path}", gateway.base())).header("x-admin-key", KEY)
}

async fn served(gateway: &Gateway) -> Vec<String> {
    let (_, list) = answer(gateway.get("/v1/models")).await;
    let names = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap());
    names.filter(|name| *name != "priority-auto").map(str::to_owned).collect()
}

#[tokio::test]
async fn without_a_key_there_is_no_admin_api() {
    let gateway = Setup::new().start();
    for request in [gateway.post(RELOAD, &json!({})), admin(&gateway, RELOAD), gateway.get(RELOAD)] {
        let (status, error) = answer(request).await;
        assert_eq!((status, &error["error"]["code"]), (404, &json!("unknown_path")));
        assert!(error["error"]["message"].to_string().contains("LLM_PROXY_API_ADMIN_KEY"), "{error}");
    }
}

#[tokio::test]
async fn only_the_admin_key_opens_it() {
    let gateway = setup().start();
    for (name, value, code) in [
        ("x-other", "x".to_owned(), "missing_api_key"),
        ("x-api-key", KEY.to_owned(), "missing_api_key"),
        ("x-admin-key", "wrong".to_owned(), "invalid_api_key"),
        ("authorization", "Bearer wrong".to_owned(), "invalid_api_key"),
    ] {
        for path in [RELOAD, "/admin/reload?dry_run=true"] {
            let response = gateway.post(path, &json!({})).header(name, &value).send().await.unwrap();
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
            assert_eq!(response.status(), 401, "{name}: {value}");
            let error = json_of(response).await;
            assert_eq!(
                (&error["error"]["code"], &error["error"]["type"]),
                (&json!(code), &json!("authentication_error"))
            );
        }
    }
    for (name, value) in
        [("authorization", format!("Bearer {KEY}")), ("x-admin-key", KEY.into()), ("AdminKey", KEY.into())]
    {
        let (status, body) = answer(gateway.post(RELOAD, &json!({})).header(name, value)).await;
        assert_eq!((status, &body["status"]), (200, &json!(true)), "{name}: {body}");
    }
    assert_eq!(
        gateway
            .http()
            .get(format!("{}{RELOAD}", gateway.base()))
            .header("x-admin-key", KEY)
            .send()
            .await
            .unwrap()
            .status(),
        405
    );
    for query in ["?dryrun=true", "?dry_run=perhaps", "?dry_run=true&x=1"] {
        let (status, error) = answer(admin(&gateway, &format!("{RELOAD}{query}"))).await;
        assert_eq!((status, &error["error"]["code"]), (400, &json!("invalid_value")), "{query}: {error}");
    }
}

#[tokio::test]
async fn a_reload_answers_when_it_is_in_place() {
    let gateway = setup().start();
    write(&gateway, &models(&["echo", "second"]).to_string());
    let (status, body) = answer(admin(&gateway, RELOAD)).await;
    assert_eq!(served(&gateway).await, ["echo", "second"]);
    assert_eq!(
        (status, &body["status"], &body["dry_run"], &body["models"], &body["changes"]),
        (
            200,
            &json!(true),
            &json!(false),
            &json!(2),
            &json!([{"kind": "model", "name": "second", "change": "added", "details": ["echo/second"]}])
        ),
        "{body}"
    );
    assert!(body["prompts"].as_u64().unwrap() > 5);
    let line = gateway.logged("The changed configuration is in place");
    assert!(line.contains("1 model added"), "{line}");

    // What was taken is not taken again by whoever watches the files.
    tokio::time::sleep(Duration::from_millis(1600)).await;
    assert_eq!(gateway.log().matches("The changed configuration is in place").count(), 1);
    let (_, body) = answer(admin(&gateway, RELOAD)).await;
    assert_eq!(body["changes"], json!([]));
}

#[tokio::test]
async fn a_refused_reload_tells_every_fault_and_changes_nothing() {
    let gateway = setup()
        .file("prompts/en/chat-conversation-simple.prompt", "Talk.\n")
        .env("PROMPTS_DIR", "prompts")
        .start();
    let bad = json!({"providers": {
        "a": {"type": "opneai", "api_key": "sk-planted", "models": {"m": {}}},
        "b": {"type": "openai", "base_url": "planted://", "models": {"m": {}}},
    }});
    std::fs::write(gateway.folder.path().join("prompts/en/bad.prompt"), "{{#if}}").unwrap();
    write(&gateway, &bad.to_string());
    for path in ["/admin/reload?dry_run=true", RELOAD] {
        let (status, error) = answer(admin(&gateway, path)).await;
        let error = &error["error"];
        assert_eq!(
            (status, &error["code"], &error["type"]),
            (409, &json!("reload_refused"), &json!("invalid_request_error"))
        );
        let message = error["message"].as_str().unwrap();
        for place in ["providers.a", "providers.b", "bad.prompt"] {
            assert_eq!(message.lines().filter(|line| line.contains(place)).count(), 1, "{message}");
        }
        assert!(!message.contains("planted"), "{message}");
    }
    assert_eq!(served(&gateway).await, ["echo"]);
    assert!(answer(gateway.get("/readyz")).await.1["reload"]["error"].to_string().contains("opneai"));
    tokio::time::sleep(Duration::from_millis(1600)).await;
    assert_eq!(gateway.log().lines().filter(|line| line.contains("ERROR")).count(), 1, "{}", gateway.log());
}

/// A service whose only model is told by `.env`, which nobody watches: what stands there now is taken with a reload.
fn told_by_environment() -> Gateway {
    let models = json!({"m": {"upstream": "${UPSTREAM_OF_TEST}"}});
    setup()
        .file(".env", "UPSTREAM_OF_TEST=first\n")
        .models(&json!({"providers": {"echo": {"type": "echo", "models": models}}}))
        .start()
}

fn tell_another(gateway: &Gateway) {
    std::fs::write(gateway.folder.path().join(".env"), "UPSTREAM_OF_TEST=second\n").unwrap();
}

#[tokio::test]
async fn a_dry_run_tells_the_changes_and_makes_none() {
    let gateway = told_by_environment();
    tell_another(&gateway);
    let expected = json!([{"kind": "model", "name": "m", "change": "changed",
        "details": ["deployment echo/second added", "deployment echo/first removed"]}]);
    for _ in 0..2 {
        let (status, body) = answer(admin(&gateway, "/admin/reload?dry_run=true")).await;
        assert_eq!((status, &body["dry_run"], &body["changes"]), (200, &json!(true), &expected), "{body}");
        assert_eq!(
            answer(gateway.get("/api/routes")).await.1["routes"][0]["candidates"][0]["upstream"],
            "first"
        );
    }
    assert_eq!(gateway.figure("llm_proxy_reloads_total", "").await, 0.0);

    let (_, body) = answer(admin(&gateway, "/admin/reload?dry_run=false")).await;
    assert_eq!((&body["dry_run"], &body["changes"]), (&json!(false), &expected), "{body}");
    let (_, body) = answer(admin(&gateway, "/admin/reload?dry_run=true")).await;
    assert_eq!(body["changes"], json!([]), "nothing would change then");
}

/// A provider whose models are to be discovered, and who takes so long to name them.
async fn slow(milliseconds: u64) -> Upstream {
    Upstream::start(move |_| {
        let list = json!({"object": "list", "data": [{"id": "found", "object": "model"}]});
        vec![Step::Pause(Duration::from_millis(milliseconds)), json_step(200, "", &list)]
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_at_once_are_done_in_turn_and_those_too_many_are_turned_away() {
    let upstream = slow(400).await;
    let provider = json!({"type": "openai", "base_url": upstream.v1(), "models": "discover"});
    let gateway = setup().models(&json!({"providers": {"slow": provider}})).start();
    let asked = (0..12).map(|_| answer(admin(&gateway, RELOAD)));
    let statuses: Vec<u16> =
        futures_util::future::join_all(asked).await.iter().map(|(status, _)| *status).collect();
    let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!(count(200) + count(503), 12, "{statuses:?}");
    assert!(count(200) >= 4 && count(503) >= 1, "{statuses:?}");
}

#[tokio::test]
async fn a_caller_who_leaves_does_not_break_a_reload() {
    let upstream = slow(300).await;
    let provider = json!({"type": "openai", "base_url": upstream.v1(), "models": "discover"});
    let gateway = setup().start();
    write(&gateway, &json!({"providers": {"slow": provider}}).to_string());
    let left = admin(&gateway, RELOAD).timeout(Duration::from_millis(100)).send().await;
    assert!(left.is_err());
    eventually("the reload is in place all the same", async || served(&gateway).await == ["found"]).await;
    assert_eq!(answer(admin(&gateway, RELOAD)).await.0, 200, "and the next one is served");
}

#[tokio::test]
async fn engines_whose_definition_is_the_same_outlive_a_reload() {
    let setup = setup();
    let journal = setup.path("journal").display().to_string();
    let runtime = setup.path(".").display().to_string();
    let file = move |context: u64, temperature: f64| {
        let arguments = json!(["--fake-journal", journal]);
        json!({"providers": {
            "local": {"type": "llamacpp", "binary": fake_llama_server(), "args": arguments, "models": {
                "tiny": {"variants": [{"context": context}], "defaults": {"temperature": temperature}}}},
            "echo": {"type": "echo", "models": {"echo": {}}},
        }})
    };
    let gateway = setup.models(&file(1024, 0.5)).variable("XDG_RUNTIME_DIR", &runtime).start();
    let pid = async || {
        let body = json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]});
        assert_eq!(gateway.ask("/v1/chat/completions", &body).await.0, 200);
        answer(gateway.get("/api/engines")).await.1["engines"][0]["engine"]["pid"].as_u64().unwrap()
    };
    let first = pid().await;

    write(&gateway, &file(1024, 0.7).to_string());
    let (_, body) = answer(admin(&gateway, RELOAD)).await;
    assert_eq!(body["kept_engines"], json!(["local/tiny@1024"]), "{body}");
    assert_eq!(body["changes"][0]["details"], json!(["local/tiny: defaults changed"]), "{body}");
    assert_eq!(pid().await, first);

    write(&gateway, &file(2048, 0.7).to_string());
    let (_, told) = answer(admin(&gateway, "/admin/reload?dry_run=true")).await;
    assert_eq!(told["kept_engines"], json!([]), "{told}");
    answer(admin(&gateway, RELOAD)).await;
    assert_ne!(pid().await, first, "another definition is another engine");
}

#[tokio::test]
async fn the_document_says_how_the_admin_api_is_opened() {
    let gateway = Setup::new().start();
    let (_, document) = answer(gateway.get("/openapi.json")).await;
    let operation = &document["paths"][RELOAD]["post"];
    let statuses: Vec<&String> = operation["responses"].as_object().unwrap().keys().collect();
    assert_eq!(statuses, ["200", "400", "401", "403", "404", "409", "429", "503"]);
    assert_eq!(operation["security"], json!([{"AdminBearer": []}, {"AdminHeader": []}]));
    assert_eq!(operation["parameters"][0]["name"], "dry_run");
    assert_eq!(document["components"]["securitySchemes"]["AdminHeader"]["name"], "x-admin-key");
    let callers = json!([{"CallerBearer": []}, {"CallerHeader": []}]);
    assert_eq!(document["paths"]["/api/tags"]["get"]["security"], callers);
}

/// Runs `check --diff` in the folder of a service, on its settings.
fn check(
    gateway: &Gateway,
    listen: &str,
    more: &[(&str, &str)],
    arguments: &[&str],
) -> (i32, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_llm-proxy-api"));
    command.args(arguments).current_dir(gateway.folder.path()).env_clear();
    command.env("LLM_PROXY_API_LISTEN", listen).env("LLM_PROXY_API_MODELS_CONFIG", "models.json");
    let output = command.envs(more.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const WITH_KEY: (&str, &str) = ("LLM_PROXY_API_ADMIN_KEY", KEY);

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_what_a_reload_would_change_in_the_service_that_runs() {
    let gateway = told_by_environment();
    let address = gateway.address().to_owned();
    let diff = |more: &[(&str, &str)]| check(&gateway, &address, more, &["check", "--diff"]);
    let (code, out, err) = diff(&[WITH_KEY]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "nothing would change\n", ""));

    let (code, _, err) = diff(&[]);
    assert!(code == 1 && err.contains("LLM_PROXY_API_ADMIN_KEY"), "{err}");
    let (code, _, err) = diff(&[("LLM_PROXY_API_ADMIN_KEY", "another-key-than-it-has")]);
    assert!(code == 1 && err.contains("the admin key is wrong"), "{err}");
    let (code, _, err) = check(&gateway, "127.0.0.1:1", &[WITH_KEY], &["check", "--diff"]);
    assert!(code == 1 && err.contains("no service answers at 127.0.0.1:1"), "{err}");

    tell_another(&gateway);
    let (code, out, err) = diff(&[WITH_KEY]);
    let expected = "~ model m: deployment echo/second added; deployment echo/first removed\n";
    assert_eq!((code, out.as_str(), err.as_str()), (0, expected, ""));

    write(&gateway, "{\"providers\": {\"a\": {\"type\": \"opneai\", \"models\": {\"m\": {}}}}}");
    let (code, out, err) = diff(&[WITH_KEY]);
    assert!(code == 1 && out.is_empty() && err.contains("providers.a"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_asks_over_encryption_and_unix_sockets_too() {
    let certificate = rcgen::generate_simple_self_signed(["gateway.example".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["gateway.example".to_owned()]).unwrap();
    let gateway = setup()
        .file("cert.pem", &certificate.cert.pem())
        .file("key.pem", &certificate.signing_key.serialize_pem())
        .file("other.pem", &other.cert.pem())
        .env("TLS_CERT", "cert.pem")
        .env("TLS_KEY", "key.pem")
        .start();
    let tls = |certificate| {
        [WITH_KEY, ("LLM_PROXY_API_TLS_CERT", certificate), ("LLM_PROXY_API_TLS_KEY", "key.pem")]
    };
    let (code, out, err) = check(&gateway, gateway.address(), &tls("cert.pem"), &["check", "--diff"]);
    assert_eq!((code, out.as_str()), (0, "nothing would change\n"), "{err}");
    let (code, _, err) = check(&gateway, gateway.address(), &tls("other.pem"), &["check", "--diff"]);
    assert!(code == 1 && err.contains("another certificate"), "{err}");

    let gateway = setup().env("LISTEN", "127.0.0.1:0,unix:gateway.sock").start();
    assert!(Path::new(&gateway.folder.path().join("gateway.sock")).exists());
    let (code, out, err) = check(&gateway, "unix:gateway.sock", &[WITH_KEY], &["check", "--diff"]);
    assert_eq!((code, out.as_str()), (0, "nothing would change\n"), "{err}");
}

#[test]
fn check_compares_two_files_without_asking_anybody() {
    let file = |key: &str, url: &str| {
        json!({"providers": {
            "up": {"type": "openai", "base_url": url, "api_key": key, "models": {"m": {}}},
            "far": {"type": "vllm", "base_url": "http://10.255.255.1:9/v1", "models": "discover"},
        }})
    };
    let setup = Setup::new().models(&file("sk-planted-new", "http://planted-new/v1"));
    let old = file("sk-planted-old", "http://planted-old/v1").to_string();
    let setup = setup.file("old.json", &old).file("bad.json", "{");

    let began = std::time::Instant::now();
    let ended = setup.run(&["check", "--diff=old.json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().next(), Some("~ provider up: base_url changed; api_key changed"));
    assert!(!ended.stdout.contains("planted"), "{}", ended.stdout);
    assert!(began.elapsed() < Duration::from_secs(2), "nobody is waited for");

    let ended = setup.run(&["check", "--diff=models.json"]);
    assert!(ended.code == Some(0) && ended.stdout.starts_with("nothing would change\n"), "{}", ended.stdout);
    for bad in ["bad.json", "nowhere.json"] {
        let ended = setup.run(&["check", &format!("--diff={bad}")]);
        assert!(ended.code == Some(1) && ended.stderr.contains(bad), "{}", ended.stderr);
    }
}
