//! Histograms of durations that are counted without a lock: every request adds to several of them, from any thread.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Seconds of answers of models: from 0.01 s doubling, as OpenTelemetry has it for models, up to the usual time limit.
const OF_ANSWERS: [f64; 17] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 120.0, 180.0,
    300.0,
];
/// Seconds between two tokens.
const OF_TOKENS: [f64; 14] =
    [0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 1.0, 2.5];
/// Seconds of the gateway's own work.
const OF_OVERHEAD: [f64; 14] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 1.0,
    10.0,
];

/// A histogram of durations. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Durations(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// The upper bounds of the buckets, in seconds.
    bounds: &'static [f64],
    /// One more than there are bounds.
    buckets: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

impl Durations {
    fn with(bounds: &'static [f64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Counts { bounds, buckets, sum_nanos: AtomicU64::new(0) }))
    }

    pub(super) fn of_answers() -> Self {
        Self::with(&OF_ANSWERS)
    }

    pub(super) fn of_tokens() -> Self {
        Self::with(&OF_TOKENS)
    }

    pub(super) fn of_overhead() -> Self {
        Self::with(&OF_OVERHEAD)
    }

    pub(super) fn observe(&self, duration: Duration) {
        let Counts { bounds, buckets, sum_nanos } = &*self.0;
        let seconds = duration.as_secs_f64();
        if let Some(bucket) = buckets.get(bounds.partition_point(|bound| *bound < seconds)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        // Beyond some 500 years it begins anew, which Prometheus takes for a restart.
        sum_nanos.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Counts { bounds, buckets, sum_nanos } = &*self.0;
        let counts = buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.iter().copied().chain([f64::INFINITY]).zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(sum_nanos.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    #[test]
    fn durations_are_counted_up_to_and_with_each_bound() {
        let durations = Durations::of_answers();
        for millis in [10, 11, 300_000, 300_001] {
            durations.observe(Duration::from_millis(millis));
        }
        let mut registry = Registry::default();
        registry.register("time", "x", durations);
        let mut shown = String::new();
        text::encode(&mut shown, &registry).unwrap();
        for line in [
            "time_bucket{le=\"0.01\"} 1\n",
            "time_bucket{le=\"0.02\"} 2\n",
            "time_bucket{le=\"81.92\"} 2\n",
            "time_bucket{le=\"300.0\"} 3\n",
            "time_bucket{le=\"+Inf\"} 4\n",
            "time_count 4\n",
            "time_sum 600.022\n",
        ] {
            assert!(shown.contains(line), "{line} in {shown}");
        }
    }
}
