//! What holds of configurations in Lua.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::config::{
    Catalog, ConfigError, EngineModel, Environment, ModelConfig, ModelSource, Settings, Timeouts,
};

/// A file in the shape that users of the original have, with every key that it knows.
const ORIGINAL: &str = include_str!("../../../../tests/fixtures/lua/original.cfg.lua");

/// Reads files in a folder in which the programs and models are that they name.
struct Setup {
    folder: TempDir,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for program in ["llama-server", "llama-tokenize"] {
            let path = folder.path().join(program);
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }
        for model in ["tiny.gguf", "qwen3-30b-instruct.gguf", "nomic-embed-text.gguf"] {
            std::fs::write(folder.path().join(model), "GGUF").unwrap();
        }
        Self { folder }
    }

    /// The folder takes the place of those that the files name.
    fn load_as(&self, name: &str, text: &str) -> Result<Catalog, ConfigError> {
        let folder = self.folder.path().display().to_string();
        let text = text.replace("/opt/llama", &folder).replace("/models/", &format!("{folder}/"));
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Catalog::load(&path, &Environment::default(), Timeouts::default(), false)
    }

    fn load(&self, text: &str) -> Result<Catalog, ConfigError> {
        self.load_as("example.cfg.lua", text)
    }

    /// The original with one text for another.
    fn with(&self, before: &str, after: &str) -> Result<Catalog, ConfigError> {
        assert!(ORIGINAL.contains(before), "{before}");
        self.load(&ORIGINAL.replacen(before, after, 1))
    }
}

fn models(catalog: &Catalog) -> Vec<ModelConfig> {
    let [provider] = catalog.providers.as_slice() else { panic!("one provider") };
    let ModelSource::Listed(models) = &provider.models else { panic!("listed") };
    models.clone()
}

fn engines(catalog: &Catalog) -> Vec<EngineModel> {
    models(catalog).into_iter().filter_map(|model| model.engine).collect()
}

#[test]
fn the_original_file_works_as_it_is() {
    let setup = Setup::new();
    let catalog = setup.load(ORIGINAL).unwrap();

    let provider = &catalog.providers[0];
    assert_eq!((provider.name.as_str(), provider.kind.as_str()), ("local", "llamacpp"));
    assert_eq!(provider.base_url, None);
    assert!(catalog.warnings.is_empty(), "{:?}", catalog.warnings);
    let listen: Vec<String> = catalog.listen.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:7777"]);

    let [tiny] = models(&catalog).try_into().unwrap();
    assert_eq!((tiny.public.as_str(), tiny.upstream.as_str()), ("tiny-chat", "tiny-chat"));
    assert_eq!(tiny.context_tokens, Some(32768));
    let engine = tiny.engine.unwrap();
    assert!(!engine.is_secondary);
    let tokenization = engine.tokenization.unwrap();
    let gguf = setup.folder.path().join("tiny.gguf").display().to_string();
    assert_eq!(tokenization.binary, Some(setup.folder.path().join("llama-tokenize")));
    assert_eq!(tokenization.args, ["--log-disable", "--stdin", "--ids", "-m", &gguf]);
    assert_eq!((tokenization.extra_tokens_per_message, tokenization.extra_tokens), (8, 0));
    let [small, large] = engine.variants.as_slice() else { panic!("two variants") };
    assert_eq!((small.context_tokens, large.context_tokens), (8192, 32768));
    let args = ["--host", "127.0.0.1", "--port", "8081", "-np", "1", "-c", "8192", "-m", &gguf];
    assert_eq!(small.args, args);
    assert_eq!(small.address.as_ref().unwrap().port, 8081);
    assert_eq!(small.timeouts.health_check, Duration::from_secs(4));
    assert_eq!(small.timeouts.startup, Duration::from_secs(90));
    assert_eq!(
        (small.timeouts.idle, large.timeouts.idle),
        (Duration::from_secs(300), Duration::from_secs(60))
    );
}

#[test]
fn the_shipped_examples_say_the_same() {
    let setup = Setup::new();
    let lua = setup.load(include_str!("../../../../resources/configs/example.cfg.lua")).unwrap();
    let json = include_str!("../../../../resources/configs/example-engines.json");
    let json = setup.load_as("models.json", json).unwrap();

    assert!(lua.warnings.is_empty() && json.warnings.is_empty(), "{:?} {:?}", lua.warnings, json.warnings);
    let settled = |catalog: &Catalog| {
        let mut engines = engines(catalog);
        for variant in engines.iter_mut().flat_map(|engine| &mut engine.variants) {
            // The file in Lua has context and address in its arguments, where they belong in the original.
            variant.args.clear();
            variant.address = None;
        }
        engines
    };
    assert_eq!(settled(&lua), settled(&json));
    let [chat, embeddings] = engines(&lua).try_into().unwrap();
    assert!(!chat.is_secondary && embeddings.is_secondary);
    let [small, large] = chat.variants.as_slice() else { panic!("two variants") };
    assert_eq!((small.timeouts.startup.as_secs(), large.timeouts.startup.as_secs()), (60, 120));
    assert_eq!(large.args.last().map(String::as_str), Some("q8_0"));
}

#[test]
fn addresses_may_be_texts_or_lists() {
    let setup = Setup::new();
    let listen = |v4: &str, v6: &str| {
        let text = ORIGINAL.replacen("\"none\"", v6, 1).replacen("\"127.0.0.1:7777\"", v4, 1);
        let catalog = setup.load(&text).map_err(|error| error.to_string())?;
        Ok::<_, String>(catalog.listen.iter().flatten().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(
        listen("{\"127.0.0.1:1\", \"127.0.0.2:1\"}", "\"[::1]:2\"").unwrap(),
        ["127.0.0.1:1", "127.0.0.2:1", "[::1]:2"]
    );
    assert_eq!(listen("\"none\"", "{\"[::1]:2\"}").unwrap(), ["[::1]:2"]);
    for (v4, v6, told) in [
        ("\"none\"", "\"none\"", "are both \"none\""),
        ("{}", "\"none\"", "are both \"none\""),
        ("\"127.0.0.1\"", "\"none\"", "at 'server.listen_v4': `127.0.0.1` is no address"),
        ("\"127.0.0.1:0\"", "\"none\"", "is no address"),
        ("\"127.0.0.1:70000\"", "\"none\"", "is no address"),
        ("\"none\"", "\"127.0.0.1:1\"", "at 'server.listen_v6'"),
        ("7777", "\"none\"", "expected string or table of strings, got number"),
        ("{7777, true}", "\"none\"", "at 'server.listen_v4[2]': expected string, got boolean"),
        ("{\"127.0.0.1:1\", \"127.0.0.1:1\"}", "\"none\"", "is taken already"),
    ] {
        let error = listen(v4, v6).unwrap_err();
        assert!(error.contains(told), "{v4} {v6}: {error}");
    }
}

#[test]
fn a_setting_goes_before_the_addresses_of_the_file() {
    let setup = Setup::new();
    let catalog = setup.with("127.0.0.1:7777", "0.0.0.0:7777").unwrap();
    let listeners = |variables: &[(&str, &str)]| {
        let environment = match variables {
            [one] => Environment::of([*one]),
            _ => Environment::default(),
        };
        let listeners = Settings::from_environment(&environment).unwrap().listeners(&catalog);
        listeners.map(|all| all[0].to_string()).map_err(|error| error.to_string())
    };
    assert_eq!(listeners(&[("LLM_PROXY_API_LISTEN", "127.0.0.1:1")]).unwrap(), "127.0.0.1:1");
    assert_eq!(listeners(&[("LLM_PROXY_API_AUTH", "none")]).unwrap(), "0.0.0.0:7777");
    assert!(listeners(&[]).unwrap_err().contains("reached from other machines"));
}

/// A text of the original, what stands there instead, and what is said of it.
const FAULTY: &[(&str, &str, &str)] = &[
    (
        "context = 8192",
        "context = \"8192\"",
        "Configuration error at 'models.tiny.variants[1].context': expected number, got string",
    ),
    (
        "context = 32768",
        "context = nil",
        "Configuration error: missing required field 'models.tiny.variants[2].context'",
    ),
    (
        "context = 8192",
        "context = -1",
        "Configuration error at 'models.tiny.variants[1].context': must be a positive number, got -1",
    ),
    (
        "context = 8192",
        "context = 1.5",
        "'models.tiny.variants[1].context': must be a positive number, got 1.5",
    ),
    (
        "engine_idle_timeout = 60.0",
        "engine_idle_timeout = 0",
        "Configuration error at 'models.tiny.variants[2].engine_idle_timeout': must be a positive number, got 0",
    ),
    (
        "health_check_timeout = 4.0,",
        "",
        "Configuration error: missing required field 'server.health_check_timeout'",
    ),
    ("server = {", "serve = {", "Configuration error: missing required field 'server'"),
    (
        "models = { tiny }",
        "models = {}",
        "Configuration error: 'models' table must contain at least one model",
    ),
    ("models = { tiny }", "", "Configuration error: missing required field 'models'"),
    ("models = { tiny }", "models = 7", "Configuration error at 'models': expected table, got number"),
    ("models = { tiny }", "models = { 7 }", "Configuration error at 'models[1]': expected table, got number"),
    (
        "models = { tiny }",
        "models = { tiny, tiny }",
        "Configuration error: duplicate model name 'tiny-chat' found. Model names must be unique.",
    ),
    ("name = \"tiny-chat\",", "", "Configuration error: missing required field 'models[1].name'"),
    (
        "presets.engines.llamacpp",
        "\"vllm\"",
        "Configuration error at 'models.tiny.engine': unknown engine type 'vllm'",
    ),
    (
        "connect = \"http://127.0.0.1:8081\",",
        "",
        "Configuration error: missing required field 'models.tiny.variants[1].connect'",
    ),
    (
        "args = args_for(8192)",
        "args = { \"-c\", {} }",
        "Configuration error at 'models.tiny.variants[1].args[2]': expected string, got table",
    ),
    (
        "extra_args = { \"-m\", gguf },",
        "",
        "Configuration error: missing required field 'models.tiny.tokenization.extra_args'",
    ),
    (
        "binary = \"/opt/llama/llama-server\"",
        "binary = \"/no/server\"",
        "models.tiny.variants[1]: the program `/no/server` does not exist",
    ),
    ("context = 32768", "context = 8192", "models.tiny: two variants have the context 8192"),
    ("8081\",", "8082\",", "models.tiny.variants[1]: the arguments say"),
    ("models = { tiny }", "models = { tiny", ": line 30: "),
    ("models = { tiny }", "error('no')", ": line 29: no; "),
    ("models = { tiny }", "models = { tiny.x.y }", ": line 29: "),
];

#[test]
fn faults_are_told_in_the_words_of_the_original() {
    let setup = Setup::new();
    for (before, after, told) in FAULTY {
        let error = setup.with(before, after).unwrap_err().to_string();
        assert!(error.contains("example.cfg.lua: ") && error.contains(told), "{after}: {error}");
        assert!(!error.contains("traceback"), "{error}");
    }
    let nameless = ORIGINAL.replace("tiny = {", "local tiny = {").replace("context = 8192", "context = {}");
    let error = setup.load(&nameless).unwrap_err().to_string();
    assert!(error.contains("'models.model_1.variants[1].context': expected number, got table"), "{error}");
}

#[test]
fn a_byte_order_mark_and_a_first_line_for_the_shell_are_passed_over() {
    let setup = Setup::new();
    for above in ["\u{feff}", "#!/usr/bin/env lua\n", "\u{feff}# a comment\r\n"] {
        let catalog = setup.load(&format!("{above}{ORIGINAL}")).unwrap();
        assert_eq!(models(&catalog).len(), models(&setup.load(ORIGINAL).unwrap()).len(), "{above:?}");
    }
    let program = ORIGINAL.replace("models = { tiny }", "error('no')");
    let error = setup.load(&format!("#!/usr/bin/lua\n{program}")).unwrap_err().to_string();
    assert!(error.contains(": line 30: no; "), "{error}");
    assert!(setup.load("#").is_err(), "nothing is set");
}

#[test]
fn keys_without_effect_draw_warnings() {
    let setup = Setup::new();
    let server = "server = { dumps_dir = \"/tmp\", clear_dumps_on_start = true, listen = 1,";
    let catalog = setup.with("server = {", server).unwrap();
    for told in
        ["`server.dumps_dir` has no effect", "`server.clear_dumps_on_start`", "`server.listen` has no"]
    {
        assert!(catalog.warnings.iter().any(|warning| warning.contains(told)), "{:?}", catalog.warnings);
    }
    let catalog = setup.load(&ORIGINAL.replace("context = ", "tokenize = true, context = ")).unwrap();
    assert_eq!(catalog.warnings.len(), 1, "it is told once: {:?}", catalog.warnings);
}

#[test]
fn a_name_that_stands_for_nothing_draws_a_warning_with_the_one_that_was_meant() {
    let setup = Setup::new();
    let slip = "local embedding = {}\nfunction unused() return embeding end\n";
    let none = setup.load(&format!("{slip}{ORIGINAL}")).unwrap().warnings;
    assert_eq!(none, Vec::<String>::new(), "what is never read does no harm");
    let used = "local embedding = 1\n\nlocal list = { embeding }\nlocal other = DEBUG or nothing_like_it\nlater = later or 1\n";
    let warnings = setup.load(&format!("{used}{ORIGINAL}")).unwrap().warnings;
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    let told = "example.cfg.lua: line 3: `embeding` stands for nothing; did you mean `embedding`?";
    assert!(warning.ends_with(told), "{warning}");
}

#[test]
fn the_helpers_do_what_configurations_expect() {
    let setup = Setup::new();
    let checks = r#"
        local all = concat_arrays({ 1, 2 }, { 3, key = 4 })
        assert(#all == 3 and all[3] == 3 and all.key == nil)
        local merged = merge_tables({ 1, a = 1, b = 2 }, { 2, b = 3, c = 4 })
        assert(#merged == 2 and merged[2] == 2 and merged.a == 1 and merged.b == 3 and merged.c == 4)
        assert(presets.engines.llamacpp_secondary == "llama.cpp.secondary")
        assert(loader.path.combine("/a", "b", "c.lua") == "/a/b/c.lua" and loader.slash == "/")
        assert(loader.lua_version[1] == 5 and loader.lua_version.num >= 5004000)
        assert(#loader.args == 0 and #loader.extra == 0)
        local list = { "a", "b", "a" }
        loader.table.remove_value(list, "a")
        assert(#list == 1 and list[1] == "b")
        loader.log("one", 2, nil)
        print("words")
        assert(string.format("%s", utf8.char(228)) == "ä" and math.max(1, 2) == 2)
        local base = setmetatable({}, { __index = { name = "inherited" } })
        assert(base.name == "inherited" and pcall(error) == false)
    "#;
    let folder = setup.folder.path().display().to_string();
    let workdir = format!("assert(loader.workdir == \"{folder}/\" and loader.workdir_raw == \"{folder}\")\n");
    setup.load(&format!("{checks}{workdir}{ORIGINAL}")).unwrap();
}

#[test]
fn there_is_no_way_out_of_the_sandbox() {
    let setup = Setup::new();
    for name in [
        "io",
        "os",
        "package",
        "debug",
        "coroutine",
        "require",
        "load",
        "loadstring",
        "loadfile",
        "dofile",
        "collectgarbage",
        "warn",
    ] {
        let catalog = setup.load(&format!("assert({name} == nil)\n{ORIGINAL}"));
        assert!(catalog.is_ok(), "{name}: {catalog:?}");
    }
    let error = setup.load("\u{1b}Lua").unwrap_err().to_string();
    assert!(error.contains("binary chunk"), "{error}");
    let error = setup.load("setmetatable({}, { __gc = function() end })").unwrap_err().to_string();
    assert!(error.contains("`__gc` cannot be used"), "{error}");
    // What looks like a reference is text, as it is for Lua.
    let catalog = setup.with("\"-np\", \"1\"", "\"${HOME}\", \"$${HOME}\"").unwrap();
    assert_eq!(engines(&catalog)[0].variants[0].args[4..6], ["${HOME}", "$${HOME}"]);
}

/// Programs that never end, or take all the memory there is.
const ENDLESS: &[(&str, &str)] = &[
    ("while true do end", "runs for too long"),
    ("pcall(function() while true do end end)", "runs for too long"),
    ("while true do pcall(function() while true do end end) end", "runs for too long"),
    (
        "while true do xpcall(function() while true do end end, function() while true do end end) end",
        "runs for too long",
    ),
    (
        "local t <close> = setmetatable({}, { __close = function() while true do end end }) while true do end",
        "runs for too long",
    ),
    (
        "for _ in pairs(setmetatable({}, { __pairs = function() while true do end end })) do end",
        "runs for too long",
    ),
    ("server = setmetatable({}, { __index = function() while true do end end })", "runs for too long"),
    ("string.find(('a'):rep(100000), ('.-'):rep(20) .. 'b')", "runs for too long"),
    ("string.rep('x', 1e9)", "64 MiB"),
    ("pcall(string.rep, 'x', 1e9) x = 'x' while true do x = x .. x end", "64 MiB"),
    ("local t = {} for i = 1, 1e9 do t[i] = {} end", "64 MiB"),
    ("while true do pcall(string.rep, 'x', 1e9) end", "runs for too long"),
    ("local function f() return f() + 1 end f()", "64 MiB"),
    (
        "local s, a = ('x'):rep(1e6), {} for i = 1, 1e6 do a[i] = s end server = {} models = { { name = 'x', variants = { { args = a } } } }",
        "more than 8 MiB of values",
    ),
    (
        "local m, a = { name = 'x' }, {} for i = 1, 1e6 do a[i] = m end server = {} models = a",
        "more than 8 MiB of values",
    ),
];

#[test]
fn a_program_that_does_not_end_is_ended_in_time_and_within_bounds() {
    let setup = &Setup::new();
    std::thread::scope(|scope| {
        for (index, (program, told)) in ENDLESS.iter().enumerate() {
            scope.spawn(move || {
                let started = Instant::now();
                let error = setup.load_as(&format!("{index}.cfg.lua"), program).unwrap_err().to_string();
                // Which of the bounds is met first may depend on the load of the machine.
                let told_so = error.contains(told) || error.contains("runs for too long");
                assert!(told_so && error.contains(&format!("{index}.cfg.lua")), "{program}: {error}");
                assert!(started.elapsed() < Duration::from_secs(10), "{program}: {:?}", started.elapsed());
            });
        }
    });
}
