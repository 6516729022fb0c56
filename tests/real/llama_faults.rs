//! What happens when a real llama-server dies, comes back, or loses its reader.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Claim, Need, claims};
use crate::support::client::Events;
use crate::support::{Gateway, LlamaServer, PATIENCE, eventually};

const CHAT: &str = "/v1/chat/completions";
const MODELS: [&str; 2] = ["tiny", "tiny-openai"];
/// Within what time a slot must be free again. The gateway has a tenth of a second; a machine at work has more.
const SOON: Duration = Duration::from_secs(2);

pub(crate) fn claims() -> Vec<Claim> {
    claims![&[Need::LlamaServer];
        a_server_killed_in_mid_stream_ends_in_an_error_event,
        a_server_killed_during_a_whole_answer_is_told_as_a_bad_gateway,
        a_server_that_is_gone_is_unreachable,
        a_server_that_was_restarted_answers_the_next_request,
        a_wrong_key_is_the_gateways_fault,
        more_streams_than_slots_are_all_answered,
        a_client_that_leaves_a_stream_frees_the_slot,
        a_client_that_leaves_a_whole_answer_frees_the_slot,
        a_client_that_leaves_while_it_waits_for_a_slot_leaves_nothing_behind,
    ]
}

/// A request whose answer goes on for many seconds.
fn endless(model: &str, is_stream: bool) -> Value {
    json!({"model": model, "stream": is_stream, "ignore_eos": true, "messages": [{"role": "user", "content": "Hi"}]})
}

fn brief(model: &str) -> Value {
    json!({"model": model, "max_tokens": 3, "messages": [{"role": "user", "content": "Hi"}]})
}

async fn long() -> (LlamaServer, Gateway) {
    let server = LlamaServer::long().await;
    let gateway = Gateway::before(&server).await;
    (server, gateway)
}

/// Reads until words come.
async fn words_come(events: &mut Events) {
    for _ in 0..10 {
        events.chunk().await;
    }
}

async fn a_server_killed_in_mid_stream_ends_in_an_error_event() {
    for model in MODELS {
        let (mut server, gateway) = long().await;
        let mut events = gateway.open(CHAT, &endless(model, true)).await;
        words_come(&mut events).await;
        server.kill().await;

        let rest = events.rest().await;
        assert!(!rest.is_done, "an answer that broke off must not look finished");
        let error = &rest.chunks.last().unwrap()["error"];
        assert_eq!(error["type"], "upstream_error", "{error}");
        assert!(error["code"].is_string() && error["message"].is_string(), "{error}");
        assert!(!error.to_string().contains("127.0.0.1"), "{error}");
        assert!(rest.finish_reasons().is_empty());
        gateway.is_quiet(SOON).await;
    }
}

async fn a_server_killed_during_a_whole_answer_is_told_as_a_bad_gateway() {
    for model in MODELS {
        let (mut server, gateway) = long().await;
        let body = endless(model, false);
        let kill = async {
            server.has_busy_slots(1, PATIENCE).await;
            server.kill().await;
        };
        let (answer, ()) = tokio::join!(gateway.post(CHAT, &body), kill);
        assert_eq!(answer.status, 502, "{}", answer.body);
        assert_eq!(answer.body["error"]["type"], "upstream_error");
    }
}

async fn a_server_that_is_gone_is_unreachable() {
    let (mut server, gateway) = long().await;
    server.kill().await;
    for model in MODELS {
        for is_stream in [false, true] {
            let answer = gateway.post(CHAT, &endless(model, is_stream)).await;
            assert_eq!(answer.fault(), (502, "upstream_unreachable"), "{}", answer.body);
            assert!(!answer.body.to_string().contains("127.0.0.1"), "{}", answer.body);
        }
        let body = json!({"provider": "local", "path": "/tokenize", "body": {"content": "x"}});
        assert_eq!(gateway.post("/api/passthrough", &body).await.fault(), (502, "upstream_unreachable"));
    }
}

async fn a_server_that_was_restarted_answers_the_next_request() {
    let (mut server, gateway) = long().await;
    for _ in 0..3 {
        for model in MODELS {
            gateway.asked(CHAT, &brief(model)).await;
        }
        server.kill().await;
        server.restart().await;
        // The connections that the gateway has kept are dead: nobody is to notice.
        for model in MODELS {
            gateway.asked(CHAT, &brief(model)).await;
        }
    }
}

async fn a_wrong_key_is_the_gateways_fault() {
    let server = LlamaServer::short().await;
    let provider = |kind: &str, name: &str| json!({"type": kind, "base_url": server.base_url(), "api_key": "planted-key", "models": {name: {"upstream": "tiny"}}});
    let models = json!({"providers": {"local": provider("llamacpp", "tiny"), "cloud": provider("openai", "tiny-openai")}});
    let gateway = Gateway::start(&models).await;
    for model in MODELS {
        let answer = gateway.post(CHAT, &brief(model)).await;
        assert_eq!(answer.fault(), (502, "upstream_credentials"), "{}", answer.body);
        assert!(!answer.body.to_string().contains("planted"), "{}", answer.body);
    }
}

async fn more_streams_than_slots_are_all_answered() {
    let (_server, gateway) = long().await;
    let streams = (0..16).map(async |place| {
        let mut body = brief(MODELS[place % 2]);
        body["stream"] = true.into();
        gateway.stream(CHAT, &body).await
    });
    for stream in futures_util::future::join_all(streams).await {
        assert!(stream.is_done);
        assert_eq!(stream.finish_reasons().len(), 1);
    }
    gateway.is_quiet(SOON).await;
}

async fn a_client_that_leaves_a_stream_frees_the_slot() {
    let (server, gateway) = long().await;
    for model in MODELS {
        let mut events = gateway.open(CHAT, &endless(model, true)).await;
        words_come(&mut events).await;
        assert_eq!(server.busy_slots().await, 1);
        drop(events);
        server.has_busy_slots(0, SOON).await;
        gateway.is_quiet(SOON).await;
    }
}

async fn a_client_that_leaves_a_whole_answer_frees_the_slot() {
    let (server, gateway) = long().await;
    // Only where the gateway knows llama-server for what it is: it asks for a stream then, and puts it together.
    let body = endless("tiny", false);
    let at_work = server.has_busy_slots(1, PATIENCE);
    tokio::select! {
        answer = gateway.post(CHAT, &body) => panic!("it is answered: {}", answer.status),
        _ = at_work => {}
    }
    server.has_busy_slots(0, SOON).await;
}

async fn a_client_that_leaves_while_it_waits_for_a_slot_leaves_nothing_behind() {
    let (server, gateway) = long().await;
    let mut first = gateway.open(CHAT, &endless("tiny", true)).await;
    let mut second = gateway.open(CHAT, &endless("tiny-openai", true)).await;
    words_come(&mut first).await;
    words_come(&mut second).await;

    let third = endless("tiny", false);
    let is_waiting =
        eventually("a request waits for a slot", PATIENCE, async || server.waiting_requests().await == 1);
    tokio::select! {
        answer = gateway.post(CHAT, &third) => panic!("it is answered: {}", answer.status),
        _ = is_waiting => {}
    }
    drop((first, second));
    eventually("nothing is at work, and nothing waits", SOON, async || {
        server.busy_slots().await == 0 && server.waiting_requests().await == 0
    })
    .await;
    gateway.is_quiet(SOON).await;
}
