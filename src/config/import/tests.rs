//! What older files become, and that nothing is lost on the way.

use std::path::PathBuf;

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::config::{Catalog, ConfigError, Environment, Imported, ModelConfig, ModelSource, Timeouts};

/// Files by their names. The first is the one that is read.
const FLAT: &[(&str, &str)] =
    &[("models-config.json", include_str!("../../../tests/fixtures/older/flat.json"))];
const LISTS: &[(&str, &str)] =
    &[("models-config.json", include_str!("../../../tests/fixtures/older/lists.json"))];
const META: &[(&str, &str)] = &[
    ("clouds.yaml", include_str!("../../../tests/fixtures/older/meta/meta-providers.yaml")),
    ("model-adjustments.yaml", include_str!("../../../tests/fixtures/older/meta/model-adjustments.yaml")),
];

/// A folder with an older file in it.
struct Older {
    folder: TempDir,
    name: &'static str,
}

impl Older {
    fn new(files: &[(&'static str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self { folder, name: files[0].0 }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    fn load(&self) -> Result<Catalog, ConfigError> {
        let environment = Environment::of([("CLOUD_TOKEN", "t"), ("NORTH_API_KEY", "n")]);
        Catalog::load(&self.path(), &environment, Timeouts::default(), false)
    }

    fn import(&self) -> Result<Imported, ConfigError> {
        Catalog::import(&self.path(), &Environment::default())
    }
}

fn lists(providers: &Value, sleeping: &Value) -> String {
    json!({"f": {"m": {"providers": providers, "providers_sleep": sleeping}}, "active_models": {"f": ["m"]}})
        .to_string()
}

fn server(more: Value) -> Value {
    let mut server = json!({"api_host": "http://h:1", "api_token": "", "api_type": "openai"});
    let Value::Object(more) = more else { panic!("an object: {more}") };
    server.as_object_mut().unwrap().extend(more);
    server
}

fn imported(text: &str) -> Imported {
    Older::new(&[("models-config.json", text)]).import().unwrap()
}

fn fault(text: &str) -> String {
    Older::new(&[("models-config.json", text)]).load().unwrap_err().to_string()
}

#[test]
fn a_file_with_one_server_a_model_becomes_providers_by_family_and_server() {
    let imported = Older::new(FLAT).import().unwrap();
    let expected = json!({"providers": {
        "workshop_models": {"type": "ollama", "base_url": "http://127.0.0.1:11434", "models": {
            "workshop/small-chat": {"context": 8192, "defaults": {"keep_alive": "35m"}}}},
        "cloud_models": {"type": "openai", "base_url": "https://llm.example/v1", "api_key": "${CLOUD_TOKEN}", "models": {
            "cloud/big-chat": {"upstream": "big-chat-2025", "context": 128_000},
            "cloud/quick-chat": {}}},
        "cloud_models-2": {"type": "vllm", "base_url": "http://10.0.0.9:8000/v1", "models": {
            "cloud/own-chat": {"upstream": "/data/own-chat", "context": 32_768}}},
    }});
    assert_eq!(imported.file, expected, "{:#}", imported.file);
    assert!(imported.warnings.is_empty(), "{:?}", imported.warnings);
}

#[test]
fn a_file_with_lists_of_servers_becomes_a_provider_each() {
    let imported = Older::new(LISTS).import().unwrap();
    let at = |port: u16| format!("http://127.0.0.1:{port}/v1");
    let expected = json!({
        "providers": {
            "bench-a-7000": {"type": "vllm", "base_url": at(7000), "models": {
                "workshop/chat": {"context": 8192, "supports": {"tools": false}}}},
            "bench-b-7000": {"type": "vllm", "base_url": at(7001), "models": {"workshop/chat": {"context": 8192}}},
            "bench-spare": {"type": "openai", "base_url": at(7002), "models": {
                "workshop/chat": {"upstream": "chat-on-loan", "priority": 2, "context": 4096, "supports": {"tools": true}}}},
            "often": {"type": "openai", "base_url": at(7003), "models": {"workshop/weighed": {"weight": 0.75}}},
            "seldom": {"type": "openai", "base_url": at(7004), "models": {"workshop/weighed": {"weight": 0.25}}},
            "never": {"type": "openai", "base_url": at(7005), "models": {"workshop/weighed": {"priority": 1}}},
            "bench-a-7000-2": {"type": "ollama", "base_url": "http://127.0.0.1:11434", "models": {
                "workshop/embedder": {"upstream": "tiny-embedder:latest", "context": 2048, "defaults": {"keep_alive": "5m"}}}},
            "bench-a-7000-3": {"type": "openai", "base_url": at(1234), "models": {"cloud/desk": {}}},
            "clever": {"type": "openai", "base_url": "https://clever.example/v1", "api_key": "planted-token", "models": {
                "cloud/desk": {"upstream": "clever-1", "priority": 2}}},
        },
        "models": {"workshop/chat": {"strategy": "round_robin"}, "workshop/weighed": {"strategy": "weighted"}},
    });
    assert_eq!(imported.file, expected, "{:#}", imported.file);
    let warnings = imported.warnings.join("\n");
    for words in [
        "cloud_models.cloud/desk.providers[0] (`bench-a-7000`): `keep_alive` has no effect",
        "cloud_models.cloud/desk.providers_sleep[0] (`clever`): `anthropic` is asked by",
        "(`clever`): `api_token` stands in the file itself",
    ] {
        assert!(warnings.contains(words), "{words}: {warnings}");
    }
    assert_eq!(imported.warnings.len(), 3, "{warnings}");
    assert!(!warnings.contains("planted"));
}

#[test]
fn a_list_of_clouds_becomes_providers_that_are_discovered_and_scored() {
    let imported = Older::new(META).import().unwrap();
    let cloud = |mut settings: Value| {
        let more =
            json!({"optional": true, "discover_every": 86_400, "models": "discover", "type": "openai"});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        settings
    };
    let expected = json!({
        "providers": {
            "north": cloud(json!({"base_url": "http://127.0.0.1:7100/openai/v1", "api_key": "${NORTH_API_KEY}", "base_priority": 1})),
            "south": cloud(json!({"base_url": "http://127.0.0.1:7101/compat/v1", "models_url": "http://127.0.0.1:7101/listing",
                "api_key": "${SOUTH_API_KEY}", "base_priority": 0.5})),
            "north-2": cloud(json!({"base_url": "http://127.0.0.1:7102/v1", "api_key": "${NORTH_API_KEY}", "base_priority": 0.25})),
        },
        "routing": {"strategy": "score"},
        "adjustments": {
            "strong family": {"priority": 30, "regex": [".*strong.*", ".*strng-v2.*"]},
            "small ones": {"priority": -5, "regex": ["(tiny|lite)$"]},
            "not chat": {"priority": -10_000, "regex": [".*embed.*"]},
        },
    });
    assert_eq!(imported.file, expected, "{:#}", imported.file);
    assert!(imported.warnings.is_empty(), "{:?}", imported.warnings);

    let catalog = Older::new(META).load().unwrap();
    let names: Vec<&str> = catalog.providers.iter().map(|provider| provider.name.as_str()).collect();
    assert_eq!(names, ["north", "north-2"]);
    assert_eq!(catalog.warnings.len(), 1);
    assert!(catalog.warnings[0].contains("`south` is left out: the environment variable SOUTH_API_KEY"));

    let alone = Older::new(&META[..1]).load().unwrap();
    assert!(alone.adjustments.is_empty() && alone.providers.len() == 2);
}

/// Everything of a catalog that does not name a place in its file.
fn substance(catalog: Catalog) -> String {
    let mut catalog = catalog;
    catalog.warnings.clear();
    let mut keys = Vec::new();
    for provider in &mut catalog.providers {
        provider.place.clear();
        keys.push(provider.api_key.as_ref().map(|key| key.expose_secret().to_owned()));
    }
    format!("{catalog:#?}\n{keys:?}")
}

#[test]
fn what_is_printed_loads_to_what_the_older_file_loads_to() {
    for files in [FLAT, LISTS, META] {
        let older = Older::new(files);
        let text = format!("{:#}", older.import().unwrap().file);
        let printed = Older::new(&[("printed.json", &text)]);

        assert_eq!(substance(older.load().unwrap()), substance(printed.load().unwrap()), "{text}");
        // What has our form already is printed as it is.
        let again = printed.import().unwrap();
        assert_eq!(format!("{:#}", again.file), text);
        assert!(again.warnings[0].contains("has the form of this service already"), "{:?}", again.warnings);
    }
}

#[test]
fn the_form_of_the_text_is_of_no_matter() {
    let yaml = "f:\n  m:\n    api_host: http://h:1\n    api_type: vllm\n    input_size: '5'\nactive_models:\n  f: [m]\n";
    let yaml = Older::new(&[("old.yaml", yaml)]).import().unwrap().file;
    let json = imported(
        r#"{"f": {"m": {"api_host": "http://h:1", "api_type": "vllm", "input_size": 5}}, "active_models": {"f": ["m"]}}"#,
    );
    assert_eq!(yaml, json.file);
    let clouds =
        json!({"providers": [{"api_key_env_var": "A_KEY", "base_url": "http://h/v1", "base_priority": "2"}]});
    let clouds = Older::new(&[("clouds.json", &clouds.to_string())]).import().unwrap();
    assert_eq!(clouds.file["providers"]["a"]["base_priority"], 2.0);
}

#[test]
fn addresses_end_as_their_type_wants_them() {
    for (kind, host, base_url) in [
        ("openai", "http://h:1", "http://h:1/v1"),
        ("openai", "http://h:1/v1", "http://h:1/v1"),
        ("openai", "http://h:1/v1///", "http://h:1/v1"),
        ("vllm", "https://h/proxy/", "https://h/proxy/v1"),
        ("lmstudio", "http://h:1/v1/", "http://h:1/v1"),
        ("anthropic", "https://h/", "https://h/v1"),
        ("ollama", "http://h:1/v1/", "http://h:1"),
        ("ollama", " http://h:1/ ", "http://h:1"),
        ("openai", "${HOST}", "${HOST}"),
        ("openai", "${HOST}/v1/", "${HOST}/v1"),
        ("openai", "http://${HOST}:80", "http://${HOST}:80/v1"),
    ] {
        let file =
            imported(&lists(&json!([server(json!({"api_host": host, "api_type": kind}))]), &json!(null)));
        assert_eq!(file.file["providers"]["f"]["base_url"], base_url, "{kind} {host}");
    }
}

/// Weights of servers and of spare ones, and what becomes of them: the strategy, then priority and weight of each.
type Weighed = (&'static [f64], &'static [f64], Option<&'static str>, &'static [(i32, Option<f64>)]);

const WEIGHED: &[Weighed] = &[
    (&[1.0], &[], None, &[(0, None)]),
    (&[0.0], &[], None, &[(0, None)]),
    (&[1.0], &[0.5], None, &[(0, None), (2, None)]),
    (&[0.5, 0.5], &[], Some("round_robin"), &[(0, None), (0, None)]),
    (&[0.0, 0.0], &[], Some("round_robin"), &[(0, None), (0, None)]),
    (&[0.5, 0.25], &[], Some("weighted"), &[(0, Some(0.5)), (0, Some(0.25))]),
    // Beyond 1 and below 0 are 1 and 0.
    (&[7.0, 1.0, -3.0], &[], Some("round_robin"), &[(0, None), (0, None), (1, None)]),
    (&[1.0, 0.0], &[], None, &[(0, None), (1, None)]),
    (&[1.0], &[0.5, 0.25], Some("weighted"), &[(0, Some(1.0)), (2, Some(0.5)), (2, Some(0.25))]),
    (&[1.0, 1.0], &[1.0, 0.0], Some("round_robin"), &[(0, None), (0, None), (2, None), (3, None)]),
];

#[test]
fn servers_take_turns_or_go_by_weight_and_spare_ones_come_last() {
    for (weights, sleeping, strategy, expected) in WEIGHED {
        let servers = |weights: &[f64]| {
            weights.iter().map(|weight| server(json!({"weight": weight}))).collect::<Value>()
        };
        let older = Older::new(&[("models-config.json", &lists(&servers(weights), &servers(sleeping)))]);
        let file = older.import().unwrap().file;
        assert_eq!(file["models"]["m"]["strategy"].as_str(), *strategy, "{weights:?} {sleeping:?}");
        let catalog = older.load().unwrap();
        let models = catalog.providers.iter().map(|provider| match &provider.models {
            ModelSource::Listed(models) => &models[0],
            ModelSource::Discovered => panic!("listed"),
        });
        let ranks: Vec<(i32, Option<f64>)> =
            models.map(|model: &ModelConfig| (model.priority, model.weight)).collect();
        assert_eq!(ranks, *expected, "{weights:?} {sleeping:?}");
    }
}

#[test]
fn a_model_of_two_families_is_one_model() {
    let file = json!({"a": {"m": server(json!({}))}, "b": {"m": server(json!({}))}, "active_models": {"a": ["m", "m"], "b": ["m"]}});
    let imported = imported(&file.to_string());
    assert_eq!(imported.file["models"], json!({"m": {"strategy": "round_robin"}}));
    assert_eq!(imported.file["providers"].as_object().unwrap().len(), 2);
    assert!(imported.warnings[0].contains("active_models.a: `m` stands twice"), "{:?}", imported.warnings);
}

/// A file with one fault, the place that is told, and how.
type Faulty<'t> = (String, &'t str, &'t str);

fn told(faulty: &[Faulty<'_>]) {
    for (text, place, words) in faulty {
        let error = fault(text);
        assert!(error.contains(place) && error.contains(words), "{text}\n{error}");
        assert!(!error.contains("planted") && error.lines().count() == 1, "{error}");
    }
}

fn flat(model: &Value) -> String {
    json!({"f": {"m": model}, "active_models": {"f": ["m"]}}).to_string()
}

const AT_M: &str = "models-config.json: f.m";

#[test]
fn faults_of_families_and_models_name_their_places() {
    let at = "active_models";
    for (text, place, words) in [
        (
            r#"{"f": {"m": {"api_host": "http://h"}}}"#,
            "models-config.json",
            "`active_models` is missing; name what",
        ),
        (r#"{"f": {}, "active_models": []}"#, at, "this is a list, not an object"),
        (
            r#"{"chats": {}, "active_models": {"chat": ["m"]}}"#,
            at,
            "there is no family `chat`; did you mean `chats`?",
        ),
        (
            r#"{"f": {"chat-one": {}}, "active_models": {"f": ["chat-oen"]}}"#,
            "active_models.f",
            "no model `chat-oen` in the family `f`; did you mean `chat-one`?",
        ),
        (r#"{"f": {}, "active_models": {"f": [7]}}"#, "active_models.f", "lists something that is no text"),
        (r#"{"f": {}, "active_models": {"f": "m"}}"#, at, "`f` is a text, not a list"),
        (
            r#"{"f": 7, "active_models": {"f": ["m"]}}"#,
            "models-config.json: f",
            "this is a number, not an object",
        ),
    ] {
        told(&[(text.to_owned(), place, words)]);
    }
    told(&[
        (flat(&json!({})), AT_M, "the model has no provider"),
        (flat(&json!({"providers": []})), AT_M, "the model has no provider"),
        (flat(&json!({"providers_sleep": [server(json!({}))]})), AT_M, "the model has no provider"),
        (flat(&json!([])), AT_M, "this is a list, not an object"),
        (
            json!({"f": {"": server(json!({}))}, "active_models": {"f": [""]}}).to_string(),
            "f.",
            "no usable model name",
        ),
    ]);
}

#[test]
fn faults_of_servers_name_their_places() {
    let of = |more: Value| flat(&server(more));
    let list = |servers: Value| lists(&servers, &json!([]));
    let twice = json!([server(json!({"id": "x"})), server(json!({"id": "x"}))]);
    let second = json!([server(json!({})), server(json!({"id": "two", "weight": "much"}))]);
    told(&[
        (
            of(json!({"input_size": "big"})),
            AT_M,
            "`input_size` is the text `big`, not a whole number from 0; give",
        ),
        (of(json!({"input_size": -1})), AT_M, "`input_size` is -1, not a whole number"),
        (of(json!({"input_size": true})), AT_M, "`input_size` is true, not a whole number"),
        (
            of(json!({"api_hots": "x"})),
            AT_M,
            "the key `api_hots` is not known here; did you mean `api_host`?",
        ),
        (flat(&json!({"api_type": "vllm"})), AT_M, "`api_host` is missing"),
        (
            flat(&json!({"api_host": "http://h"})),
            AT_M,
            "`api_type` is missing; say what it is: openai, vllm, ollama",
        ),
        (of(json!({"api_type": "olama"})), AT_M, "the `api_type` `olama` is unknown; did you mean `ollama`?"),
        (of(json!({"api_host": "h:1"})), AT_M, "`api_host` is no address"),
        (of(json!({"api_token": ["planted"]})), AT_M, "`api_token` is a list, not a text"),
        (
            of(json!({"api_token": "${NOT_SET}"})),
            AT_M,
            "the environment variable NOT_SET is not set; set NOT_SET",
        ),
        (of(json!({"keep_alive": [1]})), AT_M, "`keep_alive` is neither a text nor a number"),
        (of(json!({"tool_calling": "no"})), AT_M, "`tool_calling` is a text, not true or false"),
        (list(json!([7])), "f.m.providers[0]", "this is a number, not an object"),
        (list(second), "f.m.providers[1] (`two`)", "`weight` is the text `much`, not a number"),
        (
            list(twice),
            "f.m.providers[1] (`x`)",
            "the `id` `x` is that of f.m.providers[0] (`x`) already; give each its own",
        ),
    ]);
}

#[test]
fn an_id_belongs_to_one_server_of_all_active_models() {
    let of = |id: &str| json!({"providers": [server(json!({"id": id}))]});
    let file = |active: Value| {
        json!({"a": {"m": of("x")}, "b": {"n": of("x"), "o": of("y")}, "active_models": active}).to_string()
    };
    let error = fault(&file(json!({"a": ["m"], "b": ["n"]})));
    assert!(
        error.contains("b.n.providers[0] (`x`): the `id` `x` is that of a.m.providers[0] (`x`) already"),
        "{error}"
    );
    imported(&file(json!({"a": ["m"], "b": ["o"]})));
}

#[test]
fn all_faults_are_told_at_once() {
    let text = lists(&json!([server(json!({"input_size": "x", "api_type": "y", "oops": 1}))]), &json!([{}]));
    assert_eq!(fault(&text).lines().count(), 5, "{}", fault(&text));
}

fn fault_of_clouds(clouds: &str, adjustments: &str) -> String {
    let files = [("meta-providers.yaml", clouds), ("model-adjustments.yaml", adjustments)];
    Older::new(&files).load().unwrap_err().to_string()
}

#[test]
fn faults_of_clouds_and_adjustments_name_the_file_and_the_place() {
    const CLOUD: &str = "providers:\n  - api_key_env_var: NORTH_API_KEY\n    base_url: http://h/v1\n";
    let cloud = |more: &str| format!("{CLOUD}{more}\n");
    let good = cloud("    base_priority: 1");
    for (clouds, adjustments, told) in [
        (cloud(""), "", "meta-providers.yaml: providers[0]: `base_priority` is missing"),
        (cloud("    base_priority: high"), "", "providers[0]: `base_priority` is the text `high`, not a number; give a number"),
        (cloud("    base_priority: 1\n    modle_url: x"), "", "`modle_url` is not known here; did you mean `model_url`?"),
        (cloud("    base_priority: 1\n    model_url: here"), "", "`model_url` is no address"),
        ("providers:\n  - base_url: http://h/v1\n    base_priority: 1".to_owned(), "", "`api_key_env_var` is missing"),
        ("providers:\n  - api_key_env_var: sk-planted\n    base_url: http://h/v1\n    base_priority: 1".to_owned(), "", "is no name of an environment variable"),
        ("providers:\n  - api_key_env_var: A\n    base_priority: 1".to_owned(), "", "`base_url` is missing"),
        ("providers:\n  - api_key_env_var: NORTH_API_KEY\n    base_priority: 1\n    base_url: http://h/v1/chat/completions".to_owned(), "",
            "meta-providers.yaml: providers[0]: `base_url` ends in `/chat/completions`"),
        (format!("{good}provider: 1\n"), "", "the key `provider` is not known here; did you mean `providers`?"),
        (good.clone(), "adjustments: [", "model-adjustments.yaml: line 1: adjustments: this is not YAML"),
        (good.clone(), "- 1\n", "model-adjustments.yaml: this is a list, not an object"),
        (good.clone(), "adjustment: {}\n", "model-adjustments.yaml: the key `adjustment` is not known here; did you mean `adjustments`?"),
        (good.clone(), "adjustments:\n  x:\n    regex: [a]\n", "model-adjustments.yaml: adjustments.x: `priority` is missing"),
        (good.clone(), "adjustments:\n  x:\n    priority: 1\n", "model-adjustments.yaml: adjustments.x: `regex` is missing"),
        (good.clone(), "adjustments:\n  x:\n    priority: 1\n    regex: [1]\n", "adjustments.x: `regex` lists something that is no text"),
        (good.clone(), "adjustments:\n  x y:\n    priority: 1\n    regex: ['ok', 'a(b']\n",
            "model-adjustments.yaml: adjustments.x y: the regex `a(b` cannot be read: unclosed group"),
    ] {
        let error = fault_of_clouds(&clouds, adjustments);
        assert!(error.contains(told), "{clouds}\n{adjustments}\n{error}");
        assert!(!error.contains("leave it out"), "all of it has to be there: {error}");
        assert!(!error.contains("planted") && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn an_empty_file_of_adjustments_is_none() {
    for text in ["", "# nothing yet\n", "adjustments:\n", "adjustments: {}\n"] {
        let older = Older::new(&[META[0], ("model-adjustments.yaml", text)]);
        assert!(older.load().unwrap().adjustments.is_empty(), "{text:?}");
    }
}

#[test]
fn what_cannot_be_imported_is_told_with_a_cure() {
    for (name, text, told) in [
        ("models.lua", "x = 1", "files of this ending are not imported; name a .json"),
        ("models.json", "{", "line 1: this is not JSON"),
        ("models.json", r#"{"provider": {}}"#, "did you mean `providers`?"),
    ] {
        let error = Older::new(&[(name, text)]).import().unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(told), "{error}");
    }
    let nowhere = Catalog::import(&PathBuf::from("nowhere.json"), &Environment::default()).unwrap_err();
    assert!(nowhere.to_string().contains("nowhere.json"), "{nowhere}");
}
