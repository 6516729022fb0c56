//! Model files that come from anywhere: whatever stands in them, the gateway lives and answers.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Map, Value, json};

use crate::support::engine::fake_llama_server;
use crate::support::gguf::{LIST, TEXT, entries, entry, file, list, text};
use crate::support::{Gateway, Setup, eventually};

const COUNT: &str = "/api/tokenize/count";
const GOOD: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
/// What the gateway may take, built for tests. Each of the files takes a gigabyte and more where it is read.
const MOST_BYTES: u64 = 400 << 20;

/// A model whose template is this.
fn with_template(template: &str) -> Vec<u8> {
    file(&entries(template, 97))
}

/// A gateway with a model for each file.
fn gateway(files: &[(&str, Vec<u8>)]) -> Gateway {
    let setup = Setup::new();
    let run = setup.path("").display().to_string();
    let mut models = Map::new();
    for (name, bytes) in files {
        let path = setup.path(&format!("{name}.gguf"));
        std::fs::write(&path, bytes).unwrap();
        let variants = json!([{"context": 4096}, {"context": 16384}]);
        models.insert((*name).to_owned(), json!({"args": ["-m", path], "variants": variants}));
    }
    let local = json!({"type": "llamacpp", "binary": fake_llama_server(), "models": models});
    let setup = setup.models(&json!({"providers": {"local": local}}));
    setup.variable("XDG_RUNTIME_DIR", &run).start()
}

fn conversation(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hello".repeat(600)}]})
}

/// By what a prompt is counted.
async fn source(gateway: &Gateway, model: &str) -> Value {
    let (status, answer) = gateway.ask(COUNT, &conversation(model)).await;
    assert_eq!(status, 200, "{model}: {answer}\n{}", gateway.log());
    answer["source"].clone()
}

/// The processes that read files for the gateway.
fn children(gateway: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_zombie = stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z"));
        words.contains(&format!("confined\0{gateway}\0")) && !is_zombie
    };
    pids.filter(is_child).collect()
}

/// The most that a process has ever held.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Counts by each of the files, has one of the models answer, and looks whether the gateway is as it was.
async fn survives(files: &[(&str, Vec<u8>)]) {
    let mut all = vec![("good", with_template(GOOD))];
    all.extend(files.iter().map(|(name, bytes)| (*name, bytes.clone())));
    let gateway = gateway(&all);
    assert_eq!(source(&gateway, "good").await, "tokenizer");

    let sources = join_all(files.iter().map(|(name, _)| source(&gateway, name))).await;

    for ((name, _), source) in files.iter().zip(sources) {
        assert_eq!(source, "estimated", "{name}");
    }
    assert_eq!(source(&gateway, "good").await, "tokenizer", "the others are counted as before");
    let (name, _) = files.first().unwrap();
    let (status, answer) = gateway.ask("/v1/chat/completions", &conversation(name)).await;
    assert_eq!(status, 200, "{answer}\n{}", gateway.log());
    assert!(peak(gateway.pid()) < MOST_BYTES, "{} bytes", peak(gateway.pid()));
    eventually("only the good one is left", async || children(gateway.pid()).len() <= 1).await;
}

#[tokio::test]
async fn a_head_that_is_no_head_is_survived() {
    let nested = [LIST.to_le_bytes().to_vec(), 1_u64.to_le_bytes().to_vec()].concat();
    let nested = |inner: &[u8]| [&nested.repeat(20_000)[..], inner].concat();
    let empty = [0_u32.to_le_bytes().to_vec(), 0_u64.to_le_bytes().to_vec()].concat();
    let mut sound = entries(GOOD, 97);
    let large: Vec<Vec<u8>> =
        (0..5).map(|at| entry(&format!("x{at}"), LIST, &list(0, 10_000_000, &vec![0; 10_000_000]))).collect();
    let many = |value: Vec<u8>| file(&[vec![entry("x", LIST, &value)], entries(GOOD, 97)].concat());
    let whole = with_template(GOOD);
    let large = [large, vec![entry("tokenizer.ggml.pre", TEXT, &text("other"))], sound.split_off(2)].concat();
    survives(&[
        ("nested", file(&[entry("x", LIST, &nested(&empty))])),
        ("nested-in-the-middle", many(nested(&empty))),
        ("wide-and-nested", many(list(LIST, 10_000_000, &list(LIST, 10_000_000, &[])))),
        ("counted-beyond", many(list(TEXT, u64::MAX, &[]))),
        ("long-text", many(list(TEXT, 1, &(1_u64 << 63).to_le_bytes()))),
        ("large-and-unknown", file(&large)),
        ("cut-in-its-vocabulary", whole[..whole.len() / 2].to_vec()),
        ("no-model", b"GGUF".to_vec()),
    ])
    .await;
}

#[tokio::test]
async fn a_file_that_contradicts_itself_ends_no_reader() {
    // Its first token is none of its tokens, which the tokenizer's library takes for a fault of its own.
    let mut entries = entries(GOOD, 97);
    entries[5] = entry("tokenizer.ggml.bos_token_id", 4, &4448_u32.to_le_bytes());
    let gateway = gateway(&[("m", file(&entries))]);
    for _ in 0..5 {
        assert_eq!(source(&gateway, "m").await, "estimated");
    }
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}

#[tokio::test]
async fn a_template_that_is_a_bomb_is_survived() {
    let deep = |open: &str, close: &str, times: usize| {
        format!("{{{{ {}1{} }}}}", open.repeat(times), close.repeat(times))
    };
    survives(&[
        ("filters", with_template(&format!("{{{{ 1{} }}}}", "|string".repeat(50_000)))),
        ("lists-in-lists", with_template("{% set ns = namespace(s=[]) %}{% for i in range(50000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s|tojson }}")),
        ("long-loop", with_template(&format!("{{% for i in range(100000) %}}{}{{% endfor %}}", "x".repeat(900_000)))),
        ("wide-number", with_template("{{ '{:>1000000000}'.format(1) }}")),
        ("joined", with_template("{{ (['x'*1000000]*100000)|join }}")),
        ("split", with_template("{{ ('a,'*50000000)|list }}")),
        ("batches", with_template("{{ [1]|batch(1000000000, 0)|list }}")),
        ("indented", with_template("{{ ('a\\n'*100000)|indent(1000000) }}")),
        ("written-deep", with_template(&deep("[", "]", 100_000))),
        ("negated", with_template(&format!("{{{{ {}1 }}}}", "not ".repeat(100_000)))),
        ("doubled", with_template("{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s|length }}")),
    ])
    .await;
}

#[tokio::test]
async fn templates_that_do_not_end_are_ended() {
    survives(&[
        (
            "calls-itself",
            with_template("{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}"),
        ),
        (
            "loops",
            with_template(&format!(
                "{}x{}",
                "{% for i in range(100000) %}".repeat(6),
                "{% endfor %}".repeat(6)
            )),
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_file_that_ends_its_reader_is_soon_left_alone_until_it_changes() {
    let bomb = with_template(&format!("{{{{ 1{} }}}}", "|string".repeat(50_000)));
    let gateway = gateway(&[("m", bomb)]);
    for _ in 0..3 {
        assert_eq!(source(&gateway, "m").await, "estimated");
    }
    gateway.logged("their length is estimated");
    assert!(gateway.log().contains("m.gguf"));
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(source(&gateway, "m").await, "estimated");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "no process is started for it: {:?}", began.elapsed());

    std::fs::write(gateway.folder.path().join("m.gguf"), with_template(GOOD)).unwrap();
    assert_eq!(source(&gateway, "m").await, "tokenizer");
}

#[tokio::test]
async fn the_reader_is_kept_and_limited_and_ends_with_the_gateway() {
    let mut gateway = gateway(&[("m", file(&entries(GOOD, 150_000)))]);
    assert_eq!(source(&gateway, "m").await, "tokenizer");
    let [child] = children(gateway.pid())[..] else { panic!("one reader") };
    assert_eq!(source(&gateway, "m").await, "tokenizer");
    assert_eq!(children(gateway.pid()), [child], "it is asked again");

    let limits = std::fs::read_to_string(format!("/proc/{child}/limits")).unwrap();
    for (name, most) in [
        ("Max address space", "1073741824"),
        ("Max cpu time", "60"),
        ("Max core file size", "0"),
        ("Max file size", "0"),
    ] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(line[name.len()..].split_whitespace().collect::<Vec<_>>()[..2], [most, most], "{line}");
    }
    assert_eq!(std::fs::read(format!("/proc/{child}/environ")).unwrap(), b"", "no secrets");
    assert!(peak(child) < 512 << 20, "a large vocabulary has room: {}", peak(child));

    gateway.signal("KILL");
    let _ = gateway.ended().await;
    eventually("gone", async || children(gateway.pid()).is_empty()).await;
}

#[tokio::test]
async fn a_reader_that_was_killed_is_replaced_unseen() {
    let gateway = gateway(&[("m", with_template(GOOD))]);
    assert_eq!(source(&gateway, "m").await, "tokenizer");
    let [child] = children(gateway.pid())[..] else { panic!("one reader") };
    assert!(std::process::Command::new("kill").args(["-9", &child.to_string()]).status().unwrap().success());
    assert_eq!(source(&gateway, "m").await, "tokenizer");
    let [other] = children(gateway.pid())[..] else { panic!("one reader") };
    assert_ne!(child, other);
}
