//! The llama-server for tests behaves like one, and its misbehaviour ends as it should.

use std::time::Duration;

use futures_util::future::join_all;
use llm_proxy_api::engine::{Exit, Launch};
use serde_json::{Value, json};

use crate::support::engine::{FakeEngine, fake_llama_server, launcher};
use crate::support::{Events, PATIENCE, events_of, eventually};

const CHAT: &str = "/v1/chat/completions";

fn says(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}]})
}

fn streams(text: &str) -> Value {
    json!({"stream": true, "stream_options": {"include_usage": true}, "messages": [{"role": "user", "content": text}]})
}

fn words(count: usize) -> String {
    "word ".repeat(count)
}

#[tokio::test]
async fn it_loads_and_then_is_ready() {
    let engine = FakeEngine::start("--fake-load-ms 300 -c 512").await;
    eventually("it listens", async || engine.http.get("http://engine/health").send().await.is_ok()).await;
    let loading = json!({"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}});
    assert_eq!(engine.get("/health").await, (503, loading));
    eventually("ready", async || engine.get("/health").await == (200, json!({"status": "ok"}))).await;
    let (_, props) = engine.get("/props").await;
    assert_eq!(
        (&props["total_slots"], &props["default_generation_settings"]["n_ctx"]),
        (&json!(4), &json!(512))
    );
    assert_eq!(engine.journal(), ["start", "ready"]);
}

#[tokio::test]
async fn it_wants_its_key() {
    let engine = FakeEngine::ready("").await;
    let without = engine.http.get("http://engine/props").send().await.unwrap();
    assert_eq!(without.status(), 401);
    assert_eq!(engine.http.get("http://engine/health").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn it_counts_what_it_takes() {
    let engine = FakeEngine::ready("").await;
    let (_, counted) = engine.post("/v1/chat/completions/input_tokens", &says("one two three")).await;
    let (_, prompt) = engine.post("/apply-template", &says("one two three")).await;
    let (_, tokens) = engine.post("/tokenize", &json!({"content": prompt["prompt"]})).await;
    let (_, answer) = engine.post(CHAT, &says("one two three")).await;
    assert_eq!((&counted["input_tokens"], tokens["tokens"].as_array().unwrap().len()), (&json!(5), 5));
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 0}})
    );
    assert_eq!(answer["choices"][0]["message"]["content"], "w1 w2 w3 w4 w5 w6 w7 w8 ");

    let old = FakeEngine::ready("--fake-without /v1/chat/completions/input_tokens").await;
    assert_eq!(old.post("/v1/chat/completions/input_tokens", &says("one")).await.0, 404);
}

#[tokio::test]
async fn it_streams_a_word_a_token() {
    let engine = FakeEngine::ready("").await;
    let events = events_of(engine.posting(CHAT, &streams("answer=3"))).await;
    let text: String =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!((text.as_str(), events.last().unwrap()), ("w1 w2 w3 ", &json!("[DONE]")));
    assert_eq!(events[events.len() - 2]["usage"]["completion_tokens"], 3);
    assert_eq!(events[events.len() - 3]["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_refused_with_both_numbers() {
    let engine = FakeEngine::ready("-c 64").await;
    let message = "request (102 tokens) exceeds the available context size (64 tokens), try increasing it";
    let error = json!({"error": {"code": 400, "message": message, "type": "exceed_context_size_error", "n_prompt_tokens": 102, "n_ctx": 64}});
    assert_eq!(engine.post(CHAT, &says(&words(100))).await, (400, error.clone()));
    assert_eq!(engine.post(CHAT, &streams(&words(100))).await, (400, error));
    // One that fits is answered until the context is full.
    let (_, answer) = engine.post(CHAT, &says(&format!("answer=100 {}", words(50)))).await;
    assert_eq!(
        (&answer["choices"][0]["finish_reason"], &answer["usage"]["total_tokens"]),
        (&json!("length"), &json!(64))
    );
}

#[tokio::test]
async fn two_that_do_not_fit_together_both_fail() {
    let engine = FakeEngine::ready("-c 100 --fake-token-ms 30").await;
    let alone = engine.post(CHAT, &says(&words(60))).await;
    assert_eq!(alone.0, 200);
    let request = says(&words(60));
    let both = join_all([engine.post(CHAT, &request), engine.post(CHAT, &request)]).await;
    let error =
        json!({"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}});
    assert_eq!(both, [(500, error.clone()), (500, error)]);
    assert_eq!(engine.post(CHAT, &says(&words(60))).await.0, 200, "and the next one is answered");
}

#[tokio::test]
async fn a_client_who_leaves_frees_the_slot() {
    let engine = FakeEngine::ready("-np 1 --fake-token-ms 20").await;
    let response = engine.posting(CHAT, &streams("answer=100000")).send().await.unwrap();
    let mut events = Events::of(response);
    assert!(events.next().await.unwrap().contains("assistant"));
    assert_eq!(engine.get("/slots").await.1[0]["is_processing"], true);
    drop(events);
    assert_eq!(engine.post(CHAT, &says("next answer=1")).await.0, 200);
    assert_eq!(engine.journal(), ["start", "ready", "request 3", "left", "request 4", "done"]);
}

#[tokio::test]
async fn one_that_does_not_start_says_why() {
    let engine = FakeEngine::start("--fake-exit no-such-device").await;
    assert_eq!(engine.process.exited().await, Exit::Code(1));
    assert_eq!(engine.process.log().lines(), ["no-such-device"]);

    let engine = FakeEngine::start("--fake-load-ms 100 --fake-load-failure out-of-memory").await;
    assert_eq!(engine.process.exited().await, Exit::Code(1));
    assert_eq!(engine.process.log().tail(2), ["out-of-memory", "main: exiting due to model loading error"]);
}

#[tokio::test]
async fn one_whose_port_is_taken_says_so() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let args = ["--host", "127.0.0.1", "--port", &port].map(str::to_owned).to_vec();
    let launch = Launch { name: "fake".to_owned(), binary: fake_llama_server(), args, ..Launch::default() };
    let process = launcher().start(launch).await.unwrap();
    assert_eq!(process.exited().await, Exit::Code(1));
    let words = format!("couldn't bind HTTP server socket, hostname: 127.0.0.1, port: {port}");
    assert!(process.log().lines().contains(&words), "{:?}", process.log().lines());
}

#[tokio::test]
async fn one_that_crashes_breaks_its_answers_off() {
    let engine = FakeEngine::ready("--fake-crash-after 3").await;
    let mut response = engine.posting(CHAT, &streams("answer=10")).send().await.unwrap();
    while let Ok(Some(_)) = response.chunk().await {}
    assert_eq!(engine.process.exited().await, Exit::Signal(6));
    assert_eq!(engine.process.log().tail(1), ["GGML_ASSERT: the device is lost"]);

    let engine = FakeEngine::ready("").await;
    assert!(engine.posting(CHAT, &says("please crash now")).send().await.is_err());
    assert_eq!(engine.process.exited().await, Exit::Signal(6));
}

#[tokio::test]
async fn one_that_hangs_or_ignores_signals_is_ended() {
    let engine =
        FakeEngine::ready("--fake-hang --fake-ignore-term --fake-grandchild --fake-noise line").await;
    let silent = engine.request(reqwest::Method::GET, "/health").timeout(Duration::from_millis(200));
    assert!(silent.send().await.unwrap_err().is_timeout());
    assert_eq!(engine.process.stop(Duration::from_millis(100)).await, Exit::Signal(9));
    let lines = engine.process.log().lines();
    assert!(lines.iter().map(String::len).sum::<usize>() < 300_000);
}

#[tokio::test]
async fn one_that_ends_slowly_ends_at_the_second_request() {
    let quick = FakeEngine::ready("").await;
    assert_eq!(quick.process.stop(PATIENCE).await, Exit::Code(0));
    let slow = FakeEngine::ready("--fake-stop-ms 60000").await;
    assert_eq!(slow.process.stop(Duration::from_millis(100)).await, Exit::Code(1));
    assert_eq!(slow.journal(), ["start", "ready", "term"]);
    let loading = FakeEngine::start("--fake-load-ms 60000").await;
    assert_eq!(loading.process.stop(PATIENCE).await, Exit::Signal(15));
}

#[tokio::test]
async fn what_is_bad_may_happen_once_only() {
    let folder = tempfile::TempDir::new().unwrap();
    let args = format!("--fake-exit no-memory --fake-once {}", folder.path().join("once").display());
    assert_eq!(FakeEngine::start(&args).await.process.exited().await, Exit::Code(1));
    FakeEngine::ready(&args).await;
}

#[tokio::test]
async fn lines_without_end_take_no_more_than_they_may() {
    let engine = FakeEngine::ready("--fake-noise lines").await;
    let log = engine.process.log();
    eventually("a lot", async || log.bytes() > 10_000_000).await;
    assert_eq!(log.lines().len(), 1000);
    assert_eq!(engine.get("/health").await.0, 200, "it is not held up");
}
