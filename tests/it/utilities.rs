//! The utilities: tasks with texts, each with a prompt of the library.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::post;
use crate::support::upstream::Seen;
use crate::support::{
    Connection, Gateway, Setup, Step, Upstream, events_of, eventually, fixture, json_of, sse,
};

/// Every utility, with what it needs.
fn all() -> [(&'static str, Value); 6] {
    [
        ("/api/translate", json!({"texts": ["One."]})),
        ("/api/simplify_text", json!({"texts": ["One."]})),
        ("/api/generate_questions", json!({"texts": ["One."]})),
        ("/api/generative_answer", json!({"texts": ["One."], "question_str": "Why?"})),
        ("/api/generate_article_from_text", json!({"text": "One."})),
        ("/api/create_full_article_from_texts", json!({"texts": ["One."], "user_query": "Ships"})),
    ]
}

/// Those that have an answer for each text.
const LISTS: [&str; 3] = ["/api/translate", "/api/simplify_text", "/api/generate_questions"];

fn with(body: &Value, more: Value) -> Value {
    let mut body = body.clone();
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn to(model: &str, body: &Value) -> Value {
    with(&json!({"model_name": model}), body.clone())
}

/// What the user said in a request that came to an upstream.
fn said(seen: &Seen) -> String {
    let body = seen.json();
    body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned()
}

/// A whole answer with this text, which took 10 tokens and 1.
fn saying(text: &str) -> Step {
    let message = json!({"role": "assistant", "content": text});
    let body = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}});
    crate::support::json(200, "", &body)
}

async fn serving(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> (Upstream, Gateway) {
    let upstream = Upstream::start(script).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    (upstream, gateway)
}

async fn recorded() -> (Upstream, Gateway) {
    serving(|_| vec![Step::Send(fixture("openai/chat"))]).await
}

#[tokio::test]
async fn each_has_the_shape_of_the_original_and_says_how_it_came_about() {
    let gateway = Setup::new().start();
    let shapes = [
        json!([{"original": "One.", "translated": "One."}]),
        json!(["One."]),
        json!([{"text": "One.", "questions": ["One."]}]),
        json!("<passage>\nOne.\n</passage>\n\nWhy?"),
        json!({"article_text": "One."}),
        json!({"article_text": "<source>\nOne.\n</source>"}),
    ];
    let names = [
        "translate",
        "simplify-text",
        "generate-questions",
        "answer-from-context-simple",
        "news-on-sm",
        "full-article",
    ];
    for (((path, body), shape), name) in all().into_iter().zip(shapes).zip(names) {
        let response =
            gateway.post(path, &to("echo", &with(&body, json!({"language": "pl"})))).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["x-llm-prompt"], format!("{name}@1/pl"));
        assert_eq!(
            (&response.headers()["x-llm-provider"], &response.headers()["x-llm-attempts"]),
            (&"echo".parse().unwrap(), &"1".parse().unwrap())
        );
        assert!(response.headers()["server-timing"].to_str().unwrap().contains("upstream;dur="));
        let answer = json_of(response).await;
        assert_eq!(answer["response"], shape, "{path}");
        assert_eq!(answer["model"], "echo");
        assert!(answer["generation_time"].as_f64().unwrap() > 0.0);
        let usage = &answer["usage"];
        let total = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
        assert!(usage["prompt_tokens"].as_u64().unwrap() > 10 && usage["total_tokens"] == total, "{usage}");
        let prompt = json!({"name": name, "language": "pl", "requested_language": "pl", "fallback": false, "version": "1"});
        assert_eq!(answer["prompt"], prompt, "{path}");
        if LISTS.contains(&path) {
            assert_eq!(answer["finish_reasons"], json!(["stop"]), "{path}");
        } else {
            assert_eq!(answer["finish_reason"], "stop", "{path}");
        }
    }
}

#[tokio::test]
async fn the_prompt_is_in_the_wanted_language_and_the_text_is_the_users() {
    let (upstream, gateway) = recorded().await;
    for (path, body) in all() {
        for (field, header, words) in [
            (Some("pl-PL"), None, "przysyła"),
            (None, Some("pl, en;q=0.5"), "przysyła"),
            (Some("fr"), None, "person"),
        ] {
            let mut body = to("m", &body);
            if let Some(field) = field {
                body["language"] = field.into();
            }
            let mut request = gateway.post(path, &body);
            if let Some(header) = header {
                request = request.header("accept-language", header);
            }
            let answer = json_of(request.send().await.unwrap()).await;
            let messages = &upstream.last()["messages"];
            assert_eq!(messages.as_array().unwrap().len(), 2, "{messages}");
            assert_eq!((&messages[0]["role"], &messages[1]["role"]), (&json!("system"), &json!("user")));
            let prompt = messages[0]["content"].as_str().unwrap();
            let words = if path.ends_with("answer") && words == "przysyła" { "fragmentów" } else { words };
            let words = if path.ends_with("answer") && words == "person" { "passages" } else { words };
            assert!(prompt.contains(words), "{path} {field:?}: {prompt}");
            assert!(messages[1]["content"].as_str().unwrap().contains("One."), "{path}");
            assert_eq!(
                answer["prompt"]["fallback"],
                answer["prompt"]["requested_language"] != answer["prompt"]["language"]
            );
        }
    }
}

#[tokio::test]
async fn options_are_mapped_and_unsaid_ones_are_not_sent() {
    let options = json!({"temperature": 0.5, "top_p": 0.9, "top_k": 40, "typical_p": 0.8,
        "repetition_penalty": 1.1, "max_new_tokens": 64, "seed": 7, "stop": "END", "mask_payload": true});
    let upstream = Upstream::answering(Step::Send(fixture("vllm/chat"))).await;
    let gateway = Setup::upstream("vllm", &upstream.v1(), &["m"]).start();
    for (path, body) in all() {
        let body = to("m", &body);
        let response = gateway.post(path, &with(&body, options.clone())).send().await.unwrap();
        assert_eq!(response.headers()["x-llm-ignored-options"], "typical_p, mask_payload", "{path}");
        let sent = upstream.last();
        for (name, value) in [
            ("temperature", json!(0.5)),
            ("top_p", json!(0.9)),
            ("top_k", json!(40)),
            ("repetition_penalty", json!(1.1)),
            ("max_tokens", json!(64)),
            ("seed", json!(7)),
            ("stop", json!("END")),
        ] {
            assert_eq!(sent[name], value, "{path}: {name}");
        }

        let response = gateway.post(path, &body).send().await.unwrap();
        assert!(response.headers().get("x-llm-ignored-options").is_none(), "{path}");
        let sent = upstream.last();
        let names: Vec<&str> = sent.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["model", "messages", "stream"], "{path}: {sent}");
    }
}

#[tokio::test]
async fn texts_are_translated_into_the_language_that_is_asked_for() {
    let (upstream, gateway) = recorded().await;
    for (more, header, language) in [
        (json!({"target_language": "German"}), None, "German"),
        (json!({"target_language": "pt-br", "language": "pl"}), None, "português (pt-BR)"),
        (json!({"language": "pl"}), Some("de"), "polski (pl)"),
        (json!({}), Some("de, pl;q=0.5"), "Deutsch (de)"),
        (json!({}), None, "English (en)"),
        (json!({"target_language": "German", "variables": {"target_language": "Dutch"}}), None, "Dutch"),
    ] {
        let mut request =
            gateway.post("/api/translate", &to("m", &with(&json!({"texts": ["One."]}), more.clone())));
        if let Some(header) = header {
            request = request.header("accept-language", header);
        }
        let answer = json_of(request.send().await.unwrap()).await;
        assert_eq!(answer["target_language"], language, "{more}: {answer}");
        let prompt = upstream.last()["messages"][0]["content"].as_str().unwrap().to_owned();
        assert!(prompt.lines().next().unwrap().ends_with(&format!(": {language}.")), "{more}: {prompt}");
    }
}

#[tokio::test]
async fn questions_are_found_in_what_the_model_says() {
    let answers = "<think>Two? Or three?</think>\nHere are the questions:\n\n1. **What froze?**\n2) Who waited?\n3. Why?";
    let (upstream, gateway) = serving(move |_| vec![saying(answers)]).await;

    let body = to("m", &json!({"texts": ["One."], "number_of_questions": 2, "language": "en"}));
    let (status, answer) = gateway.ask("/api/generate_questions", &body).await;

    let questions = json!([{"text": "One.", "questions": ["What froze?", "Who waited?"]}]);
    assert_eq!((status, &answer["response"]), (200, &questions), "{answer}");
    assert!(upstream.last()["messages"][0]["content"].as_str().unwrap().contains("exactly 2 in number"));
    let (_, answer) = gateway.ask("/api/generate_questions", &to("m", &json!({"texts": ["One."]}))).await;
    assert_eq!(answer["response"][0]["questions"], json!(["What froze?"]), "one, if no number is given");
}

#[tokio::test]
async fn reasoning_is_no_part_of_any_answer() {
    let (_upstream, gateway) = serving(|_| vec![saying("<think>Hm?</think>\n\nYes.")]).await;
    for (path, body) in all() {
        let (_, answer) = gateway.ask(path, &to("m", &body)).await;
        assert!(answer["response"].to_string().contains("Yes."), "{path}: {answer}");
        assert!(!answer["response"].to_string().contains("Hm?"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn passages_carry_the_names_of_their_documents_if_that_is_wanted() {
    let (upstream, gateway) = recorded().await;
    let documents = json!({"b.txt": ["One.", "Two."], "a.txt": ["Three."]});
    let body = json!({"question_str": "Why?", "texts": documents, "doc_name_in_answer": true, "question_prompt": "In verse."});

    gateway.ask("/api/generative_answer", &to("m", &body)).await;

    let messages = upstream.last()["messages"].clone();
    let named = "<passage document=\"b.txt\">\nOne.\n</passage>\n\n<passage document=\"b.txt\">\nTwo.\n</passage>\n\n\
        <passage document=\"a.txt\">\nThree.\n</passage>\n\nWhy?";
    assert_eq!(messages[1]["content"], named);
    let prompt = messages[0]["content"].as_str().unwrap();
    assert!(prompt.contains("Name the documents") && prompt.ends_with("\n\nIn verse."), "{prompt}");

    gateway.ask("/api/generative_answer", &to("m", &with(&body, json!({"doc_name_in_answer": false})))).await;
    let messages = upstream.last()["messages"].clone();
    assert!(!messages[1]["content"].as_str().unwrap().contains("b.txt"));
    assert!(!messages[0]["content"].as_str().unwrap().contains("Name the documents"));
}

#[tokio::test]
async fn an_own_system_prompt_takes_the_place_of_the_librarys() {
    let (upstream, gateway) = recorded().await;
    let body = json!({"question_str": "Why?", "texts": ["One."], "system_prompt": "Sing about ##QUESTION_STR##", "question_prompt": "In verse."});

    let response = gateway.post("/api/generative_answer", &to("m", &body)).send().await.unwrap();

    assert!(response.headers().get("x-llm-prompt").is_none());
    assert_eq!(json_of(response).await["prompt"], Value::Null);
    let messages = upstream.last()["messages"].clone();
    assert_eq!(messages[0]["content"], "Sing about Why?\n\nIn verse.");
    assert_eq!(messages[1]["content"], "<passage>\nOne.\n</passage>\n\nWhy?");
}

#[tokio::test]
async fn an_article_is_told_its_subject_and_kind() {
    let (upstream, gateway) = recorded().await;
    let body = json!({"user_query": "The winter", "texts": ["One.", "Two."], "article_type": "interview"});
    gateway.ask("/api/create_full_article_from_texts", &to("m", &body)).await;
    let messages = upstream.last()["messages"].clone();
    assert_eq!(messages[1]["content"], "<source>\nOne.\n</source>\n\n<source>\nTwo.\n</source>");
    let prompt = messages[0]["content"].as_str().unwrap();
    assert!(prompt.contains("\nThe winter\n") && prompt.contains("\ninterview\n"), "{prompt}");
}

#[tokio::test]
async fn prompts_of_ones_own_take_what_they_have_variables_for() {
    let upstream = Upstream::answering(Step::Send(fixture("openai/chat"))).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"])
        .file("mine/en/plain.prompt", "Do something with it.")
        .file("mine/en/plain.rude.prompt", "Do something rude with it.")
        .file("mine/en/tone.prompt", "---\ninput:\n  schema:\n    tone: string\n---\nSound {{tone}}.")
        // The names of an older system, and its marks.
        .file("mine/builtin/system/en/full-article.prompt", "Write about ##USER_Q_STR##.")
        .file("mine/builtin/system/en/generate-questions.prompt", "Write ##QUESTION_NUM_STR##.")
        .file("mine/builtin/system/en/answer-from-context-simple.prompt", "Answer ##QUESTION_STR##")
        .env("PROMPTS_DIR", "mine")
        .start();
    let article = json!({"user_query": "Ships", "texts": ["One."], "article_type": "A report."});
    let question = json!({"question_str": "Why?", "texts": ["One."]});
    let texts = json!({"texts": ["One."]});
    for (path, body, prompt) in [
        ("/api/simplify_text", with(&texts, json!({"prompt": "plain"})), "Do something with it."),
        ("/api/simplify_text", with(&texts, json!({"prompt": "plain@rude"})), "Do something rude with it."),
        ("/api/translate", with(&texts, json!({"prompt": "plain"})), "Do something with it."),
        (
            "/api/simplify_text",
            with(&texts, json!({"prompt": "tone", "variables": {"tone": "warm"}})),
            "Sound warm.",
        ),
        (
            "/api/create_full_article_from_texts",
            with(&article, json!({"prompt": "plain"})),
            "Do something with it.\n\nShips\n\nA report.",
        ),
        ("/api/create_full_article_from_texts", article.clone(), "Write about Ships.\n\nA report."),
        ("/api/generate_questions", with(&texts, json!({"number_of_questions": 3})), "Write 3 questions."),
        ("/api/generate_questions", texts.clone(), "Write 1 question."),
        ("/api/generative_answer", question.clone(), "Answer Why?"),
    ] {
        let (status, answer) = gateway.ask(path, &to("m", &body)).await;
        assert_eq!(status, 200, "{body}: {answer}");
        assert_eq!(upstream.last()["messages"][0]["content"], prompt, "{body}");
        assert!(
            path != "/api/translate" || answer["target_language"].is_null(),
            "the prompt was not told of it"
        );
    }
    for (more, status, code, param) in [
        (json!({"prompt": "tone"}), 400, "prompt_variable_missing", "variables.tone"),
        (
            json!({"prompt": "tone", "variables": {"tone": "x", "size": 1}}),
            400,
            "invalid_value",
            "variables.size",
        ),
        (json!({"prompt": "nothing"}), 404, "prompt_not_found", "prompt"),
    ] {
        let (got, error) = gateway.ask("/api/translate", &to("m", &with(&texts, more))).await;
        assert_eq!((got, &error["error"]["code"]), (status, &json!(code)), "{error}");
        assert_eq!(error["error"]["param"], param);
    }
}

#[tokio::test]
async fn answers_come_in_the_order_of_the_texts_however_they_arrive() {
    let (upstream, gateway) = serving(|seen| {
        let text = said(seen);
        let late = Duration::from_millis(if text == "a" { 400 } else { 10 });
        vec![Step::Pause(late), saying(&text.to_uppercase())]
    })
    .await;
    let began = Instant::now();
    let (status, answer) =
        gateway.ask("/api/simplify_text", &to("m", &json!({"texts": ["a", "b", "c"]}))).await;
    assert_eq!((status, &answer["response"]), (200, &json!(["A", "B", "C"])), "{answer}");
    assert!(began.elapsed() >= Duration::from_millis(400), "the first came last");
    assert_eq!(upstream.seen().len(), 3);
}

#[tokio::test]
async fn eight_texts_are_under_way_at_once_and_no_more() {
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opened, seen_open) = (open.clone(), most.clone());
    let (upstream, gateway) = serving(move |_| {
        seen_open.fetch_max(opened.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // Over when its answer has been sent, which is a moment after this.
        let opened = opened.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(90)).await;
            opened.fetch_sub(1, Ordering::SeqCst);
        });
        vec![Step::Pause(Duration::from_millis(100)), saying("x")]
    })
    .await;
    let texts: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    let (status, answer) = gateway.ask("/api/simplify_text", &to("m", &json!({"texts": texts}))).await;
    assert_eq!((status, answer["response"].as_array().unwrap().len()), (200, 30));
    assert_eq!((upstream.seen().len(), most.load(Ordering::SeqCst)), (30, 8));
}

#[tokio::test]
async fn a_text_that_fails_fails_all_and_ends_the_others() {
    let (mut upstream, gateway) = serving(|seen| match said(seen).as_str() {
        "good" => vec![saying("x")],
        "bad" => {
            let refusal = json!({"error": {"message": "not this one", "code": "bad_words"}});
            vec![Step::Pause(Duration::from_millis(200)), crate::support::json(400, "", &refusal)]
        }
        _ => vec![Step::Hold],
    })
    .await;
    // Eight at once, and two more for the two that are good.
    let mut texts = vec!["good", "hangs", "good", "bad"];
    texts.extend(["hangs"; 6]);
    texts.push("late");
    let began = Instant::now();

    let response = gateway.post("/api/translate", &to("m", &json!({"texts": texts}))).send().await.unwrap();

    let told = Instant::now();
    assert!(told.duration_since(began) < Duration::from_secs(5));
    assert_eq!(response.status(), 400);
    let error = json_of(response).await;
    assert_eq!(error["error"]["param"], "texts[3]", "{error}");
    assert_eq!(
        (&error["error"]["code"], &error["error"]["message"]),
        (&json!("bad_words"), &json!("not this one"))
    );
    let asked: Vec<String> = upstream.seen().iter().map(said).collect();
    let hanging = asked.iter().filter(|text| *text == "hangs").count();
    assert!(hanging == 7 && !asked.contains(&"late".to_owned()), "{asked:?}");
    for _ in 0..hanging {
        let time = upstream.left().await.saturating_duration_since(told);
        assert!(time < Duration::from_millis(100), "{time:?}");
    }
    // What was used is counted, although nobody got it, and what was handed over to those who were given up.
    let given_up = upstream.seen().into_iter().filter(|seen| said(seen) == "hangs");
    let handed_over: usize = given_up.map(|seen| seen.body.len().div_ceil(4)).sum();
    let handed_over = u32::try_from(handed_over).unwrap();
    eventually("it is counted", async || {
        gateway.figure("llm_proxy_tokens_total", "direction=\"input\"").await == f64::from(20 + handed_over)
    })
    .await;
}

#[tokio::test]
async fn failures_name_a_text_only_if_it_is_its_own() {
    let too_long = json!({"error": {"message": "maximum context length is 10 tokens", "type": "invalid_request_error",
        "param": "messages", "code": "context_length_exceeded"}});
    let elsewhere = json!({"error": {"message": "no such thing", "param": "temperature"}});
    for (status, body, code, param) in [
        (400, too_long, json!("context_length_exceeded"), json!("texts[1]")),
        (400, elsewhere, json!("upstream_rejected"), json!("temperature")),
        (500, json!({"error": {"message": "broken"}}), json!("upstream_unavailable"), Value::Null),
        (429, json!({"error": {"message": "slow down"}}), json!("rate_limit_exceeded"), Value::Null),
    ] {
        let expected = if status == 500 { 502 } else { status };
        let (_upstream, gateway) = serving(move |seen| {
            if said(seen) == "bad" {
                vec![crate::support::json(status, "", &body)]
            } else {
                vec![saying("x")]
            }
        })
        .await;
        let response = gateway
            .post("/api/simplify_text", &to("m", &json!({"texts": ["good", "bad"]})))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), expected);
        assert_eq!(response.headers()["x-llm-provider"], "up");
        let error = json_of(response).await;
        assert_eq!((&error["error"]["code"], &error["error"]["param"]), (&code, &param), "{error}");
    }
}

#[tokio::test]
async fn a_caller_who_leaves_ends_all_texts() {
    let (mut upstream, gateway) = serving(|_| vec![Step::Hold]).await;
    let texts: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let mut caller = Connection::open(gateway.address()).await;
    caller.send(&post("/api/generate_questions", &to("m", &json!({"texts": texts})))).await;
    eventually("the upstream is asked", async || upstream.seen().len() >= 8).await;
    let left = Instant::now();
    drop(caller);
    for _ in 0..8 {
        let time = upstream.left().await.saturating_duration_since(left);
        assert!(time < Duration::from_millis(100), "{time:?}");
    }
    assert_eq!(upstream.seen().len(), 8, "nobody is asked for one who has left");
}

#[tokio::test]
async fn several_texts_are_one_request_in_log_and_figures() {
    let upstream = Upstream::start(|_| vec![saying("x")]).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).env("LOG_FORMAT", "json").start();

    let response = gateway
        .post("/api/simplify_text", &to("m", &json!({"texts": ["a", "b", "c"]})))
        .send()
        .await
        .unwrap();

    assert_eq!(response.headers()["x-llm-attempts"], "3");
    let usage = json!({"prompt_tokens": 30, "completion_tokens": 3, "total_tokens": 33});
    assert_eq!(json_of(response).await["usage"], usage);
    let line: Value = serde_json::from_str(&gateway.logged("\"Request\"")).unwrap();
    let field = |name: &str| line.get(name).or_else(|| line["fields"].get(name)).cloned();
    for (name, value) in [
        ("endpoint", json!("/api/simplify_text")),
        ("gen_ai.request.model", json!("m")),
        ("gen_ai.provider.name", json!("up")),
        ("deployment", json!("up/m")),
        ("attempts", json!(3)),
        ("prompt", json!("simplify-text@1/en")),
        ("gen_ai.usage.input_tokens", json!(30)),
        ("gen_ai.usage.output_tokens", json!(3)),
    ] {
        assert_eq!(field(name), Some(value), "{name} in {line}");
    }
    for (name, label, value) in [
        ("llm_proxy_requests_total", "endpoint=\"/api/simplify_text\"", 1.0),
        ("llm_proxy_tokens_total", "direction=\"input\"", 30.0),
        ("llm_proxy_tokens_total", "direction=\"output\"", 3.0),
        ("llm_proxy_upstream_attempts_total", "outcome=\"answered\"", 3.0),
        ("llm_proxy_first_token_seconds_count", "model=\"m\"", 1.0),
    ] {
        assert_eq!(gateway.figure(name, label).await, value, "{name} {label}");
    }
}

#[tokio::test]
async fn texts_that_different_providers_answer_name_all_of_them() {
    let (one, other) =
        (Upstream::start(|_| vec![saying("x")]).await, Upstream::start(|_| vec![saying("x")]).await);
    let provider = |upstream: &Upstream, name: &str| json!({"type": "openai", "base_url": upstream.v1(), "models": {"m": {"upstream": name}}});
    let providers = json!({"p": provider(&one, "m1"), "q": provider(&other, "m2")});
    let models =
        json!({"providers": providers, "models": {"m": {"strategy": "round_robin", "affinity": false}}});
    let gateway = Setup::new().models(&models).start();
    let response = gateway
        .post("/api/translate", &to("m", &json!({"texts": ["a", "b", "c", "d"], "top_k": 1})))
        .send()
        .await
        .unwrap();
    let mut named: Vec<&str> = response.headers()["x-llm-provider"].to_str().unwrap().split(", ").collect();
    named.sort_unstable();
    assert_eq!(named, ["p", "q"]);
    assert_eq!(response.headers()["x-llm-attempts"], "4");
    assert_eq!(response.headers()["x-llm-ignored-options"], "top_k");
}

#[tokio::test]
async fn single_answers_stream_if_they_are_asked_to() {
    let (upstream, gateway) = serving(|seen| {
        if seen.json()["stream"] == true {
            return vec![
                sse(&[
                    r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"word"},"finish_reason":null}]}"#,
                    r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
                    "[DONE]",
                ]),
                Step::Close,
            ];
        }
        vec![saying("whole")]
    })
    .await;
    for (path, body) in all().into_iter().filter(|(path, _)| !LISTS.contains(path)) {
        let body = to("m", &body);
        let events = events_of(gateway.post(path, &with(&body, json!({"stream": true})))).await;
        let text: String =
            events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!((text.as_str(), events.last().unwrap()), ("word", &json!("[DONE]")), "{path}");
        for whole in
            [body.clone(), with(&body, json!({"stream": false})), with(&body, json!({"stream": null}))]
        {
            let (status, answer) = gateway.ask(path, &whole).await;
            assert!(status == 200 && answer["response"].to_string().contains("whole"), "{path}: {answer}");
        }
        assert_eq!(upstream.last()["stream"], false);
    }
}

#[tokio::test]
async fn lists_do_not_stream() {
    let gateway = Setup::new().start();
    for path in LISTS {
        let body = to("echo", &json!({"texts": ["One."]}));
        let (status, error) = gateway.ask(path, &with(&body, json!({"stream": true}))).await;
        assert_eq!((status, &error["error"]["param"]), (400, &json!("stream")), "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains("several answers"), "{error}");
        for stream in [json!(false), Value::Null] {
            assert_eq!(gateway.ask(path, &with(&body, json!({"stream": stream}))).await.0, 200);
        }
    }
}

async fn refuses(gateway: &Gateway, path: &str, body: &Value, told: (u16, &str, &str)) {
    let (status, error) = gateway.ask(path, body).await;
    let got = (status, error["error"]["code"].as_str().unwrap(), error["error"]["param"].as_str().unwrap());
    assert_eq!(got, told, "{path} {body}: {error}");
}

#[tokio::test]
async fn faults_are_named_by_place() {
    let gateway = Setup::new().start();
    for (path, body) in all() {
        let good = to("echo", &body);
        for (more, status, code, param) in [
            (json!({"model_name": "nobody"}), 404, "model_not_found", "model_name"),
            (json!({"model_name": ""}), 400, "invalid_value", "model_name"),
            (json!({"language": "not a tag!"}), 400, "invalid_value", "language"),
            (json!({"language": "de", "strict_language": true}), 404, "prompt_not_found", "language"),
            (json!({"prompt": "nothing"}), 404, "prompt_not_found", "prompt"),
            (json!({"variables": 3}), 400, "invalid_value", "variables"),
            (json!({"temperature": 2.5}), 400, "invalid_value", "temperature"),
            (json!({"max_new_tokens": 0}), 400, "invalid_value", "max_new_tokens"),
            (json!({"top_p": 1.5}), 400, "invalid_value", "top_p"),
            (json!({"stream": "yes"}), 400, "invalid_value", "stream"),
        ] {
            refuses(&gateway, path, &with(&good, more), (status, code, param)).await;
        }
        refuses(&gateway, path, &body, (400, "missing_field", "model_name")).await;
        for name in body.as_object().unwrap().keys() {
            let mut lacking = good.clone();
            lacking.as_object_mut().unwrap().remove(name);
            refuses(&gateway, path, &lacking, (400, "missing_field", name)).await;
            for value in [json!(7), json!(""), json!(" ")] {
                let body = with(&good, json!({ name: value }));
                refuses(&gateway, path, &body, (400, "invalid_value", name)).await;
            }
        }
    }
}

#[tokio::test]
async fn texts_that_cannot_be_worked_on_are_named() {
    let gateway = Setup::new().start();
    for (path, body) in all().into_iter().filter(|(_, body)| body["texts"].is_array()) {
        let good = to("echo", &body);
        for (texts, param) in [
            (json!([]), "texts"),
            (json!(["One.", " \n"]), "texts[1]"),
            (json!(["One.", 7]), "texts[1]"),
            (json!(vec!["One."; 257]), "texts"),
        ] {
            let body = with(&good, json!({"texts": texts}));
            refuses(&gateway, path, &body, (400, "invalid_value", param)).await;
        }
        let most = with(&good, json!({"texts": vec!["One."; 256]}));
        assert_eq!(gateway.ask(path, &most).await.0, 200, "{path}");
    }
    for (documents, param) in [
        (json!({}), "texts"),
        (json!({"a": []}), "texts.a"),
        (json!({"a": ["One."], "b": ["One.", ""]}), "texts.b[1]"),
        (json!({"a": "One."}), "texts.a"),
        (json!({"a": vec!["One."; 200], "b": vec!["One."; 57]}), "texts"),
    ] {
        let body = to("echo", &json!({"question_str": "Why?", "texts": documents}));
        refuses(&gateway, "/api/generative_answer", &body, (400, "invalid_value", param)).await;
    }
}

#[tokio::test]
async fn what_only_one_of_them_takes_is_checked() {
    let gateway = Setup::new().start();
    let texts = to("echo", &json!({"texts": ["One."]}));
    for (path, more, param) in [
        ("/api/generate_questions", json!({"number_of_questions": 0}), "number_of_questions"),
        ("/api/generate_questions", json!({"number_of_questions": "two"}), "number_of_questions"),
        ("/api/translate", json!({"target_language": ""}), "target_language"),
        ("/api/translate", json!({"target_language": "a\nb"}), "target_language"),
        ("/api/translate", json!({"target_language": 7}), "target_language"),
        (
            "/api/generative_answer",
            json!({"question_str": "Why?", "doc_name_in_answer": 1}),
            "doc_name_in_answer",
        ),
        (
            "/api/create_full_article_from_texts",
            json!({"user_query": "q", "article_type": []}),
            "article_type",
        ),
    ] {
        refuses(&gateway, path, &with(&texts, more), (400, "invalid_value", param)).await;
    }
}

#[tokio::test]
async fn model_is_another_name_for_model_name() {
    let gateway = Setup::new().start();
    for (path, body) in all() {
        assert_eq!(gateway.ask(path, &with(&body, json!({"model": "echo"}))).await.0, 200, "{path}");
    }
}
