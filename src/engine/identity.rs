//! Which process is meant: numbers are used again, a number and its start are not.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// How long a process without any variable may be about to become another program: a tenth of a second.
const LOOKS: u32 = 50;
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);
/// How long to wait until processes that were killed are gone and have given back their memory.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(5);
/// Processes that start others faster than they are killed are left after this many rounds.
const MOST_ROUNDS: usize = 100;

/// A process, by what is never given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) pid: u32,
    /// When it started, in ticks since the system did.
    pub(super) started: u64,
}

impl Identity {
    /// The process that has this number now.
    pub(super) fn of(pid: u32) -> Option<Self> {
        Stat::of(pid).map(|stat| Self { pid, started: stat.started })
    }

    /// Whether this very process runs. One that waits for being reaped does not.
    pub(super) fn is_alive(self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.started == self.started && !stat.is_zombie)
    }

    /// Everyone who runs in a process group.
    pub(super) fn of_group(group: u32) -> Vec<Self> {
        let in_group = processes().filter(|(_, stat)| stat.group == group && !stat.is_zombie);
        in_group.map(|(pid, stat)| Self { pid, started: stat.started }).collect()
    }

    /// Kills everyone who was started with this variable, as `NAME=value`, wherever they are: a process can leave its group
    /// and its session, but not the variables that it was started with. Who they were.
    pub(super) fn kill_all_with(pair: &str) -> Vec<Self> {
        let mut killed = Vec::new();
        for _ in 0..MOST_ROUNDS {
            let with_it =
                processes().filter(|(pid, stat)| !stat.is_zombie && starts_with_variable(*pid, pair));
            let found: Vec<Self> = with_it.map(|(pid, stat)| Self { pid, started: stat.started }).collect();
            let new: Vec<Self> = found.into_iter().filter(|one| !killed.contains(one)).collect();
            if new.is_empty() {
                break;
            }
            new.iter().for_each(|one| one.kill());
            killed.extend(new);
        }
        killed
    }

    /// Waits until all of them are gone, as long as that may take.
    pub(super) fn await_ends(all: &[Self]) {
        let until = Instant::now() + PATIENCE;
        while all.iter().any(|one| one.is_alive()) && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
    }

    fn kill(self) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).filter(|_| self.is_alive());
        if let Some(pid) = pid {
            // It can only fail because it has ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Whether it was started with this variable, as `NAME=value`. Only its own user is told.
    ///
    /// While one program takes the place of another there is nothing to be read, or a part: what was not found is looked
    /// for once more, until twice the same was there.
    pub(super) fn has_variable(self, pair: &str) -> bool {
        let path = format!("/proc/{}/environ", self.pid);
        let mut before = Vec::new();
        for _ in 0..LOOKS {
            let Ok(environ) = std::fs::read(&path) else { return false };
            if environ.split(|byte| *byte == 0).any(|other| other == pair.as_bytes()) {
                return true;
            }
            if !self.is_alive() || (environ == before && !environ.is_empty()) {
                return false;
            }
            before = environ;
            std::thread::sleep(BETWEEN_LOOKS);
        }
        false
    }
}

/// Whether a process was started with this variable, as far as one look shows it.
pub(super) fn starts_with_variable(pid: u32, pair: &str) -> bool {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environ.split(|byte| *byte == 0).any(|other| other == pair.as_bytes())
}

/// All processes of this machine that can be seen.
pub(super) fn processes() -> impl Iterator<Item = (u32, Stat)> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, Stat::of(pid)?)))
}

/// What Linux tells of a process.
pub(super) struct Stat {
    is_zombie: bool,
    pub(super) parent: u32,
    pub(super) group: u32,
    started: u64,
    /// What all its threads have worked, in hundredths of a second.
    pub(super) worked: u64,
}

impl Stat {
    pub(super) fn of(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field is the program's name in parentheses, which may hold anything; the third follows the last one.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        let number = |at: usize| field(at)?.parse::<u64>().ok();
        Some(Self {
            worked: number(14)? + number(15)?,
            is_zombie: matches!(field(3)?, "Z" | "X"),
            parent: field(4)?.parse().ok()?,
            group: field(5)?.parse().ok()?,
            started: field(22)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_called_anything() {
        let text = "42 (a) Z 1 (b)) S 7 40 1 0 -1 0 0 0 0 0 5 6 0 0 20 0 1 0 987 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.is_zombie, stat.group, stat.started, stat.worked), (false, 40, 987, 11));
        assert_eq!(stat.parent, 7);
    }

    #[test]
    fn a_program_that_takes_anothers_place_has_its_variables_all_the_time() {
        for _ in 0..30 {
            let mut command = std::process::Command::new("sh");
            let command = command.args(["-c", "exec sh -c 'exec sleep 9'"]).env("MARK_OF_A_TEST", "1");
            let mut child = command.spawn().unwrap();
            let identity = Identity::of(child.id()).unwrap();
            let until = std::time::Instant::now() + Duration::from_millis(5);
            while std::time::Instant::now() < until {
                assert!(identity.has_variable("MARK_OF_A_TEST=1"));
            }
            assert!(!identity.has_variable("MARK_OF_A_TEST=2"));
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(!identity.has_variable("MARK_OF_A_TEST=1"));
        }
    }

    #[test]
    fn processes_with_a_variable_are_killed_in_any_session() {
        let pair = format!("MARK_OF_A_TEST=all-{}", std::process::id());
        let (name, value) = pair.split_once('=').unwrap();
        let mut command = std::process::Command::new("sh");
        let command = command.args(["-c", "setsid setsid sleep 99 & setsid sh -c 'sleep 99; true' & wait"]);
        let mut script = command.env(name, value).spawn().unwrap();
        let mut other = std::process::Command::new("sleep").arg("99").spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while processes().filter(|(pid, _)| starts_with_variable(*pid, &pair)).count() < 4 {
            assert!(Instant::now() < until);
            std::thread::sleep(LOOK);
        }
        let killed = Identity::kill_all_with(&pair);
        script.wait().unwrap();
        Identity::await_ends(&killed);
        assert!(killed.len() >= 4 && killed.iter().all(|one| !one.is_alive()), "{killed:?}");
        assert!(Identity::of(other.id()).unwrap().is_alive());
        assert!(Identity::kill_all_with(&pair).is_empty());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn one_with_the_same_number_is_another() {
        let own = Identity::of(std::process::id()).unwrap();
        assert!(own.is_alive() && !Identity { started: own.started + 1, ..own }.is_alive());
    }
}
