//! What nodes tell each other: a message each, on one channel. Who told it does not hear it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::link::Link;
use super::rests;
use crate::callers::{Gate, Period, Spent, Whose};

/// A message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct News {
    /// Which node tells it.
    pub(super) from: String,
    #[serde(flatten)]
    pub(super) what: What,
}

/// What there is to tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub(super) enum What {
    /// Somebody rests.
    Rest {
        name: String,
        ms: u64,
        /// Whether it is to be left alone, even if no other can answer.
        #[serde(default)]
        will: bool,
    },
    /// Somebody is well again.
    Well { name: String },
    /// Keys have changed.
    Keys,
    /// So much of a budget is spent. Numbers are texts, as scripts round large ones.
    Spent {
        of: Of,
        name: String,
        period: Period,
        since_ms: String,
        #[serde(default)]
        tokens: String,
        #[serde(default)]
        money: String,
    },
}

/// Whose budget it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Of {
    /// A key's.
    Key,
    /// An owner's.
    Owner,
}

impl News {
    pub(super) fn text(from: &str, what: What) -> String {
        // Nothing in it can fail to be written.
        serde_json::to_string(&Self { from: from.to_owned(), what }).unwrap_or_default()
    }
}

/// Whoever listens.
pub(super) trait Hear: Sync {
    /// A message has come to this node.
    fn message(&self, payload: &[u8], node: &str);

    /// From now on messages come; those before may have been missed.
    fn missed(&self, link: &Link) -> impl Future<Output = ()> + Send;

    /// Reads what is written down of what is told.
    fn read(&self, link: &Link) -> impl Future<Output = ()> + Send;
}

/// Takes to the rooms of this process what others tell.
pub(super) struct Listener<T> {
    pub(super) gate: Arc<Gate>,
    pub(super) told: T,
    pub(super) keys: watch::Sender<u64>,
}

impl<T: Fn(&str, Option<(Duration, bool)>) + Send + Sync> Listener<T> {
    fn keys_have_changed(&self) {
        self.keys.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl<T: Fn(&str, Option<(Duration, bool)>) + Send + Sync> Hear for Listener<T> {
    fn message(&self, payload: &[u8], node: &str) {
        let Ok(news) = serde_json::from_slice::<News>(payload) else {
            tracing::debug!("A message of another replica is not understood");
            return;
        };
        if news.from == node {
            return;
        }
        match news.what {
            What::Rest { name, ms, will } => (self.told)(&name, Some((Duration::from_millis(ms), will))),
            What::Well { name } => (self.told)(&name, None),
            What::Keys => self.keys_have_changed(),
            What::Spent { of, name, period, since_ms, tokens, money } => {
                let whose = match of {
                    Of::Key => Whose::Key(name.into()),
                    Of::Owner => Whose::Owner(name.into()),
                };
                if let (Ok(since_ms), Ok(tokens), Ok(money)) =
                    (since_ms.parse(), tokens.parse(), money.parse())
                {
                    self.gate.budgets().told((whose, period), since_ms, Spent { tokens, money });
                }
            }
        }
    }

    async fn missed(&self, link: &Link) {
        self.gate.budgets().doubt();
        self.keys_have_changed();
        self.read(link).await;
    }

    async fn read(&self, link: &Link) {
        for (name, rest) in rests::read(link).await {
            // Who is to be left alone says so again when it is asked.
            (self.told)(&name, Some((rest, false)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_are_written() {
        let spent = What::Spent {
            of: Of::Owner,
            name: "ä \"b\"".to_owned(),
            period: Period::Week,
            since_ms: "1".to_owned(),
            tokens: String::new(),
            money: String::new(),
        };
        for what in [What::Rest { name: "p/m".to_owned(), ms: 7, will: true }, What::Keys, spent] {
            let text = News::text("n", what.clone());
            assert_eq!(serde_json::from_str::<News>(&text).unwrap(), News { from: "n".to_owned(), what });
        }
    }
}
