//! What the models file says of asking a provider for a sign of life.

use std::time::Duration;

/// How a provider's server is asked for a sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeConfig {
    /// Below the server's root; the kind of provider knows one otherwise.
    pub path: Option<String>,
    /// From one question to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
}

// Shorter than requests wait while all deployments rest, so that they meet a server that is back.
impl Default for ProbeConfig {
    fn default() -> Self {
        Self { path: None, interval: Duration::from_secs(5), timeout: Duration::from_secs(2) }
    }
}
