//! Pages in a real browser: those of other sites reach no provider and read nothing, own and allowed ones go on.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::harness::{Claim, Need, claims};
use crate::support::Gateway;
use crate::support::browser::{ALLOWED_SITE, Browser, OTHER_SITE};

pub(crate) fn claims() -> Vec<Claim> {
    claims![&[Need::Chromium];
        a_page_of_another_site_reaches_no_provider,
        a_name_that_was_made_to_lead_here_reads_nothing,
        own_pages_ask_for_everything,
        a_page_that_may_call_does_so_by_every_method,
        what_a_provider_sends_as_a_page_runs_nothing,
    ]
}

/// Answers everything with a page, and keeps what it was asked for.
struct Site {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
    /// Ends when dropped.
    _serving: JoinSet<()>,
}

impl Site {
    async fn start(page: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (seeing, mut serving) = (seen.clone(), JoinSet::new());
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(answer(socket, seeing.clone(), page));
            }
        });
        Self { port, seen, _serving: serving }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// Answers one request.
async fn answer(mut socket: TcpStream, seen: Arc<Mutex<Vec<String>>>, page: &str) {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    seen.lock().unwrap().push(head.lines().next().unwrap().to_owned());
    let kind = "content-type: text/html\r\nconnection: close\r\n";
    let answer = format!("HTTP/1.1 200 OK\r\n{kind}content-length: {}\r\n\r\n{page}", page.len());
    let _ = socket.write_all(answer.as_bytes()).await;
    // What is left of a body is read, so that the answer is.
    let _ = socket.shutdown().await;
    while socket.read_buf(&mut Vec::new()).await.is_ok_and(|read| read > 0) {}
}

const EMPTY: &str = "<!doctype html><title>a site</title><p>";

/// A provider, a gateway before it that `origins` may ask, and the gateway's port.
async fn before(provider: &Site, origins: &str) -> (Gateway, u16) {
    let url = format!("http://127.0.0.1:{}/v1", provider.port);
    let up = json!({"type": "openai", "base_url": url, "api_key": "provider-key-1", "models": {"m": {}}});
    let echo = json!({"type": "echo", "models": {"echo": {}}});
    let gateway = Gateway::for_pages(&json!({"providers": {"up": up, "echo": echo}}), origins).await;
    let port = gateway.base.rsplit(':').next().unwrap().parse().unwrap();
    (gateway, port)
}

/// The status of each of these requests of the page, or what became of it instead.
async fn fetched(browser: &mut Browser, base: &str, requests: &[(&str, &str)]) -> Vec<Value> {
    let mut all = Vec::new();
    for (method, path) in requests {
        let body = r#"{"model":"echo","stream":false,"messages":[{"role":"user","content":"hi"}]}"#;
        let with = match *method {
            "GET" | "HEAD" => json!({"method": method}),
            _ => json!({"method": method, "body": body, "headers": {"content-type": "application/json"}}),
        };
        let script = format!("fetch('{base}{path}', {with}).then(a => a.status, e => e.name)");
        all.push(browser.evaluate(&script).await);
    }
    all
}

const RAW: &str = "/api/passthrough/up/v1/x";

async fn a_page_of_another_site_reaches_no_provider() {
    let (provider, evil) = (Site::start(EMPTY).await, Site::start(EMPTY).await);
    let (_gateway, port) = before(&provider, "").await;
    let mut browser = Browser::start().await;
    for site in [format!("http://{OTHER_SITE}:{}", evil.port), format!("http://localhost:{}", evil.port)] {
        browser.open(&format!("{site}/")).await;
        for host in ["127.0.0.1", "localhost"] {
            let raw = format!("http://{host}:{port}{RAW}");
            let script = format!(
                r#"(async () => {{
                    const ended = (element) => new Promise((done) => {{
                        element.onload = element.onerror = () => done(element.tagName);
                        setTimeout(() => done("late"), 5000);
                    }});
                    const add = (name, source) => {{
                        const element = document.createElement(name);
                        element.src = source;
                        const end = ended(element);
                        document.body.append(element);
                        return end;
                    }};
                    const form = (method) => {{
                        const frame = document.createElement("iframe");
                        frame.name = "f" + method + Math.random();
                        document.body.append(frame);
                        const form = document.createElement("form");
                        Object.assign(form, {{ action: "{raw}", method, target: frame.name, enctype: "text/plain" }});
                        document.body.append(form);
                        const end = ended(frame);
                        form.submit();
                        return end;
                    }};
                    const quietly = (options) => fetch("{raw}", {{ mode: "no-cors", ...options }}).then(() => "sent", () => "refused");
                    return (await Promise.all([
                        add("img", "{raw}"), add("script", "{raw}"), add("iframe", "{raw}"), add("iframe", "http://{host}:{port}/docs"),
                        form("GET"), form("POST"),
                        quietly({{}}), quietly({{ method: "POST", body: "x" }}), quietly({{ method: "HEAD" }}),
                        fetch("{raw}").then(() => "read", () => "refused"),
                        Promise.resolve(navigator.sendBeacon("{raw}", "x")),
                    ])).length;
                }})()"#
            );
            assert_eq!(browser.evaluate(&script).await, 11);
            // A request of the page that is known to have arrived is behind all of these.
            let read = format!("fetch('http://{host}:{port}/api/tags').then(() => 'read', () => 'refused')");
            assert_eq!(browser.evaluate(&read).await, "refused");
        }
    }
    assert_eq!(provider.seen(), Vec::<String>::new());
    assert!(!evil.seen().is_empty());
}

async fn a_name_that_was_made_to_lead_here_reads_nothing() {
    let provider = Site::start(EMPTY).await;
    let (_gateway, port) = before(&provider, "").await;
    let mut browser = Browser::start().await;
    // The page is of the same origin as the service: only the name is not this machine's.
    browser.open(&format!("http://{OTHER_SITE}:{port}/")).await;
    let requests = [
        ("GET", RAW),
        ("GET", "/api/prompts"),
        ("GET", "/api/routes"),
        ("GET", "/api/engines"),
        ("GET", "/metrics"),
        ("GET", "/docs"),
        ("POST", "/api/chat"),
        ("DELETE", RAW),
    ];
    assert_eq!(fetched(&mut browser, "", &requests).await, vec![json!(403); requests.len()]);
    assert_eq!(provider.seen(), Vec::<String>::new());
}

async fn own_pages_ask_for_everything() {
    let provider = Site::start(EMPTY).await;
    let (_gateway, port) = before(&provider, "").await;
    let mut browser = Browser::start().await;
    for host in ["127.0.0.1", "localhost", "llm.localhost"] {
        browser.open(&format!("http://{host}:{port}/docs")).await;
        let requests =
            [("GET", RAW), ("POST", RAW), ("GET", "/api/tags"), ("POST", "/api/chat"), ("HEAD", "/")];
        assert_eq!(fetched(&mut browser, "", &requests).await, vec![json!(200); requests.len()], "{host}");
    }
    assert_eq!(provider.seen().len(), 6);
    // A link from elsewhere leads to the page.
    let elsewhere = Site::start(EMPTY).await;
    browser.open(&format!("http://{OTHER_SITE}:{}/", elsewhere.port)).await;
    browser.evaluate(&format!("void (location.href = 'http://127.0.0.1:{port}/docs')")).await;
    browser.until("location.pathname === '/docs' && document.querySelectorAll('.opblock').length").await;
}

async fn a_page_that_may_call_does_so_by_every_method() {
    let (provider, app) = (Site::start(EMPTY).await, Site::start(EMPTY).await);
    let origin = format!("http://{ALLOWED_SITE}:{}", app.port);
    let (_gateway, port) = before(&provider, &origin).await;
    let mut browser = Browser::start().await;
    browser.open(&format!("{origin}/")).await;
    let requests = [
        ("GET", RAW),
        ("POST", RAW),
        ("DELETE", RAW),
        ("PUT", RAW),
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
    ];
    let seen = fetched(&mut browser, &format!("http://127.0.0.1:{port}"), &requests).await;
    assert_eq!(seen, vec![json!(200); requests.len()]);
    let asked: Vec<String> =
        provider.seen().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(asked, ["GET", "POST", "DELETE", "PUT"]);
}

async fn what_a_provider_sends_as_a_page_runs_nothing() {
    let provider = Site::start(
        "<!doctype html><title>x</title><script>parent.ran = true; document.title = 'ran'</script>",
    )
    .await;
    let (_gateway, port) = before(&provider, "").await;
    let mut browser = Browser::start().await;
    browser.open(&format!("http://127.0.0.1:{port}/")).await;
    let script = format!(
        r#"new Promise((done) => {{
            const frame = document.createElement("iframe");
            frame.onload = () => done([globalThis.ran ?? null, frame.contentDocument === null]);
            frame.src = "{RAW}";
            document.body.append(frame);
        }})"#
    );
    assert_eq!(browser.evaluate(&script).await, json!([null, true]));
    assert_eq!(provider.seen().len(), 1);
}
