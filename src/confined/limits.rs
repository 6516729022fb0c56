//! What a confined child may take. It sets its own limits before it reads anything, and cannot raise them again.

use rustix::process::{Resource, Rlimit, setrlimit};

/// The most that a child takes in its whole life.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of address space, the program itself included.
    pub memory_bytes: u64,
    /// Of processor time.
    pub cpu_seconds: u64,
}

/// Files that are open at once: the pipes, and the one that is read.
const OPEN_FILES: u64 = 16;

impl Limits {
    /// Holds from now on for this process: these limits, no core dump, no file written, no further process or thread.
    ///
    /// # Errors
    /// The system refuses one of them.
    pub(super) fn apply(self) -> std::io::Result<()> {
        for (resource, most) in [
            (Resource::As, self.memory_bytes),
            (Resource::Cpu, self.cpu_seconds),
            (Resource::Core, 0),
            (Resource::Fsize, 0),
            (Resource::Nproc, 0),
            (Resource::Nofile, OPEN_FILES),
        ] {
            setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
        }
        Ok(())
    }
}
