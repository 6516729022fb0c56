//! Callers with keys, made by hand: what they may use raw, and what ends their answers.

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::super::*;
use crate::callers::{Budget, Caller, Key, KeyRing, Part, Period, Rules, Secret, Spent, now_ms};
use crate::config::{Catalog, ModelConfig, ModelSource, ProviderConfig};
use crate::leaderboard::Leaderboard;
use crate::llm::{Frames, Usage};
use crate::prompts::{Language, PromptLibrary};
use crate::providers::{self, Shared};
use crate::router::{HealthBook, RoutingTable, Served};
use crate::telemetry::Metrics;

/// Providers, each with models: public name and the provider's own.
fn state(providers: &[(&str, &[(&str, &str)])]) -> State {
    let served: Vec<Served> = providers.iter().map(|(name, models)| served(name, models)).collect();
    state_of(&served)
}

pub(super) fn state_of(served: &[Served]) -> State {
    let routes = RoutingTable::new(
        served,
        &Catalog::default(),
        &Leaderboard::default(),
        &Metrics::default(),
        &HealthBook::default(),
    );
    let prompts = PromptLibrary::shipped(&Language::parse("en").unwrap()).unwrap();
    State { routes: Arc::new(routes), prompts: Arc::new(prompts), rules: Rules::default() }
}

pub(super) fn served(name: &str, models: &[(&str, &str)]) -> Served {
    let model = |(public, upstream): &(&str, &str)| ModelConfig {
        public: (*public).to_owned(),
        upstream: (*upstream).to_owned(),
        ..ModelConfig::default()
    };
    let config = ProviderConfig {
        models: ModelSource::Listed(models.iter().map(model).collect()),
        ..ProviderConfig::of(name, "echo")
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
    let record = RequestRecord::new("id");
    record.comes_from(caller.clone());
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
        headers: [(http::header::CONTENT_TYPE, "application/json".parse().unwrap())].into_iter().collect(),
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
        assert!(matches!(refused, GatewayError::ModelUntold(_)), "{body}: {refused:?}");
    }
    let mut named = raw("/v1/audio/speech", &json!({"input": "x"}));
    named.model = Some("mini".into());
    let refused = gateway.forward("a", named, &record_of(&caller)).await.unwrap_err();
    assert!(matches!(refused, GatewayError::ModelUntold(_)), "the server does not read it: {refused:?}");
}

#[tokio::test]
async fn no_unclear_body_reaches_a_model_that_is_off() {
    let state = state(&[("a", &[("fast", "mini"), ("good", "large")]), ("b", &[("other", "large")])]);
    let gateway = Gateway::new(state, Budgets::default());
    let unclear = [r#"{"Model":"large"}"#, r#"{"model":"mini","model":"large"}"#, r#"{"model":["large"]}"#];
    let asked = async |provider: &str, body: &'static str| {
        let mut request = raw("/v1/chat/completions", &Value::Null);
        (request.body, request.model) = (Some(body.into()), Some("mini".into()));
        let record = Arc::new(RequestRecord::new("id"));
        gateway.forward(provider, request, &record).await.map(drop)
    };
    gateway.switch_off(["good".to_owned()].into());
    for body in unclear {
        let refused = asked("a", body).await.unwrap_err();
        assert!(matches!(refused, GatewayError::ModelUntold(_)), "{body}: {refused:?}");
        let words = refused.to_string();
        assert!(!words.contains("the key") && words.contains("`model`"), "{words}");
        asked("b", body).await.unwrap();
    }
    asked("a", r#"{"model":"mini"}"#).await.unwrap();
    asked("a", r#"{"model":"unlisted"}"#).await.unwrap();
    for body in [r#"{"model":"LARGE"}"#, r#"{"model":"library/large:latest"}"#] {
        let refused = asked("a", body).await.unwrap_err();
        assert!(matches!(refused, GatewayError::Off(_)), "{body}: {refused:?}");
    }
    assert!(
        asked("a", r#"{"input":"x"}"#).await.is_err(),
        "the server chooses the model, whatever a header says"
    );
    gateway.switch_off(HashSet::new());
    for body in unclear {
        asked("a", body).await.unwrap();
    }
}

#[tokio::test]
async fn a_member_that_rivals_the_model_is_refused_where_it_matters_and_carried_elsewhere() {
    let state = state(&[("a", &[("fast", "mini"), ("good", "large")]), ("b", &[("other", "else")])]);
    let gateway = Gateway::new(state, Budgets::default());
    let bound = caller(&["fast", "other"], None);
    let asked = async |model: &str, member: &str, caller: Option<&Caller>| {
        let body = format!(
            r#"{{"model":"{model}","messages":[{{"role":"user","content":"x"}}],"{member}":"large"}}"#
        );
        let record = caller.map_or_else(|| Arc::new(RequestRecord::new("id")), record_of);
        let request = crate::wire::openai::chat_request(body.into(), false).unwrap();
        let chat = gateway.chat(request, record.clone()).await.map(drop);
        let body = format!(r#"{{"model":"{model}","input":"x","{member}":"large"}}"#);
        let request = crate::wire::openai::embed_request(body.into()).unwrap();
        let embedded = gateway.embed(request, record).await.map(drop);
        [chat, embedded].map(|answer| match answer {
            Ok(()) => None,
            Err(GatewayError::ModelUntold(doubt)) => Some(doubt.param().to_owned()),
            Err(other) => panic!("{other}"),
        })
    };
    for member in ["Model", "MODEL", "models", "fallbacks", "route", r"\u004dodel", "engine", r"model\u0000"]
    {
        let refused = asked("fast", member, Some(&bound)).await;
        assert!(refused.iter().all(Option::is_some), "{member}: {refused:?}");
        assert_eq!(asked("fast", member, None).await, [None, None], "{member}");
    }
    assert_eq!(asked("fast", "modell", Some(&bound)).await, [None, None]);
    gateway.switch_off(["good".to_owned()].into());
    let models = Some("models".to_owned());
    assert_eq!(
        asked("fast", "models", None).await,
        [models.clone(), models.clone()],
        "one of its provider is off"
    );
    assert_eq!(asked("other", "models", None).await, [None, None], "none of this provider is");
    assert_eq!(
        asked("other,fast", "models", None).await,
        [models.clone(), models],
        "it may go on to the first one"
    );
}

#[tokio::test]
async fn a_raw_request_of_a_key_without_bounds_needs_no_model() {
    let gateway = Gateway::new(state(&[("a", &[("fast", "mini")])]), Budgets::default());
    let record = record_of(&caller(&[], Some(cut_off(10))));
    gateway.forward("a", raw("/v1/files", &Value::Null), &record).await.unwrap();
    assert_eq!(record.facts().model, None);
    assert!(record.facts().permit.is_some(), "it has passed the gate");
}

/// A chat with the model that repeats what it is told, one word an event.
fn chat(body: &Value) -> ChatRequest {
    crate::wire::openai::chat_request(body.to_string().into(), false).unwrap()
}

fn stream_of(words: usize, more: &Value) -> Value {
    let mut body =
        json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "w ".repeat(words)}]});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    body
}

/// Somebody's gateway with so many tokens for answers, beyond the estimate of the request.
fn with_tokens(request: &ChatRequest, for_answers: u64) -> (Gateway, Caller) {
    let gateway = Gateway::new(state(&[("a", &[("m", "echoing")])]), Budgets::default());
    let input = Usage::estimated_prompt(request.body.text());
    (gateway, caller(&[], Some(cut_off(input + for_answers))))
}

/// The chunks of a streamed answer, and how its record stands at the end.
async fn streamed(gateway: &Gateway, caller: &Caller, request: ChatRequest) -> (Vec<Value>, (bool, Usage)) {
    let record = record_of(caller);
    let reply = gateway.chat(request, record.clone()).await.unwrap();
    let Generated::Stream(stream) = reply.body else { panic!("no stream") };
    let runs: Vec<_> = stream.collect().await;
    let mut chunks: Vec<Value> = Vec::new();
    for run in runs {
        let run = Frames::of_events(run.unwrap());
        chunks.extend(run.jsons().map(|json| serde_json::from_slice::<Value>(json).unwrap()));
    }
    let mut facts = record.facts();
    let noted = (facts.is_cut, facts.usage.unwrap());
    facts.settle();
    (chunks, noted)
}

#[tokio::test]
async fn a_stream_ends_where_its_budget_does() {
    let request = chat(&stream_of(50, &json!({})));
    let (gateway, caller) = with_tokens(&request, 7);
    let input = Usage::estimated_prompt(request.body.text());

    let (chunks, (is_cut, usage)) = streamed(&gateway, &caller, request.clone()).await;

    assert_eq!((chunks.len(), is_cut), (8, true), "{chunks:?}");
    let (first, last) = (&chunks[0], &chunks[7]);
    for name in ["id", "model", "created", "object"] {
        assert_eq!(first[name], last[name], "{name}");
    }
    assert_eq!(
        last["choices"],
        json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "length"}])
    );
    assert!(chunks[..7].iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()));
    assert_eq!((usage.input_tokens, usage.output_tokens), (input, 7));
    assert_eq!(usage.source, crate::llm::UsageSource::Estimated);
    let refused = gateway.chat(request, record_of(&caller)).await.unwrap_err();
    assert!(matches!(refused, GatewayError::Refused(Refusal::Budget { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_caller_who_wants_usage_gets_it_of_an_ended_stream_too() {
    let request = chat(&stream_of(50, &json!({"stream_options": {"include_usage": true}, "n": 2})));
    let (gateway, caller) = with_tokens(&request, 3);
    let (chunks, (_, usage)) = streamed(&gateway, &caller, request).await;
    let [.., end, counted] = chunks.as_slice() else { panic!("{chunks:?}") };
    let ended: Vec<_> = end["choices"].as_array().unwrap().iter().map(|choice| &choice["index"]).collect();
    assert_eq!(ended, [&json!(0), &json!(1)], "all choices are ended");
    assert_eq!((&counted["choices"], &counted["usage"]), (&json!([]), &usage.to_openai()));
    assert_eq!((&counted["usage"]["completion_tokens"], &counted["id"]), (&json!(3), &end["id"]));
}

#[tokio::test]
async fn text_completions_are_ended_in_their_own_form() {
    let body = json!({"model": "m", "stream": true, "prompt": "w ".repeat(20)});
    let request = crate::wire::openai::completion_request(body.to_string().into()).unwrap();
    let (gateway, caller) = with_tokens(&request, 2);
    let (chunks, (is_cut, _)) = streamed(&gateway, &caller, request).await;
    assert_eq!((chunks.len(), is_cut), (3, true));
    assert_eq!(chunks[2]["object"], "text_completion");
    assert_eq!(
        chunks[2]["choices"],
        json!([{"index": 0, "text": "", "logprobs": null, "finish_reason": "length"}])
    );
}

#[tokio::test]
async fn a_prompt_that_is_the_budget_is_refused_and_takes_nothing() {
    for stream in [true, false] {
        let mut body = stream_of(5, &json!({}));
        body["stream"] = json!(stream);
        let request = chat(&body);
        let (gateway, caller) = with_tokens(&request, 0);
        let record = record_of(&caller);
        let refused = gateway.chat(request, record.clone()).await.unwrap_err();
        assert!(
            matches!(refused, GatewayError::Refused(Refusal::TooLittle { of: "key", until_ms: None })),
            "not even a new day has more: {refused:?}"
        );
        let facts = record.facts();
        assert_eq!((facts.attempts, facts.usage), (0, None), "nobody was asked");
    }
}

#[tokio::test]
async fn what_is_left_of_a_budget_is_held_against_the_prompt() {
    let request = chat(&stream_of(5, &json!({})));
    let (gateway, caller) = with_tokens(&request, 5);
    let before = Part::REQUEST;
    let before = gateway.gate().admit(Some(&caller), "m", before, now_ms()).unwrap();
    before.settle(Spent { tokens: 5, money: 0.0 }, now_ms());
    let refused = gateway.chat(request.clone(), record_of(&caller)).await.unwrap_err();
    assert!(
        matches!(refused, GatewayError::Refused(Refusal::TooLittle { until_ms: Some(_), .. })),
        "tomorrow there is enough: {refused:?}"
    );
    // One that lets answers end lets the last request go beyond it.
    let generous = self::caller(&[], Some(Budget { cut_off: false, ..cut_off(6) }));
    assert!(gateway.chat(request, record_of(&generous)).await.is_ok());
}

#[tokio::test]
async fn an_answer_within_the_budget_ends_by_itself() {
    let request = chat(&stream_of(5, &json!({})));
    for (tokens, is_cut) in [(100, false), (5, true), (6, false)] {
        let (gateway, caller) = with_tokens(&request, tokens);
        let (chunks, noted) = streamed(&gateway, &caller, request.clone()).await;
        let reason = if is_cut { "length" } else { "stop" };
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], reason, "{tokens}: {chunks:?}");
        assert_eq!(noted.0, is_cut, "{tokens}");
    }
}

#[tokio::test]
async fn a_budget_that_lets_answers_end_does() {
    let request = chat(&stream_of(50, &json!({})));
    let (gateway, _) = with_tokens(&request, 0);
    let generous = caller(&[], Some(Budget { cut_off: false, ..cut_off(1) }));
    let (chunks, (is_cut, usage)) = streamed(&gateway, &generous, request).await;
    assert_eq!(
        (chunks.last().unwrap()["choices"][0]["finish_reason"].as_str(), is_cut),
        (Some("stop"), false)
    );
    assert_eq!(usage.output_tokens, 50);
}

#[tokio::test]
async fn what_others_spend_meanwhile_counts() {
    let request = chat(&stream_of(400, &json!({"echo": {"delay_ms": 1}})));
    let (gateway, caller) = with_tokens(&request, 300);
    let record = record_of(&caller);
    let other = Part::REQUEST;
    let other = gateway.gate().admit(Some(&caller), "m", other, now_ms()).unwrap();
    let reply = gateway.chat(request, record.clone()).await.unwrap();
    let Generated::Stream(mut stream) = reply.body else { panic!("no stream") };
    stream.next().await.unwrap().unwrap();
    other.settle(Spent { tokens: 250, money: 0.0 }, now_ms());
    let mut events = 0;
    while let Some(run) = stream.next().await {
        run.unwrap();
        events += 1;
    }
    assert!(
        format!("{stream:?}").contains("frames: None"),
        "the upstream is given up before the caller leaves"
    );
    assert!(record.facts().is_cut && (49..=49 + 32).contains(&events), "{events}");
}

#[tokio::test]
async fn a_whole_answer_is_asked_for_within_the_budget() {
    for (asked, for_answers, words) in
        [(json!({}), 4, 4), (json!({"max_tokens": 3}), 4, 3), (json!({"max_tokens": 9}), 4, 4)]
    {
        let mut body = stream_of(20, &asked);
        body["stream"] = json!(false);
        let request = chat(&body);
        let (gateway, caller) = with_tokens(&request, for_answers);
        let record = record_of(&caller);
        let reply = gateway.chat(request, record.clone()).await.unwrap();
        let Generated::Whole(completion) = reply.body else { panic!("a stream") };
        let answer: Value = serde_json::from_slice(&completion.body).unwrap();
        assert_eq!(answer["choices"][0]["finish_reason"], "length", "{asked}");
        assert_eq!(answer["usage"]["completion_tokens"], words, "{asked}");
        assert!(!record.facts().is_cut, "its provider has ended it");
    }
}

#[tokio::test]
async fn a_conversation_ends_likewise() {
    let text = "w ".repeat(50);
    let conversation = Conversation {
        model: "m".to_owned(),
        opening: Opening::Text(String::new()),
        history: Vec::new(),
        statement: text,
        stream: true,
        options: Options::default(),
    };
    let (gateway, caller) = with_tokens(&conversation.clone().into_request(None), 5);
    let record = record_of(&caller);
    let reply = gateway.converse(conversation, record.clone()).await.unwrap();
    let Generated::Stream(stream) = reply.body else { panic!("no stream") };
    let runs: Vec<_> = stream.collect().await;
    let last = Frames::of_events(runs.last().unwrap().as_ref().unwrap().clone());
    let last: Value = serde_json::from_slice(last.jsons().last().unwrap()).unwrap();
    assert_eq!((&last["choices"][0]["finish_reason"], runs.len()), (&json!("length"), 5));
    assert!(record.facts().is_cut);
}
