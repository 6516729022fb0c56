//! Many callers at once, while some of the deployments are dead or slow: nobody notices.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::support::{Gateway, Setup, Step, Upstream, fixture};

const CHAT: &str = "/v1/chat/completions";
const REQUESTS: usize = 2000;
const AT_ONCE: usize = 50;

/// A server that answers after a time.
async fn after(time: Duration) -> Upstream {
    Upstream::start(move |seen| {
        let name = if seen.json()["stream"] == true { "openai/chat_stream_usage" } else { "openai/chat" };
        vec![Step::Pause(time), Step::Send(fixture(name)), Step::Close]
    })
    .await
}

fn gateway(urls: &[&str], policy: Value) -> Gateway {
    let provider = |(at, url): (usize, &&str)| {
        // The good one may be slow on a busy machine; the one before it is what is given up.
        let patience = if at == 1 { 0.5 } else { 10.0 };
        // Of one priority: so it is the strategy that chooses, or else the order of the file.
        let provider = json!({"type": "openai", "base_url": url, "first_token_timeout": patience, "timeout": 4.0 * patience, "models": {"m": {}}});
        (format!("p{at}"), provider)
    };
    let providers: Value = urls.iter().enumerate().map(provider).collect();
    Setup::new()
        .env("LOG_LEVEL", "ERROR")
        .models(&json!({"providers": providers, "models": {"m": policy}}))
        .start()
}

/// When each request began, and how long it took. All of them are answered well.
async fn load(gateway: &Gateway) -> Vec<(Duration, Duration)> {
    let began = Instant::now();
    let ask = |number: usize| async move {
        let is_stream = number.is_multiple_of(2);
        let body =
            json!({"model": "m", "stream": is_stream, "messages": [{"role": "user", "content": "Hi"}]});
        let asked = Instant::now();
        let response = gateway.post(CHAT, &body).send().await.unwrap();
        assert_eq!(response.status(), 200, "{number}");
        let text = response.text().await.unwrap();
        assert!(text.contains("\"finish_reason\"") && !text.contains("\"error\""), "{number}: {text}");
        assert!(!is_stream || text.ends_with("data: [DONE]\n\n"), "{number}: {text}");
        (asked - began, asked.elapsed())
    };
    stream::iter((0..REQUESTS).map(ask)).buffer_unordered(AT_ONCE).collect().await
}

/// Half of those that began after the first second took no longer than this.
fn half(times: &[(Duration, Duration)]) -> f64 {
    let later = times.iter().filter(|(began, _)| *began > Duration::from_secs(1));
    let mut later: Vec<f64> = later.map(|(_, took)| took.as_secs_f64()).collect();
    assert!(later.len() > REQUESTS / 2);
    later.sort_by(f64::total_cmp);
    later[later.len() / 2]
}

/// A dead one, a bad one and a good one behind one name, beside a gateway that has only the good one.
async fn nobody_notices(bad: Upstream, policy: Value) {
    let good = after(Duration::from_millis(200)).await;
    let dead = "http://127.0.0.1:1/v1";
    let (troubled, plain) =
        (gateway(&[dead, &bad.v1(), &good.v1()], policy), gateway(&[&good.v1()], json!({})));
    // Side by side, so that whatever else the machine does is the same for both.
    let (troubled, plain) = tokio::join!(load(&troubled), load(&plain));
    let added = half(&troubled) / half(&plain) - 1.0;
    // One wait for another deployment adds more than 100 % to a request.
    assert!(added < 0.1, "{:.1} % more than without the others", added * 100.0);
    assert!(bad.seen().len() < REQUESTS / 20, "the bad one was asked {} times", bad.seen().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_one_that_is_dead_and_one_that_is_slow() {
    let slow = after(Duration::from_millis(450)).await;
    nobody_notices(slow, json!({"strategy": "least_latency"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_one_that_is_dead_and_one_that_hangs() {
    nobody_notices(Upstream::answering(Step::Hold).await, json!({})).await;
}
