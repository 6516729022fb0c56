//! What every endpoint has at hand.

use std::sync::Arc;
use std::time::Duration;

use super::body::BodyMemory;
use super::cors::Pages;
use super::credentials::Credentials;
use super::door::Doorkeeper;
use super::error::ApiError;
use super::guesses::Guesses;
use super::peer::Peer;
use super::rejections::Rejections;
use crate::accounts::Accounts;
use crate::callers::{KeyRing, Ledger};
use crate::config::{Auth, Network, RawRequests, Settings};
use crate::engine::Engines;
use crate::gateway::Gateway;
use crate::reload::Reloads;
use crate::telemetry::{EndpointMetrics, Health, Metrics, RequestRecord};

/// What every endpoint has at hand. Made once, shared by all.
#[derive(Debug)]
pub struct Context {
    /// Who answers.
    pub gateway: Arc<Gateway>,
    /// The engines that the gateway runs itself.
    pub engines: Engines,
    /// Figures.
    pub metrics: Metrics,
    /// The figures of requests that lead nowhere.
    pub(super) unmatched: Arc<EndpointMetrics>,
    /// What probes are told.
    pub health: Arc<Health>,
    /// The facade's prefix: empty, or with a slash in front.
    pub prefix: String,
    /// Whether errors show an upstream's own words.
    pub in_debug: bool,
    /// What a request may take.
    pub limits: Limits,
    /// The memory for bodies of requests.
    pub(super) bodies: Arc<BodyMemory>,
    /// Who may call from a browser.
    pub(super) pages: Pages,
    /// Proxies that are believed where a request came from.
    pub(super) trusted_proxies: Vec<Network>,
    /// Wrong keys of late.
    pub(super) guesses: Guesses,
    /// Admin calls that were rejected of late.
    pub(super) rejections: Rejections,
    /// What opens the admin API and the figures.
    pub(super) credentials: Arc<Credentials>,
    /// Where a reload is asked for.
    pub reloads: Reloads,
    /// Callers' keys and what they used, if they are kept anywhere.
    pub accounts: Option<Arc<Accounts>>,
    /// Whether only this machine reaches the service.
    pub is_loopback: bool,
    /// Which keys may make raw requests.
    pub(super) raw_requests: RawRequests,
    /// Knows who calls.
    pub(super) doorkeeper: Arc<Doorkeeper>,
    /// Where it is written down what requests used.
    pub ledger: Arc<dyn Ledger>,
}

/// Who calls, and what is kept of that.
#[derive(Debug)]
pub struct Callers {
    /// The keys.
    pub ring: Arc<KeyRing>,
    /// Where it is written down what requests used.
    pub ledger: Arc<dyn Ledger>,
    /// Whether only this machine reaches the service.
    pub is_loopback: bool,
}

/// What a request may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a body.
    pub max_body_bytes: usize,
    /// Silence within a body.
    pub body_timeout: Duration,
}

/// What goes with every request on its way in.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    pub(super) record: Arc<RequestRecord>,
    pub(super) limits: Limits,
    pub(super) peer: Peer,
    pub(super) bodies: Arc<BodyMemory>,
}

impl Admitted {
    pub(super) fn new(record: &Arc<RequestRecord>, context: &Context, peer: Peer) -> Self {
        Self { record: record.clone(), limits: context.limits, peer, bodies: context.bodies.clone() }
    }
}

impl Default for Admitted {
    fn default() -> Self {
        let limits = Limits::default();
        let bodies = Arc::new(BodyMemory::new(0, limits.max_body_bytes));
        Self { record: Arc::new(RequestRecord::new("")), limits, peer: Peer::Unix, bodies }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_body_bytes: 20_971_520, body_timeout: Duration::from_secs(30) }
    }
}

impl Context {
    /// Puts together what the settings say.
    pub fn new(
        settings: &Settings,
        gateway: Arc<Gateway>,
        engines: Engines,
        (metrics, health): (Metrics, Arc<Health>),
        (reloads, callers): (Reloads, Callers),
    ) -> Self {
        let is_strict = settings.auth == Auth::Keys;
        Self {
            gateway,
            engines,
            unmatched: Arc::new(metrics.of_endpoint("unmatched")),
            metrics,
            health,
            prefix: settings.prefix.clone(),
            in_debug: settings.in_debug,
            limits: Limits {
                max_body_bytes: settings.serving.max_body_bytes,
                body_timeout: settings.serving.body_timeout,
            },
            bodies: Arc::new(BodyMemory::new(
                settings.serving.max_body_memory_bytes,
                settings.serving.max_body_bytes,
            )),
            pages: Pages::new(settings.cors_origins.clone(), !is_strict, callers.is_loopback),
            trusted_proxies: settings.trusted_proxies.clone(),
            guesses: Guesses::default(),
            rejections: Rejections::default(),
            credentials: Arc::new(Credentials::of_operators(settings)),
            reloads,
            accounts: None,
            is_loopback: callers.is_loopback,
            raw_requests: settings.raw_requests,
            doorkeeper: Arc::new(Doorkeeper { ring: callers.ring, is_strict }),
            ledger: callers.ledger,
        }
    }

    /// With keys and usage that are kept.
    #[must_use]
    pub fn with_accounts(mut self, accounts: Option<Arc<Accounts>>) -> Self {
        self.accounts = accounts;
        self
    }

    /// With secrets that may be others later.
    #[must_use]
    pub fn with_credentials(self, credentials: Arc<Credentials>) -> Self {
        Self { credentials, ..self }
    }

    /// # Errors
    /// Keys and usage are kept nowhere.
    pub(super) fn accounts(&self) -> Result<&Arc<Accounts>, ApiError> {
        let message = "keys and usage are kept nowhere: this service runs without a database";
        self.accounts.as_ref().ok_or_else(|| ApiError::no_store(message))
    }
}
