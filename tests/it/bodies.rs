//! Bodies of requests take a bounded part of the memory, all together, and none is read for which its key has no place.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::support::flood::Flood;
use crate::support::{Connection, Gateway, PATIENCE, Setup, answer, eventually};

const CHAT: &str = "/v1/chat/completions";
const ADMIN: &str = "an-admin-key-of-some-length";
const MIB: usize = 1024 * 1024;

async fn make(gateway: &Gateway, limits: Value) -> String {
    let key = json!({"name": "k", "limits": limits});
    let made = answer(gateway.post("/admin/keys", &key).header("x-admin-key", ADMIN)).await;
    assert_eq!(made.0, 200, "{}", made.1);
    made.1["key"].as_str().unwrap().to_owned()
}

fn keyed() -> Gateway {
    Setup::new().env("AUTH", "keys").env("ADMIN_KEY", ADMIN).start()
}

/// A chat that the echo model answers, of so many bytes.
fn chat_of(bytes: usize) -> String {
    let body = |said: String| {
        json!({"model": "echo", "stream": false, "messages": [{"role": "user", "content": said}]}).to_string()
    };
    let around = body(String::new()).len();
    body("x".repeat(bytes - around))
}

fn head(more: &str) -> String {
    format!("POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{more}\r\n")
}

/// A caller who has sent the head of a request, and nothing of its body of so many bytes.
async fn begun(gateway: &Gateway, bytes: usize, more: &str) -> Connection<TcpStream> {
    let mut caller = Connection::open(gateway.address()).await;
    caller.send(&head(&format!("content-length: {bytes}\r\n{more}"))).await;
    caller
}

/// The same, of whose body something is wanted by now.
async fn wanted(gateway: &Gateway, bytes: usize, more: &str) -> Connection<TcpStream> {
    let mut caller = begun(gateway, bytes, &format!("expect: 100-continue\r\n{more}")).await;
    caller.until("100 Continue\r\n\r\n").await;
    caller
}

/// The status of what is answered.
async fn status(caller: &mut Connection<TcpStream>) -> String {
    let mut line = vec![0; 12];
    timeout(PATIENCE, caller.socket.read_exact(&mut line)).await.expect("no answer").unwrap();
    String::from_utf8(line).unwrap().split_off(9)
}

#[tokio::test]
async fn a_key_without_a_place_left_is_refused_before_its_body_is_read() {
    let gateway = keyed();
    let key = make(&gateway, json!({"parallel_requests": 2})).await;
    let shown = format!("authorization: Bearer {key}\r\n");
    let mut slow = Vec::new();
    for _ in 0..2 {
        slow.push(wanted(&gateway, 100_000, &shown).await);
    }
    for bytes in [100, 20 * MIB] {
        let mut third = begun(&gateway, bytes, &shown).await;
        assert_eq!(status(&mut third).await, "429", "{bytes}");
    }
    let refused = gateway.post(CHAT, &json!({})).bearer_auth(&key);
    assert_eq!(answer(refused).await.1["error"]["code"], "rate_limit_exceeded");
    // Those who have a place keep it to the end, and then leave it to others.
    let body = chat_of(100_000);
    let mut first = slow.remove(0);
    first.send(&body).await;
    assert_eq!(status(&mut first).await, "200");
    drop((first, slow));
    let request = || gateway.post(CHAT, &serde_json::from_str(&body).unwrap()).bearer_auth(&key);
    eventually("places come back", async || answer(request()).await.0 == 200).await;
}

#[tokio::test]
async fn what_uses_no_tokens_counts_as_a_request() {
    let gateway = keyed();
    let count = json!({"model": "echo", "input": "one two"});
    let render = json!({"variables": {}});
    for (path, body) in [
        ("/api/tokenize/count", &count),
        ("/extras/tokenize/count", &count),
        ("/api/explain", &json!({"model": "echo", "messages": [{"role": "user", "content": "Hi"}]})),
        ("/api/prompts/none/render", &render),
    ] {
        let key = make(&gateway, json!({"requests_per_minute": 2})).await;
        let ask = async || answer(gateway.post(path, body).bearer_auth(&key)).await;
        assert_ne!(ask().await.0, 429, "{path}");
        assert_ne!(ask().await.0, 429, "{path}");
        let (status, told) = ask().await;
        assert_eq!((status, &told["error"]["code"]), (429, &json!("rate_limit_exceeded")), "{path}: {told}");
        // It is the same limit as that of requests to models.
        let chat = json!({"model": "echo", "messages": [{"role": "user", "content": "Hi"}]});
        assert_eq!(answer(gateway.post(CHAT, &chat).bearer_auth(&key)).await.0, 429, "{path}");
    }
}

#[tokio::test]
async fn counting_takes_a_place_among_parallel_requests() {
    let gateway = keyed();
    let key = make(&gateway, json!({"parallel_requests": 1})).await;
    let _slow = wanted(&gateway, 1000, &format!("authorization: Bearer {key}\r\n")).await;
    let count = json!({"model": "echo", "input": "one two"});
    assert_eq!(answer(gateway.post("/api/tokenize/count", &count).bearer_auth(&key)).await.0, 429);
}

#[tokio::test]
async fn a_body_for_which_there_is_no_memory_is_refused_and_others_end() {
    let small = MIB.to_string();
    let gateway = Setup::new().env("MAX_BODY_BYTES", &small).env("MAX_BODY_MEMORY_BYTES", &small).start();
    let body = chat_of(MIB);
    let mut first = wanted(&gateway, body.len(), "").await;
    first.send(&body[..MIB / 2]).await;

    let chat = |bytes: usize| serde_json::from_str::<Value>(&chat_of(bytes)).unwrap();
    let started = Instant::now();
    let mut sent = MIB / 2;
    let slowly = async {
        loop {
            first.send(&body[sent..=sent]).await;
            sent += 1;
            sleep(Duration::from_millis(300)).await;
        }
    };
    let refused = gateway.post(CHAT, &chat(MIB / 2)).send();
    let response = tokio::select! {
        () = slowly => unreachable!("it has no end"),
        response = refused => response.unwrap(),
    };
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (503, &"2".parse().unwrap())
    );
    let told: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert_eq!(told["error"]["type"], "overloaded_error");
    assert_eq!(told["error"]["code"], "body_memory_full");
    assert!(started.elapsed() >= Duration::from_secs(4), "it waits for others: {:?}", started.elapsed());

    // Small ones have memory of their own.
    assert_eq!(gateway.ask(CHAT, &chat(60 * 1024)).await.0, 200);
    first.send(&body[sent..]).await;
    assert_eq!(status(&mut first).await, "200");
    eventually("its memory comes back", async || gateway.ask(CHAT, &chat(MIB)).await.0 == 200).await;
}

#[tokio::test]
async fn who_sends_nothing_takes_no_memory_from_others() {
    let small = MIB.to_string();
    let gateway = Setup::new().env("MAX_BODY_BYTES", &small).env("MAX_BODY_MEMORY_BYTES", &small).start();
    let body = chat_of(MIB);
    let mut idle = Vec::new();
    for more in ["", "", "x-a: b\r\n"] {
        idle.push(begun(&gateway, MIB, more).await);
        idle.last_mut().unwrap().send(&body[..1]).await;
        let mut chunked = Connection::open(gateway.address()).await;
        chunked.send(&head("transfer-encoding: chunked\r\n")).await;
        chunked.send("1\r\n{\r\n").await;
        idle.push(chunked);
    }
    let chat = serde_json::from_str::<Value>(&body).unwrap();
    let started = Instant::now();
    assert_eq!(gateway.ask(CHAT, &chat).await.0, 200);
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());

    // Who has sent much and stops is given up while others wait.
    let mut silent = wanted(&gateway, body.len(), "").await;
    silent.send(&body[..MIB / 2]).await;
    assert_eq!(gateway.ask(CHAT, &chat).await.0, 200);
    assert_eq!(status(&mut silent).await, "408");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_many_callers_take_bounded_memory() {
    let gateway = Setup::new().env("MAX_BODY_MEMORY_BYTES", &(64 * MIB).to_string()).start();
    let before = resident(&gateway);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let mut caller = begun(&gateway, 16 * MIB, "").await;
        callers.spawn(async move {
            // All but the last byte.
            let most = vec![b' '; 16 * MIB - 1];
            let _ = caller.socket.write_all(&most).await;
            sleep(Duration::from_secs(60)).await;
        });
    }
    sleep(Duration::from_millis(2500)).await;
    let more = resident(&gateway) - before;
    assert!(more < 64 + 48, "{more} MiB");
}

/// MiB that the process has had at most.
fn resident(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Streams of HTTP/2 whose caller does not read, though its windows are open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_reads_take_little() {
    const STREAMS: u64 = 200;
    let text = "x".repeat(32 * 1024);
    let event = format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    let flood = Flood::of_events(&event);
    let gateway = Setup::upstream("openai", &flood.v1(), &["m"]).env("LOG_LEVEL", "ERROR").start();
    let before = resident(&gateway);
    let socket = TcpStream::connect(gateway.address()).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    let largest = (1 << 31) - 1;
    builder.initial_stream_window_size(largest).initial_connection_window_size(largest);
    let io = hyper_util::rt::TokioIo::new(socket);
    let (mut sender, mut driver) = builder.handshake(io).await.unwrap();
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let mut asked = Vec::new();
    for _ in 0..STREAMS {
        let request =
            http::Request::post(format!("http://127.0.0.1{CHAT}")).header("content-type", "application/json");
        let body = http_body_util::Full::<bytes::Bytes>::from(body.to_string());
        asked.push(sender.send_request(request.body(body).unwrap()));
    }
    // Long enough to ask, and then the socket is not read.
    let _ = timeout(Duration::from_millis(300), &mut driver).await;
    sleep(Duration::from_secs(3)).await;
    let more = resident(&gateway) - before;
    assert!(more < STREAMS / 4, "{more} MiB");
}
