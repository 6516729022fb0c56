//! What many records have in common, written once for all of them. A line of the ledger is then little more than its
//! figures, which is what makes it cheap to write and small to keep.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::database::{List, Value};
use super::sums::{cleaned, cleaned_or_none};
use crate::callers::UsageRecord;

/// All of a record that is text, but for its id. What there is not is the empty text.
const COLUMNS: [&str; 10] =
    ["key_id", "owner", "endpoint", "model", "provider", "deployment", "prompt", "source", "ending", "error"];

/// In the order of [`COLUMNS`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind<'r>([Cow<'r, str>; COLUMNS.len()]);

/// The kinds of some records, each with its number.
#[derive(Debug, Default)]
pub(super) struct Kinds<'r>(BTreeMap<Kind<'r>, i64>);

/// The numbers of kinds that are written, for all that is known. What is not known is written again, to no effect; so all are
/// forgotten now and then: a server may have been replaced by one that lacks the last moment of it.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Remembered>);

#[derive(Debug)]
struct Remembered {
    numbers: HashSet<i64>,
    since: Instant,
}

/// More are not remembered: 8 bytes each.
const MOST_KNOWN: usize = 50_000;
const REMEMBERED: Duration = Duration::from_secs(60);

impl Default for Remembered {
    fn default() -> Self {
        Self { numbers: HashSet::new(), since: Instant::now() }
    }
}

impl<'r> Kind<'r> {
    fn of(record: &'r UsageRecord) -> Self {
        Self([
            cleaned_or_none(record.key.as_ref()),
            cleaned_or_none(record.owner.as_ref()),
            cleaned(&record.endpoint),
            cleaned_or_none(record.model.as_ref()),
            cleaned_or_none(record.provider.as_ref()),
            cleaned_or_none(record.deployment.as_ref()),
            cleaned_or_none(record.prompt.as_ref()),
            record.source.as_str().into(),
            record.ending.as_str().into(),
            cleaned_or_none(record.error.as_ref()),
        ])
    }

    /// The same for the same texts, wherever it is asked for, so that nobody has to look it up; and for no others, as far
    /// as 64 bits of a digest can tell.
    fn number(&self) -> i64 {
        let mut digest = Sha256::new();
        for text in &self.0 {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text.as_bytes());
        }
        let digest: [u8; 32] = digest.finalize().into();
        digest.first_chunk().map_or(0, |number| i64::from_le_bytes(*number))
    }
}

impl<'r> Kinds<'r> {
    /// The number of a record's kind.
    pub(super) fn number_of(&mut self, record: &'r UsageRecord) -> i64 {
        let kind = Kind::of(record);
        if let Some(number) = self.0.get(&kind) {
            return *number;
        }
        let number = kind.number();
        self.0.insert(kind, number);
        number
    }

    /// Those that are not known to be written, in one order, so that two writers never wait for each other in a circle.
    pub(super) fn unknown(&self, known: &Known) -> List {
        let known = known.remembered();
        let unknown = self.0.iter().filter(|(_, number)| !known.numbers.contains(number));
        let unknown: BTreeMap<i64, &Kind<'_>> = unknown.map(|(kind, number)| (*number, kind)).collect();
        let row = |(number, kind): (i64, &Kind<'_>)| {
            let texts: Vec<Value> = kind.0.iter().map(|text| Value::from(&**text)).collect();
            std::iter::once(Value::from(number)).chain(texts)
        };
        unknown.into_iter().map(row).collect()
    }
}

impl Known {
    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.numbers.len() > MOST_KNOWN || remembered.since.elapsed() > REMEMBERED {
            *remembered = Remembered::default();
        }
        remembered
    }

    /// They are written, and that holds.
    pub(super) fn add(&self, kinds: &Kinds<'_>) {
        self.remembered().numbers.extend(kinds.0.values());
    }

    /// Who knows what is there now.
    pub(super) fn forget(&self) {
        self.remembered().numbers.clear();
    }
}

/// Writes kinds that are new.
pub(super) fn insert() -> String {
    format!("insert into usage_kinds (number, {}) values LIST on conflict do nothing", COLUMNS.join(", "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::callers::Ending;
    use crate::llm::UsageSource;

    fn record() -> UsageRecord {
        UsageRecord {
            id: "r".into(),
            mark: 1,
            time_ms: 5,
            key: Some("k".into()),
            owner: None,
            endpoint: "/v1/chat/completions".into(),
            model: Some("m".into()),
            provider: Some("p".into()),
            deployment: Some("p/m".into()),
            prompt: None,
            input_tokens: 1,
            output_tokens: 2,
            cached_input_tokens: 0,
            reasoning_tokens: 0,
            source: UsageSource::Provider,
            ending: Ending::Completed,
            error: None,
            first_token_ms: None,
            total_ms: 3,
            attempts: 1,
            cost: None,
        }
    }

    #[test]
    fn records_that_differ_in_figures_only_are_of_one_kind() {
        let one = record();
        let other = UsageRecord { id: "s".into(), mark: 2, time_ms: 9, output_tokens: 8, ..record() };
        let mut kinds = Kinds::default();
        assert_eq!(kinds.number_of(&one), kinds.number_of(&other));
        assert_eq!(kinds.0.len(), 1);
    }

    #[test]
    fn any_other_text_makes_another_kind() {
        let text = |text: &str| Some(Arc::from(text));
        let all = [
            record(),
            UsageRecord { key: text("kk"), ..record() },
            UsageRecord { key: None, owner: text("k"), ..record() },
            UsageRecord { endpoint: "/api/chat".into(), ..record() },
            UsageRecord { model: text("n"), ..record() },
            UsageRecord { provider: text("q"), ..record() },
            UsageRecord { deployment: text("p/n"), ..record() },
            UsageRecord { prompt: text("a@en"), ..record() },
            UsageRecord { source: UsageSource::Estimated, ..record() },
            UsageRecord { ending: Ending::Cut, ..record() },
            UsageRecord { error: text("timeout"), ..record() },
        ];
        let mut kinds = Kinds::default();
        let numbers: HashSet<i64> = all.iter().map(|record| kinds.number_of(record)).collect();
        assert_eq!(numbers.len(), all.len());
    }

    #[test]
    fn the_number_of_a_kind_is_the_same_in_every_process() {
        assert_eq!(Kind::of(&record()).number(), NUMBER, "what is in databases would be written once more");
    }

    const NUMBER: i64 = -260_552_913_306_940_005;

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_not_written_again_for_a_while() {
        let (one, other) = (record(), UsageRecord { model: None, ..record() });
        let (known, mut kinds) = (Known::default(), Kinds::default());
        kinds.number_of(&one);
        known.add(&kinds);
        kinds.number_of(&other);
        assert_eq!(kinds.unknown(&known).rows(), 1);
        known.forget();
        assert_eq!(kinds.unknown(&known).rows(), 2);
        known.add(&kinds);
        assert_eq!(kinds.unknown(&known).rows(), 0);
        tokio::time::advance(REMEMBERED * 2).await;
        assert_eq!(kinds.unknown(&known).rows(), 2);
    }
}
