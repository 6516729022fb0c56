//! Where engines put their prompt caches while they are switched: a folder for this user and this process only.
//!
//! What lies there was said by callers. It goes with the process, and if that comes to a bad end, with the watch or the
//! next start.

use std::fs::DirBuilder;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::identity::Identity;

/// How the names of these folders begin; the process follows.
const NAME: &str = "prompts-";
const MODE: u32 = 0o700;

/// A folder that is removed with all that it holds when this is dropped.
#[derive(Debug)]
pub(super) struct PromptFolder {
    path: PathBuf,
    files_so_far: AtomicU64,
}

impl PromptFolder {
    /// Makes one in `base`, which is made if it is not there, and removes those of processes that are gone.
    pub(super) fn make(base: &Path) -> std::io::Result<Self> {
        static SO_FAR: AtomicU64 = AtomicU64::new(0);
        DirBuilder::new().mode(MODE).recursive(true).create(base)?;
        sweep(base);
        let own = Identity::of(std::process::id()).ok_or(std::io::ErrorKind::NotFound)?;
        let number = SO_FAR.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{NAME}{}-{}-{number}", own.pid, own.started));
        DirBuilder::new().mode(MODE).create(&path)?;
        Ok(Self { path, files_so_far: AtomicU64::new(0) })
    }

    /// A name that no file in it has had, and nobody can guess.
    pub(super) fn new_name(&self) -> String {
        let number = self.files_so_far.fetch_add(1, Ordering::Relaxed);
        format!("{number}-{:016x}.slot", RandomState::new().build_hasher().finish())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether engines can write there. What others tidy away is made again.
    pub(super) fn is_there(&self) -> bool {
        self.path.is_dir() || DirBuilder::new().mode(MODE).recursive(true).create(&self.path).is_ok()
    }
}

impl Drop for PromptFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders of processes that are gone.
pub(super) fn sweep(base: &Path) {
    let entries = std::fs::read_dir(base).into_iter().flatten().filter_map(Result::ok);
    for entry in entries {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| owner_of(name.strip_prefix(NAME)?));
        if owner.is_some_and(|owner| !owner.is_alive()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The process whose number and start a name begins with.
pub(super) fn owner_of(name: &str) -> Option<Identity> {
    let mut numbers = name.split('-');
    let pid = numbers.next()?.parse().ok()?;
    Some(Identity { pid, started: numbers.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_goes_with_its_owner_and_those_of_the_dead_go_with_the_next() {
        let base = tempfile::tempdir().unwrap();
        let dead = base.path().join("prompts-4000000-17-0");
        let other = base.path().join("prompts-of-mine");
        [&dead, &other].into_iter().for_each(|path| std::fs::create_dir(path).unwrap());
        std::fs::write(dead.join("slot"), "words").unwrap();
        let folder = PromptFolder::make(base.path()).unwrap();
        let beside = PromptFolder::make(base.path()).unwrap();
        assert!(!dead.exists() && other.exists() && folder.path().exists() && beside.path() != folder.path());
        assert_eq!(std::fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, MODE);
        let path = folder.path().to_owned();
        std::fs::remove_dir(&path).unwrap();
        assert!(folder.is_there() && path.exists(), "it is made again");
        assert_ne!(folder.new_name(), folder.new_name());
        drop(folder);
        assert!(!path.exists());
    }
}
