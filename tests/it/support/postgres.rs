//! A PostgreSQL server of a test's own, in a temporary folder. Never one that runs already.

use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::PATIENCE;

/// The server. It ends when this is dropped.
pub(crate) struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    child: Option<Child>,
}

/// The user of the server, where tests run as root: it refuses to run as that.
const USER: &str = "postgres";

/// Where PostgreSQL's programs are: those of Debian, the newest ones, or where the `PATH` leads to.
fn programs() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("POSTGRES_BIN") {
        return Some(folder.into());
    }
    let of_debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut of_debian: Vec<PathBuf> = of_debian.map(|version| version.path().join("bin/initdb")).collect();
    of_debian.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("initdb"));
    // A link on the path leads to a folder that has all of them.
    let mut found =
        of_debian.into_iter().rev().chain(on_path).filter_map(|program| program.canonicalize().ok());
    found.next()?.parent().map(Path::to_path_buf)
}

fn number(option: &str, user: &str) -> u32 {
    let output = Command::new("id").args([option, user]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap_or_else(|_| panic!("no user {user}"))
}

impl Postgres {
    /// Starts one, if there is PostgreSQL on this machine. A machine that has to have it says so by
    /// `LLM_PROXY_API_TESTS_NEED_SERVERS`.
    pub(crate) fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(
                std::env::var_os("LLM_PROXY_API_TESTS_NEED_SERVERS").is_none(),
                "PostgreSQL is not installed, and LLM_PROXY_API_TESTS_NEED_SERVERS is set"
            );
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: PostgreSQL is not installed (Debian: apt install postgresql)"
            );
            return None;
        };
        let folder = TempDir::new().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { folder, programs, port, child: None };
        if is_root() {
            chown(server.folder.path(), Some(number("-u", USER)), Some(number("-g", USER))).unwrap();
        }
        let made = server
            .command("initdb")
            .args(["--username", "gateway", "--auth", "trust", "--no-sync", "--encoding", "UTF8"])
            .args(["--locale", "C", "--pgdata"])
            .arg(server.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.run();
        Some(server)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.folder.path()).stdin(Stdio::null()).env_clear();
        if is_root() {
            command.gid(number("-g", USER)).uid(number("-u", USER));
        }
        command
    }

    /// Starts it again, and waits until it answers.
    pub(crate) fn run(&mut self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut command = self.command("postgres");
            command.arg("-D").arg(self.data()).args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-k"]);
            command.arg(self.folder.path()).args(["-c", "fsync=off", "-c", "shared_buffers=16MB"]);
            let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
            self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
            if self.answers_before(until) {
                return;
            }
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "PostgreSQL does not start:\n{log}");
        }
    }

    /// `false` if it ends instead: one that was killed may have left something that another still holds.
    fn answers_before(&mut self, until: Instant) -> bool {
        while Instant::now() < until {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            let port = self.port.to_string();
            let asked = self.command("pg_isready").args(["-q", "-h", "127.0.0.1", "-p", &port]).status();
            if asked.is_ok_and(|status| status.success()) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://gateway:a-secret@127.0.0.1:{}/postgres", self.port)
    }

    /// From now on it speaks to nobody but through TLS, with this certificate and key. The file of the certificate.
    pub(crate) fn encrypt(&mut self, certificate: &str, key: &str) -> PathBuf {
        self.kill();
        let data = self.data();
        let write = |name: &str, text: &str| {
            let path = data.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            if is_root() {
                chown(&path, Some(number("-u", USER)), Some(number("-g", USER))).unwrap();
            }
        };
        write("server.crt", certificate);
        write("server.key", key);
        write("pg_hba.conf", "hostssl all all 127.0.0.1/32 trust\n");
        let settings = std::fs::read_to_string(data.join("postgresql.conf")).unwrap();
        write("postgresql.conf", &format!("{settings}\nssl = on\n"));
        self.run();
        let shown = self.folder.path().join("shown.crt");
        std::fs::write(&shown, certificate).unwrap();
        shown
    }

    /// Sends a signal to the server and all its processes.
    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id();
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        // The parent first: stopped, it starts no more children.
        let pids = std::iter::once(pid.to_string()).chain(children.split_whitespace().map(str::to_owned));
        let _ = Command::new("kill").arg(format!("-{name}")).args(pids).stderr(Stdio::null()).status();
    }

    /// From now on it hangs.
    pub(crate) fn stop(&self) {
        self.signal("STOP");
    }

    /// It hangs no longer.
    pub(crate) fn go_on(&self) {
        self.signal("CONT");
    }

    /// Ends it at once, as a machine that fails would.
    pub(crate) fn kill(&mut self) {
        if self.child.is_some() {
            self.signal("KILL");
            let _ = self.child.take().unwrap().wait();
        }
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(Path::new("/proc/self")).unwrap().uid() == 0
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}
