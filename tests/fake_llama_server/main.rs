//! A llama-server for tests: no model, but the same paths, words and manners, and all the bad ones on demand.
//!
//! Arguments of llama-server that it follows: `--host` (also a path that ends in `.sock`), `--port`, `-c`, `-np`, `-kvu`,
//! `-a`/`--alias`, `-m`, `--api-key` or `LLAMA_API_KEY`. Others are taken and ignored. A token is a word; the template
//! puts `<role>` before each message and `<assistant>` at the end, so a message costs its words and one more.
//!
//! A prompt may ask for an answer of some length by a word `answer=20`, for a crash by the word `crash`, and for no
//! answer ever by the word `hang`; after the word `stick` it answers only that it is well. The rest is told by `--fake-NAME VALUE`, or by `FAKE_NAME=VALUE` in the environment:
//!
//! | name | what it does |
//! |---|---|
//! | `load-ms` | how long loading takes (0) |
//! | `token-ms`, `answer-tokens` | the pace (1 ms), the usual length of an answer (8) |
//! | `context` | the context it really has, whatever `-c` says |
//! | `exit` | says this and exits with 1, at once |
//! | `load-failure` | says this and exits with 1, after half of the time to load |
//! | `never-ready` | goes on loading for ever |
//! | `crash-after` | gives up (SIGABRT) after so many tokens of an answer |
//! | `killed-after` | is killed from outside (SIGKILL) after so many tokens of an answer |
//! | `hang` | accepts connections once loaded, and never answers |
//! | `ignore-term` | ignores SIGTERM, from the beginning |
//! | `stop-ms` | how long it takes to end after the first SIGTERM (0); the second one ends it at once |
//! | `noise` | `lines`: writes lines without end; `line`: writes one without end |
//! | `grandchild` | starts a child that lives for long, and says `grandchild <pid>` |
//! | `without` | paths that it does not know, separated by commas, as if it were older |
//! | `journal` | a file to append to, `<pid> <context> <what>`: start, ready, request N, done, left, term |
//! | `once` | a file: what is bad happens only while it is not there, and it is made at the start |

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::zombie_processes,
    reason = "a fake may fail where it stands"
)]

mod answer;
mod options;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};

use answer::{Answer, Slots, Step, words};
use options::Options;

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

struct Server {
    options: Arc<Options>,
    slots: Arc<Slots>,
    is_ready: AtomicBool,
    is_stuck: AtomicBool,
}

impl Server {
    /// Whether it hangs behind its listening threads, with this request or since an earlier one.
    fn is_stuck(&self, body: &Value) -> bool {
        self.is_stuck.fetch_or(body.to_string().contains("stick"), Ordering::SeqCst)
            || self.is_stuck.load(Ordering::SeqCst)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let options = Arc::new(Options::read());
    options.note("start");
    if let Some(message) = options.text("exit") {
        fail(message);
    }
    if options.is_on("grandchild") {
        let child = std::process::Command::new("sleep").arg("1000").spawn().expect("a child");
        println!("grandchild {}", child.id());
    }
    if options.is_on("ignore-term") {
        // As long as somebody listens, it does nothing else.
        std::mem::forget(signal(SignalKind::terminate()).unwrap());
    }
    if let Some(kind) = options.text("noise") {
        let end = if kind == "lines" { "\n" } else { "" };
        let text = format!("{}{end}", "noise ".repeat(20));
        std::thread::spawn(move || {
            loop {
                eprint!("{text}");
            }
        });
    }
    let slots = Arc::new(Slots::new(options.clone()));
    let server = Arc::new(Server {
        options,
        slots,
        is_ready: AtomicBool::new(false),
        is_stuck: AtomicBool::new(false),
    });
    let serving = serve(server.clone());
    eprintln!("main: loading model");
    tokio::join!(serving, live(server));
}

/// Loads, is ready, and ends when asked.
async fn live(server: Arc<Server>) {
    let options = &server.options;
    let load = options.time("load-ms").unwrap_or_default();
    tokio::time::sleep(load / 2).await;
    if let Some(message) = options.text("load-failure") {
        eprintln!("{message}");
        fail("main: exiting due to model loading error");
    }
    tokio::time::sleep(load / 2).await;
    if options.is_on("never-ready") {
        return;
    }
    // Before, a signal ends it at once: nobody listens to it.
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    server.is_ready.store(true, Ordering::SeqCst);
    options.note("ready");
    eprintln!("main: server is listening on {}:{}", options.host, options.port);
    if options.is_on("ignore-term") {
        return;
    }
    terminate.recv().await;
    options.note("term");
    eprintln!("srv: cleaning up before exit...");
    tokio::select! {
        () = tokio::time::sleep(options.time("stop-ms").unwrap_or_default()) => std::process::exit(0),
        _ = terminate.recv() => std::process::exit(1),
    }
}

fn fail(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(1)
}

async fn serve(server: Arc<Server>) {
    let (host, port) = (&server.options.host, server.options.port);
    let unbound =
        || -> ! { fail(&format!("couldn't bind HTTP server socket, hostname: {host}, port: {port}")) };
    if std::path::Path::new(host).extension().is_some_and(|ending| ending == "sock") {
        let listener = UnixListener::bind(host).unwrap_or_else(|_| unbound());
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(converse(server.clone(), connection));
        }
    } else {
        let listener = TcpListener::bind((host.as_str(), port)).await.unwrap_or_else(|_| unbound());
        while let Ok((connection, _)) = listener.accept().await {
            let _ = connection.set_nodelay(true);
            tokio::spawn(converse(server.clone(), connection));
        }
    }
}

async fn converse(server: Arc<Server>, connection: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(move |request| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(reply(server, request).await) }
    });
    // Whoever leaves drops what runs for him.
    let _ =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
}

async fn reply(server: Arc<Server>, request: Request<Incoming>) -> Reply {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let options = &server.options;
    if !server.is_ready.load(Ordering::SeqCst) {
        return refusal(503, "unavailable_error", "Loading model");
    }
    if options.is_on("hang") {
        std::future::pending::<()>().await;
    }
    let bearer = options.api_key.as_ref().map(|key| format!("Bearer {key}"));
    let sent = parts.headers.get("authorization").and_then(|value| value.to_str().ok());
    let is_public = matches!(path.as_str(), "/health" | "/v1/health" | "/models" | "/v1/models");
    if !is_public && bearer.is_some() && bearer.as_deref() != sent {
        return refusal(401, "authentication_error", "Invalid API Key");
    }
    if options.text("without").is_some_and(|paths| paths.split(',').any(|without| without == path)) {
        return refusal(404, "not_found_error", "File Not Found");
    }
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if server.is_stuck(&body) && !is_public {
        std::future::pending::<()>().await;
    }
    match (parts.method.as_str(), path.as_str()) {
        ("GET", "/health" | "/v1/health") => whole(200, &json!({"status": "ok"})),
        ("GET", "/props") => whole(
            200,
            &json!({"default_generation_settings": {"n_ctx": options.slot_context()}, "total_slots": options.slots,
                "model_alias": options.alias, "chat_template": "fake", "build_info": "fake"}),
        ),
        ("GET", "/slots") => whole(200, &server.slots.shown()),
        ("GET", "/models" | "/v1/models") => whole(
            200,
            &json!({"object": "list", "data": [{"id": options.alias, "object": "model", "owned_by": "llamacpp",
                "meta": {"n_ctx": options.slot_context()}}]}),
        ),
        ("POST", "/apply-template") => whole(200, &json!({"prompt": prompt_of(&body)})),
        ("POST", "/tokenize") => {
            let count = words(body["content"].as_str().unwrap_or_default());
            whole(200, &json!({"tokens": (0..count).collect::<Vec<_>>()}))
        }
        ("POST", "/chat/completions/input_tokens" | "/v1/chat/completions/input_tokens") => {
            whole(200, &json!({"object": "response.input_tokens", "input_tokens": words(&prompt_of(&body))}))
        }
        ("POST", "/chat/completions" | "/v1/chat/completions") => chat(&server, &body).await,
        ("POST", "/embeddings" | "/v1/embeddings") => {
            let input = body["input"].as_str().unwrap_or_default();
            if input.split_whitespace().any(|word| word == "hang") {
                std::future::pending::<()>().await;
            }
            let usage = json!({"prompt_tokens": words(input), "total_tokens": words(input)});
            let data = json!([{"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}]);
            whole(200, &json!({"object": "list", "model": options.alias, "data": data, "usage": usage}))
        }
        _ => refusal(404, "not_found_error", "File Not Found"),
    }
}

/// What the template makes of messages and tools.
fn prompt_of(body: &Value) -> String {
    let mut prompt = String::new();
    if let Some(tools) = body.get("tools") {
        prompt = format!("<tools> {tools} ");
    }
    for message in body["messages"].as_array().into_iter().flatten() {
        let parts = message["content"].as_array().into_iter().flatten();
        let texts = parts.filter_map(|part| part["text"].as_str());
        let text = message["content"].as_str().into_iter().chain(texts).collect::<Vec<_>>().join(" ");
        let role = message["role"].as_str().unwrap_or_default();
        prompt.extend(["<", role, "> ", text.as_str(), " "]);
    }
    prompt + "<assistant>"
}

async fn chat(server: &Server, body: &Value) -> Reply {
    let prompt = prompt_of(body);
    let asks = |wish: &str| prompt.split_whitespace().any(|word| word == wish);
    if asks("crash") {
        eprintln!("GGML_ASSERT: the prompt says crash");
        std::process::abort();
    }
    let (tokens, context) = (words(&prompt), server.options.slot_context());
    if tokens >= context {
        let message = format!(
            "request ({tokens} tokens) exceeds the available context size ({context} tokens), try increasing it"
        );
        let error = json!({"code": 400, "message": message, "type": "exceed_context_size_error",
            "n_prompt_tokens": tokens, "n_ctx": context});
        return whole(400, &json!({"error": error}));
    }
    let mut answer = server.slots.answer(&prompt, body).await;
    if asks("hang") {
        std::future::pending::<()>().await;
    }
    let model = server.options.alias.clone();
    // As in the original, what goes wrong before the first token is a plain error.
    let first = answer.next().await;
    if matches!(first, Step::Overflow) {
        return refusal(500, "server_error", OVERFLOW);
    }
    if body["stream"].as_bool().unwrap_or_default() {
        let with_usage = body["stream_options"]["include_usage"].as_bool().unwrap_or_default();
        return streamed(Streaming { answer, model, with_usage, next: Some(first) });
    }
    let (mut text, mut step) = (String::new(), first);
    let reason = loop {
        match step {
            Step::Word(word) => text += &word,
            Step::End(reason) => break reason,
            Step::Overflow => return refusal(500, "server_error", OVERFLOW),
        }
        step = answer.next().await;
    };
    whole(
        200,
        &json!({"id": "chatcmpl-fake", "object": "chat.completion", "created": 1, "model": model,
            "choices": [{"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}],
            "usage": answer.usage(), "timings": answer.timings()}),
    )
}

const OVERFLOW: &str = "Context size has been exceeded.";

struct Streaming {
    answer: Answer,
    model: String,
    with_usage: bool,
    /// The step that is done already.
    next: Option<Step>,
}

fn streamed(streaming: Streaming) -> Reply {
    let role = streaming.chunk(&json!({"role": "assistant", "content": null}), None);
    let steps = stream::unfold((Some(streaming), Some(role)), |(streaming, role)| async move {
        let mut streaming = streaming?;
        if let Some(role) = role {
            return Some((role, (Some(streaming), None)));
        }
        let step = match streaming.next.take() {
            Some(step) => step,
            None => streaming.answer.next().await,
        };
        match step {
            Step::Word(word) => {
                Some((streaming.chunk(&json!({"content": word}), None), (Some(streaming), None)))
            }
            Step::End(reason) => Some((streaming.last(reason), (None, None))),
            Step::Overflow => {
                let error = json!({"error": {"code": 500, "message": OVERFLOW, "type": "server_error"}});
                Some((event(&error), (None, None)))
            }
        }
    });
    let frames = futures_util::StreamExt::map(steps, |text| Ok(Frame::data(Bytes::from(text))));
    let body = UnsyncBoxBody::new(StreamBody::new(frames));
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}

impl Streaming {
    fn frame(&self, choices: &Value, more: Value) -> String {
        let mut frame = json!({"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1,
            "model": self.model, "choices": choices});
        if let Value::Object(more) = more {
            frame.as_object_mut().unwrap().extend(more);
        }
        event(&frame)
    }

    fn chunk(&self, delta: &Value, reason: Option<&str>) -> String {
        self.frame(&json!([{"index": 0, "delta": delta, "finish_reason": reason}]), Value::Null)
    }

    fn last(&self, reason: &str) -> String {
        let timings = json!({"timings": self.answer.timings()});
        let choices = json!([{"index": 0, "delta": {}, "finish_reason": reason}]);
        let mut text = self.frame(&choices, timings.clone());
        if self.with_usage {
            let usage = json!({"usage": self.answer.usage(), "timings": timings["timings"]});
            text += &self.frame(&json!([]), usage);
        }
        text + "data: [DONE]\n\n"
    }
}

fn event(frame: &Value) -> String {
    format!("data: {frame}\n\n")
}

fn refusal(status: u16, kind: &str, message: &str) -> Reply {
    whole(status, &json!({"error": {"message": message, "type": kind, "code": status}}))
}

fn whole(status: u16, body: &Value) -> Reply {
    let body = UnsyncBoxBody::new(Full::new(Bytes::from(body.to_string())));
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap())
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}
