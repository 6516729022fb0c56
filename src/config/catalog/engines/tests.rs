//! What holds of engines as they stand in models files.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::config::{
    Catalog, ConfigError, EngineModel, EngineTimeouts, Environment, ModelConfig, ModelSource, Timeouts,
};

/// A folder with a program and a model, and what is read from a models file in it.
struct Setup {
    folder: TempDir,
}

impl Setup {
    fn new() -> Self {
        let setup = Self { folder: tempfile::tempdir().unwrap() };
        setup.program("llama-server");
        setup.program("llama-tokenize");
        std::fs::write(setup.path("m.gguf"), "GGUF").unwrap();
        setup
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self, name: &str) {
        std::fs::write(self.path(name), "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(self.path(name), Permissions::from_mode(0o755)).unwrap();
    }

    /// `$` stands for the folder.
    fn load_text(&self, name: &str, text: &str) -> Result<Catalog, ConfigError> {
        let folder = self.folder.path().display().to_string();
        let path = self.path(name);
        std::fs::write(&path, text.replace("$/", &format!("{folder}/"))).unwrap();
        let environment = Environment::of([("PATH", folder.as_str()), ("GGUF", "m.gguf")]);
        Catalog::load(&path, &environment, Timeouts::default(), false)
    }

    fn load(&self, provider: &Value) -> Result<Catalog, ConfigError> {
        self.load_text("models.json", &json!({"providers": {"local": provider}}).to_string())
    }

    /// The models of a provider of managed engines with these keys.
    fn models(&self, provider: Value) -> Vec<ModelConfig> {
        models(&self.load(&managed(provider)).unwrap())
    }

    fn engine(&self, provider: Value) -> EngineModel {
        self.models(provider).remove(0).engine.unwrap()
    }

    fn fault(&self, provider: Value) -> String {
        self.load(&managed(provider)).unwrap_err().to_string()
    }
}

fn managed(mut provider: Value) -> Value {
    provider["type"] = json!("llamacpp");
    provider
}

fn models(catalog: &Catalog) -> Vec<ModelConfig> {
    let ModelSource::Listed(models) = &catalog.providers[0].models else { panic!("listed") };
    models.clone()
}

fn contexts(engine: &EngineModel) -> Vec<u64> {
    engine.variants.iter().map(|variant| variant.context_tokens).collect()
}

#[test]
fn the_innermost_statement_holds_and_arguments_are_put_one_after_the_other() {
    let setup = Setup::new();
    setup.program("other-server");
    let engine = setup.engine(json!({
        "binary": "$/llama-server", "args": ["-ngl", "999"], "memory": 100, "engine_idle_timeout": 7,
        "default_output_reserve": 512,
        "models": {"m": {
            "args": ["-m", "$/${GGUF}"], "memory": 200, "health_check_timeout": 1.5, "pinned": true,
            "variants": [
                {"context": 8192, "args": ["-ctk", "q8_0"], "memory": 300, "binary": "$/other-server", "engine_startup_timeout": 9},
                {"context": 4096},
            ],
        }},
    }));

    assert_eq!(contexts(&engine), [4096, 8192], "smallest first");
    let [small, large] = engine.variants.as_slice() else { panic!("two") };
    let model = setup.path("m.gguf").display().to_string();
    assert_eq!(small.args, ["-ngl", "999", "-m", &model]);
    assert_eq!(large.args, ["-ngl", "999", "-m", &model, "-ctk", "q8_0"]);
    assert_eq!((small.memory_mib, large.memory_mib), (Some(200), Some(300)));
    assert_eq!((&small.binary, &large.binary), (&setup.path("llama-server"), &setup.path("other-server")));
    let timeouts = EngineTimeouts {
        health_check: Duration::from_millis(1500),
        idle: Duration::from_secs(7),
        ..EngineTimeouts::default()
    };
    assert_eq!(small.timeouts, timeouts);
    assert_eq!(large.timeouts, EngineTimeouts { startup: Duration::from_secs(9), ..timeouts });
    assert_eq!((engine.default_output_reserve, engine.is_pinned, engine.is_preloaded), (512, true, false));
}

#[test]
fn a_model_without_variants_is_its_own_only_one() {
    let setup = Setup::new();
    let models = setup.models(json!({"models": {
        "stated": {"context": 4096, "preload": true, "secondary": true},
        "in-arguments": {"args": ["-c", "8192"]},
    }}));

    let engine = models[0].engine.as_ref().unwrap();
    assert_eq!(contexts(engine), [4096]);
    assert!(engine.is_preloaded && engine.is_secondary && !engine.is_pinned);
    assert_eq!(engine.default_output_reserve, 2048);
    assert_eq!(engine.variants[0].binary, setup.path("llama-server"), "it is looked up on the PATH");
    assert_eq!(contexts(models[1].engine.as_ref().unwrap()), [8192]);
    assert_eq!(models[1].context_tokens, Some(8192));
    assert_eq!(models[1].upstream, "in-arguments");
}

#[test]
fn the_context_of_a_model_is_that_of_its_largest_variant() {
    let setup = Setup::new();
    let models = setup.models(json!({"models": {"m": {"variants": [{"context": 9000}, {"context": 300}]}}}));
    assert_eq!(models[0].context_tokens, Some(9000));
}

#[test]
fn what_holds_for_all_engines_stands_at_the_provider() {
    let setup = Setup::new();
    let provider = json!({"memory_budget": 24000, "queue_max": 9, "max_unfairness": 2.5, "models": {"m": {"context": 1}}});
    let engines = setup.load(&managed(provider)).unwrap().providers.remove(0).engines;
    assert_eq!((engines.memory_budget_mib, engines.queue_max), (Some(24000), 9));
    assert_eq!(engines.max_unfairness, Duration::from_millis(2500));
}

#[test]
fn yaml_says_the_same_of_engines() {
    let setup = Setup::new();
    let yaml = "providers:\n  local:\n    type: llamacpp\n    models:\n      m:\n        args: [\"-m\", \"$/m.gguf\"]\n        variants:\n          - context: 4096\n            connect: http://localhost:8081\n";
    let catalog = setup.load_text("models.yaml", yaml).unwrap();
    let engine = models(&catalog).remove(0).engine.unwrap();
    assert_eq!(engine.variants[0].address.as_ref().unwrap().port, 8081);

    let error = setup.load_text("models.yaml", &yaml.replace("context: 4096", "contxt: 1")).unwrap_err();
    assert!(error.to_string().contains("line 8") && error.to_string().contains("`context`"), "{error}");
}

#[test]
fn an_address_comes_from_the_arguments_or_from_connect() {
    let setup = Setup::new();
    for (model, address) in [
        (json!({"context": 1}), None),
        (json!({"context": 1, "args": ["--port", "81"]}), Some(("127.0.0.1", 81))),
        (json!({"context": 1, "args": ["--host=::1", "--port=81"]}), Some(("::1", 81))),
        (json!({"context": 1, "connect": "http://localhost:81"}), Some(("localhost", 81))),
        (
            json!({"context": 1, "args": ["--host", "127.0.0.1"], "connect": "http://localhost:81"}),
            Some(("localhost", 81)),
        ),
    ] {
        let engine = setup.engine(json!({"models": {"m": model}}));
        let found = engine.variants[0].address.as_ref().map(|address| (address.host.as_str(), address.port));
        assert_eq!(found, address);
    }
}

#[test]
fn a_context_that_the_arguments_contradict_draws_a_warning() {
    let setup = Setup::new();
    let warnings = |model: Value| setup.load(&managed(json!({"models": {"m": model}}))).unwrap().warnings;
    let told =
        warnings(json!({"variants": [{"context": 4096}, {"context": 8192, "args": ["--ctx-size", "2048"]}]}));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("providers.local.models.m.variants[1]: `context` is 8192"), "{told:?}");
    assert!(told[0].contains("2048"), "{told:?}");
    assert!(warnings(json!({"context": 4096, "args": ["-c", "4096"]})).is_empty());
}

#[test]
fn prompts_are_counted_as_the_innermost_tokenization_says() {
    let setup = Setup::new();
    let models = setup.models(json!({
        "tokenization": {"binary": "llama-tokenize", "extra_args": ["-m", "x"], "extra_tokens_per_message": 8, "extra_tokens": 65},
        "models": {"a": {"context": 1}, "b": {"context": 1, "tokenization": {"base_args": ["--ids"]}}},
    }));
    let of = |index: usize| models[index].engine.clone().unwrap().tokenization.unwrap();
    assert_eq!(of(0).binary, Some(setup.path("llama-tokenize")));
    assert_eq!(of(0).args, ["--log-disable", "--stdin", "--ids", "-m", "x"]);
    assert_eq!((of(0).extra_tokens_per_message, of(0).extra_tokens), (8, 65));
    assert_eq!((of(1).binary, of(1).args, of(1).extra_tokens), (None, vec!["--ids".to_owned()], 0));
}

#[test]
fn a_tokenizer_that_is_not_there_is_done_without() {
    let setup = Setup::new();
    let provider = json!({"models": {"m": {"context": 1, "tokenization": {"binary": "/no/llama-tokenize"}}}});
    let catalog = setup.load(&managed(provider)).unwrap();
    assert_eq!(models(&catalog)[0].engine.as_ref().unwrap().tokenization.as_ref().unwrap().binary, None);
    assert!(catalog.warnings[0].contains("`/no/llama-tokenize` does not exist"), "{:?}", catalog.warnings);
}

/// A provider, and what the message must name: the place and a word of what is wrong.
fn faulty() -> Vec<(Value, &'static str, &'static str)> {
    let mut faulty: Vec<_> = faulty_models()
        .into_iter()
        .map(|(model, place, told)| (json!({"models": {"m": model}}), place, told))
        .collect();
    faulty.extend([
        (
            json!({"memory_budget": 5, "models": {"m": {"context": 7, "memory": 6}}}),
            "models.m",
            "raise the budget",
        ),
        (
            json!({"memory_budget": 0, "models": {"m": {"context": 7}}}),
            "providers.local",
            "`memory_budget` is 0",
        ),
        (json!({"models": "discover"}), "providers.local", "`base_url` of a llama-server"),
        (
            json!({"base_url": "http://h", "queue_max": 5, "models": {"m": {}}}),
            "providers.local",
            "`queue_max`",
        ),
        (
            json!({"base_url": "http://h", "models": {"m": {"variants": []}}}),
            "models.m",
            "without `base_url`",
        ),
    ]);
    faulty
}

fn faulty_models() -> Vec<(Value, &'static str, &'static str)> {
    vec![
        (json!({}), "providers.local.models.m", "`base_url`"),
        (json!({"variants": []}), "models.m", "list at least one"),
        (json!({"variants": [{}]}), "models.m.variants[0]", "`context` is missing"),
        (json!({"variants": [{"context": 0}]}), "models.m.variants[0]", "`context` is 0"),
        (
            json!({"variants": [{"context": 5}, {"context": 5}]}),
            "models.m",
            "two variants have the context 5",
        ),
        (json!({"context": 7, "variants": [{"context": 5}]}), "models.m", "beside `variants`"),
        (json!({"context": 7, "args": ["--api-key", "planted"]}), "models.m", "take it out"),
        (json!({"context": 7, "args": ["--host", "0.0.0.0"]}), "models.m", "127.0.0.1"),
        (json!({"context": 7, "args": ["--host", "127.0.0.1"]}), "models.m", "without `--port`"),
        (
            json!({"context": 7, "args": ["--port", "81"], "connect": "http://127.0.0.1:82"}),
            "models.m",
            "the arguments say `--port 81`, and `connect` says http://127.0.0.1:82",
        ),
        (json!({"context": 7, "connect": "http://10.0.0.1:82"}), "models.m", "`10.0.0.1`"),
        (json!({"context": 7, "binary": "no-such-server"}), "models.m", "in no folder of PATH"),
        (json!({"context": 7, "binary": "/no/server"}), "models.m", "`/no/server` does not exist"),
        (json!({"context": 7, "binary": "$/plain"}), "models.m", "chmod +x"),
        (json!({"context": 7, "binary": "/tmp/"}), "models.m", "is no file"),
        (json!({"context": 7, "args": ["-m", "/no/m.gguf"]}), "models.m", "`/no/m.gguf`, named by `-m`"),
        (json!({"context": 7, "args": ["--model=/no/m.gguf"]}), "models.m", "named by `--model`"),
        (json!({"context": 7, "args": ["${NOPE}"]}), "providers.local", "NOPE"),
        (json!({"context": 7, "engine_idle_timeout": 0}), "models.m", "`engine_idle_timeout` is 0"),
    ]
}

#[test]
fn faults_of_engines_name_the_file_the_place_and_the_cure() {
    let setup = Setup::new();
    std::fs::write(setup.path("plain"), "").unwrap();
    for (provider, place, told) in faulty() {
        let error = setup.fault(provider.clone());
        assert!(error.contains("models.json"), "{error}");
        assert!(error.contains(place) && error.contains(told), "{provider}: {error}");
        assert!(!error.contains("planted") && !error.contains('\n'), "{error}");
    }
    let provider = json!({"type": "openai", "models": {"m": {"binary": "x"}}});
    let error = setup.load(&provider).unwrap_err().to_string();
    assert!(error.contains("models.m: `binary` is for engines"), "{error}");
}

#[test]
fn a_model_file_may_lie_beside_the_program() {
    let setup = Setup::new();
    assert!(!Path::new("m.gguf").exists());
    setup.engine(json!({"models": {"m": {"context": 7, "args": ["-m", "m.gguf"]}}}));
}

#[test]
fn a_missing_program_is_told_once_for_all_variants() {
    let setup = Setup::new();
    let provider =
        json!({"binary": "/no/server", "models": {"m": {"variants": [{"context": 5}, {"context": 6}]}}});
    assert_eq!(setup.load(&managed(provider)).unwrap_err().faults.len(), 1);
}
