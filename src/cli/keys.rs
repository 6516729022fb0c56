//! `keys`: callers' keys, straight in the database. A service that runs on the same database knows of a change within
//! a second.

mod update;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use self::update::Update;
use super::{CommandError, no_database, print};
use crate::accounts::{AccountError, Accounts, Actor, Edit};
use crate::api;
use crate::callers::{Budget, Change, Key, KeyRing, Limits, NewKey, Period, Secret, moment, now_ms};
use crate::config::Settings;
use crate::store;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key, and print its secret: this once.
    Create(Box<Create>),
    /// List the keys.
    List {
        /// Only those of this owner.
        #[arg(long)]
        owner: Option<String>,
        #[command(flatten)]
        form: Form,
    },
    /// Show a key.
    Show {
        /// The key's id.
        id: String,
        #[command(flatten)]
        form: Form,
    },
    /// Change a key. What is not named stays as it is.
    Update(Box<Update>),
    /// Have a key open nothing until it is enabled.
    Disable {
        /// The key's id.
        id: String,
        #[command(flatten)]
        form: Form,
    },
    /// Have a disabled key open again.
    Enable {
        /// The key's id.
        id: String,
        #[command(flatten)]
        form: Form,
    },
    /// Give a key another secret, and print it: this once.
    Rotate {
        /// The key's id.
        id: String,
        /// How long the secret before still opens, in seconds.
        #[arg(long, default_value_t = crate::accounts::DEFAULT_GRACE.as_secs())]
        grace_seconds: u64,
        #[command(flatten)]
        form: Form,
    },
    /// Forget a key. What it used is remembered.
    Delete {
        /// The key's id.
        id: String,
        #[command(flatten)]
        form: Form,
    },
}

#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Form {
    /// Print JSON, as the admin API has it.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("budget").multiple(true)))]
pub(super) struct Create {
    /// What it is to be called.
    #[arg(long)]
    name: String,
    #[command(flatten)]
    terms: Terms,
    /// Tokens in a period.
    #[arg(long, value_name = "TOKENS", group = "budget")]
    budget_tokens: Option<u64>,
    /// Money in a period, in the currency of the prices.
    #[arg(long, value_name = "SUM", group = "budget")]
    budget_money: Option<f64>,
    /// What the budget is for; a month if nothing is said.
    #[arg(long, value_enum, requires = "budget")]
    period: Option<CalendarPeriod>,
    /// Have answers end when the budget is used up.
    #[arg(long, requires = "budget")]
    cut_off: bool,
    /// Have a database made if there is none.
    #[arg(long)]
    create_database: bool,
    #[command(flatten)]
    form: Form,
}

/// What a new key may have, and what may be given to another one in place of what it has.
#[derive(Debug, Args)]
struct Terms {
    /// Whose it is.
    #[arg(long)]
    owner: Option<String>,
    /// A pattern of models that it may use, such as gpt-*; may be given several times.
    #[arg(long = "model", value_name = "PATTERN")]
    models: Vec<String>,
    /// A pattern of paths that it may ask, such as /v1/*; may be given several times.
    #[arg(long = "endpoint", value_name = "PATTERN")]
    endpoints: Vec<String>,
    /// The language of prompts where a request names none.
    #[arg(long)]
    language: Option<String>,
    /// From then on it opens nothing: a time such as 2026-12-31T18:00:00Z, or a date.
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<i64>,
    /// Requests in any minute.
    #[arg(long, value_name = "REQUESTS")]
    rpm: Option<u64>,
    /// Tokens in any minute.
    #[arg(long, value_name = "TOKENS")]
    tpm: Option<u64>,
    /// Requests at the same time.
    #[arg(long, value_name = "REQUESTS")]
    parallel: Option<u64>,
    /// Whatever is to be remembered of it.
    #[arg(long)]
    note: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CalendarPeriod {
    Day,
    Week,
    Month,
}

fn time(text: &str) -> Result<i64, String> {
    moment(text).ok_or_else(|| "give a time such as 2026-12-31T18:00:00Z, or a date".to_owned())
}

pub(super) async fn run(command: Command, settings: &Settings) -> Result<(), CommandError> {
    let url = settings.storage.database_url.expose_secret();
    if let Some(file) = store::missing_file(url) {
        may_make(&command, settings, file)?;
    }
    let store = store::open(url).await;
    let store =
        store.map_err(|error| CommandError::Refused(format!("{error}{}", store::file_in_words(url))))?;
    let done = run_on(Arc::new(Accounts::new(store.clone(), Arc::new(KeyRing::default()))), command).await;
    // So that a copy of the file has what was done.
    store.close().await;
    done
}

/// A database is made for a new key alone, and only where a service can be expected to look for it: settings name the
/// place, or what the service serves is here.
fn may_make(command: &Command, settings: &Settings, file: &str) -> Result<(), CommandError> {
    let said = no_database(file);
    let Command::Create(create) = command else { return Err(CommandError::Refused(said)) };
    let is_of_service =
        settings.storage.is_named || settings.models_config_is_set || settings.models_config.exists();
    if !create.create_database && !is_of_service {
        let cure = "or add --create-database to have one made here";
        return Err(CommandError::Refused(format!("{said}; go to the folder of the service, {cure}")));
    }
    let warning = format!("warning: {said}, and a service that has another one knows nothing of this key");
    Ok(writeln!(std::io::stderr(), "{warning}")?)
}

async fn run_on(accounts: Arc<Accounts>, command: Command) -> Result<(), CommandError> {
    match command {
        Command::Create(create) => {
            let form = create.form;
            let (key, secret) = accounts.create(Actor::Cli, (*create).into()).await?;
            tell_secret(&key, &secret, form)
        }
        Command::List { owner, form } => {
            let keys = accounts.list(owner.as_deref()).await?;
            if form.json {
                let keys: Vec<Value> = keys.iter().map(api::key_as_json).collect();
                return print(&format!("{:#}", json!({ "keys": keys })));
            }
            print(&table(&keys))
        }
        Command::Show { id, form } => tell(&accounts.get(&id).await?, form),
        Command::Update(update) => {
            let edit = update.edit(&accounts.get(&update.id).await?)?;
            tell(&accounts.change(Actor::Cli, &update.id, edit).await?, update.form)
        }
        Command::Disable { id, form } => able(&accounts, &id, true, form).await,
        Command::Enable { id, form } => able(&accounts, &id, false, form).await,
        Command::Rotate { id, grace_seconds, form } => {
            let grace = Duration::from_secs(grace_seconds);
            let (key, secret) = accounts.rotate(Actor::Cli, &id, grace).await?;
            tell_secret(&key, &secret, form)
        }
        Command::Delete { id, form } => {
            accounts.delete(Actor::Cli, &id).await?;
            print(&if form.json {
                json!({"id": id, "deleted": true}).to_string()
            } else {
                format!("{id} is deleted")
            })
        }
    }
}

async fn able(accounts: &Arc<Accounts>, id: &str, disabled: bool, form: Form) -> Result<(), CommandError> {
    let edit = Edit::from(Change { disabled: Some(disabled), ..Change::default() });
    tell(&accounts.change(Actor::Cli, id, edit).await?, form)
}

impl From<CalendarPeriod> for Period {
    fn from(period: CalendarPeriod) -> Self {
        match period {
            CalendarPeriod::Day => Self::Day,
            CalendarPeriod::Week => Self::Week,
            CalendarPeriod::Month => Self::Month,
        }
    }
}

impl From<AccountError> for CommandError {
    fn from(error: AccountError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<Create> for NewKey {
    fn from(create: Create) -> Self {
        let terms = create.terms;
        let limits = Limits {
            requests_per_minute: terms.rpm,
            tokens_per_minute: terms.tpm,
            parallel_requests: terms.parallel,
        };
        let (tokens, money) = (create.budget_tokens, create.budget_money);
        let period = create.period.map_or(Period::Month, Period::from);
        let budget = Budget { tokens, money, period, cut_off: create.cut_off };
        let change = Change {
            owner: Some(terms.owner),
            expires_ms: Some(terms.expires),
            allowed_models: Some(terms.models),
            allowed_endpoints: Some(terms.endpoints),
            language: Some(terms.language),
            limits: Some(limits),
            budget: (tokens.is_some() || money.is_some()).then_some(Some(budget)),
            note: Some(terms.note),
            ..Change::default()
        };
        Self { name: create.name, change }
    }
}

fn tell_secret(key: &Key, secret: &Secret, form: Form) -> Result<(), CommandError> {
    if form.json {
        let mut told = json!({"key": secret.reveal()});
        if let (Some(told), Value::Object(about)) = (told.as_object_mut(), api::key_as_json(key)) {
            told.extend(about);
        }
        return print(&format!("{told:#}"));
    }
    print(&format!("{}\n\nThis is the secret. It is shown this once.\n\n{}", secret.reveal(), details(key)))
}

fn tell(key: &Key, form: Form) -> Result<(), CommandError> {
    if form.json { print(&format!("{:#}", api::key_as_json(key))) } else { print(&details(key)) }
}

/// A key, a field a line. What is not set is left out.
fn details(key: &Key) -> String {
    let mut rows: Vec<[String; 2]> = Vec::new();
    if let Value::Object(fields) = api::key_as_json(key) {
        for (name, value) in fields {
            match value {
                Value::Object(parts) => {
                    let parts = parts.into_iter().map(|(part, value)| (format!("{name}.{part}"), value));
                    rows.extend(parts.filter_map(|(name, value)| Some([name, text(&value)?])));
                }
                value => rows.extend(text(&value).map(|text| [name, text])),
            }
        }
    }
    aligned(&rows)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.replace('\n', " ")),
        Value::Array(list) if list.is_empty() => None,
        Value::Array(list) => Some(list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")),
        other => Some(other.to_string()),
    }
}

fn table(keys: &[Key]) -> String {
    if keys.is_empty() {
        return "there are no keys".to_owned();
    }
    let now_ms = now_ms();
    let state = |key: &Key| match (key.disabled, key.is_valid(now_ms)) {
        (true, _) => "disabled",
        (false, true) => "open",
        (false, false) => "expired",
    };
    let dash = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), crate::callers::moment_as_text);
    let mut rows =
        vec![["ID", "NAME", "OWNER", "PREFIX", "STATE", "EXPIRES", "LAST USED"].map(str::to_owned)];
    rows.extend(keys.iter().map(|key| {
        [
            key.id.clone(),
            key.name.clone(),
            key.owner.clone().unwrap_or_else(|| "-".to_owned()),
            key.prefix.clone(),
            state(key).to_owned(),
            dash(key.expires_ms),
            dash(key.last_used_ms),
        ]
    }));
    aligned(&rows)
}

/// Rows with their columns below each other.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [["a", "Łódź", ""], ["bcd", "x", "y"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&rows), "a    Łódź\nbcd  x     y");
    }
}
