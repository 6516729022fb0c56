//! Runs the probes of the configuration that holds, and no others.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::router::RoutingTable;
use crate::telemetry::Metrics;

/// The probes that run now: one task for each provider that is asked.
#[derive(Debug, Default)]
pub(super) struct Probing {
    tasks: TaskTracker,
    /// Ends those of the configuration that holds now.
    end: CancellationToken,
}

impl Probing {
    /// Another configuration holds: its probes run, and those before them end, whatever they are waiting for.
    pub(super) fn follow(&mut self, routes: &RoutingTable, metrics: &Metrics) {
        self.end.cancel();
        self.end = CancellationToken::new();
        metrics.forget_probes();
        for probe in routes.probes() {
            let running = self.end.clone().run_until_cancelled_owned(probe.clone().run());
            self.tasks.spawn(running);
        }
    }

    /// Ends all of them.
    pub(super) async fn end(self) {
        self.end.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
