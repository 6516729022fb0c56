//! Figures of the process, under the names that Prometheus' own clients give them. Read when they are asked for.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Linux counts the time of processors in these units towards programs, whatever it does inside.
const TICKS_PER_SECOND: f64 = 100.0;

/// The process that runs this.
#[derive(Debug)]
pub(super) struct Process {
    /// Seconds since 1970.
    started: f64,
}

/// What the system says of the process at the moment.
#[derive(Debug, PartialEq)]
struct Now {
    cpu_seconds: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
    threads: u64,
}

impl Process {
    /// The one that begins now.
    pub(super) fn started_now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: since.as_secs_f64() }
    }
}

impl Now {
    /// From `/proc/self/stat` and `/proc/self/status`.
    fn read(stat: &str, status: &str) -> Option<Self> {
        // The name of the program stands in brackets, and may hold anything.
        let (_, behind_name) = stat.rsplit_once(')')?;
        let ticks = |at: usize| behind_name.split_ascii_whitespace().nth(at)?.parse::<u32>().ok();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_ascii_whitespace().next()?.parse::<u64>().ok()
        };
        Some(Self {
            cpu_seconds: (f64::from(ticks(11)?) + f64::from(ticks(12)?)) / TICKS_PER_SECOND,
            virtual_bytes: of("VmSize")? * 1024,
            resident_bytes: of("VmRSS")? * 1024,
            threads: of("Threads")?,
        })
    }
}

/// Newer systems say how many files are open; of older ones they are counted.
fn open_files() -> Option<u64> {
    let told = std::fs::metadata("/proc/self/fd").ok()?.len();
    let counted = || Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as u64);
    if told > 0 { Some(told) } else { counted() }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        if let Some(now) = Now::read(&read("/proc/self/stat"), &read("/proc/self/status")) {
            let cpu = ConstCounter::new(now.cpu_seconds);
            let help = "Time of processors that the process has used";
            cpu.encode(encoder.encode_descriptor(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                cpu.metric_type(),
            )?)?;
            let help = "Memory of the process that is in use";
            bytes(&mut encoder, "process_resident_memory", help, now.resident_bytes)?;
            bytes(
                &mut encoder,
                "process_virtual_memory",
                "Memory that the process may address",
                now.virtual_bytes,
            )?;
            number(&mut encoder, "process_threads", "Threads of the process", now.threads)?;
        }
        if let Some(open) = open_files() {
            number(&mut encoder, "process_open_fds", "Files and sockets that are open", open)?;
        }
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let help = "Files and sockets that may be open";
        number(&mut encoder, "process_max_fds", help, most.unwrap_or(u64::MAX))?;
        let started = ConstGauge::new(self.started);
        let help = "When the process began, in seconds since 1970";
        let unit = Some(&Unit::Seconds);
        started.encode(encoder.encode_descriptor("process_start_time", help, unit, started.metric_type())?)
    }
}

fn bytes(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, Some(&Unit::Bytes), gauge.metric_type())?)
}

fn number(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_read_whatever_the_program_is_called() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 9 0 100 50000000 700 184";
        let status = "Name:\ta\nVmSize:\t   2048 kB\nVmRSS:\t     512 kB\nThreads:\t9\n";
        let now = Now { cpu_seconds: 3.0, virtual_bytes: 2_097_152, resident_bytes: 524_288, threads: 9 };
        assert_eq!(Now::read(stat, status), Some(now));
        assert_eq!(Now::read("", status), None);
        assert_eq!(Now::read(stat, "VmSize: x"), None);
    }
}
