//! The watch: a small process that outlives a gateway that was killed, ends what its engines have left, and ends.
//!
//! The guard's bond holds for an engine, not for its children: an engine that is a script would leave the server that
//! it has started. The gateway holds one end of a pipe; when it ends in whatever way, the watch reads the end of the
//! other one. If somebody kills the watch as well, the gateway's next start does the same work.

use std::io::{PipeWriter, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::identity::Identity;
use super::run_folder::RunFolder;

/// The name of the command by which the gateway starts itself as a watch.
pub const WATCH_COMMAND: &str = "engine-watch";

/// Between the end of a gateway's files and its own. Nobody who lives longer has ended.
const PATIENCE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(5);

/// Watches until this process closes what it gets back, or ends.
pub(super) fn start(program: &Path, folder: &Path) -> std::io::Result<PipeWriter> {
    let (end, held) = std::io::pipe()?;
    let mut command = Command::new(program);
    command
        .arg(WATCH_COMMAND)
        .arg(std::process::id().to_string())
        .arg(folder)
        .env_clear()
        // It keeps no file system busy, and no signal for the gateway's group is meant for it.
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::from(end))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    // Only to reap it: it may be ended by somebody else.
    std::thread::Builder::new().name("engine-watch".to_owned()).spawn(move || child.wait())?;
    Ok(held)
}

/// Waits for the end of the process `gateway`, which holds the other end of standard input, and ends what its engines
/// have left.
pub fn watch(gateway: u32, folder: &Path) {
    // Gone already: then there is nobody to wait for.
    let gateway = Identity::of(gateway);
    // Whatever comes, it comes to an end.
    let _ = std::io::copy(&mut std::io::stdin().lock().by_ref(), &mut std::io::sink());
    let until = Instant::now() + PATIENCE;
    while gateway.is_some_and(Identity::is_alive) && Instant::now() < until {
        std::thread::sleep(LOOK);
    }
    RunFolder::at(folder).sweep();
}
