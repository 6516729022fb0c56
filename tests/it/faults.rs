//! Every way in which an upstream can fail, streamed and whole. Before its first content another deployment answers; after
//! it there is an error event; in either case the guilty part rests as long as it should, and nothing hangs or looks like
//! success.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Events, Gateway, Setup, Step, Upstream, answer, fixture, json, sse};

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

/// Longer than any answer takes that is to come, on the slowest machine.
const PATIENT: f64 = 60.0;

/// A gateway that asks `bad`, for which all of its time limits are `limit`, and then `good`.
fn pair(bad: &str, good: &str, limit: f64) -> Gateway {
    let provider = |url: &str, priority: u32, limit: f64| {
        json!({"type": "openai", "base_url": url, "first_token_timeout": limit, "timeout": limit, "stall_timeout": limit,
            "models": {"m": {"priority": priority}, "other": {"priority": priority}}})
    };
    let providers = json!({"bad": provider(bad, 1, limit), "good": provider(good, 2, PATIENT)});
    Setup::new().models(&json!({"providers": providers})).start()
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

/// What cools down after a fault, and for how long, in seconds: from, and to.
#[derive(Clone, Copy)]
enum Rest {
    Deployment(f64, f64),
    Provider(f64, f64),
}

/// The first cooldown is at least as long as this, and at most a quarter longer.
const FIRST: Duration = Duration::from_secs(2);
/// The same, in seconds, of a deployment.
const SHORT: Rest = Rest::Deployment(2.0, 2.5);

struct Fault {
    name: &'static str,
    steps: Vec<Step>,
    /// What the figures say that it was.
    word: &'static str,
    rest: Rest,
}

fn fault(name: &'static str, steps: Vec<Step>, word: &'static str, rest: Rest) -> Fault {
    Fault { name, steps, word, rest }
}

fn status(name: &'static str, status: u16, headers: &str, word: &'static str, rest: Rest) -> Fault {
    fault(name, vec![json(status, headers, &json!({"error": {"message": "no"}}))], word, rest)
}

fn faults() -> Vec<Fault> {
    let text = |text: &str| Step::Send(text.as_bytes().to_vec());
    let long = "x".repeat(20 * 1024 * 1024);
    let html = text("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\n<p/>");
    let cut = text("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 3\r\n\r\n{\"a");
    let far = "retry-after: Fri, 01 Jan 2100 00:00:00 GMT\r\n";
    let endless = (0..200).flat_map(|_| [text(": nothing yet\n\n"), Step::Pause(Duration::from_millis(20))]);
    let end = |events: &[&str]| vec![sse(events), Step::Close];
    vec![
        fault("reset before the head", vec![Step::Reset], "unreachable", SHORT),
        fault("closed before the head", vec![Step::Close], "unreachable", SHORT),
        fault("slow head", vec![Step::Hold], "timeout", SHORT),
        status("429 without a word", 429, "", "rate_limited", SHORT),
        status("429 in seconds", 429, "retry-after: 40\r\n", "rate_limited", Rest::Deployment(40.0, 40.0)),
        status("429 with a date", 429, far, "rate_limited", Rest::Deployment(300.0, 300.0)),
        status(
            "429, absurd",
            429,
            "retry-after: 31536000\r\n",
            "rate_limited",
            Rest::Deployment(300.0, 300.0),
        ),
        status("429 with nonsense", 429, "retry-after: -7, soon\r\n", "rate_limited", SHORT),
        status("401", 401, "", "unauthorized", Rest::Provider(30.0, 30.0)),
        status("500", 500, "", "unavailable", SHORT),
        status("502", 502, "", "unavailable", SHORT),
        status("503", 503, "retry-after: 30\r\n", "unavailable", Rest::Deployment(30.0, 30.0)),
        status("200 with an error", 200, "", "protocol", SHORT),
        fault("wrong content type", vec![html], "protocol", SHORT),
        fault("malformed JSON", vec![cut], "protocol", SHORT),
        fault("malformed events", end(&["{\"id\":", "nonsense"]), "protocol", SHORT),
        fault("an error as the first event", end(&[r#"{"error":{"message":"no"}}"#]), "protocol", SHORT),
        fault("the role and then the end", end(&[ROLE]), "protocol", SHORT),
        fault("the end without a finish", end(&[ROLE, "[DONE]"]), "protocol", SHORT),
        fault("a stall before the first token", vec![sse(&[ROLE]), Step::Hold], "timeout", SHORT),
        fault("comments without end", [sse(&[ROLE])].into_iter().chain(endless).collect(), "timeout", SHORT),
        fault(
            "a line without end",
            vec![sse(&[]), Step::Send(format!("data: {long}").into_bytes()), Step::Close],
            "protocol",
            SHORT,
        ),
        fault("no HTTP at all", vec![text("SSH-2.0-OpenSSH_9.2\r\n"), Step::Close], "unreachable", SHORT),
    ]
}

/// What the figures say of the first provider's two models: the last failure of `m`, and how long each rests, in seconds.
async fn cooldowns(gateway: &Gateway) -> (Value, [Option<f64>; 2]) {
    let routes = answer(gateway.get("/api/routes")).await.1;
    let of = |model: &str| {
        let route =
            routes["routes"].as_array().unwrap().iter().find(|route| route["model"] == *model).unwrap();
        let candidates = route["candidates"].as_array().unwrap().iter();
        candidates.clone().find(|candidate| candidate["provider"] == "bad").unwrap().clone()
    };
    let (m, other) = (of("m"), of("other"));
    let rest = |candidate: &Value| candidate["rests_for_seconds"].as_f64();
    (m["last_failure"].clone(), [rest(&m), rest(&other)])
}

#[tokio::test]
async fn a_fault_before_the_first_content_moves_the_request_and_starts_a_cooldown() {
    let good = good().await;
    for Fault { name, steps, word, rest } in faults() {
        // Only silence has to run into a time limit. No other fault may, however slow the machine is.
        let limit = if word == "timeout" { 0.4 } else { PATIENT };
        for stream in [true, false] {
            let steps = steps.clone();
            let bad = Upstream::start(move |_| steps.clone()).await;
            let gateway = pair(&bad.v1(), &good.v1(), limit);
            let began = Instant::now();
            assert_eq!(ask(&gateway, "hi", stream).await, ("good".to_owned(), 2, true), "{name}, {stream}");

            let (last, [of_model, of_other]) = cooldowns(&gateway).await;
            // A body that is no stream and no answer may be seen as either.
            assert!(last == word || last == "protocol", "{name}, {stream}: {last}");
            let (from, to) = match rest {
                Rest::Deployment(from, to) | Rest::Provider(from, to) => (from, to),
            };
            // Since the fault at most this time has passed, by which the cooldown is shorter.
            let passed = began.elapsed().as_secs_f64();
            let seconds = of_model.unwrap_or_default();
            assert!(seconds >= from - passed && seconds <= to, "{name}, {stream}: {seconds} after {passed}");
            let cools_other = matches!(rest, Rest::Provider(..));
            assert!(of_other.is_some() == cools_other || passed > from, "{name}, {stream}: {of_other:?}");

            let asked = bad.seen().len();
            let again = ask(&gateway, "hi", stream).await;
            if began.elapsed().as_secs_f64() < from {
                assert_eq!(again, ("good".to_owned(), 1, true), "{name}, {stream}");
                assert_eq!(bad.seen().len(), asked, "{name}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_moves_the_request_and_starts_a_cooldown() {
    let good = good().await;
    for url in ["http://127.0.0.1:1/v1", "http://nowhere.invalid/v1"] {
        let gateway = pair(url, &good.v1(), PATIENT);
        let began = Instant::now();
        assert_eq!(ask(&gateway, "hi", true).await, ("good".to_owned(), 2, true), "{url}");
        assert_eq!(cooldowns(&gateway).await.0, "unreachable");
        let again = ask(&gateway, "hi", false).await;
        assert!(again == ("good".to_owned(), 1, true) || began.elapsed() > FIRST, "{url}: {again:?}");
    }
}

#[tokio::test]
async fn a_fault_after_the_first_content_ends_in_an_error_and_starts_a_cooldown() {
    let content = ROLE.replace(r#""content":"""#, r#""content":"Hel""#);
    let events = |more: &[&str]| sse(&[&[ROLE, content.as_str()], more].concat());
    let long = Step::Send(format!("data: {}", "x".repeat(20 * 1024 * 1024)).into_bytes());
    let good = good().await;
    for (name, steps) in [
        ("a stall", vec![events(&[]), Step::Hold]),
        ("the end of the connection", vec![events(&[]), Step::Close]),
        ("a reset", vec![events(&[]), Step::Pause(Duration::from_millis(50)), Step::Reset]),
        ("an end without a finish", vec![events(&["[DONE]"]), Step::Close]),
        ("nonsense", vec![events(&["{nonsense"]), Step::Close]),
        ("an error", vec![events(&[r#"{"error":{"message":"no"}}"#]), Step::Close]),
        ("a line without end", vec![events(&[]), long, Step::Close]),
    ] {
        let bad = Upstream::start(move |_| steps.clone()).await;
        let limit = if name == "a stall" { 3.0 } else { PATIENT };
        let gateway = pair(&bad.v1(), &good.v1(), limit);
        let response = gateway.post(CHAT, &says("hi", true)).send().await.unwrap();
        assert_eq!(response.headers()["x-llm-provider"], "bad");
        let events = Events::of(response).rest().await;
        let ended = Instant::now();
        assert!(events.iter().any(|event| event.contains("Hel")), "{name}: {events:?}");
        assert!(events.last().unwrap().contains("\"error\""), "{name}: {events:?}");
        let (last, [of_model, of_other]) = cooldowns(&gateway).await;
        assert!(last.is_string() && of_other.is_none(), "{name}");
        assert!(of_model.is_some() || ended.elapsed() > FIRST, "{name}");
        let again = ask(&gateway, "hi", true).await;
        assert!(again == ("good".to_owned(), 1, true) || ended.elapsed() > FIRST, "{name}: {again:?}");
    }
    let whole = vec![events(&[&ROLE.replace("null}]", r#""stop"}]"#)]), Step::Close];
    let fine = Upstream::start(move |_| whole.clone()).await;
    let gateway = pair(&fine.v1(), &good.v1(), PATIENT);
    assert_eq!(
        ask(&gateway, "hi", true).await,
        ("bad".to_owned(), 1, true),
        "a finish without [DONE] is one"
    );
    assert_eq!(cooldowns(&gateway).await.1, [None, None]);
}

#[tokio::test]
async fn an_answer_without_end_is_ended_in_time() {
    let content = ROLE.replace(r#""content":"""#, r#""content":"and ""#);
    let more = (0..50_000).flat_map(|_| {
        [Step::Send(format!("data: {content}\n\n").into_bytes()), Step::Pause(Duration::from_millis(2))]
    });
    let steps: Vec<Step> = [sse(&[ROLE])].into_iter().chain(more).collect();
    let mut endless = Upstream::start(move |_| steps.clone()).await;
    let good = good().await;
    let gateway = pair(&endless.v1(), &good.v1(), 2.0);
    let began = Instant::now();
    let response = gateway.post(CHAT, &says("hi", true)).send().await.unwrap();
    let events = Events::of(response).rest().await;
    assert!(began.elapsed() < Duration::from_secs(30), "its `timeout` is 2 s: {:?}", began.elapsed());
    assert!(events.len() > 20 && events.last().unwrap().contains("upstream_timeout"), "{:?}", events.last());
    assert!(endless.left().await.duration_since(began) < Duration::from_secs(30));
}

/// The content of a recorded stream, cut at every byte.
async fn cut_at(gateway: &Gateway, model: &str, at: usize) -> usize {
    let body =
        json!({"model": model, "stream": true, "messages": [{"role": "user", "content": at.to_string()}]});
    let response = gateway.post(CHAT, &body).send().await.unwrap();
    let provider = response.headers()["x-llm-provider"].to_str().unwrap().to_owned();
    let events = Events::of(response).rest().await;
    let is_done = events.last().is_some_and(|last| last == "[DONE]");
    let has_finish = events
        .iter()
        .any(|event| event.contains("\"finish_reason\":\"") || event.contains("\"finish_reason\": \""));
    // The failed one rests for a moment.
    tokio::time::sleep(Duration::from_millis(2)).await;
    match (provider.as_str(), is_done) {
        ("good", true) => 0,
        (_, true) => {
            assert!(has_finish, "{at}: {events:?}");
            1
        }
        _ => {
            assert!(events.last().unwrap().contains("\"error\""), "{at}: {events:?}");
            2
        }
    }
}

#[tokio::test]
async fn a_stream_cut_at_any_byte_never_looks_like_success() {
    const LANES: usize = 8;
    let whole = fixture("openai/chat_stream_usage");
    let (recorded, length) = (whole.clone(), whole.len());
    let bad = Upstream::start(move |seen| {
        let body = seen.json();
        let at: usize = body["messages"][0]["content"].as_str().unwrap().parse().unwrap();
        vec![Step::Send(recorded[..at].to_vec()), Step::Close]
    })
    .await;
    let good = good().await;
    let models = |priority: u32| -> Value {
        (0..LANES).map(|lane| (format!("m{lane}"), json!({"priority": priority}))).collect()
    };
    let provider =
        |url: String, priority: u32| json!({"type": "openai", "base_url": url, "models": models(priority)});
    let providers = json!({"bad": provider(bad.v1(), 1), "good": provider(good.v1(), 2)});
    let routing = json!({"max_cooldown": 0.001});
    let gateway = Setup::new().models(&json!({"providers": providers, "routing": routing})).start();

    let lane = async |lane: usize| {
        let mut ends = [0, 0, 0];
        for at in (0..=length).skip(lane).step_by(LANES) {
            ends[cut_at(&gateway, &format!("m{lane}"), at).await] += 1;
        }
        ends
    };
    let lanes = futures_util::future::join_all((0..LANES).map(lane)).await;
    let ends = lanes.iter().fold([0, 0, 0], |sum, ends| std::array::from_fn(|end| sum[end] + ends[end]));
    assert!(ends.iter().all(|count| *count > 0), "all three ends come about: {ends:?}");
    assert!(bad.seen().len() > length, "every byte was tried: {}", bad.seen().len());
}
