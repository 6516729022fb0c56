//! The program: one command for each part of the comparison, and one that runs them all.

mod answer;
mod bare;
mod client;
mod compare;
mod held;
mod http1;
mod load;
mod machine;
mod mock;
mod process;
mod scenario;
mod stats;
mod table;
mod tally;
mod target;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// Compares the gateway with a bare proxy and with no proxy at all.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve deterministic answers; the model name says which: `whole`, `chunks-<count>-gap-<ms>`.
    Mock {
        #[arg(long, default_value_t = 19100)]
        port: u16,
    },
    /// Forward everything to one upstream and look at nothing.
    Bare {
        #[arg(long, default_value_t = 19101)]
        port: u16,
        /// Port of the upstream on this machine
        #[arg(long, default_value_t = 19100)]
        upstream: u16,
    },
    /// Load whatever listens on a port of this machine, check every answer, and print what was seen.
    Load {
        #[arg(long, default_value_t = 19100)]
        port: u16,
        /// `chunks-<count>-gap-<ms>` asks for streams
        #[arg(long, default_value = "whole")]
        model: String,
        /// Shown as a bearer token
        #[arg(long, default_value = client::KEY)]
        key: String,
        #[arg(long, default_value_t = 64)]
        connections: u32,
        #[arg(long, default_value_t = 2)]
        seconds: u64,
        /// Process whose CPU time is counted
        #[arg(long)]
        pid: Option<u32>,
    },
    /// Start everything, run the scenarios in turn, and print tables.
    Compare(compare::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("gateway-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Mock { port } => one_thread()?.block_on(mock::serve(port))?,
        Command::Bare { port, upstream } => {
            // With as many threads as it may use cores, like the gateway.
            let runtime = Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(bare::serve(port, upstream))?;
        }
        Command::Load { port, model, key, connections, seconds, pid } => {
            let measure = Duration::from_secs(seconds);
            let load = load::Load { port, model, key, connections, measure, pid, ..load::Load::default() };
            let outcome = one_thread()?.block_on(load::run(&load))?;
            println!("{}", outcome.summary());
        }
        Command::Compare(options) => {
            // Dropping the comparison ends what it started, so a signal must not end this process at once.
            let right = one_thread()?.block_on(async {
                tokio::select! {
                    right = compare::run(&options) => right,
                    error = interrupted() => error,
                }
            })?;
            return Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The mock and the load generator share a core: threads would only take turns on it.
fn one_thread() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

async fn interrupted() -> Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    bail!("interrupted")
}
