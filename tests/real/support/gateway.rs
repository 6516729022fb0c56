//! The gateway: the built program, on a port of its own choice.

use std::ops::Deref;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::browser::HOST;
use super::process::Process;
use super::{Client, LlamaServer, PATIENCE, eventually, free_port, llama};
use crate::harness::Need;

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_llm-proxy-api");

/// Opens its admin API.
const ADMIN_KEY: &str = "an-admin-key-of-some-length";

/// A running gateway, and a client for it.
pub(crate) struct Gateway {
    client: Client,
    // Killed before its folder goes.
    process: Process,
    _folder: TempDir,
}

impl Gateway {
    /// A gateway that serves only the echo model.
    pub(crate) async fn of_echo() -> Self {
        Self::start(&json!({"providers": {"echo": {"type": "echo", "models": {"echo": {}}}}})).await
    }

    /// A gateway before a llama-server: as what it is, its model is `tiny`; as any server with OpenAI's API,
    /// `tiny-openai`.
    pub(crate) async fn before(server: &LlamaServer) -> Self {
        let provider = |kind: &str, models: Value| json!({"type": kind, "base_url": server.base_url(), "api_key": "${TINY_KEY}", "models": models});
        let models = json!({"providers": {
            "local": provider("llamacpp", json!({"tiny": {}})),
            "cloud": provider("openai", json!({"tiny-openai": {"upstream": "tiny"}})),
        }});
        Self::start(&models).await
    }

    /// A gateway that pages of these origins may ask, too, and that goes by the name [`HOST`] as well.
    pub(crate) async fn for_pages(models: &Value, origins: &str) -> Self {
        let (folder, port) = (TempDir::new().unwrap(), free_port());
        std::fs::write(folder.path().join("models.json"), models.to_string()).unwrap();
        let mut command = Command::new(PROGRAM);
        command
            .env_clear()
            .env("LLM_PROXY_API_MODELS_CONFIG", "models.json")
            .env("LLM_PROXY_API_CORS_ORIGINS", format!("http://{HOST}:{port},{origins}"));
        Self::listening_at(port, command, folder).await
    }

    /// A gateway that asks for keys and serves only the echo model.
    pub(crate) async fn with_keys() -> Self {
        let folder = TempDir::new().unwrap();
        let models = json!({"providers": {"echo": {"type": "echo", "models": {"echo": {}}}}});
        std::fs::write(folder.path().join("models.json"), models.to_string()).unwrap();
        let mut command = Command::new(PROGRAM);
        command
            .env_clear()
            .env("LLM_PROXY_API_MODELS_CONFIG", "models.json")
            .env("LLM_PROXY_API_AUTH", "keys")
            .env("LLM_PROXY_API_ADMIN_KEY", ADMIN_KEY);
        Self::running(command, folder).await
    }

    /// A gateway with a models file.
    pub(crate) async fn start(models: &Value) -> Self {
        Self::start_from("models.json", &models.to_string()).await
    }

    /// A gateway with a models file of this name.
    pub(crate) async fn start_from(name: &str, text: &str) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join(name), text).unwrap();
        let mut command = Command::new(PROGRAM);
        command
            .env_clear()
            .env("LLM_PROXY_API_MODELS_CONFIG", name)
            .env("LLM_PROXY_API_ADMIN_KEY", ADMIN_KEY)
            .env("TINY_KEY", llama::KEY);
        Self::running(command, folder).await
    }

    /// Kills it, without giving it time for anything.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn end(&mut self) {
        self.process.end().await;
    }

    /// A gateway without a models file, which serves what it finds.
    pub(crate) async fn with_what_it_finds() -> Self {
        let mut command = Command::new(PROGRAM);
        command.env_clear().env("LLM_PROXY_API_MINIMUM", "1");
        Self::running(command, TempDir::new().unwrap()).await
    }

    /// A gateway that asks for keys and serves only the echo model, as if it were started at this moment (of UTC, such
    /// as `2026-10-25 00:59:57`). From then on its clock goes as any clock.
    pub(crate) async fn at(moment: &str, zone: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let models = json!({"providers": {"echo": {"type": "echo", "models": {"echo": {}}}}});
        std::fs::write(folder.path().join("models.json"), models.to_string()).unwrap();
        let mut command = Command::new(PROGRAM);
        command
            .env_clear()
            .env("LD_PRELOAD", Need::Faketime.path())
            .env("FAKETIME", format!("@{moment}"))
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("TZ", "UTC")
            .env("LLM_PROXY_API_MODELS_CONFIG", "models.json")
            .env("LLM_PROXY_API_DATABASE_URL", "sqlite://usage.db")
            .env("LLM_PROXY_API_TIME_ZONE", zone)
            .env("LLM_PROXY_API_ADMIN_KEY", ADMIN_KEY)
            .env("LLM_PROXY_API_AUTH", "keys");
        Self::running(command, folder).await
    }

    /// Whoever looks after it.
    pub(crate) fn admin(&self) -> Client {
        Client::new(self.base.clone(), Some(ADMIN_KEY))
    }

    async fn running(command: Command, folder: TempDir) -> Self {
        Self::listening_at(0, command, folder).await
    }

    async fn listening_at(port: u16, mut command: Command, folder: TempDir) -> Self {
        command.current_dir(folder.path());
        command
            .env("LLM_PROXY_API_LISTEN", format!("127.0.0.1:{port}"))
            .env("LLM_PROXY_API_LOG_FILENAME", "");
        let mut process = Process::start(command, folder.path());
        let mut base = None;
        eventually("the gateway says where it listens", PATIENCE, async || {
            assert!(!process.has_ended(), "the gateway ended: {}", process.said());
            base = address(&process.said());
            base.is_some()
        })
        .await;
        Self { client: Client::new(base.unwrap(), None), process, _folder: folder }
    }

    /// What a figure without labels stands at.
    pub(crate) async fn figure(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.body;
        let lines = text.as_str().unwrap().lines();
        let value =
            lines.filter_map(|line| line.strip_prefix(name)).find_map(|rest| rest.trim().parse().ok());
        value.unwrap_or_else(|| panic!("there is no figure {name}"))
    }

    /// Waits until no stream is open any more.
    pub(crate) async fn is_quiet(&self, within: Duration) {
        eventually("no stream is open", within, async || self.figure("llm_proxy_streams_open").await == 0.0)
            .await;
    }
}

impl Deref for Gateway {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// The address in the line that tells where the service listens.
fn address(log: &str) -> Option<String> {
    let (_, addresses) =
        log.lines().find_map(|line| line.contains("Serving").then(|| line.split_once("addresses=\""))?)?;
    addresses.split(['"', ',']).next().map(str::to_owned)
}
