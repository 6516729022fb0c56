//! The commands: serve, and those that look without serving.

mod chat;
mod check;
mod keys;
mod leaderboard;
mod models;
mod output;
mod prompts;
mod usage;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use secrecy::ExposeSecret as _;

use crate::api;
use crate::app::{App, Faults, Sources};
use crate::config::{
    Catalog, CommandLine, Environment, LUA_LIMITS, LogFormat, RUN_LUA, Settings, Strategy, running_lua,
    settings_in_words,
};
use crate::confined::{CONFINED_COMMAND, serve as serve_confined};
use crate::engine::counter::{self, COUNT_TOKENS};
use crate::engine::guard::{GUARD_COMMAND, Guard};
use crate::engine::watch::{WATCH_COMMAND, watch};
use crate::reload::Report;
use crate::router::{Deployment, Route};
use crate::store;
use crate::telemetry::{self, Metrics, size};

use output::{print, tell_aside};

/// One gateway between applications and language models.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Settings are environment variables LLM_PROXY_API_*; `llm-proxy-api serve --help` explains all of them."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: SettingFlags,
}

/// Flags in the place of settings, before or behind a command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
struct SettingFlags {
    /// The models file: `LLM_PROXY_API_MODELS_CONFIG`.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<String>,
    /// Where to listen: `LLM_PROXY_API_LISTEN`.
    #[arg(long, global = true, value_name = "ADDRESSES")]
    listen: Option<String>,
    /// A file of settings, in the place of .env.
    #[arg(long, global = true, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Which lines the log has: `LLM_PROXY_API_LOG_LEVEL`.
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl SettingFlags {
    /// What is given holds before the environment.
    fn hold(self) {
        let Self { config, listen, env_file, log_level } = self;
        let settings = [
            ("LLM_PROXY_API_MODELS_CONFIG", config),
            ("LLM_PROXY_API_LISTEN", listen),
            ("LLM_PROXY_API_LOG_LEVEL", log_level),
        ];
        let settings = settings.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        CommandLine { env_file, settings }.hold();
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (what happens without a command, too).
    #[command(after_help = settings_in_words())]
    Serve,
    /// Read models file, prompts and environment, and say what would be served or what is wrong.
    Check(Check),
    /// List the models with their providers, or switch one off or on.
    Models {
        #[command(subcommand)]
        command: Option<models::Command>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Look at the prompt library.
    #[command(subcommand)]
    Prompts(prompts::Command),
    /// Look at the figures of leaderboards, or fetch fresh ones.
    #[command(subcommand)]
    Leaderboard(leaderboard::Command),
    /// Make, list, change and delete callers' keys in the database.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Talk to a model in the terminal, with or without a running service.
    Chat(chat::Chat),
    /// Show what was used, from the database.
    Usage(usage::Usage),
    /// Print the configuration file of an older system as a models file of this one.
    Import {
        /// models-config.json, or meta-providers.yaml with model-adjustments.yaml beside it.
        file: PathBuf,
    },
    /// Copy the database to a new file, while the service runs or not.
    Backup {
        /// The copy. It must not be there yet.
        file: PathBuf,
    },
    /// Print the OpenAPI document.
    Openapi,
    /// Become an engine that ends with the gateway. For the gateway itself.
    #[command(name = GUARD_COMMAND, hide = true)]
    EngineGuard {
        /// The process that has to be the parent.
        gateway: u32,
        /// The program.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Read a file that may be hostile, within limits. For the gateway itself.
    #[command(name = CONFINED_COMMAND, hide = true)]
    Confined {
        /// The process that has to be the parent.
        gateway: u32,
        /// What to do with the file.
        work: String,
        /// The file.
        file: PathBuf,
    },
    /// End what the engines of a gateway that was killed have left. For the gateway itself.
    #[command(name = WATCH_COMMAND, hide = true)]
    EngineWatch {
        /// The process that is watched.
        gateway: u32,
        /// Where its engines are written down.
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Check {
    /// Say what a reload would change: in the service that runs on these settings, or against an older models file.
    #[arg(long, value_name = "OLD_MODELS_FILE", num_args = 0..=1, require_equals = true,
        default_missing_value = "", value_parser = Against::read)]
    diff: Option<Against>,
    /// Ask each provider with each of its keys for its models, which costs nothing.
    #[arg(long, conflicts_with = "diff")]
    live: bool,
    /// Exit with 2 if there are warnings.
    #[arg(long, conflicts_with = "diff")]
    strict: bool,
    /// Print one JSON object.
    #[arg(long, conflicts_with = "diff")]
    json: bool,
}

/// What the models file of now is compared with.
#[derive(Clone, Debug)]
enum Against {
    /// What the service serves that runs on these settings.
    Running,
    /// Another file.
    File(PathBuf),
}

impl Against {
    #[expect(clippy::unnecessary_wraps, reason = "that is what the reader of arguments takes")]
    fn read(text: &str) -> Result<Self, Infallible> {
        Ok(if text.is_empty() { Self::Running } else { Self::File(text.into()) })
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// What is wrong with the configuration, one fault a line.
    #[error("{0}")]
    Faults(#[from] Faults),
    /// What is wrong with the request.
    #[error("{0}")]
    Refused(String),
    /// The same as a line of the log.
    #[error("{0}")]
    Line(String),
    /// The output cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

impl Cli {
    /// Does what the gateway starts itself for: before any thread, and instead of running. With what to exit, if this
    /// was it.
    pub fn beside_gateway(&self) -> Option<ExitCode> {
        match self.command.as_ref()? {
            Command::EngineGuard { gateway, command } => {
                let (binary, args) = command.split_first()?;
                let error = Guard::new(*gateway, binary, args.to_vec()).become_engine();
                let _ = writeln!(std::io::stderr(), "{error}");
                Some(ExitCode::from(error.exit_code()))
            }
            Command::EngineWatch { gateway, folder } => {
                watch(*gateway, folder);
                Some(ExitCode::SUCCESS)
            }
            Command::Confined { gateway, work, file } => Some(match work.as_str() {
                COUNT_TOKENS => serve_confined(*gateway, counter::LIMITS, counter::answering(file)),
                RUN_LUA => serve_confined(*gateway, LUA_LIMITS, running_lua(file)),
                _ => ExitCode::FAILURE,
            }),
            _ => None,
        }
    }

    /// Does what was asked. With what to exit, if it was done.
    ///
    /// # Errors
    /// It could not be done.
    pub async fn run(self) -> Result<ExitCode, CommandError> {
        let folder = std::env::current_dir()?;
        self.settings.hold();
        let prepared = || -> Result<(Settings, Environment), Faults> {
            let environment = Environment::load(&folder)?;
            Ok((Settings::from_environment(&environment)?, environment))
        };
        match self.command.unwrap_or(Command::Serve) {
            Command::Serve => serve(folder).await,
            // It tells what is wrong with environment and settings together with all the rest.
            Command::Check(Check { diff: None, live, strict, json }) => {
                return Box::pin(check::run(check::Wishes { live, strict, json }, folder)).await;
            }
            Command::Check(Check { diff: Some(against), .. }) => {
                let (settings, environment) = prepared()?;
                match against {
                    Against::Running => rehearse(settings, folder, &environment).await,
                    Against::File(old) => compare(settings, &folder, &environment, old),
                }
            }
            Command::Models { command, json } => {
                let (settings, environment) = prepared()?;
                let command = command.unwrap_or(models::Command::List { json });
                models::run(command, settings, folder, &environment).await
            }
            Command::Prompts(command) => prompts::run(&command, prepared()?.0, folder),
            Command::Leaderboard(command) => {
                let (settings, environment) = prepared()?;
                leaderboard::run(command, settings, folder, &environment).await
            }
            Command::Chat(chat) => {
                let (settings, environment) = prepared()?;
                Box::pin(chat::run(chat, settings, folder, &environment)).await
            }
            Command::Usage(usage) => {
                let (settings, environment) = prepared()?;
                usage::run(usage, &settings, &environment).await
            }
            Command::Keys(command) => keys::run(command, &prepared()?.0).await,
            Command::Import { file } => import(&file, &Environment::load(&folder).map_err(Faults::from)?),
            Command::Backup { file } => backup(&prepared()?.0, &file).await,
            Command::Openapi => print(&api::document(&prepared()?.0.prefix)),
            Command::EngineGuard { .. } | Command::EngineWatch { .. } | Command::Confined { .. } => {
                Err(CommandError::Refused("this is done before anything else, or not at all".to_owned()))
            }
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

/// Serves. Why that cannot be done, or goes on no longer, is logged in the format of the log.
async fn serve(folder: PathBuf) -> Result<(), CommandError> {
    let (environment, fault) = Environment::judge(&folder);
    let (settings, faults) = Settings::judge(&environment);
    let format = settings.as_ref().map_or(LogFormat::Text, |settings| settings.log.format);
    let faults: Vec<Faults> = fault.into_iter().chain(faults).map(Faults::from).collect();
    let ended = match (settings, Faults::beside(faults, Ok(()))) {
        (Some(settings), Ok(())) => Box::pin(serve_on(settings, folder, environment)).await,
        (_, faults) => faults.map_err(CommandError::from),
    };
    ended.map_err(|error| match format {
        LogFormat::Text => error,
        LogFormat::Json => CommandError::Line(telemetry::error_line(&error.to_string())),
    })
}

async fn serve_on(settings: Settings, folder: PathBuf, environment: Environment) -> Result<(), CommandError> {
    let logs = telemetry::init(&settings.log).map_err(Faults::from)?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let is_for_people = settings.log.format == LogFormat::Text && std::io::stderr().is_terminal();
    let app = App::build(settings, folder, environment).await?;
    logs.open_file().map_err(Faults::from)?;
    if is_for_people {
        tell_aside(app.banner());
    }
    Box::pin(app.run()).await.map_err(Faults::from)?;
    Ok(())
}

/// Asks the service that runs on these settings what a reload would change. It alone knows what it serves, and in which
/// environment.
async fn rehearse(
    settings: Settings,
    folder: PathBuf,
    environment: &Environment,
) -> Result<(), CommandError> {
    let key = settings.admin_keys.first().map(|admin| admin.key.clone()).ok_or_else(|| {
        let words = "a running service tells its changes to whoever has its admin key; set LLM_PROXY_API_ADMIN_KEY, or compare two files: check --diff=OLD_MODELS_FILE";
        CommandError::Refused(words.to_owned())
    })?;
    let tls = settings.serving.tls.clone();
    let listen = Sources::new(settings, folder, Metrics::default()).listeners(environment);
    let report = api::rehearse(&listen, tls.as_ref(), &key).await;
    tell(&report.map_err(|why| CommandError::Refused(why.to_string()))?)
}

/// Compares two models files, without asking anybody.
fn compare(
    settings: Settings,
    folder: &Path,
    environment: &Environment,
    old: PathBuf,
) -> Result<(), CommandError> {
    let sources = |settings| Sources::new(settings, folder.to_owned(), Metrics::default());
    let before = sources(settings.clone()).with_models_file(old).read(environment);
    let after = sources(settings).read(environment);
    let (before, after) = match (before, after) {
        (Ok(before), Ok(after)) => (before, after),
        (before, after) => {
            let faults = before.err().into_iter().collect();
            return Faults::beside(faults, after).map(drop).map_err(CommandError::from);
        }
    };
    tell(&after.changes_since(&before))
}

/// What is different, a line each.
fn tell(report: &Report) -> Result<(), CommandError> {
    let mut lines: Vec<String> = report.diff.changes.iter().map(ToString::to_string).collect();
    if lines.is_empty() {
        lines.push("nothing would change".to_owned());
    } else {
        lines.extend(
            report.diff.kept_engines.iter().map(|engine| format!("= engine {engine}: one that runs stays")),
        );
    }
    lines.extend(report.warnings.iter().map(|warning| format!("warning: {warning}")));
    print(&lines.join("\n"))
}

async fn backup(settings: &Settings, copy: &Path) -> Result<(), CommandError> {
    let url = settings.storage.database_url.expose_secret();
    if let Some(missing) = store::missing_file(url) {
        return Err(CommandError::Refused(no_database(missing)));
    }
    let bytes = store::backup(url, copy).await;
    let bytes =
        bytes.map_err(|error| CommandError::Refused(format!("{error}{}", store::file_in_words(url))))?;
    print(&format!("{} has the whole database ({})", copy.display(), size(bytes)))
}

/// What is said where a database is looked for that is not there.
fn no_database(file: &str) -> String {
    format!(
        "there is no database {file} here; LLM_PROXY_API_DATABASE_URL or LLM_PROXY_API_DATA_DIR says where it is"
    )
}

fn import(file: &Path, environment: &Environment) -> Result<(), CommandError> {
    let imported = Catalog::import(file, environment).map_err(Faults::from)?;
    for warning in imported.warnings {
        tell_aside(&format!("warning: {warning}\n"));
    }
    print(&format!("{:#}", imported.file))
}

/// A model and who serves it, in the order in which they are asked.
fn line(route: &Route) -> String {
    let told = |deployment: &Arc<Deployment>| match deployment.context_tokens {
        Some(tokens) => format!("{} ({tokens} tokens)", deployment.id),
        None => deployment.id.to_string(),
    };
    let asked = route.candidates(None, None);
    let left_out: Vec<String> = route.left_out.iter().map(told).collect();
    let strategy = route.strategy();
    // With others each request has an order of its own, within a priority.
    let is_in_order = matches!(strategy, Strategy::Priority | Strategy::Score);
    let mut deployments = String::new();
    for (index, deployment) in asked.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|before| asked.get(before));
        deployments.push_str(match before {
            None => "",
            Some(before) if is_in_order || before.priority != deployment.priority => ", then ",
            Some(_) => ", ",
        });
        deployments.push_str(&told(deployment));
    }
    let mut line = route.model.to_string();
    let mut add = |before: &str, words: &str, behind: &str| {
        if !words.is_empty() {
            line.extend([before, words, behind]);
        }
    };
    add(" (also ", &route.aliases.join(", "), ")");
    add(": ", if asked.is_empty() { "nobody" } else { &deployments }, "");
    if asked.len() > 1 && strategy != Strategy::default() {
        add("; strategy ", strategy.name(), "");
    }
    add("; never, for its score, ", &left_out.join(", "), "");
    add("; falls back to ", &route.fallbacks.join(", then "), "");
    add("; passes prompts that are too long to ", &route.context_fallbacks.join(", then "), "");
    line
}
