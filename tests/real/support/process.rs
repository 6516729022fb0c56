//! A program that runs for the length of a test. What it says goes to a file, which is shown if the test fails.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::soon;

/// A running program. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program. Its standard output and standard error go to a file in `folder`.
    pub(crate) fn start(mut command: Command, folder: &Path) -> Self {
        let program = command.as_std().get_program();
        let name = Path::new(program).file_name().unwrap().to_owned();
        let log = folder.join(name).with_extension("log");
        let output = File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .expect("the program can be started");
        Self { child, log }
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn end(&mut self) {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        soon("a process that is asked to end ends", self.child.wait()).await.unwrap();
    }

    /// Kills it, without giving it time for anything.
    pub(crate) async fn kill(&mut self) {
        soon("a killed process ends", self.child.kill()).await.unwrap();
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "for whoever looks for the cause of a failure")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.said();
            let start = said.char_indices().rev().nth(4000).map_or(0, |(place, _)| place);
            eprintln!("--- the end of {}\n{}", self.log.display(), &said[start..]);
        }
    }
}
