//! Which process of an engine holds a socket, by the descriptors that Linux shows in `/proc/PID/fd`.
//!
//! A process is the engine's if it is in the engine's process group, if it descends from the engine, or if it was
//! started with the engine's mark: a wrapper may start the server in a session of its own and end its ties to it. The
//! mark is a random value in the environment, which no other user can read. What a process does not show to this user
//! is not the engine's.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;

use super::identity::{processes, starts_with_variable};

/// The variable that holds the mark.
pub(super) const MARK: &str = "LLM_PROXY_API_ENGINE";

/// A mark or a key that no program can guess: 128 bits of the system's.
pub(super) fn unguessable() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// That a process held a socket, and where that is to be seen.
#[derive(Clone, Debug)]
pub(super) struct Held {
    descriptor: PathBuf,
    socket: OsString,
}

impl Held {
    /// The process of an engine that holds the socket `inode`; `None` if no process of the engine does.
    pub(super) fn by_engine(leader: u32, mark: &str, inode: u64) -> Option<Self> {
        let parents: HashMap<u32, (u32, u32)> =
            processes().map(|(pid, stat)| (pid, (stat.parent, stat.group))).collect();
        let (own, others): (Vec<u32>, Vec<u32>) =
            parents.keys().partition(|pid| is_of_family(&parents, **pid, leader));
        let pair = format!("{MARK}={mark}");
        let marked = others.into_iter().filter(|pid| starts_with_variable(*pid, &pair));
        own.into_iter().chain(marked).find_map(|pid| Self::by(pid, inode))
    }

    /// Whether it still does. Cheap: one link is read.
    pub(super) fn is_true(&self) -> bool {
        std::fs::read_link(&self.descriptor).is_ok_and(|target| *target.as_os_str() == self.socket)
    }

    fn by(pid: u32, inode: u64) -> Option<Self> {
        let socket = OsString::from(format!("socket:[{inode}]"));
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.filter_map(Result::ok);
        let mut held =
            descriptors.map(|descriptor| Self { descriptor: descriptor.path(), socket: socket.clone() });
        held.find(Self::is_true)
    }
}

/// Whether a process is in the group of `leader`, or descends from it.
fn is_of_family(parents: &HashMap<u32, (u32, u32)>, pid: u32, leader: u32) -> bool {
    let mut next = Some(pid);
    // A process that goes while all are looked at may leave a circle behind.
    for _ in 0..parents.len() {
        let Some(pid) = next else { return false };
        let Some((parent, group)) = parents.get(&pid) else { return false };
        if pid == leader || *group == leader {
            return true;
        }
        next = Some(*parent).filter(|parent| *parent != 0);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_descendants_are_of_the_family() {
        let parents = HashMap::from([
            (1, (0, 1)),
            (10, (1, 10)),
            (11, (10, 10)),
            (12, (11, 12)),
            (13, (12, 13)),
            (20, (1, 20)),
            (30, (31, 30)),
            (31, (30, 30)),
        ]);
        let family: Vec<u32> = (1..40).filter(|pid| is_of_family(&parents, *pid, 10)).collect();
        assert_eq!(family, [10, 11, 12, 13]);
    }

    #[test]
    fn marks_differ() {
        let (one, other) = (unguessable().unwrap(), unguessable().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, other);
    }

    #[test]
    fn a_socket_is_held_until_it_is_closed() {
        use std::os::unix::fs::MetadataExt;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = std::process::id();
        let descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&listener));
        let inode = std::fs::metadata(descriptor).unwrap().ino();
        let held = Held::by_engine(own, "no mark", inode).unwrap();
        assert!(held.is_true());
        assert!(
            Held::by_engine(1_999_999_999, "no mark", inode).is_none(),
            "another engine does not hold it"
        );
        assert!(Held::by_engine(own, "no mark", 1).is_none());
        drop(listener);
        assert!(!held.is_true());
    }
}
