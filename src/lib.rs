//! x
pub mod config;
pub mod llm;
