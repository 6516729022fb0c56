//! Chromium without a window, driven over its own protocol through a pipe.

use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep};

use super::soon;
use crate::harness::{Need, variable};

/// A name that leads to this machine and does not look like it: pages behave otherwise on `localhost`.
pub(crate) const HOST: &str = "gateway.test";

/// Names of other sites, which are made to lead to this machine.
pub(crate) const OTHER_SITE: &str = "evil.example";
pub(crate) const ALLOWED_SITE: &str = "app.example";

/// A machine at work may take its time to start a browser.
const PATIENCE: Duration = Duration::from_secs(40);

/// A browser with one page. Killed when dropped.
pub(crate) struct Browser {
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    last_id: u64,
    session: Option<String>,
    /// Everything that the page has reported.
    pub(crate) events: VecDeque<Value>,
    _child: Child,
    _folder: TempDir,
}

impl Browser {
    /// Starts with an empty page.
    pub(crate) async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let mut child = command(&folder).spawn().expect("the browser can be started");
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let events = VecDeque::new();
        let mut browser =
            Self { to, from, last_id: 0, session: None, events, _child: child, _folder: folder };
        let target =
            browser.call("Target.createTarget", json!({"url": "about:blank"})).await["targetId"].clone();
        let session =
            browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true})).await;
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Network", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Opens an address and waits for the page.
    pub(crate) async fn open(&mut self, url: &str) {
        let answer = self.call("Page.navigate", json!({"url": url})).await;
        assert!(answer.get("errorText").is_none(), "{answer}");
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'").await;
    }

    /// What an expression comes to in the page.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", asked).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is something other than null, false, zero or the empty text.
    pub(crate) async fn until(&mut self, expression: &str) -> Value {
        let started = Instant::now();
        loop {
            let value = self.evaluate(expression).await;
            if !matches!(&value, Value::Null | Value::Bool(false)) && value != "" && value != 0 {
                return value;
            }
            assert!(started.elapsed() < PATIENCE, "never in the page: {expression}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Calls a method of the protocol and waits for its outcome.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let text = format!("{message}\0");
        soon(method, self.to.write_all(text.as_bytes())).await.unwrap();
        loop {
            let mut answer = soon(method, self.next()).await;
            if answer["id"] == id {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.events.push_back(answer);
        }
    }

    async fn next(&mut self) -> Value {
        let mut message = Vec::new();
        self.from.read_until(0, &mut message).await.unwrap();
        assert_eq!(message.pop(), Some(0), "the browser has ended");
        serde_json::from_slice(&message).unwrap()
    }
}

/// The browser reads its orders from descriptor 3 and reports on descriptor 4; a shell makes them out of the usual ones.
fn command(folder: &TempDir) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null"#, "sh"]);
    command.arg(Need::Chromium.path()).args(["--headless", "--remote-debugging-pipe", "--no-sandbox"]);
    command.args(["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]);
    command.args(["--disable-component-update", "--disable-sync", "--disable-features=HttpsUpgrades"]);
    let names = [HOST, OTHER_SITE, ALLOWED_SITE].map(|name| format!("MAP {name} 127.0.0.1"));
    command.arg(format!("--host-resolver-rules={}", names.join(", ")));
    command.arg(format!("--user-data-dir={}", folder.path().display()));
    command.env_clear().env("HOME", folder.path()).envs(variable("PATH").map(|path| ("PATH", path)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    command
}
