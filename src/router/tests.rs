//! Fail-over between echo providers that make the trouble that their settings ask for.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::config::{Catalog, ModelConfig, ModelPolicy, ModelSource, ProviderConfig, Routing};
use crate::leaderboard::Leaderboard;
use crate::llm::Abilities;
use crate::providers::{self, Shared};
use crate::telemetry::Metrics;
use crate::wire::openai::chat_request;

pub(super) fn served(name: &str, priority: i32, trouble: &Value) -> Served {
    let overrides = json!({ "echo": trouble }).as_object().cloned().unwrap();
    let model = ModelConfig {
        public: "m".to_owned(),
        upstream: format!("{name}-model"),
        priority,
        overrides,
        ..ModelConfig::default()
    };
    let config =
        ProviderConfig { models: ModelSource::Listed(vec![model]), ..ProviderConfig::of(name, "echo") };
    Served {
        provider: providers::build(&config, &Shared::default()).unwrap(),
        config,
        by_key: Vec::new(),
        discovered: Vec::new(),
    }
}

fn table(served: &[Served]) -> (RoutingTable, Metrics) {
    table_with(served, Routing::default())
}

fn table_with(served: &[Served], routing: Routing) -> (RoutingTable, Metrics) {
    let metrics = Metrics::default();
    let policy =
        ModelPolicy { model: "m".to_owned(), aliases: vec!["small".to_owned()], ..ModelPolicy::default() };
    let catalog = Catalog { policies: vec![policy], routing, ..Catalog::default() };
    let board = Leaderboard::default();
    (RoutingTable::new(served, &catalog, &board, &metrics, &HealthBook::default()), metrics)
}

async fn asked(table: &RoutingTable, stream: bool) -> Result<Routed<Answer>, RouteError> {
    asked_with(table, stream, &json!({})).await
}

/// With further members.
async fn asked_with(table: &RoutingTable, stream: bool, more: &Value) -> Result<Routed<Answer>, RouteError> {
    let mut body =
        json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "one two three"}]});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    let request = chat_request(body.to_string().into(), false).unwrap();
    let route = table.route("m").unwrap();
    route.answer((&request, route.least_tokens(&request)), Some(Instant::now() + route.max_wait()), &()).await
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

fn hedging(seconds: u64) -> Routing {
    Routing { hedge_after: Some(Duration::from_secs(seconds)), ..Routing::default() }
}

#[tokio::test(start_paused = true)]
async fn a_second_deployment_is_asked_beside_a_slow_one_and_the_faster_wins() {
    for (slow, quick, winner, seconds) in [(60_000, 1000, "b", 4), (4000, 5000, "a", 4), (2000, 0, "a", 2)] {
        for stream in [false, true] {
            let slow = served("a", 1, &json!({"first_delay_ms": slow}));
            let quick = served("b", 2, &json!({"first_delay_ms": quick}));
            let (table, metrics) = table_with(&[slow, quick], hedging(3));
            let started = Instant::now();

            let routed = asked(&table, stream).await.unwrap();

            assert_eq!((&*routed.deployment.provider_name, started.elapsed().as_secs()), (winner, seconds));
            let is_raced = seconds > 3;
            assert_eq!(routed.attempts, if is_raced { 2 } else { 1 });
            let loser = if winner == "a" { "b" } else { "a" };
            let outrun = format!("provider=\"{loser}\",model=\"m\",outcome=\"outrun\"}} 1");
            assert_eq!(metrics.render().contains(&outrun), is_raced, "{}", metrics.render());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_that_race_one_may_fail() {
    let slow = || served("a", 1, &json!({"first_delay_ms": 10_000}));
    let failing = |trouble: &Value| served("b", 2, trouble);
    for trouble in [json!({"status": 503}), json!({"status": 400})] {
        let (table, _) = table_with(&[slow(), failing(&trouble)], hedging(3));
        let routed = asked(&table, true).await.unwrap();
        assert_eq!((&*routed.deployment.provider_name, routed.attempts), ("a", 2), "{trouble}");
    }
    let mut silent = served("a", 1, &json!({"hang": true}));
    silent.config.timeouts.first_token = Duration::from_secs(5);
    let (table, _) = table_with(
        &[silent, failing(&json!({"first_delay_ms": 4000})), served("c", 3, &json!({}))],
        hedging(3),
    );
    let routed = asked(&table, true).await.unwrap();
    assert_eq!((&*routed.deployment.provider_name, routed.attempts), ("b", 2));
}

#[tokio::test(start_paused = true)]
async fn second_calls_have_a_budget() {
    let slow = served("a", 1, &json!({"first_delay_ms": 10_000}));
    let routing = Routing { hedge_budget: 0.2, ..hedging(3) };
    let (table, _) = table_with(&[slow, served("b", 2, &json!({}))], routing);
    let mut second = 0;
    for _ in 0..20 {
        second += u32::from(asked(&table, true).await.unwrap().attempts == 2);
    }
    assert_eq!(second, 5, "one to begin with, and one for each five");
}

#[tokio::test]
async fn a_deployment_that_does_not_take_the_request_is_asked_last() {
    let no_tools = Abilities { tools: Some(false), output_tokens: Some(100), ..Abilities::default() };
    let with = |name: &str, priority: i32, abilities: Abilities, context_tokens: Option<u64>| {
        let mut served = served(name, priority, &json!({}));
        let ModelSource::Listed(models) = &mut served.config.models else { panic!("listed") };
        models[0].abilities = abilities;
        models[0].context_tokens = context_tokens;
        served
    };
    let (table, _) = table(&[with("a", 1, no_tools, Some(120)), with("b", 2, Abilities::default(), None)]);
    let tools = json!({"tools": [{"type": "function", "function": {"name": "f"}}]});
    for (more, expected) in [
        (json!({}), "a"),
        (tools.clone(), "b"),
        (json!({"max_tokens": 100}), "a"),
        (json!({"max_tokens": 101}), "b"),
        (json!({"user": "x".repeat(600)}), "b"),
    ] {
        let routed = asked_with(&table, false, &more).await.unwrap();
        assert_eq!(&*routed.deployment.provider_name, expected, "{more}");
    }
    let (alone, _) = self::table(&[with("a", 1, no_tools, None)]);
    assert!(asked_with(&alone, false, &tools).await.is_ok(), "what is said of it may be wrong");
}

fn with_keys(name: &str, troubles: &[Value]) -> Served {
    let mut served = served(name, 1, &json!({}));
    served.config.api_keys = troubles.iter().enumerate().map(|(at, _)| format!("key-{at}").into()).collect();
    let keyed = |trouble: &Value| -> Arc<dyn crate::providers::Provider> {
        Arc::new(Keyed { provider: served.provider.clone(), trouble: trouble.clone() })
    };
    served.by_key = troubles.iter().map(keyed).collect();
    served.provider = served.by_key[0].clone();
    served
}

/// Makes trouble with its key.
#[derive(Debug)]
struct Keyed {
    provider: Arc<dyn crate::providers::Provider>,
    trouble: Value,
}

#[async_trait::async_trait]
impl crate::providers::Provider for Keyed {
    fn name(&self) -> &str {
        self.provider.name()
    }

    async fn chat(&self, model: &str, request: &ChatRequest) -> Result<Answer, ProviderError> {
        let trouble = json!({ "echo": self.trouble }).as_object().cloned().unwrap();
        let request = request.with_settings(&serde_json::Map::new(), &trouble).unwrap();
        self.provider.chat(model, &request).await
    }

    async fn models(&self) -> Result<Vec<crate::providers::ModelCard>, ProviderError> {
        self.provider.models().await
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_keys_the_one_that_is_refused_cools_down_alone() {
    for status in [429, 401] {
        let refused = json!({"status": status, "retry_after": 40});
        let keyed = with_keys("a", &[refused, json!({}), json!({})]);
        let (table, _) = table(&[keyed, served("b", 2, &json!({}))]);
        let mut attempts = Vec::new();
        for user in 0..30 {
            let routed = asked_with(&table, true, &json!({"user": format!("u{user}")})).await.unwrap();
            assert_eq!(&*routed.deployment.provider_name, "a");
            attempts.push(routed.attempts);
        }
        assert_eq!(attempts.iter().sum::<u32>(), 31, "only one has met the refused key: {attempts:?}");
        let deployment = &table.route("m").unwrap().deployments[0];
        assert_eq!(deployment.keys(Instant::now()), Some((3, 1)));
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_keys_are_refused_another_deployment_answers() {
    let refused = json!({"status": 429, "retry_after": 40});
    let (table, _) =
        table(&[with_keys("a", &[refused.clone(), refused.clone()]), served("b", 2, &json!({}))]);
    let routed = asked(&table, true).await.unwrap();
    assert_eq!((&*routed.deployment.provider_name, routed.attempts), ("b", 3));
    let routed = asked(&table, true).await.unwrap();
    assert_eq!((&*routed.deployment.provider_name, routed.attempts), ("b", 1), "both rest");
    let (alone, _) = self::table(&[with_keys("a", &[refused.clone(), refused])]);
    assert!(matches!(asked(&alone, true).await.unwrap_err().source.kind, ErrorKind::RateLimited { .. }));
    let resting = asked(&alone, true).await.unwrap_err();
    assert!(matches!(resting.source.kind, ErrorKind::CoolingDown(_)), "{resting:?}");
}

#[tokio::test]
async fn a_server_that_fails_is_not_asked_with_every_key() {
    let failing = json!({"status": 503});
    let (table, _) =
        table(&[with_keys("a", &[failing.clone(), failing.clone(), failing]), served("b", 2, &json!({}))]);
    let routed = asked(&table, true).await.unwrap();
    assert_eq!((&*routed.deployment.provider_name, routed.attempts), ("b", 2));
}

#[tokio::test(start_paused = true)]
async fn without_budget_for_a_race_the_next_one_is_asked_after_a_failure_all_the_same() {
    let mut silent = served("a", 1, &json!({"hang": true}));
    silent.config.timeouts.first_token = Duration::from_secs(5);
    let routing = Routing { hedge_budget: 0.0, ..hedging(1) };
    let (table, _) = table_with(&[silent, served("b", 2, &json!({}))], routing);
    let routed = asked(&table, true).await.unwrap();
    assert_eq!((&*routed.deployment.provider_name, routed.attempts), ("b", 2));
}
