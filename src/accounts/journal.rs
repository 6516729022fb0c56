//! Who changed what, as it is noted. Never a secret, nor what is kept of one.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::callers::{Key, moment_as_text, now_ms};
use crate::config::UNNAMED_ADMIN;
use crate::store::{AuditEntry, ModelSwitch};

/// Who acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The holder of the admin key that has no name.
    Admin,
    /// Who has the admin key of that name.
    NamedAdmin(Arc<str>),
    /// Who has shown no key that opens what was asked for.
    Unknown,
    /// A caller, by the key's id.
    Key(String),
    /// Whoever can run a command on the database.
    Cli,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("admin"),
            Self::NamedAdmin(name) => write!(f, "admin:{name}"),
            Self::Unknown => f.write_str("unknown"),
            Self::Key(id) => write!(f, "key:{id}"),
            Self::Cli => f.write_str("cli"),
        }
    }
}

/// Who acts, and from where, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    actor: Actor,
    peer: Option<String>,
}

impl Actor {
    /// Who has the admin key of that name.
    pub fn of_admin(name: &Arc<str>) -> Self {
        if **name == *UNNAMED_ADMIN { Self::Admin } else { Self::NamedAdmin(name.clone()) }
    }

    /// The actor, with the address from which the act was asked for.
    pub fn at(self, peer: impl fmt::Display) -> Origin {
        Origin { actor: self, peer: Some(peer.to_string()) }
    }
}

impl From<Actor> for Origin {
    fn from(actor: Actor) -> Self {
        Self { actor, peer: None }
    }
}

pub(super) fn entry(origin: &Origin, action: &str, subject: &str, detail: Value) -> AuditEntry {
    AuditEntry {
        time_ms: now_ms(),
        actor: origin.actor.to_string(),
        peer: origin.peer.clone(),
        action: action.to_owned(),
        subject: subject.to_owned(),
        detail,
    }
}

/// Every field that is different, as it was and as it is.
pub(super) fn differences(before: &Key, after: &Key) -> Value {
    different(fields(before), fields(after))
}

/// What a new key has, as far as something is said of it.
pub(super) fn made(key: &Key) -> Value {
    let is_said = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(all) => !all.is_empty(),
        Value::Object(all) => all.values().any(|value| !value.is_null()),
        _ => true,
    };
    let said = fields(key).into_iter().filter(|(_, value)| is_said(value));
    let prefix = std::iter::once(("prefix", json!(key.prefix)));
    Value::Object(said.chain(prefix).map(|(name, value)| (name.to_owned(), value)).collect())
}

/// As [`differences`], of how a model is switched.
pub(super) fn differences_of_switches(before: &ModelSwitch, after: &ModelSwitch) -> Value {
    let fields = |of: &ModelSwitch| [("disabled", json!(of.disabled)), ("note", json!(of.note))];
    different(fields(before), fields(after))
}

fn different<const N: usize>(before: [(&'static str, Value); N], after: [(&'static str, Value); N]) -> Value {
    let different = before.into_iter().zip(after).filter(|(before, after)| before != after);
    let told: Map<String, Value> =
        different.map(|((name, from), (_, to))| (name.to_owned(), json!({"from": from, "to": to}))).collect();
    Value::Object(told)
}

fn fields(key: &Key) -> [(&'static str, Value); 10] {
    [
        ("name", json!(key.name)),
        ("owner", json!(key.owner)),
        ("expires_at", json!(key.expires_ms.map(moment_as_text))),
        ("disabled", json!(key.disabled)),
        ("allowed_models", json!(key.allowed_models)),
        ("allowed_endpoints", json!(key.allowed_endpoints)),
        ("language", json!(key.language)),
        ("limits", json!(key.limits)),
        ("budget", json!(key.budget)),
        ("note", json!(key.note)),
    ]
}
