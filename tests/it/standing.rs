//! Where callers stand with their limits and budgets: what is set aside, what they are told, and when it ends.

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, Step, Upstream, answer, events_of, json, json_of};

const CHAT: &str = "/v1/chat/completions";
const ADMIN: &str = "an-admin-key-of-some-length";

fn keyed(more: Value) -> Setup {
    let models = json!({"echo": {}, "other": {"upstream": "echo"}});
    let mut file = json!({"providers": {"echo": {"type": "echo", "models": models}}});
    file.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    Setup::new().models(&file).env("AUTH", "keys").env("ADMIN_KEY", ADMIN)
}

async fn make(gateway: &Gateway, key: Value) -> String {
    let made = answer(gateway.post("/admin/keys", &key).header("x-admin-key", ADMIN)).await;
    assert_eq!(made.0, 200, "{}", made.1);
    made.1["key"].as_str().unwrap().to_owned()
}

async fn ask(gateway: &Gateway, key: &str, body: &Value) -> reqwest::Response {
    gateway.post(CHAT, body).bearer_auth(key).send().await.unwrap()
}

fn says(model: &str, words: usize, more: Value) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "w ".repeat(words)}]});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    body
}

fn header<'r>(response: &'r reqwest::Response, name: &str) -> Option<&'r str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

fn number(response: &reqwest::Response, name: &str) -> u64 {
    let text = header(response, name).unwrap_or_else(|| panic!("no {name}: {:?}", response.headers()));
    text.trim_end_matches('s').parse().unwrap()
}

#[tokio::test]
async fn small_requests_of_open_length_pass_below_a_small_limit_of_tokens() {
    let gateway = keyed(json!({})).start();
    let key = make(&gateway, json!({"name": "k", "limits": {"tokens_per_minute": 500}})).await;
    for _ in 0..5 {
        let answer = ask(&gateway, &key, &says("echo", 3, json!({}))).await;
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }
    let tiny = make(&gateway, json!({"name": "k", "limits": {"tokens_per_minute": 30}})).await;
    assert_eq!(ask(&gateway, &tiny, &says("echo", 3, json!({}))).await.status(), 200, "whatever the limit");
}

#[tokio::test]
async fn several_answers_at_once_have_as_many_tokens_set_aside() {
    let upstream = Upstream::answering(Step::Hold).await;
    let providers =
        json!({"providers": {"up": {"type": "openai", "base_url": upstream.v1(), "models": {"m": {}}}}});
    let gateway = keyed(providers).start();
    let key = make(&gateway, json!({"name": "k", "limits": {"tokens_per_minute": 1000}})).await;
    let five = says("m", 3, json!({"max_tokens": 150, "n": 5}));
    let under_way = tokio::spawn(gateway.post(CHAT, &five).bearer_auth(&key).send());
    crate::support::eventually("it is under way", async || upstream.seen().len() == 1).await;
    let refused = ask(&gateway, &key, &five).await;
    assert_eq!(refused.status(), 429, "750 of 1000 are set aside for the first");
    under_way.abort();
}

#[tokio::test]
async fn a_secret_that_was_replaced_gets_no_other() {
    let gateway = keyed(json!({})).start();
    let (_, made) =
        answer(gateway.post("/admin/keys", &json!({"name": "k"})).header("x-admin-key", ADMIN)).await;
    let (id, leaked) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let rotate = gateway.post(&format!("/admin/keys/{id}/rotate"), &json!({"grace_seconds": 600}));
    let (_, rotated) = answer(rotate.header("x-admin-key", ADMIN)).await;
    let present = rotated["key"].as_str().unwrap();

    let asked = |secret: &str| {
        answer(gateway.post("/api/me/rotate", &json!({"grace_seconds": 0})).bearer_auth(secret))
    };
    let (status, error) = asked(leaked).await;
    assert_eq!((status, &error["error"]["code"]), (403, &json!("secret_replaced")), "{error}");
    for secret in [leaked, present] {
        assert_eq!(ask(&gateway, secret, &says("echo", 1, json!({}))).await.status(), 200, "as before");
    }
    let (status, told) = asked(present).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(ask(&gateway, present, &says("echo", 1, json!({}))).await.status(), 401);
}

#[tokio::test]
async fn a_refusal_tells_what_is_asked_for_and_what_is_left() {
    let gateway = keyed(json!({})).start();
    let key = make(&gateway, json!({"name": "k", "limits": {"tokens_per_minute": 1000}})).await;
    assert_eq!(ask(&gateway, &key, &says("echo", 300, json!({"max_tokens": 300}))).await.status(), 200);
    let refused = ask(&gateway, &key, &says("echo", 3, json!({"max_tokens": 900}))).await;
    assert_eq!(refused.status(), 429);
    // Nothing is left for such a request; the message says how much there is.
    assert_eq!(number(&refused, "x-ratelimit-remaining-tokens"), 0);
    assert_eq!(number(&refused, "x-ratelimit-limit-tokens"), 1000);
    let wait = number(&refused, "retry-after");
    // Clients wait no longer than a minute by themselves, and would come back at once.
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(header(&refused, "x-should-retry"), None);
    let error = json_of(refused).await["error"].clone();
    assert_eq!((&error["code"], &error["type"]), (&json!("rate_limit_exceeded"), &json!("rate_limit_error")));
    let message = error["message"].as_str().unwrap();
    let asked: u64 = message
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .find(|n| (901..1000).contains(n))
        .unwrap_or_else(|| panic!("{message}"));
    let left =
        message.split(" are left").next().and_then(|said| said.rsplit(' ').next()?.parse::<u64>().ok());
    assert!(left.is_some_and(|left| (1..asked).contains(&left)), "{message}");
}

#[tokio::test]
async fn a_request_beyond_the_limit_itself_is_told_never_to_come_again() {
    let limits = json!({"limits": {"models": {"other": {"tokens_per_minute": 200}}}});
    let gateway = keyed(limits).start();
    let key = make(&gateway, json!({"name": "k", "limits": {"tokens_per_minute": 1000}})).await;
    for (model, body, of) in [
        ("echo", says("echo", 3, json!({"max_tokens": 1000})), "key"),
        ("echo", says("echo", 4000, json!({})), "key"),
        ("other", says("other", 3, json!({"max_tokens": 200})), "model"),
    ] {
        let refused = ask(&gateway, &key, &body).await;
        assert_eq!((refused.status().as_u16(), header(&refused, "x-should-retry")), (429, Some("false")));
        assert_eq!(header(&refused, "retry-after"), None);
        let error = json_of(refused).await["error"].clone();
        assert_eq!(error["code"], "request_exceeds_limit", "{model}: {error}");
        assert!(error["message"].as_str().unwrap().contains(&format!("of the {of}")), "{error}");
    }
    let whole = ask(&gateway, &key, &says("echo", 3, json!({"max_tokens": 900}))).await;
    assert_eq!(whole.status(), 200, "nothing was taken by those that were refused");
}

#[tokio::test]
async fn headers_tell_of_the_limit_that_binds_first() {
    let limits = json!({"limits": {
        "gateway": {"requests_per_minute": 5},
        "models": {"other": {"requests_per_minute": 3, "tokens_per_minute": 900}},
        "owners": {"shop": {"requests_per_minute": 40, "tokens_per_minute": 5000}, "bank": {"requests_per_minute": 1}},
    }});
    let gateway = keyed(limits).start();
    let key = json!({"name": "k", "owner": "shop", "limits": {"requests_per_minute": 50}});
    let key = make(&gateway, key).await;
    let of = |response: &reqwest::Response| {
        ["limit-requests", "remaining-requests", "limit-tokens", "remaining-tokens"]
            .map(|name| header(response, &format!("x-ratelimit-{name}")).map(str::to_owned))
    };
    let text = |text: &str| Some(text.to_owned());
    // Nothing is asked of a model or of the gateway here.
    let listed = gateway.get("/v1/models").bearer_auth(&key).send().await.unwrap();
    assert_eq!(of(&listed), [text("40"), text("40"), text("5000"), text("5000")]);

    let short = json!({"max_tokens": 5});
    let first = ask(&gateway, &key, &says("echo", 1, short.clone())).await;
    let [limit, remaining, of_tokens, _] = of(&first);
    assert_eq!([limit, remaining, of_tokens], [text("5"), text("4"), text("5000")], "the gateway's");
    let second = ask(&gateway, &key, &says("other", 1, short.clone())).await;
    let [limit, remaining, of_tokens, _] = of(&second);
    assert_eq!([limit, remaining, of_tokens], [text("3"), text("2"), text("900")], "the model's");
    for _ in 0..3 {
        assert_eq!(ask(&gateway, &key, &says("echo", 1, short.clone())).await.status(), 200);
    }
    let refused = ask(&gateway, &key, &says("echo", 1, short)).await;
    assert_eq!((refused.status().as_u16(), number(&refused, "x-ratelimit-remaining-requests")), (429, 0));
    let error = json_of(refused).await["error"]["message"].clone();
    assert!(error.as_str().unwrap().contains("of the gateway"), "{error}");
}

#[tokio::test]
async fn the_holder_of_a_key_sees_what_is_left_of_what_its_owner_has() {
    let limits = json!({"limits": {"owners": {"shop": {
        "requests_per_minute": 40, "budget": {"tokens": 1000, "period": "day"}
    }}}});
    let gateway = keyed(limits).start();
    let (one, other, alone) = (
        make(&gateway, json!({"name": "a", "owner": "shop", "limits": {"requests_per_minute": 5}})).await,
        make(&gateway, json!({"name": "b", "owner": "shop"})).await,
        make(&gateway, json!({"name": "c", "owner": "bank"})).await,
    );
    assert_eq!(ask(&gateway, &other, &says("echo", 3, json!({}))).await.status(), 200);
    let me = async |key: &str| answer(gateway.get("/api/me").bearer_auth(key)).await.1;
    let told = me(&one).await;
    let left = |told: &Value, of: &str| {
        let limit = &told[of]["requests_per_minute"];
        (limit["limit"].as_u64(), limit["remaining"].as_u64())
    };
    assert_eq!(left(&told, "limits"), (Some(5), Some(5)), "{told}");
    assert_eq!(left(&told, "owner_limits"), (Some(40), Some(39)), "the other key has taken one: {told}");
    assert_eq!(told["owner_limits"]["tokens_per_minute"], json!(null));
    let spent = told["owner_budget"]["spent_tokens"].as_u64().unwrap();
    assert!(spent > 0, "{told}");
    assert_eq!(told["owner_budget"]["remaining_tokens"], 1000 - spent);
    let told = me(&alone).await;
    assert_eq!((left(&told, "owner_limits"), &told["owner_budget"]), ((None, None), &json!(null)));
}

#[tokio::test]
async fn who_needs_no_key_is_told_of_what_binds_all() {
    let models = json!({
        "providers": {"echo": {"type": "echo", "models": {"echo": {}}}},
        "limits": {"gateway": {"requests_per_minute": 7}},
    });
    let gateway = Setup::new().models(&models).start();
    let answer = gateway.post(CHAT, &says("echo", 1, json!({}))).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), number(&answer, "x-ratelimit-remaining-requests")), (200, 6));
    let other = gateway.get("/livez").send().await.unwrap();
    assert_eq!(header(&other, "x-ratelimit-limit-requests"), None);
}

/// A million tokens of answers cost a million: one each. Prompts cost nothing.
fn priced() -> Value {
    json!({"prices": [{"model": "other", "input": 0.0, "output": 1_000_000.0}]})
}

#[tokio::test]
async fn a_budget_of_money_ends_a_stream_where_the_model_has_a_price() {
    let setup = keyed(json!({"prices": "prices.json"})).file("prices.json", &priced().to_string());
    let gateway = setup.start();
    let budget = json!({"money": 7.0, "period": "day", "cut_off": true});
    for (model, reason, words) in [("other", "length", 7), ("echo", "stop", 50)] {
        let key = make(&gateway, json!({"name": "k", "budget": budget})).await;
        let body = says(model, 50, json!({"stream": true}));
        let chunks = events_of(gateway.post(CHAT, &body).bearer_auth(&key)).await;
        let said = |chunk: &&Value| {
            chunk["choices"][0]["delta"]["content"].as_str().is_some_and(|content| !content.is_empty())
        };
        let reasons: Vec<&str> =
            chunks.iter().filter_map(|chunk| chunk["choices"][0]["finish_reason"].as_str()).collect();
        assert_eq!(
            (chunks.iter().filter(said).count(), reasons),
            (words, vec![reason]),
            "{model}: {chunks:?}"
        );
    }
    // A whole answer is asked for within it.
    let key = make(&gateway, json!({"name": "k", "budget": budget})).await;
    let whole = json_of(ask(&gateway, &key, &says("other", 50, json!({}))).await).await;
    assert_eq!(
        (&whole["choices"][0]["finish_reason"], &whole["usage"]["completion_tokens"]),
        (&json!("length"), &json!(7))
    );
    let spent = answer(gateway.get("/api/me").bearer_auth(&key)).await.1["budget"]["spent_money"].clone();
    assert_eq!(spent, json!(7.0));
}

#[tokio::test]
async fn a_prompt_beyond_a_budget_that_ends_answers_is_refused_before_anybody_is_asked() {
    let upstream = Upstream::answering(json(200, "", &json!({"choices": []}))).await;
    let providers = json!({"up": {"type": "openai", "base_url": upstream.v1(), "models": {"other": {}}}});
    let prices = json!({"prices": [{"model": "other", "input": 1_000_000.0, "output": 1_000_000.0}]});
    let models = json!({"providers": providers, "prices": "prices.json"});
    let gateway = keyed(models).file("prices.json", &prices.to_string()).start();
    let key = async |budget: &Value, cut_off: bool| {
        let mut budget = budget.clone();
        (budget["period"], budget["cut_off"]) = (json!("day"), json!(cut_off));
        make(&gateway, json!({"name": "k", "budget": budget})).await
    };
    for budget in [json!({"tokens": 10}), json!({"money": 10.0})] {
        let ending = key(&budget, true).await;
        for stream in [true, false] {
            let refused = ask(&gateway, &ending, &says("other", 100, json!({"stream": stream}))).await;
            assert_eq!(
                (refused.status().as_u16(), header(&refused, "x-should-retry")),
                (429, Some("false")),
                "{budget}, stream {stream}"
            );
            assert_eq!(header(&refused, "retry-after"), None, "no day has more");
            let error = json_of(refused).await["error"].clone();
            assert_eq!(
                (&error["code"], &error["type"]),
                (&json!("budget_exhausted"), &json!("insufficient_quota"))
            );
        }
        let before = upstream.seen().len();
        ask(&gateway, &key(&budget, false).await, &says("other", 100, json!({}))).await;
        assert_eq!(
            upstream.seen().len(),
            before + 1,
            "where answers end by themselves, the last goes beyond"
        );
    }
    assert_eq!(upstream.seen().len(), 2, "nobody was asked otherwise");
}

#[tokio::test]
async fn the_price_of_who_answers_counts() {
    let refusing = Upstream::answering(json(500, "", &json!({"error": {"message": "no"}}))).await;
    let sse = |word: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{word}\"}},\"finish_reason\":null}}]}}\n\n"
        )
    };
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let all = format!("{head}{}", sse("x ").repeat(40));
    let answering = Upstream::answering(Step::Send(all.into_bytes())).await;
    let provider = |url: &str, upstream: &str, priority: i32| json!({"type": "openai", "base_url": url, "models": {"m": {"upstream": upstream, "priority": priority}}});
    let prices = json!({"prices": [
        {"model": "dear", "input": 0.0, "output": 1_000_000.0},
        {"model": "cheap", "input": 0.0, "output": 500_000.0},
    ]});
    let models = json!({"providers": {"one": provider(&refusing.v1(), "dear", 1), "two": provider(&answering.v1(), "cheap", 2)}, "prices": "prices.json"});
    let setup = Setup::new().env("AUTH", "keys").env("ADMIN_KEY", ADMIN).models(&models);
    let gateway = setup.file("prices.json", &prices.to_string()).start();
    let budget = json!({"money": 5.0, "period": "day", "cut_off": true});
    let key = make(&gateway, json!({"name": "k", "budget": budget})).await;
    let chunks =
        events_of(gateway.post(CHAT, &says("m", 3, json!({"stream": true}))).bearer_auth(&key)).await;
    let words = chunks.iter().filter(|chunk| chunk["choices"][0]["delta"]["content"] == "x ").count();
    assert_eq!(words, 10, "{chunks:?}");
}

#[tokio::test]
async fn a_refusal_leaves_nothing_of_the_limit_that_refused_and_is_counted() {
    let gateway = keyed(json!({"limits": {"models": {"other": {"requests_per_minute": 1}}}})).start();
    let limits = json!({"requests_per_minute": 9, "tokens_per_minute": 5000});
    let budget = json!({"tokens": 1000, "period": "day"});
    let key = make(&gateway, json!({"name": "k", "limits": limits, "budget": budget})).await;
    assert_eq!(ask(&gateway, &key, &says("other", 3, json!({}))).await.status(), 200);

    let refused = ask(&gateway, &key, &says("other", 3, json!({}))).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(number(&refused, "x-ratelimit-limit-requests"), 1, "that of the model");
    assert_eq!(number(&refused, "x-ratelimit-remaining-requests"), 0);
    assert!(number(&refused, "x-ratelimit-reset-requests") >= number(&refused, "retry-after"));
    assert!(number(&refused, "x-ratelimit-remaining-tokens") > 0, "of tokens there are some");
    // Of a request that could never pass it is true what is left.
    let never = ask(&gateway, &key, &says("echo", 3, json!({"max_tokens": 6000}))).await;
    assert!(number(&never, "x-ratelimit-remaining-tokens") > 0);

    for (name, labels, value) in [
        ("llm_proxy_refusals_total", "of=\"model\",limit=\"requests\"", 1.0),
        ("llm_proxy_refusals_total", "of=\"key\",limit=\"tokens\"", 1.0),
    ] {
        assert_eq!(gateway.figure(name, labels).await, value, "{labels}");
    }
    let left = gateway.figure("llm_proxy_budget_remaining_tokens", "of=\"key\"").await;
    assert!((900.0..1000.0).contains(&left), "{left}");
    let text = gateway.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(!text.contains(&key), "a secret is no label");
}
