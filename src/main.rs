//! The program: reads the command, runs it, and says what is wrong if it cannot.

use std::io::Write;
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::Parser;
use llm_proxy_api::cli::Cli;
use tikv_jemallocator::Jemalloc;
use tokio::runtime::Builder;

/// A tenth of the time of a request is the allocator's. This one takes less than others for pieces of some kilobytes, which
/// futures and buffers are, and keeps little of what a burst of large bodies took.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// For what runs beside the requests, which have threads of their own, and for requests that take long to read. Two at least,
/// so that one that reads a long file keeps no caller from being let in.
const LEAST_THREADS: usize = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(code) = cli.beside_gateway() {
        return code;
    }
    let threads =
        available_parallelism().map_or(LEAST_THREADS, |processors| processors.get().max(LEAST_THREADS));
    let ended = match Builder::new_multi_thread().worker_threads(threads).enable_all().build() {
        Ok(runtime) => {
            let ended = runtime.block_on(cli.run()).map_err(|error| error.to_string());
            // Nobody waits for a name that is still looked up.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(format!("the runtime cannot be started: {error}")),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            // If even this cannot be written, the exit code says it.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}
