//! The comparison: starts everything, runs the scenarios over the targets in turn, and prints the tables.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use crate::held;
use crate::machine::{self, stripped_mib};
use crate::process::memory_kib;
use crate::scenario::Scenario;
use crate::table::{DIRECT, Row, YARDSTICK, markdown};
use crate::target::{OURS, Target, Targets};

/// Between two runs, so that one does not see what the other left behind.
const PAUSE: Duration = Duration::from_millis(200);
/// After the first answer, until a process is idle.
const IDLE_AFTER: Duration = Duration::from_secs(1);
/// Memory hardly differs between repeats, and each takes ten seconds.
const HELD_REPEATS: u32 = 3;

/// What to compare, and how long.
#[derive(Debug, Args)]
pub struct Options {
    /// The gateway's binary
    #[arg(long)]
    gateway: PathBuf,
    /// Runs of each scenario, of which the tables show the medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Scenarios to run; all by default
    #[arg(long, value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Streams that are held at once
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    streams: u32,
    /// Go before everything else on this machine (as root, with chrt)
    #[arg(long)]
    realtime: bool,
    /// Ports are taken from here on
    #[arg(long, default_value_t = 19100)]
    port: u16,
    /// Folder for the tables and for the figures of each run
    #[arg(long, default_value = "results", overrides_with = "results")]
    results: PathBuf,
}

/// Runs everything, and says whether all answers were right.
pub async fn run(options: &Options) -> Result<bool> {
    machine::raise_file_limit(options.streams)?;
    if options.realtime {
        machine::take_precedence()?;
    }
    // Before this thread moves to one of the cores: then it would count only that one.
    let machine = machine::describe();
    let targets = Targets::new(&options.gateway, options.port)?;
    let realtime = if options.realtime { "in real time" } else { "without precedence" };
    let conditions = format!("{machine}; {}; {realtime}; {} repeats", targets.describe(), options.repeats);
    eprintln!("{conditions}");

    fs::create_dir_all(&options.results)?;
    let runs = File::create(options.results.join("runs.jsonl"))?;
    let mut report = Report { sections: Vec::new(), runs, wrong: 0 };
    let wanted = |scenario: &Scenario| options.only.is_empty() || options.only.contains(scenario);
    if wanted(&Scenario::Startup) {
        startup(options, &targets, &mut report).await?;
    }
    if wanted(&Scenario::Held) {
        hold(options, &targets, &mut report).await?;
    }
    let scenarios: Vec<Scenario> = Scenario::value_variants().iter().copied().filter(wanted).collect();
    load(options, &targets, &scenarios, &mut report).await?;

    let text = report.markdown(&conditions, options.streams);
    println!("{text}");
    fs::write(options.results.join("report.md"), &text)?;
    if report.wrong > 0 {
        eprintln!("{} answers were wrong", report.wrong);
    }
    Ok(report.wrong == 0)
}

async fn startup(options: &Options, targets: &Targets, report: &mut Report) -> Result<()> {
    for repeat in 0..options.repeats {
        for name in [YARDSTICK, OURS] {
            let start = Instant::now();
            let mut target = targets.start(name)?;
            target.first_answer()?;
            let first_answer_ms = start.elapsed().as_secs_f64() * 1e3;
            sleep(IDLE_AFTER).await;
            let idle_mib = memory_kib(target.pid)? / 1024.0;
            // The yardstick's binary is this one, with all its other parts.
            let binary_mib =
                if name == OURS { stripped_mib(&options.gateway, targets.scratch())? } else { f64::NAN };
            target.stop().await?;
            report.add(Scenario::Startup, name, repeat, &[first_answer_ms, idle_mib, binary_mib])?;
        }
    }
    Ok(())
}

async fn hold(options: &Options, targets: &Targets, report: &mut Report) -> Result<()> {
    for repeat in 0..options.repeats.min(HELD_REPEATS) {
        for name in [YARDSTICK, OURS] {
            let mut target = targets.start(name)?;
            target.first_answer()?;
            let held = held::run(target.port, target.pid, options.streams).await?;
            target.stop().await?;
            report.note_errors(name, held.tally.errors, held.tally.first_error.as_deref());
            let [p50, p99] =
                [50, 99].map(|rank| crate::stats::percentile(&held.tally.transit_ns, rank) / 1e3);
            let figures = [held.kib_per_stream, p50, p99, held.tally.errors as f64];
            report.add(Scenario::Held, name, repeat, &figures)?;
        }
    }
    Ok(())
}

/// The scenarios with processes that run on, in turn over the targets: A B C A B C.
async fn load(
    options: &Options,
    targets: &Targets,
    scenarios: &[Scenario],
    report: &mut Report,
) -> Result<()> {
    if scenarios.iter().all(|scenario| scenario.load().is_none()) {
        return Ok(());
    }
    // One after the other, so that the second finds the port of the first taken.
    let mut bare = targets.start(YARDSTICK)?;
    bare.first_answer()?;
    let mut ours = targets.start(OURS)?;
    ours.first_answer()?;
    let all = [(DIRECT, targets.mock()), (YARDSTICK, &bare), (OURS, &ours)];
    for repeat in 0..options.repeats {
        for scenario in scenarios {
            for (name, target) in all {
                measure(*scenario, name, target, repeat, report).await?;
            }
        }
    }
    bare.stop().await?;
    ours.stop().await
}

async fn measure(
    scenario: Scenario,
    name: &'static str,
    target: &Target,
    repeat: u32,
    report: &mut Report,
) -> Result<()> {
    let Some(mut load) = scenario.load() else { return Ok(()) };
    load.port = target.port;
    load.pid = Some(target.pid);
    let outcome = crate::load::run(&load).await.with_context(|| format!("{name} in {scenario:?}"))?;
    report.note_errors(name, outcome.tally.errors, outcome.tally.first_error.as_deref());
    ensure!(outcome.tally.requests > 0, "{name} gave no right answer in {scenario:?}");
    report.add(scenario, name, repeat, &scenario.figures(&outcome))?;
    sleep(PAUSE).await;
    Ok(())
}

/// All figures so far.
struct Report {
    sections: Vec<(Scenario, Vec<Row>)>,
    runs: File,
    wrong: u64,
}

impl Report {
    fn note_errors(&mut self, name: &str, errors: u64, first: Option<&str>) {
        self.wrong += errors;
        if let Some(first) = first {
            eprintln!("{name}: {errors} wrong answers; the first: {first}");
        }
    }

    fn add(&mut self, scenario: Scenario, name: &'static str, repeat: u32, figures: &[f64]) -> Result<()> {
        let columns = scenario.columns();
        let named = columns.iter().zip(figures);
        let named: Map<String, Value> =
            named.map(|(column, figure)| (column.name.to_owned(), json!(figure))).collect();
        let key = format!("{scenario:?}").to_lowercase();
        let line = json!({"scenario": key, "target": name, "repeat": repeat, "figures": named});
        writeln!(self.runs, "{line}")?;
        eprintln!("{key}, {name}: repeat {}", repeat + 1);

        if self.sections.iter().all(|(known, _)| *known != scenario) {
            self.sections.push((scenario, Vec::new()));
        }
        for (_, rows) in self.sections.iter_mut().filter(|(known, _)| *known == scenario) {
            if rows.iter().all(|row| row.target != name) {
                rows.push(Row::new(name, columns.len()));
            }
            rows.iter_mut().filter(|row| row.target == name).for_each(|row| row.add(figures));
        }
        Ok(())
    }

    fn markdown(&self, conditions: &str, streams: u32) -> String {
        let tables = self.sections.iter().map(|(scenario, rows)| {
            format!("\n{}", markdown(&scenario.title(streams), scenario.columns(), rows))
        });
        format!("{conditions}\n{}", tables.collect::<String>())
    }
}
