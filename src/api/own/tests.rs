//! The holder's own key, asked with callers that the door would have let in.

use std::collections::HashMap;

use poem::endpoint::BoxEndpoint;
use poem::http::Method;
use poem::{Endpoint, Request, Response};
use poem_openapi::OpenApi;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::accounts::Accounts;
use crate::api::context::{Admitted, Callers};
use crate::app::Sources;
use crate::callers::{
    Budget, Budgets, Change, Ending, Key, KeyRing, Limits, NewKey, Nowhere, Period, Secret, Spent,
    UsageRecord,
};
use crate::config::{Environment, Settings};
use crate::engine::{Engines, Launcher};
use crate::gateway::Gateway;
use crate::llm::UsageSource;
use crate::reload::Reloads;
use crate::store::{self, Store};
use crate::telemetry::{Health, Metrics, RequestRecord};

struct House {
    routes: HashMap<String, HashMap<Method, BoxEndpoint<'static>>>,
    context: Arc<Context>,
    ring: Arc<KeyRing>,
    store: Arc<dyn Store>,
    _folder: TempDir,
}

impl House {
    async fn build() -> Self {
        let folder = TempDir::new().unwrap();
        let models = json!({"providers": {"echo": {"type": "echo", "models": {"echo": {}}}}});
        let file = folder.path().join("models.json");
        std::fs::write(&file, models.to_string()).unwrap();
        let environment = Environment::of([("LLM_PROXY_API_MODELS_CONFIG", file.to_str().unwrap())]);
        let settings = Settings::from_environment(&environment).unwrap();
        let sources = Sources::new(settings.clone(), folder.path().to_owned(), Metrics::default());
        let state = sources.load(&environment, None).await.unwrap().state();
        let gateway = Arc::new(Gateway::new(state, Budgets::default()));
        let url = format!("sqlite://{}/keys.db", folder.path().display());
        let (store, ring) = (store::open(&url).await.unwrap(), Arc::new(KeyRing::default()));
        let accounts = Arc::new(Accounts::new(store.clone(), ring.clone()));
        let engines = Engines::started_by(Launcher::default());
        let figures = (Metrics::default(), Arc::new(Health::default()));
        let callers = Callers { ring: ring.clone(), ledger: Arc::new(Nowhere), is_loopback: true };
        let context = Context::new(&settings, gateway, engines, figures, (Reloads::new().0, callers));
        let context = Arc::new(context.with_accounts(Some(accounts)));
        let mut routes = HashMap::new();
        OwnApi { context: context.clone() }.add_routes(&mut routes);
        Self { routes, context, ring, store, _folder: folder }
    }

    async fn key(&self, name: &str, change: Change) -> (Key, Secret) {
        let new = NewKey { name: name.to_owned(), change };
        self.context.accounts().unwrap().create(Actor::Admin, new).await.unwrap()
    }

    /// Asks as the holder of a secret; or as nobody.
    async fn ask(
        &self,
        method: Method,
        uri: &str,
        secret: Option<&Secret>,
        body: &str,
    ) -> Result<Response, Value> {
        let record = Arc::new(RequestRecord::new("r"));
        if let Some(secret) = secret {
            record.comes_from(self.ring.find(secret, now_ms()).unwrap());
        }
        let path = uri.split('?').next().unwrap();
        let shown = secret.map(|secret| secret.reveal().to_owned()).unwrap_or_default();
        let request = Request::builder().method(method.clone()).uri_str(uri).header("x-api-key", shown);
        let mut request = request.body(body.to_owned());
        request.set_data(Admitted { record, ..Admitted::default() });
        let answered = self.routes[path][&method].call(request).await;
        answered.map_err(|error| ApiError::from_poem(&error).body(false)["error"].clone())
    }

    async fn json(&self, method: Method, uri: &str, secret: &Secret, body: &str) -> Value {
        let mut response = self.ask(method, uri, Some(secret), body).await.unwrap();
        serde_json::from_str(&response.take_body().into_string().await.unwrap()).unwrap()
    }
}

fn used(id: &str, key: &str, tokens: u64) -> UsageRecord {
    UsageRecord {
        id: id.into(),
        mark: 0,
        time_ms: now_ms() - 60_000,
        key: Some(key.into()),
        owner: None,
        endpoint: "/v1/chat/completions".into(),
        model: Some("echo".into()),
        provider: Some("echo".into()),
        deployment: None,
        prompt: None,
        input_tokens: tokens,
        output_tokens: 1,
        cached_input_tokens: 0,
        reasoning_tokens: 0,
        source: UsageSource::Provider,
        ending: Ending::Completed,
        error: None,
        first_token_ms: None,
        total_ms: 5,
        attempts: 1,
        cost: None,
    }
}

#[tokio::test]
async fn without_a_key_there_is_nothing_to_tell() {
    let house = House::build().await;
    for (method, path) in
        [(Method::GET, "/api/me"), (Method::GET, "/api/me/usage"), (Method::POST, "/api/me/rotate")]
    {
        let error = house.ask(method, path, None, "").await.err().unwrap();
        assert_eq!((&error["code"], &error["type"]), (&json!("key_not_found"), &json!("not_found_error")));
        assert!(error["message"].to_string().contains("LLM_PROXY_API_AUTH"), "{error}");
    }
}

#[tokio::test]
async fn the_holder_sees_what_is_left() {
    let house = House::build().await;
    let budget = Budget { tokens: Some(100), money: None, period: Period::Day, cut_off: true };
    let limits = Limits { requests_per_minute: Some(7), ..Limits::default() };
    let change = Change {
        owner: Some(Some("ann".to_owned())),
        allowed_models: Some(vec!["gpt-*".to_owned()]),
        limits: Some(limits),
        budget: Some(Some(budget)),
        note: Some(Some("for operators alone".to_owned())),
        ..Change::default()
    };
    let (key, secret) = house.key("mine", change).await;
    let whose = Whose::Key(key.id.as_str().into());
    let spent = Spent { tokens: 30, money: 0.0 };
    house.context.gateway.gate().budgets().at_least(&whose, &budget, spent, now_ms());

    let me = house.json(Method::GET, "/api/me", &secret, "").await;
    assert_eq!(
        (&me["id"], &me["name"], &me["owner"], &me["allowed_models"]),
        (&json!(key.id), &json!("mine"), &json!("ann"), &json!(["gpt-*"]))
    );
    assert_eq!(me["limits"]["requests_per_minute"]["limit"], 7);
    assert_eq!(me["limits"]["requests_per_minute"]["remaining"], 7);
    assert_eq!(me["limits"]["tokens_per_minute"], json!(null));
    assert_eq!(
        (&me["budget"]["spent_tokens"], &me["budget"]["remaining_tokens"], &me["budget"]["period"]),
        (&json!(30), &json!(70), &json!("day"))
    );
    assert!(me["budget"]["ends_at"].as_str().unwrap().ends_with("T00:00:00Z"), "{me}");
    let text = me.to_string();
    assert!(!text.contains(secret.reveal()) && !text.contains("for operators alone"), "{me}");
}

#[tokio::test]
async fn the_holder_sees_no_other_keys_usage() {
    let house = House::build().await;
    let (mine, secret) = house.key("mine", Change::default()).await;
    let (other, _) = house.key("other", Change::default()).await;
    let records = [used("1", &mine.id, 10), used("2", &mine.id, 20), used("3", &other.id, 500)];
    house.store.record(&records).await.unwrap();

    let usage = house.json(Method::GET, "/api/me/usage?group_by=key,model", &secret, "").await;
    let rows = usage["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{usage}");
    assert_eq!(
        (&rows[0]["key"], &rows[0]["model"], &rows[0]["requests"], &rows[0]["prompt_tokens"]),
        (&json!(mine.id), &json!("echo"), &json!(2), &json!(30))
    );
    let uri = format!("/api/me/usage?key={}", other.id);
    let error = house.ask(Method::GET, &uri, Some(&secret), "").await.err().unwrap();
    assert_eq!((&error["code"], &error["param"]), (&json!("invalid_value"), &json!("query")));
    let table = house.ask(Method::GET, "/api/me/usage?format=csv", Some(&secret), "").await.unwrap();
    assert_eq!(table.content_type(), Some("text/csv; charset=utf-8"));
}

#[tokio::test]
async fn the_holder_changes_the_own_secret_alone() {
    let house = House::build().await;
    let (key, first) = house.key("mine", Change::default()).await;
    let mut response =
        house.ask(Method::POST, "/api/me/rotate", Some(&first), r#"{"grace_seconds": 0}"#).await.unwrap();
    assert_eq!(response.headers()["cache-control"], "no-store");
    let told: Value = serde_json::from_str(&response.take_body().into_string().await.unwrap()).unwrap();
    let second = Secret::shown(told["key"].as_str().unwrap());
    assert_eq!(told["id"], json!(key.id));
    assert!(house.ring.find(&first, now_ms()).is_err());
    assert_eq!(house.ring.find(&second, now_ms()).unwrap().key.id, key.id);
    let audits = house.store.audits(None, 1).await.unwrap();
    assert_eq!(audits[0].entry.actor, format!("key:{}", key.id));

    // Without a word, the secret before opens for an hour yet.
    let told = house.json(Method::POST, "/api/me/rotate", &second, "").await;
    assert!(house.ring.find(&second, now_ms() + 3_500_000).is_ok());
    assert!(house.ring.find(&second, now_ms() + 3_700_000).is_err());
    assert!(told["previous_until"].is_string(), "{told}");
    let third = Secret::shown(told["key"].as_str().unwrap());
    let error = house.ask(Method::POST, "/api/me/rotate", Some(&second), "").await.err().unwrap();
    assert_eq!(error["code"], "secret_replaced");
    for (body, param) in [
        (r#"{"grace_seconds": -1}"#, "grace_seconds"),
        (r#"{"grace_seconds": 2592001}"#, "grace_seconds"),
        (r#"{"grace_secs": 1}"#, "grace_secs"),
    ] {
        let error = house.ask(Method::POST, "/api/me/rotate", Some(&third), body).await.err().unwrap();
        assert_eq!(error["param"], json!(param), "{error}");
    }
}
