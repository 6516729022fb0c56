//! Where requests come from: what the log and the audit say of it, and what becomes of addresses that guess keys.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::support::{Connection, Gateway, PATIENCE, Setup, answer};

const ADMIN: &str = "an-admin-key-of-some-length";

fn keyed() -> Setup {
    Setup::new().env("AUTH", "keys").env("ADMIN_KEY", ADMIN)
}

async fn audited(gateway: &Gateway) -> Vec<(String, Value)> {
    let (status, told) = answer(gateway.get("/admin/audit").header("x-admin-key", ADMIN)).await;
    assert_eq!(status, 200, "{told}");
    let entries = told["entries"].as_array().unwrap().iter();
    entries.map(|entry| (entry["action"].as_str().unwrap().to_owned(), entry["peer"].clone())).collect()
}

#[tokio::test]
async fn the_audit_and_the_log_say_where_it_came_from() {
    let setup = keyed();
    let socket = setup.path("gateway.sock");
    let gateway = setup.env("LISTEN", &format!("127.0.0.1:0,unix:{}", socket.display())).start();
    let named = |name: &str| json!({"name": name});
    let post = |path: &str, body: &Value| gateway.post(path, body).header("x-admin-key", ADMIN);
    let (_, made) = answer(post("/admin/keys", &named("a"))).await;
    let id = made["id"].as_str().unwrap();
    answer(post(&format!("/admin/keys/{id}/rotate"), &json!({}))).await;
    let (_, own) = answer(post("/admin/keys", &named("b"))).await;
    let rotate = gateway.post("/api/me/rotate", &json!({})).bearer_auth(own["key"].as_str().unwrap());
    assert_eq!(answer(rotate).await.0, 200);
    assert_eq!(answer(post("/admin/reload", &json!({}))).await.0, 200);
    let made = gateway.run(&["keys", "create", "--name", "c"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let delete = gateway.http().delete(format!("{}/admin/keys/{id}", gateway.base()));
    // Nothing says that this client is a proxy.
    let delete = delete.header("x-admin-key", ADMIN).header("x-forwarded-for", "203.0.113.9");
    assert_eq!(answer(delete).await.0, 200);
    let mut unix = Connection { socket: UnixStream::connect(&socket).await.unwrap() };
    let body = json!({"name": "d"}).to_string();
    let lines =
        format!("x-admin-key: {ADMIN}\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
    unix.send(&format!("POST /admin/keys HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n\r\n{body}")).await;
    unix.until("llmp_").await;

    let here = json!("127.0.0.1");
    crate::support::eventually("all are noted", async || audited(&gateway).await.len() == 8).await;
    let mut audited = audited(&gateway).await;
    audited.reverse();
    assert_eq!(audited.iter().filter(|(_, peer)| *peer == here).count(), 6, "{audited:?}");
    let of = |action: &str, peer: Value| audited.contains(&(action.to_owned(), peer));
    assert!(of("configuration.reload", here.clone()) && of("key.rotate", here.clone()), "{audited:?}");
    assert!(of("key.delete", here) && of("key.create", json!("unix")) && of("key.create", Value::Null));

    assert_eq!(gateway.get("/v1/models").send().await.unwrap().status(), 401);
    let line = gateway.logged("error=\"missing_api_key\"");
    assert!(line.contains("peer=127.0.0.1"), "{line}");
    assert_eq!(gateway.get("/api/ping").send().await.unwrap().status(), 200);
    assert!(!gateway.logged("endpoint=/api/ping").contains("peer="));
}

#[tokio::test]
async fn a_trusted_proxy_says_where_it_came_from() {
    let gateway = keyed().env("TRUSTED_PROXIES", "127.0.0.0/8, 10.0.0.0/8").start();
    for (name, value, peer) in [
        ("x-forwarded-for", "198.51.100.1, 203.0.113.9, 10.1.1.1", "203.0.113.9"),
        ("forwarded", "for=\"[2001:db8::7]:1234\";proto=https, for=10.2.2.2", "2001:db8::7"),
        ("x-forwarded-for", "not an address", "127.0.0.1"),
    ] {
        let asked =
            gateway.get("/v1/models").header(name, value).header("x-request-id", format!("of-{peer}"));
        assert_eq!(asked.send().await.unwrap().status(), 401);
        let line = gateway.logged(&format!("request_id=of-{peer}"));
        assert!(line.contains(&format!("peer={peer}")), "{line}");
    }
    let ended = keyed().env("TRUSTED_PROXIES", "10.0.0.0/40").run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("LLM_PROXY_API_TRUSTED_PROXIES"), "{}", ended.stderr);
}

async fn guess(gateway: &Gateway, from: &str, key: &str) -> (u16, Value, Duration) {
    let began = Instant::now();
    let asked = gateway.get("/admin/keys").header("x-admin-key", key).header("x-forwarded-for", from);
    let (status, told) = answer(asked).await;
    (status, told, began.elapsed())
}

#[tokio::test]
async fn guesses_of_one_address_are_slowed_and_no_key_that_is_right() {
    let gateway = keyed().env("TRUSTED_PROXIES", "127.0.0.1").start();
    let began = Instant::now();
    for number in 0..14 {
        let (status, told, _) = guess(&gateway, "203.0.113.9", &format!("guess-{number}")).await;
        assert_eq!((status, &told["error"]["code"]), (401, &json!("invalid_api_key")));
    }
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
    // 9 at once: one too many waits.
    let many = (0..20).map(|number| {
        let (gateway, key) = (&gateway, format!("another-{number}"));
        async move { guess(gateway, "203.0.113.9", &key).await }
    });
    let (right, many) =
        tokio::join!(guess(&gateway, "203.0.113.9", ADMIN), futures_util::future::join_all(many));
    let slowest = many.iter().map(|(_, _, took)| *took).max().unwrap();
    assert_eq!(right.0, 200);
    assert!(right.2 < slowest, "{:?} {slowest:?}", right.2);
    let refused: Vec<_> = many.iter().filter(|(status, ..)| *status == 429).collect();
    assert!(refused.len() >= 4, "{many:?}");
    assert_eq!(refused[0].1["error"]["code"], "rate_limit_exceeded");
    assert!(many.iter().all(|(status, ..)| matches!(status, 401 | 429)), "{many:?}");

    let (status, _, took) = guess(&gateway, "203.0.113.10", "guess").await;
    assert!(
        status == 401 && took < Duration::from_millis(1500),
        "another address waits for nothing: {took:?}"
    );
    // The log tells of them, and not of each.
    let line = gateway.logged("Wrong admin keys were shown");
    assert!(line.contains("peer=203.0.113.9"), "{line}");
    assert!(gateway.log().matches("Wrong admin keys were shown").count() <= 3, "{}", gateway.log());
    assert!(!gateway.log().contains("guess-3"));
}

#[tokio::test]
async fn a_request_shows_one_key() {
    let gateway = keyed().start();
    let made = gateway.post("/admin/keys", &json!({"name": "k"})).header("x-admin-key", ADMIN);
    let key = answer(made).await.1["key"].as_str().unwrap().to_owned();
    let bearer = format!("authorization: Bearer {key}");
    let (own, wrong) = (format!("x-api-key: {key}"), "x-api-key: llmp_wrong".to_owned());
    let (admin, guess) = (format!("x-admin-key: {ADMIN}"), "x-admin-key: guess".to_owned());
    for (path, lines, status) in [
        ("/v1/models", vec![&bearer, &own], 200),
        ("/v1/models", vec![&bearer, &bearer], 200),
        ("/v1/models", vec![&bearer, &wrong], 401),
        ("/v1/models", vec![&wrong, &own], 401),
        ("/admin/keys", vec![&guess, &admin], 401),
        ("/admin/keys", vec![&admin, &guess, &guess], 401),
        ("/admin/keys", vec![&admin, &admin], 200),
        ("/admin/keys", vec![&bearer, &admin], 200),
        ("/admin/keys", vec![&bearer, &guess], 401),
    ] {
        let mut connection = Connection::open(gateway.address()).await;
        let shown: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        connection
            .send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{shown}connection: close\r\n\r\n"))
            .await;
        let answer = connection.read_to_end(PATIENCE).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {lines:?}: {answer}");
    }
}
