//! x
pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod gateway;
pub mod llm;
pub mod prompts;
pub mod providers;
pub mod router;
pub mod telemetry;
pub mod wire;
