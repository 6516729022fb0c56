//! A real llama-server with the tiny model.

use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::sleep;

use super::process::Process;
use super::{Client, PATIENCE, eventually, free_port, soon};
use crate::harness::Need;
use crate::tiny_gguf;

/// The key that it asks for.
pub(crate) const KEY: &str = "tiny-key";

/// A context that is soon full.
const SHORT: u32 = 512;
/// A context that takes a dozen seconds to fill.
const LONG: u32 = 32_768;

/// A running llama-server, which calls its model `tiny`. Killed when dropped.
pub(crate) struct LlamaServer {
    client: Client,
    port: u16,
    arguments: Vec<String>,
    process: Process,
    folder: TempDir,
}

impl LlamaServer {
    /// One slot of 512 tokens.
    pub(crate) async fn short() -> Self {
        Self::start(SHORT, 1, &[]).await
    }

    /// Two slots, for long answers.
    pub(crate) async fn long() -> Self {
        Self::start(LONG, 2, &[]).await
    }

    /// Gives embeddings.
    pub(crate) async fn embedding() -> Self {
        Self::start(SHORT, 1, &["--embeddings", "--pooling", "mean"]).await
    }

    /// At port 8000, without a key, as somebody would start it who reads no manual.
    pub(crate) async fn to_be_found() -> Self {
        Self::at(8000, None, SHORT, 1, &[]).await.expect("llama-server starts")
    }

    async fn start(context_tokens: u32, slots: u32, more: &[&str]) -> Self {
        // Somebody else may take the port in the meantime.
        for _ in 0..3 {
            if let Some(server) = Self::at(free_port(), Some(KEY), context_tokens, slots, more).await {
                return server;
            }
        }
        panic!("llama-server does not start");
    }

    async fn at(
        port: u16,
        key: Option<&'static str>,
        context_tokens: u32,
        slots: u32,
        more: &[&str],
    ) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("tiny.gguf"), tiny_gguf::bytes(context_tokens)).unwrap();
        let (context, slots) = ((context_tokens * slots).to_string(), slots.to_string());
        let mut arguments =
            vec!["-m", "tiny.gguf", "--alias", "tiny", "-c", &context, "-np", &slots, "-t", "1"];
        arguments.extend(["--slots", "--metrics", "--no-webui", "--offline"]);
        arguments.extend(key.into_iter().flat_map(|key| ["--api-key", key]));
        arguments.extend(more);
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        let process = Process::start(command(&folder, port, &arguments), folder.path());
        let client = Client::new(format!("http://127.0.0.1:{port}"), key);
        let mut server = Self { client, port, arguments, process, folder };
        server.is_healthy().await.then_some(server)
    }

    /// Waits until it answers; `false` if it ends instead.
    async fn is_healthy(&mut self) -> bool {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{}/health", self.client.base);
        let started = tokio::time::Instant::now();
        while started.elapsed() < PATIENCE {
            if soon("/health", http.get(&url).send()).await.is_ok_and(|answer| answer.status() == 200) {
                return true;
            }
            if self.process.has_ended() {
                return false;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("llama-server is not healthy: {}", self.process.said());
    }

    /// Its address as the gateway is told it.
    pub(crate) fn base_url(&self) -> String {
        format!("{}/v1", self.client.base)
    }

    /// Asks it directly.
    pub(crate) fn directly(&self) -> &Client {
        &self.client
    }

    /// Kills it, without giving it time for anything.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Starts it again at the same port after it was killed.
    pub(crate) async fn restart(&mut self) {
        let command = command(&self.folder, self.port, &self.arguments);
        self.process = Process::start(command, self.folder.path());
        assert!(self.is_healthy().await, "{}", self.process.said());
    }

    /// How many of its slots are at work.
    pub(crate) async fn busy_slots(&self) -> usize {
        let slots = self.client.get("/slots").await.good();
        let slots = slots.as_array().unwrap();
        slots.iter().filter(|slot| slot["is_processing"] == Value::Bool(true)).count()
    }

    /// How many requests wait for a slot.
    pub(crate) async fn waiting_requests(&self) -> u64 {
        let text = self.client.get("/metrics").await.good();
        let mut lines = text.as_str().unwrap().lines();
        let value = lines.find_map(|line| line.strip_prefix("llamacpp:requests_deferred "));
        value.unwrap().trim().parse().unwrap()
    }

    /// Waits until so many slots are at work.
    pub(crate) async fn has_busy_slots(&self, count: usize, within: Duration) -> Duration {
        let what = format!("{count} slots of llama-server are at work");
        eventually(&what, within, async || self.busy_slots().await == count).await
    }
}

fn command(folder: &TempDir, port: u16, arguments: &[String]) -> Command {
    let mut command = Command::new(Need::LlamaServer.path());
    command.args(arguments).args(["--host", "127.0.0.1", "--port"]).arg(port.to_string());
    command.env_clear().current_dir(folder.path());
    command
}
