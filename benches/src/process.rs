//! CPU time and memory of a process, from what Linux tells.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::param::clock_ticks_per_second;

/// The CPU time that a process has used so far.
pub struct CpuTime {
    /// Nanoseconds by thread; empty on kernels that do not tell.
    threads_ns: BTreeMap<u32, u64>,
    /// Of the whole process, in steps of a clock tick: 10 ms on most machines.
    process_ns: u64,
}

impl CpuTime {
    pub fn read(pid: u32) -> Result<CpuTime> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid} is gone"))?;
        let ticks = ticks(&stat).context("an odd stat file")?;
        let process_ns = ticks * 1_000_000_000 / clock_ticks_per_second().max(1);
        let mut threads_ns = BTreeMap::new();
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            threads_ns.extend(thread_ns(&thread?.path()));
        }
        Ok(CpuTime { threads_ns, process_ns })
    }

    /// Nanoseconds used since `earlier`.
    pub fn since_ns(&self, earlier: &CpuTime) -> u64 {
        // A thread that has ended took its count along; the coarse one still has it.
        let ended = earlier.threads_ns.keys().any(|id| !self.threads_ns.contains_key(id));
        if ended || self.threads_ns.is_empty() {
            return self.process_ns.saturating_sub(earlier.process_ns);
        }
        let sum_ns = |time: &CpuTime| time.threads_ns.values().sum::<u64>();
        sum_ns(self).saturating_sub(sum_ns(earlier))
    }
}

fn thread_ns(thread: &Path) -> Option<(u32, u64)> {
    let id = thread.file_name()?.to_str()?.parse().ok()?;
    let times = fs::read_to_string(thread.join("schedstat")).ok()?;
    Some((id, times.split_ascii_whitespace().next()?.parse().ok()?))
}

/// User and system time, fields 14 and 15; the name in field 2 may hold spaces.
fn ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// Memory that a process holds, in KiB, with its share of what it has in common with others.
pub fn memory_kib(pid: u32) -> Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("the memory of process {pid}"))?;
    pss_kib(&rollup).context("an odd smaps_rollup file")
}

fn pss_kib(rollup: &str) -> Option<f64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 25 0 0 20 0 3 0 99";
        assert_eq!(ticks(stat), Some(175));
        assert_eq!(pss_kib("1000-2000 ---p 0 0 0 [rollup]\nRss: 9 kB\nPss:   1536 kB\n"), Some(1536.0));
        assert!(memory_kib(std::process::id()).unwrap() > 100.0);
    }

    #[test]
    fn the_coarse_count_serves_when_a_thread_has_ended() {
        let time = |threads: &[(u32, u64)], process_ns| CpuTime {
            threads_ns: threads.iter().copied().collect(),
            process_ns,
        };
        let earlier = time(&[(1, 100), (2, 50)], 1000);
        assert_eq!(time(&[(1, 150), (2, 60), (3, 5)], 9000).since_ns(&earlier), 65);
        assert_eq!(time(&[(1, 150)], 9000).since_ns(&earlier), 8000);
    }
}
