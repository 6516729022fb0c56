//! The scenarios: what each sends, and which figures it gives.

use std::time::Duration;

use clap::ValueEnum;

use crate::load::{Load, Outcome};
use crate::stats::percentile;
use crate::table::Column;

/// In the order in which they run: those that need fresh processes come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Time from start to the first answer, idle memory, size of the binary
    Startup,
    /// Slow streams held at once: memory per stream
    Held,
    /// Whole answers, 64 connections
    Whole64,
    /// Whole answers, one connection
    Whole1,
    /// 16 streams of 50 chunks without delay
    Burst,
    /// 32 streams with 20 ms between chunks
    Paced,
}

const STARTUP: &[Column] = &[
    Column::compared("first answer, ms"),
    Column::compared("idle memory, MiB"),
    Column::shown("stripped binary, MiB"),
];
const HELD: &[Column] = &[
    Column::compared("KiB/stream"),
    Column::shown("transit p50 µs"),
    Column::shown("transit p99 µs"),
    Column::sum("errors"),
];
const WHOLE_64: &[Column] = &[
    Column::compared("requests/s per core"),
    Column::compared("CPU µs/request"),
    Column::shown("p50 µs"),
    Column::compared("p99 µs"),
    Column::shown("CPU %"),
    Column::sum("errors"),
];
const WHOLE_1: &[Column] = &[
    Column::compared("p50 µs"),
    Column::over_direct("added over direct, µs"),
    Column::shown("p99 µs"),
    Column::compared("CPU µs/request"),
    Column::sum("errors"),
];
const BURST: &[Column] = &[
    Column::compared("chunks/s per core"),
    Column::compared("CPU µs/chunk"),
    Column::compared("first token p50 µs"),
    Column::shown("CPU %"),
    Column::sum("errors"),
];
const PACED: &[Column] = &[
    Column::compared("first token p50 µs"),
    Column::compared("transit p50 µs"),
    Column::compared("transit p99 µs"),
    Column::compared("CPU µs/chunk"),
    Column::largest("longest gap, ms"),
    Column::largest("longest transit, ms"),
    Column::sum("errors"),
];

impl Scenario {
    pub fn title(self, streams: u32) -> String {
        match self {
            Scenario::Startup => "Start-up, idle memory, size (`startup`)".to_owned(),
            Scenario::Held => format!("{streams} slow streams held (`held`)"),
            Scenario::Whole64 => "Whole answers, 64 connections (`whole64`)".to_owned(),
            Scenario::Whole1 => "Whole answers, one connection (`whole1`)".to_owned(),
            Scenario::Burst => "16 streams of 50 chunks without delay (`burst`)".to_owned(),
            Scenario::Paced => "32 streams, 20 ms between chunks (`paced`)".to_owned(),
        }
    }

    pub fn columns(self) -> &'static [Column] {
        match self {
            Scenario::Startup => STARTUP,
            Scenario::Held => HELD,
            Scenario::Whole64 => WHOLE_64,
            Scenario::Whole1 => WHOLE_1,
            Scenario::Burst => BURST,
            Scenario::Paced => PACED,
        }
    }

    /// What to send to long-running targets; `None` for the scenarios that start their own.
    pub fn load(self) -> Option<Load> {
        let load = Load::default();
        match self {
            Scenario::Startup | Scenario::Held => None,
            Scenario::Whole64 => Some(Load { connections: 64, ..load }),
            Scenario::Whole1 => Some(load),
            Scenario::Burst => Some(Load { model: "chunks-50-gap-0".to_owned(), connections: 16, ..load }),
            Scenario::Paced => Some(Load {
                model: "chunks-50-gap-20".to_owned(),
                connections: 32,
                spread: Duration::from_millis(20),
                warm_up: Duration::from_secs(1),
                measure: Duration::from_secs(4),
                ..load
            }),
        }
    }

    /// The figures of a run with [`Scenario::load`], one for each column.
    pub fn figures(self, outcome: &Outcome) -> Vec<f64> {
        let tally = &outcome.tally;
        let us = |values: &[u64], rank| percentile(values, rank) / 1e3;
        let (requests, chunks) = (tally.requests as f64, tally.chunks as f64);
        let cpu_percent = outcome.cpu_us / outcome.seconds / 1e4;
        let errors = tally.errors as f64;
        let per_request = outcome.cpu_us / requests;
        let per_chunk = outcome.cpu_us / chunks;
        let [latency_p50, latency_p99] = [50, 99].map(|rank| us(&tally.latency_ns, rank));
        let first_token = us(&tally.first_token_ns, 50);
        let [transit_p50, transit_p99] = [50, 99].map(|rank| us(&tally.transit_ns, rank));
        match self {
            Scenario::Startup | Scenario::Held => Vec::new(),
            Scenario::Whole64 => {
                let rate = requests / outcome.seconds;
                vec![rate, per_request, latency_p50, latency_p99, cpu_percent, errors]
            }
            Scenario::Whole1 => vec![latency_p50, f64::NAN, latency_p99, per_request, errors],
            Scenario::Burst => {
                vec![chunks / outcome.seconds, per_chunk, first_token, cpu_percent, errors]
            }
            Scenario::Paced => {
                let longest_ms = [&tally.gap_ns, &tally.transit_ns].map(|values| us(values, 100) / 1e3);
                let mut figures = vec![first_token, transit_p50, transit_p99, per_chunk];
                figures.extend(longest_ms);
                figures.push(errors);
                figures
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Pace;
    use crate::tally::Tally;

    #[test]
    fn every_column_has_a_figure() {
        for scenario in Scenario::value_variants() {
            let Some(load) = scenario.load() else { continue };
            assert!(Pace::of_model(&load.model).is_some());
            let outcome = Outcome { tally: Tally::default(), seconds: 1.0, cpu_us: 1.0 };
            assert_eq!(scenario.figures(&outcome).len(), scenario.columns().len(), "{scenario:?}");
        }
    }
}
