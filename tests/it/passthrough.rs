//! Raw requests to one named provider, and every way in which they could be misused.

use serde_json::{Value, json};

use crate::support::{
    Connection, Events, Gateway, PATIENCE, Setup, Step, Upstream, answer, fixture, json, json_of, sse,
};

async fn both() -> (Upstream, Gateway) {
    let upstream = Upstream::start(|seen| match seen.path.as_str() {
        "/v1/stream" => vec![sse(&["one", "two"]), Step::Close],
        "/teapot" => vec![json(
            418,
            "openai-version: kept\r\nset-cookie: a=b\r\nproxy-authenticate: x\r\n",
            &json!({"tea": true}),
        )],
        _ => vec![json(200, "x-ratelimit-remaining-requests: 9\r\n", &json!({"ok": true}))],
    })
    .await;
    // The base address ends in `/v1`; paths of the passthrough start at the server's root.
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    (upstream, gateway)
}

#[tokio::test]
async fn a_wrapped_request_reaches_its_provider_with_the_providers_key() {
    let (upstream, gateway) = both().await;
    let body = json!({"provider": "up", "method": "POST", "path": "/v1/audio/speech", "query": {"a": "1 2", "b": ["x", "y"]},
        "headers": {"accept": "audio/mpeg", "openai-beta": "x"}, "body": {"input": "hi"}});

    let (status, answer) = gateway.ask("/api/passthrough", &body).await;

    assert_eq!((status, answer), (200, json!({"ok": true})));
    let seen = &upstream.seen()[0];
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/v1/audio/speech?a=1%202&b=x&b=y"));
    assert_eq!(seen.json(), json!({"input": "hi"}));
    assert_eq!(seen.header("authorization"), Some("Bearer provider-key-1"));
    assert_eq!((seen.header("accept"), seen.header("openai-beta")), (Some("audio/mpeg"), Some("x")));
}

#[tokio::test]
async fn a_server_that_repeats_the_providers_key_does_not_tell_it() {
    // As a word of an error, in a header, and in the middle of a stream, cut in two.
    let upstream = Upstream::start(|seen| match seen.path.as_str() {
        "/error" => vec![json(
            400,
            "x-sent: Bearer provider-key-1\r\n",
            &json!({"error": {"message": "you sent Bearer provider-key-1"}}),
        )],
        _ => vec![
            Step::Send("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall of provider-k".into()),
            Step::Send("ey-1 and the end".into()),
            Step::Close,
        ],
    })
    .await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();

    let response = gateway.get("/api/passthrough/up/error").send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("x-sent")), (400, None));
    let error = json_of(response).await;
    assert_eq!(error["error"]["message"], "you sent Bearer **************", "{error}");
    let streamed = gateway.get("/api/passthrough/up/stream").send().await.unwrap().text().await.unwrap();
    assert_eq!(streamed, "all of ************** and the end");
    // What a server refuses has failed.
    let log = gateway.logged("status=400");
    assert!(log.contains("outcome=\"failed\"") && log.contains("error=\"upstream_rejected\""), "{log}");
    assert_eq!(gateway.figure("llm_proxy_errors_total", "upstream_rejected").await, 1.0);
}

#[tokio::test]
async fn an_unwrapped_request_keeps_method_query_and_body() {
    let (upstream, gateway) = both().await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let url = format!("{}/api/passthrough/up/v1/files/a%20b?x=1&y=%2F", gateway.base());
        let request = gateway.http().request(method.parse().unwrap(), url);
        let request = if method == "GET" {
            request
        } else {
            request.header("content-type", "application/octet-stream").body(vec![0_u8, 255, 10])
        };
        assert_eq!(answer(request).await, (200, json!({"ok": true})), "{method}");
        let seen = upstream.seen().pop().unwrap();
        assert_eq!((seen.method.as_str(), seen.path.as_str()), (method, "/v1/files/a%20b?x=1&y=%2F"));
        if method != "GET" {
            assert_eq!(
                (seen.body.as_slice(), seen.header("content-type")),
                (&[0, 255, 10][..], Some("application/octet-stream"))
            );
        }
    }
}

#[tokio::test]
async fn status_headers_and_bytes_come_back_as_they_are() {
    let (_upstream, gateway) = both().await;
    for request in [
        gateway.get("/api/passthrough/up/teapot"),
        gateway.post("/api/passthrough", &json!({"provider": "up", "method": "GET", "path": "/teapot"})),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 418);
        let headers = response.headers();
        assert_eq!(
            (&headers["openai-version"], &headers["x-llm-provider"]),
            (&"kept".parse().unwrap(), &"up".parse().unwrap())
        );
        assert!(headers.get("set-cookie").is_none() && headers.get("proxy-authenticate").is_none());
        assert_eq!(response.text().await.unwrap(), r#"{"tea":true}"#);
    }
}

#[tokio::test]
async fn streams_pass_piece_by_piece() {
    let upstream = Upstream::start(|_| {
        vec![
            sse(&["one"]),
            Step::Pause(std::time::Duration::from_secs(2)),
            Step::Send(b"data: two\n\n".to_vec()),
            Step::Close,
        ]
    })
    .await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let wrapped =
        json!({"provider": "up", "method": "POST", "path": "/v1/stream", "body": {}, "stream": true});
    let passes = async |request: reqwest::RequestBuilder| {
        let started = std::time::Instant::now();
        let mut events = Events::of(request.send().await.unwrap());
        assert_eq!(events.next().await.unwrap(), "data: one");
        assert!(started.elapsed() < std::time::Duration::from_millis(1900), "it was held back");
        assert_eq!(events.next().await.unwrap(), "data: two");
        assert_eq!(events.next().await, None);
    };
    let as_it_is = gateway.get("/api/passthrough/up/v1/stream");
    let wrapped = gateway.post("/api/passthrough", &wrapped);
    tokio::join!(passes(as_it_is), passes(wrapped));
}

#[tokio::test]
async fn a_model_stands_for_its_first_provider() {
    let upstream = Upstream::answering(Step::Send(fixture("openai/chat"))).await;
    let gateway = Setup::new().models(&json!({"providers": {"up": {"type": "openai", "base_url": upstream.v1(), "models": {"public": {"upstream": "real"}}}}})).start();
    let body = json!({"model": "public", "path": "/v1/chat/completions", "body": {"model": "public", "messages": []}});
    let (status, _) = gateway.ask("/api/passthrough", &body).await;
    assert_eq!((status, &upstream.last()["model"]), (200, &json!("real")));
}

#[tokio::test]
async fn the_callers_own_credentials_and_hop_by_hop_headers_never_travel() {
    let (upstream, gateway) = both().await;
    let secret = "callers-secret";
    let bad = [
        "authorization",
        "x-api-key",
        "api-key",
        "cookie",
        "proxy-authorization",
        "host",
        "connection",
        "transfer-encoding",
        "te",
        "upgrade",
        "keep-alive",
        "trailer",
        "content-length",
        "forwarded",
        "x-forwarded-for",
        "x-real-ip",
    ];

    for name in bad {
        let body =
            json!({"provider": "up", "method": "GET", "path": "/v1/models", "headers": {name: secret}});
        let (status, answer) = gateway.ask("/api/passthrough", &body).await;
        // Refused by name, or left out; never sent.
        assert!(status == 200 || status == 400, "{name}: {answer}");
    }
    let named = bad.iter().filter(|name| {
        !matches!(**name, "host" | "connection" | "transfer-encoding" | "content-length" | "upgrade" | "te")
    });
    let request = named
        .fold(gateway.get("/api/passthrough/up/v1/models"), |request, name| request.header(*name, secret));
    assert_eq!(request.header("x-custom", "y").send().await.unwrap().status(), 200);

    for seen in upstream.seen() {
        let all = format!("{:?}", seen.headers);
        assert!(!all.contains(secret), "{all}");
        assert_eq!(seen.header("authorization"), Some("Bearer provider-key-1"));
    }
}

#[tokio::test]
async fn paths_that_lead_elsewhere_are_refused() {
    let (upstream, gateway) = both().await;
    for path in [
        "/v1/../admin",
        "/v1/..",
        "/../etc/passwd",
        "/v1/%2e%2e/admin",
        "/v1/%2E%2E/admin",
        "/v1/.%2e/x",
        "/v1/%252e%252e/x",
        "/v1/..%2fadmin",
        "/v1/..%5cadmin",
        "/v1/\\..\\admin",
        "//evil.example/x",
        "/\\evil.example/x",
        "http://evil.example/x",
        "https:evil",
        "evil.example/x",
        "v1/models",
        "/v1/a\r\nx-injected: 1",
        "/v1/a%0d%0ax",
        "/v1/a\u{0}b",
        "/v1/a b\tc",
        "/v1/./x",
        "@evil.example/",
        "/v1/x?y=1",
        "/v1/x#y",
        "",
        "/v1//x/../../y",
    ] {
        let body = json!({"provider": "up", "method": "GET", "path": path});
        let (status, error) = gateway.ask("/api/passthrough", &body).await;
        assert_eq!((status, &error["error"]["param"]), (400, &json!("path")), "{path:?}: {error}");
    }
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
}

#[tokio::test]
async fn a_path_whose_slashes_are_written_as_parameters_have_them_leads_there() {
    let (upstream, gateway) = both().await;
    for path in ["v1%2Fmodels", "v1%2fmodels", "v1/models"] {
        gateway.get(&format!("/api/passthrough/up/{path}")).send().await.unwrap();
        assert_eq!(upstream.seen().last().unwrap().path, "/v1/models", "{path}");
    }
    for path in ["v1%2F..%2Fx", "v1%2F%2Fx", "%2F%2Fevil.example%2Fx", "v1%252F..%252Fx"] {
        let (status, error) = answer(gateway.get(&format!("/api/passthrough/up/{path}"))).await;
        assert_eq!((status, &error["error"]["param"]), (400, &json!("path")), "{path}: {error}");
    }
    assert_eq!(upstream.seen().len(), 3);
}

#[tokio::test]
async fn paths_that_lead_elsewhere_are_refused_as_bytes_too() {
    let (upstream, gateway) = both().await;
    for path in [
        "/api/passthrough/up/../../x",
        "/api/passthrough/up/v1/..%2f..%2fx",
        "/api/passthrough/up/%2e%2e/x",
        "/api/passthrough/up//evil.example/x",
        "/api/passthrough/up/http://evil.example/x",
        "/api/passthrough/up/v1/%0d%0ax-injected:%201",
        "/api/passthrough/up/v1/%00",
        "/api/passthrough/up/\\evil",
        "/api/passthrough/up/v1/%5c..%5cx",
        "/api/passthrough/nobody/v1/models",
        "/api/passthrough/up%2f..%2fother/x",
    ] {
        let mut connection = Connection::open(gateway.address()).await;
        connection
            .send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
            .await;
        let answer = connection.read_to_end(PATIENCE).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 40"), "{path}: {answer}");
    }
    for seen in upstream.seen() {
        assert!(
            !seen.path.contains("..") && !seen.path.contains("evil") && seen.header("x-injected").is_none(),
            "{seen:?}"
        );
        assert!(seen.path.starts_with("/v1"), "{seen:?}");
    }
}

#[tokio::test]
async fn values_cannot_smuggle_lines() {
    let (upstream, gateway) = both().await;
    for (member, value) in [
        ("method", json!("GET / HTTP/1.1\r\nx: y")),
        ("headers", json!({"accept": "a\r\nx-injected: 1"})),
        ("headers", json!({"accept\r\nx": "1"})),
    ] {
        let mut body = json!({"provider": "up", "path": "/v1/models"});
        body[member] = value;
        let (status, error) = gateway.ask("/api/passthrough", &body).await;
        assert_eq!(status, 400, "{error}");
    }
    let (status, _) = gateway.ask("/api/passthrough", &json!({"provider": "up", "method": "GET", "path": "/v1/models", "query": {"a": "b\r\nx: y&c=d"}})).await;
    assert_eq!(status, 200);
    let seen = upstream.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].path, "/v1/models?a=b%0D%0Ax%3A%20y%26c%3Dd");
}

#[tokio::test]
async fn faults_of_the_request_are_named() {
    let (_upstream, gateway) = both().await;
    for (body, status, param) in [
        (json!({"path": "/v1/models"}), 400, "provider"),
        (json!({"provider": "nobody", "path": "/v1/models"}), 404, "provider"),
        (json!({"provider": "up", "model": "m", "path": "/v1/models"}), 400, "model"),
        (json!({"provider": "up"}), 400, "path"),
        (json!({"provider": "up", "path": "/v1/models", "method": "FETCH"}), 400, "method"),
        (json!({"provider": "up", "path": "/v1/models", "method": "CONNECT"}), 400, "method"),
        (json!({"provider": "up", "path": "/v1/models", "query": 7}), 400, "query"),
        (json!({"provider": "up", "path": "/v1/models", "headers": []}), 400, "headers"),
    ] {
        let (got, error) = gateway.ask("/api/passthrough", &body).await;
        assert_eq!((got, &error["error"]["param"]), (status, &json!(param)), "{body}: {error}");
    }
}

#[tokio::test]
async fn a_rejected_key_is_not_passed_through() {
    let upstream = Upstream::answering(json(
        401,
        "www-authenticate: Bearer\r\n",
        &json!({"error": "bad key provider-key-1"}),
    ))
    .await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let response = gateway.get("/api/passthrough/up/v1/models").send().await.unwrap();
    assert_eq!(response.status(), 502);
    let error: Value = json_of(response).await;
    assert_eq!(error["error"]["code"], "upstream_credentials");
    assert!(!error.to_string().contains("provider-key-1"));
}

#[tokio::test]
async fn echo_shows_what_would_have_travelled() {
    let gateway = Setup::new().start();
    let body = json!({"provider": "echo", "path": "/v1/x", "query": {"a": "b"}, "headers": {"openai-beta": "y"}, "body": {"n": 1}});
    let (status, answer) = gateway.ask("/api/passthrough", &body).await;
    assert_eq!(status, 200);
    assert_eq!(
        (&answer["method"], &answer["path"], &answer["query"]),
        (&json!("POST"), &json!("/v1/x"), &json!("a=b"))
    );
    assert_eq!((&answer["body"], &answer["headers"]["openai-beta"]), (&json!({"n": 1}), &json!("y")));
}

#[tokio::test]
async fn a_head_is_asked_for_as_one_in_both_forms() {
    let upstream = Upstream::start(|_| {
        vec![Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\netag: kept\r\n\r\n".to_vec())]
    })
    .await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();

    let url = format!("{}/api/passthrough/up/v1/files/x", gateway.base());
    let response = gateway.http().head(url).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-length"]),
        (200, &"1234".parse().unwrap())
    );

    let wrapped = json!({"provider": "up", "method": "HEAD", "path": "/v1/files/x"});
    let response = gateway.post("/api/passthrough", &wrapped).send().await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["etag"]), (200, &"kept".parse().unwrap()));
    assert_eq!(response.bytes().await.unwrap(), "");

    assert!(upstream.seen().iter().all(|seen| seen.method == "HEAD") && upstream.seen().len() == 2);
}

#[tokio::test]
async fn both_forms_keep_to_the_limit_of_bodies() {
    let (upstream, gateway) = {
        let upstream = Upstream::answering(json(200, "", &json!({}))).await;
        let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).env("MAX_BODY_BYTES", "2000").start();
        (upstream, gateway)
    };
    let long = "x".repeat(5000);
    let url = format!("{}/api/passthrough/up/v1/x", gateway.base());
    let (status, error) = answer(gateway.http().post(url).body(long.clone())).await;
    assert_eq!((status, &error["error"]["code"]), (413, &json!("request_too_large")));
    let wrapped = json!({"provider": "up", "path": "/v1/x", "body": long});
    assert_eq!(gateway.ask("/api/passthrough", &wrapped).await.0, 413);
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn an_answer_tells_no_address_and_nothing_of_its_connection() {
    let upstream = Upstream::start(|seen| {
        let location = match seen.path.as_str() {
            "/own" => "/v1/elsewhere?x=1".to_owned(),
            "/whole" => format!("http://{}/v1/elsewhere", seen.header("host").unwrap()),
            _ => "http://10.0.0.7:9/secret".to_owned(),
        };
        let headers = format!(
            "location: {location}\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\nx-llm-attempts: 99\r\nx-request-id: theirs\r\nx-accel-redirect: /etc\r\n"
        );
        vec![json(302, &headers, &json!({}))]
    })
    .await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    for (path, location) in [
        ("own", Some("/api/passthrough/up/v1/elsewhere?x=1")),
        ("whole", Some("/api/passthrough/up/v1/elsewhere")),
        ("other", None),
    ] {
        let url = format!("{}/api/passthrough/up/{path}", gateway.base());
        let headers = http.get(url).send().await.unwrap().headers().clone();
        assert_eq!(headers.get("location").map(|value| value.to_str().unwrap()), location, "{path}");
        assert!(headers.get("x-hop").is_none() && headers.get("x-llm-attempts").is_none());
        assert_eq!(headers["x-upstream-request-id"], "theirs");
        assert!(headers["x-request-id"] != "theirs" && headers.get("x-accel-redirect").is_none());
    }
}

#[tokio::test]
async fn further_headers_of_an_answer_pass_where_the_models_file_lists_them() {
    let upstream = Upstream::answering(json(
        200,
        "x-foo-id: 7\r\nx-sendfile: /etc\r\nset-cookie: a=b\r\nx-bar: 1\r\n",
        &json!({}),
    ))
    .await;
    let file = |listed: Value| json!({"providers": {"up": {"type": "openai", "base_url": upstream.v1(), "models": {"m": {}}, "raw_headers": listed}}});
    let gateway = Setup::new().models(&file(json!(["x-foo-*"]))).start();
    let headers = gateway.get("/api/passthrough/up/v1/x").send().await.unwrap().headers().clone();
    assert_eq!(headers["x-foo-id"], "7");
    for name in ["x-sendfile", "set-cookie", "x-bar"] {
        assert!(headers.get(name).is_none(), "{name}");
    }
    for (listed, word) in [
        (json!(["Set-Cookie"]), "lower case"),
        (json!(["set-cookie"]), "never passes"),
        (json!([""]), "lower case"),
    ] {
        let checked = Setup::new().models(&file(listed)).run(&["check"]);
        assert!(checked.code == Some(1) && (checked.stderr + &checked.stdout).contains(word));
    }
}

#[tokio::test]
async fn a_key_is_masked_in_whatever_form_a_server_repeats_it() {
    // In base64 behind a word, in hexadecimal digits, escaped for JSON, and for a URL.
    let told = "QmVhcmVyIHByb3ZpZGVyLWtleS0x 70726f76696465722d6b65792d31 provider\\u002dkey\\u002d1 provider%2Dkey%2D1";
    let upstream = Upstream::start(move |seen| {
        if seen.path == "/v1/chat/completions" {
            return vec![json(400, "", &json!({"error": {"message": told}}))];
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", told.len());
        vec![Step::Send(head.into_bytes()), Step::ByteWise(told.into())]
    })
    .await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let raw = gateway.get("/api/passthrough/up/x").send().await.unwrap().text().await.unwrap();
    assert_eq!(raw.len(), told.len());
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let error = gateway.ask("/v1/chat/completions", &chat).await.1.to_string();
    for part in ["J3ZpZGVyLWtleS0x", "b3ZpZGVyLWtleS0x", "70726f7669646572", "u002dkey", "%2Dkey"] {
        assert!(!raw.contains(part) && !error.contains(part), "{part}: {raw} {error}");
    }
}

#[tokio::test]
async fn a_text_goes_as_a_text_and_a_slip_is_told() {
    let (upstream, gateway) = both().await;
    for (kind, sent) in [("text/plain", "plain text"), ("application/json", "\"plain text\"")] {
        let wrapped = json!({"provider": "up", "path": "/v1/x", "headers": {"content-type": kind}, "body": "plain text"});
        assert_eq!(gateway.ask("/api/passthrough", &wrapped).await.0, 200);
        assert_eq!(upstream.seen().last().unwrap().body, sent.as_bytes());
    }
    let (status, error) =
        gateway.ask("/api/passthrough", &json!({"provider": "up", "path": "/v1/x", "strem": true})).await;
    assert_eq!((status, &error["error"]["param"]), (400, &json!("strem")));
}

#[tokio::test]
async fn an_answer_of_known_length_counts_as_ended() {
    let (_upstream, gateway) = both().await;
    let url = format!("{}/api/passthrough/up/v1/x", gateway.base());
    assert_eq!(answer(gateway.http().get(&url)).await.0, 200);
    gateway.http().head(&url).send().await.unwrap();
    gateway.logged("method=HEAD");
    let log = gateway.log();
    assert!(!log.contains("cancelled") && log.matches("outcome=\"completed\"").count() == 2, "{log}");
}
