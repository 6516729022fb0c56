//! Pages of other sites in a browser on the same machine, which reach the service as its user does.

use serde_json::json;

use crate::support::client::Http2;
use crate::support::{Connection, Gateway, PATIENCE, Setup, Upstream, answer, json};

const CORS: &str = "https://app.example, http://intranet.example:8000";

async fn both(setup: impl FnOnce(Setup) -> Setup) -> (Upstream, Gateway) {
    let upstream = Upstream::answering(json(200, "", &json!({"data": []}))).await;
    let gateway = setup(Setup::upstream("openai", &upstream.v1(), &["m"])).start();
    (upstream, gateway)
}

/// The status and all of the answer to a request with these lines.
async fn asked(gateway: &Gateway, first: &str, lines: &[&str]) -> (u16, String) {
    let mut connection = Connection::open(gateway.address()).await;
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    connection.send(&format!("{first} HTTP/1.1\r\n{lines}connection: close\r\n\r\n")).await;
    let answer = connection.read_to_end(PATIENCE).await.unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

const RAW: &str = "GET /api/passthrough/up/v1/files";

#[tokio::test]
async fn a_name_that_was_made_to_lead_here_reads_nothing() {
    for auth in ["auto", "none"] {
        let (upstream, gateway) = both(|setup| setup.env("AUTH", auth)).await;
        for host in ["evil.example", "EVIL.example:8080", "127.0.0.1.evil.example", "0x7f.1", "10.0.0.7"] {
            for first in
                [RAW, "GET /api/prompts", "GET /metrics", "GET /docs", "HEAD /api/tags", "OPTIONS /v1/models"]
            {
                let (status, answer) = asked(&gateway, first, &[&format!("host: {host}")]).await;
                assert_eq!(status, 403, "{auth} {host} {first}: {answer}");
                assert!(first.starts_with("HEAD") || answer.contains("host_not_allowed"), "{answer}");
            }
        }
        assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
        for host in ["localhost", "LOCALHOST:1", "llm.localhost.", "127.0.0.1:9", "127.9.9.9", "[::1]"] {
            assert_eq!(asked(&gateway, RAW, &[&format!("host: {host}")]).await.0, 200, "{auth} {host}");
        }
        let mut client = Http2::open(gateway.address()).await;
        assert_eq!(client.send("GET", "/api/tags", "").await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn what_a_browser_fetches_for_another_site_reaches_no_provider() {
    for auth in ["auto", "none"] {
        let (upstream, gateway) = both(|setup| setup.env("AUTH", auth)).await;
        for site in ["cross-site", "same-site", "none", "sideways"] {
            let site = format!("sec-fetch-site: {site}");
            let (status, answer) = asked(&gateway, RAW, &["host: localhost", &site]).await;
            assert_eq!((status, answer.contains("origin_not_allowed")), (403, true), "{answer}");
        }
        // An address that was typed in reads, and a link leads to a page.
        let none = ["host: localhost", "sec-fetch-site: none"];
        assert_eq!(asked(&gateway, "GET /api/tags", &none).await.0, 200);
        let link = ["sec-fetch-site: cross-site", "sec-fetch-mode: navigate", "sec-fetch-dest: document"];
        let link = [&["host: localhost"][..], &link[..]].concat();
        assert_eq!(asked(&gateway, "GET /docs", &link).await.0, 200);
        assert_eq!(asked(&gateway, "GET /openapi.json", &link).await.0, 403);
        assert!(upstream.seen().is_empty());
        // And its own pages do as they like.
        let own = ["host: localhost:1", "sec-fetch-site: same-origin", "origin: http://localhost:1"];
        assert_eq!(asked(&gateway, RAW, &own).await.0, 200);
        assert_eq!(asked(&gateway, RAW, &[&own[..], &["origin: http://localhost:1"]].concat()).await.0, 403);
    }
}

#[tokio::test]
async fn pages_and_names_that_the_operator_allows_go_on() {
    let (_upstream, gateway) = both(|setup| setup.env("CORS_ORIGINS", CORS)).await;
    let page = ["host: 127.0.0.1:1", "origin: https://app.example", "sec-fetch-site: cross-site"];
    for first in [RAW, "DELETE /api/passthrough/up/v1/files/x", "GET /api/tags"] {
        let (status, answer) = asked(&gateway, first, &page).await;
        assert_eq!(status, 200, "{answer}");
        assert!(answer.contains("access-control-allow-origin: https://app.example"), "{answer}");
    }
    let ask = ["access-control-request-method: DELETE", "access-control-request-headers: x-own"];
    let (status, answer) = asked(&gateway, "OPTIONS /api/chat", &[&page[..], &ask].concat()).await;
    assert!(status == 204 && answer.contains("access-control-allow-headers: x-own"), "{answer}");
    // A web server in front that goes by a name of the operator's.
    for host in ["app.example", "app.example:443", "intranet.example:8000"] {
        assert_eq!(asked(&gateway, "GET /api/tags", &[&format!("host: {host}")]).await.0, 200, "{host}");
    }
    for host in ["intranet.example", "app.example:8443"] {
        assert_eq!(asked(&gateway, "GET /api/tags", &[&format!("host: {host}")]).await.0, 403, "{host}");
    }
    let (_upstream, gateway) = both(|setup| setup.env("CORS_ORIGINS", "*")).await;
    assert_eq!(asked(&gateway, "GET /api/tags", &["host: any.example"]).await.0, 200);
}

#[tokio::test]
async fn a_request_names_exactly_one_valid_host() {
    let keyed = Setup::new().env("AUTH", "keys").start();
    for gateway in [Setup::new().start(), keyed] {
        for (first, lines) in [
            ("GET /livez", &[][..]),
            ("GET /livez", &["host: localhost", "host: localhost"]),
            ("GET /livez", &["host: a", "Host: b"]),
            ("GET /livez", &["host:"]),
            ("GET /livez", &["host: a/b?c"]),
            ("GET /livez", &["host: x@localhost"]),
            ("GET /livez", &["host: localhost:80:80"]),
            ("GET /livez", &["host: local host"]),
            ("GET /livez", &["host: [::1"]),
            ("GET http://other/livez", &["host: localhost"]),
            ("GET http://localhost:8/livez", &["host: localhost:9"]),
            ("GET http://localhost/livez", &[]),
        ] {
            let (status, answer) = asked(&gateway, first, lines).await;
            assert_eq!(status, 400, "{first} {lines:?}: {answer}");
            assert!(
                answer.contains("\"invalid_host\"") && answer.contains("\"invalid_request_error\""),
                "{answer}"
            );
        }
        assert_eq!(asked(&gateway, "GET http://localhost/livez", &["host: LOCALHOST:80"]).await.0, 200);
        // The older version of the protocol needs none, and no browser speaks it.
        let mut old = Connection::open(gateway.address()).await;
        old.send("GET /livez HTTP/1.0\r\n\r\n").await;
        assert!(old.read_to_end(PATIENCE).await.unwrap().contains("200 OK"));
    }
}

#[tokio::test]
async fn with_keys_or_for_other_machines_any_name_is_right() {
    for setup in
        [Setup::new().env("AUTH", "keys"), Setup::new().env("AUTH", "none").env("LISTEN", "0.0.0.0:0")]
    {
        let gateway = setup.start();
        let port = gateway.base().rsplit(':').next().unwrap().to_owned();
        let mut connection = Connection::open(&format!("127.0.0.1:{port}")).await;
        connection.send("GET /api/ping HTTP/1.1\r\nhost: llm.example\r\n\r\n").await;
        assert!(connection.until("pong").await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn answers_are_what_they_say_and_no_pages_of_this_site() {
    let html = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-security-policy: default-src *\r\ncontent-length: 3\r\n\r\n<p>";
    let upstream = Upstream::answering(crate::support::Step::Send(html.into())).await;
    let gateway = Setup::upstream("openai", &upstream.v1(), &["m"]).env("CORS_ORIGINS", CORS).start();
    let raw = gateway.get("/api/passthrough/up/v1/x").send().await.unwrap();
    let policies: Vec<_> = raw.headers().get_all("content-security-policy").iter().collect();
    assert_eq!(policies, ["sandbox"]);
    for path in ["/api/passthrough/up/v1/x", "/api/tags", "/docs", "/", "/nothing", "/metrics", "/admin/keys"]
    {
        let answer = gateway.get(path).send().await.unwrap();
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff", "{path}");
    }
    let page = ["host: localhost", "origin: https://app.example", "access-control-request-method: PUT"];
    assert!(asked(&gateway, "OPTIONS /api/chat", &page).await.1.contains("nosniff"));
    assert!(asked(&gateway, "GARBAGE", &["bad header"]).await.1.contains("nosniff"));
    let (status, error) = answer(gateway.get("/api/passthrough/missing/x")).await;
    assert_eq!(status, 404, "{error}");
    let docs = gateway.get("/docs").send().await.unwrap();
    let policy = docs.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("default-src 'none'"), "{policy}");
    assert_eq!(docs.headers()["x-frame-options"], "DENY");
}

#[tokio::test]
async fn pages_that_may_call_can_read_what_is_left_of_limits() {
    let (_upstream, gateway) = both(|setup| setup.env("CORS_ORIGINS", CORS)).await;
    let lines = ["host: localhost", "origin: https://app.example"];
    let (status, answer) = asked(&gateway, "GET /v1/models", &lines).await;
    assert_eq!(status, 200, "{answer}");
    let exposed =
        answer.lines().find_map(|line| line.strip_prefix("access-control-expose-headers: ")).unwrap();
    let exposed: Vec<&str> = exposed.split(',').map(str::trim).collect();
    for figure in ["limit", "remaining", "reset"] {
        for of in ["requests", "tokens"] {
            let name = format!("x-ratelimit-{figure}-{of}");
            assert!(exposed.contains(&name.as_str()), "{name} in {exposed:?}");
        }
    }
}
