//! Engines that the gateway runs itself.

use poem_openapi::Object;
use serde::Serialize;

/// The models whose engines the gateway runs itself.
#[derive(Serialize, Object)]
#[oai(rename = "Engines")]
pub(in crate::api) struct EngineList {
    /// The models, in the order of the models file.
    pub(in crate::api) engines: Vec<EngineModelBody>,
}

/// A model whose engines the gateway runs itself.
#[derive(Serialize, Object)]
#[oai(rename = "EngineModel")]
pub(in crate::api) struct EngineModelBody {
    /// Its provider.
    pub(in crate::api) provider: String,
    /// Its public name.
    pub(in crate::api) model: String,
    /// `cold`, `loading`, `ready`, `draining` or `stopping`.
    pub(in crate::api) state: String,
    /// Why its last engine that failed did so, with the last words of its own.
    pub(in crate::api) last_failure: Option<String>,
    /// The ways to run it, smallest context first.
    pub(in crate::api) variants: Vec<EngineVariantBody>,
    /// The engine that runs now, if one does.
    pub(in crate::api) engine: Option<EngineBody>,
}

/// A way to run a model.
#[derive(Serialize, Object)]
#[oai(rename = "EngineVariant")]
pub(in crate::api) struct EngineVariantBody {
    /// `<model>@<context>`.
    pub(in crate::api) variant: String,
    /// Its context in tokens.
    pub(in crate::api) context_tokens: u64,
}

/// An engine that runs.
#[derive(Serialize, Object)]
#[oai(rename = "Engine")]
pub(in crate::api) struct EngineBody {
    /// `<model>@<context>`.
    pub(in crate::api) variant: String,
    /// `loading`, `ready`, `draining` or `stopping`.
    pub(in crate::api) state: String,
    /// Context of one request in tokens, as the engine says once it is ready.
    pub(in crate::api) context_tokens: u64,
    /// Requests that it is answering.
    pub(in crate::api) running: usize,
    /// Requests that it can answer at once; 0 while it loads.
    pub(in crate::api) slots: usize,
    /// Requests that wait for it.
    pub(in crate::api) waiting: usize,
    /// Its process, once it runs.
    pub(in crate::api) pid: Option<u32>,
    /// How long it took to load, in milliseconds, once it has.
    pub(in crate::api) load_ms: Option<u64>,
    /// While it loads: how much it has, in per cent, as far as is known. An estimate.
    pub(in crate::api) progress: Option<u8>,
    /// What it may take, in MiB, if the models file says.
    pub(in crate::api) memory_mib: Option<u64>,
}

/// A step in an engine's life.
#[derive(Serialize, Object)]
pub(in crate::api) struct EngineStep {
    /// Its provider.
    pub(in crate::api) provider: String,
    /// The model's public name.
    pub(in crate::api) model: String,
    /// `<model>@<context>`.
    pub(in crate::api) variant: String,
    /// `loading`, `ready`, `draining`, `stopping`, or `gone`.
    pub(in crate::api) state: String,
    /// While it loads: how much it has, in per cent, as far as is known. An estimate.
    pub(in crate::api) progress: Option<u8>,
    /// When, in milliseconds since 1970.
    pub(in crate::api) at_ms: u64,
}
