//! `check`: looks at everything that the service needs, changes nothing, and says of each part how it is.

use std::io::{stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::output::{Colour, Paint, print, print_json, tell_aside};
use super::{CommandError, leaderboard, line};
use crate::api;
use crate::app::{Faults, Loaded, Sources};
use crate::callers::{moment_as_text, now_ms};
use crate::config::{Environment, ListenAddress, ModelSource, Settings};
use crate::providers::{ErrorKind, Provider};
use crate::router::Served;
use crate::shared;
use crate::store::{self, Standing};
use crate::telemetry::{self, Health, Metrics, Progress, Replication};

/// How the report is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes {
    /// Providers are asked whether they take their keys.
    pub(super) live: bool,
    /// What is doubtful counts, too.
    pub(super) strict: bool,
    pub(super) json: bool,
}

/// A certificate that ends to be valid before this time is over draws a warning.
const SOON_MS: i64 = 14 * 86_400_000;
/// How long a provider may take.
const LAST_ANSWER: Duration = Duration::from_secs(15);
/// What there is doubt about, and what is not in order.
const DOUBTFUL: u8 = 2;
const FAULTY: u8 = 1;

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    Doubtful,
    Faulty,
}

#[derive(Debug)]
struct Finding {
    state: State,
    part: &'static str,
    text: String,
}

/// What was found, in the order in which it was looked at.
#[derive(Debug, Default)]
struct Report(Vec<Finding>);

/// Looks at everything, so that all faults are reported at once.
pub(super) async fn run(wishes: Wishes, folder: PathBuf) -> Result<ExitCode, CommandError> {
    let (environment, faults) = Environment::judge(&folder);
    let mut report = Report::default();
    report.faults("environment", faults.into_iter().map(Faults::from));
    let (settings, more) = Settings::judge(&environment);
    report.faults("settings", more.into_iter().map(Faults::from));
    if let Some(settings) = settings {
        of_settings(&mut report, &settings);
        of_configuration(&mut report, wishes, (&settings, folder), &environment).await;
        of_database(&mut report, &settings).await;
        of_redis(&mut report, &settings).await;
    }
    report.end(wishes, &environment)
}

fn of_settings(report: &mut Report, settings: &Settings) {
    report.doubts("settings", settings.warnings.iter().cloned());
    match telemetry::check(&settings.log) {
        Ok(warnings) => report.doubts("log", warnings),
        Err(fault) => report.faults("log", [Faults::from(fault)]),
    }
    let Some(tls) = &settings.serving.tls else { return };
    match api::check_serving(&settings.serving) {
        Err(fault) => report.faults("tls", [Faults::from(fault)]),
        Ok(ends_ms) => report.certificate(&tls.certificates, ends_ms),
    }
}

async fn of_configuration(
    report: &mut Report,
    wishes: Wishes,
    (settings, folder): (&Settings, PathBuf),
    environment: &Environment,
) {
    let sources = Sources::new(settings.clone(), folder, Metrics::default());
    let progress = (!wishes.json).then(Progress::on_stderr);
    let loaded = sources.load(environment, progress.as_ref()).await;
    drop(progress);
    report.faults("listen", sources.check_listeners(environment).err());
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(faults) => return report.faults("configuration", [faults]),
    };
    if let Ok(listen) = loaded.listeners(settings) {
        let listen: Vec<String> = listen.iter().map(listener).collect();
        report.good("listen", format!("would listen on {}", listen.join(", ")));
    }
    for served in loaded.served() {
        report.engines(served);
    }
    of_providers(report, wishes, &loaded).await;
    for route in loaded.routes().routes() {
        report.good("model", format!("model {}", line(route)));
    }
    for prompt in loaded.prompts().list() {
        let languages: Vec<&str> = prompt.translations.iter().map(|t| t.language.as_str()).collect();
        report.good("prompt", format!("prompt {}: {}", prompt.name, languages.join(", ")));
    }
    report.good("leaderboard", leaderboard::line(loaded.leaderboard()));
    loaded.prices().into_iter().for_each(|prices| report.good("prices", prices));
    report.doubts("configuration", loaded.warnings());
}

/// An address, and whether a program listens there: perhaps the service itself.
fn listener(address: &ListenAddress) -> String {
    let is_taken = match address {
        ListenAddress::Tcp(tcp) => {
            std::net::TcpListener::bind(tcp).is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
        }
        ListenAddress::Unix(_) => false,
    };
    let now = if is_taken { " (taken now: by the running service, or by another program)" } else { "" };
    format!("{address}{now}")
}

/// What providers say to their keys, where they are to be asked; else what they have.
async fn of_providers(report: &mut Report, wishes: Wishes, loaded: &Loaded) {
    for Served { config, provider, by_key, discovered } in loaded.served() {
        let name = &config.name;
        let count = match &config.models {
            ModelSource::Listed(models) => models.len(),
            ModelSource::Discovered => discovered.len(),
        };
        let plural = if count == 1 { "" } else { "s" };
        let told = format!("provider {name} ({}): {count} model{plural}", config.kind);
        if !wishes.live || config.base_url.is_none() && config.kind != "openai" {
            report.good("provider", told);
            continue;
        }
        let one = [provider.clone()];
        let keys = if by_key.is_empty() { &one[..] } else { &by_key[..] };
        for (index, provider) in keys.iter().enumerate() {
            let key = if keys.len() > 1 { format!(", key {}", index + 1) } else { String::new() };
            match answers(provider).await {
                Ok(()) => report.good("provider", format!("{told}{key}; answers")),
                Err(why) => report.add(State::Faulty, "provider", format!("provider {name}{key}: {why}")),
            }
        }
    }
}

/// Asks a provider for its models, which costs nothing.
async fn answers(provider: &Arc<dyn Provider>) -> Result<(), String> {
    match timeout(LAST_ANSWER, provider.models()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => match error.kind {
            // There is no such list; the key was not what it minded.
            ErrorKind::Rejected(rejection) if matches!(rejection.status, 404 | 405) => Ok(()),
            ErrorKind::Unsupported(_) => Ok(()),
            kind => Err(kind.to_string()),
        },
        Err(_) => Err(format!("has not answered within {} s", LAST_ANSWER.as_secs())),
    }
}

async fn of_database(report: &mut Report, settings: &Settings) {
    let url = settings.storage.database_url.expose_secret();
    let place = store::file_in_words(url);
    match store::look(url).await {
        Ok(Standing::Current) => report.good("database", format!("database is there{place}")),
        Ok(Standing::Older) => report.good(
            "database",
            format!("database is there{place}; its tables are brought up to date at the start"),
        ),
        Ok(Standing::NotMade) => {
            report.good("database", format!("database is made at the start{place}"));
        }
        Err(error) => {
            let text =
                format!("LLM_PROXY_API_DATABASE_URL: {error}{place}; make it usable, or name another one");
            report.add(State::Faulty, "database", text);
        }
    }
}

async fn of_redis(report: &mut Report, settings: &Settings) {
    let Some(redis) = &settings.redis else { return };
    let replication = Replication::new(Arc::new(Health::default()), Metrics::default());
    match Box::pin(shared::look(&redis.url, redis.away, replication)).await {
        Ok(()) => report.good("redis", "redis answers".to_owned()),
        Err(why) => {
            let text = format!("LLM_PROXY_API_REDIS_URL: Redis {why}; make it usable, or unset it");
            report.add(State::Faulty, "redis", text);
        }
    }
}

impl Report {
    fn add(&mut self, state: State, part: &'static str, text: String) {
        self.0.push(Finding { state, part, text });
    }

    fn good(&mut self, part: &'static str, text: String) {
        self.add(State::Good, part, text);
    }

    fn doubts(&mut self, part: &'static str, warnings: impl IntoIterator<Item = String>) {
        warnings.into_iter().for_each(|warning| self.add(State::Doubtful, part, warning));
    }

    fn faults(&mut self, part: &'static str, faults: impl IntoIterator<Item = Faults>) {
        for faults in faults {
            faults.lines().iter().for_each(|fault| self.add(State::Faulty, part, fault.clone()));
        }
    }

    fn certificate(&mut self, file: &Path, ends_ms: Option<i64>) {
        let file = file.display();
        let Some(ends_ms) = ends_ms else {
            return self.good("tls", format!("certificate {file}"));
        };
        let (ends, left_ms) = (moment_as_text(ends_ms), ends_ms - now_ms());
        let (state, text) = match left_ms {
            ..0 => {
                (State::Faulty, format!("LLM_PROXY_API_TLS_CERT: `{file}` was valid until {ends}; renew it"))
            }
            0..SOON_MS => {
                (State::Doubtful, format!("certificate {file} is valid until {ends} only; renew it"))
            }
            _ => (State::Good, format!("certificate {file} is valid until {ends}")),
        };
        self.add(state, "tls", text);
    }

    /// Programs and files of engines: those that are not there were faults before this.
    fn engines(&mut self, served: &Served) {
        let ModelSource::Listed(models) = &served.config.models else { return };
        for (model, engine) in models.iter().filter_map(|model| Some((model, model.engine.as_ref()?))) {
            for variant in &engine.variants {
                let name = format!("{}/{}@{}", served.config.name, model.upstream, variant.context_tokens);
                let file = variant.model_file();
                let of_file =
                    file.as_ref().map_or_else(String::new, |file| format!(" with {}", file.display()));
                if file.as_deref().is_some_and(|file| !is_gguf(file)) {
                    let text = format!("engine {name}:{of_file}: this is no GGUF file, by its first bytes");
                    self.add(State::Doubtful, "engine", text);
                } else {
                    self.good("engine", format!("engine {name}: {}{of_file}", variant.binary.display()));
                }
            }
        }
    }

    fn count(&self, state: State) -> usize {
        self.0.iter().filter(|finding| finding.state == state).count()
    }

    fn exit_code(&self, wishes: Wishes) -> u8 {
        match (self.count(State::Faulty), self.count(State::Doubtful)) {
            (0, 0) => 0,
            (0, _) if wishes.strict => DOUBTFUL,
            (0, _) => 0,
            _ => FAULTY,
        }
    }

    /// Prints it. What is not in order goes to standard error.
    fn end(&self, wishes: Wishes, environment: &Environment) -> Result<ExitCode, CommandError> {
        let code = self.exit_code(wishes);
        if wishes.json {
            print_json(&self.to_json(code))?;
            return Ok(ExitCode::from(code));
        }
        let paint = Paint::of(&stdout(), environment);
        let of_stdout = self.0.iter().filter(|finding| finding.state != State::Faulty);
        let mut lines: Vec<String> = of_stdout.map(|finding| finding.line(paint)).collect();
        match (self.count(State::Faulty), self.count(State::Doubtful)) {
            (0, 0) => lines.push(paint.paint(Colour::Green, "everything is in order")),
            (0, 1) => lines.push(paint.paint(Colour::Yellow, "nothing is wrong; there is 1 warning")),
            (0, doubts) => {
                lines.push(
                    paint.paint(Colour::Yellow, &format!("nothing is wrong; there are {doubts} warnings")),
                );
            }
            _ => {}
        }
        if !lines.is_empty() {
            print(&lines.join("\n"))?;
        }
        let paint = Paint::of(&stderr(), environment);
        for fault in self.0.iter().filter(|finding| finding.state == State::Faulty) {
            tell_aside(&format!("{}\n", fault.line(paint)));
        }
        Ok(ExitCode::from(code))
    }

    fn to_json(&self, code: u8) -> Value {
        let findings: Vec<Value> = self.0.iter().map(Finding::to_json).collect();
        json!({
            "ok": code == 0,
            "faults": self.count(State::Faulty),
            "warnings": self.count(State::Doubtful),
            "findings": findings,
        })
    }
}

impl Finding {
    fn line(&self, paint: Paint) -> String {
        let text = &self.text;
        match self.state {
            State::Good => format!("{} {text}", paint.paint(Colour::Green, "✓")),
            State::Doubtful => format!("{} warning: {text}", paint.paint(Colour::Yellow, "!")),
            State::Faulty => format!("{} {text}", paint.paint(Colour::Red, "✗")),
        }
    }

    fn to_json(&self) -> Value {
        let state = match self.state {
            State::Good => "ok",
            State::Doubtful => "warning",
            State::Faulty => "fault",
        };
        json!({"state": state, "part": self.part, "message": self.text})
    }
}

/// Whether a file begins as those of models do. One that cannot be read is the engine's own affair.
fn is_gguf(file: &Path) -> bool {
    use std::io::Read as _;
    let mut magic = [0; 4];
    let read = std::fs::File::open(file).and_then(|mut file| file.read_exact(&mut magic));
    read.map_or_else(|error| error.kind() != std::io::ErrorKind::UnexpectedEof, |()| &magic == b"GGUF")
}
