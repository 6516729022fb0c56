//! The integration tests: the built program as its users see it, one file a surface.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::large_futures,
    clippy::float_cmp,
    clippy::disallowed_methods,
    clippy::needless_pass_by_value,
    reason = "a test may fail where it stands"
)]

mod support;

mod accounts;
mod admin;
mod affinity;
mod bodies;
mod boundaries;
mod callers;
mod cancellation;
mod chat;
mod check;
mod commands;
mod conversation;
mod cooldowns;
mod deep_files;
mod depth;
mod discovery;
mod docs;
mod endings;
mod engine_crashes;
mod engine_environment;
mod engine_fake;
mod engine_killed;
mod engine_process;
mod engine_strangers;
mod engines;
mod errors;
mod failure_log;
mod fairness;
mod faults;
mod kept;
mod layering;
mod leaderboard;
mod ledger;
mod load;
mod model_files;
mod models;
mod older;
mod openai;
mod operators;
mod pages;
mod passthrough;
mod passthrough_usage;
mod peers;
mod probes;
mod prompt_headers;
mod prompts;
mod providers;
mod refusals;
mod reload;
mod renewed;
mod replicas;
mod routing;
mod secrets;
mod serving;
mod shared;
mod spares;
mod standing;
mod stores;
mod stores_away;
mod stores_large;
mod stores_upgrade;
mod streams;
mod telemetry;
mod terminal;
mod tokens;
mod upstream_answers;
mod utilities;
