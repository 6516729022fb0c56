//! One line a request, figures with bounded labels, and what probes are told.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::post;
use crate::support::{Connection, Setup, Step, Upstream, answer, events_of, eventually, fixture};

fn hello(stream: bool) -> Value {
    json!({"model": "echo", "stream": stream, "messages": [{"role": "user", "content": "one two three"}]})
}

/// The lines about requests, as JSON.
fn lines(log: &str) -> Vec<Value> {
    let all = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|line| line["message"] == "Request" || line["fields"]["message"] == "Request").collect()
}

fn field(line: &Value, name: &str) -> Value {
    line.get(name).or_else(|| line["fields"].get(name)).cloned().unwrap_or(Value::Null)
}

#[tokio::test]
async fn every_request_is_one_line_with_its_facts() {
    let gateway = Setup::new().env("LOG_FORMAT", "json").start();

    events_of(gateway.post("/api/chat", &hello(true)).header("x-request-id", "id-1")).await;
    gateway.post("/v1/chat/completions", &hello(false)).header("x-request-id", "id-2").send().await.unwrap();
    gateway.get("/nothing/at/all").header("x-request-id", "id-3").send().await.unwrap();
    let body = json!({"model_name": "echo", "user_last_statement": "Hi", "stream": false, "language": "pl"});
    gateway.post("/api/conversation_with_model", &body).header("x-request-id", "id-4").send().await.unwrap();
    eventually("all are written", async || lines(&gateway.log()).len() >= 4).await;

    let log = lines(&gateway.log());
    assert_eq!(log.len(), 4);
    let of = |id: &str| log.iter().find(|line| field(line, "request_id") == id).unwrap();
    let streamed = of("id-1");
    for (name, value) in [
        ("method", json!("POST")),
        ("endpoint", json!("/api/chat")),
        ("status", json!(200)),
        ("outcome", json!("completed")),
        ("gen_ai.request.model", json!("echo")),
        ("gen_ai.provider.name", json!("echo")),
        ("deployment", json!("echo/echo")),
        ("attempts", json!(1)),
        ("stream", json!(true)),
        ("gen_ai.usage.input_tokens", json!(3)),
        ("gen_ai.usage.output_tokens", json!(3)),
        ("usage_source", json!("provider")),
    ] {
        assert_eq!(field(streamed, name), value, "{name} in {streamed}");
    }
    assert!(field(streamed, "first_token_ms").is_number() && field(streamed, "duration_ms").is_number());
    assert_eq!(streamed["level"], "INFO");
    assert_eq!(field(of("id-2"), "endpoint"), "/v1/chat/completions");
    assert_eq!(
        (field(of("id-3"), "status"), field(of("id-3"), "error"), field(of("id-3"), "endpoint")),
        (json!(404), json!("unknown_path"), json!("unmatched"))
    );
    assert_eq!(field(of("id-4"), "prompt"), "chat-conversation-simple@1/pl");
}

#[tokio::test]
async fn a_caller_who_left_is_told_as_that() {
    let upstream = Upstream::answering(Step::Hold).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).env("LOG_FORMAT", "json").start();
    let mut caller = Connection::open(gateway.address()).await;
    caller
        .send(&post("/api/chat", &json!({"model": "m", "messages": [{"role": "user", "content": "x"}]})))
        .await;
    eventually("the upstream is asked", async || !upstream.seen().is_empty()).await;
    drop(caller);
    eventually("it is written", async || !lines(&gateway.log()).is_empty()).await;
    let line = &lines(&gateway.log())[0];
    assert_eq!((field(line, "outcome"), field(line, "status")), (json!("cancelled"), json!(499)));
}

#[tokio::test]
async fn the_log_is_written_to_a_file_too() {
    let gateway = Setup::new().env("LOG_FILENAME", "logs/mine.log").start();
    gateway.ask("/api/chat", &hello(false)).await;
    gateway.logged("endpoint=/api/chat");
    let folder = gateway.folder.path().join("logs");
    let text = async || {
        let files = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
        files.collect::<String>()
    };
    eventually("the file has it", async || text().await.contains("/api/chat")).await;
    assert!(!text().await.contains('\u{1b}'), "no colours in files");
}

#[tokio::test]
async fn the_logs_of_others_in_the_same_folder_stay() {
    let mut setup =
        Setup::new().env("LOG_FILENAME", "logs/a.log").file("logs/a.log", "of an older program\n");
    for day in 1..=9 {
        setup = setup.file(&format!("logs/auth.2020-01-0{day}.log"), "theirs\n");
    }
    let checked = setup.run(&["check"]);
    assert!(checked.stdout.contains("warning: LLM_PROXY_API_LOG_FILENAME"), "{}", checked.stdout);
    let gateway = setup.start();
    gateway.logged("logs/a.log` is a file already");
    let folder = gateway.folder.path().join("logs");
    assert_eq!(std::fs::read_to_string(folder.join("a.log")).unwrap(), "of an older program\n");
    let theirs = std::fs::read_dir(&folder)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("auth"));
    assert_eq!(theirs.count(), 9);
}

#[test]
fn a_folder_as_log_file_is_a_fault_for_check_and_start() {
    let setup = Setup::new().env("LOG_FILENAME", "logs").file("logs/x", "");
    for command in ["check", "serve"] {
        let ended = setup.run(&[command]);
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains("LLM_PROXY_API_LOG_FILENAME: `logs`: is a folder"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn levels_are_understood_in_any_case_and_filters_too() {
    for (level, info, debug) in [
        ("warn", false, false),
        ("Info", true, false),
        ("llm_proxy_api=debug,hyper=error", true, true),
        ("ERROR", false, false),
    ] {
        let gateway = Setup::new().env("LOG_LEVEL", level).start();
        gateway
            .ask("/api/chat", &json!({"model": "nobody", "messages": [{"role": "user", "content": "x"}]}))
            .await;
        gateway.ask("/api/chat", &hello(false)).await;
        if info {
            gateway.logged("endpoint=/api/chat");
        } else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(!gateway.log().contains("endpoint=/api/chat"), "{level}");
        }
        assert!(debug || !gateway.log().contains("DEBUG"), "{level}");
    }
}

#[tokio::test]
async fn figures_count_what_happened() {
    let upstream = Upstream::start(|seen| {
        if seen.json()["user"] == "bad" {
            vec![Step::Close]
        } else {
            vec![Step::Send(fixture("openai/chat"))]
        }
    })
    .await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let ask = async |user: &str| {
        gateway.ask("/api/chat", &json!({"model": "m", "stream": false, "user": user, "messages": [{"role": "user", "content": "x"}]})).await.0
    };
    assert_eq!((ask("good").await, ask("good").await, ask("bad").await), (200, 200, 502));
    gateway.get("/one/of/many/paths").send().await.unwrap();
    gateway.get("/another/of/many").send().await.unwrap();

    for (name, label, value) in [
        ("llm_proxy_requests_total", "endpoint=\"/api/chat\",status=\"200\"", 2.0),
        ("llm_proxy_requests_total", "endpoint=\"/api/chat\",status=\"502\"", 1.0),
        ("llm_proxy_requests_total", "endpoint=\"unmatched\",status=\"404\"", 2.0),
        ("llm_proxy_errors_total", "code=\"upstream_unreachable\"", 1.0),
        ("llm_proxy_upstream_attempts_total", "outcome=\"answered\"", 2.0),
        ("llm_proxy_upstream_attempts_total", "outcome=\"failed\"", 1.0),
        ("llm_proxy_first_token_seconds_count", "model=\"m\"", 2.0),
        ("llm_proxy_request_duration_seconds_count", "model=\"m\",provider=\"up\"", 3.0),
        ("llm_proxy_overhead_seconds_count", "", 3.0),
        ("llm_proxy_build_info", "version=", 1.0),
    ] {
        assert_eq!(gateway.figure(name, label).await, value, "{name} {label}");
    }
    let text = gateway.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(!text.contains("many"), "paths are no labels");
    assert!(text.contains("# TYPE llm_proxy_requests") && text.contains("# HELP"), "{text}");
    for (name, labels) in [
        ("llm_proxy_request_duration_seconds_bucket", "le=\"81.92\",model=\"m\""),
        ("process_cpu_seconds_total", ""),
    ] {
        assert!(text.lines().any(|line| line.starts_with(name) && line.contains(labels)), "{name} in {text}");
    }
}

#[tokio::test]
async fn figures_show_only_what_was_used() {
    let gateway = Setup::new().start();
    let text = async || gateway.get("/metrics").send().await.unwrap().text().await.unwrap();
    let fresh = text().await;
    assert!(
        !fresh.contains("endpoint=") && !fresh.contains("_bucket") && !fresh.contains("model="),
        "{fresh}"
    );

    events_of(gateway.post("/api/chat", &hello(true))).await;
    gateway.ask("/v1/embeddings", &json!({"model": "echo", "input": "x"})).await;
    eventually("both are counted", async || gateway.figure("llm_proxy_requests_total", "").await >= 3.0)
        .await;

    let used = text().await;
    let of = |name: &str| used.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(of("llm_proxy_request_duration_seconds_bucket"), 18, "one model at one provider: {used}");
    assert_eq!(of("llm_proxy_upstream_attempts_total"), 1, "{used}");
    for name in ["llm_proxy_time_per_output_token_seconds_count", "llm_proxy_first_token_seconds_count"] {
        assert_eq!(gateway.figure(name, "model=\"echo\",provider=\"echo\"").await, 1.0, "{name}");
    }
    assert!(used.lines().count() < 160, "{used}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_json_is_json_from_its_first_byte_to_its_last() {
    for how in ["pipe", "terminal"] {
        let setup = Setup::new().env("LOG_FORMAT", "json").env("LISTN", "a warning");
        let mut gateway = if how == "pipe" { setup.start() } else { setup.start_on_terminal() };
        gateway.ask("/api/chat", &hello(false)).await;
        gateway.signal("TERM");
        gateway.ended().await;
        gateway.logged("Ended");
        let log = gateway.log();
        for line in log.lines() {
            let line: Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} on a {how}: {line}"));
            assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
        }
        let serving = log.lines().find(|line| line.contains("\"Serving\"")).unwrap();
        let serving: Value = serde_json::from_str(serving).unwrap();
        assert_eq!(
            (field(&serving, "addresses"), field(&serving, "models")),
            (json!(gateway.base()), json!(1))
        );
    }
}

#[test]
fn a_start_that_fails_says_so_in_the_format_of_the_log() {
    for (setup, words) in [
        (Setup::new().env("TIMEOUT", "soon"), "LLM_PROXY_API_TIMEOUT"),
        (Setup::new().file("models.json", "{"), "models.json"),
        (Setup::new().env("LOG_FILENAME", "logs").file("logs/x", ""), "LOG_FILENAME"),
        (Setup::new().file(".env", "no line of it"), ".env"),
    ] {
        let ended = setup.env("LOG_FORMAT", "json").run(&[]);
        assert_eq!(ended.code, Some(1));
        let lines: Vec<Value> =
            ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = lines.last().unwrap();
        assert_eq!(last["level"], "ERROR");
        assert!(last["message"].as_str().unwrap().contains(words), "{last}");
    }
}

#[tokio::test]
async fn the_banner_is_for_terminals() {
    let gateway = Setup::new().start();
    assert!(!gateway.log().contains("Try it:") && !gateway.log().contains("Swagger UI"), "{}", gateway.log());
    let gateway = Setup::new().start_on_terminal();
    assert!(gateway.log().contains("Try it:") && gateway.log().contains("Swagger UI"), "{}", gateway.log());
}

#[tokio::test]
async fn figures_are_in_the_format_that_their_content_type_says() {
    let gateway = Setup::new().env("LOG_FORMAT", "json").start();
    for path in ["/api/prompts/translate", "/v1/models/echo", "/api/passthrough/echo/v1/models"] {
        gateway.get(path).send().await.unwrap();
    }
    for (accept, content_type, has_end) in [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", false),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            true,
        ),
    ] {
        let response = gateway.get("/metrics").header("accept", accept).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], content_type);
        let text = response.text().await.unwrap();
        assert_eq!(text.ends_with("# EOF\n"), has_end, "{text}");
        assert_eq!(text.contains("# TYPE llm_proxy_requests_total counter"), !has_end, "{text}");
        for endpoint in ["/api/prompts/{name}", "/v1/models/{id}", "/api/passthrough/{provider}/{path}"] {
            assert!(text.contains(&format!("endpoint=\"{endpoint}\"")), "{endpoint} in {text}");
        }
        assert!(!text.contains(":param") && !text.contains('*'), "{text}");
    }
    eventually("all are written", async || lines(&gateway.log()).len() >= 3).await;
    assert_eq!(field(&lines(&gateway.log())[0], "endpoint"), "/api/prompts/{name}");
}

#[tokio::test]
async fn codes_of_upstreams_do_not_become_labels() {
    let upstream = Upstream::answering(crate::support::json(
        400,
        "",
        &json!({"error": {"message": "x", "code": "made-up-4711"}}),
    ))
    .await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let (_, error) = gateway
        .ask("/api/chat", &json!({"model": "m", "messages": [{"role": "user", "content": "x"}]}))
        .await;
    assert_eq!(error["error"]["code"], "made-up-4711");
    let text = gateway.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(!text.contains("4711"), "{text}");
    assert_eq!(gateway.figure("llm_proxy_errors_total", "").await, 1.0);
}

#[tokio::test]
async fn probes_are_answered_and_say_why() {
    let gateway = Setup::new().start();
    assert_eq!(answer(gateway.get("/livez")).await.0, 200);
    let (status, ready) = answer(gateway.get("/readyz")).await;
    assert_eq!((status, &ready["status"], &ready["models"]), (200, &json!("ready"), &json!(1)));

    // A stream holds the service; who asks on an open connection hears that it drains.
    let mut probe = crate::support::client::Http2::open(gateway.address()).await;
    assert_eq!(probe.send("GET", "/livez", "").await.unwrap().status(), 200);
    let body = json!({"model": "echo", "messages": [{"role": "user", "content": "x y z"}], "echo": {"delay_ms": 1000}});
    let _stream = gateway.post("/api/chat", &body).send().await.unwrap();
    let mut connection = Connection::open(gateway.address()).await;
    connection.send("GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    connection.until("alive").await;
    // Its next request is on its way when the signal comes.
    connection.send("GET /readyz HTTP/1.1\r\nhost: localhost\r\n").await;
    gateway.signal("TERM");
    gateway.logged("Draining");
    connection.send("\r\n").await;
    let text = connection.read_to_end(Duration::from_secs(5)).await.unwrap();
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 503") && text.contains("draining"), "{text}");
}
