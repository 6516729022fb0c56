//! Scripts that drive a client in another language: every function of theirs is a claim.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

use super::gateway::PROGRAM;
use super::{Gateway, LlamaServer};
use crate::harness::{Claim, Need, variable};

/// A script takes no longer than this.
const LIMIT: Duration = Duration::from_secs(60);

/// The scripts in one language.
pub(crate) struct Scripts {
    /// The module that runs them, and the name of their folder.
    pub(crate) name: &'static str,
    /// What a line begins with that defines a claim.
    pub(crate) definitions: &'static [&'static str],
    /// The program, with what it is told before the name of the file and of the claim.
    pub(crate) command: fn(&Path) -> Command,
}

/// One script.
pub(crate) struct Script {
    /// Its name without the ending.
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    pub(crate) needs: &'static [Need],
}

impl Scripts {
    /// All claims of the scripts.
    pub(crate) fn claims(&'static self, scripts: &'static [Script]) -> Vec<Claim> {
        scripts.iter().flat_map(|script| self.names(script).map(|name| self.claim(script, name))).collect()
    }

    fn names(&'static self, script: &'static Script) -> impl Iterator<Item = &'static str> {
        let defined = |line: &'static str| self.definitions.iter().find_map(|start| line.strip_prefix(start));
        let names = script.text.lines().filter_map(defined).filter_map(|rest| rest.split('(').next());
        names.filter(|name| !name.starts_with('_'))
    }

    fn claim(&'static self, script: &'static Script, name: &'static str) -> Claim {
        // The first part is cut off as if it were the crate.
        let title = format!("::{}::{}::{name}", self.name, script.name);
        Claim::new(&title, script.needs, move || self.show(script, name))
    }

    async fn show(&self, script: &Script, claim: &str) {
        if script.needs.contains(&Need::LlamaServer) {
            let server = LlamaServer::long().await;
            return self.run(&Gateway::before(&server).await, script, claim).await;
        }
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let models = json!({"providers": {
            "echo": {"type": "echo", "models": {"echo": {}}},
            "pawned": {"type": "openai", "base_url": base_url, "models": {"poor": {}}},
        }});
        let gateway = Gateway::start(&models).await;
        tokio::select! {
            () = self.run(&gateway, script, claim) => {}
            () = has_no_quota(listener) => {}
        }
    }

    async fn run(&self, gateway: &Gateway, script: &Script, claim: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/clients").join(self.name);
        let mut command = (self.command)(&folder);
        command.args([script.name, claim]).env_clear().env("GATEWAY", &gateway.base).env("PROGRAM", PROGRAM);
        command.envs(variable("PATH").map(|path| ("PATH", path)));
        command.env("OPENAI_NODE", variable("OPENAI_NODE").unwrap_or_default());
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUTF8", "1");
        succeeds(command).await;
    }
}

/// Runs a program to its end. What it says is shown if it fails.
pub(crate) async fn succeeds(mut command: Command) {
    let output = timeout(LIMIT, command.kill_on_drop(true).output());
    let output = output.await.expect("the program hangs").expect("the program can be started");
    let said = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(output.status.success(), "{}\n{}\n{}", output.status, said(&output.stdout), said(&output.stderr));
}

/// A provider that answers every request as OpenAI does when there is no money left.
async fn has_no_quota(listener: TcpListener) {
    let error = json!({"error": {"message": "You exceeded your current quota.", "type": "insufficient_quota",
        "param": null, "code": "insufficient_quota"}});
    let body = error.to_string();
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    loop {
        let (mut connection, _) = listener.accept().await.unwrap();
        read_request(&mut connection).await;
        connection.write_all(answer.as_bytes()).await.unwrap();
    }
}

async fn read_request(connection: &mut TcpStream) {
    let mut text = Vec::new();
    while !is_whole(&text) {
        assert_ne!(connection.read_buf(&mut text).await.unwrap(), 0, "the request breaks off");
    }
}

fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
    request.len() >= end + 4 + length
}
