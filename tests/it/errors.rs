//! Every error of every path has one shape, the right status, and says what to mend.

use serde_json::{Value, json};

use crate::support::{Connection, PATIENCE, Setup, Upstream, answer, json, json_of};

fn chat(more: &Value) -> Value {
    let mut body = json!({"model": "echo", "stream": false, "messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn check_shape(error: &Value) {
    let members: Vec<&String> = error["error"].as_object().unwrap().keys().collect();
    assert_eq!(members, ["message", "type", "param", "code"], "{error}");
    assert!(error["error"]["message"].as_str().unwrap().len() > 5, "{error}");
    assert!(error["error"]["type"].is_string() && error["error"]["code"].is_string(), "{error}");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_named_by_place() {
    let gateway = Setup::new().start();
    for (body, code, param) in [
        (json!({"messages": [{"role": "user", "content": "x"}]}), "missing_field", "model"),
        (json!({"model": "echo"}), "missing_field", "messages"),
        (chat(&json!({"model": 7})), "invalid_value", "model"),
        (chat(&json!({"model": ""})), "invalid_value", "model"),
        (chat(&json!({"messages": "x"})), "invalid_value", "messages"),
        (chat(&json!({"messages": []})), "invalid_value", "messages"),
        (chat(&json!({"messages": [7]})), "invalid_value", "messages[0]"),
        (chat(&json!({"messages": [{"content": "x"}]})), "missing_field", "messages[0].role"),
        (
            chat(&json!({"messages": [{"role": "user", "content": "x"}, {"role": "judge", "content": "x"}]})),
            "invalid_value",
            "messages[1].role",
        ),
        (
            chat(&json!({"messages": [{"role": "user", "content": 7}]})),
            "invalid_value",
            "messages[0].content",
        ),
        (chat(&json!({"stream": "yes"})), "invalid_value", "stream"),
        (chat(&json!({"temperature": 2.1})), "invalid_value", "temperature"),
        (chat(&json!({"temperature": "hot"})), "invalid_value", "temperature"),
        (chat(&json!({"top_p": -0.1})), "invalid_value", "top_p"),
        (chat(&json!({"n": 0})), "invalid_value", "n"),
        (chat(&json!({"max_tokens": 0})), "invalid_value", "max_tokens"),
        (chat(&json!({"max_tokens": "many"})), "invalid_value", "max_tokens"),
        (chat(&json!({"stream_options": 1})), "invalid_value", "stream_options"),
        (chat(&json!({"tools": {}})), "invalid_value", "tools"),
        (chat(&json!({"stop": 7})), "invalid_value", "stop"),
    ] {
        for path in ["/api/chat", "/v1/chat/completions", "/api/v1/chat/completions"] {
            let (status, error) = gateway.ask(path, &body).await;
            assert_eq!(status, 400, "{body}: {error}");
            check_shape(&error);
            let error = &error["error"];
            assert_eq!(
                (&error["code"], &error["param"], &error["type"]),
                (&json!(code), &json!(param), &json!("invalid_request_error")),
                "{body}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn bodies_that_are_no_json_are_told_where_they_break() {
    let gateway = Setup::new().start();
    for body in [
        "",
        "{",
        "{\"model\":",
        "[]",
        "null",
        "\"text\"",
        "{'model': 1}",
        "{\"model\":\"echo\"}x",
        "\u{0}",
        "{\"a\":\"\\ud800\"}",
        "{\"model\":\"echo\",\"model\":\"echo\"",
    ] {
        let request = gateway
            .http()
            .post(format!("{}/api/chat", gateway.base()))
            .header("content-type", "application/json");
        let (status, error) = answer(request.body(body)).await;
        assert_eq!(status, 400, "{body:?}: {error}");
        check_shape(&error);
    }
    let deep = "[".repeat(100_000);
    let request = gateway
        .http()
        .post(format!("{}/api/chat", gateway.base()))
        .header("content-type", "application/json");
    assert_eq!(answer(request.body(format!("{{\"a\":{deep}"))).await.0, 400);
    let request = gateway
        .http()
        .post(format!("{}/api/chat", gateway.base()))
        .header("content-type", "application/json");
    assert_eq!(answer(request.body(vec![0x7b, 0xff, 0xfe, 0x7d])).await.0, 400);
}

#[tokio::test]
async fn other_kinds_of_bodies_are_refused() {
    let gateway = Setup::new().start();
    for (name, value) in [
        ("content-type", "text/plain"),
        ("content-type", "multipart/form-data; boundary=x"),
        ("content-encoding", "gzip"),
    ] {
        let request = gateway.http().post(format!("{}/api/chat", gateway.base())).header(name, value);
        let (status, error) = answer(request.body(chat(&json!({})).to_string())).await;
        assert_eq!(
            (status, &error["error"]["code"]),
            (415, &json!("unsupported_media_type")),
            "{name}: {value}"
        );
        check_shape(&error);
    }
    // Said nothing of, it is taken as what it is.
    for content_type in [None, Some("application/json; charset=utf-8"), Some("application/vnd.api+json")] {
        let request =
            gateway.http().post(format!("{}/api/chat", gateway.base())).body(chat(&json!({})).to_string());
        let request =
            content_type.into_iter().fold(request, |request, value| request.header("content-type", value));
        assert_eq!(answer(request).await.0, 200, "{content_type:?}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_have_the_shape_too() {
    let gateway = Setup::new().start();
    for (method, path, status, code) in [
        ("GET", "/nothing", 404, "unknown_path"),
        ("POST", "/api/nothing", 404, "unknown_path"),
        ("GET", "/v1/", 404, "unknown_path"),
        ("GET", "/api/chat", 405, "method_not_allowed"),
        ("DELETE", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/api/ping", 405, "method_not_allowed"),
        ("PUT", "/metrics", 405, "method_not_allowed"),
        ("GET", "/%ff%fe", 404, "unknown_path"),
        ("GET", "/../../etc/passwd", 404, "unknown_path"),
    ] {
        let url = format!("{}{path}", gateway.base());
        let response = gateway.http().request(method.parse().unwrap(), url).send().await.unwrap();
        assert_eq!(response.status(), status, "{method} {path}");
        assert!(response.headers().contains_key("x-request-id"));
        assert_eq!(response.headers().contains_key("allow"), status == 405);
        let error = json_of(response).await;
        check_shape(&error);
        assert_eq!(error["error"]["code"], code);
    }
    let response = gateway.http().head(format!("{}/api/ping", gateway.base())).send().await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn an_unknown_model_is_404_everywhere() {
    let gateway = Setup::new().start();
    for (path, body) in [
        ("/api/chat", chat(&json!({"model": "nobody"}))),
        ("/v1/chat/completions", chat(&json!({"model": "nobody"}))),
        ("/v1/completions", json!({"model": "nobody", "prompt": "x"})),
        ("/v1/embeddings", json!({"model": "nobody", "input": "x"})),
        ("/api/passthrough", json!({"model": "nobody", "path": "/v1/models"})),
    ] {
        let (status, error) = gateway.ask(path, &body).await;
        assert_eq!((status, &error["error"]["code"]), (404, &json!("model_not_found")), "{path}");
        assert!(error["error"]["message"].as_str().unwrap().contains("nobody"));
        check_shape(&error);
    }
}

/// What a caller gets when an upstream answers with a status.
async fn after(status: u16, headers: &str, body: Value) -> (reqwest::header::HeaderMap, u16, Value) {
    let headers = headers.to_owned();
    let upstream = Upstream::start(move |_| vec![json(status, &headers, &body)]).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let response = gateway.post("/api/chat", &chat(&json!({"model": "m"}))).send().await.unwrap();
    (response.headers().clone(), response.status().as_u16(), json_of(response).await)
}

#[tokio::test]
async fn an_upstreams_refusal_keeps_status_and_words() {
    for status in [400, 404, 409, 413, 422] {
        let told = json!({"error": {"message": "The value is odd.", "type": "x", "param": "tools[0]", "code": "odd_value"}});
        let (_, got, error) = after(status, "", told).await;
        assert_eq!(got, status);
        check_shape(&error);
        assert!(error["error"]["message"].as_str().unwrap().contains("The value is odd."), "{error}");
        assert_eq!(
            (&error["error"]["param"], &error["error"]["code"]),
            (&json!("tools[0]"), &json!("odd_value"))
        );
    }
}

#[tokio::test]
async fn a_rate_limit_of_the_upstream_comes_with_its_retry_after() {
    // It rests for two seconds and a bit at least.
    for (header, seconds) in [("retry-after: 7\r\n", "7"), ("retry-after: 0.4\r\n", "3"), ("", "3")] {
        let (headers, status, error) = after(
            429,
            header,
            json!({"error": {"message": "Slow down", "type": "requests", "code": "rate_limit_exceeded"}}),
        )
        .await;
        assert_eq!(
            (status, &error["error"]["type"], &error["error"]["code"]),
            (429, &json!("rate_limit_error"), &json!("rate_limit_exceeded"))
        );
        assert_eq!(headers["retry-after"], seconds, "{header:?}");
        // Who limits it is said as of any answer.
        assert_eq!(
            (&headers["x-llm-provider"], &headers["x-llm-attempts"]),
            (&"up".parse().unwrap(), &"1".parse().unwrap())
        );
    }
    let (headers, status, error) = after(
        429,
        "",
        json!({"error": {"message": "No money", "type": "insufficient_quota", "code": "insufficient_quota"}}),
    )
    .await;
    assert_eq!((status, &error["error"]["type"]), (429, &json!("insufficient_quota")));
    assert_eq!(headers["x-should-retry"], "false");
}

#[tokio::test]
async fn a_rejected_provider_key_is_our_fault() {
    let (_, got, error) =
        after(401, "", json!({"error": {"message": "Incorrect API key provided: provider-key-1"}})).await;
    assert_eq!(
        (got, &error["error"]["code"], &error["error"]["type"]),
        (502, &json!("upstream_credentials"), &json!("upstream_error"))
    );
    assert!(!error.to_string().contains("provider-key-1"));
}

#[tokio::test]
async fn a_forbidden_request_is_the_callers_to_know_of() {
    let told =
        json!({"error": {"message": "Not in your region.", "code": "unsupported_country_region_territory"}});
    let (_, got, error) = after(403, "", told).await;
    check_shape(&error);
    assert_eq!(
        (got, &error["error"]["code"], &error["error"]["type"]),
        (403, &json!("upstream_forbidden"), &json!("permission_error"))
    );
    assert_eq!(error["error"]["message"], "Not in your region.");
}

#[tokio::test]
async fn an_upstreams_breakdown_is_502_without_its_words() {
    for status in [500, 502, 503, 504, 529] {
        let (_, got, error) =
            after(status, "", json!({"error": {"message": "Traceback at 10.9.8.7:8000"}})).await;
        assert!(matches!(got, 502 | 504), "{got}");
        check_shape(&error);
        assert!(!error.to_string().contains("Traceback"), "{error}");
    }
    let (_, got, error) = after(301, "location: http://elsewhere/\r\n", json!({})).await;
    assert_eq!((got, &error["error"]["code"]), (502, &json!("upstream_protocol")), "{error}");
}

#[tokio::test]
async fn debug_mode_adds_the_upstreams_words_without_secrets() {
    let told =
        json!({"error": {"message": "worker at http://10.9.8.7:8000/x failed with key provider-key-1"}});
    let upstream = Upstream::start(move |_| vec![json(500, "", &told)]).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).env("IN_DEBUG", "1").start();
    let (status, error) = gateway.ask("/api/chat", &chat(&json!({"model": "m"}))).await;
    let detail = error["error"]["detail"].as_str().unwrap();
    assert_eq!(status, 502);
    assert!(
        detail.contains("failed with key")
            && !detail.contains("provider-key-1")
            && !detail.contains("10.9.8.7"),
        "{detail}"
    );
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_502() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = Setup::upstream("openai", &format!("http://{free}/v1"), &["m"]).start();
    for stream in [true, false] {
        let (status, error) = gateway.ask("/api/chat", &chat(&json!({"model": "m", "stream": stream}))).await;
        assert_eq!((status, &error["error"]["code"]), (502, &json!("upstream_unreachable")));
        assert!(!error.to_string().contains(&free.port().to_string()), "{error}");
    }
    let gateway = Setup::upstream("openai", "http://no-such-host.invalid/v1", &["m"]).start();
    let (status, error) = gateway.ask("/api/chat", &chat(&json!({"model": "m"}))).await;
    assert_eq!((status, &error["error"]["code"]), (502, &json!("upstream_unreachable")));
    assert!(!error.to_string().contains("no-such-host"), "{error}");
}

#[tokio::test]
async fn the_echo_model_makes_any_fault_on_request() {
    let gateway = Setup::new().start();
    for (trouble, status, code) in [
        (json!({"status": 429, "retry_after": 3}), 429, "rate_limit_exceeded"),
        (json!({"status": 503}), 502, "upstream_unavailable"),
        (json!({"status": 401}), 502, "upstream_credentials"),
        (json!({"status": 400}), 400, "upstream_rejected"),
        (json!({"cut_after": 0}), 502, "upstream_protocol"),
    ] {
        let (got, error) = gateway.ask("/api/chat", &chat(&json!({"echo": trouble}))).await;
        assert_eq!((got, error["error"]["code"].as_str()), (status, Some(code)), "{trouble}: {error}");
        check_shape(&error);
    }
}

#[tokio::test]
async fn half_a_request_is_answered_or_ended() {
    let gateway = Setup::new().env("BODY_TIMEOUT", "1").start();
    let mut connection = Connection::open(gateway.address()).await;
    connection.send("POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"model\":\"ec").await;
    let answer = connection.until("}}").await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"), "{answer}");

    let mut connection = Connection::open(gateway.address()).await;
    connection.send("NOT HTTP\r\n\r\n").await;
    let answer = connection.read_to_end(PATIENCE).await.unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn a_model_is_found_by_ollamas_name_and_a_slip_is_pointed_out() {
    let gateway = Setup::new().start();
    assert_eq!(gateway.ask("/api/chat", &chat(&json!({"model": "echo:latest"}))).await.0, 200);
    let (status, error) = gateway.ask("/api/chat", &chat(&json!({"model": "Ecko"}))).await;
    assert_eq!((status, &error["error"]["code"]), (404, &json!("model_not_found")));
    assert_eq!(error["error"]["message"], "the model `Ecko` is not configured; did you mean `echo`?");
    let (_, error) = gateway.ask("/api/chat", &chat(&json!({"model": "zzz"}))).await;
    assert_eq!(error["error"]["message"], "the model `zzz` is not configured");
}
