//! Every kind of store, opened anew, and made-up usage to put into them.

use std::sync::Arc;

use llm_proxy_api::callers::{Budget, Digest, Ending, Key, Limits, Period, Predecessor, Secret, UsageRecord};
use llm_proxy_api::llm::UsageSource;
use llm_proxy_api::store::{self, AuditEntry, Store};
use tempfile::TempDir;

use super::postgres::Postgres;

/// A store, and where it is.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) url: String,
    pub(crate) folder: TempDir,
    /// Its server, if it has one.
    pub(crate) postgres: Option<Postgres>,
}

/// SQLite's.
pub(crate) async fn sqlite() -> Opened {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite://{}/data/usage.db", folder.path().display());
    Opened { store: store::open(&url).await.unwrap(), url, folder, postgres: None }
}

/// PostgreSQL's, if it is there.
pub(crate) async fn postgres() -> Option<Opened> {
    let postgres = Postgres::start()?;
    let url = postgres.url();
    let store = store::open(&url).await.unwrap();
    Some(Opened { store, url, folder: TempDir::new().unwrap(), postgres: Some(postgres) })
}

/// All of them: the same holds for each.
pub(crate) async fn stores() -> Vec<Opened> {
    std::iter::once(sqlite().await).chain(postgres().await).collect()
}

impl Opened {
    /// As another process sees it.
    pub(crate) async fn again(&self) -> Arc<dyn Store> {
        store::open(&self.url).await.unwrap()
    }
}

/// The note of an act that does not matter.
pub(crate) fn note() -> AuditEntry {
    AuditEntry {
        time_ms: 0,
        actor: "cli".to_owned(),
        peer: None,
        action: "test".to_owned(),
        subject: String::new(),
        detail: serde_json::Value::Null,
    }
}

/// The same, for whatever changes.
pub(crate) fn noted<T>(_: &T, _: &T) -> AuditEntry {
    note()
}

/// Numbers that look like chance, the same ones each time.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    pub(crate) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }

    /// A time in the range, in milliseconds.
    pub(crate) fn time(&mut self, from: i64, to: i64) -> i64 {
        from + i64::try_from(self.below(u64::try_from(to - from).unwrap())).unwrap()
    }
}

/// A record that has nothing remarkable.
pub(crate) fn record(id: &str, time_ms: i64) -> UsageRecord {
    UsageRecord {
        id: id.into(),
        mark: 0,
        time_ms,
        key: Some("key-1".into()),
        owner: Some("ann".into()),
        endpoint: "/v1/chat/completions".into(),
        model: Some("fast".into()),
        provider: Some("openai".into()),
        deployment: Some("openai/gpt-4o-mini".into()),
        prompt: None,
        input_tokens: 100,
        output_tokens: 10,
        cached_input_tokens: 20,
        reasoning_tokens: 5,
        source: UsageSource::Provider,
        ending: Ending::Completed,
        error: None,
        first_token_ms: Some(120),
        total_ms: 900,
        attempts: 1,
        cost: Some(0.0015),
    }
}

/// A record of any kind.
pub(crate) fn any_record(chance: &mut Chance, number: u64, from: i64, to: i64) -> UsageRecord {
    let some = |name: &str| (name != "-").then(|| name.into());
    let priced = chance.below(4) > 0;
    let tokens = chance.below(3000);
    UsageRecord {
        key: some(chance.of(&["key-1", "key-2", "key-3", "-"])),
        owner: some(chance.of(&["ann", "bob", "-"])),
        endpoint: chance.of(&["/v1/chat/completions", "/api/chat"]).into(),
        model: some(chance.of(&["fast", "slow", "Ärger", "-"])),
        provider: some(chance.of(&["openai", "vllm", "-"])),
        prompt: some(chance.of(&["greet@2/en", "greet@2/pl", "-"])),
        input_tokens: tokens,
        output_tokens: chance.below(500),
        cached_input_tokens: tokens / 3,
        reasoning_tokens: chance.below(100),
        source: chance.of(&[UsageSource::Provider, UsageSource::Estimated]),
        ending: chance.of(&[
            Ending::Completed,
            Ending::Completed,
            Ending::Cancelled,
            Ending::Failed,
            Ending::Cut,
        ]),
        error: some(chance.of(&["upstream_timeout", "-"])),
        first_token_ms: Some(chance.below(500)).filter(|ms| *ms > 100),
        total_ms: chance.below(60_000),
        cost: priced.then(|| f64::from(u32::try_from(tokens).unwrap()) * 0.000_001_25),
        ..record(&format!("request-{number}"), chance.time(from, to))
    }
}

fn digest() -> Digest {
    Secret::generate().unwrap().digest()
}

/// A key that has every field.
pub(crate) fn key(id: &str) -> Key {
    Key {
        id: id.to_owned(),
        name: "Łódź \"prod\"; drop table keys".to_owned(),
        owner: Some("ann".to_owned()),
        prefix: "llmp_abcdefg".to_owned(),
        digest: digest(),
        predecessor: Some(Predecessor { prefix: "llmp_zyxwvut".to_owned(), digest: digest(), until_ms: 77 }),
        created_ms: 1_700_000_000_000,
        expires_ms: Some(1_900_000_000_000),
        last_used_ms: Some(1_800_000_000_000),
        disabled: true,
        allowed_models: vec!["gpt-*".to_owned(), "fast".to_owned()],
        allowed_endpoints: vec!["/v1/*".to_owned()],
        language: Some("pl".to_owned()),
        limits: Limits {
            requests_per_minute: Some(20),
            tokens_per_minute: Some(u64::from(u32::MAX) * 9),
            parallel_requests: Some(3),
        },
        budget: Some(Budget { tokens: Some(9), money: Some(12.34), period: Period::Week, cut_off: true }),
        note: Some("a\nb".to_owned()),
    }
}

/// A key that has next to nothing.
pub(crate) fn bare_key(id: &str) -> Key {
    Key {
        owner: None,
        predecessor: None,
        expires_ms: None,
        last_used_ms: None,
        disabled: false,
        allowed_models: Vec::new(),
        allowed_endpoints: Vec::new(),
        language: None,
        limits: Limits::default(),
        budget: None,
        note: None,
        ..key(id)
    }
}
