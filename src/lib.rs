//! x
pub mod config;
pub mod llm;
pub mod prompts;
pub mod providers;
pub mod telemetry;
pub mod wire;
