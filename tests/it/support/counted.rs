//! A server that counts what it uses, request by request, and callers who know how each of theirs has ended: what a
//! ledger is held against.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::stores::Chance;
use super::{Step, Upstream, json};

/// How a request is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answered in one piece, with a report of usage.
    Whole,
    /// Streamed to the end, with a report of usage.
    Stream,
    /// The server dies after some words.
    Died,
    /// The caller leaves after some words, and the server would go on for ever.
    Left,
    /// Some words, and then nothing for ever.
    Endless,
    /// The server refuses it.
    Refused,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Tells it from all others.
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    /// Tokens of the answer.
    pub(crate) tokens: u64,
    /// How long the server thinks about it.
    pub(crate) pause: Duration,
}

/// What the server has used for a request, by its own count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Of the prompt; nothing if it has reported nothing.
    pub(crate) prompt: u64,
    pub(crate) completion: u64,
    /// How often it was asked.
    pub(crate) times: u64,
}

/// What the server counts, by the numbers of requests.
pub(crate) type Counted = Arc<Mutex<HashMap<u64, Used>>>;

/// What a caller has seen of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) plan: Plan,
    pub(crate) end: End,
    pub(crate) at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As it was planned.
    Planned,
    /// The gateway has refused it, with this status.
    Status(u16),
    /// The gateway is gone.
    Lost,
}

/// Tokens of every prompt of which the server reports.
pub(crate) const PROMPT: u64 = 10;

/// A number that chance begins with: another one each time, or the one that is asked for. It is told to whoever looks why
/// a test has failed.
pub(crate) fn seed() -> u64 {
    use std::io::Write as _;
    let asked = std::env::var("LLM_PROXY_API_TESTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() % 1_000_000;
    let seed = asked.unwrap_or_else(now);
    let _ = writeln!(std::io::stderr(), "LLM_PROXY_API_TESTS_SEED={seed}");
    seed
}

impl Plan {
    /// Any request that ends by itself or by its caller.
    pub(crate) fn any(number: u64, chance: &mut Chance, longest_pause_ms: u64) -> Self {
        let kind = chance.of(&[Kind::Whole, Kind::Stream, Kind::Died, Kind::Left]);
        let pause = Duration::from_millis(chance.below(longest_pause_ms));
        Self { number, kind, tokens: chance.below(7) + 1, pause }
    }

    /// The id under which the ledger has it.
    pub(crate) fn id(&self) -> String {
        format!("r{}", self.number)
    }

    fn body(&self) -> Value {
        let said = format!("{:?} {} {} {}", self.kind, self.tokens, self.number, self.pause.as_millis());
        let stream = self.kind != Kind::Whole;
        json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": said}]})
    }

    /// Asks a gateway, and looks until the end.
    pub(crate) async fn ask(self, http: &reqwest::Client, base: &str, key: &str) -> Seen {
        let request = http
            .post(format!("{base}/v1/chat/completions"))
            .bearer_auth(key)
            .header("x-request-id", self.id())
            .header("content-type", "application/json")
            .body(self.body().to_string());
        let end = self.seen(request).await.unwrap_or(End::Lost);
        Seen { plan: self, end, at: Instant::now() }
    }

    /// `None` if the gateway is gone before the end.
    async fn seen(&self, request: reqwest::RequestBuilder) -> Option<End> {
        let mut response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let mut come = String::new();
        // Who leaves does so when all has come that will.
        let is_over =
            |come: &str| self.kind == Kind::Left && come.matches("data:").count() as u64 == self.tokens;
        while !is_over(&come) {
            match response.chunk().await.ok()? {
                Some(chunk) => come.push_str(std::str::from_utf8(&chunk).unwrap()),
                None => break,
            }
        }
        let is_whole = match self.kind {
            _ if status != 200 => return Some(End::Status(status)),
            Kind::Whole => come.ends_with('}'),
            Kind::Stream => come.ends_with("data: [DONE]\n\n"),
            Kind::Died => come.contains("\"error\""),
            Kind::Left => is_over(&come),
            Kind::Endless | Kind::Refused => false,
        };
        is_whole.then_some(End::Planned)
    }
}

/// Answers requests by their plans, which are in what is said.
pub(crate) async fn counting(counted: Counted) -> Upstream {
    Upstream::start(move |seen| {
        let said = seen.json()["messages"][0]["content"].as_str().unwrap().to_owned();
        let words: Vec<&str> = said.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        let (kind, tokens) = (words[0], number(1));
        let (prompt, completion) = match kind {
            "Whole" | "Stream" => (PROMPT, tokens),
            "Refused" => (0, 0),
            // Nobody reports anything: what was generated is what came.
            _ => (0, tokens),
        };
        let mut counted = counted.lock().unwrap();
        let used = counted.entry(number(2)).or_default();
        *used = Used { prompt, completion, times: used.times + 1 };
        let mut steps = vec![Step::Pause(Duration::from_millis(number(3)))];
        steps.extend(answer_of(kind, tokens));
        steps
    })
    .await
}

fn answer_of(kind: &str, tokens: u64) -> Vec<Step> {
    let usage =
        json!({"prompt_tokens": PROMPT, "completion_tokens": tokens, "total_tokens": PROMPT + tokens});
    let chunk = |choices: Value| json!({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices});
    let words = |content: &str, finish: Value| {
        let delta = if content.is_empty() { json!({}) } else { json!({"content": content}) };
        chunk(json!([{"index": 0, "delta": delta, "finish_reason": finish}]))
    };
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let all: String = (0..tokens).map(|_| format!("data: {}\n\n", words("x ", json!(null)))).collect();
    let begun = Step::Send(format!("{head}{all}").into_bytes());
    match kind {
        "Whole" => {
            let message = json!({"role": "assistant", "content": "x"});
            let choices = json!([{"index": 0, "message": message, "finish_reason": "stop"}]);
            let body = json!({"id": "1", "object": "chat.completion", "created": 1, "model": "m",
                "choices": choices, "usage": usage});
            vec![json(200, "", &body)]
        }
        "Stream" => {
            let mut report = chunk(json!([]));
            report["usage"] = usage;
            let last = words("", json!("stop"));
            let end = format!("data: {last}\n\ndata: {report}\n\ndata: [DONE]\n\n");
            vec![begun, Step::Send(end.into_bytes()), Step::Close]
        }
        "Died" => vec![begun, Step::Close],
        "Left" | "Endless" => vec![begun, Step::Hold],
        _ => vec![json(400, "", &json!({"error": {"message": "no"}}))],
    }
}

/// What a ledger says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) prompt: i64,
    pub(crate) completion: i64,
}

/// All that a ledger says, by the ids of requests.
pub(crate) type Book = HashMap<String, Vec<Written>>;

/// Holds a ledger against what the server counts and callers have seen. Of those who were killed, and when, requests may
/// be missing that ended in the last second before. Gives the number of requests that had to be there.
pub(crate) fn held_against(
    book: &Book,
    counted: &HashMap<u64, Used>,
    seen: &[Seen],
    is_in_doubt: impl Fn(&Seen) -> bool,
) -> usize {
    let mut certain = 0;
    for one in seen {
        let written = book.get(&one.plan.id()).map(Vec::as_slice).unwrap_or_default();
        let used = counted.get(&one.plan.number).copied().unwrap_or_default();
        assert!(written.len() <= 1 && used.times <= 1, "{one:?} is there twice: {written:?} {used:?}");
        let is_certain = one.end != End::Lost && !is_in_doubt(one);
        assert!(!is_certain || written.len() == 1, "{one:?} is missing; the server has used {used:?}");
        certain += usize::from(is_certain);
        // Whatever is written is right. Who was killed may have seen less than the server sent.
        let (Some(written), End::Planned) = (written.first(), one.end) else { continue };
        assert_eq!(written.completion, i64::try_from(used.completion).unwrap(), "{one:?} {used:?}");
        if used.prompt > 0 {
            assert_eq!(written.prompt, i64::try_from(used.prompt).unwrap(), "{one:?} {used:?}");
        }
    }
    certain
}
