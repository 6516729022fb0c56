//! Upstreams that send without a pause: others are served, time limits hold, and callers who leave are noticed. What such a
//! stream brings takes a bounded part of the memory.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use crate::support::client::post;
use crate::support::flood::Flood;
use crate::support::{Connection, Gateway, Setup, Step, Upstream};

/// The contract says 100 ms. Here the server, its callers and other tests are on the same processors.
const SOON: Duration = Duration::from_millis(1000);
/// The same of time limits, for which the contract says 200 ms.
const LATE: Duration = Duration::from_secs(4);
const CONTENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x \"}}]}\n\n";

fn asked(stream: bool) -> Value {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]})
}

/// The model `m` at that server, with a limit for the whole answer.
fn gateway(kind: &str, base_url: &str, seconds: f64) -> Gateway {
    let provider = json!({"type": kind, "base_url": base_url, "timeout": seconds, "models": {"m": {}}});
    Setup::new().models(&json!({"providers": {"up": provider}})).start()
}

/// Callers who read as fast as they can, more than there are threads.
async fn readers(gateway: &Gateway, path: &str, body: &Value, count: usize) -> JoinSet<()> {
    let mut readers = JoinSet::new();
    for _ in 0..count {
        let mut caller = Connection::open(gateway.address()).await;
        caller.send(&post(path, body)).await;
        readers.spawn(async move {
            let mut piece = vec![0; 256 * 1024];
            while caller.socket.read(&mut piece).await.is_ok_and(|read| read > 0) {}
        });
    }
    readers
}

/// How long half of some requests take that ask for nothing.
async fn half_of_probes(gateway: &Gateway) -> Duration {
    let mut times = Vec::new();
    for _ in 0..11 {
        let asked = Instant::now();
        // On a connection of its own each, so that they come to all threads.
        let mut caller = Connection::open(gateway.address()).await;
        caller.send("GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").await;
        let answer = caller.read_to_end(Duration::from_secs(15)).await;
        assert!(answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")));
        times.push(asked.elapsed());
    }
    times.sort();
    times[5]
}

/// Others are served, and a caller who leaves is noticed.
async fn is_fair(flood: &Flood, gateway: &Gateway, path: &str, body: &Value) {
    let readers = readers(gateway, path, body, 4).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let half = half_of_probes(gateway).await;
    assert!(half < SOON, "{path}: {half:?}");
    let left = Instant::now();
    drop(readers);
    for _ in 0..4 {
        let time = flood.ended().saturating_duration_since(left);
        assert!(time < SOON, "{path}: noticed after {time:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_without_a_pause_keeps_nobody_waiting() {
    let flood = Flood::of_events(CONTENT);
    let gateway = gateway("openai", &flood.v1(), 60.0);
    is_fair(&flood, &gateway, "/v1/chat/completions", &asked(true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comments_without_a_pause_keep_nobody_waiting() {
    let flood = Flood::of_events(": ping\n\n");
    let gateway = gateway("openai", &flood.v1(), 60.0);
    is_fair(&flood, &gateway, "/v1/chat/completions", &asked(true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_lines_without_a_pause_keep_nobody_waiting() {
    let flood = Flood::of(
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n",
        "1\r\n\n\r\n",
    );
    let gateway = gateway("ollama", &flood.url(), 60.0);
    is_fair(&flood, &gateway, "/api/chat", &asked(true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raw_answer_without_a_pause_keeps_nobody_waiting() {
    let flood = Flood::of("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n", "0123456789abcdef");
    let gateway = gateway("openai", &flood.v1(), 60.0);
    is_fair(&flood, &gateway, "/api/passthrough/up/v1/anything", &json!({})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_limits_hold_although_there_is_always_more() {
    let limit = Duration::from_millis(1500);
    for (kind, event) in [("openai", CONTENT), ("openai", ": ping\n\n"), ("llamacpp", CONTENT)] {
        let flood = Flood::of_events(event);
        let gateway = gateway(kind, &flood.v1(), limit.as_secs_f64());
        let started = Instant::now();
        let mut caller = Connection::open(gateway.address()).await;
        caller.send(&post("/v1/chat/completions", &asked(kind == "openai"))).await;
        let reading = async move {
            let mut piece = vec![0; 256 * 1024];
            while caller.socket.read(&mut piece).await.is_ok_and(|read| read > 0) {}
        };
        let ended = async {
            let ended = tokio::task::block_in_place(|| flood.ended());
            ended.saturating_duration_since(started)
        };
        let reading = tokio::spawn(async move { tokio::time::timeout(limit * 10, reading).await });
        let took = ended.await;
        reading.abort();
        assert!(took > limit / 2 && took < limit + LATE, "{kind} {event:?}: {took:?}");
    }
}

/// A caller who reads slowly keeps an answer waiting that has more at any time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_limits_hold_although_the_caller_reads_slowly() {
    let limit = Duration::from_millis(1500);
    let flood = Flood::of_events(CONTENT);
    let gateway = gateway("openai", &flood.v1(), limit.as_secs_f64());
    let started = Instant::now();
    let mut caller = Connection::open(gateway.address()).await;
    caller.send(&post("/v1/chat/completions", &asked(true))).await;
    let reading = tokio::spawn(async move {
        let mut piece = vec![0; 256 * 1024];
        while caller.socket.read(&mut piece).await.is_ok_and(|read| read > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let ended = tokio::task::block_in_place(|| flood.ended());
    reading.abort();
    let took = ended.saturating_duration_since(started);
    assert!(took < limit + LATE, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_answers_without_end_are_a_failure() {
    let flood = Flood::of("", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n");
    let gateway = gateway("openai", &flood.v1(), 60.0);
    for body in [asked(true), asked(false)] {
        let started = Instant::now();
        let (status, answer) = gateway.ask("/v1/chat/completions", &body).await;
        assert_eq!((status, &answer["error"]["code"]), (502, &json!("upstream_protocol")), "{answer}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}

/// Megabytes that the process has at the moment.
fn resident(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_before_an_answer_is_bounded() {
    for event in [
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n: a comment that is dropped\n\n",
    ] {
        let flood = Flood::of_events(event);
        let gateway = gateway("openai", &flood.v1(), 60.0);
        let before = resident(&gateway);
        let (status, answer) = gateway.ask("/v1/chat/completions", &asked(true)).await;
        assert_eq!((status, &answer["error"]["code"]), (502, &json!("upstream_protocol")), "{answer}");
        assert!(
            answer["error"]["message"].as_str().unwrap().contains("before its answer begins"),
            "{answer}"
        );
        let more = resident(&gateway) - before;
        assert!(more < 64, "{more} MiB");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_folded_is_bounded() {
    let text = "x".repeat(64 * 1024);
    let calls =
        format!(r#"{{"index":0,"delta":{{"tool_calls":[{}{{}}]}}}}"#, r#"{"id":"a"},[],"#.repeat(200));
    let list = format!("[{}0]", "0,".repeat(16 * 1024));
    for choice in [
        format!(r#"{{"index":0,"delta":{{"content":"{text}"}}}}"#),
        calls,
        format!(r#"{{"index":0,"delta":{{}},"logprobs":{{"content":{list}}}}}"#),
    ] {
        let flood = Flood::of_events(&format!("data: {{\"choices\":[{choice}]}}\n\n"));
        let gateway = gateway("llamacpp", &flood.v1(), 60.0);
        let before = resident(&gateway);
        let (status, answer) = gateway.ask("/v1/chat/completions", &asked(false)).await;
        let start = &choice[..60];
        assert_eq!(
            (status, &answer["error"]["code"]),
            (502, &json!("upstream_protocol")),
            "{start}: {answer}"
        );
        assert!(answer["error"]["message"].as_str().unwrap().contains("longer than"), "{start}: {answer}");
        let more = resident(&gateway) - before;
        // Twice what is kept, for it grows by doubling.
        assert!(more < 250, "{start}: {more} MiB");
    }
}

/// Short JSON may become large values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_large_event_of_many_values_is_refused() {
    let event = format!("{{\"choices\":[{{\"delta\":{{\"x\":[{}0]}}}}]}}", "0,".repeat(2_000_000));
    let line = format!("{{\"message\":{{}},\"done\":true,\"logprobs\":[{}0]}}", "[],".repeat(2_000_000));
    let whole = move |body: &str| {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
    };
    let events = format!("data: {event}\n\ndata: [DONE]\n\n");
    for (kind, sent) in [("llamacpp", whole(&events)), ("ollama", whole(&line))] {
        let upstream = Upstream::start(move |_| vec![Step::Send(sent.clone())]).await;
        let base = if kind == "ollama" { upstream.url() } else { upstream.v1() };
        let gateway = gateway(kind, &base, 60.0);
        let before = resident(&gateway);
        let (status, answer) = gateway.ask("/v1/chat/completions", &asked(false)).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (502, &json!("upstream_protocol")),
            "{kind}: {answer}"
        );
        let more = resident(&gateway) - before;
        assert!(more < 100, "{kind}: {more} MiB");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_lists_of_questions_keep_nobody_waiting() {
    let gateway = Setup::new().env("LOG_LEVEL", "ERROR").start();
    // None of them is numbered, so each line asks whether any other is.
    let unnumbered = "- a?\n".repeat(100_000);
    let numbered: String = (0..250).map(|line| format!("{line}. Why is that so?\n")).collect();
    for texts in [vec![unnumbered], vec![numbered.repeat(40); 16]] {
        let body = json!({"model_name": "echo", "texts": texts});
        let asking = async {
            let started = Instant::now();
            let (status, answer) = gateway.ask("/api/generate_questions", &body).await;
            assert_eq!(status, 200, "{answer}");
            assert_eq!(answer["response"].as_array().unwrap().len(), texts.len());
            started.elapsed()
        };
        let probing = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            half_of_probes(&gateway).await
        };
        let (took, half) = tokio::join!(asking, probing);
        assert!(half < SOON, "{half:?}");
        // By the square of the lines it takes minutes.
        assert!(took < Duration::from_secs(15), "{took:?}");
    }
}

#[tokio::test]
async fn an_answer_of_megabytes_is_no_list_of_questions() {
    let gateway = Setup::new().start();
    let body = json!({"model_name": "echo", "texts": ["Why?", "- a?\n".repeat(240_000)]});
    let (status, answer) = gateway.ask("/api/generate_questions", &body).await;
    assert_eq!((status, &answer["error"]["code"]), (502, &json!("upstream_protocol")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("`texts[1]`"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_text_for_the_echo_model_keeps_nobody_waiting() {
    let gateway = Setup::new().env("LOG_LEVEL", "ERROR").start();
    let body = json!({"model": "echo", "messages": [{"role": "user", "content": "a ".repeat(2_000_000)}]});
    for stream in [true, false] {
        let mut body = body.clone();
        body["stream"] = json!(stream);
        let readers = readers(&gateway, "/v1/chat/completions", &body, 2).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let half = half_of_probes(&gateway).await;
        assert!(half < SOON, "stream {stream}: {half:?}");
        drop(readers);
    }
}
