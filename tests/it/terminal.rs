//! What people type: flags in the place of settings, help, a conversation, what was used.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Ended, Setup, eventually};

#[test]
fn flags_hold_before_the_environment_and_files() {
    let models = json!({"providers": {"echo": {"type": "echo", "models": {"other": {}}}}}).to_string();
    let setup = Setup::new()
        .file("other.json", &models)
        .file(".env", "LLM_PROXY_API_EP_PREFIX=/from-dotenv\n")
        .file("my.env", "LLM_PROXY_API_DEFAULT_EP_LANGUAGE=pl\n")
        .file("bad.env", "no line of a file of settings\n");
    let plain = setup.run(&["check"]);
    assert!(
        plain.stdout.contains("model echo: ") && plain.stdout.contains("127.0.0.1:0"),
        "{}",
        plain.stdout
    );

    let flags = ["--config", "other.json", "--listen", "127.0.0.1:4999", "--env-file", "my.env"];
    for arguments in [[&["check"][..], &flags].concat(), [&flags[..], &["check"]].concat()] {
        let ended = setup.run(&arguments);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        for words in ["model other: echo/other", "would listen on 127.0.0.1:4999"] {
            assert!(ended.stdout.contains(words), "{words}: {}", ended.stdout);
        }
        assert!(!ended.stdout.contains("model echo"), "{}", ended.stdout);
    }
    for (flags, told) in [
        (["--config", "gone.json"], "gone.json"),
        (["--listen", "nonsense"], "LLM_PROXY_API_LISTEN"),
        (["--env-file", "gone.env"], "gone.env"),
        (["--env-file", "bad.env"], "bad.env: line 1"),
        (["--log-level", "a=b=c"], "LLM_PROXY_API_LOG_LEVEL"),
    ] {
        let ended = setup.run(&[&["check"], &flags[..]].concat());
        assert!(ended.code == Some(1) && ended.stderr.contains(told), "{flags:?}: {}", ended.stderr);
    }
}

#[test]
fn help_explains_every_setting() {
    let help = Setup::new().run(&["serve", "--help"]).stdout;
    for words in
        ["LLM_PROXY_API_", "  LISTEN ", "[default: 127.0.0.1:8080]", "  REDIS_FAIL ", "--env-file <FILE>"]
    {
        assert!(help.contains(words), "{words}: {help}");
    }
    let short = Setup::new().run(&["--help"]).stdout;
    assert!(short.contains("llm-proxy-api serve --help"), "{short}");
}

/// The commands that the program has, by its help.
fn commands() -> Vec<String> {
    let help = Setup::new().run(&["--help"]).stdout;
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = listed.take_while(|line| !line.is_empty());
    lines.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

#[test]
fn the_script_knows_every_command_before_it_builds() {
    let script = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/run-rest-api.sh")).unwrap();
    let known = script.lines().find_map(|line| line.strip_prefix("commands='")).unwrap();
    let known: Vec<&str> = known.trim_end_matches('\'').split(' ').collect();
    let commands = commands();
    assert!(commands.len() > 5);
    for command in commands {
        assert!(known.contains(&command.as_str()), "{command}");
    }
    let run = |arguments: &[&str], more: (&str, &str)| {
        let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/run-rest-api.sh"))
            .args(arguments)
            .env(more.0, more.1)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, told) = run(&["chekc"], ("X", ""));
    assert!(code == Some(2) && told.contains("chekc"), "{told}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, told) = run(&["serve"], ("LLM_PROXY_API_LISTEN", &address));
    assert!(code == Some(1) && told.contains(&address) && told.contains("LLM_PROXY_API_LISTEN="), "{told}");
}

/// Runs a command with lines that are typed.
fn typed(setup: &Setup, arguments: &[&str], lines: &str) -> Ended {
    let mut child = Command::new(env!("CARGO_BIN_EXE_llm-proxy-api"))
        .args(arguments)
        .current_dir(setup.path("."))
        .env_clear()
        .env("LLM_PROXY_API_MODELS_CONFIG", "models.json")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn a_conversation_in_the_terminal() {
    let models = json!({"echo": {}, "other": {}, "broken": {"defaults": {"echo": {"status": 500}}}});
    let setup = Setup::new().models(&json!({"providers": {"echo": {"type": "echo", "models": models}}}));
    let ended = typed(
        &setup,
        &["chat", "echo"],
        "Hello żółw!\n\n/model other\nAnd now?\n/system Be brief.\n/bye\nunheard\n",
    );
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "Hello żółw!\nAnd now?\n"), "{}", ended.stderr);
    for kept in ["data/llm-proxy-api.db", "data/llm-proxy-rest.log", "llm-proxy-rest.log"] {
        assert!(!setup.path(kept).exists(), "{kept}");
    }

    let ended = typed(&setup, &["chat", "echo"], "/modle x\n/model\n/model missing\nStill there?\n");
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "Still there?\n"), "{}", ended.stderr);
    for words in
        ["/modle is not known here", "echo\nother\nbroken\n", "the model `missing` is not configured"]
    {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
    let ended = typed(&setup, &["chat", "broken"], "Hello\n");
    assert!(ended.code == Some(1) && ended.stderr.contains("500"), "{}", ended.stderr);
    let ended = typed(&setup, &["chat", "ecko"], "");
    assert!(ended.code == Some(1) && ended.stderr.contains("did you mean `echo`?"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_used_is_a_table_or_json() {
    let setup = Setup::new();
    let none = setup.run(&["usage"]);
    assert!(none.code == Some(1) && none.stderr.contains("there is no database"), "{}", none.stderr);

    let gateway = setup.start();
    assert!(gateway.run(&["usage"]).stdout.starts_with("nothing was used from "));
    let body = json!({"model": "echo", "messages": [{"role": "user", "content": "Hello there"}]});
    gateway.ask("/v1/chat/completions", &body).await;
    eventually("it is written down", async || gateway.run(&["usage"]).stdout.starts_with("model ")).await;
    let table = gateway.run(&["usage", "--by", "endpoint,outcome"]).stdout;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..4], ["endpoint", "outcome", "requests", "prompt_tokens"], "{table}");
    assert_eq!(lines[1][..3], ["/v1/chat/completions", "completed", "1"], "{table}");
    let told: Value = serde_json::from_str(&gateway.run(&["usage", "--json"]).stdout).unwrap();
    assert_eq!((&told["rows"][0]["model"], &told["rows"][0]["requests"]), (&json!("echo"), &json!(1)));
    let wrong = gateway.run(&["usage", "--by", "modle"]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("did you mean `model`?"), "{}", wrong.stderr);
}

#[test]
fn tables_are_json_for_machines() {
    let models = json!({"providers": {"echo": {"type": "echo", "models": {"echo": {"context": 4096}}}}, "models": {"echo": {"aliases": ["fast"]}}});
    let setup = Setup::new().models(&models);
    let read = |arguments: &[&str]| {
        let ended = setup.run(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
        serde_json::from_str::<Value>(&ended.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    };
    let listed = &read(&["models", "list", "--json"])["models"][0];
    assert_eq!((&listed["model"], &listed["aliases"]), (&json!("echo"), &json!(["fast"])));
    assert_eq!(listed["deployments"], json!([{"id": "echo/echo", "context_tokens": 4096}]));
    assert_eq!(read(&["models", "--json"])["models"][0]["disabled"], false);
    let prompts = &read(&["prompts", "list", "--json"])["prompts"];
    assert!(prompts.as_array().unwrap().iter().any(|prompt| prompt["name"] == "translate"), "{prompts}");
    let coverage = read(&["prompts", "coverage", "--json"]);
    assert_eq!(coverage["prompts"][0]["states"]["en"], "source", "{coverage}");
    assert!(read(&["leaderboard", "show", "--json"])["sources"].as_array().unwrap().len() > 1);
    assert!(read(&["leaderboard", "show", "nobodys-model", "--json"])["share"].is_null());
}
