//! Engines that the gateway runs itself, with a real llama-server: chosen by what a request needs, switched without a
//! loss, shared by many, and gone with the gateway.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Claim, Need, claims};
use crate::support::client::{Answer, header};
use crate::support::{Event, Gateway, eventually};
use crate::tiny_gguf;

const CHAT: &str = "/v1/chat/completions";
const SOON: Duration = Duration::from_secs(10);

pub(crate) fn claims() -> Vec<Claim> {
    claims![&[Need::LlamaServer];
        an_engine_starts_when_it_is_needed_and_grows_with_a_request,
        a_prompt_that_no_variant_holds_starts_nothing,
        a_prompt_that_was_guessed_too_short_is_planned_anew_unseen,
        prompts_are_counted_exactly_while_no_engine_runs,
        two_callers_that_take_turns_are_served_without_a_loss,
        many_requests_of_all_sizes_share_an_engine_without_an_error,
        a_stream_survives_that_another_model_is_asked_for,
        an_engine_listens_on_a_socket_of_this_user_only,
        an_engine_at_a_fixed_port_is_asked_if_the_port_is_its_own,
        an_engine_killed_in_mid_stream_is_told_and_replaced,
        an_engine_killed_while_idle_is_replaced_unseen,
        a_conversation_that_outgrows_its_engine_is_not_read_again,
        a_gateway_that_is_killed_leaves_no_engine,
        a_gateway_that_ends_ends_its_engines,
        the_configuration_of_the_original_runner_works_as_it_is,
    ]
}

/// A gateway, and the folder of its models, whose path tells its engines from those of others.
struct Setting {
    gateway: Gateway,
    folder: TempDir,
}

impl Setting {
    /// Two models: `tiny` in two sizes, and `other`.
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("tiny.gguf"), tiny_gguf::bytes(8192)).unwrap();
        let gateway = Gateway::start(&models(folder.path())).await;
        Self { gateway, folder }
    }

    async fn ask(&self, model: &str, words: usize) -> Answer {
        self.gateway.post(CHAT, &chat(model, words)).await
    }

    /// The processes of this gateway's engines.
    fn engines(&self) -> Vec<u32> {
        engines_of(self.folder.path())
    }

    async fn has_no_engines(&self, within: Duration) {
        eventually("no engine is left", within, async || self.engines().is_empty()).await;
    }
}

fn models(folder: &Path) -> Value {
    let args = ["-m", folder.join("tiny.gguf").to_str().unwrap(), "-t", "1", "--offline"].map(str::to_owned);
    json!({"providers": {"local": {"type": "llamacpp", "binary": Need::LlamaServer.path(), "args": args, "models": {
        "tiny": {"variants": [{"context": 512}, {"context": 4096}]},
        "other": {"variants": [{"context": 2048}]},
    }}}})
}

/// Every byte of a prompt is a token, so a word is five.
fn chat(model: &str, words: usize) -> Value {
    json!({"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "word ".repeat(words)}]})
}

/// Engines know their models by path.
fn engines_of(folder: &Path) -> Vec<u32> {
    let folder = folder.to_str().unwrap();
    let processes = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_engine = |pid: &u32| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(folder))
    };
    processes.filter(is_engine).collect()
}

fn kill(pid: u32) {
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

async fn an_engine_starts_when_it_is_needed_and_grows_with_a_request() {
    let setting = Setting::new().await;
    assert!(setting.engines().is_empty());
    for (words, variant) in [(2, "tiny@512"), (3, "tiny@512"), (300, "tiny@4096"), (2, "tiny@4096")] {
        let answer = setting.ask("tiny", words).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("x-llm-variant"), variant);
        assert_eq!(setting.engines().len(), 1);
    }
    assert_eq!(setting.ask("other", 2).await.header("x-llm-variant"), "other@2048");
    eventually("only one engine runs", SOON, async || setting.engines().len() == 1).await;
}

async fn an_engine_listens_on_a_socket_of_this_user_only() {
    let setting = Setting::new().await;
    for stream in [false, true] {
        let mut body = chat("tiny", 3);
        body["stream"] = json!(stream);
        assert_eq!(setting.gateway.post(CHAT, &body).await.status, 200);
    }
    let [engine] = setting.engines()[..] else { panic!("one engine") };
    let line = std::fs::read_to_string(format!("/proc/{engine}/cmdline")).unwrap();
    let arguments: Vec<&str> = line.split('\0').collect();
    let host = arguments.iter().position(|argument| *argument == "--host").unwrap() + 1;
    let socket = Path::new(arguments[host]);
    let mode = |path: &Path| std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path).unwrap()) & 0o777;
    assert!(socket.extension().is_some_and(|ending| ending == "sock") && !arguments.contains(&"--port"));
    assert_eq!(mode(socket.parent().unwrap()), 0o700);
}

async fn an_engine_at_a_fixed_port_is_asked_if_the_port_is_its_own() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("tiny.gguf"), tiny_gguf::bytes(8192)).unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let mut models = models(folder.path());
    models["providers"]["local"]["models"]["tiny"]["connect"] = json!(format!("http://127.0.0.1:{port}"));
    let gateway = Gateway::start(&models).await;
    let taken = gateway.post(CHAT, &chat("tiny", 3)).await;
    assert_eq!(taken.fault(), (503, "engine_start_failed"), "{}", taken.body);
    assert!(taken.body["error"]["message"].as_str().unwrap().contains(&port.to_string()), "{}", taken.body);
    other.set_nonblocking(true).unwrap();
    assert!(other.accept().is_err(), "nothing has come to the other program");
    drop(other);
    eventually("the engine has its port", SOON, async || {
        gateway.post(CHAT, &chat("tiny", 3)).await.status == 200
    })
    .await;
}

async fn a_prompt_that_no_variant_holds_starts_nothing() {
    let setting = Setting::new().await;
    for stream in [false, true] {
        let mut body = chat("tiny", 12_000);
        body["stream"] = json!(stream);
        let answer = setting.gateway.post(CHAT, &body).await;
        assert_eq!(answer.fault(), (400, "context_length_exceeded"), "{}", answer.body);
        assert!(answer.body["error"]["message"].as_str().unwrap().contains("4096"), "{}", answer.body);
    }
    assert!(setting.engines().is_empty());
}

/// Ways of splitting texts, of which the counts are said to be right.
const WAYS: [&str; 7] =
    ["llama-bpe", "qwen2", "deepseek-llm", "deepseek-coder", "command-r", "refact", "starcoder"];

async fn prompts_are_counted_exactly_while_no_engine_runs() {
    let folder = TempDir::new().unwrap();
    for way in WAYS {
        std::fs::write(folder.path().join(format!("{way}.gguf")), tiny_gguf::merging(8192, way)).unwrap();
    }
    let text =
        "The road's music: 12345 roads,  they'll say!!!\n\n\n   zażółć gęślą jaźń łłł 1 23 456\t你好\r\nend "
            .repeat(5);
    let tools = json!([{"type": "function", "function": {"name": "road", "description": "a <road>",
        "parameters": {"type": "object", "properties": {"ll": {"type": "string"}}}}}]);
    let talk = |model: &str| {
        json!({"model": model, "max_tokens": 4, "tools": tools, "messages": [
            {"role": "system", "content": "Say 123!!"},
            {"role": "user", "content": [{"type": "text", "text": text}]},
            {"role": "assistant", "content": "They'll."},
            {"role": "user", "content": "And now, 12?\n"},
        ]})
    };
    let start = async |models: serde_json::Map<String, Value>| {
        Gateway::start(&json!({"providers": {"local": {"type": "llamacpp",
            "binary": Need::LlamaServer.path(), "args": ["-t", "1", "--offline"], "models": models}}}))
        .await
    };
    let model = |way: &str, contexts: &[u64]| {
        let file = folder.path().join(format!("{way}.gguf"));
        let variants: Vec<Value> = contexts.iter().map(|context| json!({"context": context})).collect();
        json!({"args": ["-m", file], "variants": variants})
    };
    let gateway = start(WAYS.iter().map(|way| ((*way).to_owned(), model(way, &[8192]))).collect()).await;
    let mut models = serde_json::Map::new();
    let mut expected = Vec::new();
    for way in WAYS {
        let answer = gateway.post(CHAT, &talk(way)).await;
        let tokens = answer.body["usage"]["prompt_tokens"].as_u64().expect("it is counted");
        // With the four of the answer it fits exactly, and not by one.
        for (name, small, chosen) in [("fits", tokens + 4, tokens + 4), ("large", tokens + 3, 8192)] {
            let name = format!("{way}-{name}");
            models.insert(name.clone(), model(way, &[small, 8192]));
            expected.push((name.clone(), format!("{name}@{chosen}")));
        }
    }
    let gateway = start(models).await;
    for (name, variant) in expected {
        let answer = gateway.post(CHAT, &talk(&name)).await;
        assert_eq!(
            (answer.status, answer.header("x-llm-variant")),
            (200, variant.as_str()),
            "{}",
            answer.body
        );
    }
}

async fn a_prompt_that_was_guessed_too_short_is_planned_anew_unseen() {
    let setting = Setting::new().await;
    // Guessed at about a third of its length, which the small engine would hold.
    let answer = setting.ask("tiny", 150).await;
    assert_eq!((answer.status, answer.header("x-llm-variant")), (200, "tiny@4096"), "{}", answer.body);
    assert_eq!(answer.header("x-llm-attempts"), "1");
}

async fn two_callers_that_take_turns_are_served_without_a_loss() {
    let setting = Setting::new().await;
    let caller = async |model: &str, words: usize| {
        for _ in 0..60 {
            let answer = setting.ask(model, words).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    };
    let began = Instant::now();
    tokio::join!(caller("tiny", 2), caller("tiny", 300), caller("other", 2));
    // One of the models has to wait until it is its turn, and that is all.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

async fn many_requests_of_all_sizes_share_an_engine_without_an_error() {
    let setting = Setting::new().await;
    assert_eq!(setting.ask("tiny", 300).await.status, 200);
    // Four slots share 4,096 tokens, of which some of these take nearly all.
    let requests = (0..60).map(|number| setting.ask("tiny", 1 + (number * 37) % 700));
    for answer in join_all(requests).await {
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("x-llm-variant"), "tiny@4096");
    }
}

fn long_stream(model: &str) -> Value {
    let mut body = chat(model, 2);
    body["stream"] = json!(true);
    body["max_tokens"] = json!(400);
    body["ignore_eos"] = json!(true);
    body
}

async fn a_stream_survives_that_another_model_is_asked_for() {
    let setting = Setting::new().await;
    let mut stream = setting.gateway.open(CHAT, &long_stream("tiny")).await;
    assert_eq!(header(&stream.headers, "x-llm-variant"), "tiny@512");
    stream.chunk().await;
    let (rest, other) = tokio::join!(stream.rest(), setting.ask("other", 2));
    assert!(rest.is_done, "{:?}", rest.chunks.last());
    assert_eq!((other.status, other.header("x-llm-variant")), (200, "other@2048"), "{}", other.body);
}

async fn an_engine_killed_in_mid_stream_is_told_and_replaced() {
    let setting = Setting::new().await;
    let mut body = long_stream("tiny");
    body["messages"][0]["content"] = json!("word ".repeat(300));
    body["max_tokens"] = json!(2000);
    let mut stream = setting.gateway.open(CHAT, &body).await;
    stream.chunk().await;
    setting.engines().into_iter().for_each(kill);
    let mut last = None;
    while let Some(event) = stream.next().await {
        assert_ne!(event, Event::Done);
        last = Some(event);
    }
    let Some(Event::Chunk(last)) = last else { panic!("nothing came") };
    assert_eq!(last["error"]["type"], "upstream_error", "{last}");
    assert_eq!(setting.ask("tiny", 2).await.status, 200);
}

async fn an_engine_killed_while_idle_is_replaced_unseen() {
    let setting = Setting::new().await;
    for _ in 0..3 {
        assert_eq!(setting.ask("tiny", 2).await.status, 200);
        setting.engines().into_iter().for_each(kill);
    }
}

/// A conversation that needs the larger variant with its second turn; how much of that was in the cache, and how much
/// the first turn took.
async fn cached_over_a_switch(gateway: &Gateway) -> (u64, u64) {
    let mut messages = vec![json!({"role": "user", "content": "word ".repeat(85)})];
    let body = |messages: &[Value]| json!({"model": "tiny", "max_tokens": 4, "messages": messages});
    let first = gateway.post(CHAT, &body(&messages)).await;
    assert_eq!(first.header("x-llm-variant"), "tiny@512", "{}", first.body);
    messages.push(first.body["choices"][0]["message"].clone());
    messages.push(json!({"role": "user", "content": "more ".repeat(40)}));
    let second = gateway.post(CHAT, &body(&messages)).await;
    assert_eq!(second.header("x-llm-variant"), "tiny@4096", "{}", second.body);
    let usage = &second.body["usage"];
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
    (cached, first.body["usage"]["prompt_tokens"].as_u64().unwrap())
}

async fn a_conversation_that_outgrows_its_engine_is_not_read_again() {
    let setting = Setting::new().await;
    let (cached, first) = cached_over_a_switch(&setting.gateway).await;
    assert!(first > 400 && cached >= first - 20, "{cached} of {first}");

    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("tiny.gguf"), tiny_gguf::bytes(8192)).unwrap();
    let mut models = models(folder.path());
    models["providers"]["local"]["keep_prompt_cache"] = json!(false);
    assert_eq!(cached_over_a_switch(&Gateway::start(&models).await).await.0, 0);

    // Of several conversations each finds its own, whoever outgrew the engine.
    models["providers"]["local"]["keep_prompt_cache"] = json!(true);
    models["providers"]["local"]["models"] =
        json!({"tiny": {"variants": [{"context": 2048}, {"context": 8192}]}});
    let gateway = Gateway::start(&models).await;
    let mut talks = ["one ", "two "].map(|word| vec![json!({"role": "user", "content": word.repeat(180)})]);
    let mut turn = async |talk: usize, words: usize| {
        let body = json!({"model": "tiny", "max_tokens": 4, "messages": talks[talk]});
        let answer = gateway.post(CHAT, &body).await;
        talks[talk].push(answer.body["choices"][0]["message"].clone());
        talks[talk].push(json!({"role": "user", "content": "more ".repeat(words)}));
        let cached = answer.body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
        (answer.header("x-llm-variant").to_owned(), cached)
    };
    for (talk, words) in [(0, 300), (1, 2)] {
        assert_eq!(turn(talk, words).await, ("tiny@2048".to_owned(), 0));
    }
    for talk in [0, 1] {
        let (variant, cached) = turn(talk, 2).await;
        assert!(variant == "tiny@8192" && cached > 700, "{talk}: {variant}, {cached}");
    }

    // What was said lies where it is to lie, and only while an engine is switched.
    let kept = folder.path().join("kept");
    let mut models = self::models(folder.path());
    models["providers"]["local"]["prompt_cache_dir"] = json!(kept);
    let mut gateway = Gateway::start(&models).await;
    assert!(cached_over_a_switch(&gateway).await.0 > 0);
    let files = || {
        let folders = std::fs::read_dir(&kept).unwrap().filter_map(Result::ok);
        folders.flat_map(|folder| std::fs::read_dir(folder.path()).unwrap()).count()
    };
    assert_eq!((std::fs::read_dir(&kept).unwrap().count(), files()), (1, 0));
    assert_eq!(gateway.post(CHAT, &chat("other", 2)).await.status, 200);
    assert_eq!(files(), 1, "for the next engine of the model");
    gateway.end().await;
    assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 0);
}

async fn a_gateway_that_is_killed_leaves_no_engine() {
    for pause_ms in [0, 5, 20, 60, 150, 400] {
        let mut setting = Setting::new().await;
        // Killed before the engine runs, while it loads, and while it answers.
        let _ = tokio::time::timeout(Duration::from_millis(pause_ms), setting.ask("tiny", 2)).await;
        setting.gateway.kill().await;
        setting.has_no_engines(Duration::from_secs(2)).await;
    }
}

async fn a_gateway_that_ends_ends_its_engines() {
    let mut setting = Setting::new().await;
    assert_eq!(setting.ask("tiny", 2).await.status, 200);
    setting.gateway.end().await;
    assert!(setting.engines().is_empty());
}

async fn the_configuration_of_the_original_runner_works_as_it_is() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("tiny.gguf");
    std::fs::write(&model, tiny_gguf::bytes(8192)).unwrap();
    let port = crate::support::free_port();
    let text = format!(
        r#"
server = {{ listen_v4 = "127.0.0.1:1", listen_v6 = "none", health_check_timeout = 4.0,
  engine_startup_timeout = 60.0, engine_idle_timeout = 1.0 }}
local common = {{ "--host", "127.0.0.1", "--port", "{port}", "-np", "1", "-t", "1" }}
function args_for(ctx) return concat_arrays(common, {{ "-c", tostring(ctx), "-m", "{}" }}) end
small = {{ engine = presets.engines.llamacpp, name = "tiny-chat", connect = "http://127.0.0.1:{port}",
  variants = {{ {{ binary = "{1}", args = args_for(512), context = 512 }},
    {{ binary = "{1}", args = args_for(4096), context = 4096 }} }} }}
models = {{ small }}
"#,
        model.display(),
        Need::LlamaServer.path().display()
    );
    let gateway = Gateway::start_from("engines.cfg.lua", &text).await;
    let setting = Setting { gateway, folder };
    for (words, variant) in [(2, "tiny-chat@512"), (300, "tiny-chat@4096")] {
        let answer = setting.ask("tiny-chat", words).await;
        assert_eq!((answer.status, answer.header("x-llm-variant")), (200, variant), "{}", answer.body);
    }
    // Its time without work is stated there, too.
    setting.has_no_engines(SOON).await;
}
