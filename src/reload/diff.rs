//! The differences between two loaded sets, as plain values: what is served now, and what would be.

mod engines;
mod fields;
mod models;
mod prices;
mod prompts;
mod providers;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{Catalog, Routing};
use crate::prompts::PromptLibrary;
use crate::router::{RoutingTable, Served};
use fields::Fields;

/// What is compared: everything that was read, checked and made.
#[derive(Clone, Copy, Debug)]
pub struct Set<'a> {
    /// The providers, with the models that they were found to have.
    pub served: &'a [Served],
    /// Who serves which model.
    pub routes: &'a RoutingTable,
    /// What the models file says beyond that: its providers are not looked at.
    pub catalog: &'a Catalog,
    /// The prompt library.
    pub prompts: &'a PromptLibrary,
}

/// All that is different.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// One after the other: providers, models, engines, prompts, and what holds for all.
    pub changes: Vec<Change>,
    /// Engines, as `provider/model@context`, that are the same before and after: those of them that run stay.
    #[serde(default)]
    pub kept_engines: Vec<String>,
}

/// One thing that is different.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What kind of thing.
    #[serde(rename = "kind")]
    pub what: What,
    /// Its name.
    pub name: String,
    /// What has become of it.
    #[serde(rename = "change")]
    pub how: How,
    /// What of it, in words. Never a value that may be secret.
    pub details: Vec<String>,
}

/// What kind of thing is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A provider.
    Provider,
    /// A public model, with its deployments.
    Model,
    /// An engine that the gateway runs itself.
    Engine,
    /// A prompt, in one or more languages.
    Prompt,
    /// What holds for all routes.
    Routing,
    /// Where the models file says to listen.
    Listen,
    /// Limits of models, owners and the whole gateway.
    Limits,
    /// What tokens cost.
    Prices,
    /// Points for models by their names.
    Adjustments,
    /// The secret of a setting: a certificate, or the key of an operator.
    Secret,
}

/// What has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is another.
    Changed,
}

impl What {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Model => "model",
            Self::Engine => "engine",
            Self::Prompt => "prompt",
            Self::Routing => "routing",
            Self::Listen => "listen",
            Self::Limits => "limits",
            Self::Prices => "prices",
            Self::Adjustments => "adjustments",
            Self::Secret => "secret",
        }
    }
}

impl How {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }

    fn sign(self) -> char {
        match self {
            Self::Added => '+',
            Self::Removed => '-',
            Self::Changed => '~',
        }
    }
}

impl Diff {
    /// What is different in `new`.
    pub fn between(old: Set<'_>, new: Set<'_>) -> Self {
        let mut changes = providers::changes(old.served, new.served);
        changes.extend(models::changes(old, new));
        let (of_engines, kept_engines) = engines::changes(old.served, new.served);
        changes.extend(of_engines);
        changes.extend(prompts::changes(old.prompts, new.prompts));
        let (old, new) = (old.catalog, new.catalog);
        changes.extend(of_routing(&old.routing, &new.routing));
        let mut whole = |what: What, is_other: bool, details: Vec<String>| {
            if is_other {
                changes.push(Change::new(what, what.word(), How::Changed, details));
            }
        };
        whole(What::Limits, old.rules != new.rules, Vec::new());
        whole(What::Prices, old.prices != new.prices, prices::details(&old.prices, &new.prices));
        whole(What::Adjustments, old.adjustments != new.adjustments, Vec::new());
        whole(What::Listen, old.listen != new.listen, vec!["takes effect with the next start".to_owned()]);
        Self { changes, kept_engines }
    }

    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// In a few words, for a log line: `2 models added, 1 provider changed`, or `nothing`.
    pub fn summary(&self) -> String {
        let mut counts: Vec<(What, How, usize)> = Vec::new();
        for change in &self.changes {
            match counts.iter_mut().find(|(what, how, _)| (*what, *how) == (change.what, change.how)) {
                Some((.., count)) => *count += 1,
                None => counts.push((change.what, change.how, 1)),
            }
        }
        let told = counts.into_iter().map(|(what, how, count)| match what {
            What::Routing | What::Listen | What::Limits | What::Prices | What::Adjustments => {
                format!("{} {}", what.word(), how.word())
            }
            _ => {
                let plural = if count == 1 { "" } else { "s" };
                format!("{count} {}{plural} {}", what.word(), how.word())
            }
        });
        let told: Vec<String> = told.collect();
        if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }
    }
}

impl Change {
    fn new(what: What, name: impl Into<String>, how: How, details: Vec<String>) -> Self {
        Self { what, name: name.into(), how, details }
    }
}

/// For people: `+ model fast: cloud/gpt-4o-mini`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.how.sign(), self.what.word())?;
        if self.name != self.what.word() {
            write!(f, " {}", self.name)?;
        }
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details.join("; ")) }
    }
}

fn of_routing(old: &Routing, new: &Routing) -> Option<Change> {
    let Routing { max_wait, max_cooldown, hedge_after, hedge_budget, overflow_after, strategy, scalars } =
        new;
    let mut fields = Fields::default();
    fields.seconds("max_wait", old.max_wait, *max_wait);
    fields.seconds("max_cooldown", old.max_cooldown, *max_cooldown);
    fields.named("hedge_after", &old.hedge_after, hedge_after);
    fields.named("hedge_budget", &old.hedge_budget, hedge_budget);
    fields.named("overflow_after", &old.overflow_after, overflow_after);
    fields.named("strategy", &old.strategy, strategy);
    fields.named("score scalars", &old.scalars, scalars);
    fields.into_change(What::Routing, "routing")
}
