//! Planted secrets: no key, password, prompt, answer or query string reaches a log, an error, a figure, a debug print, an
//! answer about keys and usage, or the database.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::support::engine::fake_llama_server;
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;
use crate::support::{Gateway, Setup, Step, Upstream, answer, eventually, json, sse};

const KEY: &str = "sk-planted-provider-key-4711";
const HEADER: &str = "planted-header-value-4712";
const PROMPT: &str = "planted-prompt-4713";
const ANSWER: &str = "planted-answer-4714";
const QUERY: &str = "planted-query-4715";
const CALLER: &str = "planted-caller-key-4716";
const VARIABLE: &str = "planted-variable-4717";
const ADMIN: &str = "planted-admin-key-4718";
const REDIS: &str = "planted-redis-password-4719";
const DATABASE: &str = "planted-database-password-4720";
const ADDRESS: &str = "127.9.8.7";

const ALL: [&str; 11] =
    [KEY, HEADER, PROMPT, ANSWER, QUERY, CALLER, VARIABLE, ADMIN, REDIS, DATABASE, ADDRESS];

fn assert_clean(place: &str, text: &str) {
    assert_without(place, text, &ALL);
}

fn assert_without(place: &str, text: &str, secrets: &[&str]) {
    // The log names the host of an attempt that failed, to the operator who wrote it down. No other place does.
    let text =
        text.replace(&format!("host=\"{ADDRESS}:9\""), "").replace(&format!("\"host\":\"{ADDRESS}:9\""), "");
    for secret in secrets {
        assert!(!text.contains(secret), "{place} shows `{secret}`:\n{text}");
    }
}

async fn upstream() -> Upstream {
    Upstream::start(|seen| {
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        let leaky = json!({"error": {"message": format!("key {KEY} with {HEADER} refused at http://{ADDRESS}:81/x for {PROMPT}")}});
        match () {
            () if body.contains("make-500") => vec![json(500, "", &leaky)],
            () if body.contains("make-400") => vec![json(400, "", &json!({"error": {"message": format!("odd value; {KEY}")}}))],
            () if body.contains("make-401") => vec![json(401, "", &leaky)],
            () if body.contains("make-garbage") => vec![json(200, "", &json!({"text": format!("{ANSWER} {KEY}")}))],
            () if body.contains("make-cut") => vec![sse(&[&json!({"choices": [{"index": 0, "delta": {"content": ANSWER}}]}).to_string()]), Step::Close],
            () if body.contains("make-close") => vec![Step::Close],
            () => vec![json(200, "", &json!({"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}]}))],
        }
    })
    .await
}

/// Whoever fails is asked again at once: nobody waits for rests.
fn setup(upstream: &Upstream) -> Setup {
    with_routing(upstream, &json!({"max_cooldown": 0.000_001}))
}

fn with_routing(upstream: &Upstream, routing: &Value) -> Setup {
    Setup::new()
        .variable("PLANTED_KEY", KEY)
        .variable("PLANTED_HEADER", HEADER)
        .env("ADMIN_KEY", ADMIN)
        .models(&json!({"routing": routing, "providers": {
            "up": {"type": "openai", "base_url": upstream.v1(), "api_key": "${PLANTED_KEY}", "headers": {"x-team": "${PLANTED_HEADER}"}, "models": {"m": {}}},
            "dead": {"type": "vllm", "base_url": format!("http://{ADDRESS}:9/v1"), "api_key": "${PLANTED_KEY}", "models": {"dead": {}}}}}))
}

/// Everything that can go right or wrong, and the errors that callers got to read.
async fn exercise(gateway: &Gateway, key: &str) -> Vec<String> {
    let mut errors = Vec::new();
    for kind in ["fine", "make-500", "make-400", "make-401", "make-garbage", "make-cut", "make-close"] {
        for (model, stream) in [("m", false), ("m", true), ("dead", false)] {
            let body = json!({"model": model, "stream": stream, "user": kind, "messages": [{"role": "user", "content": PROMPT}]});
            let request = gateway
                .post(&format!("/api/chat?token={QUERY}"), &body)
                .header("authorization", format!("Bearer {key}"));
            let response = request.send().await.unwrap();
            let text = response.text().await.unwrap();
            let told = text.lines().filter(|line| line.contains("\"error\""));
            // An upstream may quote what the caller said to it; the caller knows that.
            errors.extend(told.map(|line| line.replace(PROMPT, "")));
        }
    }
    let broken = [
        ("/api/chat", format!("{{\"model\":\"m\",\"messages\":\"{PROMPT}\"}}")),
        ("/api/chat", format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"{PROMPT}\",\"content\":\"x\"}}]}}")),
        ("/api/chat", format!("{PROMPT} {{")),
        ("/api/conversation_with_model", json!({"model_name": "m", "user_last_statement": PROMPT, "variables": {"x": VARIABLE}, "prompt": "translate"}).to_string()),
        ("/api/translate", json!({"model_name": "m", "texts": [PROMPT], "target_language": VARIABLE}).to_string()),
        ("/api/generative_answer", json!({"model_name": "m", "question_str": PROMPT, "texts": PROMPT}).to_string()),
        ("/api/prompts/translate/render", json!({"variables": {"target_language": {"x": VARIABLE}}}).to_string()),
        ("/api/passthrough", json!({"provider": "up", "path": format!("/v1/../{QUERY}"), "body": PROMPT}).to_string()),
        ("/api/passthrough", json!({"provider": "dead", "path": "/v1/x", "query": {"q": QUERY}, "body": PROMPT}).to_string()),
        ("/v1/embeddings", json!({"model": "dead", "input": PROMPT}).to_string()),
    ];
    for (path, body) in broken {
        let request = gateway
            .http()
            .post(format!("{}{path}?q={QUERY}", gateway.base()))
            .header("content-type", "application/json")
            .header("x-api-key", key);
        let response = request.body(body).send().await.unwrap();
        // An answer has what was asked for in it.
        if !response.status().is_success() {
            errors.push(response.text().await.unwrap());
        }
    }
    for (name, value) in [("x-admin-key", ADMIN.to_owned()), ("authorization", format!("Bearer {ADMIN}x"))] {
        for path in ["/admin/reload", "/admin/reload?dry_run=true"] {
            let request = gateway.http().post(format!("{}{path}", gateway.base())).header(name, &value);
            errors.push(request.send().await.unwrap().text().await.unwrap());
        }
    }
    errors
}

#[tokio::test]
async fn nothing_planted_is_found_again() {
    let upstream = upstream().await;
    let (awake, resting) = (json!({"max_cooldown": 0.000_001}), json!({"max_wait": 0.01}));
    for (format, level, debug, routing) in [
        ("text", "DEBUG", "", &awake),
        ("json", "trace", "1", &awake),
        ("text", "INFO", "1", &awake),
        ("text", "DEBUG", "1", &resting),
    ] {
        let setup = with_routing(&upstream, routing);
        let setup = setup.env("LOG_FORMAT", format).env("LOG_LEVEL", level).env("IN_DEBUG", debug);
        let gateway = setup.env("LOG_FILENAME", "gateway.log").start();

        let errors = exercise(&gateway, CALLER).await;
        // A panic's own words and whatever a reload says belong to the log, too.
        std::fs::write(
            gateway.folder.path().join("models.json"),
            format!("{{\"providers\": {{\"x\": {{\"type\": \"openai\", \"api_key\": \"{KEY}\" {PROMPT}"),
        )
        .unwrap();
        gateway.signal("HUP");
        gateway.logged("ERROR");
        let refused = gateway.post("/admin/reload", &json!({})).header("x-admin-key", ADMIN);
        assert_clean("a refused reload", &refused.send().await.unwrap().text().await.unwrap());

        assert!(errors.len() > 20, "{errors:?}");
        for error in &errors {
            assert_clean(&format!("an error at {level}"), error);
        }
        let metrics = gateway.get("/metrics").send().await.unwrap().text().await.unwrap();
        assert_clean("/metrics", &metrics);
        for path in ["/readyz", "/api/tags", "/v1/models", "/openapi.json"] {
            assert_clean(path, &answer(gateway.get(path)).await.1.to_string());
        }
        assert_clean(&format!("the log at {level}"), &gateway.log());
        let files = std::fs::read_dir(gateway.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let logs: Vec<_> = files
            .filter(|path| {
                path.to_string_lossy().contains("gateway") && path.to_string_lossy().contains("log")
            })
            .collect();
        assert!(!logs.is_empty());
        for log in logs {
            let text = std::fs::read_to_string(&log).unwrap();
            assert!(text.len() > 500, "the file is written: {text}");
            assert_clean(&log.display().to_string(), &text);
        }
    }
}

/// All that is told of keys and usage, with the admin key and with the caller's own.
async fn told_of_keys(gateway: &Gateway, id: &str, key: &str) -> Vec<String> {
    let one = format!("/admin/keys/{id}");
    let usage = "/admin/usage?group_by=hour,day,model,key,owner,provider";
    let csv = format!("{usage}&format=csv");
    let mut told = Vec::new();
    for path in [
        "/admin/keys",
        &one,
        usage,
        &csv,
        "/admin/audit",
        "/admin/owners",
        "/admin/budgets",
        "/metrics",
        "/readyz",
    ] {
        let response = gateway.get(path).header("x-admin-key", ADMIN).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        told.push(response.text().await.unwrap());
    }
    for path in
        ["/api/me", "/api/me/usage?group_by=model", "/api/me/usage?format=csv", "/api/tags", "/api/routes"]
    {
        let response = gateway.get(path).bearer_auth(key).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        told.push(response.text().await.unwrap());
    }
    // What is refused.
    for (path, key) in
        [("/admin/keys", key), ("/admin/keys", CALLER), ("/api/me", ADMIN), ("/api/me", CALLER)]
    {
        let response = gateway.get(path).header("x-admin-key", key).bearer_auth(key).send().await.unwrap();
        assert_eq!(response.status(), 401, "{path}");
        told.push(response.text().await.unwrap());
    }
    let odd = json!({"name": "x", "key": key, "limits": {"tokens_per_minute": KEY}});
    told.push(
        gateway
            .post("/admin/keys", &odd)
            .header("x-admin-key", ADMIN)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
            .replace(KEY, ""),
    );
    told
}

/// A key's id and its secret; and all that of the secret that is not shown on purpose.
fn made(answer: &Value) -> (String, String, String) {
    let text = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    let (secret, prefix) = (text("key"), text("prefix"));
    let rest = secret.strip_prefix(&prefix).unwrap().to_owned();
    assert!(rest.len() > 20, "{answer}");
    (text("id"), secret, rest)
}

/// Everything that callers with keys can do, and all that is told and kept of it.
async fn with_keys(setup: Setup) -> (Gateway, Vec<String>) {
    let gateway = setup.env("AUTH", "keys").env("LOG_LEVEL", "trace").env("IN_DEBUG", "1").start();
    let admin = |path: &str, body: &Value| gateway.post(path, body).header("x-admin-key", ADMIN);
    let limits = json!({"requests_per_minute": 10_000, "tokens_per_minute": 9_000_000});
    let budget = json!({"tokens": 1_000_000_000, "period": "month"});
    let first = json!({"name": "first", "owner": "team", "limits": limits, "budget": budget});
    let (id, before, rest_before) = made(&answer(admin("/admin/keys", &first)).await.1);
    let rotated = answer(admin(&format!("/admin/keys/{id}/rotate"), &json!({"grace_seconds": 600}))).await.1;
    let (_, admins, rest_of_admins) = made(&rotated);
    let own = gateway.post("/api/me/rotate", &json!({})).bearer_auth(&admins);
    let (_, secret, rest) = made(&answer(own).await.1);
    assert_ne!((&before, &admins), (&secret, &before));

    let mut errors = exercise(&gateway, &secret).await;
    eventually("all is written down", async || {
        let rows = answer(gateway.get("/admin/usage").header("x-admin-key", ADMIN)).await.1;
        rows["rows"][0]["requests"].as_u64().unwrap_or(0) >= 20
    })
    .await;
    errors.extend(told_of_keys(&gateway, &id, &secret).await);
    let kept = vec![rest_before, rest_of_admins, rest];
    let secrets: Vec<&str> = ALL.into_iter().chain(kept.iter().map(String::as_str)).collect();
    assert!(errors.len() > 40, "{errors:?}");
    for error in &errors {
        assert_without("an answer", error, &secrets);
    }
    assert_without("the log", &gateway.log(), &secrets);
    (gateway, kept)
}

#[tokio::test]
async fn nothing_planted_is_kept_of_callers_with_keys() {
    let upstream = upstream().await;
    // With a Redis that asks for the password, if there is one; and with one that is away.
    let redis = Redis::start().map(|redis| {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        (redis.with(&["--port", &port.to_string(), "--requirepass", REDIS]), port)
    });
    for port in redis.iter().map(|(_, port)| *port).chain([9]) {
        let setup = setup(&upstream).env("REDIS_URL", &format!("redis://:{REDIS}@127.0.0.1:{port}/0"));
        let (mut gateway, kept) = with_keys(setup).await;
        let secrets: Vec<&str> = ALL.into_iter().chain(kept.iter().map(String::as_str)).collect();
        let ready = answer(gateway.get("/readyz")).await.1;
        assert_eq!(ready["redis"]["ok"], json!(port != 9), "{ready}");
        let data = gateway.folder.path().join("data");
        let in_files = |when: &str| {
            let mut names = Vec::new();
            let mut all = Vec::new();
            for entry in std::fs::read_dir(&data).unwrap() {
                let path = entry.unwrap().path();
                names.push(path.file_name().unwrap().to_string_lossy().into_owned());
                let bytes = std::fs::read(&path).unwrap();
                let is_in = |secret: &&&str| memchr::memmem::find(&bytes, secret.as_bytes()).is_some();
                assert_eq!(secrets.iter().find(is_in), None, "{} {when}", path.display());
                all.extend(bytes);
            }
            for shown in ["\"name\":\"first\"", "team", "/chat", "up/m"] {
                let is_there = memchr::memmem::find(&all, shown.as_bytes()).is_some();
                assert!(is_there, "{when} there is no `{shown}` in {names:?}");
            }
            names
        };
        let names = in_files("while it runs");
        for file in ["llm-proxy-api.db", "llm-proxy-api.db-wal"] {
            assert!(names.iter().any(|name| name == file), "{names:?}");
        }
        gateway.signal("TERM");
        gateway.ended().await;
        in_files("after its end");
        assert_without("the log", &gateway.log(), &secrets);
    }
}

#[tokio::test]
async fn nothing_planted_is_kept_in_another_database() {
    let upstream = upstream().await;
    // One that nobody reaches ends the start, with the reason.
    let away = format!("postgres://gateway:{DATABASE}@127.0.0.1:9/{QUERY}");
    let ended = setup(&upstream).env("AUTH", "keys").env("DATABASE_URL", &away).run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("LLM_PROXY_API_DATABASE_URL"), "{}", ended.stderr);
    assert_clean("the refused start", &ended.stderr);

    let Some(postgres) = Postgres::start() else { return };
    let url = postgres.url().replace("a-secret", DATABASE);
    let (gateway, kept) = with_keys(setup(&upstream).env("DATABASE_URL", &url)).await;
    let mut other = PgConnection::connect(&postgres.url()).await.unwrap();
    let tables: Vec<String> =
        sqlx::query_scalar("select tablename::text from pg_tables where schemaname = 'public'")
            .fetch_all(&mut other)
            .await
            .unwrap();
    assert!(tables.len() > 5, "{tables:?}");
    let secrets: Vec<&str> = ALL.into_iter().chain(kept.iter().map(String::as_str)).collect();
    let mut size = 0;
    for table in tables {
        let rows = sqlx::AssertSqlSafe(format!("select row_to_json(t)::text from \"{table}\" t"));
        let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(&mut other).await.unwrap();
        size += rows.len();
        assert_without(&table, &rows.join("\n"), &secrets);
    }
    assert!(size > 30, "{size}");
    assert!(!gateway.folder.path().join("data").exists());
}

#[test]
fn commands_do_not_show_keys_either() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let upstream = runtime.block_on(upstream());
    let setup = setup(&upstream);
    for command in ["check", "models", "openapi"] {
        let ended = setup.run(&[command]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_clean(command, &format!("{}{}", ended.stdout, ended.stderr));
    }
    let broken = format!(
        "{{\"providers\": {{\"up\": {{\"type\": \"openai\", \"api_key\": \"{KEY}\", \"modles\": {{}} }} }} }}"
    );
    let yaml = format!("providers:\n  up:\n    type: openai\n    api_key: {KEY}\n    modles: {{}}\n");
    for (name, text) in [("models.json", broken), ("models.yaml", yaml)] {
        let setup = Setup::new().file(name, &text).env("MODELS_CONFIG", name);
        let ended = setup.run(&["check"]);
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains("modles"), "{}", ended.stderr);
        assert_clean(name, &ended.stderr);
    }
}

#[tokio::test]
async fn debug_prints_of_the_configuration_hide_keys() {
    use llm_proxy_api::config::{Catalog, Environment, Timeouts};
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("models.json");
    let value: Value = json!({"providers": {"up": {"type": "openai", "base_url": "http://h/v1", "api_key": KEY, "headers": {"x-a": HEADER}, "models": {"m": {}}}}});
    std::fs::write(&path, value.to_string()).unwrap();
    let environment = Environment::load(folder.path()).unwrap();
    let catalog = Catalog::load(&path, &environment, Timeouts::default(), false).unwrap();
    assert_clean("Debug", &format!("{catalog:?} {:#?}", catalog.providers));
}

#[tokio::test]
async fn no_file_of_ours_can_be_read_by_other_users_whatever_the_umask() {
    let setup =
        Setup::new().file("start.sh", "umask 0\nexec \"$@\"\n").env("LOG_FILENAME", "logs/service.log");
    let database = setup.path("earlier/store.db");
    std::fs::create_dir_all(database.parent().unwrap()).unwrap();
    std::fs::write(&database, "").unwrap();
    std::fs::set_permissions(&database, std::fs::Permissions::from_mode(0o644)).unwrap();
    let run = setup.path("").display().to_string();
    let models = json!({"m": {"variants": [{"context": 512}]}});
    let local = json!({"type": "llamacpp", "binary": fake_llama_server(), "models": models});
    let gateway = setup
        .env("DATABASE_URL", &format!("sqlite://{}", database.display()))
        .variable("XDG_RUNTIME_DIR", &run)
        .models(&json!({"providers": {"local": local}}))
        .start();
    let request = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]});
    assert_eq!(gateway.ask("/v1/chat/completions", &request).await.0, 200);

    let mut seen = Vec::new();
    let mut next = vec![gateway.folder.path().to_owned()];
    while let Some(folder) = next.pop() {
        for found in std::fs::read_dir(folder).unwrap().map(|found| found.unwrap().path()) {
            let metadata = std::fs::symlink_metadata(&found).unwrap();
            let name = found.file_name().unwrap().to_str().unwrap().to_owned();
            let mode = metadata.permissions().mode() & 0o777;
            if metadata.is_dir() && name.starts_with("llm-proxy-api-") {
                assert_eq!(mode, 0o700, "{name}");
                seen.push("run".to_owned());
            } else if metadata.is_dir() {
                assert!(name != "logs" || mode.is_multiple_of(0o10), "{name}: {mode:o}");
                next.push(found);
            } else if metadata.is_file() && (name.starts_with("store.db") || name.starts_with("service.")) {
                assert_eq!(mode & 0o007, 0, "{name}: {mode:o}");
                seen.push(name.chars().take("store.db-wal".len()).collect());
            }
        }
    }
    let log = seen.iter().filter(|name| name.starts_with("service.")).count();
    assert_eq!(log, 1, "{seen:?}");
    for name in ["run", "store.db", "store.db-wal", "store.db-shm"] {
        assert!(seen.iter().any(|seen| seen == name), "{name}: {seen:?}");
    }
}
