//! Engines that the gateway runs itself, as callers and operators see them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::engine::fake_llama_server;
use crate::support::{Events, Gateway, Setup, answer, events_of, eventually};

/// A provider `local` whose models are these, run by the fake. The engines write into `journal`.
pub(crate) fn setup(models: &Value, provider: &Value) -> Setup {
    with_policies(models, provider, &json!({}))
}

fn with_policies(models: &Value, provider: &Value, policies: &Value) -> Setup {
    let setup = Setup::new();
    let journal = setup.path("journal").display().to_string();
    let mut local = json!({
        "type": "llamacpp", "binary": fake_llama_server(), "args": ["--fake-journal", journal], "models": models,
    });
    for (name, value) in provider.as_object().unwrap() {
        local[name] = value.clone();
    }
    let runtime = setup.path(".").display().to_string();
    let providers = json!({"local": local, "echo": {"type": "echo", "models": {"echo": {}}}});
    setup.models(&json!({"providers": providers, "models": policies})).variable("XDG_RUNTIME_DIR", &runtime)
}

/// A model in one variant with these arguments.
pub(crate) fn one(args: &str) -> Value {
    json!({"variants": [{"context": 1024, "args": args.split_whitespace().collect::<Vec<_>>()}]})
}

fn tiny(args: &str) -> Gateway {
    setup(&json!({"tiny": one(args)}), &json!({})).start()
}

pub(crate) fn says(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": text}]})
}

pub(crate) fn streams(model: &str, text: &str) -> Value {
    json!({"model": model, "stream": true, "messages": [{"role": "user", "content": text}]})
}

pub(crate) const CHAT: &str = "/v1/chat/completions";

/// What happened in the engines, of this kind, each with its context.
pub(crate) fn journal(gateway: &Gateway, kind: &str) -> Vec<String> {
    let text = std::fs::read_to_string(gateway.folder.path().join("journal")).unwrap_or_default();
    let what = |line: &str| line.split_once(' ').map(|(_, what)| what.to_owned());
    text.lines().filter_map(what).filter(|what| what.split(' ').any(|word| word == kind)).collect()
}

/// Processes of engines that have ever started here and still are.
pub(crate) fn alive(gateway: &Gateway) -> Vec<u32> {
    let text = std::fs::read_to_string(gateway.folder.path().join("journal")).unwrap_or_default();
    let mut pids: Vec<u32> = text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    pids.sort_unstable();
    pids.dedup();
    pids.retain(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    });
    pids
}

async fn models(gateway: &Gateway) -> Value {
    answer(gateway.get("/api/engines")).await.1["engines"].clone()
}

async fn state(gateway: &Gateway) -> Value {
    models(gateway).await[0]["state"].clone()
}

pub(crate) async fn steer(gateway: &Gateway, model: &str, what: &str) -> (u16, Value) {
    answer(gateway.post(&format!("/api/engines/{model}/{what}"), &json!({}))).await
}

#[tokio::test]
async fn an_engine_starts_on_demand_in_the_smallest_variant_that_fits() {
    let model = json!({"variants": [{"context": 4096}, {"context": 512}]});
    let gateway = setup(&json!({"tiny": model}), &json!({})).start();
    assert_eq!(models(&gateway).await[0]["engine"], Value::Null);

    let small = gateway.post(CHAT, &says("tiny", "hi")).send().await.unwrap();
    assert_eq!(
        (small.status().as_u16(), &small.headers()["x-llm-variant"]),
        (200, &"tiny@512".parse().unwrap())
    );
    let body = says("tiny", &"word ".repeat(1500));
    let large = gateway.post(CHAT, &body).send().await.unwrap();
    assert_eq!(
        (large.status().as_u16(), &large.headers()["x-llm-variant"]),
        (200, &"tiny@4096".parse().unwrap())
    );
    let again = gateway.post("/api/chat", &streams("tiny", "hi")).send().await.unwrap();
    assert_eq!(again.headers()["x-llm-variant"], "tiny@4096", "what runs and fits stays");

    assert_eq!(journal(&gateway, "start"), ["512 start", "4096 start"]);
    let (status, refused) = gateway.ask(CHAT, &streams("tiny", &"word ".repeat(9000))).await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("context_length_exceeded")), "{refused}");
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("4096"), "{message}");
}

#[tokio::test]
async fn engines_are_listed_with_their_variants_and_their_state() {
    let gateway = tiny("-np 2");
    let (_, body) = answer(gateway.get("/api/engines")).await;
    assert_eq!(
        body,
        json!({"engines": [{"provider": "local", "model": "tiny", "state": "cold", "last_failure": null,
            "variants": [{"variant": "tiny@1024", "context_tokens": 1024}], "engine": null}]})
    );
    assert_eq!(gateway.ask(CHAT, &says("tiny", "hi")).await.0, 200);
    let listed = models(&gateway).await;
    let engine = &listed[0]["engine"];
    assert_eq!(
        (&listed[0]["state"], &engine["variant"], &engine["context_tokens"], &engine["slots"]),
        (&json!("ready"), &json!("tiny@1024"), &json!(512), &json!(2))
    );
    assert!(engine["load_ms"].is_u64() && engine["memory_mib"].is_null(), "{engine}");
    assert_eq!(alive(&gateway), [u32::try_from(engine["pid"].as_u64().unwrap()).unwrap()]);
}

#[tokio::test]
async fn engines_are_loaded_and_unloaded_by_hand() {
    let models_of_test = json!({"org/tiny": {"upstream": "inner", "variants": [{"context": 1024}]}});
    let policies = json!({"org/tiny": {"aliases": ["nick"]}});
    let gateway = with_policies(&models_of_test, &json!({}), &policies).start();
    let log = async |name: &str| gateway.get(&format!("/api/engines/{name}/log")).send().await.unwrap();
    assert_eq!(log("nick").await.text().await.unwrap(), "");

    let (status, loaded) = steer(&gateway, "org%2Ftiny", "load").await;
    assert_eq!(
        (status, &loaded["model"], &loaded["state"]),
        (200, &json!("org/tiny"), &json!("ready")),
        "{loaded}"
    );
    assert_eq!(
        (&loaded["engine"]["variant"], &loaded["engine"]["running"]),
        (&json!("inner@1024"), &json!(0))
    );
    let words = log("org%2Ftiny").await;
    assert!(words.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
    assert!(words.text().await.unwrap().contains("main: server is listening on"));

    let (status, unloaded) = steer(&gateway, "nick", "unload").await;
    assert_eq!((status, &unloaded["state"], &unloaded["engine"]), (200, &json!("cold"), &Value::Null));
    assert!(alive(&gateway).is_empty());
    assert_eq!(steer(&gateway, "nick", "unload").await.0, 200, "it is gone already");
    assert!(log("nick").await.text().await.unwrap().contains("cleaning up"), "its words stay");
    for path in ["nobody/load", "nobody/unload"] {
        let (status, told) = answer(gateway.post(&format!("/api/engines/{path}"), &json!({}))).await;
        assert_eq!((status, &told["error"]["code"]), (404, &json!("model_not_found")), "{path}");
    }
    assert_eq!(log("nobody").await.status(), 404);
    assert_eq!(steer(&gateway, "echo", "load").await.0, 400);
}

#[tokio::test]
async fn unload_lets_answers_end() {
    let gateway = tiny("--fake-token-ms 20");
    let mut answer = Events::of(gateway.post(CHAT, &streams("tiny", "answer=40")).send().await.unwrap());
    answer.next().await.unwrap();
    let began = Instant::now();
    let unloading = async {
        let unloaded = steer(&gateway, "tiny", "unload").await;
        (unloaded, began.elapsed())
    };
    let draining = async {
        eventually("draining", async || state(&gateway).await == "draining").await;
        answer.rest().await
    };
    let ((unloaded, time), events) = tokio::join!(unloading, draining);
    assert_eq!((unloaded.0, &unloaded.1["state"]), (200, &json!("cold")));
    assert!(time > Duration::from_millis(400), "{time:?}");
    assert_eq!(events.last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn every_step_of_an_engine_is_told_to_all_who_listen() {
    let gateway = tiny("");
    let listen = async || Events::of(gateway.get("/api/engines/events").send().await.unwrap());
    let mut listeners = [listen().await, listen().await];
    assert_eq!(steer(&gateway, "tiny", "load").await.0, 200);
    let mut late = listen().await;
    assert_eq!(steer(&gateway, "tiny", "unload").await.0, 200);
    let step = async |events: &mut Events| loop {
        let event = events.next().await.unwrap();
        if let Some(data) = event.strip_prefix("data: ") {
            break serde_json::from_str::<Value>(data).unwrap();
        }
    };
    for listener in &mut listeners {
        for state in ["loading", "ready", "draining", "stopping", "gone"] {
            let mut told = step(listener).await;
            while state == "ready" && told["state"] == "loading" {
                told = step(listener).await;
            }
            // Between two looks an engine may take two steps.
            if state == "draining" && told["state"] == "stopping" {
                assert_eq!(step(listener).await["state"], "gone");
                break;
            }
            assert_eq!(told["state"], state, "{told}");
            assert_eq!((&told["provider"], &told["model"]), (&json!("local"), &json!("tiny")));
            assert_eq!(told["variant"], "tiny@1024");
        }
    }
    assert_eq!(step(&mut late).await["state"], "ready", "the present states come first");
    drop(late);
    assert_eq!(steer(&gateway, "tiny", "load").await.0, 200, "one who has left holds up nobody");
    let mut gateway = gateway;
    gateway.signal("TERM");
    let began = Instant::now();
    gateway.ended().await;
    assert!(began.elapsed() < Duration::from_secs(3), "nor does one who listens hold up the end");
}

#[tokio::test]
async fn models_show_the_state_of_their_engine() {
    let model = json!({"variants": [{"context": 512, "args": ["--fake-load-ms", "400"]}, {"context": 4096}]});
    let gateway = setup(&json!({"tiny": model}), &json!({})).start();
    let tag = async || answer(gateway.get("/api/tags")).await.1["models"][0].clone();
    let card = async || answer(gateway.get("/v1/models")).await.1["data"][0].clone();
    let cold = tag().await;
    assert_eq!(
        (&cold["name"], &cold["state"], &cold["variants"], &cold["context"]),
        (&json!("tiny"), &json!("cold"), &json!([512, 4096]), &json!(4096))
    );
    assert!(cold["modified_at"].is_string() && cold["size"].is_u64() && cold["details"].is_object());
    let (_, tags) = answer(gateway.get("/api/tags")).await;
    assert_eq!((&tags["models"][1]["state"], tags["models"][1].get("variants")), (&json!("available"), None));

    let asked = tokio::spawn(gateway.post(CHAT, &says("tiny", "hi")).send());
    eventually("loading", async || tag().await["state"] == "loading").await;
    assert_eq!((&card().await["state"], &card().await["variants"]), (&json!("loading"), &json!([512, 4096])));
    assert_eq!(asked.await.unwrap().unwrap().status(), 200);
    assert_eq!(
        (tag().await["state"].clone(), card().await["context_length"].clone()),
        (json!("ready"), json!(4096))
    );
}

#[tokio::test]
async fn an_engine_that_cannot_start_is_told_at_once_with_its_last_words() {
    let models = json!({"tiny": one("--fake-exit no-such-device")});
    for shows in [true, false] {
        let setup = setup(&models, &json!({}));
        let gateway = if shows { setup.env("IN_DEBUG", "1") } else { setup }.start();
        for body in [says("tiny", "hi"), streams("tiny", "hi")] {
            let began = Instant::now();
            let response = gateway.post(CHAT, &body).send().await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
            assert_eq!(response.status(), 503);
            let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
            assert!((1..60).contains(&wait), "{wait}");
            let error = crate::support::json_of(response).await["error"].clone();
            assert_eq!(
                (&error["type"], &error["code"]),
                (&json!("overloaded_error"), &json!("engine_start_failed"))
            );
            assert_eq!(
                error["detail"].as_str().is_some_and(|detail| detail.contains("no-such-device")),
                shows
            );
        }
        let (status, told) = steer(&gateway, "tiny", "load").await;
        assert_eq!((status, &told["error"]["code"]), (503, &json!("engine_start_failed")));
        let shown = answer(gateway.get("/api/engines")).await.1;
        let failure = shown["engines"][0]["last_failure"].as_str().unwrap_or_default().to_owned();
        assert!(failure.contains("no-such-device"), "{failure}");
        assert!(alive(&gateway).is_empty());
    }
}

#[tokio::test]
async fn an_engine_that_hangs_is_given_up() {
    let provider = json!({"engine_startup_timeout": 0.5, "health_check_timeout": 0.2});
    let gateway = setup(&json!({"tiny": one("--fake-hang")}), &provider).start();
    let (status, told) = gateway.ask(CHAT, &says("tiny", "hi")).await;
    assert_eq!((status, &told["error"]["code"]), (503, &json!("engine_start_failed")), "{told}");
    eventually("none is left", async || alive(&gateway).is_empty()).await;
}

#[tokio::test]
async fn one_answer_that_hangs_is_its_callers_and_others_go_on() {
    let gateway = tiny("-np 2 -kvu");
    let hanging = tokio::spawn(gateway.post(CHAT, &says("tiny", "hang")).send());
    eventually("it hangs", async || models(&gateway).await[0]["engine"]["running"] == 1).await;
    assert_eq!(gateway.ask(CHAT, &says("tiny", "hi")).await.0, 200);
    hanging.abort();
    eventually("it is let go", async || models(&gateway).await[0]["engine"]["running"] == 0).await;
}

#[tokio::test]
async fn an_engine_that_says_it_is_well_and_does_nothing_is_replaced() {
    let provider = json!({"first_token_timeout": 0.5, "timeout": 0.5, "health_check_timeout": 0.05});
    let gateway = setup(&json!({"tiny": one("")}), &provider).start();
    let (status, told) = gateway.ask(CHAT, &streams("tiny", "stick")).await;
    assert_eq!((status, &told["error"]["code"]), (504, &json!("upstream_timeout")), "{told}");
    eventually("it is ended", async || alive(&gateway).is_empty()).await;
    assert_eq!(gateway.ask(CHAT, &says("tiny", "hi")).await.0, 200);
    assert_eq!(journal(&gateway, "start").len(), 2);
}

#[tokio::test]
async fn a_raw_request_is_run_again_when_its_engine_is_killed_and_waits_for_a_larger_one_if_it_is_long() {
    let folder = tempfile::tempdir().unwrap();
    let once = folder.path().join("once").display().to_string();
    let small = json!({"context": 512, "args": ["--fake-once", once, "--fake-killed-after", "0"]});
    let gateway = setup(&json!({"tiny": {"variants": [small, {"context": 4096}]}}), &json!({})).start();
    let raw = async |text: &str| {
        let path = "/api/passthrough/local/v1/chat/completions";
        let answer =
            gateway.post(path, &says("tiny", text)).header("x-llm-model", "tiny").send().await.unwrap();
        answer.status().as_u16()
    };
    assert_eq!(raw("crash-free").await, 200, "the first engine is killed, the second one answers");
    assert_eq!(raw(&"long ".repeat(600)).await, 200);
    assert_eq!(journal(&gateway, "start"), ["512 start", "512 start", "4096 start"]);
}

#[tokio::test]
async fn a_raw_request_that_turns_out_too_long_goes_to_a_larger_engine() {
    let gateway =
        setup(&json!({"tiny": {"variants": [{"context": 512}, {"context": 4096}]}}), &json!({})).start();
    let raw = async |text: &str| {
        let path = "/api/passthrough/local/v1/chat/completions";
        let answer =
            gateway.post(path, &says("tiny", text)).header("x-llm-model", "tiny").send().await.unwrap();
        (answer.status().as_u16(), crate::support::json_of(answer).await)
    };
    // Many short words: a quarter of the bytes is too low a guess.
    let (status, answer) = raw(&"a ".repeat(600)).await;
    assert_eq!(
        (status, journal(&gateway, "start")),
        (200, vec!["512 start".into(), "4096 start".into()]),
        "{answer}"
    );
    let (status, answer) = raw(&"a ".repeat(5000)).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("context_length_exceeded")), "{answer}");
}

#[tokio::test]
async fn a_load_that_gets_on_no_more_is_given_up_and_one_that_does_is_waited_for() {
    let provider = json!({"engine_stall_timeout": 0.6, "engine_startup_timeout": 2.5});
    for (args, told, seconds) in [
        ("--fake-never-ready", "neither said nor done anything for 0.6 s", 2.2..4.5),
        ("--fake-never-ready --fake-noise lines", "not loaded within 2.5 s", 6.0..9.0),
    ] {
        let gateway = setup(&json!({"tiny": one(args)}), &provider).env("IN_DEBUG", "1").start();
        let began = Instant::now();
        let (status, answer) = gateway.ask(CHAT, &says("tiny", "hi")).await;
        assert_eq!((status, &answer["error"]["code"]), (503, &json!("engine_start_failed")), "{answer}");
        assert!(answer["error"]["detail"].as_str().unwrap().contains(told), "{answer}");
        assert!(seconds.contains(&began.elapsed().as_secs_f64()), "{args}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn an_engine_that_finds_too_little_memory_is_loaded_again_when_the_others_have_gone() {
    let setup_folder = tempfile::tempdir().unwrap();
    let once = setup_folder.path().join("once").display().to_string();
    let starved = json!({"memory": 10, "variants": [{"context": 1024, "args":
        ["--fake-once", once, "--fake-load-failure", "ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory"]}]});
    let models = json!({"one": {"memory": 10, "variants": [{"context": 1024}]}, "two": starved});
    let gateway = setup(&models, &json!({"memory_budget": 100})).start();
    assert_eq!(gateway.ask(CHAT, &says("one", "hi")).await.0, 200);
    assert_eq!(gateway.ask(CHAT, &says("two", "hi")).await.0, 200, "its first start is not seen");
    assert_eq!(models_running(&gateway).await, ["two"]);
    assert_eq!(gateway.ask(CHAT, &says("one", "hi")).await.0, 200);
    assert_eq!(models_running(&gateway).await, ["one"], "it is known to need all");
    assert_eq!(journal(&gateway, "start").len(), 4);
}

async fn models_running(gateway: &Gateway) -> Vec<String> {
    let models = models(gateway).await;
    let running = models.as_array().unwrap().iter().filter(|model| model["state"] == "ready");
    running.map(|model| model["model"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn who_does_not_fit_into_the_queue_is_turned_away() {
    let provider = json!({"queue_max": 2});
    let gateway = setup(&json!({"tiny": one("--fake-load-ms 1500")}), &provider).start();
    let asked: Vec<_> =
        (0..2).map(|_| tokio::spawn(gateway.post(CHAT, &says("tiny", "hi")).send())).collect();
    eventually("two wait", async || models(&gateway).await[0]["engine"]["waiting"] == 2).await;
    let third = gateway.post(CHAT, &says("tiny", "hi")).send().await.unwrap();
    assert_eq!((third.status().as_u16(), &third.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    assert_eq!(crate::support::json_of(third).await["error"]["code"], "queue_full");
    for asked in asked {
        assert_eq!(asked.await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn an_engine_that_is_killed_before_the_first_content_is_replaced_unseen() {
    for stream in [false, true] {
        let folder = tempfile::TempDir::new().unwrap();
        let once = folder.path().join("once");
        let gateway = tiny(&format!("--fake-killed-after 0 --fake-once {}", once.display()));
        if stream {
            let events = events_of(gateway.post(CHAT, &streams("tiny", "answer=3"))).await;
            assert_eq!(events.last().unwrap(), "[DONE]");
            assert!(events.iter().all(|event| event.get("error").is_none()), "{events:?}");
        } else {
            assert_eq!(gateway.ask(CHAT, &says("tiny", "answer=3")).await.0, 200);
        }
        assert_eq!(journal(&gateway, "start").len(), 2);
    }
}

#[tokio::test]
async fn a_crash_in_mid_stream_is_told_and_the_next_request_is_answered() {
    let gateway = tiny("--fake-crash-after 3");
    let events = events_of(gateway.post(CHAT, &streams("tiny", "answer=10"))).await;
    let last = events.last().unwrap();
    assert!(last["error"]["code"].is_string(), "{events:?}");
    let (status, _) = gateway.ask(CHAT, &says("tiny", "answer=2")).await;
    assert_eq!((status, journal(&gateway, "start").len()), (200, 2));
}

#[tokio::test]
async fn an_engine_without_anything_to_do_ends() {
    let provider = json!({"engine_idle_timeout": 0.3});
    let gateway = setup(&json!({"tiny": one("")}), &provider).start();
    assert_eq!(gateway.ask(CHAT, &says("tiny", "hi")).await.0, 200);
    assert_eq!(alive(&gateway).len(), 1);
    eventually("cold", async || state(&gateway).await == "cold").await;
    assert!(alive(&gateway).is_empty());
    assert_eq!(gateway.ask(CHAT, &says("tiny", "hi")).await.0, 200, "and starts again");
}

#[tokio::test]
async fn no_engine_outlives_the_gateway() {
    for signal in ["TERM", "KILL"] {
        let mut gateway = tiny("--fake-stop-ms 100");
        let mut answer = Events::of(gateway.post(CHAT, &streams("tiny", "hi")).send().await.unwrap());
        answer.next().await.unwrap();
        drop(answer);
        assert_eq!(alive(&gateway).len(), 1);
        gateway.signal(signal);
        gateway.ended().await;
        let began = Instant::now();
        eventually("none is left", async || alive(&gateway).is_empty()).await;
        assert!(began.elapsed() < Duration::from_secs(2), "after {signal}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn an_engines_own_routes_are_reached_by_its_model() {
    let models =
        json!({"org/tiny": {"upstream": "inner", "variants": [{"context": 1024, "args": ["-np", "1"]}]}});
    let gateway = setup(&models, &json!({})).start();
    let raw = json!({"model": "org/tiny", "method": "GET", "path": "/props"});
    let (status, props) = gateway.ask("/api/passthrough", &raw).await;
    assert_eq!((status, &props["default_generation_settings"]["n_ctx"]), (200, &json!(1024)), "{props}");
    let raw = json!({"model": "org/tiny", "path": "/tokenize", "body": {"content": "one two"}});
    assert_eq!(gateway.ask("/api/passthrough", &raw).await, (200, json!({"tokens": [0, 1]})));
    // The only model of a provider need not be named.
    assert_eq!(answer(gateway.get("/api/passthrough/local/props")).await.0, 200);
}

#[tokio::test]
async fn a_header_names_the_model_of_a_raw_request_that_is_not_wrapped() {
    let two = json!({"upstream": "second", "variants": [{"context": 2048}]});
    let gateway = setup(&json!({"one": one(""), "two": two}), &json!({})).start();
    let ask = async |model: Option<&str>| {
        let request = gateway.get("/api/passthrough/local/props");
        answer(match model {
            Some(model) => request.header("x-llm-model", model),
            None => request,
        })
        .await
    };
    for (model, context) in [("one", 1024), ("two", 2048)] {
        let (status, props) = ask(Some(model)).await;
        assert_eq!((status, &props["default_generation_settings"]["n_ctx"]), (200, &json!(context)));
    }
    for (model, status) in [(None, 400), (Some("echo"), 400), (Some("nobody"), 404)] {
        assert_eq!(ask(model).await.0, status, "{model:?}");
    }
}

#[tokio::test]
async fn who_waits_for_an_engine_hears_of_it() {
    let gateway = tiny("--fake-load-ms 4500");
    let began = Instant::now();
    let response = gateway.post(CHAT, &streams("tiny", "answer=2")).send().await.unwrap();
    let mut events = Events::of(response);
    let mut comments = Vec::new();
    let first = loop {
        let event = events.next().await.unwrap();
        if event.starts_with("data: ") {
            break event;
        }
        comments.push((event, began.elapsed().as_millis()));
    };
    assert!(first.contains("assistant"), "{first}");
    assert_eq!(events.rest().await.last().unwrap(), "[DONE]");
    let (words, times): (Vec<_>, Vec<_>) = comments.into_iter().unzip();
    assert_eq!(words, [": loading tiny@1024 1 s", ": loading tiny@1024 3 s"]);
    assert!((1500..2300).contains(&times[0]) && (3500..4300).contains(&times[1]), "{times:?}");

    // The second time it is known how long it takes.
    assert_eq!(steer(&gateway, "tiny", "unload").await.0, 200);
    let mut steps = Events::of(gateway.get("/api/engines/events").send().await.unwrap());
    let mut events = Events::of(gateway.post(CHAT, &streams("tiny", "answer=2")).send().await.unwrap());
    let percent = |comment: String| {
        let words: Vec<&str> = comment.split_whitespace().collect();
        assert_eq!((words[1], words[3]), ("loading", "tiny@1024"), "{comment}");
        words[2].trim_end_matches('%').parse::<u32>().unwrap()
    };
    let shown = [percent(events.next().await.unwrap()), percent(events.next().await.unwrap())];
    assert!((25..60).contains(&shown[0]) && (60..100).contains(&shown[1]), "{shown:?}");
    assert_eq!(events.rest().await.last().unwrap(), "[DONE]");
    let mut progress = Vec::new();
    while progress.last() != Some(&json!("ready")) {
        let event = steps.next().await.unwrap();
        let Some(step) = event.strip_prefix("data: ") else { continue };
        let step: Value = serde_json::from_str(step).unwrap();
        progress.push(if step["state"] == "loading" {
            step["progress"].clone()
        } else {
            step["state"].clone()
        });
    }
    assert!(
        progress.len() > 5 && progress.iter().any(|told| told.as_u64().is_some_and(|told| told > 80)),
        "{progress:?}"
    );
}

#[tokio::test]
async fn a_failure_after_comments_comes_in_the_stream_and_one_before_has_its_status() {
    let gateway = tiny("--fake-load-ms 4500 --fake-load-failure no-memory");
    let response = gateway.post(CHAT, &streams("tiny", "hi")).send().await.unwrap();
    let mut events = Events::of(response);
    assert_eq!(events.next().await.unwrap(), ": loading tiny@1024 1 s");
    let rest = events.rest().await;
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert!(rest[0].contains("engine_start_failed"), "{rest:?}");
}

#[tokio::test]
async fn who_waits_for_another_models_end_hears_that_he_waits() {
    let models = json!({"one": one("--fake-token-ms 30"), "two": one("")});
    let gateway = setup(&models, &json!({})).start();
    let mut busy = Events::of(gateway.post(CHAT, &streams("one", "answer=100")).send().await.unwrap());
    busy.next().await.unwrap();
    let response = gateway.post(CHAT, &streams("two", "hi")).send().await.unwrap();
    assert_eq!(Events::of(response).next().await.unwrap(), ": waiting for two 1 s");
}

#[tokio::test]
async fn starts_waits_and_plans_that_were_wrong_are_counted() {
    let uncounted = "/v1/chat/completions/input_tokens,/apply-template,/tokenize";
    let args = ["--fake-load-ms", "100", "--fake-without", uncounted];
    let model = json!({"variants": [{"context": 512, "args": args}, {"context": 4096}]});
    let models = json!({"tiny": model, "broken": one("--fake-exit no-memory")});
    let gateway = setup(&models, &json!({})).start();
    assert_eq!(gateway.ask(CHAT, &says("tiny", "hi")).await.0, 200);
    assert_eq!(gateway.ask(CHAT, &says("broken", "hi")).await.0, 503);
    let of = async |name: &str, label: &str| gateway.figure(&format!("llm_proxy_{name}"), label).await;
    assert_eq!(of("engine_starts_total", "model=\"tiny\",outcome=\"ready\"").await, 1.0);
    assert_eq!(of("engine_starts_total", "model=\"broken\",outcome=\"failed\"").await, 2.0);
    assert_eq!(of("engine_load_seconds_count", "model=\"tiny\"").await, 1.0);
    assert!(of("engine_load_seconds_sum", "model=\"tiny\"").await >= 0.1);
    assert_eq!(of("engine_queue_wait_seconds_count", "model=\"tiny\"").await, 1.0);
    assert!(of("engine_queue_wait_seconds_sum", "model=\"tiny\"").await >= 0.1);
    assert_eq!(steer(&gateway, "tiny", "unload").await.0, 200);
    assert_eq!((of("engines_running", "").await, of("engine_replans_total", "").await), (0.0, 0.0));

    // After prompts of few tokens, more of them than the letters let expect: only the refusal tells.
    for _ in 0..20 {
        assert_eq!(gateway.ask(CHAT, &says("tiny", &"a".repeat(1000))).await.0, 200);
    }
    let answer = gateway.post(CHAT, &says("tiny", &"a ".repeat(600))).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-llm-variant"]),
        (200, &"tiny@4096".parse().unwrap())
    );
    assert_eq!(of("engine_replans_total", "model=\"tiny\"").await, 1.0);
}

#[tokio::test]
async fn the_time_for_an_answer_begins_when_its_engine_has_loaded() {
    let provider = json!({"first_token_timeout": 0.5, "timeout": 0.5});
    let gateway = setup(&json!({"tiny": one("--fake-load-ms 700")}), &provider).start();
    for (body, code) in
        [(says("tiny", "hang"), "upstream_timeout"), (streams("tiny", "hang"), "upstream_timeout")]
    {
        let (status, told) = gateway.ask(CHAT, &body).await;
        assert_eq!((status, &told["error"]["code"]), (504, &json!(code)), "{told}");
    }
    assert_eq!(steer(&gateway, "tiny", "unload").await.0, 200);
    assert_eq!(gateway.ask(CHAT, &says("tiny", "hi")).await.0, 200);
    assert_eq!(steer(&gateway, "tiny", "unload").await.0, 200);
    assert_eq!(events_of(gateway.post(CHAT, &streams("tiny", "hi"))).await.last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn embeddings_of_an_engine_have_a_limit_too() {
    let gateway = setup(&json!({"tiny": one("--fake-load-ms 700")}), &json!({"timeout": 0.5})).start();
    let embed = async |text: &str| {
        let body = json!({"model": "tiny", "input": text});
        let asked = gateway.ask("/v1/embeddings", &body);
        tokio::time::timeout(Duration::from_secs(10), asked).await.expect("it has a limit")
    };
    let (status, told) = embed("hang").await;
    assert_eq!((status, &told["error"]["code"]), (504, &json!("upstream_timeout")), "{told}");
    let (status, told) = embed("hi").await;
    assert_eq!((status, &told["data"][0]["embedding"]), (200, &json!([0.5, -0.5])), "{told}");
}

#[tokio::test]
async fn a_listener_hears_of_no_engine_whose_model_its_key_may_not_use() {
    let models = json!({"tiny": one(""), "other": one("")});
    let gateway = setup(&models, &json!({})).env("ADMIN_KEY", "an-admin-key-of-some-length").start();
    let wanted = json!({"name": "k", "allowed_models": ["other"]});
    let made =
        answer(gateway.post("/admin/keys", &wanted).bearer_auth("an-admin-key-of-some-length")).await.1;
    let key = made["key"].as_str().unwrap();
    let mut steps = Events::of(gateway.get("/api/engines/events").bearer_auth(key).send().await.unwrap());
    assert_eq!(steer(&gateway, "tiny", "load").await.0, 200);
    assert_eq!(steer(&gateway, "other", "load").await.0, 200);
    loop {
        let event = steps.next().await.unwrap();
        assert!(!event.contains("tiny"), "{event}");
        if event.contains("\"other\"") {
            break;
        }
    }
}
