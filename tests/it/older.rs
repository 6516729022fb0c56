//! Configuration files of older systems: they are served as they are, and `import` prints them in our own form.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, Step, Upstream, answer, eventually, fixture, json};

const CHAT: &str = "/v1/chat/completions";
const FLAT: &str = include_str!("../fixtures/older/flat.json");
const LISTS: &str = include_str!("../fixtures/older/lists.json");
const CLOUDS: &str = include_str!("../fixtures/older/meta/meta-providers.yaml");
const ADJUSTMENTS: &str = include_str!("../fixtures/older/meta/model-adjustments.yaml");

fn says(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]})
}

/// Status, and who answered.
async fn ask(gateway: &Gateway, model: &str) -> (u16, String) {
    let response = gateway.post(CHAT, &says(model)).send().await.unwrap();
    let provider = response.headers().get("x-llm-provider").map(|name| name.to_str().unwrap().to_owned());
    (response.status().as_u16(), provider.unwrap_or_default())
}

async fn models(gateway: &Gateway) -> Vec<String> {
    let (_, list) = answer(gateway.get("/v1/models")).await;
    let ids = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned());
    ids.filter(|id| id != "priority-auto").collect()
}

/// The way to a model: the strategy, and the candidates.
async fn route(gateway: &Gateway, model: &str) -> Value {
    let (_, routes) = answer(gateway.get("/api/routes")).await;
    let route = routes["routes"].as_array().unwrap().iter().find(|route| route["model"] == model);
    route.unwrap_or_else(|| panic!("no {model}: {routes}")).clone()
}

/// An upstream that answers until it is told to be broken.
async fn breakable() -> (Upstream, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = broken.clone();
    let upstream = Upstream::start(move |_| {
        if is_broken.load(Ordering::SeqCst) {
            vec![json(503, "", &json!({"error": {"message": "broken"}}))]
        } else {
            vec![Step::Send(fixture("openai/chat"))]
        }
    });
    (upstream.await, broken)
}

fn older(file: &str, text: &str) -> Setup {
    Setup::new().file(file, text).env("MODELS_CONFIG", file)
}

#[tokio::test]
async fn a_file_with_one_server_a_model_is_served() {
    let (cloud, _) = breakable().await;
    let text = FLAT
        .replace("https://llm.example/v1", &cloud.v1())
        .replace("https://llm.example/", &format!("{}/", cloud.url()));
    let gateway = older("models-config.json", &text).variable("CLOUD_TOKEN", "token-1").start();
    let served = ["workshop/small-chat", "cloud/big-chat", "cloud/quick-chat", "cloud/own-chat"];
    assert_eq!(models(&gateway).await, served);

    assert_eq!(ask(&gateway, "cloud/big-chat").await, (200, "cloud_models".to_owned()));
    assert_eq!(ask(&gateway, "cloud/quick-chat").await, (200, "cloud_models".to_owned()));
    let seen = cloud.seen();
    assert_eq!((seen[0].path.as_str(), seen[1].path.as_str()), (CHAT, CHAT));
    assert_eq!(seen[0].header("authorization"), Some("Bearer token-1"));
    assert_eq!(
        (&seen[0].json()["model"], &seen[1].json()["model"]),
        (&json!("big-chat-2025"), &json!("cloud/quick-chat"))
    );
    let (_, big) = answer(gateway.get("/v1/models/cloud%2Fbig-chat")).await;
    assert_eq!(big["context_length"], 128_000, "{big}");
}

#[tokio::test]
async fn servers_of_a_model_share_conversations_and_the_spare_one_answers_when_they_are_gone() {
    let ((one, one_broken), (other, other_broken), (spare, _)) =
        (breakable().await, breakable().await, breakable().await);
    let text = LISTS
        .replace("http://127.0.0.1:7000", &one.url())
        .replace("http://127.0.0.1:7001", &other.url())
        .replace("http://127.0.0.1:7002", &spare.url());
    let gateway = older("models-config.json", &text).start();
    let answered = |provider: &str| (200, provider.to_owned());
    let mut providers = BTreeSet::new();
    for number in 0..20 {
        let mut conversation = says("workshop/chat");
        conversation["user"] = json!(format!("user {number}"));
        let response = gateway.post(CHAT, &conversation).send().await.unwrap();
        providers.insert(response.headers()["x-llm-provider"].to_str().unwrap().to_owned());
    }
    assert_eq!(providers, ["bench-a-7000", "bench-b-7000"].map(str::to_owned).into());
    one_broken.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(ask(&gateway, "workshop/chat").await, answered("bench-b-7000"));
    }
    assert_eq!(spare.seen().len(), 0);
    other_broken.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(ask(&gateway, "workshop/chat").await, answered("bench-spare"));
    }
    assert_eq!(spare.last()["model"], "chat-on-loan");

    let weighed = route(&gateway, "workshop/weighed").await;
    let ranks: Vec<(&Value, &Value)> = weighed["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|candidate| (&candidate["provider"], &candidate["priority"]))
        .collect();
    assert_eq!(weighed["strategy"], "weighted");
    assert_eq!(
        ranks,
        [(&json!("often"), &json!(0)), (&json!("seldom"), &json!(0)), (&json!("never"), &json!(1))]
    );
}

/// The lists of three clouds; what they say of chats is what others say.
async fn cloud(listing: &'static str, list: Value) -> Upstream {
    Upstream::start(move |seen| {
        if seen.path == listing {
            return vec![json(200, "", &list)];
        }
        let is_chat = seen.path.ends_with("/chat/completions");
        vec![if is_chat { Step::Send(fixture("openai/chat")) } else { json(404, "", &json!({})) }]
    })
    .await
}

struct Clouds {
    north: Upstream,
    south: Upstream,
    second: Upstream,
}

impl Clouds {
    async fn new() -> Self {
        let north = json!({"data": [{"id": "org/plain-70b", "context_length": 8192}, {"id": "org/text-embed"}, {"id": "org/bare"}]});
        let south = json!({"models": [{"name": "org/plain-70b"}, {"name": "org/STRONG-8b", "max_context_length": 4096}]});
        let second = json!([{"id": "org/other-3b", "context_window": 2048}]);
        Self {
            north: cloud("/openai/v1/models", north).await,
            south: cloud("/listing/models", south).await,
            second: cloud("/v1/models", second).await,
        }
    }

    fn setup(&self) -> Setup {
        let clouds = CLOUDS
            .replace("http://127.0.0.1:7100", &self.north.url())
            .replace("http://127.0.0.1:7101", &self.south.url())
            .replace("http://127.0.0.1:7102", &self.second.url());
        older("old/meta-providers.yaml", &clouds)
            .file("old/model-adjustments.yaml", ADJUSTMENTS)
            .variable("NORTH_API_KEY", "north-key")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clouds_are_asked_for_their_models_where_the_file_says_and_with_their_keys() {
    let clouds = Clouds::new().await;
    let gateway = clouds.setup().variable("SOUTH_API_KEY", "south-key").start();
    // Nobody is ever asked for `org/text-embed`, for its points.
    assert_eq!(
        models(&gateway).await,
        ["org/plain-70b", "org/bare", "org/STRONG-8b", "org/other-3b"],
        "{}",
        gateway.log()
    );
    assert!(gateway.logged("Asking what models there are").contains("north, south, north-2"));
    for (upstream, path, key) in [
        (&clouds.north, "/openai/v1/models", "Bearer north-key"),
        (&clouds.south, "/listing/models", "Bearer south-key"),
        (&clouds.second, "/v1/models", "Bearer north-key"),
    ] {
        let seen = upstream.seen();
        assert_eq!((seen[0].path.as_str(), seen[0].header("authorization")), (path, Some(key)));
        assert_eq!(seen.len(), 1);
    }

    // One model with two deployments, the better score first.
    let both = route(&gateway, "org/plain-70b").await;
    let providers: Vec<&Value> =
        both["candidates"].as_array().unwrap().iter().map(|candidate| &candidate["provider"]).collect();
    assert_eq!((&both["strategy"], providers), (&json!("score"), vec![&json!("north"), &json!("south")]));
    assert_eq!(both["candidates"][0]["context"], 8192);
    assert_eq!(ask(&gateway, "org/plain-70b").await, (200, "north".to_owned()));
    assert_eq!(clouds.north.last()["model"], "org/plain-70b");
    // Chats do not go where the models are listed.
    assert_eq!(ask(&gateway, "org/STRONG-8b").await, (200, "south".to_owned()));
    assert_eq!(clouds.south.seen().last().unwrap().path, "/compat/v1/chat/completions");
    // (8b + 2 * 30) * 0.5 is more than 70b.
    assert_eq!(ask(&gateway, "priority-auto").await, (200, "south".to_owned()));
    let (status, _) = ask(&gateway, "org/text-embed").await;
    assert!(status >= 400, "what has no score above 0 is not asked by score: {status}");
    let known = ask(&gateway, "org/bare").await;
    assert_eq!(known, (200, "north".to_owned()), "of whom nothing is known, nothing speaks against");
    assert!(!gateway.log().contains("north-key") && !gateway.log().contains("south-key"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_without_a_key_is_left_out_with_a_line() {
    let clouds = Clouds::new().await;
    let setup = clouds.setup().variable("SOUTH_API_KEY", "");
    let gateway = setup.start();
    assert_eq!(models(&gateway).await, ["org/plain-70b", "org/bare", "org/other-3b"]);
    let lines = gateway.log();
    let lines: Vec<&str> = lines.lines().filter(|line| line.contains("`south` is left out")).collect();
    assert!(!lines.is_empty() && lines[0].contains("SOUTH_API_KEY is not set"), "{lines:?}");
    assert!(clouds.south.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_adjustments_change_the_order_within_three_seconds() {
    let clouds = Clouds::new().await;
    let gateway = clouds.setup().variable("SOUTH_API_KEY", "k").start();
    let points = async |model: &str| {
        route(&gateway, model).await["candidates"][0]["score"]["adjustment"].as_f64().unwrap_or(f64::NAN)
    };
    assert_eq!(points("org/STRONG-8b").await, 60.0);
    assert_eq!(points("org/plain-70b").await, 0.0);
    assert_eq!(ask(&gateway, "priority-auto").await.1, "south");

    let changed = "adjustments:\n  plain:\n    priority: 100\n    regex: ['PLAIN', 'org/plain']\n";
    let began = Instant::now();
    std::fs::write(gateway.folder.path().join("old/model-adjustments.yaml"), changed).unwrap();
    eventually("the change is taken over", async || points("org/STRONG-8b").await == 0.0).await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(points("org/plain-70b").await, 200.0, "a group counts once");
    assert_eq!(ask(&gateway, "priority-auto").await.1, "north");

    std::fs::write(gateway.folder.path().join("old/model-adjustments.yaml"), changed.replace("PLAIN", "a(b"))
        .unwrap();
    let line = gateway.logged("ERROR");
    for words in ["model-adjustments.yaml: adjustments.plain", "`a(b`", "unclosed group"] {
        assert!(line.contains(words), "{line}");
    }
    assert_eq!(points("org/plain-70b").await, 200.0, "the last good ones stay");
    let (_, ready) = answer(gateway.get("/readyz")).await;
    assert!(ready["reload"]["error"].to_string().contains("model-adjustments.yaml"), "{ready}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_that_does_not_answer_at_the_start_is_asked_again_soon() {
    let ready = Arc::new(AtomicBool::new(false));
    let is_ready = ready.clone();
    let late = Upstream::start(move |_| {
        if is_ready.load(Ordering::SeqCst) {
            vec![json(200, "", &json!({"data": [{"id": "late"}]}))]
        } else {
            vec![json(503, "", &json!({}))]
        }
    })
    .await;
    let provider =
        json!({"type": "openai", "base_url": late.v1(), "models": "discover", "discover_every": 86_400});
    let echo = json!({"type": "echo", "models": {"echo": {}}});
    let gateway = Setup::new().models(&json!({"providers": {"late": provider, "echo": echo}})).start();
    ready.store(true, Ordering::SeqCst);
    eventually("its models are served", async || models(&gateway).await == ["late", "echo"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(late.seen().len(), 2, "and from then on once a day");
}

/// All older files that come with the tests.
const FILES: [(&str, &str); 3] =
    [("flat.json", FLAT), ("lists.json", LISTS), ("meta-providers.yaml", CLOUDS)];

#[test]
fn what_import_prints_is_accepted_by_check_and_serves_the_same() {
    for (name, text) in FILES {
        let setup =
            older(name, text).file("model-adjustments.yaml", ADJUSTMENTS).variable("CLOUD_TOKEN", "token-1");
        let served = setup.run(&["check"]);
        assert_eq!(served.code, Some(0), "{}", served.stderr);
        let imported = setup.run(&["import", name]);
        assert_eq!(imported.code, Some(0), "{}", imported.stderr);

        let setup = setup.file("printed.json", &imported.stdout).env("MODELS_CONFIG", "printed.json");
        let printed = setup.run(&["check"]);
        assert_eq!(printed.code, Some(0), "{}", printed.stderr);
        let models = |text: &str| {
            let lines = text.lines().filter(|line| line.starts_with("model "));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(models(&served.stdout), models(&printed.stdout), "{name}");
        let again = setup.run(&["import", "printed.json"]);
        assert_eq!((again.code, &again.stdout), (Some(0), &imported.stdout));
        assert!(again.stderr.contains("has the form of this service already"), "{}", again.stderr);
    }
}

#[test]
fn import_warns_beside_its_output_and_keeps_what_the_file_needs() {
    let ended = older("lists.json", LISTS).run(&["import", "lists.json"]);
    let file: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(file["providers"]["clever"]["api_key"], "planted-token");
    let warnings: Vec<&str> = ended.stderr.lines().collect();
    assert!(warnings.iter().all(|line| line.starts_with("warning: lists.json: ")), "{warnings:?}");
    assert!(warnings.iter().any(|line| line.contains("`api_token` stands in the file itself")));
    assert!(!ended.stderr.contains("planted"));
    // It needs nothing else to be in order.
    let ended = older("lists.json", LISTS)
        .env("MODELS_CONFIG", "nowhere")
        .env("PORT", "x")
        .run(&["import", "lists.json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn faults_end_import_and_start_with_a_line_each() {
    let server = json!({"id": "one", "api_host": "http://h:1", "api_type": "vllm", "input_size": "huge"});
    let file = |providers: Value, active: Value| json!({"chats": {"chat-one": {"providers": providers}}, "active_models": active});
    let all = json!({"chats": ["chat-one"]});
    for (file, told) in [
        (
            file(json!([server]), all.clone()),
            vec!["chats.chat-one.providers[0] (`one`): `input_size` is the text `huge`"],
        ),
        (file(json!([]), all.clone()), vec!["chats.chat-one: the model has no provider"]),
        (
            file(json!([]), json!({"chats": ["chat-on"]})),
            vec!["no model `chat-on` in the family `chats`; did you mean `chat-one`?"],
        ),
        (file(json!([]), json!({"chat": []})), vec!["there is no family `chat`; did you mean `chats`?"]),
        (
            file(
                json!([{"id": "x", "api_host": "http://h", "api_type": "vlm"}, {"id": "x", "api_host": "http://h", "api_type": "vllm"}, {"id": "x", "api_host": "http://h", "api_type": "ollama", "model": "m"}]),
                all,
            ),
            vec![
                "the `api_type` `vlm` is unknown; did you mean `vllm`?",
                "the `id` `x` is that of chats.chat-one.providers[1]",
                "the key `model` is not known here",
            ],
        ),
    ] {
        let setup = older("models-config.json", &file.to_string());
        for arguments in [&["import", "models-config.json"][..], &["check"], &[]] {
            let ended = setup.run(arguments);
            assert_eq!((ended.code, ended.stdout.contains("model ")), (Some(1), false), "{arguments:?}");
            let lines = ended.stderr.lines().map(|line| line.strip_prefix("✗ ").unwrap_or(line));
            let faults: Vec<&str> = lines.filter(|line| line.starts_with("models-config.json: ")).collect();
            assert_eq!(faults.len(), told.len(), "{arguments:?}: {}", ended.stderr);
            for words in &told {
                assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
            }
        }
    }
}

#[test]
fn our_own_form_says_all_that_the_older_ones_say() {
    let cloud = |more: Value| {
        let mut provider =
            json!({"type": "openai", "base_url": "http://127.0.0.1:9/v1", "models": "discover"});
        provider.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"providers": {"up": provider}})
    };
    let with = |key: &str, value: Value| {
        let mut file = cloud(json!({}));
        file[key] = value;
        file
    };
    for (file, told) in [
        (
            cloud(json!({"type": "ollama", "models_url": "http://h"})),
            "providers.up: `models_url` is nothing that the type `ollama` can use",
        ),
        (
            cloud(json!({"models_url": "ftp://h"})),
            "providers.up: `models_url` is no address of an HTTP server",
        ),
        (
            cloud(json!({"models_url": "http://h/v1/models"})),
            "`models_url` ends in `/models`, which is one endpoint of the server; leave",
        ),
        (
            cloud(json!({"discover_every": 0.5})),
            "providers.up: `discover_every` is 0.5; give seconds, 1 or more",
        ),
        (
            cloud(json!({"optional": "yes"})),
            "providers.up.optional: this is the text \"yes\", not true or false",
        ),
        (
            with("routing", json!({"strategy": "scores"})),
            "routing: the strategy `scores` is unknown; did you mean `score`?",
        ),
        (with("adjustments", json!({"g": {"regex": ["a"]}})), "adjustments.g: `priority` is missing"),
        (
            with("adjustments", json!({"g": {"priority": 1, "regex": ["a", "(?!b)"]}})),
            "models.json: adjustments.g: the regex `(?!b)` cannot be read: look-around",
        ),
        (
            with("adjustments", json!({"g": {"priority": 1, "regexes": ["a"]}})),
            "adjustments.g.regexes: the key `regexes` is not known here; did you mean `regex`?",
        ),
        (
            with("adjustments", json!({"g": {"priority": 1, "regex": vec!["a"; 1001]}})),
            "adjustments.g: there are more than 1000 expressions",
        ),
    ] {
        let ended = Setup::new().models(&file).run(&["check"]);
        assert_eq!(ended.code, Some(1), "{file}");
        assert!(ended.stderr.contains(told), "{told}\n{}", ended.stderr);
    }
}

#[test]
fn what_has_no_effect_and_who_is_left_out_is_told() {
    let listed = json!({"type": "openai", "base_url": "http://h", "models": {"m": {}}, "discover_every": 60, "models_url": "http://h"});
    let keyless = json!({"type": "openai", "base_url": "http://h", "api_key": "${NOT_SET}", "optional": true, "models": {"n": {}}});
    let ended = Setup::new().models(&json!({"providers": {"a": listed, "b": keyless}})).run(&["check"]);
    for told in [
        "warning: models.json: providers.a: `models_url` has no effect, for the models are listed",
        "warning: models.json: providers.a: `discover_every` has no effect",
        "warning: provider `b` is left out: the environment variable NOT_SET is not set",
    ] {
        assert!(
            ended.code == Some(0) && ended.stdout.contains(told),
            "{told}\n{}{}",
            ended.stdout,
            ended.stderr
        );
    }
}
