//! Other replicas of the gateway, if there are any: what they are told of rests here, and what is told of theirs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::faults::Faults;
use crate::accounts::Heard;
use crate::callers::Gate;
use crate::config::Settings;
use crate::gateway::Gateway;
use crate::router::{HealthBook, Replicas, Rest};
use crate::shared::Shared;
use crate::telemetry::{Health, Metrics, Replication};

/// What is shared with other replicas: nothing if there are none.
#[derive(Debug)]
pub(super) struct Others {
    shared: Option<Shared>,
    /// Who rests, here or elsewhere.
    pub(super) book: HealthBook,
}

/// Tells others of rests.
#[derive(Debug)]
struct Told(Shared);

impl Replicas for Told {
    fn cools_down(&self, name: &str, rest: Rest) {
        self.0.cools_down(name, (rest.lasts, rest.is_will));
    }

    fn is_well(&self, name: &str) {
        self.0.is_well(name);
    }
}

/// Takes what was changed here to where it holds: to the gateway of this node, and to other nodes.
#[derive(Debug)]
struct Crier {
    gateway: Arc<Gateway>,
    shared: Option<Shared>,
}

impl Heard for Crier {
    fn off(&self, models: HashSet<String>) {
        self.gateway.switch_off(models);
    }

    fn changed(&self) {
        if let Some(shared) = &self.shared {
            shared.keys_changed();
        }
    }
}

impl Others {
    /// Those that the settings name.
    ///
    /// # Errors
    /// They are not named well.
    pub(super) async fn find(
        settings: &Settings,
        health: &Arc<Health>,
        metrics: &Metrics,
    ) -> Result<Self, Faults> {
        let Some(redis) = &settings.redis else {
            return Ok(Self { shared: None, book: HealthBook::default() });
        };
        let replication = Replication::new(health.clone(), metrics.clone());
        let shared =
            Box::pin(Shared::open(&redis.url, redis.away, replication)).await.map_err(Faults::from)?;
        Ok(Self { book: HealthBook::shared(Arc::new(Told(shared.clone()))), shared: Some(shared) })
    }

    /// Limits and budgets of this gate hold for all together.
    pub(super) fn join(&self, gate: &Gate) {
        if let Some(shared) = &self.shared {
            gate.share(shared.pool());
        }
    }

    /// Who is to be told of what is changed here.
    pub(super) fn crier(&self, gateway: &Arc<Gateway>) -> Arc<dyn Heard> {
        Arc::new(Crier { gateway: gateway.clone(), shared: self.shared.clone() })
    }

    /// Changes when another node has changed something, if any can tell.
    pub(super) fn word(&self) -> Option<watch::Receiver<u64>> {
        self.shared.as_ref().map(Shared::keys)
    }

    /// Keeps in touch until `stop`.
    pub(super) async fn run(self, gate: Arc<Gate>, stop: CancellationToken) {
        let Self { shared, book } = self;
        if let Some(shared) = shared {
            let told = |name: &str, rest: Option<(Duration, bool)>| {
                book.told(name, rest.map(|(lasts, is_will)| Rest { lasts, is_will }));
            };
            shared.run(gate, told, stop).await;
        }
    }
}
