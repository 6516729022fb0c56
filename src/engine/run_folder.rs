//! The run folder: which engines run, written down for the gateway's next start.
//!
//! Engines end with the gateway by themselves ([`super::guard`]). What may be left all the same are the children of an
//! engine that was a script, or an engine that gained privileges on its way. Those are ended by the watch
//! ([`super::watch`]), and by any gateway before it starts engines: only those whose gateway is gone.
//!
//! The sockets of engines are here as well: no other user can listen on one, or connect to it.

use std::fs::{DirBuilder, Metadata, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Error, ErrorKind, PipeWriter};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::{prompt_folder, watch};
use crate::local::own_uid;

/// Only for this user: sockets of engines are here, too.
const MODE: u32 = 0o700;
/// Where the folder is made if it cannot be made where the environment says.
const OTHERWISE: &str = "/tmp";
/// The name of a unix socket takes no more bytes than this, with its folder.
const LONGEST_SOCKET: usize = 107;
/// So many bytes of that are kept for the name without its folder.
const SOCKET_NAME: usize = 40;
/// How names of sockets end.
const SOCKET_ENDING: &str = ".sock";
/// The variable by which the processes of an engine are known, even if their leader is gone.
const MARK: &str = "LLM_PROXY_API_ENGINE_OF";

/// A folder for this user only, where every engine that runs has a file.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Folders that were made for it just now, each before the one around it.
    made: Vec<PathBuf>,
    // Held open as long as this, for the watch. Locked only to start it.
    watch: Mutex<Option<PipeWriter>>,
}

/// Where the run folder is, or is made when an engine first needs it.
#[derive(Debug)]
pub struct RunPlace {
    base: PathBuf,
    folder: OnceLock<Option<Arc<RunFolder>>>,
}

/// What is written down of an engine.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    name: String,
    binary: PathBuf,
    gateway: Identity,
    engine: Identity,
}

/// What will be written down of an engine that is about to start.
#[derive(Debug)]
pub(super) struct Entry {
    folder: Arc<RunFolder>,
    name: String,
    binary: PathBuf,
}

/// The file of an engine that runs. Dropping it removes the file.
#[derive(Debug)]
pub(super) struct Written {
    file: PathBuf,
}

/// The name of a unix socket, on which an engine listens. Dropping it removes the socket.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // An engine that has ended in good order may have removed it itself.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl RunPlace {
    /// The place of the user's folder in `base`. What an earlier gateway has left there is cleaned up.
    pub async fn in_folder(base: &Path) -> Self {
        let place = Self { base: base.to_owned(), folder: OnceLock::new() };
        let left = if base.join(usual_name()).exists() { place.folder().cloned() } else { None };
        let otherwise = Path::new(OTHERWISE);
        let left_otherwise = otherwise.join(usual_name()).exists().then(|| RunFolder::open(otherwise));
        if let Some(folder) = left {
            folder.clean_up().await;
        }
        if let Some(Ok(folder)) = left_otherwise {
            folder.clean_up().await;
        }
        place
    }

    /// One that is there.
    pub(super) fn of(folder: Arc<RunFolder>) -> Self {
        Self { base: PathBuf::new(), folder: OnceLock::from(Some(folder)) }
    }

    /// The folder; `None` if it can be made nowhere.
    pub(super) fn folder(&self) -> Option<&Arc<RunFolder>> {
        let open = || match RunFolder::open_somewhere(&self.base) {
            Ok(folder) => Some(Arc::new(folder)),
            Err(error) => {
                tracing::warn!(%error, "Engines need a fixed address, and those that outlive a bad end of this process cannot be found again");
                None
            }
        };
        self.folder.get_or_init(open).as_ref()
    }

    /// Removes what was made for it, as far as nothing is in it: the start has failed.
    pub fn take_back(&self) {
        if let Some(Some(folder)) = self.folder.get() {
            let _ = folder.made.iter().try_for_each(std::fs::remove_dir);
        }
    }
}

/// The folder's name, if it is free.
fn usual_name() -> String {
    format!("llm-proxy-api-{}", own_uid())
}

impl RunFolder {
    /// The user's folder in `base`. Both are made if they are not there.
    ///
    /// # Errors
    /// It cannot be made, it belongs to another user, or its path is too long for the sockets of engines.
    pub fn open(base: &Path) -> std::io::Result<Self> {
        Self::open_as(base, &usual_name())
    }

    /// As [`RunFolder::open`], and in the folder for temporary files where that fails: at the usual place there, or, if
    /// another user has taken that, at one that no user can know beforehand.
    ///
    /// # Errors
    /// It can be made nowhere.
    pub fn open_somewhere(base: &Path) -> std::io::Result<Self> {
        let told = |error: &Error| {
            tracing::warn!(%error, "The run folder is made in {OTHERWISE}; set LLM_PROXY_API_DATA_DIR or XDG_RUNTIME_DIR to a folder of this user");
        };
        let other = Path::new(OTHERWISE);
        Self::open(base).inspect_err(told).or_else(|_| Self::open(other)).or_else(|_| {
            let random = RandomState::new().build_hasher().finish();
            Self::open_as(other, &format!("llm-proxy-api-{}-{random:016x}", own_uid()))
        })
    }

    fn open_as(base: &Path, name: &str) -> std::io::Result<Self> {
        let user = own_uid();
        let path = base.join(name);
        let named = |error: Error| Error::new(error.kind(), format!("{}: {error}", path.display()));
        if path.as_os_str().len() + 1 + SOCKET_NAME > LONGEST_SOCKET {
            let most = LONGEST_SOCKET - SOCKET_NAME - 1;
            let problem =
                format!("its path is longer than {most} bytes, which leaves no room for names of sockets");
            return Err(named(Error::new(ErrorKind::InvalidInput, problem)));
        }
        let missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
        let made = path.ancestors().take_while(missing).map(Path::to_owned).collect();
        DirBuilder::new().recursive(true).mode(MODE).create(base).map_err(named)?;
        match DirBuilder::new().mode(MODE).create(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(named(error)),
            _ => {}
        }
        // In a folder for everyone, somebody else may have been here first.
        let found = std::fs::symlink_metadata(&path).map_err(named)?;
        if !found.is_dir() || found.uid() != user {
            return Err(named(Error::new(ErrorKind::PermissionDenied, "is not a folder of this user")));
        }
        if permissions(&found) != MODE {
            std::fs::set_permissions(&path, Permissions::from_mode(MODE)).map_err(named)?;
        }
        Ok(Self { made, ..Self::at(&path) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The one that a gateway has opened.
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), made: Vec::new(), watch: Mutex::default() }
    }

    /// Kills the engines whose gateway is gone, with their groups and whatever else they have started, and waits until they
    /// are gone. How many there were.
    pub async fn clean_up(&self) -> usize {
        let folder = Self::at(&self.path);
        tokio::task::spawn_blocking(move || folder.sweep()).await.unwrap_or_default()
    }

    /// What [`RunFolder::clean_up`] does, on this thread.
    pub(super) fn sweep(&self) -> usize {
        prompt_folder::sweep(&self.path);
        let mut killed = Vec::new();
        for (file, record) in self.records() {
            // A gateway that is there looks after its engines itself.
            if record.gateway.is_alive() {
                continue;
            }
            let mut left = record.left();
            if !left.is_empty() && !kill_group(record.engine.pid) {
                left.clear();
            }
            // Some have left the group, and their session as well.
            left.extend(Identity::kill_all_with(&record.mark()));
            if !left.is_empty() {
                tracing::warn!(
                    engine = record.name,
                    pid = record.engine.pid,
                    "Killed an engine whose gateway is gone"
                );
                killed.push(left);
            }
            // Another gateway may have been faster.
            let _ = std::fs::remove_file(file);
        }
        Identity::await_ends(&killed.concat());
        self.sweep_sockets();
        killed.len()
    }

    /// A name for a socket that no engine has had.
    ///
    /// # Errors
    /// The system does not show this process.
    pub(super) fn socket(&self) -> std::io::Result<SocketFile> {
        static SO_FAR: AtomicU64 = AtomicU64::new(0);
        let own = Identity::of(std::process::id()).ok_or(ErrorKind::NotFound)?;
        let number = SO_FAR.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{}-{}-{number}{SOCKET_ENDING}", own.pid, own.started));
        Ok(SocketFile(path))
    }

    /// Removes the sockets of processes that are gone.
    fn sweep_sockets(&self) {
        let files = std::fs::read_dir(&self.path).into_iter().flatten().filter_map(Result::ok);
        for file in files {
            let name = file.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(SOCKET_ENDING));
            if name.and_then(prompt_folder::owner_of).is_some_and(|owner| !owner.is_alive()) {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }

    /// What to write down as soon as an engine has a number.
    pub(super) fn entry(self: &Arc<Self>, name: &str, binary: &Path) -> Entry {
        Entry { folder: self.clone(), name: name.to_owned(), binary: binary.to_owned() }
    }

    /// Has this process watched by `program`, if it is not yet. It works without, but for the children of engines that
    /// are scripts, which then wait for the next start.
    pub(super) fn have_watched(&self, program: &Path) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.is_none() {
            match watch::start(program, &self.path) {
                Ok(held) => *watch = Some(held),
                Err(error) => tracing::warn!(%error, "Nobody watches for a bad end of this process"),
            }
        }
    }

    /// All that can be read. What cannot is not ours to judge.
    fn records(&self) -> Vec<(PathBuf, Record)> {
        let files = std::fs::read_dir(&self.path).into_iter().flatten().filter_map(Result::ok);
        let paths = files.map(|file| file.path());
        paths
            .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
            .filter_map(|path| {
                let text = std::fs::read(&path).ok()?;
                Some((path, serde_json::from_slice(&text).ok()?))
            })
            .collect()
    }
}

impl Entry {
    /// Writes it down. An engine that cannot be written down runs all the same.
    pub(super) fn write(self, pid: u32) -> Option<Written> {
        let (gateway, engine) = (Identity::of(std::process::id())?, Identity::of(pid)?);
        let file = self.folder.path.join(format!("engine-{}-{pid}.json", gateway.pid));
        let record = Record { name: self.name, binary: self.binary, gateway, engine };
        match write(&file, &record) {
            Ok(()) => Some(Written { file }),
            Err(error) => {
                tracing::warn!(engine = record.name, %error, "The engine cannot be written down");
                None
            }
        }
    }
}

/// In one step, so that nobody reads half of it.
fn write(file: &Path, record: &Record) -> std::io::Result<()> {
    let unfinished = file.with_extension("new");
    std::fs::write(&unfinished, serde_json::to_vec(record)?)?;
    std::fs::rename(&unfinished, file)
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Record {
    /// Everyone who is left in the engine's group. A number alone proves nothing, since numbers are used again: it is
    /// the engine's group if its leader is the engine, or if somebody bears the mark.
    fn left(&self) -> Vec<Identity> {
        let left = Identity::of_group(self.engine.pid);
        let mark = self.mark();
        let is_its = left.iter().any(|one| *one == self.engine || one.has_variable(&mark));
        if is_its { left } else { Vec::new() }
    }

    /// The variable of all that its gateway's engines have started.
    fn mark(&self) -> String {
        format!("{MARK}={}", mark_of(self.gateway))
    }
}

/// The variable that every engine of this gateway gets, and its children.
pub(super) fn mark() -> Option<(&'static str, String)> {
    Identity::of(std::process::id()).map(|gateway| (MARK, mark_of(gateway)))
}

fn mark_of(gateway: Identity) -> String {
    format!("{}-{}", gateway.pid, gateway.started)
}

/// Whether there was anybody to kill.
fn kill_group(leader: u32) -> bool {
    let leader = i32::try_from(leader).ok().and_then(Pid::from_raw);
    leader.is_some_and(|leader| kill_process_group(leader, Signal::KILL).is_ok())
}

fn permissions(found: &Metadata) -> u32 {
    found.permissions().mode() & 0o7777
}
