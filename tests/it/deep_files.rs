//! Files of operators that are deep, or never end: each is a fault that names the file, and never the end of the program.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::engine::fake_llama_server;
use crate::support::{Ended, Setup, eventually};

const DEEP: usize = 100_000;

fn deep(open: &str, close: &str) -> String {
    format!("{}{}", open.repeat(DEEP), close.repeat(DEEP))
}

/// It ended by itself, and says of which file it complains.
fn is_refused(ended: &Ended, file: &str, what: &str) {
    assert_eq!(ended.code, Some(1), "{what}: {}", ended.stderr);
    assert!(ended.stderr.contains(file), "{what}: {}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{what}: {}", ended.stderr);
}

#[test]
fn deep_models_files_are_faults() {
    let references = |reference: &str| {
        let key = deep(reference, "}");
        let openai =
            json!({"type": "openai", "base_url": "http://127.0.0.1:9", "api_key": key, "models": {"m": {}}});
        json!({"providers": {"p": openai}}).to_string()
    };
    for (file, text) in [
        ("references.json", references("${A:-")),
        ("files.json", references("${file:")),
        ("models.json", deep("[", "]")),
        ("models.json", deep("{\"providers\":", "}")),
        (
            "models.json",
            format!(
                "{{\"providers\": {{\"p\": {{\"type\": \"echo\", \"models\": {}}}}}}}",
                deep("{\"a\":", "}")
            ),
        ),
        ("models.json", format!("{{\"comment\": {}}}", "[".repeat(DEEP))),
        ("models.yaml", deep("[", "]")),
        ("models.yaml", deep("{providers: ", "}")),
        ("models.yaml", format!("comment: {}", "- ".repeat(DEEP))),
        ("models.yml", (0..3000).map(|at| format!("{}a:\n", " ".repeat(at))).collect()),
        ("models.cfg.lua", format!("server = {}", deep("{", "}"))),
        ("models.cfg.lua", format!("server = {}1{}", "(".repeat(DEEP), ")".repeat(DEEP))),
        ("models.cfg.lua", "local t = {} for i = 1, 1e5 do t = {t} end server = t models = t".to_owned()),
        (
            "models.cfg.lua",
            "local function f(n) return n == 0 and 0 or 1 + f(n - 1) end server = f(1e7)".to_owned(),
        ),
    ] {
        let setup = Setup::new().file(file, &text).env("MODELS_CONFIG", file);
        is_refused(&setup.run(&["check"]), file, &text.chars().take(60).collect::<String>());
    }
}

#[test]
fn other_deep_files_are_faults() {
    let nested = [deep("[", "]"), deep("{\"sources\":", "}"), format!("{{\"prices\": {}}}", deep("[", "]"))];
    for text in &nested {
        let echo = json!({"echo": {"type": "echo", "models": {"m": {}}}});
        for (file, key) in
            [("prices.json", json!("prices.json")), ("board.json", json!({"file": "board.json"}))]
        {
            let name = if file == "prices.json" { "prices" } else { "leaderboard" };
            let setup = Setup::new().models(&json!({"providers": echo, name: key})).file(file, text);
            is_refused(&setup.run(&["check"]), file, file);
        }
        is_refused(&Setup::new().file("old.json", text).run(&["import", "old.json"]), "old.json", "import");
        let yaml = text.replace('"', "");
        let setup = Setup::new().file("meta-providers.yaml", &yaml);
        is_refused(&setup.run(&["import", "meta-providers.yaml"]), "meta-providers.yaml", "import");
        let setup = Setup::new()
            .file("meta-providers.yaml", include_str!("../fixtures/older/meta/meta-providers.yaml"))
            .file("model-adjustments.yaml", &yaml);
        is_refused(&setup.run(&["import", "meta-providers.yaml"]), "model-adjustments.yaml", "import");
    }
}

#[test]
fn deep_prompts_are_faults() {
    for text in [
        // A longer file is refused for its length.
        "{{#if a}}".repeat(DEEP / 2) + &"{{/if}}".repeat(DEEP / 2),
        format!("{{{{len {}}}}}", deep("(len ", ")")),
        format!("---\nconfig:\n  a: {}\n---\nx", deep("[", "]")),
        format!("---\ninput:\n  schema:\n    a: {}\n---\nx", deep("{b: ", "}")),
    ] {
        let setup = Setup::new().file("prompts/en/p.prompt", &text).env("PROMPTS_DIR", "prompts");
        is_refused(&setup.run(&["check"]), "p.prompt", &text.chars().take(60).collect::<String>());
    }
}

/// The processes that read files for a process of ours.
fn readers(of: u32) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let words = processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    words.filter(|words| words.contains(&format!("confined\0{of}\0"))).count()
}

#[tokio::test]
async fn a_program_that_hangs_in_a_function_of_lua_leaves_nothing_behind() {
    let sound = include_str!("../fixtures/lua/original.cfg.lua");
    let bomb = "string.find(('a'):rep(100000), ('.-'):rep(20) .. 'b')";
    let gsub = "local s = ('a'):rep(1e5) string.gsub(s, ('a*'):rep(30) .. 'b', '')";
    for (file, text) in [("find.cfg.lua", bomb), ("gsub.cfg.lua", gsub)] {
        let setup =
            Setup::new().file(file, &format!("print('begins')\n{text}\n{sound}")).env("MODELS_CONFIG", file);
        let began = Instant::now();
        let ended = setup.run(&["check"]);
        is_refused(&ended, file, text);
        assert!(ended.stderr.contains("runs for too long"), "{}", ended.stderr);
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_service_that_reads_such_a_file_again_goes_on_and_runs_nothing_beside_it() {
    let binary = fake_llama_server().display().to_string();
    let sound = format!(
        "server = {{ listen_v4 = \"127.0.0.1:7777\", listen_v6 = \"none\", health_check_timeout = 5, engine_startup_timeout = 30, engine_idle_timeout = 60 }}
         print('a line of its own')
         models = {{ {{ name = \"m\", engine = presets.engines.llamacpp, variants = {{ {{ binary = \"{binary}\", args = {{}}, context = 512, connect = \"http://127.0.0.1:7778\" }} }} }} }}"
    );
    let setup = Setup::new().file("m.cfg.lua", &sound).env("MODELS_CONFIG", "m.cfg.lua");
    let run = setup.path("").display().to_string();
    let gateway = setup.variable("XDG_RUNTIME_DIR", &run).start();
    gateway.logged("The models file says: a line of its own");
    let bomb = format!("string.find(('a'):rep(100000), ('.-'):rep(20) .. 'b')\n{sound}");
    std::fs::write(gateway.folder.path().join("m.cfg.lua"), bomb).unwrap();
    gateway.signal("HUP");
    gateway.logged("runs for too long");

    eventually("no reader is left", async || readers(gateway.pid()) == 0).await;
    let worked = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = worked();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(worked() - before < 50, "no thread of it works on");
    assert_eq!(gateway.get("/livez").send().await.unwrap().status(), 200);
}
