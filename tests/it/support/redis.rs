//! A Redis of one's own: a real server in a folder of its own, reached by a unix socket.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::PATIENCE;

/// If this is set, tests fail where there is no `redis-server`; else they are passed over.
const DEMANDED: &str = "LLM_PROXY_API_TEST_REDIS";

/// A server, running. Killed when dropped.
pub(crate) struct Redis {
    pub(crate) folder: TempDir,
    child: Option<Child>,
    more: Vec<String>,
}

impl Redis {
    /// A new, empty one; `None` where the program is not installed.
    #[expect(clippy::print_stderr, reason = "who runs the tests is to know what was not tested")]
    pub(crate) fn start() -> Option<Self> {
        let is_there = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
        if !is_there {
            assert!(std::env::var_os(DEMANDED).is_none(), "{DEMANDED} is set, and there is no redis-server");
            eprintln!(
                "PASSED OVER: there is no redis-server on this machine (Debian: apt install redis-server)"
            );
            return None;
        }
        let mut redis = Self { folder: TempDir::new().unwrap(), child: None, more: Vec::new() };
        redis.revive();
        Some(redis)
    }

    /// The same server, started with more arguments.
    pub(crate) fn with(mut self, more: &[&str]) -> Self {
        self.kill();
        self.more = more.iter().map(|&argument| argument.to_owned()).collect();
        self.revive();
        self
    }

    /// Where one will be, when it is started.
    pub(crate) fn absent() -> Option<Self> {
        let mut redis = Self::start()?;
        redis.kill();
        Some(redis)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// For `LLM_PROXY_API_REDIS_URL`.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Starts it again, with nothing in it.
    pub(crate) fn revive(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let mut command = Command::new("redis-server");
        command
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
                "--daemonize",
                "no",
                "--enable-debug-command",
                "local",
            ])
            .args(["--unixsocket", self.socket().to_str().unwrap()])
            .args(["--dir", self.folder.path().to_str().unwrap()])
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let until = std::time::Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(std::time::Instant::now() < until, "redis-server does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as a power cut does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `STOP`: it takes connections and answers nobody. `CONT`: it goes on.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Asks it, as `redis-cli` does: the lines of the answer.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-s", self.socket().to_str().unwrap()])
            .args(words)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
