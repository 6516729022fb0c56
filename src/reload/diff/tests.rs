//! Two models files, and what is told of the difference.

use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::config::{Catalog, Environment, Timeouts};
use crate::leaderboard::Leaderboard;
use crate::prompts::Language;
use crate::providers::{self, Shared};
use crate::router::HealthBook;
use crate::telemetry::Metrics;

struct Loaded {
    catalog: Catalog,
    served: Vec<Served>,
    routes: RoutingTable,
    prompts: PromptLibrary,
}

impl Loaded {
    fn of(models: &Value, prompts: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("models.json");
        fs::write(&file, models.to_string()).unwrap();
        for (path, text) in prompts {
            let path = folder.path().join("prompts").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir_all(folder.path().join("prompts")).unwrap();
        let environment = Environment::of([("PATH", "/bin:/usr/bin")]);
        let catalog = Catalog::load(&file, &environment, Timeouts::default(), false).unwrap();
        let shared = Shared::default();
        let served = catalog.providers.iter().map(|config| Served {
            config: config.clone(),
            provider: providers::build(config, &shared).unwrap(),
            by_key: Vec::new(),
            discovered: Vec::new(),
        });
        let served: Vec<Served> = served.collect();
        let routes = RoutingTable::new(
            &served,
            &catalog,
            &Leaderboard::default(),
            &Metrics::default(),
            &HealthBook::default(),
        );
        let english = Language::parse("en").unwrap();
        let prompts = PromptLibrary::load(&folder.path().join("prompts"), &english).unwrap();
        Self { catalog, served, routes, prompts }
    }

    fn set(&self) -> Set<'_> {
        Set { served: &self.served, routes: &self.routes, catalog: &self.catalog, prompts: &self.prompts }
    }
}

fn told(old: &Value, new: &Value) -> Vec<String> {
    let (old, new) = (Loaded::of(old, &[]), Loaded::of(new, &[]));
    Diff::between(old.set(), new.set()).changes.iter().map(ToString::to_string).collect()
}

fn openai(more: &Value) -> Value {
    let mut provider = json!({"type": "openai", "base_url": "http://h:1/v1", "models": {"m": {}}});
    provider.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    provider
}

fn alone(more: &Value) -> Value {
    json!({"providers": {"a": openai(more)}})
}

#[test]
fn nothing_different_is_nothing_told() {
    let file = alone(&json!({"api_key": "k", "headers": {"x": "y"}}));
    assert_eq!(told(&file, &file), Vec::<String>::new());
    assert_eq!(Diff::default().summary(), "nothing");
}

#[test]
fn a_field_of_a_provider_is_named_and_its_secrets_are_not() {
    let old =
        json!({"api_key": "sk-planted", "headers": {"x-team": "planted"}, "base_url": "http://planted:1/v1"});
    for (change, words) in [
        (json!({"api_key": "sk-planted-2"}), "api_key changed"),
        (json!({"api_key": ""}), "api_key changed"),
        (json!({"headers": {"x-team": "planted-2"}}), "headers changed"),
        (json!({"base_url": "http://planted-2:1/v1"}), "base_url changed"),
        (json!({"timeout": 7.5}), "timeout 300 s → 7.5 s; first_token_timeout"),
        (json!({"base_priority": 2}), "base_priority 1 → 2"),
        (json!({"type": "vllm"}), "type openai → vllm"),
    ] {
        let mut new = old.clone();
        new.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let told = told(&alone(&old), &alone(&new));
        let words = words.split("; first_token").next().unwrap();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(&format!("~ provider a: {words}")), "{told:?}");
        assert!(!told[0].contains("planted"), "{told:?}");
    }
}

#[test]
fn models_come_go_and_change_their_deployments() {
    let two = |a: i32, b: i32, policy: Value| {
        json!({"providers": {
            "a": openai(&json!({"models": {"m": {"priority": a}}})),
            "b": openai(&json!({"models": {"m": {"priority": b, "upstream": "n"}}})),
        }, "models": {"m": policy}})
    };
    let both = two(1, 2, json!({}));
    assert_eq!(
        told(&alone(&json!({})), &both),
        ["+ provider b: type openai", "~ model m: deployment b/n added; a/m: priority 0 → 1"]
    );
    assert_eq!(
        told(&both, &alone(&json!({"models": {"other": {}}}))),
        ["- provider b", "+ model other: a/other", "- model m"]
    );
    assert_eq!(
        told(&both, &two(3, 2, json!({}))),
        ["~ model m: order a/m, b/n → b/n, a/m; a/m: priority 1 → 3"]
    );
    assert_eq!(
        told(&both, &two(1, 2, json!({"strategy": "round_robin", "aliases": ["x", "y"]}))),
        ["~ model m: strategy priority → round_robin; aliases none → x, y"]
    );
    let settings = json!({"models": {"m": {"defaults": {"temperature": 0.5}, "context": 9, "weight": 2}}});
    assert_eq!(
        told(&alone(&json!({})), &alone(&settings)),
        ["~ model m: a/m: weight 1 → 2; a/m: context none → 9; a/m: defaults changed"]
    );
}

#[test]
fn what_holds_for_all_routes_is_told() {
    let with = |routing: Value| json!({"providers": {"a": openai(&json!({}))}, "routing": routing});
    assert_eq!(told(&with(json!({})), &with(json!({"max_wait": 3}))), ["~ routing: max_wait 10 s → 3 s"]);
    let limited = |limits: Value| json!({"providers": {"a": openai(&json!({}))}, "limits": limits});
    let some = limited(json!({"gateway": {"requests_per_minute": 3}}));
    assert_eq!(told(&limited(json!({})), &some), ["~ limits"]);
    let adjusted = |points: i32| {
        let group = json!({"strong": {"priority": points, "regex": ["x"]}});
        json!({"providers": {"a": openai(&json!({}))}, "adjustments": group})
    };
    assert_eq!(told(&adjusted(1), &adjusted(2)), ["~ adjustments"]);
    assert!(told(&adjusted(1), &adjusted(1)).is_empty());
}

#[test]
fn a_variable_of_an_engine_that_is_different_is_told_without_its_value() {
    let with = |value: &str| {
        let variants = json!([{"context": 512, "env": {"HF_HOME": value}}]);
        let local = json!({"type": "llamacpp", "binary": "true", "models": {"q": {"variants": variants}}});
        json!({"providers": {"local": local}})
    };
    assert!(told(&with("one"), &with("one")).is_empty());
    assert_eq!(
        told(&with("one"), &with("two")),
        ["~ engine local/q@512: env changed; one that runs ends with its answers"]
    );
}

#[test]
fn engines_that_would_end_are_told_from_those_that_stay() {
    let with = |models: Value| json!({"providers": {"local": {"type": "llamacpp", "binary": "true", "models": models}}});
    let model = |variants: Value| json!({"q": {"variants": variants}});
    let old = Loaded::of(&with(model(json!([{"context": 512}, {"context": 1024}, {"context": 4096}]))), &[]);
    let new = Loaded::of(
        &with(model(json!([
            {"context": 512}, {"context": 1024, "args": ["-ngl", "9"]}, {"context": 2048},
        ]))),
        &[],
    );
    let diff = Diff::between(old.set(), new.set());
    let told: Vec<String> = diff.changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "~ model q: local/q: context 4096 → 2048",
            "~ engine local/q@1024: args changed; one that runs ends with its answers",
            "+ engine local/q@2048",
            "- engine local/q@4096: one that runs ends with its answers",
        ]
    );
    assert_eq!(diff.kept_engines, ["local/q@512"]);
    assert_eq!(diff.summary(), "1 model changed, 1 engine changed, 1 engine added, 1 engine removed");

    let patient = json!({"q": {"variants": [{"context": 512, "engine_idle_timeout": 9}], "pinned": true}});
    let (old, new) =
        (Loaded::of(&with(model(json!([{"context": 512}]))), &[]), Loaded::of(&with(patient), &[]));
    let diff = Diff::between(old.set(), new.set());
    let told: Vec<String> = diff.changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "~ engine local/q: pinned false → true",
            "~ engine local/q@512: time-outs changed; one that runs stays"
        ]
    );
    assert_eq!(diff.kept_engines, ["local/q@512"]);
}

#[test]
fn prompts_are_told_by_language_with_their_partials() {
    let file = alone(&json!({}));
    let old = Loaded::of(
        &file,
        &[("en/one.prompt", "One."), ("pl/one.prompt", "Jeden."), ("en/two.prompt", "Two.")],
    );
    let new = Loaded::of(
        &file,
        &[
            ("en/one.prompt", "Another one."),
            ("de/one.prompt", "Eins."),
            ("en/_part.prompt", "Part."),
            ("en/three.prompt", "---\ndescription: x\n---\n{{> part}}"),
        ],
    );
    let told: Vec<String> =
        Diff::between(old.set(), new.set()).changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "+ prompt _part: en",
            "~ prompt one: de added; en changed; pl removed",
            "+ prompt three: en",
            "- prompt two",
        ]
    );
    let described = Loaded::of(&file, &[("en/one.prompt", "---\nversion: 2\n---\nOne.")]);
    let plain = Loaded::of(&file, &[("en/one.prompt", "One.")]);
    assert_eq!(
        Diff::between(plain.set(), described.set()).changes[0].to_string(),
        "~ prompt one: en changed"
    );
}

#[test]
fn a_diff_survives_the_way_through_json() {
    let (old, new) = (Loaded::of(&alone(&json!({})), &[]), Loaded::of(&alone(&json!({"timeout": 1})), &[]));
    let diff = Diff::between(old.set(), new.set());
    let json = serde_json::to_value(&diff).unwrap();
    assert_eq!(
        (&json["changes"][0]["kind"], &json["changes"][0]["change"]),
        (&json!("provider"), &json!("changed"))
    );
    assert_eq!(serde_json::from_value::<Diff>(json).unwrap(), diff);
}
