//! Whatever ends the gateway ends its engines, also those that are scripts.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::engine::fake_llama_server;
use crate::support::{Gateway, Setup, eventually};

/// A gateway with one model, whose engine is a script that starts the server and waits for it.
fn gateway() -> Gateway {
    let setup = Setup::new();
    let script = setup.path("engine.sh");
    let fake = fake_llama_server();
    let journal = setup.path("journal");
    let text = format!("{} --fake-journal {} \"$@\"\n:\n", fake.display(), journal.display());
    let setup = setup.file("engine.sh", &text).variable("PATH", "/usr/bin:/bin");
    let run = setup.path("");
    let models = json!({"m": {"variants": [{"context": 512}]}});
    let local = json!({"type": "llamacpp", "binary": "/bin/sh", "args": [script.display().to_string()], "models": models});
    setup
        .variable("XDG_RUNTIME_DIR", run.to_str().unwrap())
        .models(&json!({"providers": {"local": local}}))
        .start()
}

/// The engine's server and its script, once they have answered.
async fn answered(gateway: &Gateway) -> [u32; 2] {
    let request = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]});
    let (status, answer) = gateway.ask("/v1/chat/completions", &request).await;
    assert_eq!(status, 200, "{answer}\n{}", gateway.log());
    let journal = std::fs::read_to_string(gateway.folder.path().join("journal")).unwrap();
    let server = journal.split(' ').next().unwrap().parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{server}/stat")).unwrap();
    let script = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap();
    [server, script]
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

#[tokio::test]
async fn nothing_is_left_however_the_gateway_ends() {
    for signal in ["TERM", "INT", "KILL"] {
        let mut gateway = gateway();
        let pids = answered(&gateway).await;
        assert!(pids.into_iter().all(is_running), "{signal}");
        gateway.signal(signal);
        let killed = Instant::now();
        let _ = gateway.ended().await;
        eventually("gone", async || !pids.into_iter().any(is_running)).await;
        assert!(killed.elapsed() < Duration::from_secs(4), "{signal}: {:?}", killed.elapsed());
        let folder = std::fs::read_dir(gateway.folder.path()).unwrap().map(|file| file.unwrap().path());
        let run = folder.into_iter().find(|path| path.to_string_lossy().contains("llm-proxy-api-")).unwrap();
        let records = || std::fs::read_dir(&run).unwrap().count();
        eventually("nothing is written down", async || records() == 0).await;
    }
}
