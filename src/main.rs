//! The program: reads the command, runs it, and says what is wrong if it cannot.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use llm_proxy_api::cli::Cli;
use tikv_jemallocator::Jemalloc;

/// A tenth of the time of a request is the allocator's. This one takes less than others for pieces of some kilobytes, which
/// futures and buffers are, and keeps little of what a burst of large bodies took.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// For what runs beside the requests, which have threads of their own. Two, so that one that reads a long file keeps no
/// caller from being let in.
const THREADS_BESIDE: usize = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(code) = cli.beside_gateway() {
        return code;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS_BESIDE).enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(cli.run()).map_err(|error| error.to_string()),
        Err(error) => Err(format!("the runtime cannot be started: {error}")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If even this cannot be written, the exit code says it.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}
