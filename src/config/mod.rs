//! What the operator says: environment, models file.
//!
//! The only rooms that read the environment. Everything is checked here, once; nothing below sees
//! raw text. Files of other systems will be read by `import`, into the same [`Catalog`].

mod adjustment;
mod catalog;
mod engine;
mod environment;
mod fault;
mod leaderboard;
mod parse;
mod routing;
mod settings;

pub use crate::lint::nearest;
pub use adjustment::Adjustment;
pub use catalog::{Catalog, ModelConfig, ModelPolicy, ModelSource, ProviderConfig};
pub use engine::{EngineAddress, EngineModel, EngineSettings, EngineTimeouts, EngineVariant, Tokenization};
pub use environment::Environment;
pub use fault::{ConfigError, Fault};
pub use leaderboard::{LeaderboardConfig, LeaderboardFormat, LeaderboardSource};
pub use routing::{Routing, ScoreScalars, Strategy};
pub use settings::{
    Auth, Found, ListenAddress, LogFormat, LogSettings, Serving, Settings, Timeouts, TlsFiles,
};
