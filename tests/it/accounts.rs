//! Keys, usage and audit: by the admin API and by the commands, which work on the same database.

use std::collections::HashMap;
use std::path::Path;

use llm_proxy_api::callers::{UsageRecord, now_ms};
use llm_proxy_api::store;
use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};

use crate::support::stores::record;
use crate::support::{Ended, Gateway, Setup, answer, eventually, json_of};

const ADMIN_KEY: &str = "planted-admin-key-of-the-tests";
const KEYS: &str = "/admin/keys";

fn setup() -> Setup {
    Setup::new().env("ADMIN_KEY", ADMIN_KEY).env("DATABASE_URL", "sqlite://data/keys.db")
}

/// Asks with the admin key. A body that is null is none.
async fn admin(gateway: &Gateway, method: &str, path: &str, body: Value) -> (u16, Value) {
    let request = gateway.http().request(method.parse().unwrap(), format!("{}{path}", gateway.base()));
    let request = request.header("x-admin-key", ADMIN_KEY);
    answer(if body.is_null() {
        request
    } else {
        request.header("content-type", "application/json").body(body.to_string())
    })
    .await
}

async fn get(gateway: &Gateway, path: &str) -> Value {
    let (status, body) = admin(gateway, "GET", path, json!(null)).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

async fn create(gateway: &Gateway, body: Value) -> Value {
    let (status, key) = admin(gateway, "POST", KEYS, body).await;
    assert_eq!(status, 200, "{key}");
    key
}

/// Runs a command in the folder of a service, on its database.
fn keys(gateway: &Gateway, arguments: &[&str]) -> Ended {
    gateway.run(&[&["keys"], arguments].concat())
}

fn told(ended: &Ended) -> Value {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{}", ended.stdout);
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {}", ended.stdout))
}

fn id_of(key: &Value) -> &str {
    key["id"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_told_without_a_look_at_the_others() {
    let gateway = setup().start();
    let (good, bad) =
        (create(&gateway, json!({"name": "a"})).await, create(&gateway, json!({"name": "b"})).await);
    let url = format!("sqlite://{}", gateway.folder.path().join("data/keys.db").display());
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    let broken = sqlx::query("update keys set body = 'x' where id = $1").bind(id_of(&bad));
    assert_eq!(broken.execute(&mut database).await.unwrap().rows_affected(), 1);

    assert_eq!(get(&gateway, &format!("{KEYS}/{}", id_of(&good))).await["name"], "a");
    for path in [KEYS.to_owned(), format!("{KEYS}/{}", id_of(&bad))] {
        let (status, _) = admin(&gateway, "GET", &path, json!(null)).await;
        assert!(status >= 500, "{path}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lives_by_the_api_and_the_commands_see_it() {
    let gateway = setup().start();
    let created = create(
        &gateway,
        json!({"name": "Shop", "owner": "ann", "allowed_models": ["gpt-*"], "allowed_endpoints": ["/v1/*"],
            "language": "pl", "expires_at": "2099-12-31", "limits": {"requests_per_minute": 20},
            "budget": {"tokens": 1000, "period": "month"}, "note": "n"}),
    )
    .await;
    let secret = created["key"].as_str().unwrap();
    assert!(secret.starts_with("llmp_") && secret.len() == 48);
    assert_eq!(created["prefix"], json!(secret[..12]));
    let id = id_of(&created);
    let mut expected = created.clone();
    expected.as_object_mut().unwrap().remove("key");
    assert_eq!(expected["expires_at"], "2099-12-31T00:00:00Z");
    assert_eq!(expected["limits"]["requests_per_minute"], 20);
    assert_eq!(
        expected["budget"],
        json!({"tokens": 1000, "money": null, "period": "month", "cut_off": false})
    );

    assert_eq!(get(&gateway, &format!("{KEYS}/{id}")).await, expected);
    assert_eq!(get(&gateway, KEYS).await, json!({"keys": [expected]}));
    assert_eq!(get(&gateway, &format!("{KEYS}?owner=ann")).await["keys"].as_array().unwrap().len(), 1);
    assert_eq!(get(&gateway, &format!("{KEYS}?owner=bob")).await, json!({"keys": []}));
    assert_eq!(told(&keys(&gateway, &["show", id, "--json"])), expected);
    assert_eq!(told(&keys(&gateway, &["list", "--json"])), json!({"keys": [expected]}));

    let one = format!("{KEYS}/{id}");
    let (status, gone) = admin(&gateway, "DELETE", &one, json!(null)).await;
    assert_eq!((status, gone), (200, json!({"id": id, "deleted": true})));
    for (method, path, body) in [
        ("GET", one.clone(), json!(null)),
        ("DELETE", one.clone(), json!(null)),
        ("PATCH", one.clone(), json!({"disabled": true})),
        ("POST", format!("{one}/rotate"), json!({})),
    ] {
        let (status, error) = admin(&gateway, method, &path, body).await;
        assert_eq!((status, &error["error"]["code"]), (404, &json!("key_not_found")), "{method}: {error}");
        assert_eq!(error["error"]["type"], "not_found_error");
    }
    let ended = keys(&gateway, &["show", id]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert_eq!(ended.stderr, "there is no key of that id\n");
}

#[test]
fn commands_for_keys_make_no_database_by_the_way() {
    let setup = Setup::new();
    for arguments in [&["keys", "list"][..], &["keys", "show", "x"], &["keys", "delete", "x"]] {
        let ended = setup.run(arguments);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr);
        assert!(ended.stderr.contains("there is no database data/llm-proxy-api.db here"), "{}", ended.stderr);
    }
    assert!(!setup.path("data").exists());
    let made = setup.run(&["keys", "create", "--name", "k"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    assert!(
        made.stderr.starts_with("warning: there is no database data/llm-proxy-api.db here"),
        "{}",
        made.stderr
    );
    assert_eq!(setup.run(&["keys", "create", "--name", "l"]).stderr, "");
    assert_eq!(setup.run(&["keys", "list"]).code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lives_by_the_commands_and_the_api_sees_it() {
    let gateway = setup().start();
    let arguments = [
        "create",
        "--name",
        "Night job",
        "--owner",
        "bob",
        "--model",
        "gpt-*",
        "--model",
        "echo",
        "--endpoint",
        "/v1/*",
        "--language",
        "en",
        "--expires",
        "2099-01-01T00:00:00Z",
        "--rpm",
        "5",
        "--tpm",
        "600",
        "--parallel",
        "2",
        "--budget-money",
        "12.5",
        "--period",
        "week",
        "--note",
        "at night",
    ];
    let ended = keys(&gateway, &arguments);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let secret = ended.stdout.lines().next().unwrap().to_owned();
    assert!(secret.starts_with("llmp_") && secret.len() == 48, "{}", ended.stdout);
    assert_eq!(ended.stdout.matches(&secret).count(), 1);

    let list = get(&gateway, KEYS).await;
    let key = &list["keys"][0];
    let id = id_of(key);
    assert_eq!(
        (&key["name"], &key["owner"], &key["allowed_models"], &key["language"], &key["note"]),
        (&json!("Night job"), &json!("bob"), &json!(["gpt-*", "echo"]), &json!("en"), &json!("at night"))
    );
    assert_eq!(
        key["limits"],
        json!({"requests_per_minute": 5, "tokens_per_minute": 600, "parallel_requests": 2})
    );
    assert_eq!(key["budget"], json!({"tokens": null, "money": 12.5, "period": "week", "cut_off": false}));

    let table = keys(&gateway, &["list", "--owner", "bob"]).stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ID ") && lines[0].contains("LAST USED"), "{table}");
    assert!(lines[1].starts_with(id) && lines[1].contains(" open "), "{table}");
    assert_eq!(lines[0].find("OWNER"), lines[1].find("bob"), "{table}");

    assert!(keys(&gateway, &["disable", id]).stdout.contains("disabled                    true"));
    assert_eq!(get(&gateway, &format!("{KEYS}/{id}")).await["disabled"], json!(true));
    assert_eq!(told(&keys(&gateway, &["enable", id, "--json"]))["disabled"], json!(false));
    assert_eq!(get(&gateway, &format!("{KEYS}/{id}")).await["disabled"], json!(false));

    let rotated = told(&keys(&gateway, &["rotate", id, "--grace-seconds", "60", "--json"]));
    assert_ne!(rotated["key"], json!(secret));
    assert_eq!(get(&gateway, &format!("{KEYS}/{id}")).await["prefix"], rotated["prefix"]);
    assert!(rotated["previous_until"].is_string());
    let rotated = told(&keys(&gateway, &["rotate", id, "--grace-seconds", "1", "--json"]));
    assert!(rotated["previous_until"].is_string());
    let one = format!("{KEYS}/{id}");
    let has_ended = async || get(&gateway, &one).await["previous_until"].is_null();
    eventually("a time that has passed is not told", has_ended).await;
    let rotated = told(&keys(&gateway, &["rotate", id, "--grace-seconds", "0", "--json"]));
    assert_eq!(rotated["previous_until"], json!(null));

    assert_eq!(keys(&gateway, &["delete", id]).stdout, format!("{id} is deleted\n"));
    assert_eq!(get(&gateway, KEYS).await, json!({"keys": []}));
    assert_eq!(keys(&gateway, &["list"]).stdout, "there are no keys\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_change_what_they_name_of_a_key_and_nothing_else() {
    let gateway = setup().start();
    let created = create(
        &gateway,
        json!({"name": "a", "owner": "ann", "allowed_models": ["m"], "allowed_endpoints": ["/v1/*"],
            "language": "pl", "expires_at": "2099-12-31", "note": "n",
            "limits": {"requests_per_minute": 5, "tokens_per_minute": 600},
            "budget": {"tokens": 1000, "money": 2.0, "period": "day", "cut_off": true}}),
    )
    .await;
    let id = id_of(&created);
    let mut expected = created.clone();
    expected.as_object_mut().unwrap().remove("key");
    for (arguments, changes) in [
        (&["--name", "Night job", "--disabled"][..], json!({"/name": "Night job", "/disabled": true})),
        (&["--enabled", "--owner", "bob"], json!({"/disabled": false, "/owner": "bob"})),
        (
            &["--rpm", "7", "--clear", "tpm", "--parallel", "2"],
            json!({"/limits/requests_per_minute": 7, "/limits/tokens_per_minute": null, "/limits/parallel_requests": 2}),
        ),
        (&["--budget-tokens", "50", "--no-cut-off"], json!({"/budget/tokens": 50, "/budget/cut_off": false})),
        (
            &["--clear", "budget-tokens", "--period", "week", "--cut-off"],
            json!({"/budget/tokens": null, "/budget/period": "week", "/budget/cut_off": true}),
        ),
        (
            &["--model", "x", "--model", "y", "--endpoint", "/api/*", "--language", "de", "--note", "o"],
            json!({"/allowed_models": ["x", "y"], "/allowed_endpoints": ["/api/*"], "/language": "de", "/note": "o"}),
        ),
        (&["--expires", "2098-01-01"], json!({"/expires_at": "2098-01-01T00:00:00Z"})),
        (
            &[
                "--clear", "owner", "--clear", "model", "--clear", "endpoint", "--clear", "language",
                "--clear", "expires", "--clear", "budget", "--clear", "note", "--clear", "rpm", "--clear",
                "parallel",
            ],
            json!({"/owner": null, "/allowed_models": [], "/allowed_endpoints": [], "/language": null, "/expires_at": null,
                "/budget": null, "/note": null, "/limits/requests_per_minute": null, "/limits/parallel_requests": null}),
        ),
        (
            &["--budget-money", "1.5"],
            json!({"/budget": {"tokens": null, "money": 1.5, "period": "month", "cut_off": false}}),
        ),
    ] {
        for (place, value) in changes.as_object().unwrap() {
            *expected.pointer_mut(place).unwrap() = value.clone();
        }
        let ended = keys(&gateway, &[&["update", id, "--json"], arguments].concat());
        assert_eq!(told(&ended), expected, "{arguments:?}");
        assert_eq!(get(&gateway, &format!("{KEYS}/{id}")).await, expected, "{arguments:?}");
    }
    for (arguments, code, words) in [
        (&[][..], 1, "say what is to be different"),
        (&["--owner", "x", "--clear", "owner"], 1, "`owner` is both given and cleared"),
        (&["--period", "day", "--clear", "budget"], 1, "`budget` is both given and cleared"),
        (&["--clear", "budget-money"], 1, "`budget` must name `tokens` or `money`"),
        (&["--rpm", "0"], 1, "`limits.requests_per_minute` must be at least 1"),
        (&["--clear", "name"], 2, "owner, model, endpoint"),
        (&["--disabled", "--enabled"], 2, "cannot be used with"),
    ] {
        let ended = keys(&gateway, &[&["update", id], arguments].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{arguments:?}: {}", ended.stderr);
    }
    assert_eq!(get(&gateway, &format!("{KEYS}/{id}")).await, expected, "what is refused changes nothing");
    assert_eq!(keys(&gateway, &["update", "key_x", "--name", "b"]).stderr, "there is no key of that id\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_refuse_what_makes_no_sense() {
    let setup = setup();
    for (arguments, code, words) in [
        (&["create"][..], 2, "--name"),
        (&["create", "--name", ""], 1, "`name` must"),
        (&["create", "--name", "a", "--rpm", "0"], 1, "`limits.requests_per_minute` must"),
        (&["create", "--name", "a", "--rpm", "many"], 2, "--rpm"),
        (&["create", "--name", "a", "--expires", "soon"], 2, "2026-12-31"),
        (&["create", "--name", "a", "--period", "year"], 2, "day, week, month"),
        (&["create", "--name", "a", "--endpoint", "chat"], 1, "`allowed_endpoints[0]` must"),
        (&["rotate", "key_x", "--grace-seconds", "9999999"], 1, "`grace_seconds` must"),
        (&["enable", "key_x"], 1, "there is no key of that id"),
        (&["delete", "key_x"], 1, "there is no key of that id"),
    ] {
        let ended = setup.run(&[&["keys"], arguments].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{arguments:?}: {}", ended.stderr);
    }
    assert_eq!(setup.run(&["keys", "list", "--json"]).stdout.trim(), "{\n  \"keys\": []\n}");
    let setup = setup
        .file("data/broken.db", "this is no database, and long enough to be seen as none")
        .env("DATABASE_URL", "sqlite://data/broken.db");
    let ended = setup.run(&["keys", "list"]);
    assert!(ended.code == Some(1) && ended.stderr.starts_with("the database could not"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_change_leaves_what_it_does_not_name_and_null_takes_away() {
    let gateway = setup().start();
    let created = create(
        &gateway,
        json!({"name": "a", "owner": "ann", "allowed_models": ["m"], "allowed_endpoints": ["/v1/*"],
            "language": "pl", "expires_at": "2099-12-31", "disabled": true, "note": "n",
            "limits": {"requests_per_minute": 20, "tokens_per_minute": 30, "parallel_requests": 4},
            "budget": {"tokens": 10, "money": 2, "period": "day", "cut_off": true}}),
    )
    .await;
    let one = format!("{KEYS}/{}", id_of(&created));
    let mut expected = created;
    expected.as_object_mut().unwrap().remove("key");
    let limits = |requests: Value, tokens: Value, parallel: Value| json!({"requests_per_minute": requests, "tokens_per_minute": tokens, "parallel_requests": parallel});
    for (change, field, value) in [
        (json!({}), "name", json!("a")),
        (json!({"name": "b"}), "name", json!("b")),
        (json!({"owner": null}), "owner", json!(null)),
        (json!({"allowed_models": null}), "allowed_models", json!([])),
        (json!({"allowed_endpoints": ["*"]}), "allowed_endpoints", json!(["*"])),
        (json!({"language": null}), "language", json!(null)),
        (json!({"expires_at": null}), "expires_at", json!(null)),
        (json!({"disabled": null}), "disabled", json!(false)),
        (json!({"note": null}), "note", json!(null)),
        (json!({"limits": {"requests_per_minute": 25}}), "limits", limits(json!(25), json!(30), json!(4))),
        (json!({"limits": {"tokens_per_minute": null}}), "limits", limits(json!(25), json!(null), json!(4))),
        (json!({"limits": null}), "limits", limits(json!(null), json!(null), json!(null))),
        (
            json!({"budget": {"money": 3, "period": "week"}}),
            "budget",
            json!({"tokens": null, "money": 3.0, "period": "week", "cut_off": false}),
        ),
        (json!({"budget": null}), "budget", json!(null)),
    ] {
        let (status, key) = admin(&gateway, "PATCH", &one, change.clone()).await;
        expected[field] = value;
        assert_eq!((status, &key), (200, &expected), "{change}");
        assert_eq!(get(&gateway, &one).await, expected, "{change}");
    }
}

/// Bodies, with the place of what is wrong, its code, and words of the message.
fn wrong_bodies() -> Vec<(Value, Value, &'static str, &'static str)> {
    vec![
        (json!({}), json!("name"), "missing_field", "missing"),
        (json!({"name": ""}), json!("name"), "invalid_value", "1 to 128"),
        (json!({"name": null}), json!("name"), "invalid_value", "must be a text"),
        (json!({"name": "a", "ownr": "planted"}), json!("ownr"), "invalid_value", "did you mean `owner`?"),
        (
            json!({"name": "a", "limits": {"tokens_per_minute": "many"}}),
            json!("limits.tokens_per_minute"),
            "invalid_value",
            "must be a whole number from 1",
        ),
        (
            json!({"name": "a", "limits": {"request_per_minute": 1}}),
            json!("limits.request_per_minute"),
            "invalid_value",
            "did you mean `requests_per_minute`?",
        ),
        (
            json!({"name": "a", "limits": {"requests_per_minute": 0}}),
            json!("limits.requests_per_minute"),
            "invalid_value",
            "disable the key",
        ),
        (
            json!({"name": "a", "limits": {"requests_per_minute": "planted"}}),
            json!("limits.requests_per_minute"),
            "invalid_value",
            "whole number",
        ),
        (json!({"name": "a", "budget": {"tokens": 1}}), json!("budget.period"), "missing_field", "missing"),
        (json!({"name": "a", "budget": {"period": "day"}}), json!("budget"), "invalid_value", "`money`"),
        (
            json!({"name": "a", "budget": {"tokens": 1, "period": "planted"}}),
            json!("budget.period"),
            "invalid_value",
            "must be",
        ),
        (json!({"name": "a", "expires_at": "planted"}), json!("expires_at"), "invalid_value", "a date"),
        (
            json!({"name": "a", "allowed_models": "planted"}),
            json!("allowed_models"),
            "invalid_value",
            "must be",
        ),
        (json!({"name": "a", "allowed_models": ["a b"]}), json!("allowed_models[0]"), "invalid_value", "`*`"),
        (json!({"name": "a", "language": "!"}), json!("language"), "invalid_value", "language tag"),
    ]
}

#[tokio::test]
async fn wrong_bodies_are_told_where() {
    let gateway = setup().start();
    let key = create(&gateway, json!({"name": "a"})).await;
    let one = format!("{KEYS}/{}", id_of(&key));
    for (fields, param, code, words) in wrong_bodies() {
        let (status, answered) = admin(&gateway, "POST", KEYS, fields.clone()).await;
        let error = &answered["error"];
        assert_eq!(
            (status, &error["param"], &error["code"]),
            (400, &param, &json!(code)),
            "{fields}: {error}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words) && !message.contains("planted"), "{fields}: {message}");
        if fields.as_object().unwrap().len() > 1 || fields == json!({"name": null}) {
            let (status, answered) = admin(&gateway, "PATCH", &one, fields.clone()).await;
            assert_eq!((status, &answered["error"]["param"]), (400, &param), "{fields}: {answered}");
        }
    }
    assert_eq!(get(&gateway, KEYS).await["keys"].as_array().unwrap().len(), 1, "nothing was made of them");
    assert_eq!(get(&gateway, "/admin/audit").await["entries"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn wrong_questions_are_told_where() {
    let gateway = setup().start();
    for (path, param) in [
        ("/admin/usage?group_by=modle", "group_by"),
        ("/admin/usage?from=yesterday", "from"),
        ("/admin/usage?format=xml", "format"),
        ("/admin/usage?form=csv", "query"),
        ("/admin/audit?limit=0", "limit"),
        ("/admin/audit?before=x", "before"),
        ("/admin/keys?own=x", "query"),
        ("/admin/usage?model=a&model=b", "model"),
        ("/admin/audit?limit=1&limit=1", "limit"),
        ("/admin/usage?group_by=day&group_by=modle", "group_by"),
    ] {
        let (status, error) = admin(&gateway, "GET", path, json!(null)).await;
        assert_eq!((status, &error["error"]["param"]), (400, &json!(param)), "{path}: {error}");
    }
}

/// All files of a folder that hold these words.
fn files_with(folder: &Path, words: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, words));
        } else if std::fs::read(&path).unwrap().windows(words.len()).any(|part| part == words.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_told_once_and_stands_nowhere() {
    let gateway = setup().env("LOG_FILENAME", "all.log").env("LOG_LEVEL", "DEBUG").start();
    let response = gateway
        .post(KEYS, &json!({"name": "a", "note": "marker-of-the-note"}))
        .header("x-admin-key", ADMIN_KEY)
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["cache-control"], "no-store");
    let created = json_of(response).await;
    let id = id_of(&created);
    let (_, rotated) = admin(&gateway, "POST", &format!("{KEYS}/{id}/rotate"), json!(null)).await;
    let made = told(&keys(&gateway, &["create", "--name", "b", "--json"]));
    let secrets = [&created, &rotated, &made].map(|told| told["key"].as_str().unwrap().to_owned());

    let mut answers = String::new();
    for path in [
        KEYS,
        &format!("{KEYS}/{id}"),
        "/admin/audit",
        "/admin/owners",
        "/admin/budgets",
        "/admin/usage?group_by=key",
        "/metrics",
        "/readyz",
    ] {
        let request = gateway.get(path).header("x-admin-key", ADMIN_KEY);
        answers += &request.send().await.unwrap().text().await.unwrap();
    }
    for arguments in [&["list"][..], &["list", "--json"], &["show", id], &["disable", id]] {
        answers += &keys(&gateway, arguments).stdout;
    }
    let folder = gateway.folder.path();
    assert!(!files_with(folder, "marker-of-the-note").is_empty(), "files are read where keys are kept");
    for secret in &secrets {
        // Beyond the prefix, which is told, no part of it is anywhere.
        let rest = &secret[12..];
        assert!(!answers.contains(rest) && !gateway.log().contains(rest));
        assert_eq!(files_with(folder, rest), [""; 0], "no file has it");
    }
    assert!(!answers.contains("digest"), "{answers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_act_is_noted_with_who_did_it() {
    let gateway = setup().start();
    let key = create(&gateway, json!({"name": "a", "owner": "ann"})).await;
    let id = id_of(&key);
    let one = format!("{KEYS}/{id}");
    admin(&gateway, "PATCH", &one, json!({"owner": "bob", "limits": {"tokens_per_minute": 5}})).await;
    admin(&gateway, "POST", &format!("{one}/rotate"), json!({"grace_seconds": 5})).await;
    keys(&gateway, &["disable", id]);
    keys(&gateway, &["rotate", id]);
    admin(&gateway, "POST", "/admin/reload", json!(null)).await;
    admin(&gateway, "POST", "/admin/reload?dry_run=true", json!(null)).await;
    admin(&gateway, "DELETE", &one, json!(null)).await;
    admin(&gateway, "DELETE", &one, json!(null)).await;

    // A reload waits for no note.
    eventually("all is noted", async || {
        get(&gateway, "/admin/audit").await["entries"].as_array().unwrap().len() == 7
    })
    .await;
    let audit = get(&gateway, "/admin/audit").await;
    let entries = audit["entries"].as_array().unwrap();
    let mut acts: Vec<(&str, &str, &str)> = entries
        .iter()
        .rev()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap();
            (text("actor"), text("action"), text("subject"))
        })
        .collect();
    let reload = acts.iter().position(|act| act.1 == "configuration.reload").unwrap();
    assert_eq!(acts.remove(reload), ("admin", "configuration.reload", ""));
    assert_eq!(
        acts,
        [
            ("admin", "key.create", id),
            ("admin", "key.change", id),
            ("admin", "key.rotate", id),
            ("cli", "key.change", id),
            ("cli", "key.rotate", id),
            ("admin", "key.delete", id),
        ]
    );
    let change = entries.iter().find(|entry| entry["action"] == "key.change" && entry["actor"] == "admin");
    let detail = &change.unwrap()["detail"];
    assert_eq!(detail["owner"], json!({"from": "ann", "to": "bob"}));
    assert_eq!(detail["limits"]["to"]["tokens_per_minute"], 5);
    assert!(entries[0]["time"].as_str().unwrap().starts_with("20"));
    let deleted = entries.iter().find(|entry| entry["action"] == "key.delete").unwrap();
    assert!(deleted["detail"]["name"].is_string() && deleted["detail"]["owner"] == "bob", "{deleted}");

    // Page by page.
    let mut seen = Vec::new();
    let mut next = String::new();
    loop {
        let page = get(&gateway, &format!("/admin/audit?limit=3{next}")).await;
        seen.extend(page["entries"].as_array().unwrap().iter().cloned());
        let Some(before) = page["next_before"].as_i64() else { break };
        next = format!("&before={before}");
    }
    assert_eq!(&seen, entries);
}

async fn put_usage(gateway: &Gateway, records: &[UsageRecord]) {
    let url = format!("sqlite://{}/data/keys.db", gateway.folder.path().display());
    store::open(&url).await.unwrap().record(records).await.unwrap();
}

/// A service in which four requests were made, the last of them more than a day ago.
async fn used() -> Gateway {
    let gateway = setup().start();
    let now = now_ms();
    let of = |id: &str, minutes: i64, model: &str, owner: Option<&str>| UsageRecord {
        model: Some(model.into()),
        owner: owner.map(Into::into),
        ..record(id, now - minutes * 60_000)
    };
    put_usage(
        &gateway,
        &[
            of("1", 1, "fast", Some("ann")),
            of("2", 2, "fast", Some("ann")),
            of("3", 3, "slow, \"big\"", None),
            of("4", 60 * 30, "fast", Some("bob")),
        ],
    )
    .await;
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_told_in_groups() {
    let gateway = used().await;
    let day = get(&gateway, "/admin/usage").await;
    assert_eq!((&day["truncated"], &day["group_by"]), (&json!(false), &json!([])));
    let rows = day["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{day}");
    assert_eq!(
        (&rows[0]["requests"], &rows[0]["prompt_tokens"], &rows[0]["completion_tokens"]),
        (&json!(3), &json!(300), &json!(30)),
        "{day}"
    );
    assert!((rows[0]["cost"].as_f64().unwrap() - 0.0045).abs() < 1e-9);
    assert_eq!(rows[0].get("model"), None, "groups that were not asked for are not there");

    let all = get(&gateway, "/admin/usage?from=2020-01-01&group_by=owner").await;
    let owners: Vec<(&Value, &Value)> =
        all["rows"].as_array().unwrap().iter().map(|row| (&row["owner"], &row["requests"])).collect();
    assert_eq!(owners.len(), 3, "{all}");
    for expected in [(json!("ann"), json!(2)), (json!("bob"), json!(1)), (json!(null), json!(1))] {
        assert!(owners.contains(&(&expected.0, &expected.1)), "{expected:?} {all}");
    }
    for (query, requests) in [
        ("owner=ann", 2),
        ("model=fast", 2),
        ("key=key-1", 3),
        ("from=2020-01-01&model=fast", 3),
        ("from=2020-01-01&key=key-1&group_by=key,provider", 4),
        ("from=2020-01-01&key=key-1&group_by=key&group_by=provider", 4),
    ] {
        let usage = get(&gateway, &format!("/admin/usage?{query}")).await;
        assert_eq!(usage["rows"][0]["requests"], json!(requests), "{query}: {usage}");
    }
    for (query, rows) in [("owner=nobody", 0), ("key=key-2&group_by=model", 0), ("to=2020-01-01", 0)] {
        let usage = get(&gateway, &format!("/admin/usage?{query}")).await;
        let found = usage["rows"].as_array().unwrap();
        let requests: u64 = found.iter().filter_map(|row| row["requests"].as_u64()).sum();
        assert_eq!(requests, rows, "{query}: {usage}");
    }
    let days = get(&gateway, "/admin/usage?from=2020-01-01&group_by=day,hour").await;
    let row = &days["rows"][0];
    assert!(row["hour"].as_str().unwrap().starts_with(row["day"].as_str().unwrap()), "{days}");
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_told_as_a_table() {
    let gateway = used().await;
    let request =
        gateway.get("/admin/usage?group_by=model,owner&format=csv").header("x-admin-key", ADMIN_KEY);
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/csv; charset=utf-8");
    let table = response.text().await.unwrap();
    let mut lines: Vec<&str> = table.split("\r\n").collect();
    assert!(lines.remove(0).starts_with("model,owner,requests,prompt_tokens,completion_tokens,"), "{table}");
    assert!(lines.iter().any(|line| line.starts_with("fast,ann,2,200,20,220,")), "{table}");
    assert!(lines.iter().any(|line| line.starts_with("\"slow, \"\"big\"\"\",,1,100,10,110,")), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_by_key_tells_what_the_keys_are_called() {
    let gateway = setup().start();
    let key = create(&gateway, json!({"name": "shop, east"})).await;
    let id = id_of(&key);
    let of_it = UsageRecord { key: Some(id.into()), ..record("1", now_ms() - 1000) };
    put_usage(&gateway, &[of_it, record("2", now_ms() - 1000)]).await;

    let usage = get(&gateway, "/admin/usage?group_by=key").await;
    let names: HashMap<&str, &Value> = usage["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["key"].as_str().unwrap(), &row["key_name"]))
        .collect();
    let expected = [(id, &json!("shop, east")), ("key-1", &json!(null))];
    assert_eq!(names, HashMap::from(expected), "those that are no longer there have none: {usage}");

    let request = gateway.get("/admin/usage?group_by=key&format=csv").header("x-admin-key", ADMIN_KEY);
    let table = request.send().await.unwrap().text().await.unwrap();
    assert!(table.starts_with("key,key_name,requests,"), "{table}");
    assert!(table.contains(&format!("{id},\"shop, east\",1,")) && table.contains("key-1,,1,"), "{table}");
    assert_eq!(get(&gateway, "/admin/usage").await["rows"][0].get("key_name"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_and_budgets_are_told_with_what_is_spent() {
    let gateway = setup().start();
    let budget = json!({"tokens": 500, "period": "day"});
    let one = create(&gateway, json!({"name": "one", "owner": "ann", "budget": budget})).await;
    create(&gateway, json!({"name": "two", "owner": "ann"})).await;
    create(&gateway, json!({"name": "nobody's"})).await;
    put_usage(&gateway, &[record("1", now_ms() - 1000)]).await;
    let owners = get(&gateway, "/admin/owners").await;
    assert_eq!(owners["owners"].as_array().unwrap().len(), 1, "{owners}");
    let ann = &owners["owners"][0];
    assert_eq!(ann["owner"], "ann");
    assert_eq!(
        ann["keys"][0],
        json!({"id": one["id"], "name": "one", "prefix": one["prefix"], "disabled": false})
    );
    assert_eq!(
        (ann["keys"].as_array().unwrap().len(), &ann["usage"]["prompt_tokens"]),
        (2, &json!(100)),
        "{ann}"
    );
    let budgets = get(&gateway, "/admin/budgets").await;
    assert_eq!(budgets["budgets"].as_array().unwrap().len(), 1, "{budgets}");
    let told = &budgets["budgets"][0];
    assert_eq!((&told["of"], &told["id"], &told["owner"]), (&json!("key"), &one["id"], &json!("ann")));
    assert_eq!((&told["budget"]["tokens"], &told["budget"]["period"]), (&json!(500), &json!("day")));
    assert!(told["budget"]["ends_at"].as_str().unwrap().ends_with("T00:00:00Z"), "{told}");
}

#[tokio::test]
async fn without_a_database_the_admin_api_says_so() {
    let gateway = setup()
        .file("data/broken.db", "this is no database, and long enough to be seen as none")
        .env("DATABASE_URL", "sqlite://data/broken.db")
        .start();
    for (method, path, body) in [
        ("GET", KEYS, json!(null)),
        ("POST", KEYS, json!({"name": "a"})),
        ("GET", "/admin/usage", json!(null)),
        ("GET", "/admin/audit", json!(null)),
        ("GET", "/admin/owners", json!(null)),
        ("GET", "/admin/budgets", json!(null)),
    ] {
        let (status, error) = admin(&gateway, method, path, body).await;
        assert_eq!((status, &error["error"]["code"]), (503, &json!("store_unavailable")), "{path}: {error}");
        assert_eq!(error["error"]["type"], "overloaded_error");
    }
    assert_eq!(admin(&gateway, "POST", "/admin/reload", json!(null)).await.0, 200, "reloads need none");
    let response = gateway.get(KEYS).header("x-admin-key", ADMIN_KEY).send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn nothing_of_it_opens_without_the_admin_key() {
    let gateway = setup().start();
    let key = create(&gateway, json!({"name": "a"})).await;
    let secret = key["key"].as_str().unwrap();
    let one = format!("{KEYS}/{}", id_of(&key));
    for path in [KEYS, &one, "/admin/usage", "/admin/audit", "/admin/owners", "/admin/budgets"] {
        assert_eq!(answer(gateway.get(path)).await.0, 401, "{path}");
        let (status, error) = answer(gateway.get(path).bearer_auth(secret)).await;
        assert_eq!((status, &error["error"]["code"]), (401, &json!("invalid_api_key")), "{path}");
    }
    assert_eq!(answer(gateway.post(&format!("{one}/rotate"), &json!({}))).await.0, 401);
    assert_eq!(get(&gateway, &one).await["previous_until"], json!(null), "nothing was changed");
}

#[tokio::test]
async fn who_is_asked_for_no_key_has_none() {
    let gateway = setup().start();
    for request in
        [gateway.get("/api/me"), gateway.get("/api/me/usage"), gateway.post("/api/me/rotate", &json!({}))]
    {
        let (status, error) = answer(request).await;
        assert_eq!((status, &error["error"]["code"]), (404, &json!("key_not_found")), "{error}");
    }
}

#[tokio::test]
async fn the_document_has_all_of_it() {
    let gateway = Setup::new().start();
    let (_, document) = answer(gateway.get("/openapi.json")).await;
    for (path, method, has_body) in [
        ("/admin/keys", "post", true),
        ("/admin/keys", "get", false),
        ("/admin/keys/{id}", "get", false),
        ("/admin/keys/{id}", "patch", true),
        ("/admin/keys/{id}", "delete", false),
        ("/admin/keys/{id}/rotate", "post", true),
        ("/admin/usage", "get", false),
        ("/admin/audit", "get", false),
        ("/admin/owners", "get", false),
        ("/admin/budgets", "get", false),
        ("/api/me", "get", false),
        ("/api/me/usage", "get", false),
        ("/api/me/rotate", "post", true),
    ] {
        let operation = &document["paths"][path][method];
        assert!(operation["summary"].is_string(), "{method} {path}");
        let responses = operation["responses"].as_object().unwrap();
        for status in ["200", "401", "404", "503"] {
            assert!(responses.contains_key(status), "{status} of {method} {path}");
        }
        let opened_by = if path.starts_with("/admin") { "AdminBearer" } else { "CallerBearer" };
        assert!(operation["security"][0].get(opened_by).is_some(), "{path}");
        let body = &operation["requestBody"];
        assert_eq!(body.is_object(), has_body, "{method} {path}");
        if has_body {
            let schema = &body["content"]["application/json"]["schema"]["$ref"];
            let schema = document.pointer(schema.as_str().unwrap().trim_start_matches('#')).unwrap();
            assert!(schema["example"].is_object() && schema["properties"].is_object(), "{method} {path}");
        }
    }
    let parameters = document["paths"]["/admin/usage"]["get"]["parameters"].as_array().unwrap();
    let names: Vec<&str> = parameters.iter().filter_map(|parameter| parameter["name"].as_str()).collect();
    assert_eq!(names, ["from", "to", "group_by", "format", "key", "owner", "model"]);
    assert_eq!(document["paths"]["/admin/keys/{id}/rotate"]["post"]["requestBody"]["required"], json!(false));
    let key = &document["components"]["schemas"]["KeyWithSecret"]["properties"];
    assert!(key["key"].is_object() && key["allowed_models"].is_object(), "{key}");
}

#[test]
fn a_database_that_cannot_be_opened_is_named() {
    let setup = setup()
        .file("data/other.db", "this is no database, but a text that is long enough to be one")
        .env("DATABASE_URL", "sqlite://data/other.db")
        .env("AUTH", "keys");
    for arguments in [&["keys", "list"][..], &["models", "disable", "echo"], &[]] {
        let ended = setup.run(arguments);
        assert_eq!(ended.code, Some(1), "{arguments:?}");
        let named = ["data/other.db", "LLM_PROXY_API_DATABASE_URL"];
        assert!(named.iter().all(|name| ended.stderr.contains(name)), "{arguments:?}: {}", ended.stderr);
    }
}
