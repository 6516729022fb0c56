//! What is written down of calls that have no answer: who was asked last, how many were, and what was handed over.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, Row as _, SqliteConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::support::{Gateway, Setup, Step, Upstream, answer, eventually, json};

const CHAT: &str = "/v1/chat/completions";
/// Long enough that nobody takes its estimate for anything else.
const SAID: &str = "a statement that has quite some words in it, so that an estimate of it is not small";

/// A line of the ledger, as far as it is looked at here.
#[derive(Debug)]
struct Line {
    model: String,
    provider: String,
    deployment: String,
    attempts: i64,
    input_tokens: i64,
    output_tokens: i64,
    source: String,
    ending: String,
    error: String,
    cost_nano: Option<i64>,
}

impl Line {
    fn of(row: &SqliteRow) -> Self {
        let text = |name: &str| row.get::<String, _>(name);
        let number = |name: &str| row.get::<i64, _>(name);
        Self {
            model: text("model"),
            provider: text("provider"),
            deployment: text("deployment"),
            attempts: number("attempts"),
            input_tokens: number("input_tokens"),
            output_tokens: number("output_tokens"),
            source: text("source"),
            ending: text("ending"),
            error: text("error"),
            cost_nano: row.get("cost_nano"),
        }
    }

    /// Who was asked last, after how many, and how it ended.
    fn end(&self) -> (&str, &str, i64, &str) {
        (&self.provider, &self.deployment, self.attempts, &self.ending)
    }
}

/// The lines of the ledger, the last first, as soon as there are so many.
async fn lines(gateway: &Gateway, count: usize) -> Vec<Line> {
    let file = gateway.folder.path().join("data/llm-proxy-api.db");
    let mut store = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    let mut lines: Vec<Line> = Vec::new();
    eventually("all is written down", async || {
        let rows =
            sqlx::query("select * from usage_requests order by time_ms desc").fetch_all(&mut store).await;
        lines = rows.unwrap().iter().map(Line::of).collect();
        lines.len() >= count
    })
    .await;
    lines
}

fn asked(model: &str, stream: bool) -> Value {
    json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": SAID}]})
}

/// Two providers of one model, the one that is asked first and the other, with a price.
fn setup(first: &str, second: &str, routing: &Value) -> Setup {
    let provider = |url: &str, priority: i32| json!({"type": "openai", "base_url": url, "models": {"m": {"upstream": "real", "priority": priority}}});
    let prices = json!({"prices": [{"model": "real", "input": 1_000_000.0, "output": 1.0}]});
    let providers = json!({"one": provider(first, 1), "two": provider(second, 2)});
    Setup::new()
        .models(&json!({"providers": providers, "prices": "prices.json", "routing": routing}))
        .file("prices.json", &prices.to_string())
}

/// An address at which nobody listens.
fn nowhere() -> String {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!("http://{address}/v1")
}

/// Sends a request, and leaves as soon as `is_there`.
async fn leave(gateway: &Gateway, path: &str, body: &Value, mut is_there: impl AsyncFnMut() -> bool) {
    let request = gateway.post(path, body);
    let asking = tokio::spawn(request.send());
    eventually("it is asked", &mut is_there).await;
    asking.abort();
}

#[tokio::test]
async fn a_caller_who_leaves_before_the_first_content_is_written_down_with_who_was_asked() {
    let broken = Upstream::answering(json(500, "", &json!({"error": {"message": "no"}}))).await;
    let silent = Upstream::answering(Step::Hold).await;
    let gateway = setup(&broken.v1(), &silent.v1(), &json!({"max_cooldown": 0.000_001})).start();
    for (number, (path, body)) in [
        (CHAT, asked("m", false)),
        (CHAT, asked("m", true)),
        ("/api/chat", asked("m", true)),
        ("/v1/embeddings", json!({"model": "m", "input": SAID})),
    ]
    .into_iter()
    .enumerate()
    {
        leave(&gateway, path, &body, async || silent.seen().len() > number).await;
        let lines = lines(&gateway, number + 1).await;
        let line = &lines[0];
        assert_eq!((line.model.as_str(), line.end()), ("m", ("two", "two/real", 2, "cancelled")), "{path}");
        assert!(line.input_tokens >= 20 && line.source == "estimated", "{path}: {line:?}");
        assert_eq!((line.output_tokens, line.error.as_str()), (0, ""), "{path}");
        assert_eq!(line.cost_nano, Some(line.input_tokens * 1_000_000_000), "{path}");
    }
}

/// A socket that listens, in whose queue there is room for hardly anybody.
fn narrow() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(1).unwrap()
}

/// Fills its queue: nobody else comes through.
async fn fill(listener: &TcpListener) -> Vec<TcpStream> {
    let mut waiting = Vec::new();
    loop {
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        match timeout(Duration::from_millis(300), connecting).await {
            Ok(connected) => waiting.push(connected.unwrap()),
            Err(_) => return waiting,
        }
    }
}

/// A socket that listens, and whose queue is full.
async fn full() -> (TcpListener, Vec<TcpStream>) {
    let listener = narrow();
    let waiting = fill(&listener).await;
    (listener, waiting)
}

/// Reads a request to the end of its statement.
async fn read_request(socket: &mut TcpStream) {
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(SAID) {
        let mut buffer = [0; 2048];
        let read = timeout(Duration::from_secs(10), socket.read(&mut buffer)).await;
        let read = read.expect("no request came").unwrap();
        assert!(read > 0, "the request broke off");
        text.extend_from_slice(&buffer[..read]);
    }
}

/// Not near by: it is asked through a proxy.
const FAR: &str = "http://upstream.test/v1";

#[tokio::test]
async fn what_nobody_has_taken_is_not_counted() {
    let (listener, _waiting) = full().await;
    let address = format!("http://{}", listener.local_addr().unwrap());
    for second in [format!("{address}/v1"), FAR.to_owned()] {
        let gateway = setup(&nowhere(), &second, &json!({})).variable("HTTP_PROXY", &address).start();
        let asking = tokio::spawn(gateway.post(CHAT, &asked("m", false)).send());
        sleep(Duration::from_millis(700)).await;
        asking.abort();
        let lines = lines(&gateway, 1).await;
        assert_eq!(lines[0].end(), ("two", "two/real", 2, "cancelled"), "{second}");
        assert_eq!((lines[0].input_tokens, lines[0].cost_nano), (0, None), "{second}");
    }
}

#[tokio::test]
async fn what_a_proxy_has_taken_is_counted() {
    let silent = Upstream::answering(Step::Hold).await;
    let gateway = setup(&nowhere(), FAR, &json!({})).variable("HTTP_PROXY", &silent.url()).start();
    leave(&gateway, CHAT, &asked("m", true), async || !silent.seen().is_empty()).await;
    let seen = silent.seen().remove(0);
    assert_eq!(seen.header("content-length"), Some(&*seen.body.len().to_string()), "its length is told");
    let lines = lines(&gateway, 1).await;
    assert_eq!(lines[0].end(), ("two", "two/real", 2, "cancelled"));
    assert!(lines[0].input_tokens >= 20, "{:?}", lines[0]);
}

#[tokio::test]
async fn what_goes_out_on_a_connection_that_came_free_meanwhile_is_counted() {
    let listener = narrow();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let gateway = setup(&nowhere(), FAR, &json!({})).variable("HTTP_PROXY", &address).start();
    let first = tokio::spawn(gateway.post(CHAT, &asked("m", false)).send());
    let (mut socket, _) = listener.accept().await.unwrap();
    read_request(&mut socket).await;
    // The second one begins to connect, and does not come through.
    let _waiting = fill(&listener).await;
    let second = tokio::spawn(gateway.post(CHAT, &asked("m", false)).send());
    sleep(Duration::from_millis(500)).await;
    let answer = json!({"id": "1", "object": "chat.completion", "model": "real", "choices": [{"index": 0,
        "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]})
    .to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        answer.len()
    );
    socket.write_all(format!("{head}{answer}").as_bytes()).await.unwrap();
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    read_request(&mut socket).await;
    second.abort();
    let lines = lines(&gateway, 2).await;
    assert_eq!(lines[0].end(), ("two", "two/real", 1, "cancelled"), "the first one rests");
    assert!(lines[0].input_tokens >= 20, "{:?}", lines[0]);
}

#[tokio::test]
async fn of_two_that_are_asked_at_once_one_that_has_the_prompt_is_enough() {
    let silent = Upstream::answering(Step::Hold).await;
    let (listener, _waiting) = full().await;
    let address = format!("http://{}", listener.local_addr().unwrap());
    let routing = json!({"hedge_after": 0.05, "hedge_budget": 1.0});
    let gateway = setup(&silent.v1(), FAR, &routing).variable("HTTP_PROXY", &address).start();
    let asking = tokio::spawn(gateway.post(CHAT, &asked("m", true)).send());
    sleep(Duration::from_millis(700)).await;
    asking.abort();
    let lines = lines(&gateway, 1).await;
    assert_eq!((lines[0].attempts, &*lines[0].ending), (2, "cancelled"));
    assert!(lines[0].input_tokens >= 20, "{:?}", lines[0]);
}

#[tokio::test]
async fn of_two_that_are_asked_at_once_one_that_has_failed_counts_no_more() {
    let slow =
        vec![Step::Pause(Duration::from_millis(300)), json(500, "", &json!({"error": {"message": "no"}}))];
    let broken = Upstream::start(move |_| slow.clone()).await;
    let (listener, _waiting) = full().await;
    let second = format!("http://{}/v1", listener.local_addr().unwrap());
    let routing = json!({"hedge_after": 0.05, "hedge_budget": 1.0});
    let gateway = setup(&broken.v1(), &second, &routing).start();
    let asking = tokio::spawn(gateway.post(CHAT, &asked("m", true)).send());
    sleep(Duration::from_millis(1000)).await;
    asking.abort();
    let lines = lines(&gateway, 1).await;
    assert_eq!(lines[0].end(), ("two", "two/real", 2, "cancelled"));
    assert_eq!((lines[0].input_tokens, lines[0].cost_nano), (0, None), "{:?}", lines[0]);
}

#[tokio::test]
async fn of_two_that_are_asked_at_once_the_one_that_is_left_is_written_down() {
    let silent = Upstream::answering(Step::Hold).await;
    let broken = Upstream::answering(json(500, "", &json!({"error": {"message": "no"}}))).await;
    let other = Upstream::answering(Step::Hold).await;
    for (second, last) in [(&other, "two"), (&broken, "one")] {
        let routing = json!({"hedge_after": 0.05, "hedge_budget": 1.0});
        let gateway = setup(&silent.v1(), &second.v1(), &routing).start();
        let asking = tokio::spawn(gateway.post(CHAT, &asked("m", true)).send());
        eventually("both are asked", async || !second.seen().is_empty()).await;
        sleep(Duration::from_millis(200)).await;
        asking.abort();
        let lines = lines(&gateway, 1).await;
        assert_eq!(lines[0].end(), (last, &*format!("{last}/real"), 2, "cancelled"));
        assert!(lines[0].input_tokens >= 20, "{:?}", lines[0]);
    }
}

#[tokio::test]
async fn a_raw_request_that_is_given_up_counts_what_was_handed_over() {
    let silent = Upstream::answering(Step::Hold).await;
    let gateway = setup(&silent.v1(), &silent.v1(), &json!({})).start();
    let body = json!({"model": "real", "messages": [{"role": "user", "content": SAID}]});
    leave(&gateway, "/api/passthrough/two/v1/chat/completions", &body, async || !silent.seen().is_empty())
        .await;
    let lines = lines(&gateway, 1).await;
    assert_eq!(lines[0].end(), ("two", "two/real", 1, "cancelled"));
    assert!(lines[0].input_tokens >= 20 && lines[0].source == "estimated", "{:?}", lines[0]);
}

#[tokio::test]
async fn a_failure_is_written_down_with_the_last_one_that_was_asked() {
    let broken = Upstream::answering(json(500, "", &json!({"error": {"message": "no"}}))).await;
    let gone = nowhere();
    let provider = |url: &str, model: &str| json!({"type": "openai", "base_url": url, "models": {model: {}}});
    let models = json!({
        "providers": {"one": provider(&broken.v1(), "a"), "two": provider(&gone, "b"), "three": provider(&gone, "c")},
        "models": {"a": {"fallbacks": ["b"]}, "b": {"fallbacks": ["c"]}},
        "limits": {"models": {"c": {"requests_per_minute": 1}}},
        "routing": {"max_cooldown": 0.000_001},
    });
    let gateway = Setup::new().models(&models).start();
    let (status, _) = answer(gateway.post(CHAT, &asked("a", false))).await;
    assert_eq!(status, 502);
    let first = lines(&gateway, 1).await;
    assert_eq!((first[0].model.as_str(), first[0].end()), ("c", ("three", "three/c", 3, "failed")));
    assert_eq!(first[0].input_tokens, 0, "a failure costs nothing");

    // Another model would take over, and has nothing left: it was not asked.
    let (status, _) = answer(gateway.post(CHAT, &asked("a", false))).await;
    assert_eq!(status, 429);
    let second = lines(&gateway, 2).await;
    assert_eq!((second[0].model.as_str(), second[0].end()), ("b", ("two", "two/b", 2, "failed")));
    assert_eq!(second[0].error, "rate_limit_exceeded");
}
