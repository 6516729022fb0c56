//! Two real llama-servers and a stand-in behind one name, while one of them is killed and started again under load.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::harness::{Claim, Need, claims};
use crate::support::client::header;
use crate::support::{Gateway, LlamaServer, PATIENCE, eventually};

const CHAT: &str = "/v1/chat/completions";
const REQUESTS: usize = 600;
const AT_ONCE: usize = 12;
/// Of each server.
const SLOTS: usize = 2;

pub(crate) fn claims() -> Vec<Claim> {
    claims![&[Need::LlamaServer]; a_server_killed_and_started_again_under_load_is_hardly_noticed]
}

/// How a request ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Whole(String),
    /// After content, with an error event.
    Cut(String),
}

fn says(number: usize) -> Value {
    let is_stream = number.is_multiple_of(2);
    json!({"model": "m", "stream": is_stream, "max_tokens": 24, "ignore_eos": true,
        "messages": [{"role": "user", "content": format!("Number {number}")}]})
}

async fn ask(gateway: &Gateway, number: usize) -> End {
    let body = says(number);
    if body["stream"] == json!(true) {
        let streamed = gateway.stream(CHAT, &body).await;
        let provider = header(&streamed.headers, "x-llm-provider").to_owned();
        if streamed.is_done {
            assert_eq!(streamed.finish_reasons().len(), 1, "{number}");
            return End::Whole(provider);
        }
        let error = streamed.chunks.last().unwrap();
        assert!(error["error"]["code"].is_string() && !streamed.text().is_empty(), "{number}: {error}");
        End::Cut(provider)
    } else {
        let answer = gateway.post(CHAT, &body).await;
        assert_eq!(answer.status, 200, "{number}: {}", answer.body);
        assert!(answer.body["choices"][0]["finish_reason"].is_string(), "{number}: {}", answer.body);
        End::Whole(answer.header("x-llm-provider").to_owned())
    }
}

async fn a_server_killed_and_started_again_under_load_is_hardly_noticed() {
    let (mut first, second) = (LlamaServer::long().await, LlamaServer::long().await);
    let provider = |server: &LlamaServer| {
        json!({"type": "llamacpp", "base_url": server.base_url(), "api_key": "${TINY_KEY}",
            "models": {"m": {"upstream": "tiny"}}})
    };
    let stand_in = json!({"type": "echo", "models": {"m": {}}});
    let gateway = Gateway::start(&json!({
        "providers": {"first": provider(&first), "second": provider(&second), "stand-in": stand_in},
        "models": {"m": {"strategy": "round_robin", "affinity": false}},
        "routing": {"max_cooldown": 3},
    }))
    .await;

    let done = AtomicUsize::new(0);
    let load = stream::iter(0..REQUESTS).map(|number| {
        let (gateway, done) = (&gateway, &done);
        async move {
            let end = ask(gateway, number).await;
            done.fetch_add(1, Ordering::SeqCst);
            end
        }
    });
    let reached = async |count: usize| {
        let is_reached = async || done.load(Ordering::SeqCst) >= count;
        eventually("the load goes on", PATIENCE, is_reached).await
    };
    let trouble = async {
        reached(REQUESTS / 4).await;
        first.kill().await;
        reached(REQUESTS / 2).await;
        first.restart().await;
    };
    let (ends, ()) = tokio::join!(load.buffer_unordered(AT_ONCE).collect::<Vec<End>>(), trouble);

    let cut: Vec<&End> = ends.iter().filter(|end| matches!(end, End::Cut(_))).collect();
    assert!(cut.len() <= SLOTS, "only what it was saying when it was killed: {cut:?}");
    assert!(cut.iter().all(|end| **end == End::Cut("first".to_owned())), "{cut:?}");
    for provider in ["first", "second", "stand-in"] {
        let answered = ends.iter().filter(|end| **end == End::Whole(provider.to_owned())).count();
        assert!(answered > REQUESTS / 20, "{provider} answered {answered}");
    }
    let back = async || ask(&gateway, 1).await == End::Whole("first".to_owned());
    eventually("the one that is back answers", PATIENCE, back).await;
    gateway.is_quiet(Duration::from_secs(2)).await;
}
