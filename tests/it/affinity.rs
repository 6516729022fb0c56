//! The turns of a conversation stay with one deployment and one key, and new conversations are shared out by weight.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::support::upstream::Seen;
use crate::support::{Gateway, Setup, Step, Upstream, fixture, json};

const CHAT: &str = "/v1/chat/completions";
const CONVERSATIONS: usize = 100;

async fn good() -> Upstream {
    Upstream::start(|_: &Seen| vec![Step::Send(fixture("openai/chat"))]).await
}

/// Model `m` at three providers of weights 1, 2 and 1.
fn gateway(upstreams: &[Upstream; 3], policy: Value) -> Gateway {
    let provider = |(at, upstream): (usize, &Upstream)| {
        let weight = if at == 1 { 2 } else { 1 };
        let models = json!({"m": {"weight": weight}});
        (format!("p{at}"), json!({"type": "openai", "base_url": upstream.v1(), "models": models}))
    };
    let providers: Value = upstreams.iter().enumerate().map(provider).collect();
    Setup::new().models(&json!({"providers": providers, "models": {"m": policy}})).start()
}

/// The given turn of a conversation: what was said before stands before it.
fn turn(conversation: usize, turn: usize) -> Value {
    let mut messages = vec![json!({"role": "system", "content": "Be brief."})];
    for said in 0..=turn {
        messages.push(json!({"role": "user", "content": format!("{said} of {conversation}")}));
        if said < turn {
            messages.push(json!({"role": "assistant", "content": "Well."}));
        }
    }
    json!({"model": "m", "messages": messages})
}

async fn answered_by(gateway: &Gateway, body: &Value, header: Option<(&str, &str)>) -> String {
    let request = gateway.post(CHAT, body);
    let request = match header {
        Some((name, value)) => request.header(name, value),
        None => request,
    };
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.headers()["x-llm-provider"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn turns_of_interleaved_conversations_stay_put_by_every_strategy() {
    let upstreams = [good().await, good().await, good().await];
    for strategy in ["priority", "weighted", "round_robin", "least_latency"] {
        let gateway = gateway(&upstreams, json!({"strategy": strategy}));
        let mut homes: HashMap<usize, String> = HashMap::new();
        for number in 0..3 {
            for conversation in 0..CONVERSATIONS {
                let provider = answered_by(&gateway, &turn(conversation, number), None).await;
                let home = homes.entry(conversation).or_insert_with(|| provider.clone());
                // How fast servers are is measured, and on a busy machine one may become too slow.
                assert!(
                    *home == provider || strategy == "least_latency",
                    "{strategy}: {conversation}, {number}"
                );
            }
        }
        let shares: BTreeSet<&String> = homes.values().collect();
        assert_eq!(shares.len(), 3, "{strategy}: {shares:?}");
    }
}

#[tokio::test]
async fn a_target_that_cools_down_moves_its_own_conversations_only() {
    let failing = Upstream::start(|seen: &Seen| {
        if seen.json()["user"] == "end" {
            return vec![json(429, "retry-after: 200\r\n", &json!({"error": {"message": "no"}}))];
        }
        vec![Step::Send(fixture("openai/chat"))]
    })
    .await;
    let upstreams = [good().await, failing, good().await];
    let gateway = gateway(&upstreams, json!({}));
    let mut homes = Vec::new();
    for conversation in 0..CONVERSATIONS {
        homes.push(answered_by(&gateway, &turn(conversation, 0), None).await);
    }
    let of_failing = homes.iter().position(|home| home == "p1").unwrap();
    let mut end = turn(of_failing, 0);
    end["user"] = json!("end");
    for session in 0..40 {
        answered_by(&gateway, &end, Some(("x-llm-session", &session.to_string()))).await;
    }
    for (conversation, home) in homes.iter().enumerate() {
        let now = answered_by(&gateway, &turn(conversation, 1), None).await;
        assert!(if home == "p1" { now != "p1" } else { now == *home }, "{conversation}: {home}, {now}");
    }
}

#[tokio::test]
async fn what_names_a_conversation_decides_and_is_told_without_its_value() {
    let upstreams = [good().await, good().await, good().await];
    let gateway = gateway(&upstreams, json!({"strategy": "weighted"}));
    let with = |name: &str, value: Value, message: usize| {
        let mut body = turn(message, 0);
        body[name] = value;
        body
    };
    let secret = "s-3c7a";
    for (name, value) in [
        ("prompt_cache_key", json!(secret)),
        ("metadata", json!({"user_id": secret})),
        ("user", json!(secret)),
    ] {
        let home = answered_by(&gateway, &with(name, value.clone(), 0), None).await;
        for message in 1..20 {
            assert_eq!(
                answered_by(&gateway, &with(name, value.clone(), message), None).await,
                home,
                "{name}"
            );
        }
        let told = gateway.ask("/api/explain", &with(name, value, 7)).await.1;
        let source = if name == "metadata" { "metadata.user_id" } else { name };
        assert_eq!((&told["affinity"], &told["candidates"][0]["provider"]), (&json!(source), &json!(home)));
        assert!(!told.to_string().contains(secret), "{told}");
    }
    for name in
        ["x-llm-session", "x-claude-code-session-id", "x-session-affinity", "x-session-id", "session-id"]
    {
        let home = answered_by(&gateway, &turn(0, 0), Some((name, secret))).await;
        for message in 1..20 {
            // A header counts before the body.
            let body = with("user", json!(message.to_string()), message);
            assert_eq!(answered_by(&gateway, &body, Some((name, secret))).await, home, "{name}");
        }
        let told = gateway.post("/api/explain", &turn(1, 0)).header(name, secret).send().await.unwrap();
        let told = told.text().await.unwrap();
        assert!(told.contains(&format!(r#""affinity":"{name}""#)) && !told.contains(secret), "{told}");
    }
    let told = gateway.ask("/api/explain", &turn(1, 0)).await.1;
    assert_eq!(told["affinity"], json!("first messages"));
}

#[tokio::test]
async fn keys_are_kept_and_affinity_can_be_off() {
    let upstream = good().await;
    let models = |affinity: bool| {
        let provider = json!({"type": "openai", "base_url": upstream.v1(), "api_keys": ["${K1}", "${K2}", "${K3}"], "models": {"m": {}}});
        json!({"providers": {"up": provider}, "models": {"m": {"affinity": affinity}}})
    };
    let setup = |affinity: bool| {
        let setup = Setup::new().models(&models(affinity));
        ["K1", "K2", "K3"]
            .iter()
            .fold(setup, |setup, name| setup.variable(name, &format!("key-{name}")))
            .start()
    };
    let keys_of = async |gateway: &Gateway, conversation: usize| {
        let before = upstream.seen().len();
        for number in 0..6 {
            answered_by(gateway, &turn(conversation, number), None).await;
        }
        let seen = upstream.seen().into_iter().skip(before);
        let mut keys: Vec<String> =
            seen.map(|seen| seen.header("authorization").unwrap().to_owned()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    };
    let (kept, free) = (setup(true), setup(false));
    let mut used = Vec::new();
    for conversation in 0..20 {
        let keys = keys_of(&kept, conversation).await;
        assert_eq!(keys.len(), 1, "{conversation}: {keys:?}");
        used.extend(keys);
    }
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), 3, "all keys are used");
    assert_eq!(keys_of(&free, 0).await.len(), 3);
    let told = free.ask("/api/explain", &turn(0, 0)).await.1;
    assert_eq!(told["affinity"], Value::Null);
}
