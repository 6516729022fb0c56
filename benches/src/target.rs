//! What is measured: starts the mock, the bare proxy and the gateway, each on its core, and ends them.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde_json::{Map, Value, json};
use tokio::process::{Child, Command};

use crate::answer::check_whole;
use crate::client::{check_status, request};
use crate::held;
use crate::http1::Head;
use crate::machine::{Cores, Scratch, Side, free_port};
use crate::scenario::Scenario;
use crate::table::{DIRECT, YARDSTICK};

/// The gateway under test.
pub const OURS: &str = "ours";

/// How long a start may take.
const START_LIMIT: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const TRY_EVERY: Duration = Duration::from_micros(100);

/// A process that answers on a port. Dropping it ends it.
pub struct Target {
    name: &'static str,
    pub port: u16,
    pub pid: u32,
    child: Child,
    log: PathBuf,
}

/// Starts targets, all with the same mock as their upstream.
pub struct Targets {
    // First, so that it has ended before its folder goes.
    mock: Target,
    cores: Cores,
    gateway: PathBuf,
    bare: PathBuf,
    first_port: u16,
    scratch: Scratch,
}

impl Targets {
    /// With a gateway's binary, and ports from the given one on.
    pub fn new(gateway: &Path, first_port: u16) -> Result<Targets> {
        let gateway =
            fs::canonicalize(gateway).with_context(|| format!("no gateway {}", gateway.display()))?;
        let scratch = Scratch::new()?;
        // A copy shares no memory with the mock and the load generator, so that it bears its own.
        let bare = scratch.path().join("bare-proxy");
        fs::copy(std::env::current_exe()?, &bare)?;
        let cores = Cores::take()?;
        let port = free_port(first_port)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["mock", "--port", &port.to_string()]);
        let mut mock = Target::start(DIRECT, command, port, &scratch)?;
        mock.first_answer()?;
        Ok(Targets { mock, cores, gateway, bare, first_port: port + 1, scratch })
    }

    pub fn mock(&self) -> &Target {
        &self.mock
    }

    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    pub fn describe(&self) -> String {
        self.cores.describe()
    }

    /// Starts a target on its core and does not wait for it.
    pub fn start(&self, name: &'static str) -> Result<Target> {
        let port = free_port(self.first_port)?;
        let command = if name == YARDSTICK { self.bare_proxy(port) } else { self.our_gateway(port)? };
        self.cores.enter(Side::Target)?;
        let target = Target::start(name, command, port, &self.scratch);
        self.cores.enter(Side::Load)?;
        target
    }

    fn bare_proxy(&self, port: u16) -> Command {
        let mut command = Command::new(&self.bare);
        command.args(["bare", "--port", &port.to_string(), "--upstream", &self.mock.port.to_string()]);
        command
    }

    fn our_gateway(&self, port: u16) -> Result<Command> {
        let loads = Scenario::value_variants().iter().filter_map(|scenario| scenario.load());
        let names = loads.map(|load| load.model).chain([held::MODEL.to_owned()]);
        let models: Map<String, Value> = names.map(|name| (name, json!({}))).collect();
        let base_url = format!("http://127.0.0.1:{}/v1", self.mock.port);
        let provider =
            json!({"type": "openai", "base_url": base_url, "api_key": "${MOCK_KEY}", "models": models});
        let path = self.scratch.path().join("models.json");
        fs::write(&path, json!({"providers": {"mock": provider}}).to_string())?;

        let mut command = Command::new(&self.gateway);
        let settings = std::env::vars_os()
            .filter(|(name, _)| name.to_str().is_some_and(|name| name.starts_with("LLM_PROXY_API_")));
        for (name, _) in settings {
            command.env_remove(name);
        }
        command
            .env("MOCK_KEY", "bench")
            .env("LLM_PROXY_API_LISTEN", format!("127.0.0.1:{port}"))
            .env("LLM_PROXY_API_MODELS_CONFIG", path)
            .env("LLM_PROXY_API_LOG_LEVEL", "ERROR")
            .env("LLM_PROXY_API_LOG_FILENAME", "");
        Ok(command)
    }
}

impl Target {
    fn start(name: &'static str, mut command: Command, port: u16, scratch: &Scratch) -> Result<Target> {
        let log = scratch.path().join(format!("{name}.log"));
        let file = File::create(&log)?;
        // In the folder of the run, where no settings of the user lie about.
        command.current_dir(scratch.path()).kill_on_drop(true).stdin(Stdio::null());
        command.stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let pid = child.id().context("ended at once")?;
        Ok(Target { name, port, pid, child, log })
    }

    /// Asks until the first right answer. It blocks, because the runtime's timers are too coarse for it.
    pub fn first_answer(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let failure = match ask_once(self.port) {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.name, self.log());
            }
            ensure!(start.elapsed() < START_LIMIT, "no right answer of {}: {failure:#}", self.name);
            std::thread::sleep(TRY_EVERY);
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub async fn stop(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended by itself with {status}: {}", self.name, self.log());
        }
        Ok(self.child.kill().await?)
    }
}

/// One whole answer over a connection of its own.
fn ask_once(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(request("whole", false).as_bytes())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        if let Some((mut head, length)) = Head::parse(&answer)? {
            let mut body = Vec::new();
            head.body.decode(answer.get(length..).unwrap_or_default(), &mut body)?;
            if head.body.ended() {
                check_status(&head.start_line, &body)?;
                return check_whole(&body);
            }
        }
        let count = match stream.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            count => count?,
        };
        ensure!(count > 0, "closed before the answer");
        answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
}
