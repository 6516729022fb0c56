//! Listeners, time-outs, limits and the end: with real sockets.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use crate::support::client::{Http2, post};
use crate::support::{Connection, Events, Gateway, PATIENCE, Setup, Upstream, answer, eventually, sse};

const PING: &str = "GET /api/ping HTTP/1.1\r\nhost: localhost\r\n\r\n";

fn slow_stream(delay_ms: u64) -> Value {
    json!({"model": "echo", "messages": [{"role": "user", "content": "one two three four five"}], "echo": {"delay_ms": delay_ms}})
}

async fn pong(connection: &mut Connection<TcpStream>) {
    connection.send(PING).await;
    assert!(connection.until("pong").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn several_listeners_at_once() {
    let setup = Setup::new();
    let socket = setup.path("gateway.sock");
    let listen = format!("127.0.0.1:0,[::1]:0,unix:{}", socket.display());
    let gateway = setup.env("LISTEN", &listen).start_on_terminal();
    let banner = gateway.log();
    let addresses =
        banner.lines().find_map(|line| line.trim().strip_prefix("listening")).unwrap().trim().to_owned();
    let ipv6 =
        addresses.split(", ").find(|address| address.contains("[::1]")).unwrap().replace("http://", "");

    pong(&mut Connection::open(gateway.address()).await).await;
    pong(&mut Connection::open(&ipv6).await).await;
    let mut unix = Connection { socket: UnixStream::connect(&socket).await.unwrap() };
    unix.send(PING).await;
    assert!(unix.until("pong").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_unix_socket_is_for_its_owner_and_goes_with_the_service() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let setup = Setup::new();
    let socket = setup.path("gateway.sock");
    // A leftover of a crash is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let mut gateway = setup.env("LISTEN", &format!("127.0.0.1:0,unix:{}", socket.display())).start();
    let meta = std::fs::metadata(&socket).unwrap();
    assert_eq!(meta.permissions().mode() & 0o007, 0, "not for everybody: {:o}", meta.mode());
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    assert!(!socket.exists());
}

#[tokio::test]
async fn http2_without_encryption_is_spoken_to_those_who_begin_with_it() {
    let gateway = Setup::new().start();
    let mut client = Http2::open(gateway.address()).await;
    let many: Vec<_> = (0..20).map(|_| client.send("GET", "/api/ping", "")).collect();
    for answer in many {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
    }
    pong(&mut Connection::open(gateway.address()).await).await;
}

#[tokio::test]
async fn tls_serves_both_versions_of_http() {
    let setup = Setup::new();
    let certified =
        rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let setup =
        setup.file("cert.pem", &certified.cert.pem()).file("key.pem", &certified.signing_key.serialize_pem());
    let gateway = setup.env("TLS_CERT", "cert.pem").env("TLS_KEY", "key.pem").start();
    assert!(gateway.base().starts_with("https://"), "{}", gateway.base());

    let certificate = reqwest::Certificate::from_pem(certified.cert.pem().as_bytes()).unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([certificate]).build().unwrap();
    let (status, _) = answer(http.get(format!("{}/api/ping", gateway.base()))).await;
    assert_eq!(status, 200);
    let events = Events::of(
        http.post(format!("{}/api/chat", gateway.base()))
            .body(slow_stream(0).to_string())
            .send()
            .await
            .unwrap(),
    );
    assert_eq!(events.rest().await.last().unwrap(), "[DONE]");

    // A caller without encryption gets the reason, and does no harm.
    for plain in [
        PING,
        "POST /api/chat HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut caller = Connection::open(gateway.address()).await;
        caller.send(plain).await;
        let told = caller.read_to_end(PATIENCE).await.unwrap();
        let (head, body) = told.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{plain}: {told}"));
        assert!(head.starts_with("HTTP/1.1 400 ") && head.contains("connection: close"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "https_required");
        assert!(body["error"]["message"].as_str().unwrap().contains("https://"), "{body}");
    }
    gateway.logged("https_required");
    let mut noise = Connection::open(gateway.address()).await;
    noise.send("\u{0}\u{1}no encryption").await;
    assert!(noise.read_to_end(PATIENCE).await.is_some());
    assert_eq!(answer(http.get(format!("{}/api/ping", gateway.base()))).await.0, 200);
}

#[tokio::test]
async fn a_slow_head_is_ended() {
    let gateway = Setup::new().env("HEADER_TIMEOUT", "1").start();
    for start in ["", "GET /api/ping HTTP/1.1\r\nhost: localhost\r\n", "PRI * HTTP/2"] {
        let mut slow = Connection::open(gateway.address()).await;
        slow.send(start).await;
        let began = Instant::now();
        assert!(slow.read_to_end(PATIENCE).await.is_some(), "{start:?}");
        assert!(began.elapsed() < Duration::from_secs(4));
    }
    // Drop by drop is no better.
    let mut drops = Connection::open(gateway.address()).await;
    let began = Instant::now();
    drops.send("GET /api/ping HTTP/1.1\r\n").await;
    for number in 0..100 {
        if drops.socket.write_all(format!("x-{number}: 1\r\n").as_bytes()).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(drops.read_to_end(PATIENCE).await.is_some());
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn an_idle_connection_is_ended_and_a_waiting_one_is_not() {
    let gateway = Setup::new().env("IDLE_TIMEOUT", "1").start();
    let mut idle = Connection::open(gateway.address()).await;
    pong(&mut idle).await;
    let began = Instant::now();
    assert!(idle.read_to_end(PATIENCE).await.is_some());
    assert!(began.elapsed() > Duration::from_millis(700) && began.elapsed() < Duration::from_secs(4));

    // One that waits for a slow answer is not idle.
    let body = json!({"model": "echo", "stream": false, "messages": [{"role": "user", "content": "x"}], "echo": {"first_delay_ms": 2500}});
    assert_eq!(gateway.ask("/api/chat", &body).await.0, 200);
}

#[tokio::test]
async fn connections_over_the_limit_wait_their_turn() {
    let gateway = Setup::new().env("MAX_CONNECTIONS", "2").start();
    let mut first = Connection::open(gateway.address()).await;
    pong(&mut first).await;
    let mut second = Connection::open(gateway.address()).await;
    pong(&mut second).await;
    let mut third = Connection::open(gateway.address()).await;
    third.send(PING).await;
    assert_eq!(third.read_to_end(Duration::from_millis(400)).await, None, "nobody answers yet");

    drop(first);

    assert!(third.until("pong").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_body_of_100_megabytes_is_refused_and_not_kept() {
    let gateway = Setup::new().start();
    let body = vec![b'x'; 100 * 1024 * 1024];
    let before = memory_mib(&gateway);
    let request = gateway
        .http()
        .post(format!("{}/api/chat", gateway.base()))
        .header("content-type", "application/json");
    let (status, error) = answer(request.body(body.clone())).await;
    assert_eq!((status, &error["error"]["code"]), (413, &json!("request_too_large")));

    // Without a length that is known beforehand.
    let pieces = futures_util::stream::iter(
        body.chunks(1024 * 1024).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect::<Vec<_>>(),
    );
    let request = gateway
        .http()
        .post(format!("{}/api/chat", gateway.base()))
        .header("content-type", "application/json");
    let (status, error) = answer(request.body(reqwest::Body::wrap_stream(pieces))).await;
    assert_eq!((status, &error["error"]["code"]), (413, &json!("request_too_large")));
    assert!(memory_mib(&gateway) < before + 60, "{before} MiB before, {} after", memory_mib(&gateway));

    // Who asks before sending is told before sending.
    let mut polite = Connection::open(gateway.address()).await;
    polite.send("POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 104857600\r\n\r\n").await;
    let answer = polite.until("}}").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_long_body_keeps_no_other_caller_waiting() {
    let gateway = Setup::new().start();
    let mut others = Vec::new();
    // Some of them are with the same thread as the long one.
    for _ in 0..8 {
        let mut connection = Connection::open(gateway.address()).await;
        pong(&mut connection).await;
        others.push(connection);
    }
    let messages = vec![json!({"role": "user", "content": "hi"}); 200_000];
    let long = gateway.post("/v1/chat/completions", &json!({"model": "echo", "messages": messages}));
    let began = Instant::now();
    let mut answering = std::pin::pin!(async { long.send().await.unwrap().status() });
    let (mut longest, mut asked) = (Duration::ZERO, Instant::now());
    let status = loop {
        let ponging = async {
            for connection in &mut others {
                asked = Instant::now();
                pong(connection).await;
                longest = longest.max(asked.elapsed());
            }
        };
        tokio::select! {
            biased;
            status = answering.as_mut() => break status,
            () = ponging => {}
        }
    };
    // One may still have been waiting.
    longest = longest.max(asked.elapsed());
    assert_eq!(status, 200);
    let took = began.elapsed();
    assert!(longest * 3 < took, "one waited for {longest:?} of {took:?}");
}

#[tokio::test]
async fn the_body_limit_is_a_setting() {
    let gateway = Setup::new().env("MAX_BODY_BYTES", "2000").start();
    let body = |length: usize| json!({"model": "echo", "stream": false, "messages": [{"role": "user", "content": "x".repeat(length)}]});
    assert_eq!(gateway.ask("/api/chat", &body(1500)).await.0, 200);
    assert_eq!(gateway.ask("/api/chat", &body(2000)).await.0, 413);
}

fn memory_mib(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn ten_thousand_headers_are_refused() {
    let gateway = Setup::new().start();
    let many: String = (0..10_000).map(|number| format!("x-{number}: y\r\n")).collect();
    let long = format!("x-long: {}\r\n", "y".repeat(1024 * 1024));
    for headers in [many, long] {
        let mut connection = Connection::open(gateway.address()).await;
        // It may be refused before it is sent to the end.
        let _ = connection
            .socket
            .write_all(format!("GET /api/ping HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").as_bytes())
            .await;
        let _ = connection.socket.shutdown().await;
        let answer = connection.read_to_end(PATIENCE).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("headers_too_large"), "{answer}");
    }
    pong(&mut Connection::open(gateway.address()).await).await;
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_refused_in_words() {
    let gateway = Setup::new().start();
    for (head, status, code) in [
        ("GARBAGE\r\n\r\n".to_owned(), "400", "invalid_http"),
        ("GET / HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n".to_owned(), "400", "invalid_http"),
        (format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(100_000)), "414", "uri_too_long"),
    ] {
        let mut connection = Connection::open(gateway.address()).await;
        // One that was answered before it makes no difference.
        pong(&mut connection).await;
        connection.send(&head).await;
        let answer = connection.read_to_end(PATIENCE).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")) && head.contains("x-request-id: req_"),
            "{head}"
        );
        let error: Value = serde_json::from_str(body).unwrap();
        assert_eq!(error["error"]["code"], code);
        gateway.logged(&format!("error=\"{code}\""));
    }
}

#[tokio::test]
async fn a_graceful_end_lets_streams_end() {
    let mut gateway = Setup::new().start();
    let mut events = Events::of(gateway.post("/api/chat", &slow_stream(200)).send().await.unwrap());
    events.next().await.unwrap();

    gateway.signal("TERM");
    gateway.logged("Draining");

    // New connections find nobody.
    eventually("nobody accepts", async || TcpStream::connect(gateway.address()).await.is_err()).await;
    assert_eq!(events.rest().await.last().unwrap(), "[DONE]");
    assert!(gateway.ended().await.success());
}

#[tokio::test]
async fn a_draining_service_turns_requests_on_open_connections_away() {
    let gateway = Setup::new().start();
    let mut client = Http2::open(gateway.address()).await;
    let slow = client.send("POST", "/api/chat", &slow_stream(300).to_string());
    let streaming = slow.await.unwrap();
    assert_eq!(streaming.status(), 200);
    gateway.signal("TERM");
    gateway.logged("Draining");
    // Either the connection takes no more streams, or the request is told to come again.
    if let Ok(answer) = client.send("GET", "/api/tags", "").await {
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("retry-after"));
    }
}

#[tokio::test]
async fn the_time_to_drain_is_bounded() {
    let mut gateway = Setup::new().env("DRAIN_TIMEOUT", "1").start();
    let mut events = Events::of(gateway.post("/api/chat", &slow_stream(10_000)).send().await.unwrap());
    events.next().await.unwrap();
    let began = Instant::now();
    gateway.signal("INT");
    gateway.ended().await;
    assert!(began.elapsed() > Duration::from_millis(900) && began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut gateway = Setup::new().start();
    let mut events = Events::of(gateway.post("/api/chat", &slow_stream(10_000)).send().await.unwrap());
    events.next().await.unwrap();
    gateway.signal("TERM");
    gateway.logged("Draining");
    let began = Instant::now();
    gateway.signal("TERM");
    gateway.ended().await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn answers_that_are_cut_off_say_so() {
    for second_signal in [false, true] {
        let patience = if second_signal { "30" } else { "1" };
        let mut gateway = Setup::new().env("DRAIN_TIMEOUT", patience).start();
        let mut hanging = slow_stream(0);
        hanging["stream"] = json!(false);
        hanging["echo"] = json!({"hang": true});
        let mut events = Events::of(gateway.post("/api/chat", &slow_stream(10_000)).send().await.unwrap());
        events.next().await.unwrap();
        let mut client = Http2::open(gateway.address()).await;
        let over_http2 = client.send("POST", "/api/chat", &slow_stream(10_000).to_string()).await.unwrap();
        let whole = tokio::spawn(answer(gateway.post("/api/chat", &hanging)));
        let whole_over_http2 = tokio::spawn(client.send("POST", "/api/chat", &hanging.to_string()));
        let mut long = hanging.clone();
        long["messages"][0]["content"] = json!("long ".repeat(100_000));
        let long = tokio::spawn(answer(gateway.post("/api/chat", &long)));
        tokio::time::sleep(Duration::from_millis(300)).await;

        gateway.signal("TERM");
        gateway.logged("Draining");
        if second_signal {
            gateway.signal("TERM");
        }

        let last: Value = serde_json::from_str(events.rest().await.last().unwrap()).unwrap();
        assert_eq!(last["error"]["code"], "draining");
        let text = over_http2.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains("draining"));
        for hanging in [whole, long] {
            let (status, error) = hanging.await.unwrap();
            assert_eq!((status, &error["error"]["code"]), (503, &json!("draining")));
        }
        assert_eq!(whole_over_http2.await.unwrap().unwrap().status(), 503);
        gateway.ended().await;
        assert!(!gateway.log().contains("cancelled"), "{}", gateway.log());
    }
}

#[tokio::test]
async fn pages_of_other_sites_do_not_get_to_ask() {
    let upstream = Upstream::answering(sse(&["{}"])).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).start();
    let text = slow_stream(0).to_string().replace("echo", "m");
    for path in ["/api/chat", "/v1/chat/completions", "/api/passthrough/up/v1/chat/completions"] {
        let request = gateway.http().post(format!("{}{path}", gateway.base()));
        // A page may send this without asking first.
        let request = request.header("origin", "https://evil.example").header("content-type", "text/plain");
        let (status, error) = answer(request.body(text.clone())).await;
        assert_eq!((status, &error["error"]["code"]), (403, &json!("origin_not_allowed")));
    }
    assert!(upstream.seen().is_empty());
    let own = gateway.post("/api/chat", &json!({})).header("origin", gateway.base());
    assert_eq!(answer(own).await.0, 400);
}

#[tokio::test]
async fn an_address_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = Setup::new().env("LISTEN", &address).run(&[]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains(&address) && ended.stderr.contains("in use"), "{}", ended.stderr);
}

#[tokio::test]
async fn an_open_door_needs_a_decision() {
    let ended = Setup::new().env("LISTEN", "0.0.0.0:0").run(&[]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("LLM_PROXY_API_AUTH"), "{}", ended.stderr);
    let gateway = Setup::new().env("LISTEN", "127.0.0.1:0,0.0.0.0:0").env("AUTH", "none").start();
    pong(&mut Connection::open(gateway.address()).await).await;
}

#[tokio::test]
async fn requests_may_follow_each_other_without_waiting() {
    let gateway = Setup::new().start();
    let mut connection = Connection::open(gateway.address()).await;
    let body =
        json!({"model": "echo", "stream": false, "messages": [{"role": "user", "content": "pipelined"}]});
    let three = post("/api/chat", &body).repeat(3);
    connection.send(&format!("{three}GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
    let answers = connection.until("unknown_path").await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3);
}

#[tokio::test]
async fn browsers_of_allowed_sites_may_call() {
    let gateway = Setup::new().env("CORS_ORIGINS", "https://app.example").start();
    let url = format!("{}/api/chat", gateway.base());
    let preflight = |origin: &str| {
        let request = gateway.http().request(reqwest::Method::OPTIONS, &url).header("origin", origin);
        request
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type, x-mine")
    };
    let allowed = preflight("https://app.example").send().await.unwrap();
    assert!(allowed.status().is_success());
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://app.example");
    assert!(allowed.headers()["access-control-allow-headers"].to_str().unwrap().contains("x-mine"));
    let other = preflight("https://evil.example").send().await.unwrap();
    assert!(other.headers().get("access-control-allow-origin").is_none());

    let error =
        gateway.post("/api/chat", &json!({})).header("origin", "https://app.example").send().await.unwrap();
    assert_eq!(
        (error.status().as_u16(), &error.headers()["access-control-allow-origin"]),
        (400, &"https://app.example".parse().unwrap())
    );

    let silent = Setup::new().start();
    let answer = silent.get("/api/ping").header("origin", "https://app.example").send().await.unwrap();
    assert!(answer.headers().get("access-control-allow-origin").is_none());
}

#[tokio::test]
async fn a_body_that_trickles_is_ended() {
    let gateway = Setup::new().env("BODY_TIMEOUT", "1").start();
    let mut slow = Connection::open(gateway.address()).await;
    slow.send("POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9000\r\n\r\n").await;
    let started = Instant::now();
    // Never silent for so long as the limit.
    while started.elapsed() < Duration::from_secs(6) && slow.socket.write_all(b" ").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // It is listened to for two more, so that it can read why.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let answer = slow.read_to_end(PATIENCE).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"), "{answer}");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_soon() {
    let gateway = Setup::new().env("MAX_BODY_BYTES", "1000").start();
    for start in [
        "content-length: 104857600\r\n\r\n{",
        &format!("transfer-encoding: chunked\r\n\r\n7d0\r\n{}\r\n", "x".repeat(2000)),
    ] {
        let mut silent = Connection::open(gateway.address()).await;
        let began = Instant::now();
        silent
            .send(&format!(
                "POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{start}"
            ))
            .await;
        assert!(silent.until("request_too_large").await.starts_with("HTTP/1.1 413 "));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}
