//! What the operator says: environment, models file.
//!
//! The only rooms that read the environment. Everything is checked here, once; nothing below sees
//! raw text. Files of older systems are translated by `import` and read on like our own, into the same [`Catalog`].

mod adjustment;
mod catalog;
mod command_line;
mod dotenv;
mod engine;
mod environment;
mod fault;
mod folders;
mod found;
mod import;
mod leaderboard;
mod network;
mod operators;
mod parse;
mod probe;
mod reference;
mod replicas;
mod routing;
mod secret_files;
mod settings;

pub use crate::lint::nearest;
pub use adjustment::Adjustment;
pub use catalog::{
    Catalog, Imported, Judged, LUA_LIMITS, ModelConfig, ModelPolicy, ModelSource, ProviderConfig, RUN_LUA,
    is_kept_header, running_lua,
};
pub use command_line::CommandLine;
pub use engine::{
    EngineAddress, EngineEnvironment, EngineModel, EngineSettings, EngineTimeouts, EngineVariant,
    Tokenization,
};
pub use environment::Environment;
pub use fault::{ConfigError, Fault};
pub use folders::Folders;
pub use found::Found;
pub use import::adjustments_beside;
pub use leaderboard::{LeaderboardConfig, LeaderboardFormat, LeaderboardSource};
pub use network::Network;
pub use operators::{AdminKey, UNNAMED_ADMIN};
pub use probe::ProbeConfig;
pub use reference::settings_in_words;
pub use replicas::{OnRedisAway, RedisSettings};
pub use routing::{AUTO, Routing, ScoreScalars, Strategy, never_meant, unfit_name};
pub use settings::{
    Auth, ListenAddress, LogFormat, LogSettings, RawRequests, Serving, Settings, Storage, Timeouts, TlsFiles,
};
