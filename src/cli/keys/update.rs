//! `keys update`: what is to be different of a key, in the flags of `keys create`. What is not named stays as it is.

use clap::{Args, ValueEnum};

use super::{CalendarPeriod, Form, Terms};
use crate::accounts::{Edit, LimitsEdit};
use crate::callers::{Budget, Change, Key, Period};
use crate::cli::CommandError;

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command")]
pub(in crate::cli) struct Update {
    /// The key's id.
    pub(super) id: String,
    /// What it is to be called.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    terms: Terms,
    /// Tokens in a period.
    #[arg(long, value_name = "TOKENS")]
    budget_tokens: Option<u64>,
    /// Money in a period, in the currency of the prices.
    #[arg(long, value_name = "SUM")]
    budget_money: Option<f64>,
    /// What the budget is for; as before if nothing is said, and a month if there was none.
    #[arg(long, value_enum)]
    period: Option<CalendarPeriod>,
    /// Have answers end when the budget is used up.
    #[arg(long, conflicts_with = "no_cut_off")]
    cut_off: bool,
    /// Let answers come to their end though the budget is used up.
    #[arg(long)]
    no_cut_off: bool,
    /// Have it open nothing until it is enabled.
    #[arg(long, conflicts_with = "enabled")]
    disabled: bool,
    /// Have it open again.
    #[arg(long)]
    enabled: bool,
    /// Take something away; may be given several times.
    #[arg(long = "clear", value_enum, value_name = "WHAT")]
    cleared: Vec<Field>,
    #[command(flatten)]
    pub(super) form: Form,
}

/// What a key need not have, by the flag that gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Field {
    Owner,
    Model,
    Endpoint,
    Language,
    Expires,
    Rpm,
    Tpm,
    Parallel,
    Budget,
    BudgetTokens,
    BudgetMoney,
    Note,
}

impl Update {
    /// What is to be different of the key, which is like this now.
    pub(super) fn edit(&self, before: &Key) -> Result<Edit, CommandError> {
        let terms = &self.terms;
        let list = |values: &[String]| (!values.is_empty()).then(|| values.to_vec());
        let change = Change {
            name: self.name.clone(),
            owner: self.of(Field::Owner, terms.owner.clone())?,
            expires_ms: self.of(Field::Expires, terms.expires)?,
            disabled: (self.disabled || self.enabled).then_some(self.disabled),
            allowed_models: self.of(Field::Model, list(&terms.models))?.map(Option::unwrap_or_default),
            allowed_endpoints: self
                .of(Field::Endpoint, list(&terms.endpoints))?
                .map(Option::unwrap_or_default),
            language: self.of(Field::Language, terms.language.clone())?,
            limits: None,
            budget: self.budget(before.budget)?,
            note: self.of(Field::Note, terms.note.clone())?,
        };
        let limits = LimitsEdit {
            requests_per_minute: self.of(Field::Rpm, terms.rpm)?,
            tokens_per_minute: self.of(Field::Tpm, terms.tpm)?,
            parallel_requests: self.of(Field::Parallel, terms.parallel)?,
        };
        let edit = Edit { change, limits };
        if edit == Edit::default() {
            let words = "say what is to be different; `keys update --help` tells what can be";
            return Err(CommandError::Refused(words.to_owned()));
        }
        Ok(edit)
    }

    /// A value that is given, taken away, or left as it is.
    #[expect(clippy::option_option, reason = "as a change has it")]
    fn of<T>(&self, field: Field, value: Option<T>) -> Result<Option<Option<T>>, CommandError> {
        match (value, self.cleared.contains(&field)) {
            (Some(_), true) => Err(both(field)),
            (None, false) => Ok(None),
            (value, _) => Ok(Some(value)),
        }
    }

    /// A budget is changed part by part.
    #[expect(clippy::option_option, reason = "as a change has it")]
    fn budget(&self, before: Option<Budget>) -> Result<Option<Option<Budget>>, CommandError> {
        let tokens = self.of(Field::BudgetTokens, self.budget_tokens)?;
        let money = self.of(Field::BudgetMoney, self.budget_money)?;
        let cut_off = (self.cut_off || self.no_cut_off).then_some(self.cut_off);
        let is_changed = tokens.is_some() || money.is_some() || self.period.is_some() || cut_off.is_some();
        match (is_changed, self.cleared.contains(&Field::Budget)) {
            (true, true) => return Err(both(Field::Budget)),
            (false, true) => return Ok(Some(None)),
            (false, false) => return Ok(None),
            (true, false) => {}
        }
        let none = Budget { tokens: None, money: None, period: Period::Month, cut_off: false };
        let before = before.unwrap_or(none);
        Ok(Some(Some(Budget {
            tokens: tokens.unwrap_or(before.tokens),
            money: money.unwrap_or(before.money),
            period: self.period.map_or(before.period, Period::from),
            cut_off: cut_off.unwrap_or(before.cut_off),
        })))
    }
}

fn both(field: Field) -> CommandError {
    let name = field.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    CommandError::Refused(format!("`{name}` is both given and cleared; do one of them"))
}
