//! The bond between a child process and the gateway that started it.

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Has this process killed when its parent ends; whether its parent still is `gateway`.
///
/// # Errors
/// The system does not do that.
pub fn bind_to(gateway: u32) -> std::io::Result<bool> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Looked at after the wish is made: a gateway that ended before it was made would never be noticed.
    let parent = getppid().map(|pid| pid.as_raw_pid().unsigned_abs());
    Ok(parent == Some(gateway))
}
