//! What the models file says of engines that the gateway starts itself.
//!
//! A model has variants: ways to run it that differ in their context. Whatever may be stated for the provider, a
//! model or a variant is settled here; the innermost statement holds.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

/// What holds for all engines of one provider.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSettings {
    /// What all engines together may take, in MiB; `None` for one engine at a time.
    pub memory_budget_mib: Option<u64>,
    /// The longest that requests for a running engine may go before one that waits for another.
    pub max_unfairness: Duration,
    /// How many requests may wait, for one model.
    pub queue_max: usize,
    /// Where prompt caches lie while an engine is switched; `None` for the gateway's own run folder.
    pub prompt_cache_dir: Option<PathBuf>,
    /// What those of one model may take there, in MiB.
    pub prompt_cache_mib: u64,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            memory_budget_mib: None,
            max_unfairness: Duration::from_secs(30),
            queue_max: 512,
            prompt_cache_dir: None,
            prompt_cache_mib: 2048,
        }
    }
}

/// A model that the gateway runs itself.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a wish of its own, and all combinations make sense"
)]
pub struct EngineModel {
    /// The ways to run it, smallest context first. At least one.
    pub variants: Vec<EngineVariant>,
    /// How prompts are counted while no engine runs.
    pub tokenization: Option<Tokenization>,
    /// Tokens kept for an answer whose length the caller does not limit.
    pub default_output_reserve: u64,
    /// Never stopped to make room, nor for being idle.
    pub is_pinned: bool,
    /// Started with the service.
    pub is_preloaded: bool,
    /// A small helper that may run beside the others, whatever they take: neither does it make room, nor is room
    /// made by stopping it.
    pub is_secondary: bool,
    /// Whether what an engine has read is kept over a switch to another one.
    pub keeps_prompt_cache: bool,
}

/// One way to run a model.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineVariant {
    /// Context size in tokens.
    pub context_tokens: u64,
    /// The program.
    pub binary: PathBuf,
    /// Its arguments, as they stand in the file.
    pub args: Vec<String>,
    /// Where it listens, if the file says so: by `--host` and `--port` in its arguments, or by `connect`. Otherwise
    /// the gateway chooses.
    pub address: Option<EngineAddress>,
    /// What it takes, in MiB, if stated.
    pub memory_mib: Option<u64>,
    /// How long to wait for it.
    pub timeouts: EngineTimeouts,
    /// What is in its environment.
    pub environment: EngineEnvironment,
}

/// What is in the environment of a program besides what every engine inherits, and what is not.
#[derive(Clone, Debug, Default)]
pub struct EngineEnvironment {
    /// Variables that the models file sets. Their values may be secrets.
    pub set: Vec<(String, SecretString)>,
    /// Names of variables that the models file reads for something else, such as the key of a provider.
    pub withheld: Arc<BTreeSet<String>>,
}

impl EngineEnvironment {
    /// The variables that are set, with their values.
    pub fn exposed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.set.iter().map(|(name, value)| (name.as_str(), value.expose_secret()))
    }

    /// Whether the same variables are set to the same values.
    #[must_use]
    pub fn sets_the_same(&self, other: &Self) -> bool {
        self.exposed().eq(other.exposed())
    }
}

impl PartialEq for EngineEnvironment {
    fn eq(&self, other: &Self) -> bool {
        self.sets_the_same(other) && self.withheld == other.withheld
    }
}

impl EngineVariant {
    /// Whether an engine of the other one is an engine of this one: how long it is waited for makes no difference.
    #[must_use]
    pub fn is_started_as(&self, other: &Self) -> bool {
        (self.context_tokens, &self.binary, &self.args, &self.address)
            == (other.context_tokens, &other.binary, &other.args, &other.address)
            && self.environment.sets_the_same(&other.environment)
    }
}

/// Where an engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineAddress {
    /// A host by its name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// How long to wait for an engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineTimeouts {
    /// For one answer to the question whether it is well.
    pub health_check: Duration,
    /// From its start until it is ready.
    pub startup: Duration,
    /// While it loads: without a word, work or reading of its own.
    pub stall: Duration,
    /// Without any request, until it is stopped.
    pub idle: Duration,
    /// For the answers that it is giving, when it is to go.
    pub drain: Duration,
}

impl Default for EngineTimeouts {
    fn default() -> Self {
        Self {
            health_check: Duration::from_secs(5),
            startup: Duration::from_secs(600),
            stall: Duration::from_secs(60),
            idle: Duration::from_secs(300),
            drain: Duration::from_secs(300),
        }
    }
}

/// How prompts are counted while no engine runs, and what the template of a model adds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokenization {
    /// A program that prints the tokens of what it reads from standard input, such as `llama-tokenize`.
    pub binary: Option<PathBuf>,
    /// Its arguments.
    pub args: Vec<String>,
    /// What is in its environment.
    pub environment: EngineEnvironment,
    /// What the template adds to each message, in tokens.
    pub extra_tokens_per_message: u64,
    /// What the template adds once, in tokens.
    pub extra_tokens: u64,
}
