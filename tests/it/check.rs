//! `check`: what is looked at, how it is marked, and with what it exits.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::engine::fake_llama_server;
use crate::support::upstream::json as answering;
use crate::support::{Setup, Upstream};

/// The port of a server that is gone.
fn dead_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_database_and_a_redis_that_do_not_answer_are_faults() {
    let port = dead_port();
    for (name, url) in [
        ("DATABASE_URL", format!("postgres://u:planted@127.0.0.1:{port}/d")),
        ("DATABASE_URL", "sqlite://models.json".to_owned()),
        ("REDIS_URL", format!("redis://:planted@127.0.0.1:{port}/")),
    ] {
        let ended = Setup::new().env(name, &url).run(&["check"]);
        assert_eq!(ended.code, Some(1), "{url}: {}", ended.stdout);
        assert!(ended.stderr.contains(&format!("✗ LLM_PROXY_API_{name}: ")), "{url}: {}", ended.stderr);
        assert!(!ended.stdout.contains("in order") && ended.stdout.contains("✓ model echo: echo/echo"));
        assert!(!ended.stderr.contains("planted"), "{}", ended.stderr);
    }
}

#[test]
fn nothing_is_made_and_what_is_there_is_not_changed() {
    let setup = Setup::new();
    let ended = setup.run(&["check"]);
    assert!(ended.stdout.contains("✓ database is made at the start"), "{}", ended.stdout);
    assert!(ended.stdout.ends_with("everything is in order\n"), "{}", ended.stdout);
    assert!(!setup.path("data").exists());

    let gateway = setup.start();
    let ended = gateway.run(&["check"]);
    assert!(ended.code == Some(0) && ended.stdout.contains("✓ database is there"), "{}", ended.stdout);
}

#[test]
fn warnings_are_no_faults_unless_they_are_to_be() {
    let defaults = json!({"temprature": 0.3, "options": {"num_cxt": 5}, "own": 1});
    let models = json!({"providers": {"echo": {"type": "echo", "models": {"echo": {"defaults": defaults}}}}});
    let setup = Setup::new().models(&models).variable("LLM_PROXY_LISTEN", "127.0.0.1:1");
    let ended = setup.run(&["check"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    for slip in [
        "! warning: LLM_PROXY_LISTEN is not read; did you mean LLM_PROXY_API_LISTEN?",
        "`defaults.temprature` goes to the provider as it is; did you mean `temperature`?",
        "`defaults.options.num_cxt` goes to the provider as it is; did you mean `num_ctx`?",
    ] {
        assert!(ended.stdout.contains(slip), "{}", ended.stdout);
    }
    assert!(ended.stdout.ends_with("nothing is wrong; there are 3 warnings\n"), "{}", ended.stdout);
    assert_eq!(setup.run(&["check", "--strict"]).code, Some(2));
    assert_eq!(Setup::new().run(&["check", "--strict"]).code, Some(0));
}

#[test]
fn machines_read_the_same() {
    let read = |setup: Setup| {
        let ended = setup.run(&["check", "--json"]);
        assert_eq!(ended.stderr, "");
        (ended.code, serde_json::from_str::<Value>(&ended.stdout).unwrap())
    };
    let (code, report) = read(Setup::new());
    assert_eq!((code, &report["ok"], &report["faults"]), (Some(0), &json!(true), &json!(0)));
    let (code, report) = read(Setup::new().env("TIMEOUT", "soon").env("TIMOUT", "1"));
    assert_eq!((code, &report["ok"], &report["warnings"]), (Some(1), &json!(false), &json!(1)));
    let states: Vec<&str> =
        report["findings"].as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap()).collect();
    for state in ["ok", "warning", "fault"] {
        assert!(states.contains(&state), "{report}");
    }
}

#[test]
fn a_certificate_is_told_by_its_end() {
    let valid_until = |year: i32| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 3, 4);
        let certificate = params.self_signed(&key).unwrap();
        let setup = Setup::new().env("TLS_CERT", "cert.pem").env("TLS_KEY", "key.pem");
        setup.file("cert.pem", &certificate.pem()).file("key.pem", &key.serialize_pem()).run(&["check"])
    };
    let (old, new) = (valid_until(2020), valid_until(2090));
    assert!(old.code == Some(1) && old.stderr.contains("was valid until 2020-03-04"), "{}", old.stderr);
    assert!(new.code == Some(0) && new.stdout.contains("✓ certificate cert.pem is valid until 2090"));
}

#[tokio::test]
async fn keys_of_providers_are_tried_if_asked_for() {
    let upstream = Upstream::start(|seen| {
        vec![match seen.header("authorization") {
            Some("Bearer good") => answering(200, "", &json!({"object": "list", "data": [{"id": "m"}]})),
            _ => answering(401, "", &json!({"error": {"message": "planted"}})),
        }]
    })
    .await;
    let check = async |keys: Value, arguments: &'static [&'static str]| {
        let provider =
            json!({"type": "openai", "base_url": upstream.v1(), "api_keys": keys, "models": {"m": {}}});
        let setup = Setup::new().models(&json!({"providers": {"up": provider}}));
        tokio::task::spawn_blocking(move || setup.run(arguments)).await.unwrap()
    };
    let ended = check(json!(["good", "bad"]), &["check"]).await;
    assert_eq!((ended.code, upstream.seen().len()), (Some(0), 0), "{}", ended.stderr);
    let ended = check(json!(["good", "bad"]), &["check", "--live"]).await;
    assert_eq!((ended.code, upstream.seen().len()), (Some(1), 2), "one call for each key");
    assert!(ended.stdout.contains("✓ provider up (openai): 1 model, key 1; answers"), "{}", ended.stdout);
    assert!(
        ended.stderr.contains("✗ provider up, key 2: ") && ended.stderr.contains("401"),
        "{}",
        ended.stderr
    );
    assert_eq!(check(json!(["good"]), &["check", "--live"]).await.code, Some(0));
}

#[test]
fn programs_and_files_of_engines_are_looked_at() {
    let engine = |file: &str| {
        json!({"providers": {"local": {"type": "llamacpp", "binary": fake_llama_server(), "models": {
            "tiny": {"args": ["-m", file], "variants": [{"context": 1024}]}}}}})
    };
    let setup = |file: &str| {
        Setup::new().file("good.gguf", "GGUF and more").file("bad.gguf", "<html>").models(&engine(file))
    };
    let good = setup("good.gguf").run(&["check", "--strict"]);
    assert!(good.code == Some(0) && good.stdout.contains("✓ engine local/tiny@1024: "), "{}", good.stdout);
    let bad = setup("bad.gguf").run(&["check", "--strict"]);
    assert!(bad.code == Some(2) && bad.stdout.contains("bad.gguf: this is no GGUF file"), "{}", bad.stdout);
    let gone = setup("gone.gguf").run(&["check"]);
    assert!(gone.code == Some(1) && gone.stderr.contains("✗ ") && gone.stderr.contains("gone.gguf"));
}
