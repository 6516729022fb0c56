//! Many deployments behind one name: who is asked, who takes over, who rests and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Events, Gateway, Setup, Step, Upstream, answer, fixture, json, json_of, sse};

const CHAT: &str = "/v1/chat/completions";

fn says(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]})
}

/// An upstream that answers well as long as its status is 200, and with that status and these headers otherwise.
struct Moody {
    upstream: Upstream,
    status: Arc<AtomicU16>,
}

impl Moody {
    async fn new(status: u16, headers: &'static str) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let mood = status.clone();
        let upstream = Upstream::start(move |_| match mood.load(Ordering::SeqCst) {
            200 => vec![Step::Send(fixture("openai/chat"))],
            code => vec![json(code, headers, &json!({"error": {"message": "moody"}}))],
        });
        Self { upstream: upstream.await, status }
    }

    fn asked(&self) -> usize {
        self.upstream.seen().len()
    }

    fn is_now(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }
}

/// Providers `p0`, `p1` … of which each serves model `m`, in that order, and a model of its own.
fn gateway(upstreams: &[&Moody], routing: Value, policies: Value) -> Gateway {
    let provider = |(at, moody): (usize, &&Moody)| {
        let models = json!({"m": {"priority": at, "weight": at + 1}, format!("own{at}"): {}});
        (format!("p{at}"), json!({"type": "openai", "base_url": moody.upstream.v1(), "models": models}))
    };
    let providers: serde_json::Map<String, Value> = upstreams.iter().enumerate().map(provider).collect();
    Setup::new().models(&json!({"providers": providers, "routing": routing, "models": policies})).start()
}

/// Status, who answered, and how many were asked.
async fn ask(gateway: &Gateway, model: &str) -> (u16, String, u64) {
    let response = gateway.post(CHAT, &says(model)).send().await.unwrap();
    let text = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let attempts = text("x-llm-attempts").and_then(|text| text.parse().ok()).unwrap_or(0);
    (response.status().as_u16(), text("x-llm-provider").unwrap_or_default(), attempts)
}

fn answered(provider: &str, attempts: u64) -> (u16, String, u64) {
    (200, provider.to_owned(), attempts)
}

#[tokio::test]
async fn a_callers_mistake_cools_nothing_and_is_tried_nowhere_else() {
    for status in [400, 404, 413, 422] {
        let (picky, other) = (Moody::new(status, "").await, Moody::new(200, "").await);
        let gateway = gateway(&[&picky, &other], json!({}), json!({}));
        for _ in 0..3 {
            assert_eq!(ask(&gateway, "m").await.0, status);
        }
        assert_eq!((picky.asked(), other.asked()), (3, 0));
        picky.is_now(200);
        assert_eq!(ask(&gateway, "m").await, answered("p0", 1));
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_cools_its_deployment() {
    let chunk = r#"{"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"Hel"},"finish_reason":null}]}"#;
    let cut = Upstream::start(move |_| vec![sse(&[chunk]), Step::Close]).await;
    let good = Moody::new(200, "").await;
    let gateway = Setup::new()
        .models(&json!({"providers": {
            "a": {"type": "openai", "base_url": cut.v1(), "models": {"m": {"priority": 1}}},
            "b": {"type": "openai", "base_url": good.upstream.v1(), "models": {"m": {"priority": 2}}},
        }}))
        .start();
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let events = Events::of(gateway.post(CHAT, &body).send().await.unwrap()).rest().await;
    assert!(events.last().unwrap().contains("\"error\""), "{events:?}");
    assert_eq!(ask(&gateway, "m").await, answered("b", 1));
}

#[tokio::test]
async fn another_model_takes_over_when_none_of_the_deployments_answers() {
    let (bad, good) = (Moody::new(500, "").await, Moody::new(200, "").await);
    let policies = json!({"own0": {"fallbacks": ["own1"]}});
    let gateway = gateway(&[&bad, &good], json!({"max_wait": 0}), policies);
    assert_eq!(ask(&gateway, "own0").await, answered("p1", 2));
    assert_eq!(ask(&gateway, "own0").await, answered("p1", 1), "also while it rests");
    assert_eq!(ask(&gateway, "nobody, own1").await, answered("p1", 1), "a list of names");
    assert_eq!(ask(&gateway, "own1,m").await, answered("p1", 1));
    assert_eq!(ask(&gateway, "nobody,nothing").await.0, 404);
}

#[tokio::test]
async fn a_prompt_that_is_too_long_goes_to_a_model_with_a_larger_context() {
    let small = Upstream::start(|_| {
        let message = "This model's maximum context length is 10 tokens.";
        vec![json(400, "", &json!({"error": {"message": message, "code": "context_length_exceeded"}}))]
    })
    .await;
    let large = Moody::new(200, "").await;
    for (policies, status) in [
        (json!({"small": {"context_fallbacks": ["large"]}}), 200),
        (json!({"small": {"fallbacks": ["large"]}}), 400),
    ] {
        let gateway = Setup::new()
            .models(&json!({"models": policies, "providers": {
                "a": {"type": "openai", "base_url": small.v1(), "models": {"small": {}}},
                "b": {"type": "openai", "base_url": large.upstream.v1(), "models": {"large": {}}},
            }}))
            .start();
        assert_eq!(ask(&gateway, "small").await.0, status);
    }
}

/// As [`says`], with so many words.
fn says_words(model: &str, words: usize) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "word ".repeat(words)}]})
}

/// Who would be asked, in their order, with the reason that they give.
async fn explained(gateway: &Gateway, body: &Value) -> Vec<(String, String)> {
    let (status, told) = gateway.ask("/api/explain", body).await;
    assert_eq!(status, 200, "{told}");
    let text = |candidate: &Value, name: &str| candidate[name].as_str().unwrap().to_owned();
    let candidates = told["candidates"].as_array().unwrap().iter();
    candidates.map(|it| (text(it, "provider"), text(it, "reason"))).collect()
}

const TOO_LONG: &str = "is not asked: the prompt is surely too long for its context";

#[tokio::test]
async fn nobody_is_sent_away_for_long_while_one_of_them_is_free() {
    let quick = Moody::new(500, "").await;
    let slow = Upstream::start(|_| {
        let failure = json(500, "retry-after: 200\r\n", &json!({"error": {"message": "late"}}));
        vec![Step::Pause(Duration::from_millis(3500)), failure]
    })
    .await;
    let provider = |url: String, priority: u8| json!({"type": "openai", "base_url": url, "models": {"m": {"priority": priority}}});
    let providers = json!({"quick": provider(quick.upstream.v1(), 1), "slow": provider(slow.v1(), 2)});
    let gateway = Setup::new().models(&json!({"providers": providers})).start();
    let refused = gateway.post(CHAT, &says("m")).send().await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (502, &"1".parse().unwrap()));
    assert!(!refused.headers().contains_key("x-should-retry"));
    quick.is_now(200);
    assert_eq!(ask(&gateway, "m").await, answered("quick", 1));
}

#[tokio::test]
async fn a_larger_model_that_rests_is_waited_for_when_it_is_asked_in_anothers_place() {
    let large = Moody::new(429, "retry-after: 2\r\n").await;
    let models = json!({"small": {"context": 1000, "priority": 1}, "large": {"context": 9000}});
    let gateway = Setup::new()
        .models(&json!({
            "models": {"small": {"context_fallbacks": ["large"]}},
            "providers": {"up": {"type": "openai", "base_url": large.upstream.v1(), "models": models}},
        }))
        .start();
    assert_eq!(ask(&gateway, "large").await.0, 429);
    large.is_now(200);
    let began = Instant::now();
    let answer = gateway.post(CHAT, &says_words("small", 2000)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_prompt_that_is_surely_too_long_goes_to_a_larger_model_at_once() {
    let (small, large) = (Moody::new(200, "").await, Moody::new(200, "").await);
    let gateway = Setup::new()
        .models(&json!({
            "models": {
                "small": {"context_fallbacks": ["large"]},
                "alone": {"fallbacks": ["large"]},
                "lost": {"context_fallbacks": ["none"]},
                "none": {"strategy": "score"},
            },
            "providers": {
                "a": {"type": "openai", "base_url": small.upstream.v1(), "models": {
                    "small": {"context": 1000}, "alone": {"context": 1000}, "lost": {"context": 1000}}},
                "b": {"type": "openai", "base_url": large.upstream.v1(), "models": {
                    "large": {"context": 4000}, "none": {"score_adjustment": -1, "context": 9000}}},
            },
        }))
        .start();
    let who = async |model: &str, words: usize| {
        let response = gateway.post(CHAT, &says_words(model, words)).send().await.unwrap();
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        (header("x-llm-provider"), header("x-llm-attempts"))
    };
    let by = |provider: &str| (provider.to_owned(), "1".to_owned());
    for (model, words, provider) in [
        ("small", 10, "a"),
        ("small", 990, "a"),
        ("small", 1001, "b"),
        // Nobody is refused on an estimate: where there is nobody else, the server says what is too long.
        ("alone", 1001, "a"),
        ("lost", 1001, "a"),
        // It takes over from the other, whatever its own context is.
        ("small", 5000, "b"),
    ] {
        assert_eq!(who(model, words).await, by(provider), "{model}, {words}");
    }
    let asked = small.asked();
    large.is_now(500);
    assert_eq!(gateway.post(CHAT, &says_words("small", 2000)).send().await.unwrap().status(), 502);
    assert_eq!(small.asked(), asked, "it would only say that it is too long");

    let reasons = explained(&gateway, &says_words("small", 2000)).await;
    assert_eq!(reasons[0], ("a".to_owned(), TOO_LONG.to_owned()));
    assert!(reasons[1].0 == "b" && reasons[1].1.starts_with("rests for"), "{reasons:?}");
    assert_eq!(explained(&gateway, &says_words("small", 10)).await.len(), 1);
    for model in ["alone", "lost"] {
        let reasons = explained(&gateway, &says_words(model, 2000)).await;
        assert!(reasons.len() == 1 && reasons[0].1 != TOO_LONG, "{model}: {reasons:?}");
    }
}

#[tokio::test]
async fn of_several_those_are_passed_over_for_which_a_prompt_is_surely_too_long() {
    let (small, large) = (Moody::new(200, "").await, Moody::new(200, "").await);
    let provider = |moody: &Moody, priority: u32, settings: Value| {
        let mut settings = settings;
        settings["priority"] = json!(priority);
        json!({"type": "openai", "base_url": moody.upstream.v1(), "models": {"m": settings}})
    };
    for settings in [json!({"context": 4000}), json!({})] {
        let gateway = Setup::new()
            .models(&json!({"routing": {"max_wait": 0}, "providers": {
                "a": provider(&small, 1, json!({"context": 1000})),
                "b": provider(&large, 2, settings),
            }}))
            .start();
        large.is_now(200);
        let asked = small.asked();
        let long = gateway.post(CHAT, &says_words("m", 2000)).send().await.unwrap();
        assert_eq!((long.status().as_u16(), &long.headers()["x-llm-provider"]), (200, &"b".parse().unwrap()));
        let [first, second] = explained(&gateway, &says_words("m", 2000)).await.try_into().unwrap();
        let told = [first, second].map(|(provider, reason)| (provider, reason == TOO_LONG));
        assert!(
            told.contains(&("a".to_owned(), true)) && told.contains(&("b".to_owned(), false)),
            "{told:?}"
        );
        large.is_now(500);
        for _ in 0..2 {
            let refused = gateway.post(CHAT, &says_words("m", 2000)).send().await.unwrap();
            assert_eq!(refused.status(), 502);
        }
        assert_eq!(small.asked(), asked, "the other one is no help, whatever happens");
        assert_eq!(ask(&gateway, "m").await, answered("a", 1));
    }
}

#[tokio::test]
async fn strategies_choose_who_is_asked_first() {
    let upstreams = [Moody::new(200, "").await, Moody::new(200, "").await, Moody::new(200, "").await];
    let all = [&upstreams[0], &upstreams[1], &upstreams[2]];
    for (strategy, first_six) in [
        ("priority", ["p0", "p0", "p0", "p0", "p0", "p0"]),
        ("round_robin", ["p0", "p1", "p2", "p0", "p1", "p2"]),
        // Smooth: weights of 1, 2 and 3.
        ("weighted", ["p2", "p1", "p0", "p2", "p1", "p2"]),
    ] {
        let gateway = equals(&all, strategy);
        for provider in first_six {
            assert_eq!(ask(&gateway, "m").await, answered(provider, 1), "{strategy}");
        }
    }
    let gateway = equals(&all, "least_latency");
    for _ in 0..6 {
        assert_eq!(ask(&gateway, "m").await.0, 200);
    }
}

/// As [`gateway`], with none before the others but by the strategy, whatever the conversation is.
fn equals(upstreams: &[&Moody], strategy: &str) -> Gateway {
    let provider = |(at, moody): (usize, &&Moody)| {
        let models = json!({"m": {"weight": at + 1}});
        (format!("p{at}"), json!({"type": "openai", "base_url": moody.upstream.v1(), "models": models}))
    };
    let providers: serde_json::Map<String, Value> = upstreams.iter().enumerate().map(provider).collect();
    Setup::new()
        .models(&json!({"providers": providers, "models": {"m": {"strategy": strategy, "affinity": false}}}))
        .start()
}

#[tokio::test]
async fn a_later_priority_is_asked_only_when_the_earlier_ones_fail() {
    for strategy in ["round_robin", "weighted", "least_latency"] {
        let (first, spare) = (Moody::new(200, "").await, Moody::new(200, "").await);
        let gateway = gateway(&[&first, &spare], json!({}), json!({"m": {"strategy": strategy}}));
        for _ in 0..4 {
            assert_eq!(ask(&gateway, "m").await, answered("p0", 1), "{strategy}");
        }
        first.is_now(500);
        assert_eq!(ask(&gateway, "m").await, answered("p1", 2), "{strategy}");
        assert_eq!(ask(&gateway, "m").await, answered("p1", 1), "{strategy}");
    }
}

#[tokio::test]
async fn the_best_score_is_asked_first_and_none_without_any() {
    let upstream = Moody::new(200, "").await;
    let provider = |factor: f64, models: Value| json!({"type": "openai", "base_url": upstream.upstream.v1(), "base_priority": factor, "models": models});
    let gateway = Setup::new()
        .models(&json!({
            "providers": {
                "small": provider(1.0, json!({"m": {"upstream": "tiny-350m"}})),
                "large": provider(1.0, json!({"m": {"upstream": "big-70b"}, "other": {"upstream": "mid-30b"}})),
                "unloved": provider(1.0, json!({"m": {"upstream": "giant-405b", "score_adjustment": -1000}})),
            },
            "models": {"m": {"strategy": "score"}},
        }))
        .start();
    assert_eq!(ask(&gateway, "m").await, answered("large", 1));
    assert_eq!(ask(&gateway, "priority-auto").await, answered("large", 1));
    assert_eq!(upstream.upstream.last()["model"], "big-70b");
    assert_eq!(upstream.upstream.seen()[0].json()["model"], "big-70b");
}

/// Models of scores: `m`, of which one is left out; `none`, of which all are; `led`, from which `m` takes over.
fn scored(upstream: &Upstream) -> Setup {
    let provider = |models: Value| json!({"type": "openai", "base_url": upstream.v1(), "models": models});
    let unloved = |upstream: &str| json!({"upstream": upstream, "score_adjustment": -1000});
    Setup::new().models(&json!({
        "providers": {
            "small": provider(json!({"m": {"upstream": "tiny-350m"}, "none": unloved("bad-1b")})),
            "large": provider(json!({"m": {"upstream": "big-70b"}, "led": unloved("worse-1b")})),
            "unloved": provider(json!({"m": unloved("giant-405b"), "none": unloved("worst-1b")})),
        },
        "models": {"led": {"fallbacks": ["none", "m"]}, "none": {"aliases": ["nil"]}},
        "routing": {"strategy": "score"},
    }))
}

/// The upstream names of candidates, with a word for those that are never asked.
fn upstreams(candidates: &Value) -> Vec<String> {
    let told = |candidate: &Value| {
        let is_never =
            candidate["reason"].as_str().unwrap().contains("never asked: its score is not above 0");
        format!("{}{}", if is_never { "never " } else { "" }, candidate["upstream"].as_str().unwrap())
    };
    candidates.as_array().unwrap().iter().map(told).collect()
}

#[tokio::test]
async fn a_model_of_which_all_are_left_out_is_told_as_one_that_cannot_be_used() {
    let moody = Moody::new(200, "").await;
    let gateway = scored(&moody.upstream).start();
    for name in ["none", "nil", "none,nil", "nobody,none"] {
        let response = gateway.post(CHAT, &says(name)).send().await.unwrap();
        let (status, provider) =
            (response.status().as_u16(), response.headers().contains_key("x-llm-provider"));
        let error = json_of(response).await["error"].clone();
        assert_eq!((status, provider), (404, false), "{error}");
        assert_eq!((&error["code"], &error["param"]), (&json!("model_unavailable"), &json!("model")));
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("no deployment of the model `none` can be used"), "{message}");
    }
    assert_eq!(moody.asked(), 0);
    assert_eq!(ask(&gateway, "none,m").await, answered("large", 1), "another one of a list answers");
    assert_eq!(ask(&gateway, "led").await, answered("large", 1), "another one takes over");
    assert_eq!(ask(&gateway, "none,led").await, answered("large", 1));
    moody.is_now(500);
    assert_eq!(ask(&gateway, "led").await.0, 502, "a failure in earnest is told");
    moody.is_now(200);

    let ids = |list: &Value, list_name: &str, name: &str| -> Vec<String> {
        list[list_name].as_array().unwrap().iter().map(|it| it[name].as_str().unwrap().to_owned()).collect()
    };
    let listed = answer(gateway.get("/v1/models")).await.1;
    assert_eq!(ids(&listed, "data", "id"), ["m", "led", "priority-auto"]);
    assert_eq!(
        ids(&answer(gateway.get("/api/tags")).await.1, "models", "name"),
        ["m", "led", "priority-auto"]
    );
    for (name, status) in [("m", 200), ("led", 200), ("none", 404), ("nil", 404)] {
        let (told, body) = answer(gateway.get(&format!("/v1/models/{name}"))).await;
        assert_eq!(told, status, "{body}");
    }
    assert!(gateway.log().contains("nobody is asked for the model `none`"), "{}", gateway.log());
}

#[tokio::test]
async fn those_that_are_left_out_are_shown_with_the_reason() {
    let moody = Moody::new(200, "").await;
    let gateway = scored(&moody.upstream).start();
    let of_m = ["big-70b", "tiny-350m", "never giant-405b"];
    let routes = answer(gateway.get("/api/routes")).await.1;
    let of =
        |model: &str| routes["routes"].as_array().unwrap().iter().find(|it| it["model"] == model).unwrap();
    assert_eq!(upstreams(&of("m")["candidates"]), of_m);
    assert_eq!(upstreams(&of("none")["candidates"]), ["never bad-1b", "never worst-1b"]);
    let told = gateway.ask("/api/explain", &says("m")).await.1;
    assert_eq!(upstreams(&told["candidates"]), of_m);
    let (status, told) = gateway.ask("/api/explain", &says("nil")).await;
    assert_eq!((status, upstreams(&told["candidates"]).len()), (200, 2), "{told}");

    let told = gateway.ask("/api/explain", &says("priority-auto")).await.1;
    let models: Vec<&Value> = told["candidates"].as_array().unwrap().iter().map(|it| &it["model"]).collect();
    assert_eq!(models, ["m", "m", "m", "none", "none", "led"], "the model that each would serve: {told}");
}

#[tokio::test]
async fn the_commands_list_deployments_in_the_order_in_which_they_are_asked() {
    let moody = Moody::new(200, "").await;
    let setup = scored(&moody.upstream);
    for command in ["models", "check"] {
        let told = setup.run(&[command]);
        let of = |name: &str| told.stdout.lines().find(|line| line.contains(name)).unwrap().to_owned();
        let line = of("big-70b");
        let line = line.strip_prefix("✓ model ").unwrap_or(&line);
        let expected = "m: large/big-70b, then small/tiny-350m; strategy score; never, for its score, unloved/giant-405b";
        assert_eq!(line, expected, "{command}");
        assert!(of("(also nil)").contains(": nobody; never, for its score, small/bad-1b"), "{}", told.stdout);
    }
}

#[tokio::test]
async fn routes_tell_who_serves_what_and_how_everyone_fares() {
    let (bad, good) = (Moody::new(500, "").await, Moody::new(200, "").await);
    let gateway =
        gateway(&[&bad, &good], json!({}), json!({"m": {"aliases": ["small"], "fallbacks": ["own1"]}}));
    assert_eq!(ask(&gateway, "m").await, answered("p1", 2));
    let (status, body) = crate::support::answer(gateway.get("/api/routes")).await;
    let route =
        body["routes"].as_array().unwrap().iter().find(|route| route["model"] == "m").unwrap().clone();
    assert_eq!((status, &route["aliases"], &route["fallbacks"]), (200, &json!(["small"]), &json!(["own1"])));
    let [first, second] = route["candidates"].as_array().unwrap().as_slice() else { panic!("two: {route}") };
    assert_eq!((&first["provider"], &first["last_failure"]), (&json!("p0"), &json!("unavailable")));
    assert!(first["rests_for_seconds"].as_f64().unwrap() > 1.0, "{first}");
    assert_eq!((&first["success_rate"], &second["success_rate"]), (&json!(0.0), &json!(1.0)));
    assert!(!body.to_string().contains("127.0.0.1"), "{body}");
}

#[tokio::test]
async fn the_way_of_a_request_is_told_without_asking_anybody() {
    let upstream = Moody::new(200, "").await;
    let gateway = gateway(&[&upstream, &upstream], json!({}), json!({"m": {"fallbacks": ["own1"]}}));
    let (status, told) = gateway.ask("/api/explain", &says("m")).await;
    assert_eq!(status, 200, "{told}");
    let providers: Vec<&Value> =
        told["candidates"].as_array().unwrap().iter().map(|candidate| &candidate["provider"]).collect();
    assert_eq!((providers, &told["prompt"]), (vec![&json!("p0"), &json!("p1")], &Value::Null));
    assert!(told["estimated_tokens"].as_u64().unwrap() > 0 && told["fallbacks"] == json!(["own1"]));

    let body = json!({"model_name": "own0", "user_last_statement": "Cześć", "language": "pl"});
    let (status, told) = gateway.ask("/api/explain", &body).await;
    assert_eq!((status, &told["prompt"]["language"]), (200, &json!("pl")), "{told}");
    assert!(told["prompt"]["text"].as_str().is_some_and(|text| !text.is_empty()));
    assert_eq!(gateway.ask("/api/explain", &says("nobody")).await.0, 404);
    assert_eq!(upstream.asked(), 0);
}

#[tokio::test]
async fn of_those_who_wait_the_one_that_came_first_tries() {
    let limited = Moody::new(429, "retry-after: 2\r\n").await;
    let gateway = gateway(&[&limited], json!({"max_wait": 8}), json!({}));
    assert_eq!(ask(&gateway, "m").await.0, 429);
    limited.is_now(200);
    let waiting = (0..8_u64).map(|number| {
        let gateway = &gateway;
        async move {
            tokio::time::sleep(Duration::from_millis(100 * number)).await;
            let body = json!({"model": "m", "messages": [{"role": "user", "content": number.to_string()}]});
            assert_eq!(gateway.post(CHAT, &body).send().await.unwrap().status(), 200);
        }
    });
    futures_util::future::join_all(waiting).await;
    let seen = limited.upstream.seen();
    let order = seen.iter().skip(1).map(|seen| seen.json()["messages"][0]["content"].clone());
    let order: Vec<Value> = order.collect();
    // The first tries; when that went well the others go one after the other, and meet on the way.
    assert_eq!((order.len(), &order[0]), (8, &json!("0")), "{order:?}");
}

#[tokio::test]
async fn a_model_that_takes_over_is_not_kept_waiting_for_one_that_rests() {
    let (limited, other) = (Moody::new(429, "retry-after: 3\r\n").await, Moody::new(200, "").await);
    let policies = json!({"own0": {"fallbacks": ["own1"]}});
    let gateway = gateway(&[&limited, &other], json!({"max_wait": 5}), policies);
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(ask(&gateway, "own0").await.1, "p1");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // When both rest, the one that is back first is waited for.
    other.is_now(500);
    assert_eq!(ask(&gateway, "own0").await.0, 502);
    limited.is_now(200);
    other.is_now(200);
    assert_eq!(ask(&gateway, "own0").await.0, 200);
}
