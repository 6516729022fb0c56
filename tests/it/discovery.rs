//! Nothing configured: what is found near by is served, and the echo model always is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, Step, Upstream, answer, eventually, fixture, json};

/// A start on what can be found. What another program on this machine may have at the usual places is not looked at.
fn minimum() -> Setup {
    Setup::new().without_models().env("MINIMUM", "1").variable("OLLAMA_HOST", "127.0.0.1:9")
}

async fn models(gateway: &Gateway) -> Vec<String> {
    let (_, list) = answer(gateway.get("/v1/models")).await;
    let ids = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned());
    ids.filter(|id| id != "priority-auto").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_nothing_at_all_the_echo_model_is_served() {
    let gateway = minimum().start_on_terminal();
    assert!(models(&gateway).await.contains(&"echo".to_owned()));
    let banner = gateway.log();
    for words in [
        "Swagger UI",
        "/docs",
        "OpenAI: not found; set OPENAI_API_KEY",
        "Ollama at http://127.0.0.1:9: not found",
        "curl http://127.0.0.1:",
    ] {
        assert!(banner.contains(words), "`{words}` in {banner}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_banners_curl_line_works_as_pasted() {
    let gateway = minimum().start_on_terminal();
    let banner = gateway.log();
    let start = banner.find("curl http").unwrap();
    let command: String = banner[start..].lines().take(2).collect::<Vec<_>>().join("\n");
    let output = tokio::process::Command::new("sh").args(["-c", &command]).output().await.unwrap();
    let answer: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {command}"));
    assert_eq!(answer["choices"][0]["message"]["content"], "Hello!");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ollama_is_found_where_its_variable_says() {
    let upstream = Upstream::answering(Step::Send(fixture("ollama/tags"))).await;
    let gateway = minimum().variable("OLLAMA_HOST", &upstream.url()).start_on_terminal();
    let found = models(&gateway).await;
    assert!(found.iter().any(|model| model.starts_with("tiny-testkit")), "{found:?}");
    assert!(gateway.log().contains("+ ollama (ollama): 1 model, run by user "), "{}", gateway.log());
    // `:latest` may be left out, as Ollama's own clients do.
    assert_eq!(answer(gateway.get("/v1/models/tiny-testkit")).await.0, 200);
    let (_, tags) = answer(gateway.get("/api/tags")).await;
    let tag = tags["models"].as_array().unwrap().iter().find(|tag| tag["provider"] == "ollama").unwrap();
    assert!(tag["size"].as_u64().unwrap() > 1000 && tag["digest"].as_str().unwrap().len() > 20, "{tag}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openai_is_found_by_its_key_and_address() {
    let upstream = Upstream::answering(Step::Send(fixture("vllm/models"))).await;
    let gateway =
        minimum().variable("OPENAI_API_KEY", "sk-test").variable("OPENAI_BASE_URL", &upstream.v1()).start();
    let found = models(&gateway).await;
    assert!(found.contains(&"tiny-testkit".to_owned()), "{found:?}");
    assert_eq!(upstream.seen()[0].header("authorization"), Some("Bearer sk-test"));
    assert_eq!(upstream.seen()[0].path, "/v1/models");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_found_stands_beside_the_models_file() {
    let upstream = Upstream::answering(Step::Send(fixture("ollama/tags"))).await;
    let gateway = Setup::new().env("MINIMUM", "1").variable("OLLAMA_HOST", &upstream.url()).models(&json!({"providers": {
        "mine": {"type": "echo", "models": {"mine": {}}},
        "keyless": {"type": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "${UNSET_KEY}", "models": {"gone": {}}}}})).start();
    let found = models(&gateway).await;
    assert!(
        found.contains(&"mine".to_owned()) && found.iter().any(|model| model.starts_with("tiny-testkit")),
        "{found:?}"
    );
    assert!(!found.contains(&"gone".to_owned()));
    assert!(gateway.log().contains("provider `keyless` is left out") && gateway.log().contains("UNSET_KEY"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovered_models_carry_their_context() {
    for (kind, recorded, base) in [("vllm", "vllm/models", "v1"), ("llamacpp", "llamacpp/models", "v1")] {
        let upstream = Upstream::answering(Step::Send(fixture(recorded))).await;
        let provider =
            json!({"type": kind, "base_url": format!("{}/{base}", upstream.url()), "models": "discover"});
        let gateway = Setup::new().models(&json!({"providers": {"up": provider}})).start();
        let (_, list) = answer(gateway.get("/v1/models")).await;
        let model = &list["data"][0];
        assert_eq!(model["id"], "tiny-testkit");
        assert!(model["context_length"].as_u64().unwrap() >= 512, "{kind}: {model}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_cannot_be_reached_is_told_as_that() {
    let provider =
        |url: &str| json!({"providers": {"up": {"type": "vllm", "base_url": url, "models": "discover"}}});
    let told = |url: &str| Setup::new().models(&provider(url)).run(&["check"]).stdout;
    let stdout = told("http://127.0.0.1:9/v1");
    assert!(stdout.contains("warning: provider `up` could not be reached; it is asked again"), "{stdout}");
    let upstream = Upstream::answering(json(200, "", &json!({"object": "list", "data": []}))).await;
    let stdout = tokio::task::block_in_place(|| told(&upstream.v1()));
    assert!(stdout.contains("warning: provider `up` says that it has no models"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_later_is_found_then() {
    let provider = |url: &str| json!({"providers": {"up": {"type": "vllm", "base_url": url, "models": "discover"}, "echo": {"type": "echo", "models": {"echo": {}}}}});
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // It is there, but knows no model yet.
    let empty = Upstream::on(listener, |_| vec![json(503, "", &json!({"error": "loading"})), Step::Close]);
    let gateway = Setup::new().models(&provider(&format!("http://{address}/v1"))).start();
    assert_eq!(models(&gateway).await, ["echo"]);
    assert!(gateway.log().contains("provider `up` does not say what models it has"), "{}", gateway.log());

    drop(empty);
    let again = async || tokio::net::TcpListener::bind(address).await.ok();
    let mut listener = None;
    eventually("its place is free", async || {
        listener = again().await;
        listener.is_some()
    })
    .await;
    let _upstream =
        Upstream::on(listener.unwrap(), |_| vec![Step::Send(fixture("vllm/models")), Step::Close]);
    // A reload asks again at once; without one it is asked from time to time.
    gateway.signal("HUP");
    eventually("its model is served", async || models(&gateway).await.contains(&"tiny-testkit".to_owned()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_starts_in_an_empty_folder_with_its_own_prompts() {
    let gateway = minimum().start();
    let (_, list) = answer(gateway.get("/api/prompts")).await;
    assert_eq!(list["prompts"].as_array().unwrap().len(), 7);
}

/// A server that lists these models, each after a while.
async fn listing(models: impl Fn() -> (Duration, Vec<&'static str>) + Send + Sync + 'static) -> Upstream {
    Upstream::start(move |_| {
        let (after, models) = models();
        let data: Vec<Value> = models.iter().map(|id| json!({"id": id})).collect();
        vec![Step::Pause(after), json(200, "", &json!({"object": "list", "data": data}))]
    })
    .await
}

fn discovering(upstream: &Upstream) -> Value {
    json!({"type": "openai", "base_url": upstream.v1(), "models": "discover", "discover_every": 86_400})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_is_told_how_each_provider_was_asked() {
    let good = listing(|| (Duration::ZERO, vec!["a", "b"])).await;
    let bad = Upstream::answering(json(500, "", &json!({"error": {"message": "planted words"}}))).await;
    let hanging = Upstream::answering(Step::Hold).await;
    let providers =
        json!({"good": discovering(&good), "bad": discovering(&bad), "hanging": discovering(&hanging)});
    let setup = Setup::new().models(&json!({ "providers": providers }));
    for command in ["check", "models"] {
        let ended = tokio::task::block_in_place(|| setup.run(&[command]));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let mut lines: Vec<&str> =
            ended.stderr.lines().filter(|line| !line.starts_with("warning: ")).collect();
        lines.sort_unstable();
        let [bad, good, hanging] = lines[..] else { panic!("a line each: {lines:?}") };
        assert!(good.starts_with("good: done, 2 models, ") && good.ends_with(" ms"), "{good}");
        assert!(bad.starts_with("bad: failed: does not say what models it has"), "{bad}");
        assert!(hanging.starts_with("hanging: failed: has not answered within 2 s, 2"), "{hanging}");
        assert!(!ended.stderr.contains("127.0.0.1") && !ended.stderr.contains("planted"), "{}", ended.stderr);
    }
    let gateway = tokio::task::block_in_place(|| setup.start());
    let log = gateway.log();
    for words in [
        "The provider has told its models provider=\"good\" models=2 ms=",
        "The provider has not told its models provider=\"bad\" why=",
        "The provider has not told its models provider=\"hanging\" why=",
    ] {
        assert_eq!(log.matches(words).count(), 1, "{words}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_leaves_a_slow_provider_its_models_until_it_answers() {
    let is_slow = Arc::new(AtomicBool::new(false));
    let slow = is_slow.clone();
    let upstream = listing(move || {
        if slow.load(Ordering::SeqCst) {
            (Duration::from_millis(2500), vec!["old", "new"])
        } else {
            (Duration::ZERO, vec!["old"])
        }
    })
    .await;
    let gateway = Setup::new().models(&json!({"providers": {"up": discovering(&upstream)}})).start();
    assert_eq!(models(&gateway).await, ["old"]);

    is_slow.store(true, Ordering::SeqCst);
    gateway.signal("HUP");
    let line = gateway.logged("is in place");
    assert!(line.contains("models=1 ") && !line.contains("removed"), "{line}");
    assert_eq!(models(&gateway).await, ["old"]);
    assert!(gateway.log().contains("the models that it had stay until it does"), "{}", gateway.log());
    eventually("what it says is taken over", async || models(&gateway).await == ["old", "new"]).await;
    assert_eq!(upstream.seen().len(), 2, "by the answer that came late, without another question");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_after_a_move_keeps_no_models_of_another_server() {
    let (here, there) =
        (listing(|| (Duration::ZERO, vec!["old"])).await, Upstream::answering(Step::Hold).await);
    let providers = |up: &Upstream| json!({"providers": {"up": discovering(up), "echo": {"type": "echo", "models": {"echo": {}}}}});
    let gateway = Setup::new().models(&providers(&here)).start();
    assert_eq!(models(&gateway).await, ["old", "echo"]);
    std::fs::write(gateway.folder.path().join("models.json"), providers(&there).to_string()).unwrap();
    gateway.logged("is in place");
    assert_eq!(models(&gateway).await, ["echo"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_changed_is_counted_and_names_that_nobody_can_ask_for_are_left_out() {
    let round = Arc::new(AtomicUsize::new(0));
    let now = round.clone();
    let upstream = listing(move || {
        let lists = [vec!["old", "kept"], vec!["kept", "new", "newer", "a,b", "priority-auto"]];
        (Duration::ZERO, lists[now.load(Ordering::SeqCst)].clone())
    })
    .await;
    let mut provider = discovering(&upstream);
    provider["discover_every"] = json!(1);
    let gateway = Setup::new()
        .models(&json!({
        "providers": {"up": provider}, "models": {"old": {"fallbacks": ["kept", "kpet"]}}}))
        .start();
    let told = gateway.run(&["check"]).stdout;
    assert!(
        told.contains("warning: `kpet` is to take over from the model `old`, but nobody has it"),
        "{told}"
    );
    assert!(!told.contains("`kept` is to"), "{told}");
    assert_eq!(models(&gateway).await, ["old", "kept"]);

    round.store(1, Ordering::SeqCst);
    let line = gateway.logged("The provider's models have changed");
    assert!(line.contains("2 models added, 1 model removed") && !line.contains("models="), "{line}");
    assert_eq!(models(&gateway).await, ["kept", "new", "newer"]);
    let line = gateway.logged("so they are left out");
    assert!(line.contains("`a,b` (a comma parts") && line.contains("`priority-auto` (it stands"), "{line}");
    let told = gateway.run(&["check"]);
    assert!(
        told.code == Some(0) && told.stdout.contains("warning: provider `up` has models"),
        "{}",
        told.stdout
    );
}
