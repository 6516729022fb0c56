//! Many requests with every kind of end at once: the ledger has each of them, and what it has is what was used.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::support::{Gateway, Setup, Step, Upstream, answer, json};

const CHAT: &str = "/v1/chat/completions";
const ADMIN: &str = "an-admin-key-of-some-length";
const REQUESTS: u64 = 600;
const AT_ONCE: usize = 50;

/// What a server has used and told, as it counts itself.
#[derive(Default)]
struct Counted {
    prompt: AtomicU64,
    completion: AtomicU64,
}

fn event(content: &str) -> String {
    let chunk = json!({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": null}]});
    format!("data: {chunk}\n\n")
}

/// Answers by what is said: `<kind> <number>`, with as many tokens as the number says.
async fn counting(counted: Arc<Counted>) -> Upstream {
    Upstream::start(move |seen| {
        let said = seen.json()["messages"][0]["content"].as_str().unwrap().to_owned();
        let (kind, number) = said.split_once(' ').unwrap();
        let tokens: u64 = number.parse().unwrap();
        let usage = json!({"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens});
        let reported = || {
            counted.prompt.fetch_add(10, Ordering::SeqCst);
            counted.completion.fetch_add(tokens, Ordering::SeqCst);
        };
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        let words: String = (0..tokens).map(|_| event("x ")).collect();
        let begun = Step::Send(format!("{head}{words}").into_bytes());
        match kind {
            "whole" => {
                reported();
                let message = json!({"role": "assistant", "content": "x"});
                let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
                vec![json(200, "", &json!({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}))]
            }
            "stream" => {
                reported();
                let last = json!({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
                    "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
                let report = json!({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage});
                let end = format!("data: {last}\n\ndata: {report}\n\ndata: [DONE]\n\n");
                vec![begun, Step::Send(end.into_bytes()), Step::Close]
            }
            // Nobody reports anything: what was generated is what came.
            "died" => {
                counted.completion.fetch_add(tokens, Ordering::SeqCst);
                vec![begun, Step::Close]
            }
            "left" => {
                counted.completion.fetch_add(tokens, Ordering::SeqCst);
                vec![begun, Step::Hold]
            }
            _ => vec![json(400, "", &json!({"error": {"message": "no"}}))],
        }
    })
    .await
}

async fn ask(gateway: &Gateway, key: &str, number: u64) {
    let kind = ["whole", "stream", "died", "left", "refused"][usize::try_from(number % 5).unwrap()];
    let tokens = number % 7 + 1;
    let said = format!("{kind} {tokens}");
    let body =
        json!({"model": "m", "stream": kind != "whole", "messages": [{"role": "user", "content": said}]});
    let mut response = gateway.post(CHAT, &body).bearer_auth(key).send().await.unwrap();
    if kind != "left" {
        let _ = response.bytes().await;
        return;
    }
    // Leaves when all that comes has come.
    let mut come = String::new();
    while come.matches("data:").count() < usize::try_from(tokens).unwrap() {
        come.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
}

async fn rows(gateway: &Gateway) -> Value {
    let told = answer(gateway.get("/admin/usage?group_by=model").header("x-admin-key", ADMIN)).await.1;
    told["rows"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_is_what_the_server_counts_however_requests_end() {
    let counted = Arc::new(Counted::default());
    let upstream = counting(counted.clone()).await;
    let providers = json!({"up": {"type": "openai", "base_url": upstream.v1(), "models": {"m": {}}}});
    // Nothing rests, so that every request reaches the server.
    let models = json!({"providers": providers, "routing": {"max_cooldown": 0.000_001}});
    let setup =
        Setup::new().env("AUTH", "keys").env("ADMIN_KEY", ADMIN).env("LOG_LEVEL", "ERROR").models(&models);
    let mut gateway = setup.start();
    let made = answer(
        gateway
            .post("/admin/keys", &json!({"name": "k", "limits": {"parallel_requests": 1000}}))
            .header("x-admin-key", ADMIN),
    )
    .await
    .1;
    let key = made["key"].as_str().unwrap().to_owned();

    stream::iter(0..REQUESTS)
        .map(|number| ask(&gateway, &key, number))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<()>>()
        .await;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    let gateway = gateway.again();

    let row = rows(&gateway).await;
    assert_eq!(row["requests"], REQUESTS, "{row}");
    // Prompts of which nobody reports are estimated, so answers are compared, and what was reported of prompts.
    assert_eq!(row["completion_tokens"], counted.completion.load(Ordering::SeqCst), "{row}");
    assert!(row["prompt_tokens"].as_u64().unwrap() > counted.prompt.load(Ordering::SeqCst), "{row}");
    assert_eq!(row["cancelled"], REQUESTS / 5, "{row}");
    assert_eq!(row["failed"], REQUESTS / 5 * 2, "{row}");
    assert_eq!(row["estimated_requests"], REQUESTS / 5 * 2, "{row}");
}

#[tokio::test]
async fn a_killed_service_has_written_down_all_but_the_last_second() {
    let counted = Arc::new(Counted::default());
    let upstream = counting(counted.clone()).await;
    let providers = json!({"up": {"type": "openai", "base_url": upstream.v1(), "models": {"m": {}}}});
    let setup =
        Setup::new().env("AUTH", "keys").env("ADMIN_KEY", ADMIN).models(&json!({"providers": providers}));
    let gateway = setup.start();
    let made =
        answer(gateway.post("/admin/keys", &json!({"name": "k"})).header("x-admin-key", ADMIN)).await.1;
    let key = made["key"].as_str().unwrap().to_owned();
    for number in (0..200).step_by(5) {
        ask(&gateway, &key, number).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    // By SIGKILL.
    let gateway = gateway.again();
    let row = rows(&gateway).await;
    assert_eq!(
        (&row["requests"], &row["completion_tokens"]),
        (&json!(40), &json!(counted.completion.load(Ordering::SeqCst))),
        "{row}"
    );
    assert_eq!(answer(gateway.get("/v1/models").bearer_auth(&key)).await.0, 200, "keys are there, too");
}
