//! No key and no prompt reaches a program that listens where an engine should.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::engines::{CHAT, alive, journal, says, setup, steer};
use crate::support::engine::fake_llama_server;
use crate::support::{Gateway, Setup, eventually};

/// A program that says yes to everything, and keeps what it is sent.
struct Stranger {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Stranger {
    async fn at(address: &str) -> Self {
        Self::on(TcpListener::bind(address).await.unwrap())
    }

    fn on(listener: TcpListener) -> Self {
        let port = listener.local_addr().unwrap().port();
        let (heard, connections) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<AtomicUsize>::default());
        let (text, counted) = (heard.clone(), connections.clone());
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer(socket, text.clone()));
            }
        });
        Self { port, heard, connections, task }
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }
}

/// Answers everything that comes as a healthy engine would.
async fn answer(mut socket: TcpStream, heard: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = socket.read(&mut buffer).await {
        heard.lock().unwrap().extend_from_slice(&buffer[..read]);
        let healthy = b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"status\":\"ok\"}";
        let _ = socket.write_all(healthy).await;
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A model whose engine never listens, or is the fake.
fn gateway(variant: &Value, program: &str) -> Gateway {
    let base = Setup::new();
    let script = base.path("engine.sh");
    let mut variant = variant.clone();
    variant["context"] = json!(512);
    let args = [json!(script.display().to_string()), json!("--fake-journal"), json!(base.path("journal"))];
    let local = json!({"type": "llamacpp", "binary": "/bin/sh", "args": args, "models": {"m": {"variants": [variant]}}});
    let runtime = base.path(".").display().to_string();
    let base = base.file("engine.sh", program).variable("XDG_RUNTIME_DIR", &runtime);
    base.variable("PATH", "/usr/bin:/bin").models(&json!({"providers": {"local": local}})).start()
}

fn is_told(status: u16, error: &Value, port: u16) {
    assert_eq!((status, &error["error"]["code"]), (503, &json!("engine_start_failed")), "{error}");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("port {port}")), "{message}");
}

#[tokio::test]
async fn a_stranger_at_an_engines_port_hears_nothing() {
    let mute = "exec sleep 1000".to_owned();
    let real = format!("exec {} \"$@\"\n", fake_llama_server().display());
    for (listens, program, connect) in [
        ("127.0.0.1:0", &mute, Some("localhost")),
        ("127.0.0.1:0", &mute, None),
        ("0.0.0.0:0", &mute, Some("127.0.0.1")),
        ("[::]:0", &mute, Some("localhost")),
        ("127.0.0.1:0", &real, Some("127.0.0.1")),
    ] {
        let stranger = Stranger::at(listens).await;
        let port = stranger.port;
        let variant = match connect {
            None => json!({"args": ["--port", port.to_string()]}),
            Some(host) => json!({"connect": format!("http://{host}:{port}")}),
        };
        let gateway = gateway(&variant, program);
        for path in [CHAT, "/api/passthrough/local/v1/chat/completions"] {
            let (status, error) = gateway.ask(path, &says("m", "planted words")).await;
            is_told(status, &error, port);
        }
        let (status, error) = steer(&gateway, "m", "load").await;
        is_told(status, &error, port);
        assert_eq!(stranger.heard(), "", "{listens} {variant}");
        assert_eq!(stranger.connections.load(Ordering::SeqCst), 0, "{listens} {variant}");
    }
}

#[tokio::test]
async fn a_stranger_who_takes_the_port_of_an_engine_that_has_ended_hears_nothing() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let models = json!({"m": {"variants": [{"context": 512, "args": ["--port", free.to_string()]}]}});
    let gateway = setup(&models, &json!({})).start();
    assert_eq!(gateway.ask(CHAT, &says("m", "hi")).await.0, 200, "{}", gateway.log());
    let [engine] = alive(&gateway)[..] else { panic!("one engine") };
    let ended = Command::new("kill").args(["-9", &engine.to_string()]).status().unwrap();
    assert!(ended.success());
    let listener = loop {
        match TcpListener::bind(("127.0.0.1", free)).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let stranger = Stranger::on(listener);
    // At once, before and after the gateway hears of the end.
    for _ in 0..3 {
        let (status, error) = gateway.ask(CHAT, &says("m", "planted words")).await;
        is_told(status, &error, free);
    }
    assert_eq!(stranger.heard(), "");
    drop(stranger);
    let served = async || gateway.ask(CHAT, &says("m", "hi")).await.0 == 200;
    eventually("the port is free again", served).await;
}

/// Scripts that start the server in a session of its own; the second ends all ties to it.
fn wrappers() -> [String; 2] {
    let fake = fake_llama_server().display().to_string();
    [format!("setsid {fake} \"$@\" &\nwait\n"), format!("(setsid {fake} \"$@\" &)\nexec sleep 1000\n")]
}

#[tokio::test]
async fn an_engine_in_a_session_of_its_own_is_known_by_its_mark_and_ends() {
    for script in wrappers() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let gateway = gateway(&json!({"args": ["--port", free.to_string()]}), &script);
        for _ in 0..2 {
            let (status, answer) = gateway.ask(CHAT, &says("m", "hi")).await;
            assert_eq!(status, 200, "{answer} {}", gateway.log());
            assert_eq!(alive(&gateway).len(), 1, "one server, not one of each load");
            assert_eq!(steer(&gateway, "m", "unload").await.0, 200);
            assert_eq!(alive(&gateway), [0; 0], "after an unload: {script}");
        }
    }
}

#[tokio::test]
async fn an_engine_in_a_session_of_its_own_ends_with_the_gateway() {
    for script in wrappers() {
        for signal in ["TERM", "KILL"] {
            let mut gateway = gateway(&json!({}), &script);
            assert_eq!(gateway.ask(CHAT, &says("m", "hi")).await.0, 200, "{}", gateway.log());
            assert_eq!(alive(&gateway).len(), 1);
            gateway.signal(signal);
            gateway.ended().await;
            let none = async || alive(&gateway).is_empty();
            eventually(&format!("no server is left after SIG{signal}: {script}"), none).await;
        }
    }
}

fn sockets(gateway: &Gateway) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(gateway.folder.path()).unwrap().map(|file| file.unwrap().path());
    let run = folders.into_iter().find(|path| path.to_string_lossy().contains("/llm-proxy-api-")).unwrap();
    assert_eq!(std::fs::metadata(&run).unwrap().mode() & 0o777, 0o700);
    let files = std::fs::read_dir(run).unwrap().map(|file| file.unwrap());
    files.filter(|file| file.file_type().unwrap().is_socket()).map(|file| file.path()).collect()
}

#[tokio::test]
async fn an_engine_without_an_address_listens_on_a_socket_of_this_user() {
    let gateway = setup(&json!({"m": {"variants": [{"context": 512}]}}), &json!({})).start();
    assert_eq!(gateway.ask(CHAT, &says("m", "hi")).await.0, 200, "{}", gateway.log());
    let [engine] = alive(&gateway)[..] else { panic!("one engine") };
    let words = std::fs::read_to_string(format!("/proc/{engine}/cmdline")).unwrap();
    assert_eq!(sockets(&gateway).len(), 1);
    assert!(words.contains(".sock\0") && !words.contains("--port"), "{words}");
    assert_eq!(steer(&gateway, "m", "unload").await.0, 200);
    assert!(sockets(&gateway).is_empty());
}

#[tokio::test]
async fn a_run_folder_with_a_long_path_is_replaced() {
    let base = Setup::new();
    let long = base.path(&"long".repeat(25));
    std::fs::create_dir(&long).unwrap();
    let models = json!({"m": {"variants": [{"context": 512}]}});
    let local = json!({"type": "llamacpp", "binary": fake_llama_server(), "models": models});
    let gateway = base
        .models(&json!({"providers": {"local": local}}))
        .variable("XDG_RUNTIME_DIR", long.to_str().unwrap())
        .start();
    assert_eq!(gateway.ask(CHAT, &says("m", "hi")).await.0, 200, "{}", gateway.log());
    assert!(gateway.log().contains("no room for names of sockets"), "{}", gateway.log());
}

#[tokio::test]
async fn a_server_that_knows_no_sockets_is_told_what_it_needs() {
    let refuses = "echo \"couldn't bind HTTP server socket, hostname: $9\" >&2; exit 1\n";
    for (program, words) in
        [(refuses, "needs a fixed address"), ("exec sleep 1000\n", "needs a fixed address")]
    {
        let variant = json!({"engine_startup_timeout": 1});
        let gateway = gateway(&variant, program);
        let (status, error) = gateway.ask(CHAT, &says("m", "hi")).await;
        assert_eq!((status, &error["error"]["code"]), (503, &json!("engine_start_failed")), "{error}");
        assert!(gateway.log().contains(words), "{}", gateway.log());
    }
}

#[tokio::test]
async fn raw_requests_to_engines_are_those_of_a_list_however_they_are_spelled() {
    let gateway = setup(&json!({"m": {"variants": [{"context": 512}]}}), &json!({})).start();
    for path in [
        "/slots/0?action=erase",
        "/%73lots/0?action=erase",
        "/%73%6c%6f%74%73/0?action=save",
        "/slots;x=1/0?action=erase",
        "/Slots/0?action=erase",
        "/slots/0/?action=erase",
        "/lora-adapters",
        "/lora%2dadapters",
        "/props",
        "/v1/unheard-of",
    ] {
        let (status, error) = gateway.ask(&format!("/api/passthrough/local{path}"), &json!({})).await;
        let is_refused = status == 403 && error["error"]["type"] == "permission_error";
        // Some spellings are no paths at all.
        assert!(is_refused || (status == 400 && path.contains(';')), "{path}: {status} {error}");
    }
    let wrapped = json!({"model": "m", "path": "/slots/0?action=erase", "body": {}});
    let (status, error) = gateway.ask("/api/passthrough", &wrapped).await;
    assert!(matches!(status, 400 | 403), "{error}");
    assert!(journal(&gateway, "start").is_empty(), "nothing is started for it");
    let (status, answer) = gateway.ask("/api/passthrough/local/%74okenize", &json!({"content": "a b"})).await;
    assert_eq!((status, answer), (200, json!({"tokens": [0, 1]})));
}

/// A server of another user, if this one may start it.
fn of_another_user(uid: u32) -> Option<(Child, u16)> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new(fake_llama_server());
    command.args(["--host", "127.0.0.1", "--port", &port.to_string()]).stderr(Stdio::null());
    let mut child = command.uid(uid).spawn().ok()?;
    for _ in 0..1000 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some((child, port));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    None
}

#[tokio::test]
async fn a_server_of_another_person_is_neither_found_nor_given_the_admin_key() {
    // Only root can start one; as any other user there is nothing to be seen here.
    let Some((mut other, port)) = of_another_user(54_321) else { return };
    let setup = Setup::new()
        .env("LISTEN", &format!("127.0.0.1:{port}"))
        .env("ADMIN_KEY", "planted-admin-key-of-test");
    let ended = setup.run(&["check", "--diff"]);
    assert!(ended.code != Some(0) && ended.stderr.contains("the admin key is not sent"), "{}", ended.stderr);
    assert!(ended.stderr.contains("user 54321"), "{}", ended.stderr);

    let minimum = Setup::new().without_models().env("MINIMUM", "1");
    let gateway = minimum.variable("OLLAMA_HOST", &format!("127.0.0.1:{port}")).start_on_terminal();
    let banner = gateway.log();
    assert!(banner.contains(&format!("not found (127.0.0.1:{port} is in use by user 54321)")), "{banner}");
    other.kill().unwrap();
    other.wait().unwrap();
}
