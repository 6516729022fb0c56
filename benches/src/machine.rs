//! The machine: which core does what, limits, free ports, and a line that says where the figures are from.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Which side of the measurement a process is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is measured.
    Target,
    /// The mock and the load generator.
    Load,
}

/// The cores of the two sides, if there are two.
pub struct Cores {
    pair: Option<(usize, usize)>,
}

impl Cores {
    /// Takes the first and the last core that this process may use, and moves to the last.
    pub fn take() -> Result<Cores> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let pair = cores.next().zip(cores.next_back());
        let cores = Cores { pair };
        cores.enter(Side::Load)?;
        Ok(cores)
    }

    /// Moves this thread, and with it what it starts from now on.
    pub fn enter(&self, side: Side) -> Result<()> {
        let Some((target, load)) = self.pair else { return Ok(()) };
        let mut set = CpuSet::new();
        set.set(if side == Side::Target { target } else { load });
        sched_setaffinity(None, &set).context("cannot choose a core")
    }

    pub fn describe(&self) -> String {
        match self.pair {
            Some((target, load)) => format!("targets on core {target}, mock and load on core {load}"),
            None => "ONE CORE ONLY: nothing is pinned, and times say little".to_owned(),
        }
    }
}

/// Lets this process, and what it starts, go before all others that are not in real time.
pub fn take_precedence() -> Result<()> {
    let pid = std::process::id().to_string();
    let status = Command::new("chrt").args(["--rr", "--pid", "1", &pid]).status();
    ensure!(status.context("no command chrt")?.success(), "--realtime needs the rights of root");
    Ok(())
}

/// Room for `streams` connections on either side of a proxy.
pub fn raise_file_limit(streams: u32) -> Result<()> {
    let needed = u64::from(streams) * 2 + 500;
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(needed.max(65_536));
    if wanted < needed {
        bail!(
            "{wanted} open files are allowed and {needed} needed: raise the limit, or hold fewer --streams"
        );
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
        .context("cannot raise the limit of open files")
}

/// The first port from `from` on where nothing listens.
pub fn free_port(from: u16) -> Result<u16> {
    let free = (from..=u16::MAX).find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    free.with_context(|| format!("no free port from {from} on"))
}

/// A folder for this run's files, removed at its end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Result<Scratch> {
        let folder = std::env::temp_dir().join(format!("gateway-bench-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Scratch(folder))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Size of a binary without its symbols, in MiB.
pub fn stripped_mib(binary: &Path, scratch: &Scratch) -> Result<f64> {
    let copy = scratch.path().join("stripped");
    let stripped = Command::new("strip").arg("-o").arg(&copy).arg(binary).status();
    let stripped = stripped.is_ok_and(|status| status.success());
    let measured = if stripped { copy.as_path() } else { binary };
    Ok(fs::metadata(measured)?.len() as f64 / 1024.0 / 1024.0)
}

/// Processor, system and load.
pub fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo");
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name"));
    let processor = processor.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, name)| name);
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let system = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!("{count} cores of {processor}, Linux {}, load {load}", system.trim())
}
