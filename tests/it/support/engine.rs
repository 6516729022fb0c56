//! Engines for tests: a llama-server without a model, started as the gateway starts engines.

use std::path::{Path, PathBuf};

use llm_proxy_api::engine::{Launch, Launcher, Process};
use reqwest::Method;
use serde_json::Value;
use tempfile::TempDir;

use super::{PATIENCE, eventually};

/// The built program: what the tests guard engines with, not being the gateway themselves.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_llm-proxy-api");

/// The fake, which is built with the tests.
pub(crate) fn fake_llama_server() -> PathBuf {
    let program = Path::new(PROGRAM).parent().unwrap().join("examples/fake-llama-server");
    assert!(program.is_file(), "not built: cargo build --example fake-llama-server");
    program
}

pub(crate) fn launcher() -> Launcher {
    Launcher::default().guarding_with(PROGRAM)
}

/// A fake engine on a socket in a folder of its own.
pub(crate) struct FakeEngine {
    pub(crate) process: Process,
    pub(crate) http: reqwest::Client,
    folder: TempDir,
}

impl FakeEngine {
    /// Starts one with these arguments, separated by spaces.
    pub(crate) async fn start(args: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("engine.sock");
        let journal = folder.path().join("journal");
        let mut all = vec!["--host".to_owned(), socket.display().to_string()];
        all.extend(["--fake-journal".to_owned(), journal.display().to_string()]);
        all.extend(args.split_whitespace().map(str::to_owned));
        let launch = Launch {
            name: "fake".to_owned(),
            binary: fake_llama_server(),
            args: all,
            variables: vec![("LLAMA_API_KEY".to_owned(), "key-of-fake".to_owned())],
            ..Launch::default()
        };
        let process = launcher().start(launch).await.unwrap();
        let http = reqwest::Client::builder().unix_socket(socket).timeout(PATIENCE).build().unwrap();
        Self { process, http, folder }
    }

    /// Starts one and waits until it is ready.
    pub(crate) async fn ready(args: &str) -> Self {
        let engine = Self::start(args).await;
        eventually("ready", async || engine.journal().iter().any(|what| what == "ready")).await;
        engine
    }

    /// What happened in it.
    pub(crate) fn journal(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("journal")).unwrap_or_default();
        let what = |line: &str| line.splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
        text.lines().map(what).collect()
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("http://engine{path}")).bearer_auth("key-of-fake")
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        answered(self.request(Method::GET, path)).await
    }

    pub(crate) fn posting(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.request(Method::POST, path).header("content-type", "application/json").body(body.to_string())
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        answered(self.posting(path, body)).await
    }
}

async fn answered(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    (response.status().as_u16(), serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}
