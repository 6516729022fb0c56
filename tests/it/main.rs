//! The integration tests: the built program as its users see it, one file a surface.

mod support;

mod cancellation;
mod chat;
mod commands;
mod conversation;
mod discovery;
mod docs;
mod errors;
mod layering;
mod openai;
mod passthrough;
mod prompts;
mod providers;
mod reload;
mod secrets;
mod serving;
mod streams;
mod telemetry;
