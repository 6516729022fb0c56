//! The files of a prompt folder.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A prompt file, by its path in the library's folder (with `/` between the parts).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceFile {
    /// Such as `en/chat-conversation-simple.prompt`.
    pub(super) path: String,
    /// Its whole text.
    pub(super) text: String,
}

/// What of a folder's files changes when somebody writes to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<(PathBuf, Option<Stamp>)>);

/// What a file is known by. Some systems give all files one time, so neither time nor length is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    /// When anything of it was changed, the times included.
    changed: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(file: Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// Longer files are no prompts.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// More files than this are no prompt library.
const MAX_FILES: usize = 10_000;
/// Folders within folders; a link that leads back to its own folder ends here.
const MAX_DEPTH: usize = 8;

impl Fingerprint {
    /// Looks at the files of a folder, or at a single file. What is not there is not an error: its
    /// appearance is a change.
    pub fn of(path: &Path) -> Self {
        let mut files = Vec::new();
        if path.is_dir() {
            // A folder that cannot be listed now may be by the next look.
            let _ = list(path, 0, &mut files);
        } else {
            files.push(path.to_owned());
        }
        let seen = files.into_iter().map(|file| {
            let stamp = std::fs::metadata(&file).ok().map(Stamp::from);
            (file, stamp)
        });
        Self(seen.collect())
    }

    /// The same of several.
    pub fn of_all(paths: &[PathBuf]) -> Self {
        Self(paths.iter().flat_map(|path| Self::of(path).0).collect())
    }
}

/// Reads all prompt files of a folder, in the order of their paths.
///
/// # Errors
/// The folder or a file in it cannot be read; the path is in the pair.
pub(super) fn read(folder: &Path) -> Result<Vec<SourceFile>, (PathBuf, io::Error)> {
    let mut paths = Vec::new();
    list(folder, 0, &mut paths).map_err(|error| (folder.to_owned(), error))?;
    paths.sort();
    paths.into_iter().map(|path| read_file(folder, &path).map_err(|error| (path, error))).collect()
}

fn read_file(folder: &Path, path: &Path) -> io::Result<SourceFile> {
    if std::fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::other("longer than 1 MiB"));
    }
    let text = std::fs::read_to_string(path)?;
    let parts = path.strip_prefix(folder).unwrap_or(path).components();
    let parts: Vec<_> = parts.map(|part| part.as_os_str().to_string_lossy()).collect();
    Ok(SourceFile { path: parts.join("/"), text })
}

fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            list(&path, depth + 1, files)?;
        } else if path.extension().is_some_and(|ending| ending == "prompt") {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(io::Error::other("more than 10,000 prompt files"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_in_order_and_without_other_files() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["pl/b.prompt", "en/sub/a.prompt", "en/notes.txt", ".git/x.prompt"] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "text").unwrap();
        }

        let files = read(folder.path()).unwrap();

        let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["en/sub/a.prompt", "pl/b.prompt"]);
    }

    #[test]
    fn a_fingerprint_changes_with_content_names_and_absence() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.prompt");
        let empty = Fingerprint::of(folder.path());
        std::fs::write(&file, "one").unwrap();
        let one = Fingerprint::of(folder.path());
        std::fs::write(&file, "three").unwrap();
        let three = Fingerprint::of(folder.path());
        std::fs::rename(&file, folder.path().join("b.prompt")).unwrap();
        let renamed = Fingerprint::of(folder.path());

        assert!(empty != one && one != three && three != renamed);
        assert_eq!(renamed, Fingerprint::of(folder.path()));
        assert_ne!(Fingerprint::of(&folder.path().join("b.prompt")), Fingerprint::of(&file));
    }

    #[test]
    fn a_fingerprint_changes_with_what_changes_neither_length_nor_time() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two, link) = (folder.path().join("1"), folder.path().join("2"), folder.path().join("link"));
        let write = |path: &Path, text: &str| {
            std::fs::write(path, text).unwrap();
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1)).unwrap();
        };
        write(&one, "one");
        write(&two, "two");
        std::os::unix::fs::symlink(&one, &link).unwrap();
        let before = Fingerprint::of(&link);
        assert_eq!(before, Fingerprint::of(&link));
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&two, &link).unwrap();
        let moved = Fingerprint::of(&link);
        // The clock of files may stand still for some milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(30));
        write(&two, "six");

        assert_ne!(before, moved);
        assert_ne!(moved, Fingerprint::of(&link));
    }

    #[test]
    fn a_link_back_to_its_own_folder_ends() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
        assert!(read(folder.path()).unwrap().is_empty());
    }
}
