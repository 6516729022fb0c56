//! One small, fast gateway between applications and language models. This page is the map of the house.
//!
//! # The life of a request
//!
//! 1. [`api`] accepts the connection (`serve`), gives the request its record (`access`), finds its path and
//!    reads its body once, into values of [`llm`]; the dialects stand in [`wire`].
//! 2. [`gateway`] is the whole story on two screens: prompt, route, meter, answer.
//! 3. [`router`] asks the deployments of the model one after the other, until the first content has come.
//! 4. [`providers`] speak to the servers. All of them over one room that knows connections, time-outs and
//!    failures (`upstream`), which leads directly to servers near by (`near`) and by reqwest to the rest (`far`).
//! 5. The answer goes back the same way: split into frames (`providers::frames`), watched for its end
//!    (`providers::stream`), metered ([`gateway`]), and sent the moment it comes (`api::reply`).
//!
//! What passes between the rooms is OpenAI's JSON as bytes, read only where somebody needs the meaning. A request
//! and an answer in that dialect are never taken apart and put together again; other dialects are translated at
//! the provider's edge.
//!
//! Whoever drops a future or a stream on this way ends everything behind it, the upstream request included: that
//! is how a caller who leaves cancels.
//!
//! # The direction
//!
//! A room uses only rooms of a lower rank, never its neighbours. Third parties are kept where they belong: poem and
//! validator in `api`, ollama-rs in `providers`, reqwest there and in `fetch`, redis in `shared`, handlebars in `prompts`, sqlx in `store`,
//! the environment in `config`.
//! `tests/it/layering.rs` reads the sources and fails with the line that breaks this.
//!
//! | rank | rooms |
//! |---|---|
//! | 0 | [`llm`]: requests, frames, completions, usage. Values only. [`lint`]: reading what operators write. [`confined`]: child processes that read hostile files. [`fairness`]: turns of tasks, and large work on other threads |
//! | 1 | [`callers`]: keys, limits, budgets, prices, in memory |
//! | 2 | [`config`], [`prompts`], [`wire`]: settings and models file, library, dialects |
//! | 3 | [`telemetry`]: logs, figures, the record of a request. [`leaderboard`]: how well models do. [`fetch`]: a document from the web. [`local`]: sockets of this machine, and who listens there |
//! | 4 | [`engine`]: engines that the gateway starts itself. [`store`]: what outlives the process: keys, usage, who changed what. [`shared`]: what replicas share through Redis |
//! | 5 | [`providers`]: one trait, one file a provider |
//! | 6 | [`router`]: which deployment answers |
//! | 7 | [`gateway`]: the story. [`reload`]: what a reload changes, and how one is asked for. [`accounts`]: keys, usage and audit for those who manage them |
//! | 8 | [`api`]: HTTP towards callers |
//! | 9 | [`app`]: puts it together, reloads it, ends it |
//! | 10 | [`cli`]: the commands |
//!
//! Rank 4 is for what stands on its own and others lean on.
//!
//! # Where to change what
//!
//! - A provider: its file in `providers`, its line in [`providers::PROVIDERS`], recorded answers in `tests/fixtures`.
//! - An endpoint: a method in one of the rooms of `api`, a file in `tests/it`.
//! - A status code or the words of an error: `api::error`, nowhere else.
//! - A setting: [`config::Settings`], and the table in the README.
//! - A shape of files of other systems: a room in `config::import`, which translates it into our own.

// In reading order.
pub mod confined;
pub mod fairness;
pub mod lint;
pub mod llm;

pub mod callers;

pub mod config;
pub mod prompts;
pub mod wire;

pub mod fetch;
pub mod leaderboard;
pub mod local;
pub mod telemetry;

pub mod engine;
pub mod shared;
pub mod store;

pub mod providers;
pub mod router;

pub mod accounts;
pub mod gateway;
pub mod reload;

pub mod api;

pub mod app;
pub mod cli;
