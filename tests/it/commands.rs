//! The commands, and what they say of a faulty configuration.

use serde_json::{Value, json};

use crate::support::Setup;

fn models(provider: Value) -> Value {
    json!({"providers": {"up": provider}})
}

fn openai(more: Value) -> Value {
    let mut provider = json!({"type": "openai", "base_url": "http://127.0.0.1:1/v1", "models": {"m": {}}});
    provider.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    models(provider)
}

#[test]
fn check_says_what_would_be_served() {
    let setup = Setup::new().models(&json!({
        "providers": {
            "cloud": {"type": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key": "${KEY_OF_TEST}", "models": {"fast": {"upstream": "gpt", "priority": 2, "context": 128_000}}},
            "laptop": {"type": "ollama", "base_url": "http://127.0.0.1:1", "models": {"fast": {"upstream": "llama3.2", "priority": 1}}}},
        "models": {"fast": {"strategy": "priority", "aliases": ["small"]}}})).variable("KEY_OF_TEST", "k");
    let ended = setup.run(&["check"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert!(
        ended.stdout.contains("model fast (also small): laptop/llama3.2, then cloud/gpt (128000 tokens)"),
        "{}",
        ended.stdout
    );
    assert!(
        ended.stdout.contains("prompt translate: en, pl") && ended.stdout.contains("everything is in order")
    );
}

#[test]
fn check_says_how_models_are_shared_and_who_takes_over() {
    let up = |models: Value| json!({"type": "openai", "base_url": "http://127.0.0.1:1/v1", "models": models});
    let setup = Setup::new().models(&json!({
        "providers": {"a": up(json!({"fast": {}, "big": {}, "slow": {}})), "b": up(json!({"fast": {}, "slow": {}})), "c": up(json!({"fast": {"priority": 9}}))},
        "models": {
            "fast": {"strategy": "weighted", "fallbacks": ["slow", "big"], "context_fallbacks": ["big"]},
            "big": {"strategy": "weighted"}}}));
    for command in ["check", "models"] {
        let told = setup.run(&[command]).stdout;
        let of = |name: &str| {
            let line = told.lines().map(|line| line.strip_prefix("✓ model ").unwrap_or(line));
            line.into_iter().find(|line| line.starts_with(name)).unwrap().to_owned()
        };
        let fast = "fast: a/fast, b/fast, then c/fast; strategy weighted; falls back to slow, then big; passes prompts that are too long to big";
        assert_eq!(of("fast"), fast, "{command}");
        assert_eq!((of("slow").as_str(), of("big").as_str()), ("slow: a/slow, then b/slow", "big: a/big"));
    }
}

#[test]
fn check_names_file_place_and_cure_of_every_fault() {
    for (models, words) in [
        (models(json!({"type": "opneai", "models": {"m": {}}})), vec!["providers.up", "opneai", "openai"]),
        (models(json!({"models": {"m": {}}})), vec!["providers.up", "type"]),
        (openai(json!({"api_kye": "x"})), vec!["api_kye", "api_key"]),
        (openai(json!({"api_key": "${NOT_SET_ANYWHERE}"})), vec!["providers.up", "NOT_SET_ANYWHERE"]),
        (openai(json!({"base_url": "ftp://x"})), vec!["providers.up", "base_url"]),
        (openai(json!({"models": {}})), vec!["providers.up", "models"]),
        (openai(json!({"models": "guess"})), vec!["providers.up.models", "discover"]),
        (openai(json!({"models": {"m": {"contxt": 5}}})), vec!["providers.up.models.m", "contxt", "context"]),
        (openai(json!({"models": {"m": {"context": "big"}}})), vec!["providers.up.models.m.context"]),
        (openai(json!({"timeout": -1})), vec!["providers.up", "timeout"]),
        (json!({"providers": {"up": openai(json!({}))["providers"]["up"], "models": 7}}), vec!["models"]),
        (
            json!({"providers": openai(json!({"models": {"model-one": {}}}))["providers"], "models": {"modle-one": {}}}),
            vec!["models.modle-one", "did you mean `model-one`"],
        ),
        (
            json!({"providers": openai(json!({}))["providers"], "models": {"m": {"strategy": "luck"}}}),
            vec!["models.m", "luck", "priority"],
        ),
        (json!({"provider": {}}), vec!["provider", "did you mean `providers`"]),
    ] {
        let ended = Setup::new().models(&models).run(&["check"]);
        assert_eq!(ended.code, Some(1), "{models}: {}", ended.stdout);
        assert!(!ended.stdout.contains("model ") && !ended.stdout.contains("in order"), "{}", ended.stdout);
        assert!(ended.stderr.contains("models.json"), "{}", ended.stderr);
        for word in words {
            assert!(ended.stderr.contains(word), "`{word}` is missing for {models}:\n{}", ended.stderr);
        }
    }
}

#[test]
fn prices_that_nobody_uses_and_models_without_one_are_told() {
    let models = json!({"m": {"upstream": "real"}, "later": {}, "bare": {}});
    let file = json!({"providers": {"echo": {"type": "echo", "models": models}}, "prices": "prices.json"});
    let price = |model: &str, from: &str| json!({"model": model, "from": from, "input": 1, "output": 2});
    let (of_old, of_future) = ("2024-01-01", "2999-01-01");
    let prices = [price("real", of_old), price("later", of_future), price("typo-*", of_old)];
    let setup = Setup::new().models(&file).file("prices.json", &json!({"prices": prices}).to_string());
    let ended = setup.run(&["check"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let line = ended.stdout.lines().find(|line| line.starts_with("✓ prices: ")).unwrap();
    assert!(line.starts_with("✓ prices: 3; for no model here: `typo-*`; none holds now for `"), "{line}");
    assert!(line.contains("`later`") && line.contains("`bare`") && !line.contains("`m`"), "{line}");
    let without = Setup::new().models(&json!({"providers": file["providers"]})).run(&["check"]);
    assert!(!without.stdout.contains("prices"), "{}", without.stdout);
}

#[test]
fn several_faults_are_told_at_once_a_line_each() {
    let setup = Setup::new()
        .models(&json!({"providers": {"a": {"type": "x", "models": {"m": {}}}, "b": {"type": "openai", "base_url": "nonsense", "models": {"m": {}}}}}))
        .file("prompts/en/bad.prompt", "Hello {{name\n")
        .env("PROMPTS_DIR", "prompts");
    let ended = setup.run(&["check"]);
    let lines: Vec<&str> = ended.stderr.lines().collect();
    for place in ["providers.a", "providers.b", "bad.prompt"] {
        assert_eq!(lines.iter().filter(|line| line.contains(place)).count(), 1, "{place} in {lines:?}");
    }
}

/// A file with a fault of each kind.
const FAULTY: &str = r#"{
        "providers": {
            "a": {"type": "openai", "base_ulr": "http://127.0.0.1:1/v1", "models": {"m": {"contxt": 5}, "n": 7, "o": {"context": 0}}},
            "b": {"type": "opneai", "models": {"p": {}}},
            "c": {"type": "openai", "base_url": "nonsense", "models": {"q": {}}},
            "d": {"type": "echo", "api_key": "${NOT_SET_ANYWHERE}", "models": {"r": {}}}
        },
        "models": {
            "n": {"aliases": ["small"]},
            "m": {"strategy": "luck"},
            "o": {"fallbacks": ["nobody"]},
            "gone": {}
        },
        "limits": {"models": {"m": {"requests_per_minute": -1}}, "gatway": {}},
        "prices": "prices.json",
        "routing": {"max_wait": -1, "hedge_budgt": 1},
        "leaderboard": {"file": "board.json", "sources": [{"name": "x", "url": "ftp://x", "format": "scores"}]}
    }"#;

#[test]
fn faults_of_limits_and_prices_are_told_with_a_cure_that_holds() {
    let file = |limit: &str| {
        json!({"providers": {"echo": {"type": "echo", "models": {"m": {}}}}, "prices": "prices.json",
            "limits": {"models": {"m": {"requests_per_minute": limit}}, "gateway": {"parallel_requests": 0}}})
    };
    let setup = Setup::new().models(&file("many")).file("prices.json", r#"{"prices": [{"model": 7}]}"#);
    let ended = setup.run(&["check"]);
    let faults = ended.stdout + &ended.stderr;
    for line in [
        "m.requests_per_minute: this is the text \"many\", not a whole number from 1; give a whole number from 1",
        "gateway.parallel_requests: a limit of 0 lets nothing pass; give 1 or more, or leave it out",
        "prices.json: line 1: prices[0].model: this is 7, not a text; give a text",
    ] {
        assert!(faults.lines().any(|fault| fault.ends_with(line)), "{line}\nis not in\n{faults}");
    }
    let nowhere = Setup::new().models(&file("1")).run(&["check"]);
    let faults = nowhere.stdout + &nowhere.stderr;
    assert!(faults.contains("make it readable, or name another file"), "{faults}");
}

/// What is to be told of all of it, a line each.
const FAULTS: &[&str] = &[
    ".env: line 1: ",
    "LLM_PROXY_API_TIMEOUT: `soon`",
    "LLM_PROXY_API_LOG_LEVEL: `loud`",
    "LLM_PROXY_API_TLS_CERT: `nowhere.pem`",
    "LLM_PROXY_API_DEFAULT_EP_LANGUAGE: `not a tag`",
    "models.json: line 3: providers.a.base_ulr: ",
    "models.json: providers.a.models.m.contxt: ",
    "models.json: providers.a.models.n: this is 7",
    "models.json: providers.a.models.o: `context` is 0",
    "models.json: providers.b: the type `opneai`",
    "models.json: providers.c: `base_url`",
    "NOT_SET_ANYWHERE",
    "models.json: models.m: the strategy `luck`",
    "models.json: models.o: no provider serves `nobody`",
    "models.json: models.gone: no provider serves this model",
    "models.json: limits.gatway: ",
    "models.json: limits.models.m.requests_per_minute: ",
    "models.json: routing.hedge_budgt: ",
    "models.json: routing: `max_wait` is -1",
    "models.json: leaderboard.sources[0]: `url`",
    "prices.json: ",
    "board.json: ",
    "one.prompt: line 2: the key `descripton`",
    "one.prompt: line 3: the key `verion`",
    "one.prompt: line 5: ",
    "two.prompt: line 1: ",
];

#[test]
fn no_kind_of_fault_hides_another() {
    let setup = Setup::new()
        .file("models.json", FAULTY)
        .file("prices.json", "{\"models\": 3}")
        .file("board.json", "{}")
        .file("prompts/en/one.prompt", "---\ndescripton: x\nverion: 1\n---\nHello {{name\n")
        .file("prompts/en/two.prompt", "{{#if a}}never closed\n")
        .file(".env", "THIS IS NOTHING\n")
        .env("PROMPTS_DIR", "prompts")
        .env("TIMEOUT", "soon")
        .env("LOG_LEVEL", "loud")
        .env("TLS_CERT", "nowhere.pem")
        .env("TLS_KEY", "nowhere.pem")
        .env("DEFAULT_EP_LANGUAGE", "not a tag");
    let ended = setup.run(&["check"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    let lines: Vec<&str> = ended.stderr.lines().collect();
    for words in FAULTS {
        let told = lines.iter().filter(|line| line.contains(words)).count();
        assert_eq!(told, 1, "`{words}` in\n{}", ended.stderr);
    }
    // And nothing that comes only from what was left out.
    assert_eq!(lines.len(), FAULTS.len(), "{}", ended.stderr);
}

#[test]
fn broken_files_are_told_with_line_and_column() {
    for (name, text) in [
        ("models.json", "{\n  \"providers\": {,}\n}"),
        ("models.yaml", "providers:\n  up: [\n"),
        ("models.toml", "x = 1"),
    ] {
        let ended = Setup::new().file(name, text).env("MODELS_CONFIG", name).run(&["check"]);
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains(name), "{}", ended.stderr);
        assert!(name.ends_with("toml") || ended.stderr.contains("line"), "{}", ended.stderr);
    }
    let ended = Setup::new().env("MODELS_CONFIG", "nowhere.json").run(&["check"]);
    assert!(ended.code == Some(1) && ended.stderr.contains("nowhere.json"), "{}", ended.stderr);
}

#[test]
fn yaml_has_errors_as_good_as_those_of_json() {
    for (json, yaml, told) in [
        (
            "{\"providers\": {\"a\": {\"type\": \"echo\", \"models\": {\"m\": {\n\"upsteam\": \"x\"}}}}}",
            "providers: {a: {type: echo, models: {m: {\nupsteam: x}}}}",
            "line 2: providers.a.models.m.upsteam: the key `upsteam` is not known here; did you mean `upstream`?",
        ),
        (
            "{\"providers\": {\"a\": {\"type\": \"echo\", \"models\": {\"m\": {\n\"zzz\": 1}}}}}",
            "providers: {a: {type: echo, models: {m: {\nzzz: 1}}}}",
            "line 2: providers.a.models.m.zzz: the key `zzz` is not known here; known here are upstream, priority, weight",
        ),
        ("{\"providers\": {}, \"providers\": {}}", "providers: {}\nproviders: {}\n", ""),
        (
            "{\"providers\": {\"a\": {\"timeout\": \"x\"}}}",
            "providers: {a: {timeout: x}}",
            "line 1: providers.a.timeout: this is ",
        ),
        ("[]", "[]", "line 1: this is "),
    ] {
        for (name, text) in [("models.json", json), ("models.yaml", yaml)] {
            let ended = Setup::new().file(name, text).env("MODELS_CONFIG", name).run(&["check"]);
            assert_eq!(ended.code, Some(1), "{text}");
            assert!(ended.stderr.starts_with(&format!("✗ {name}: {told}")), "{told}\n{}", ended.stderr);
            for word in ["f64", "u64", "i32", "DuplicateKeyPolicy", "Options", "struct"] {
                assert!(!ended.stderr.contains(word), "{}", ended.stderr);
            }
        }
    }
}

#[test]
fn a_service_without_providers_says_that_it_serves_nothing() {
    let setup = Setup::new().models(&json!({"providers": {}}));
    let ended = setup.run(&["check"]);
    assert!(
        ended.code == Some(0) && ended.stdout.contains("warning: models.json: nothing is served"),
        "{}",
        ended.stdout
    );
}

#[test]
fn yaml_reads_as_json_does() {
    let yaml = "# A comment\nproviders:\n  echo:\n    type: echo\n    models:\n      echo:\n        context: 4096\nmodels:\n  echo:\n    aliases: [small]\n";
    let ended = Setup::new().file("models.yaml", yaml).env("MODELS_CONFIG", "models.yaml").run(&["models"]);
    assert_eq!(
        (ended.code, ended.stdout.trim()),
        (Some(0), "echo (also small): echo/echo (4096 tokens)"),
        "{}",
        ended.stderr
    );
}

#[test]
fn bad_settings_name_variable_value_and_what_is_allowed() {
    for (name, value, allowed) in [
        ("LISTEN", "8080", "host:port"),
        ("TIMEOUT", "soon", "seconds"),
        ("MAX_BODY_BYTES", "-1", "whole number"),
        ("LOG_FORMAT", "xml", "json"),
        ("AUTH", "maybe", "none"),
        ("DEFAULT_EP_LANGUAGE", "not a tag", ""),
        ("LOG_LEVEL", "loud", "DEBUG"),
    ] {
        let ended = Setup::new().env(name, value).run(&["check"]);
        assert_eq!(ended.code, Some(1), "{name}={value}");
        for word in [&format!("LLM_PROXY_API_{name}"), value, allowed] {
            assert!(ended.stderr.contains(word), "`{word}` in {}", ended.stderr);
        }
    }
}

#[test]
fn what_cannot_be_served_with_is_found_by_check_and_before_the_banner() {
    for certificate in ["nowhere.pem", "empty.pem", "text.pem"] {
        let setup = Setup::new().file("empty.pem", "").file("text.pem", "no PEM\n");
        let setup = setup.env("TLS_CERT", certificate).env("TLS_KEY", "text.pem");
        for command in ["check", "serve"] {
            let ended = setup.run(&[command]);
            assert_eq!(ended.code, Some(1), "{certificate}: {}", ended.stdout);
            let told = format!("LLM_PROXY_API_TLS_CERT: `{certificate}` cannot be used");
            assert!(ended.stderr.contains(&told) && !ended.stderr.contains("Swagger"), "{}", ended.stderr);
        }
    }
    let twice = Setup::new().env("LISTEN", "127.0.0.1:4711,127.0.0.1:4711");
    for command in ["check", "serve"] {
        let ended = twice.run(&[command]);
        assert!(ended.code == Some(1) && ended.stderr.contains("are the same address"), "{}", ended.stderr);
    }
}

#[test]
fn an_unknown_variable_draws_a_warning_with_the_nearest_known_one() {
    let ended = Setup::new().env("TIMOUT", "5").run(&["check"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        ended.stdout.contains("LLM_PROXY_API_TIMOUT") && ended.stdout.contains("LLM_PROXY_API_TIMEOUT"),
        "{}",
        ended.stdout
    );
}

#[test]
fn a_dotenv_file_is_read_and_never_overrides() {
    let setup = Setup::new()
        .file(".env", "LLM_PROXY_API_EP_PREFIX=/from-file\nLLM_PROXY_API_LISTEN=127.0.0.1:1\nMY_KEY=k\n")
        .env("LISTEN", "127.0.0.1:4999");
    let setup = setup.models(&openai(json!({"api_key": "${MY_KEY}"})));
    let ended = setup.run(&["check"]);
    assert!(
        ended.stdout.contains("would listen on http://127.0.0.1:4999")
            || ended.stdout.contains("would listen on 127.0.0.1:4999"),
        "{} {}",
        ended.stdout,
        ended.stderr
    );
    assert!(setup.run(&["openapi"]).stdout.contains("/from-file/chat"));
}

#[test]
fn without_a_models_file_the_start_needs_a_word() {
    let ended = Setup::new().without_models().run(&[]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("LLM_PROXY_API_MINIMUM"), "{}", ended.stderr);
}

#[test]
fn prompts_are_listed_rendered_and_covered() {
    let setup = Setup::new();
    let list = setup.run(&["prompts", "list"]);
    assert!(list.code == Some(0) && list.stdout.contains("translate [en, pl]"), "{}", list.stdout);

    let rendered = setup.run(&[
        "prompts",
        "render",
        "translate",
        "--language",
        "pl-PL",
        "--var",
        "target_language=niemiecki",
    ]);
    assert!(
        rendered.code == Some(0) && rendered.stdout.contains("niemiecki"),
        "{} {}",
        rendered.stdout,
        rendered.stderr
    );
    let missing = setup.run(&["prompts", "render", "translate"]);
    assert!(missing.code == Some(1) && missing.stderr.contains("target_language"), "{}", missing.stderr);
    let misspelt = setup.run(&["prompts", "render", "translate", "--var", "target_langauge=niemiecki"]);
    assert!(
        misspelt.stderr.contains("`target_language`") && misspelt.stderr.contains("`target_langauge`"),
        "{}",
        misspelt.stderr
    );

    let coverage = setup.run(&["prompts", "coverage", "--strict"]);
    assert_eq!(coverage.code, Some(0), "{}{}", coverage.stdout, coverage.stderr);

    let library = Setup::new()
        .env("PROMPTS_DIR", "prompts")
        .file("prompts/en/a.prompt", "A.\n")
        .file("prompts/en/b.prompt", "B.\n")
        .file("prompts/pl/a.prompt", "---\nsource_hash: sha256-000000000000\n---\nA po polsku.\n");
    let coverage = library.run(&["prompts", "coverage"]);
    assert_eq!(coverage.code, Some(0));
    assert!(coverage.stdout.contains("STALE") && coverage.stdout.contains("MISSING"), "{}", coverage.stdout);
    assert_eq!(library.run(&["prompts", "coverage", "--strict"]).code, Some(1));

    let unknown = Setup::new()
        .env("PROMPTS_DIR", "prompts")
        .file("prompts/en/a.prompt", "A.\n")
        .file("prompts/pl/a.prompt", "A po polsku.\n");
    let coverage = unknown.run(&["prompts", "coverage", "--strict"]);
    assert_eq!(coverage.code, Some(1), "what it translates is not known");
    assert!(coverage.stderr.contains("source_hash"), "{}", coverage.stderr);
}

#[test]
fn faulty_prompts_are_told_with_file_and_line() {
    for (path, text, words) in [
        ("prompts/en/x.prompt", "Hello\n{{#if a}}never closed\n", vec!["x.prompt", "line"]),
        (
            "prompts/en/x.prompt",
            "---\ninput:\n  schema:\n    a: string\n---\nHello {{b}}\n",
            vec!["x.prompt", "b"],
        ),
        ("prompts/en/x.prompt", "---\ndescription: [\n---\nHello\n", vec!["x.prompt"]),
        ("prompts/en/x.prompt", "{{> nobody}}\n", vec!["x.prompt", "nobody"]),
        ("prompts/no language/x.prompt", "Hello\n", vec!["no language"]),
    ] {
        let ended = Setup::new().file(path, text).env("PROMPTS_DIR", "prompts").run(&["check"]);
        assert_eq!(ended.code, Some(1), "{text}: {}", ended.stdout);
        for word in words {
            assert!(ended.stderr.contains(word), "`{word}` in {}", ended.stderr);
        }
    }
    // One language that asks for something else than the others.
    let ended = Setup::new()
        .file("prompts/en/x.prompt", "---\ninput:\n  schema:\n    name: string\n---\nHello {{name}}\n")
        .file("prompts/pl/x.prompt", "---\ninput:\n  schema:\n    imie: string\n---\nHej {{imie}}\n")
        .env("PROMPTS_DIR", "prompts")
        .run(&["check"]);
    assert!(ended.code == Some(1) && ended.stderr.contains("pl/x.prompt"), "{}", ended.stderr);
}

#[test]
fn help_and_version_are_there() {
    let setup = Setup::new();
    for argument in ["--help", "--version"] {
        let ended = setup.run(&[argument]);
        assert!(
            ended.code == Some(0) && ended.stdout.contains("llm-proxy-api") || ended.stdout.contains("Usage"),
            "{}",
            ended.stdout
        );
    }
    assert_eq!(setup.run(&["bogus"]).code, Some(2));
}

#[test]
fn the_shipped_models_file_is_good_and_starts_anywhere() {
    let shipped =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/resources/configs/models-config.json"))
            .unwrap();
    let setup = Setup::new()
        .file("resources/configs/models-config.json", &shipped)
        .env("MODELS_CONFIG", "resources/configs/models-config.json");
    let ended = setup.run(&["check"]);
    assert!(ended.code == Some(1) && ended.stderr.contains("OPENAI_API_KEY"), "{}", ended.stderr);
    let ended = setup.env("MINIMUM", "1").run(&["check"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        ended.stdout.contains("model echo") && ended.stdout.contains("OPENAI_API_KEY"),
        "{}",
        ended.stdout
    );
}
