//! What engines, and the programs that count for them, have in their environment.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::engines::{CHAT, says};
use crate::support::engine::fake_llama_server;
use crate::support::{Gateway, Setup};

/// A gateway whose engine writes its environment into a file. `extra` is put over the model.
fn gateway(extra: &Value, variables: &[(&str, &str)]) -> Gateway {
    let setup = Setup::new();
    let (script, seen) = (setup.path("engine"), setup.path("seen"));
    let text = format!("#!/bin/sh\nenv >{}\nexec {} \"$@\"\n", seen.display(), fake_llama_server().display());
    let counter = setup.path("counter");
    let counting = format!("#!/bin/sh\nenv >{}-counter\necho '[1, 2, 3]'\n", seen.display());
    let setup = setup.file("engine", &text).file("counter", &counting);
    for file in [&script, &counter] {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let variants =
        json!([{"context": 512, "env": {"OF_VARIANT": "v", "SHARED": "inner"}}, {"context": 4096}]);
    let mut model = json!({"variants": variants, "env": {"SHARED": "model", "OF_MODEL": "$${LITERAL}"},
        "tokenization": {"binary": counter}});
    model.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let local = json!({"type": "llamacpp", "binary": script, "env": {"SHARED": "outer", "HF_TOKEN": "${A_TOKEN}"},
        "models": {"m": model}});
    let cloud = json!({"type": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "${HF_CLOUD}", "models": {"c": {}}});
    let runtime = setup.path(".").display().to_string();
    let mut setup = setup
        .models(&json!({"providers": {"local": local, "cloud": cloud}}))
        .variable("XDG_RUNTIME_DIR", &runtime)
        .variable("A_TOKEN", "planted-token")
        .variable("HF_CLOUD", "planted-cloud");
    for (name, value) in variables {
        setup = setup.variable(name, value);
    }
    setup.start()
}

fn seen(gateway: &Gateway, file: &str) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(gateway.folder.path().join(file)).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

const SECRETS: &[&str] = &[
    "CLOUD_KEY",
    "PROVIDER_PASS",
    "AZURE_OPENAI_KEY",
    "ANTHROPIC_AUTH",
    "PGPASS",
    "REDIS_URL",
    "MONGO_URI",
    "MY_TOKEN_2",
    "BEARER",
    "GITHUB_PAT",
    "NVIDIA_API_KEY",
    "HUGGING_FACE_HUB_TOKEN",
    "NAME_THAT_TELLS_NOTHING",
];

#[tokio::test]
async fn engines_get_what_they_need_what_the_file_sets_and_nothing_else() {
    let planted = SECRETS.iter().map(|&name| (name, "planted"));
    let harmless =
        [("CUDA_VISIBLE_DEVICES", "1"), ("HTTPS_PROXY", "http://me:planted@proxy:1"), ("no_proxy", "x")];
    let variables: Vec<(&str, &str)> = planted.chain(harmless).collect();
    let gateway = gateway(&json!({}), &variables);
    assert_eq!(gateway.ask(CHAT, &says("m", "hi")).await.0, 200, "{}", gateway.log());
    let engine = seen(&gateway, "seen");
    let of = |name: &str| engine.get(name).map(String::as_str);
    assert_eq!(
        (of("HF_TOKEN"), of("SHARED"), of("OF_VARIANT")),
        (Some("planted-token"), Some("inner"), Some("v"))
    );
    assert_eq!(
        (of("OF_MODEL"), of("CUDA_VISIBLE_DEVICES"), of("no_proxy")),
        (Some("${LITERAL}"), Some("1"), Some("x"))
    );
    for name in SECRETS.iter().chain(&["A_TOKEN", "HF_CLOUD", "HTTPS_PROXY"]) {
        assert_eq!(of(name), None, "{name}");
    }
    let leaked: Vec<_> = engine.iter().filter(|(_, value)| value.contains("planted")).collect();
    assert_eq!(leaked.len(), 1, "{leaked:?}");
}

#[tokio::test]
async fn the_program_that_counts_gets_no_more() {
    let gateway = gateway(&json!({}), &[("CLOUD_KEY", "planted"), ("OMP_NUM_THREADS", "1")]);
    // Too long to be certain of the smaller variant, too short to be certain of the larger one.
    assert_eq!(gateway.ask(CHAT, &says("m", &"word ".repeat(150))).await.0, 200, "{}", gateway.log());
    let counter = seen(&gateway, "seen-counter");
    let of = |name: &str| counter.get(name).map(String::as_str);
    assert_eq!((of("SHARED"), of("OMP_NUM_THREADS"), of("CLOUD_KEY")), (Some("model"), Some("1"), None));
    assert_eq!((of("HF_CLOUD"), of("HF_TOKEN")), (None, Some("planted-token")));
}

#[test]
fn variables_that_an_engine_cannot_have_are_faults() {
    let check = |provider: Value| Setup::new().models(&json!({"providers": {"p": provider}})).run(&["check"]);
    let managed = |env: Value| json!({"type": "llamacpp", "binary": fake_llama_server(), "env": env, "models": {"m": {"context": 512}}});
    for (name, words) in [
        ("LLAMA_API_KEY", "a key of its own"),
        ("LLM_PROXY_API_LISTEN", "the gateway's own settings"),
        ("LLAMA_SERVER_ROUTER_PORT", "router"),
        ("1X", "no variable"),
        ("A=B", "no variable"),
        ("", "no variable"),
    ] {
        let ended = check(managed(json!({name: "x"})));
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(ended.code != Some(0) && said.contains(words), "{name}: {said}");
    }
    let server = json!({"type": "openai", "base_url": "http://127.0.0.1:9/v1", "env": {"A": "b"}, "models": {"m": {}}});
    let ended = check(server);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(ended.code != Some(0) && said.contains("`env` is for engines"), "{said}");
    let ended = check(managed(json!({"HF_TOKEN": "literal"})));
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(ended.code == Some(0) && said.contains("env.HF_TOKEN stands in the file itself"), "{said}");
}
