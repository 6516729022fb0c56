//! Every way in which an upstream can fail before its first content, streamed and whole: another deployment answers, the
//! failed one rests, and nothing hangs or looks like success. After it, an error event.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Events, Gateway, Setup, Step, Upstream, fixture, json, sse};

const CHAT: &str = "/v1/chat/completions";
const ROLE: &str = r#"{"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;

fn says(text: &str, stream: bool) -> Value {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": text}]})
}

/// A server that answers well, streamed or whole, as it is asked.
async fn good() -> Upstream {
    Upstream::start(|seen| {
        let stream = seen.json()["stream"] == true;
        let name = if stream { "openai/chat_stream_usage" } else { "openai/chat" };
        vec![Step::Send(fixture(name)), Step::Close]
    })
    .await
}

fn pair(first: &str, second: &str, routing: Value) -> Gateway {
    let provider = |url: &str, priority: u32| {
        json!({"type": "openai", "base_url": url, "first_token_timeout": 0.4, "timeout": 0.4, "stall_timeout": 0.4,
            "models": {"m": {"priority": priority}}})
    };
    let providers = json!({"bad": provider(first, 1), "good": provider(second, 2)});
    Setup::new().models(&json!({"providers": providers, "routing": routing})).start()
}

/// Who answered, after how many attempts, and whether the answer is a whole one.
async fn ask(gateway: &Gateway, text: &str, stream: bool) -> (String, u64, bool) {
    let response = gateway.post(CHAT, &says(text, stream)).send().await.unwrap();
    let text = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let provider = text("x-llm-provider").unwrap_or_default();
    let attempts = text("x-llm-attempts").unwrap_or_default().parse().unwrap_or(0);
    let is_good = if stream {
        Events::of(response).rest().await.last().is_some_and(|last| last == "[DONE]")
    } else {
        let answer: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default();
        answer["choices"][0]["finish_reason"].is_string()
    };
    (provider, attempts, is_good)
}

#[tokio::test]
async fn whatever_fails_before_the_first_content_is_answered_by_another_and_rests() {
    let text = |text: &str| Step::Send(text.as_bytes().to_vec());
    let error = json!({"error": {"message": "no"}});
    let long = "x".repeat(20 * 1024 * 1024);
    let faults: Vec<(&str, Vec<Step>)> = vec![
        ("reset before the head", vec![Step::Reset]),
        ("closed before the head", vec![Step::Close]),
        ("slow head", vec![Step::Hold]),
        ("429 without a word", vec![json(429, "", &error)]),
        ("429 with a date", vec![json(429, "retry-after: Fri, 01 Jan 2100 00:00:00 GMT\r\n", &error)]),
        ("429 with nonsense", vec![json(429, "retry-after: -7, soon\r\n", &error)]),
        ("401", vec![json(401, "", &error)]),
        ("500", vec![json(500, "", &error)]),
        ("502", vec![json(502, "", &error)]),
        ("503", vec![json(503, "retry-after: 3\r\n", &error)]),
        ("200 with an error", vec![json(200, "", &error)]),
        (
            "wrong content type",
            vec![text("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\n<p/>")],
        ),
        (
            "malformed JSON",
            vec![text("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 3\r\n\r\n{\"a")],
        ),
        ("malformed events", vec![sse(&["{\"id\":", "nonsense"]), Step::Close]),
        ("an error as the first event", vec![sse(&[r#"{"error":{"message":"no"}}"#]), Step::Close]),
        ("the role and then the end", vec![sse(&[ROLE]), Step::Close]),
        ("the end without a finish", vec![sse(&[ROLE, "[DONE]"]), Step::Close]),
        ("a stall before the first token", vec![sse(&[ROLE]), Step::Hold]),
        ("a line without end", vec![sse(&[]), Step::Send(format!("data: {long}").into_bytes()), Step::Close]),
        ("no HTTP at all", vec![text("SSH-2.0-OpenSSH_9.2\r\n"), Step::Close]),
    ];
    let good = good().await;
    for (name, steps) in faults {
        for stream in [true, false] {
            let steps = steps.clone();
            let bad = Upstream::start(move |_| steps.clone()).await;
            let gateway = pair(&bad.v1(), &good.v1(), json!({}));
            let began = Instant::now();
            assert_eq!(ask(&gateway, "hi", stream).await, ("good".to_owned(), 2, true), "{name}, {stream}");
            assert!(began.elapsed() < Duration::from_secs(3), "{name}: {:?}", began.elapsed());
            let asked = bad.seen().len();
            assert_eq!(
                ask(&gateway, "hi", stream).await,
                ("good".to_owned(), 1, true),
                "{name}, {stream}: it rests"
            );
            assert_eq!(bad.seen().len(), asked, "{name}");
        }
    }
    for url in ["http://127.0.0.1:1/v1", "http://nowhere.invalid/v1"] {
        let gateway = pair(url, &good.v1(), json!({}));
        assert_eq!(ask(&gateway, "hi", true).await, ("good".to_owned(), 2, true), "{url}");
        assert_eq!(ask(&gateway, "hi", false).await, ("good".to_owned(), 1, true), "{url}");
    }
}

#[tokio::test]
async fn a_stream_cut_at_any_byte_never_looks_like_success() {
    let whole = fixture("openai/chat_stream_usage");
    let head = whole.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let (recorded, length) = (whole.clone(), whole.len());
    let bad = Upstream::start(move |seen| {
        let body = seen.json();
        let at: usize = body["messages"][0]["content"].as_str().unwrap().parse().unwrap();
        vec![Step::Send(recorded[..at].to_vec()), Step::Close]
    })
    .await;
    let good = good().await;
    let gateway = pair(&bad.v1(), &good.v1(), json!({"max_cooldown": 0.001}));
    let mut ends = [0, 0, 0];
    for at in (0..head).step_by(17).chain((head..=length).step_by(3)).chain([length]) {
        let response = gateway.post(CHAT, &says(&at.to_string(), true)).send().await.unwrap();
        let provider = response.headers()["x-llm-provider"].to_str().unwrap().to_owned();
        let events = Events::of(response).rest().await;
        let is_done = events.last().is_some_and(|last| last == "[DONE]");
        let has_finish = events
            .iter()
            .any(|event| event.contains("\"finish_reason\":\"") || event.contains("\"finish_reason\": \""));
        match (provider.as_str(), is_done) {
            ("good", true) => ends[0] += 1,
            ("bad", true) => {
                assert!(has_finish, "{at}: {events:?}");
                ends[1] += 1;
            }
            _ => {
                assert!(events.last().unwrap().contains("\"error\""), "{at}: {events:?}");
                ends[2] += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(ends.iter().all(|count| *count > 0), "all three ends come about: {ends:?}");
}
