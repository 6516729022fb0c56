//! The log file: a new one each day, the plain name as a link to today's, none kept for longer than a week.
//!
//! The folder may hold the logs of others, too. Only files of exactly the form `<stem>.YYYY-MM-DD.<ending>` are ever
//! removed, and nothing is ever replaced but a link to one of them. Other users of the machine cannot read them.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::Fault;

/// Days for which a log file is kept.
const KEPT_FILES: usize = 7;
/// Between two looks whether the file is still there.
const LOOK: Duration = Duration::from_millis(200);
const SECONDS_OF_A_DAY: u64 = 86_400;
/// For this user, and for its group to read.
const MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;
/// What other users may do with a file.
const OTHERS: u32 = 0o007;

/// Writes to today's file.
#[derive(Debug)]
pub(super) struct LogFile {
    names: Names,
    file: File,
    /// The day of the last line, in days since 1970.
    day: u64,
    /// When it was last looked whether the file is still there.
    looked: Instant,
}

/// How the files are called.
#[derive(Debug)]
struct Names {
    folder: PathBuf,
    /// As the operator wrote it.
    plain: String,
    stem: String,
    ending: Option<String>,
}

impl LogFile {
    /// Opens today's file, and makes the folder if there is none.
    ///
    /// # Errors
    /// The name is that of something else than a file, or nothing can be written there.
    pub(super) fn open(path: &Path) -> Result<Self, Fault> {
        let mut names = Names::of(path)?;
        // In full: the service may be asked for its log after the folder around it was renamed.
        let folder = make_folder(&names.folder).and_then(|()| names.folder.canonicalize());
        names.folder = folder.map_err(|error| fault(path, &error))?;
        let now = SystemTime::now();
        let file = names.open(&date(now)).map_err(|error| fault(path, &error))?;
        names.turn(&date(now));
        Ok(Self { names, file, day: day(now), looked: Instant::now() })
    }

    /// Goes on in the file of another day, if it is one, or in a new file, if this one was moved or deleted. Where that cannot be
    /// opened, the old one goes on.
    fn turn(&mut self, now: SystemTime) {
        if day(now) == self.day && !self.is_gone(now) {
            return;
        }
        self.day = day(now);
        if let Ok(file) = self.names.open(&date(now)) {
            self.file = file;
            self.names.turn(&date(now));
        }
    }
}

impl LogFile {
    /// Whether another file, or none, has the name of this one. Looked for now and then only: it costs a look at the disk.
    fn is_gone(&mut self, now: SystemTime) -> bool {
        if self.looked.elapsed() < LOOK {
            return false;
        }
        self.looked = Instant::now();
        let id = |file: Metadata| (file.dev(), file.ino());
        let named = std::fs::metadata(self.names.folder.join(self.names.dated(&date(now)))).map(id);
        named.ok() != self.file.metadata().map(id).ok()
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.turn(SystemTime::now());
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Whether the file could be written, and what there is to say of it. Writes nothing.
///
/// # Errors
/// The name is that of something else than a file, or its folder cannot be one.
pub(super) fn check(path: &Path) -> Result<Option<String>, Fault> {
    let names = Names::of(path)?;
    let above = names.folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    if !above.is_dir() {
        return Err(fault(path, &format!("`{}` is no folder", above.display())));
    }
    rustix::fs::access(above, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|error| fault(path, &format!("the folder `{}`: {error}", above.display())))?;
    Ok(names.is_taken().then(|| {
        let (plain, dated) = (path.display(), names.dated("<date>"));
        format!("LLM_PROXY_API_LOG_FILENAME: `{plain}` is a file already and is left as it is; the log is in {dated}")
    }))
}

impl Names {
    fn of(path: &Path) -> Result<Self, Fault> {
        let is_folder = path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let (false, Some(plain)) = (is_folder, path.file_name()) else {
            return Err(fault(path, &"is a folder"));
        };
        if path.exists() && !path.is_file() {
            // A device or a pipe has no days.
            return Err(fault(path, &"is no regular file"));
        }
        let text = |part: &std::ffi::OsStr| part.to_str().map(str::to_owned);
        let stem = path.file_stem().and_then(text);
        let (Some(plain), Some(stem)) = (text(plain), stem) else {
            return Err(fault(path, &"the name is not UTF-8"));
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        Ok(Self {
            folder: folder.unwrap_or(Path::new(".")).to_owned(),
            plain,
            stem,
            ending: path.extension().and_then(text),
        })
    }

    /// Opens the file of a day, and makes the folder again if it was taken away.
    fn open(&self, date: &str) -> io::Result<File> {
        let path = self.folder.join(self.dated(date));
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(MODE);
        let file = options.open(&path).or_else(|_| {
            make_folder(&self.folder)?;
            options.open(&path)
        })?;
        // One that was there may be from an earlier version. If it is another user's, that user decides.
        let mode = file.metadata()?.permissions().mode();
        if mode & OTHERS != 0 {
            let _ = file.set_permissions(Permissions::from_mode(mode & !OTHERS));
        }
        Ok(file)
    }

    fn dated(&self, date: &str) -> String {
        match &self.ending {
            Some(ending) => format!("{}.{date}.{ending}", self.stem),
            None => format!("{}.{date}", self.stem),
        }
    }

    /// Whether a file is one of ours, by its name.
    fn is_ours(&self, name: &str) -> bool {
        let date = name.strip_prefix(&self.stem).and_then(|rest| rest.strip_prefix('.'));
        let date = match &self.ending {
            Some(ending) => date
                .and_then(|rest| rest.strip_suffix(ending.as_str()))
                .and_then(|rest| rest.strip_suffix('.')),
            None => date,
        };
        date.is_some_and(is_date)
    }

    /// Whether the plain name belongs to something that is not our link.
    fn is_taken(&self) -> bool {
        let plain = self.folder.join(&self.plain);
        match std::fs::read_link(&plain) {
            Ok(target) => !target.file_name().and_then(|name| name.to_str()).is_some_and(|n| self.is_ours(n)),
            Err(_) => plain.exists(),
        }
    }

    /// A new day: its file gets the plain name, and the oldest one goes. What cannot be done is left: a log that
    /// cannot be tidied up is still a log.
    fn turn(&self, date: &str) {
        if !self.is_taken() {
            let plain = self.folder.join(&self.plain);
            let _ = std::fs::remove_file(&plain);
            let _ = std::os::unix::fs::symlink(self.dated(date), &plain);
        }
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        let files =
            entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
        let mut names: Vec<String> = files.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| self.is_ours(name));
        // The newest first: dates of this form are in the order of their text.
        names.sort_unstable_by(|a, b| b.cmp(a));
        for old in names.iter().skip(KEPT_FILES) {
            let _ = std::fs::remove_file(self.folder.join(old));
        }
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)
}

fn fault(path: &Path, problem: &dyn std::fmt::Display) -> Fault {
    Fault::new(
        "LLM_PROXY_API_LOG_FILENAME",
        format!("`{}`: {problem}", path.display()),
        "name a file in a folder that this user can write to, or set it empty for no file (standard error has the log in any case)",
    )
}

/// `YYYY-MM-DD`, and nothing else.
fn is_date(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

fn day(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / SECONDS_OF_A_DAY)
}

/// The day in universal time, by which the appender names its files, too.
fn date(now: SystemTime) -> String {
    humantime::format_rfc3339_seconds(now).to_string().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_plain_name_leads_to_todays_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/service.log");

        writeln!(LogFile::open(&path).unwrap(), "line").unwrap();

        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line\n");
        assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn other_users_cannot_read_the_file_of_any_day() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |date: &str| {
            std::fs::metadata(folder.path().join(format!("a.{date}.log"))).unwrap().permissions().mode()
                & 0o777
        };
        let earlier = folder.path().join(format!("a.{}.log", date(SystemTime::now())));
        std::fs::write(&earlier, "an earlier version\n").unwrap();
        std::fs::set_permissions(&earlier, Permissions::from_mode(0o644)).unwrap();

        let mut log = LogFile::open(&folder.path().join("a.log")).unwrap();

        assert_eq!(mode(&date(SystemTime::now())), 0o640);
        let later = SystemTime::now() + std::time::Duration::from_secs(2 * SECONDS_OF_A_DAY);
        log.turn(later);
        writeln!(log.file, "line").unwrap();
        assert_eq!(mode(&date(later)), 0o640);
        assert_eq!(std::fs::read_to_string(folder.path().join("a.log")).unwrap(), "line\n");
    }

    #[test]
    fn a_file_that_was_taken_away_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(&folder.path().join("sub/a.log")).unwrap();
        let today = folder.path().join("sub").join(log.names.dated(&date(SystemTime::now())));
        let mut write = |line: &str| {
            log.looked = log.looked.checked_sub(LOOK).unwrap();
            writeln!(log, "{line}").unwrap();
        };
        write("one");
        write("two");
        assert_eq!(std::fs::read_to_string(&today).unwrap(), "one\ntwo\n");

        let moved = folder.path().join("moved");
        std::fs::rename(&today, &moved).unwrap();
        write("three");
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(folder.path().join("sub/a.log")).unwrap(), "three\n");

        std::fs::remove_dir_all(folder.path().join("sub")).unwrap();
        write("four");
        assert_eq!(std::fs::read_to_string(&today).unwrap(), "four\n");
    }

    #[test]
    fn the_oldest_of_our_files_go_and_those_of_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let others = [
            "a.2020-01-01.log.gz",
            "a.2020-1-1.log",
            "a.b.2020-01-01.log",
            "a.old.log",
            "auth.2020-01-01.log",
            "auth.log",
        ];
        let ours: Vec<String> = (1..=9).map(|day| format!("a.2020-01-0{day}.log")).collect();
        for name in others.iter().map(|name| (*name).to_owned()).chain(ours.clone()) {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }

        Names::of(&folder.path().join("a.log")).unwrap().turn("2020-01-09");

        let mut expected: Vec<String> = others.iter().map(|name| (*name).to_owned()).collect();
        expected.extend_from_slice(&ours[2..]);
        expected.push("a.log".to_owned());
        expected.sort();
        assert_eq!(names_in(folder.path()), expected);
        assert_eq!(std::fs::read_link(folder.path().join("a.log")).unwrap(), Path::new("a.2020-01-09.log"));
    }

    #[test]
    fn a_new_day_moves_our_link() {
        let folder = tempfile::tempdir().unwrap();
        let names = Names::of(&folder.path().join("plain")).unwrap();
        names.turn("2020-01-01");
        names.turn("2020-01-02");
        assert_eq!(std::fs::read_link(folder.path().join("plain")).unwrap(), Path::new("plain.2020-01-02"));
    }

    #[test]
    fn a_file_or_a_link_that_is_not_ours_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file.log"), folder.path().join("link.log"));
        std::fs::write(&file, "precious\n").unwrap();
        std::os::unix::fs::symlink("file.log", &link).unwrap();
        for path in [&file, &link] {
            let warning = check(path).unwrap().unwrap();
            assert!(warning.contains("is left as it is"), "{warning}");
            writeln!(LogFile::open(path).unwrap(), "line").unwrap();
            assert_eq!(std::fs::read_to_string(path).unwrap(), "precious\n");
        }
        let today = folder.path().join(format!("file.{}.log", date(SystemTime::now())));
        assert_eq!(std::fs::read_to_string(today).unwrap(), "line\n");
    }

    #[test]
    fn what_cannot_be_a_log_file_is_a_fault_that_names_variable_and_cure() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "x").unwrap();
        let beneath_a_file = folder.path().join("file/x.log");
        for path in [folder.path(), Path::new("new/"), &beneath_a_file, Path::new("/dev/null")] {
            for fault in [check(path).unwrap_err(), LogFile::open(path).unwrap_err()] {
                let fault = fault.to_string();
                let words = ["LLM_PROXY_API_LOG_FILENAME", &path.display().to_string(), "empty for no file"];
                assert!(words.iter().all(|word| fault.contains(word)), "{fault}");
            }
        }
        let fault = LogFile::open(Path::new("/proc/nowhere/x.log")).unwrap_err().to_string();
        assert!(fault.contains("LLM_PROXY_API_LOG_FILENAME"), "{fault}");
    }
}
