//! A Redis of one's own: a real server in a folder of its own, reached by a unix socket.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::PATIENCE;

/// A server, running. Killed when dropped.
pub(crate) struct Redis {
    pub(crate) folder: TempDir,
    child: Option<Child>,
    more: Vec<String>,
}

/// Redis' server: where `REDIS_SERVER` says, or where the `PATH` leads to.
fn program() -> OsString {
    std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

impl Redis {
    /// A new, empty one, if there is Redis on this machine. A machine that has to have it says so by
    /// `LLM_PROXY_API_TESTS_NEED_SERVERS`.
    pub(crate) fn start() -> Option<Self> {
        let version = Command::new(program()).arg("--version").stdout(Stdio::null()).status();
        if version.is_err() {
            assert!(
                std::env::var_os("LLM_PROXY_API_TESTS_NEED_SERVERS").is_none(),
                "Redis is not installed, and LLM_PROXY_API_TESTS_NEED_SERVERS is set"
            );
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: Redis is not installed (Debian: apt install redis-server)"
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
        let mut command = Command::new(program());
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
