//! Fail-over between echo providers that make the trouble that their settings ask for.

use serde_json::{Value, json};

use super::*;
use crate::config::{Catalog, ModelConfig, ModelPolicy, ModelSource, ProviderConfig, Timeouts};
use crate::providers::{self, Shared};
use crate::telemetry::Metrics;
use crate::wire::openai::chat_request;

fn served(name: &str, priority: i32, trouble: &Value) -> Served {
    let overrides = json!({ "echo": trouble }).as_object().cloned().unwrap();
    let model = ModelConfig {
        public: "m".to_owned(),
        upstream: format!("{name}-model"),
        priority,
        overrides,
        ..ModelConfig::default()
    };
    let config = ProviderConfig {
        name: name.to_owned(),
        kind: "echo".to_owned(),
        base_url: None,
        api_key: None,
        headers: Vec::new(),
        timeouts: Timeouts::default(),
        probe: None,
        base_priority: 1.0,
        engines: crate::config::EngineSettings::default(),
        models: ModelSource::Listed(vec![model]),
        place: String::new(),
    };
    Served {
        provider: providers::build(&config, &Shared::default()).unwrap(),
        config,
        discovered: Vec::new(),
    }
}

fn table(served: &[Served]) -> (RoutingTable, Metrics) {
    let metrics = Metrics::default();
    let policy =
        ModelPolicy { model: "m".to_owned(), aliases: vec!["small".to_owned()], ..ModelPolicy::default() };
    let catalog = Catalog { policies: vec![policy], ..Catalog::default() };
    (RoutingTable::new(served, &catalog, &metrics, &HealthBook::default()), metrics)
}

async fn asked(table: &RoutingTable, stream: bool) -> Result<Routed<Answer>, RouteError> {
    let body =
        json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "one two three"}]});
    let request = chat_request(body.to_string().into(), false).unwrap();
    table.route("m").unwrap().answer(&request).await
}

#[tokio::test]
async fn the_deployment_of_the_least_priority_answers() {
    let (table, _) = table(&[served("b", 2, &json!({})), served("a", 1, &json!({}))]);
    let routed = asked(&table, false).await.unwrap();
    assert_eq!((&*routed.deployment.id, routed.attempts), ("a/a-model", 1));
}

#[tokio::test]
async fn names_and_aliases_lead_to_the_same_route() {
    let (table, _) = table(&[served("a", 1, &json!({}))]);
    assert!(Arc::ptr_eq(table.route("m").unwrap(), table.route("small").unwrap()));
    assert!(table.route("other").is_none());
    assert!(table.provider("a").is_some() && table.provider("b").is_none());
}

#[tokio::test]
async fn the_next_deployment_takes_over_from_one_that_fails() {
    for trouble in
        [json!({"status": 503}), json!({"status": 429}), json!({"status": 401}), json!({"cut_after": 0})]
    {
        for stream in [false, true] {
            let (table, metrics) = table(&[served("a", 1, &trouble), served("b", 2, &json!({}))]);
            let routed = asked(&table, stream).await.unwrap();
            assert_eq!((&*routed.deployment.provider_name, routed.attempts), ("b", 2), "{trouble}");
            assert!(metrics.render().contains("provider=\"a\",model=\"m\",outcome=\"failed\"} 1"));
        }
    }
}

#[tokio::test]
async fn a_callers_mistake_is_not_tried_elsewhere() {
    let (table, metrics) = table(&[served("a", 1, &json!({"status": 422})), served("b", 2, &json!({}))]);
    let error = asked(&table, false).await.unwrap_err();
    assert_eq!(error.attempts, 1);
    assert!(matches!(error.source.kind, ErrorKind::Rejected(rejection) if rejection.status == 422));
    assert!(metrics.render().contains("provider=\"a\",model=\"m\",outcome=\"rejected\"} 1"));
}

#[tokio::test]
async fn when_all_fail_the_last_failure_is_told() {
    let (table, _) =
        table(&[served("a", 1, &json!({"status": 500})), served("b", 2, &json!({"status": 502}))]);
    let error = asked(&table, true).await.unwrap_err();
    assert_eq!((error.attempts, &*error.deployment), (2, "b/b-model"));
    assert!(matches!(error.source.kind, ErrorKind::Unavailable { status: 502, .. }));
}

#[tokio::test]
async fn a_stream_that_fails_after_content_is_not_tried_elsewhere() {
    use futures_util::StreamExt;
    let (table, _) = table(&[served("a", 1, &json!({"cut_after": 1})), served("b", 2, &json!({}))]);
    let routed = asked(&table, true).await.unwrap();
    assert_eq!(&*routed.deployment.provider_name, "a");
    let Content::Stream(frames) = routed.answer.content else { panic!("a stream") };
    let items: Vec<_> = frames.collect().await;
    assert!(items.len() == 2 && items[1].is_err());
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_keeps_silent_is_given_up_in_time() {
    for (stream, limit) in [(true, 20), (false, 90)] {
        let mut silent = served("a", 1, &json!({"hang": true}));
        silent.config.timeouts.first_token = std::time::Duration::from_secs(20);
        silent.config.timeouts.request = std::time::Duration::from_secs(90);
        let (table, _) = table(&[silent, served("b", 2, &json!({}))]);
        let started = tokio::time::Instant::now();

        let routed = asked(&table, stream).await.unwrap();

        assert_eq!(&*routed.deployment.provider_name, "b");
        assert_eq!(started.elapsed().as_secs(), limit);
    }
}
