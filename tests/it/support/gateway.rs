//! The built program, running on a free port in a folder of its own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{PATIENCE, json_of};

/// How the program is to be started.
pub(crate) struct Setup {
    folder: TempDir,
    variables: Vec<(String, String)>,
}

/// The program, running. Killed when dropped.
pub(crate) struct Gateway {
    pub(crate) folder: TempDir,
    variables: Vec<(String, String)>,
    child: Child,
    output: Arc<Output>,
    base: String,
    http: reqwest::Client,
}

/// What the program has written to standard error.
#[derive(Default)]
struct Output {
    text: Mutex<String>,
    grown: Condvar,
}

/// How a run of the program ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Setup {
    /// Echo, and nothing else.
    pub(crate) fn new() -> Self {
        let setup = Self { folder: TempDir::new().unwrap(), variables: Vec::new() };
        setup
            .env("LISTEN", "127.0.0.1:0")
            .env("LOG_FILENAME", "")
            .models(&json!({"providers": {"echo": {"type": "echo", "models": {"echo": {}}}}}))
    }

    /// Models served by one upstream, under their own names.
    pub(crate) fn upstream(kind: &str, base_url: &str, models: &[&str]) -> Self {
        let models: Value = models.iter().map(|model| ((*model).to_owned(), json!({}))).collect();
        let provider =
            json!({"type": kind, "base_url": base_url, "api_key": "provider-key-1", "models": models});
        Self::new().models(&json!({"providers": {"up": provider}}))
    }

    /// A setting, by its name without the prefix.
    pub(crate) fn env(self, name: &str, value: &str) -> Self {
        self.variable(&format!("LLM_PROXY_API_{name}"), value)
    }

    /// Without a setting.
    pub(crate) fn without(mut self, name: &str) -> Self {
        let name = format!("LLM_PROXY_API_{name}");
        self.variables.retain(|(known, _)| *known != name);
        self
    }

    /// An environment variable.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The models file.
    pub(crate) fn models(self, models: &Value) -> Self {
        self.file("models.json", &models.to_string()).env("MODELS_CONFIG", "models.json")
    }

    /// Without a models file.
    pub(crate) fn without_models(mut self) -> Self {
        self.variables.retain(|(name, _)| name != "LLM_PROXY_API_MODELS_CONFIG");
        self
    }

    /// A file in the folder in which the program is started.
    pub(crate) fn file(self, path: &str, text: &str) -> Self {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        command(&self.folder, &self.variables, arguments)
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.command(arguments))
    }

    /// Starts the service and waits for its address.
    pub(crate) fn start(self) -> Gateway {
        let mut child = self.command(&[]).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        self.started(child, stderr)
    }

    /// The same as a person does: with a terminal as standard error.
    pub(crate) fn start_on_terminal(self) -> Gateway {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let watched = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&watched).unwrap();
        unlockpt(&watched).unwrap();
        let name = ptsname(&watched, Vec::new()).unwrap().into_string().unwrap();
        let terminal = File::options().read(true).write(true).open(name).unwrap();
        let mut command = self.command(&[]);
        let child = command.env("NO_COLOR", "1").stderr(terminal).spawn().unwrap();
        // This process has it no more, so that the end of the other one is seen.
        drop(command);
        let gateway = self.started(child, File::from(watched));
        // The last line of it.
        gateway.logged("Serving");
        gateway
    }

    fn started(self, child: Child, stderr: impl std::io::Read + Send + 'static) -> Gateway {
        let output = Arc::new(Output::default());
        let reading = output.clone();
        std::thread::spawn(move || reading.read(BufReader::new(stderr)));
        let level = self.variables.iter().find(|(name, _)| name == "LLM_PROXY_API_LOG_LEVEL");
        let is_silent = level.is_some_and(|(_, level)| !is_told_at(level));
        let base = if is_silent { listening_port(child.id()) } else { None };
        let base = base.unwrap_or_else(|| {
            let log = output.wait_for("Serving").unwrap_or_else(|text| panic!("it does not start:\n{text}"));
            first_address(&log)
        });
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Gateway { folder: self.folder, variables: self.variables, child, output, base, http }
    }
}

/// Whether a log of this level tells where the service listens.
fn is_told_at(level: &str) -> bool {
    let level = level.to_lowercase();
    ["info", "debug", "trace", "notice", "verbose"].iter().any(|known| level.contains(known))
        || level.is_empty()
}

/// The first address of the line that tells where the service listens.
fn first_address(log: &str) -> String {
    let line = log.lines().rfind(|line| line.contains("Serving")).unwrap();
    let (_, addresses) = line.split_once("addresses").unwrap();
    let address = addresses.trim_start_matches(['"', '=', ':']);
    address.split(['"', ',']).next().unwrap().to_owned()
}

/// Where a process listens whose log does not tell, as soon as it answers there.
fn listening_port(pid: u32) -> Option<String> {
    let until = std::time::Instant::now() + PATIENCE;
    while std::time::Instant::now() < until {
        let answers = |base: &String| {
            let socket = std::net::TcpStream::connect(base.trim_start_matches("http://"));
            socket.is_ok_and(|mut socket| {
                use std::io::{Read as _, Write as _};
                let asked = socket.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n");
                asked.is_ok() && socket.read(&mut [0]).is_ok_and(|read| read > 0)
            })
        };
        if let Some(base) = listener_of(pid).filter(answers) {
            return Some(base);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    None
}

fn listener_of(pid: u32) -> Option<String> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    let sockets: Vec<String> =
        targets.filter_map(|target| target.into_os_string().into_string().ok()).collect();
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (address, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let is_its = *state == "0A" && sockets.contains(&format!("socket:[{inode}]"));
        let port = u16::from_str_radix(address.split_once(':')?.1, 16).ok()?;
        is_its.then(|| format!("http://127.0.0.1:{port}"))
    })
}

fn command(folder: &TempDir, variables: &[(String, String)], arguments: &[&str]) -> Command {
    let program = env!("CARGO_BIN_EXE_llm-proxy-api");
    // A file of this name starts the program in its own way.
    let script = folder.path().join("start.sh");
    let mut command = if script.exists() {
        let mut shell = Command::new("/bin/sh");
        shell.arg(script).arg(program);
        shell
    } else {
        Command::new(program)
    };
    command
        .args(arguments)
        .current_dir(folder.path())
        .env_clear()
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Ended {
    fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Output {
    fn read(&self, mut lines: impl BufRead) {
        let mut line = String::new();
        while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
            self.text.lock().unwrap().push_str(&line);
            self.grown.notify_all();
            line.clear();
        }
        self.grown.notify_all();
    }

    fn wait_for(&self, words: &str) -> Result<String, String> {
        let text = self.text.lock().unwrap();
        let missing = |text: &mut String| !text.contains(words);
        let (text, outcome) = self.grown.wait_timeout_while(text, PATIENCE, missing).unwrap();
        if outcome.timed_out() { Err(text.clone()) } else { Ok(text.clone()) }
    }
}

impl Gateway {
    /// Runs a command to its end, in the folder and with the settings of this service.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(command(&self.folder, &self.variables, arguments))
    }

    /// Starts the program again in the same folder, after it has ended or is killed here.
    pub(crate) fn again(mut self) -> Self {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let folder = std::mem::replace(&mut self.folder, TempDir::new().unwrap());
        Setup { folder, variables: self.variables.clone() }.start()
    }

    /// `http://host:port`.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        self.base.split_once("://").unwrap().1
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that was written to standard error.
    pub(crate) fn log(&self) -> String {
        self.output.text.lock().unwrap().clone()
    }

    /// Waits for a line with these words.
    pub(crate) fn logged(&self, words: &str) -> String {
        let text = self.output.wait_for(words).unwrap_or_else(|text| panic!("no `{words}` in\n{text}"));
        text.lines().rfind(|line| line.contains(words)).unwrap_or_default().to_owned()
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    pub(crate) fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.base))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        let request = self.http.post(format!("{}{path}", self.base));
        request.header("content-type", "application/json").body(body.to_string())
    }

    /// Posts, and expects a JSON answer.
    pub(crate) async fn ask(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.post(path, body)).await
    }

    /// A figure, added up over all labels that hold `label`.
    pub(crate) async fn figure(&self, name: &str, label: &str) -> f64 {
        let text = self.get("/metrics").send().await.unwrap().text().await.unwrap();
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(tokio::time::Instant::now() < until, "it does not end:\n{}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and JSON body.
pub(crate) async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    (response.status().as_u16(), json_of(response).await)
}
