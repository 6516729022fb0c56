//! Operators on a network: keys with names, the figures' own key and listener, the document with a caller's key, and what
//! the audit says of calls that were rejected.

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, answer, eventually};

const ANN: &str = "planted-key-of-ann-1234";
const BOB: &str = "planted-key-of-bob-5678";
const FIGURES: &str = "planted-key-of-figures-9";

fn open_to_all(auth: &str) -> Setup {
    Setup::new().env("LISTEN", "0.0.0.0:0").env("AUTH", auth)
}

/// Where a service that listens on all addresses is reached from here.
fn here(gateway: &Gateway, path: &str) -> String {
    format!("http://127.0.0.1:{}{path}", gateway.address().rsplit_once(':').unwrap().1)
}

async fn status(gateway: &Gateway, path: &str, header: Option<(&str, &str)>) -> u16 {
    let request = gateway.http().get(here(gateway, path));
    let request = header.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    request.send().await.unwrap().status().as_u16()
}

async fn audit(gateway: &Gateway) -> Vec<Value> {
    let request = gateway.http().get(here(gateway, "/admin/audit")).header("x-admin-key", ANN);
    answer(request).await.1["entries"].as_array().cloned().unwrap_or_default()
}

async fn make_key(gateway: &Gateway, admin: &str) -> String {
    let request = gateway.http().post(here(gateway, "/admin/keys")).header("x-admin-key", admin);
    let (status, made) =
        answer(request.header("content-type", "application/json").body(json!({"name": "k"}).to_string()))
            .await;
    assert_eq!(status, 200, "{made}");
    made["key"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_admin_key_opens_and_the_audit_says_whose_it_was() {
    let keys = format!("ann:{ANN},bob:{BOB}");
    let gateway = Setup::new().env("ADMIN_KEY", &keys).start();
    for admin in [ANN, BOB] {
        make_key(&gateway, admin).await;
    }
    let reload = gateway.http().post(here(&gateway, "/admin/reload")).header("x-admin-key", BOB);
    assert_eq!(answer(reload).await.0, 200);
    let mut actors = Vec::new();
    eventually("all is noted", async || {
        let entries = audit(&gateway).await;
        actors = entries
            .iter()
            .map(|it| format!("{} {}", it["actor"].as_str().unwrap(), it["action"].as_str().unwrap()))
            .collect();
        actors.len() == 3
    })
    .await;
    assert_eq!(actors, ["admin:bob configuration.reload", "admin:bob key.create", "admin:ann key.create"]);
    assert!(gateway.logged("endpoint=/admin/reload").contains("admin=\"bob\""), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_admin_calls_are_in_the_audit_and_not_without_end() {
    let gateway = Setup::new().env("AUTH", "keys").env("ADMIN_KEY", ANN).start();
    let caller = make_key(&gateway, ANN).await;
    assert_eq!(status(&gateway, "/admin/keys", None).await, 401);
    assert_eq!(status(&gateway, "/admin/usage", Some(("x-admin-key", "planted-guess"))).await, 401);
    assert_eq!(status(&gateway, "/api/engines/events", Some(("x-api-key", &caller))).await, 401);
    // Those of callers are none of these.
    assert_eq!(status(&gateway, "/v1/models", None).await, 401);
    let mut rejected: Vec<Value> = Vec::new();
    eventually("all three are noted", async || {
        rejected =
            audit(&gateway).await.into_iter().filter(|entry| entry["action"] == "admin.rejected").collect();
        rejected.len() == 3
    })
    .await;
    let told: Vec<(&str, &str)> = rejected
        .iter()
        .rev()
        .map(|entry| (entry["subject"].as_str().unwrap(), entry["detail"]["code"].as_str().unwrap()))
        .collect();
    let expected = [
        ("/admin/keys", "missing_api_key"),
        ("/admin/usage", "invalid_api_key"),
        ("/api/engines/events", "missing_api_key"),
    ];
    assert_eq!(told, expected);
    assert!(
        rejected.iter().all(|entry| entry["actor"] == "unknown" && entry["peer"] == "127.0.0.1"),
        "{rejected:?}"
    );
    assert!(!Value::from(rejected).to_string().contains("planted"));

    for _ in 0..80 {
        status(&gateway, "/admin/keys", None).await;
    }
    // Sixty a minute: three of them were before.
    eventually("as many are noted as there is room for", async || {
        let all = audit(&gateway).await;
        all.iter().filter(|entry| entry["action"] == "admin.rejected").count() == 60
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_figures_have_a_key_of_their_own() {
    for auth in ["keys", "none"] {
        let setup = open_to_all(auth).env("METRICS_KEY", FIGURES).env("ADMIN_KEY", ANN);
        let gateway = setup.start();
        let bearer = |key: &str| format!("Bearer {key}");
        for (header, expected) in [
            (None, 401),
            (Some(("authorization", bearer(FIGURES))), 200),
            (Some(("x-api-key", FIGURES.to_owned())), 200),
            (Some(("authorization", bearer(ANN))), 200),
            (Some(("authorization", bearer("planted-guess"))), 401),
        ] {
            let header = header.as_ref().map(|(name, value)| (*name, value.as_str()));
            assert_eq!(status(&gateway, "/metrics", header).await, expected, "{auth} {header:?}");
        }
        // It opens nothing else.
        assert_eq!(status(&gateway, "/admin/keys", Some(("x-admin-key", FIGURES))).await, 401);
        assert_eq!(status(&gateway, "/docs", Some(("x-api-key", FIGURES))).await, 401);
    }
    let gateway = Setup::new().env("METRICS_KEY", FIGURES).start();
    assert_eq!(status(&gateway, "/metrics", None).await, 401, "where it is set, it is asked for");
    let gateway = open_to_all("none").start();
    assert_eq!(status(&gateway, "/metrics", None).await, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_figures_have_a_listener_of_their_own() {
    let setup = open_to_all("keys");
    let socket = setup.path("figures.sock").display().to_string();
    let gateway = setup.env("METRICS_LISTEN", &format!("127.0.0.1:0,unix:{socket}")).start_on_terminal();
    let banner = gateway.log();
    let at = banner.lines().find_map(|line| line.trim().strip_prefix("figures")).unwrap().trim();
    let base = at.strip_suffix("/metrics").unwrap();
    let get = async |path: &str| {
        let answer = gateway.http().get(format!("{base}{path}")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (code, text) = get("/metrics").await;
    assert!(code == 200 && text.contains("llm_proxy_build_info"), "{text}");
    assert_eq!(get("/readyz").await.0, 200);
    for other in ["/v1/models", "/docs", "/admin/keys", "/api/ping", "/"] {
        assert_eq!(get(other).await.0, 404, "{other}");
    }
    assert!(std::path::Path::new(&socket).exists());
    // Elsewhere they are as closed as before.
    assert_eq!(status(&gateway, "/metrics", None).await, 404);

    let taken = base.trim_start_matches("http://").to_owned();
    let ended = Setup::new().env("METRICS_LISTEN", &taken).run(&[]);
    assert!(
        ended.code == Some(1) && ended.stderr.contains("LLM_PROXY_API_METRICS_LISTEN"),
        "{}",
        ended.stderr
    );
    let gateway =
        Setup::new().env("METRICS_KEY", FIGURES).env("METRICS_LISTEN", "127.0.0.1:0").start_on_terminal();
    let banner = gateway.log();
    let at = banner.lines().find_map(|line| line.trim().strip_prefix("figures")).unwrap().trim().to_owned();
    assert_eq!(
        gateway.http().get(&at).send().await.unwrap().status(),
        401,
        "the key is asked for there, too"
    );
    assert_eq!(gateway.http().get(&at).bearer_auth(FIGURES).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_and_the_document_open_with_a_callers_key_also_in_a_browser() {
    let gateway = open_to_all("keys").env("ADMIN_KEY", ANN).start();
    let caller = make_key(&gateway, ANN).await;
    for path in ["/docs", "/openapi.json"] {
        let refused = gateway.http().get(here(&gateway, path)).send().await.unwrap();
        assert_eq!(refused.status(), 401);
        let asked: Vec<&str> = refused
            .headers()
            .get_all("www-authenticate")
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        assert!(asked.iter().any(|scheme| scheme.starts_with("Basic realm=")), "{asked:?}");
        for key in [caller.as_str(), ANN] {
            let at = || gateway.http().get(here(&gateway, path));
            for request in
                [at().bearer_auth(key), at().header("x-api-key", key), at().basic_auth("anyone", Some(key))]
            {
                assert_eq!(request.send().await.unwrap().status(), 200, "{path}");
            }
        }
        let wrong = gateway.http().get(here(&gateway, path)).basic_auth("x", Some("planted-guess"));
        assert_eq!(wrong.send().await.unwrap().status(), 401);
    }
    // A password opens nothing but these.
    let models = gateway.http().get(here(&gateway, "/v1/models")).basic_auth("x", Some(&caller));
    assert_eq!(models.send().await.unwrap().status(), 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_banner_names_no_address_that_is_closed() {
    let closed = open_to_all("none").start_on_terminal();
    assert!(closed.log().contains("Try it:") && !closed.log().contains("/docs"), "{}", closed.log());
    assert_eq!(status(&closed, "/docs", None).await, 404);
    let open = open_to_all("none").env("ADMIN_KEY", ANN).start_on_terminal();
    assert!(open.log().contains("/docs (asks for a password: the admin key)"), "{}", open.log());
    let here = Setup::new().start_on_terminal();
    assert!(here.log().contains("/docs\r\n") || here.log().contains("/docs\n"), "{}", here.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_says_which_key_opens_what_and_how_it_is_refused() {
    let gateway = Setup::new().start();
    let document = answer(gateway.get("/openapi.json")).await.1;
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    for name in ["CallerBearer", "CallerHeader", "AdminBearer", "AdminHeader", "MetricsBearer"] {
        assert!(schemes.contains_key(name), "{name}");
    }
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let security = operation["security"].as_array().unwrap();
            let first = security.first().and_then(|one| one.as_object()?.keys().next().cloned());
            let expected = match path.as_str() {
                "/livez" | "/readyz" | "/api/ping" => None,
                "/metrics" => Some("MetricsBearer"),
                path if path.starts_with("/admin/") => Some("AdminBearer"),
                "/api/engines/events" => Some("AdminBearer"),
                path if path.starts_with("/api/engines/{model}/") => Some("AdminBearer"),
                _ => Some("CallerBearer"),
            };
            assert_eq!(first.as_deref(), expected, "{method} {path}");
            let responses = operation["responses"].as_object().unwrap();
            for status in ["401", "429"] {
                assert_eq!(responses.contains_key(status), expected.is_some(), "{status} of {method} {path}");
            }
            let refused = &responses["403"]["content"];
            assert!(refused.as_object().is_some_and(|content| !content.is_empty()), "403 of {method} {path}");
        }
    }
}
