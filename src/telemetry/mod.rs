//! What operators see: log lines, figures, and the record of each request that both are made from.

mod fields;
mod health;
mod log_file;
mod logging;
mod metrics;
mod progress;
mod record;
mod replication;

pub use health::Health;
pub use logging::{LogGuard, check, error_line, init};
pub use metrics::{
    AttemptOutcome, BudgetLeft, DeploymentMetrics, EndpointMetrics, EngineMetrics, FaultMetrics, Metrics,
    ProbeMetrics, StartOutcome,
};
pub use progress::{Progress, Task, size};
pub use record::{Facts, Outcome, RequestRecord};
pub use replication::Replication;
