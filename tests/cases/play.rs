//! Plays a case.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

use crate::case::{Case, Send, Start, Step};
use crate::http::{Response, exchange};
use crate::upstream::Upstream;

const PROGRAM: &str = env!("CARGO_BIN_EXE_llm-proxy-api");
const ADMIN_KEY: &str = "admin-key-of-the-cases-0123456789";
/// Stands for the upstream's address in the files of a case.
const NAMED: &[u8] = b"127.0.0.1:9100";
/// Until a start has succeeded or failed, and until a process has ended.
const PATIENCE: Duration = Duration::from_secs(20);

/// Plays the case in this folder.
pub(crate) fn play(folder: &Path) -> Result<(), String> {
    let case = fs::read_to_string(folder.join("case.json")).map_err(|error| error.to_string())?;
    let case: Case = serde_json::from_str(&case).map_err(|error| format!("case.json: {error}"))?;
    let mut player = Player::new(folder, &case);
    player.play(&case)
}

struct Player<'a> {
    source: &'a Path,
    work: TempDir,
    upstream: Upstream,
    port: u16,
    env: BTreeMap<String, String>,
    gateway: Option<Child>,
}

impl Drop for Player<'_> {
    fn drop(&mut self) {
        if let Some(gateway) = &mut self.gateway {
            signal(gateway, "TERM");
            if !eventually(|| gateway.try_wait().unwrap().is_some()) {
                let _ = gateway.kill();
                let _ = gateway.wait();
            }
        }
    }
}

/// A port that is given to no program that asks for any.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(7) + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(20_000 + number % 12_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl<'a> Player<'a> {
    fn new(source: &'a Path, case: &Case) -> Self {
        let work = TempDir::new().unwrap();
        let upstream = Upstream::start(source, &case.answers);
        let port = free_port();
        let mut player = Self { source, work, upstream, port, env: BTreeMap::new(), gateway: None };
        if source.join("files").is_dir() {
            player.lay_out(&source.join("files"), player.work.path(), case.mtime);
        }
        player.env = player.environment(case);
        player
    }

    fn environment(&self, case: &Case) -> BTreeMap<String, String> {
        let listen = format!("127.0.0.1:{}", self.port);
        let mut env: BTreeMap<String, String> = [
            ("HOME", self.work.path().to_str().unwrap()),
            ("LLM_PROXY_API_LISTEN", &listen),
            ("LLM_PROXY_API_LOG_FILENAME", ""),
            ("LLM_PROXY_API_ADMIN_KEY", ADMIN_KEY),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        if self.path("models.json").exists() {
            env.insert("LLM_PROXY_API_MODELS_CONFIG".to_owned(), "models.json".to_owned());
        }
        env.extend(
            case.env.iter().map(|(name, value)| {
                (name.clone(), String::from_utf8(self.placed(value.as_bytes())).unwrap())
            }),
        );
        env
    }

    /// Copies files into the folder in which the gateway runs.
    fn lay_out(&self, from: &Path, to: &Path, mtime: Option<u64>) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let name = if name == "dot-env" { ".env" } else { name };
            let name =
                name.strip_suffix(".log_").map_or_else(|| name.to_owned(), |name| format!("{name}.log"));
            let target = to.join(name);
            if path.is_symlink() {
                std::os::unix::fs::symlink(fs::read_link(&path).unwrap(), target).unwrap();
            } else if path.is_dir() {
                self.lay_out(&path, &target, mtime);
            } else {
                fs::write(&target, self.placed(&fs::read(&path).unwrap())).unwrap();
                if let Some(seconds) = mtime {
                    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
                    File::options().write(true).open(&target).unwrap().set_modified(time).unwrap();
                }
            }
        }
    }

    /// The bytes with the upstream's real address.
    fn placed(&self, bytes: &[u8]) -> Vec<u8> {
        let address = self.upstream.address.to_string();
        let mut placed = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some(at) = rest.windows(NAMED.len()).position(|window| window == NAMED) {
            placed.extend_from_slice(&rest[..at]);
            placed.extend_from_slice(address.as_bytes());
            rest = &rest[at + NAMED.len()..];
        }
        placed.extend_from_slice(rest);
        placed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn play(&mut self, case: &Case) -> Result<(), String> {
        case.before.iter().try_for_each(|step| self.step(step))?;
        if case.start != Start::None {
            let has_started = self.start(case);
            let said = fs::read_to_string(self.path("stderr.txt")).unwrap_or_default();
            match (has_started, case.start) {
                (true, Start::No) => return Err(format!("the gateway starts: {said}")),
                (false, Start::Yes) => return Err(format!("the gateway does not start: {said}")),
                _ => case.said.judge("start", None, &said)?,
            }
        }
        case.steps.iter().try_for_each(|step| self.step(step))
    }

    /// Whether it comes to listen.
    fn start(&mut self, case: &Case) -> bool {
        let stderr = case.stderr.as_ref().map_or_else(|| self.path("stderr.txt"), PathBuf::from);
        let stderr = File::options().append(true).create(true).open(stderr).unwrap();
        let mut command = self.command(&[], &BTreeMap::new());
        let mut gateway = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let port = self.port;
        let mut has_ended = false;
        let is_up = eventually(|| {
            has_ended = gateway.try_wait().unwrap().is_some();
            has_ended || case.start == Start::Yes && TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        self.gateway = (!has_ended).then_some(gateway);
        is_up && !has_ended
    }

    fn command(&self, arguments: &[String], more: &BTreeMap<String, String>) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).current_dir(self.work.path()).stdin(Stdio::null());
        // What a build with coverage or a sanitizer needs is not passed on: the environment is the case's.
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").envs(&self.env).envs(more);
        command
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Sleep { sleep } => std::thread::sleep(Duration::from_secs_f64(*sleep)),
            Step::Signal { signal: name } => signal(self.gateway.as_ref().expect("it is running"), name),
            Step::Run { run, env, expected } => {
                let output = self.command(run, env).output().unwrap();
                let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                let code = output.status.code().and_then(|code| u16::try_from(code).ok());
                return expected.judge(&run.join(" "), code, &text);
            }
            Step::Link { link, to } => {
                let made = self.path(&format!("{link}.new"));
                std::os::unix::fs::symlink(to, &made).unwrap();
                fs::rename(made, self.path(link)).unwrap();
            }
            Step::Move { r#move: name, to } => {
                let found = self.found(name).ok_or_else(|| format!("there is no {name}"))?;
                fs::rename(found, self.path(to)).unwrap();
            }
            Step::Copy { copy, to } => {
                // As `cat a > b` does: the file stays the same, with other bytes.
                let bytes = fs::read(self.path(copy)).unwrap();
                fs::write(self.path(to), bytes).unwrap();
            }
            Step::There { there, is } => {
                if self.found(there).is_some_and(|path| path.exists()) != *is {
                    return Err(format!("{there}: is there: {}", !is));
                }
            }
            Step::Asked { asked, expected } => {
                let last = self.upstream.last();
                for (name, value) in asked {
                    if last.header(name) != Some(value) {
                        return Err(format!(
                            "the upstream got {name}: {:?}, not {value:?}",
                            last.header(name)
                        ));
                    }
                }
                let text = format!("{} {}", last.path, String::from_utf8_lossy(&last.body));
                return expected.judge("what the upstream got", None, &text);
            }
            Step::Usage { usage, is } => return self.usage(usage, is),
            Step::Send(send) => return self.send(send).map(|_| ()),
        }
        Ok(())
    }

    /// The file that a pattern with one `*` at the most names.
    fn found(&self, pattern: &str) -> Option<PathBuf> {
        let Some((before, behind)) = pattern.split_once('*') else {
            let path = self.path(pattern);
            return path.symlink_metadata().is_ok().then_some(path);
        };
        let entries = fs::read_dir(self.work.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let fitting = |name: &String| name.starts_with(before) && name.ends_with(behind);
        names.filter(fitting).min().map(|name| self.path(&name))
    }

    /// Usage is written about a second after a request has ended.
    fn usage(&self, model: &str, is: &BTreeMap<String, crate::case::Bounds>) -> Result<(), String> {
        let path = Some("/admin/usage?group_by=model".to_owned());
        let asked = Send { method: Some("GET".to_owned()), path, admin: true, ..Send::default() };
        let mut row = Value::Null;
        let mut fault = None;
        let is_right = eventually(|| {
            let answer = self.send(&asked).map(|answer| serde_json::from_str::<Value>(&answer.body).unwrap());
            let rows = answer.map(|answer| answer["rows"].as_array().cloned().unwrap_or_default());
            let rows = rows.unwrap_or_default();
            row = rows.into_iter().find(|row| row["model"] == model).unwrap_or_default();
            let value = |name: &str| row[name].as_f64().unwrap_or(0.0);
            let wrong = is.iter().find(|(name, bounds)| !bounds.hold(value(name)));
            fault = wrong.map(|(name, _)| name.clone());
            row.is_object() && fault.is_none()
        });
        if is_right { Ok(()) } else { Err(format!("usage of {model}: {fault:?} of {row}")) }
    }

    fn send(&self, send: &Send) -> Result<Response, String> {
        let file = |name: &String| self.placed(&fs::read(self.source.join(name)).unwrap());
        let bytes = send
            .raw
            .as_ref()
            .map_or_else(|| request(send, &send.body.as_ref().map(file).unwrap_or_default()), file);
        let what = send.path.as_ref().or(send.raw.as_ref()).cloned().unwrap_or_default();
        let answer = exchange(self.port, &bytes).map_err(|fault| format!("{what}: {fault}"))?;
        let text = if send.heads { format!("{}\n{}", answer.head, answer.body) } else { answer.body.clone() };
        send.expected.judge(&what, Some(answer.status), &text)?;
        match send.done {
            Some(done) if answer.body.contains("data: [DONE]") != done => {
                Err(format!("{what}: [DONE] is there: {}: {}", !done, answer.body))
            }
            _ => Ok(answer),
        }
    }
}

/// The bytes of a request.
fn request(send: &Send, body: &[u8]) -> Vec<u8> {
    let mut headers = BTreeMap::from([
        ("host".to_owned(), "127.0.0.1".to_owned()),
        ("connection".to_owned(), "close".to_owned()),
        ("content-length".to_owned(), body.len().to_string()),
    ]);
    if !body.is_empty() {
        headers.insert("content-type".to_owned(), "application/json".to_owned());
    }
    headers.extend(send.headers.clone());
    if send.admin {
        headers.insert("x-admin-key".to_owned(), ADMIN_KEY.to_owned());
    }
    let method = send.method.as_deref().unwrap_or("POST");
    let path = send.path.as_deref().expect("a request has a path");
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    [format!("{method} {path} HTTP/1.1\r\n{headers}\r\n").as_bytes(), body].concat()
}

fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).output();
    if let Err(error) = sent {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

/// Whether something comes to hold in time.
fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}
