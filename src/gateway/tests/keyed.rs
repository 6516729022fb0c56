//! Callers with keys, made by hand: what they may use raw, and what ends their answers.

use serde_json::{Value, json};

use super::super::*;
use crate::callers::{Budget, Caller, Key, KeyRing, Period, Secret};
use crate::config::{Catalog, ModelConfig, ModelSource, ProviderConfig, Timeouts};
use crate::leaderboard::Leaderboard;
use crate::prompts::Language;
use crate::providers::{self, Shared};
use crate::router::{HealthBook, Served};
use crate::telemetry::Metrics;

/// Providers, each with models: public name and the provider's own.
fn state(providers: &[(&str, &[(&str, &str)])]) -> State {
    let served: Vec<Served> = providers.iter().map(|(name, models)| served(name, models)).collect();
    let routes = RoutingTable::new(
        &served,
        &Catalog::default(),
        &Leaderboard::default(),
        &Metrics::default(),
        &HealthBook::default(),
    );
    let prompts = PromptLibrary::shipped(&Language::parse("en").unwrap()).unwrap();
    State { routes: Arc::new(routes), prompts: Arc::new(prompts), rules: Rules::default() }
}

fn served(name: &str, models: &[(&str, &str)]) -> Served {
    let model = |(public, upstream): &(&str, &str)| ModelConfig {
        public: (*public).to_owned(),
        upstream: (*upstream).to_owned(),
        ..ModelConfig::default()
    };
    let config = ProviderConfig {
        name: name.to_owned(),
        kind: "echo".to_owned(),
        base_url: None,
        models_url: None,
        discover_every: ProviderConfig::DISCOVER_EVERY,
        api_key: None,
        api_keys: Vec::new(),
        headers: Vec::new(),
        timeouts: Timeouts::default(),
        probe: None,
        base_priority: 1.0,
        engines: crate::config::EngineSettings::default(),
        models: ModelSource::Listed(models.iter().map(model).collect()),
        place: String::new(),
    };
    let provider = providers::build(&config, &Shared::default()).unwrap();
    Served { provider, config, by_key: Vec::new(), discovered: Vec::new() }
}

/// Somebody with a key for these models, and a budget.
fn caller(allowed_models: &[&str], budget: Option<Budget>) -> Caller {
    let secret = Secret::generate().unwrap();
    let key = json!({"id": "k", "name": "k", "prefix": secret.prefix(), "created_ms": 0,
        "digest": serde_json::to_value(secret.digest()).unwrap(), "allowed_models": allowed_models});
    let key = Key { budget, ..serde_json::from_value(key).unwrap() };
    let ring = KeyRing::default();
    ring.put(key);
    ring.get("k").unwrap()
}

/// A record of somebody's request.
fn record_of(caller: &Caller) -> Arc<RequestRecord> {
    let record = RequestRecord::new("id".to_owned());
    record.facts().caller = Some(caller.clone());
    Arc::new(record)
}

/// So many tokens a day, after which answers end.
fn cut_off(tokens: u64) -> Budget {
    Budget { tokens: Some(tokens), money: None, period: Period::Day, cut_off: true }
}

fn raw(path: &str, body: &Value) -> crate::providers::RawRequest {
    crate::providers::RawRequest {
        method: http::Method::POST,
        path: path.to_owned(),
        query: None,
        headers: http::HeaderMap::new(),
        body: (!body.is_null()).then(|| body.to_string().into()),
        model: None,
    }
}

#[tokio::test]
async fn a_key_may_not_use_another_model_by_a_raw_request() {
    let state = state(&[("a", &[("fast", "mini"), ("good", "large")]), ("b", &[("fast", "other")])]);
    let gateway = Gateway::new(state, Budgets::default());
    let caller = caller(&["fast"], None);
    let asked = async |provider: &str, body: Value| {
        let record = record_of(&caller);
        let answer = gateway.forward(provider, raw("/v1/chat/completions", &body), &record).await;
        answer.map(|_| record.facts().model.as_deref().map(str::to_owned))
    };
    let fast = Some("fast".to_owned());
    assert_eq!(asked("a", json!({"model": "mini"})).await.unwrap(), fast);
    assert_eq!(asked("a", json!({"model": "mini:latest"})).await.unwrap(), fast);
    assert_eq!(asked("b", json!({"model": "other"})).await.unwrap(), fast);
    // By the public name, which means something else there; by a model that nobody lists.
    for (provider, model) in [("a", "large"), ("b", "mini"), ("a", "fast"), ("a", "unlisted")] {
        let refused = asked(provider, json!({ "model": model })).await.unwrap_err();
        assert!(matches!(&refused, GatewayError::NotAllowed(name) if name == model), "{refused:?}");
    }
    for body in [Value::Null, json!({}), json!({"Model": "mini"}), json!({"model": 3}), json!(["model"])] {
        let refused = asked("a", body.clone()).await.unwrap_err();
        assert!(matches!(refused, GatewayError::ModelUntold), "{body}: {refused:?}");
    }
    let mut named = raw("/v1/audio/speech", &json!({"input": "x"}));
    named.model = Some("mini".into());
    let refused = gateway.forward("a", named, &record_of(&caller)).await.unwrap_err();
    assert!(matches!(refused, GatewayError::ModelUntold), "the server does not read it: {refused:?}");
}

#[tokio::test]
async fn a_raw_request_of_a_key_without_bounds_needs_no_model() {
    let gateway = Gateway::new(state(&[("a", &[("fast", "mini")])]), Budgets::default());
    let record = record_of(&caller(&[], Some(cut_off(10))));
    gateway.forward("a", raw("/v1/files", &Value::Null), &record).await.unwrap();
    assert_eq!(record.facts().model, None);
    assert!(record.facts().permit.is_some(), "it has passed the gate");
}
