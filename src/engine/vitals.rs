//! Signs of life of an engine that does not serve yet: what it says, works, reads and holds.
//!
//! A large model on a slow disk may take long, and is waited for as long as it gets on. Asking an engine whether it
//! has loaded makes it work a little, too, which is no sign.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::identity::{Identity, Stat};

/// Beyond that an engine has done something on its own, in bytes.
const NOTABLE_BYTES: u64 = 1024 * 1024;
/// And that, in hundredths of a second, for each second: one per cent of a processor.
const NOTABLE_WORK: u64 = 1;

/// What a process has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vitals {
    /// Bytes of its log.
    said: u64,
    /// In hundredths of a second.
    worked: u64,
    /// Bytes that it has read and written.
    moved: u64,
    /// Bytes of its memory that are really there, of files as well.
    resident: u64,
}

impl Vitals {
    /// Those of a process and of all in its group, which have said so many bytes together. What the system does not
    /// tell is nothing.
    pub(super) fn of_group(leader: u32, said: u64) -> Self {
        let own = Self::of(leader, said);
        let others = Identity::of_group(leader).into_iter().filter(|one| one.pid != leader);
        others.map(|one| Self::of(one.pid, 0)).fold(own, |sum, one| Self {
            said: sum.said,
            worked: sum.worked + one.worked,
            moved: sum.moved + one.moved,
            resident: sum.resident + one.resident,
        })
    }

    /// What has been worked since, in hundredths of a second.
    pub(super) fn worked_since(&self, before: &Self) -> u64 {
        self.worked.saturating_sub(before.worked)
    }

    fn of(pid: u32, said: u64) -> Self {
        let text = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let (io, status) = (text("io"), text("status"));
        Self {
            said,
            worked: Stat::of(pid).map_or(0, |stat| stat.worked),
            moved: number_of(&io, "rchar:") + number_of(&io, "wchar:"),
            resident: number_of(&status, "VmRSS:") * 1024,
        }
    }

    /// How much of a model it has brought in, in per cent: all but the last one, for only the engine itself can say
    /// that it is done.
    pub(super) fn percent_of(&self, model_bytes: u64) -> u8 {
        let here = self.resident.max(self.moved).min(model_bytes);
        u8::try_from(here * 100 / model_bytes.max(1)).unwrap_or(99).min(99)
    }
}

fn number_of(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Whether a process gets on.
#[derive(Debug)]
pub(super) struct Pulse {
    last: Vitals,
    felt: Instant,
}

impl Pulse {
    pub(super) fn starting(now: Instant) -> Self {
        Self { last: Vitals::default(), felt: now }
    }

    /// For how long nothing has been felt.
    pub(super) fn feel(&mut self, vitals: Vitals, now: Instant) -> Duration {
        let silent = now.duration_since(self.felt);
        let has_changed = vitals.said > self.last.said
            || vitals.worked > self.last.worked + NOTABLE_WORK * (silent.as_secs() + 2)
            || vitals.moved >= self.last.moved + NOTABLE_BYTES
            || vitals.resident >= self.last.resident + NOTABLE_BYTES;
        if !has_changed {
            return silent;
        }
        (self.last, self.felt) = (vitals, now);
        Duration::ZERO
    }
}

/// What a model takes on the disk, in bytes, with all its parts; `None` if it is not there.
pub(super) fn model_bytes(file: &Path) -> Option<u64> {
    parts_of(file).iter().map(|part| Some(std::fs::metadata(part).ok()?.len())).sum()
}

/// All files of a model of which the first one is named.
pub(super) fn parts_of(file: &Path) -> Vec<PathBuf> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let parts = name.split_once("-00001-of-").and_then(|(before, parts)| {
        let count: u32 = parts.split('.').next()?.parse().ok().filter(|count| *count < 1000)?;
        let part = |part: u32| file.with_file_name(format!("{before}-{part:05}-of-{parts}"));
        Some((1..=count).map(part).collect())
    });
    parts.unwrap_or_else(|| vec![file.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_only_answers_has_no_pulse() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut pulse = Pulse::starting(start);
        let loading = Vitals { said: 100, worked: 50, moved: 5_000_000, resident: 40_000_000 };
        assert_eq!(pulse.feel(loading, at(1)), Duration::ZERO);
        let asked = Vitals { worked: 53, moved: 5_010_000, ..loading };
        assert_eq!(pulse.feel(asked, at(11)), Duration::from_secs(10));
        assert_eq!(pulse.feel(Vitals { said: 101, ..asked }, at(12)), Duration::ZERO);
        for sign in [
            Vitals { worked: 200, ..asked },
            Vitals { moved: 50_000_000, ..asked },
            Vitals { resident: 50_000_000, ..asked },
        ] {
            let mut pulse = Pulse { last: asked, felt: at(12) };
            assert_eq!(pulse.feel(sign, at(42)), Duration::ZERO, "{sign:?}");
        }
    }

    #[test]
    fn the_own_process_works() {
        let vitals = Vitals::of(std::process::id(), 7);
        assert!(vitals.resident > 1_000_000 && vitals.moved > 0 && vitals.said == 7, "{vitals:?}");
        assert_eq!(Vitals::of(u32::MAX, 0), Vitals::default());
    }

    #[test]
    fn progress_is_what_is_here_of_the_model() {
        let vitals = |resident, moved| Vitals { moved, resident, ..Vitals::default() };
        assert_eq!(vitals(420, 7).percent_of(1000), 42);
        assert_eq!(vitals(7, 420).percent_of(1000), 42);
        assert_eq!((vitals(5000, 0).percent_of(1000), vitals(0, 0).percent_of(0)), (99, 0));
    }

    #[test]
    fn a_model_in_parts_is_as_large_as_all_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, bytes) in [("m-00001-of-00002.gguf", 10), ("m-00002-of-00002.gguf", 5), ("n.gguf", 3)] {
            std::fs::write(path(name), vec![0; bytes]).unwrap();
        }
        assert_eq!(model_bytes(&path("m-00001-of-00002.gguf")), Some(15));
        assert_eq!((model_bytes(&path("n.gguf")), model_bytes(&path("o.gguf"))), (Some(3), None));
    }
}
