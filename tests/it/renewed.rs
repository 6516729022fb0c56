//! Certificates and secrets that change while the service runs.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::support::{Gateway, Setup, Upstream, answer, eventually, json};

const ADMIN: &str = "planted-admin-key-of-the-tests";

type Certified = rcgen::CertifiedKey<rcgen::KeyPair>;

fn certificate() -> Certified {
    rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

fn write(gateway: &Gateway, certified: &Certified) {
    let put = |name: &str, text: String| std::fs::write(gateway.folder.path().join(name), text).unwrap();
    put("cert.pem", certified.cert.pem());
    put("key.pem", certified.signing_key.serialize_pem());
}

fn encrypted(certified: &Certified) -> Setup {
    Setup::new()
        .env("ADMIN_KEY", ADMIN)
        .file("cert.pem", &certified.cert.pem())
        .file("key.pem", &certified.signing_key.serialize_pem())
        .env("TLS_CERT", "cert.pem")
        .env("TLS_KEY", "key.pem")
}

/// Whether the service shows this certificate to a new caller.
async fn shows(gateway: &Gateway, certified: &Certified) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certified.cert.der().to_vec())).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let socket = TcpStream::connect(gateway.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await.is_ok()
}

fn http_trusting(certificates: &[&Certified]) -> reqwest::Client {
    let trusted =
        certificates.iter().map(|one| reqwest::Certificate::from_pem(one.cert.pem().as_bytes()).unwrap());
    reqwest::Client::builder().no_proxy().tls_certs_only(trusted).build().unwrap()
}

fn at(gateway: &Gateway, path: &str) -> String {
    format!("https://localhost:{}{path}", gateway.address().rsplit_once(':').unwrap().1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_holds_as_soon_as_its_files_are_there() {
    let (first, second) = (certificate(), certificate());
    let gateway = encrypted(&first).start();
    assert!(shows(&gateway, &first).await && !shows(&gateway, &second).await);
    // A connection that is open goes on with the one it has.
    let http = http_trusting(&[&first]);
    assert_eq!(answer(http.get(at(&gateway, "/api/ping"))).await.0, 200);

    write(&gateway, &second);
    eventually("the new one is shown", async || shows(&gateway, &second).await).await;
    assert!(!shows(&gateway, &first).await);
    assert_eq!(answer(http.get(at(&gateway, "/api/ping"))).await.0, 200);
    gateway.logged("The changed configuration is in place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_a_new_certificate_at_once_and_says_so_and_a_bad_one_changes_nothing() {
    let (first, second) = (certificate(), certificate());
    let gateway = encrypted(&first).start();
    let http = http_trusting(&[&first, &second]);
    let reload = async |path: &str| answer(http.post(at(&gateway, path)).header("x-admin-key", ADMIN)).await;
    write(&gateway, &second);
    let expected = json!([{"kind": "secret", "name": "TLS_CERT", "change": "changed", "details": []}]);
    let (status, told) = reload("/admin/reload?dry_run=true").await;
    assert_eq!((status, &told["changes"]), (200, &expected), "{told}");
    let (status, told) = reload("/admin/reload").await;
    assert_eq!(status, 200, "{told}");
    assert!(shows(&gateway, &second).await);

    std::fs::write(gateway.folder.path().join("cert.pem"), first.cert.pem()).unwrap();
    gateway.signal("HUP");
    let line = gateway.logged("is refused, the one before it goes on");
    assert!(line.contains("LLM_PROXY_API_TLS_KEY"), "{line}");
    assert!(shows(&gateway, &second).await && !shows(&gateway, &first).await);
    let (status, error) = reload("/admin/reload").await;
    assert_eq!((status, &error["error"]["code"]), (409, &json!("reload_refused")), "{error}");

    write(&gateway, &first);
    eventually("the pair is whole again", async || shows(&gateway, &first).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_providers_key_in_a_file_is_read_anew_when_the_file_changes() {
    let upstream = Upstream::answering(json(200, "", &json!({"data": []}))).await;
    let provider = json!({"type": "openai", "base_url": upstream.v1(), "api_key": "${file:key.txt}", "models": {"m": {}}});
    let setup = Setup::new().file("key.txt", "first-key\n").models(&json!({"providers": {"up": provider}}));
    let gateway = setup.start();
    let sent = async || {
        gateway.get("/api/passthrough/up/v1/files").send().await.unwrap();
        upstream.seen().last().unwrap().header("authorization").unwrap_or_default().to_owned()
    };
    assert_eq!(sent().await, "Bearer first-key");
    std::fs::write(gateway.folder.path().join("key.txt"), "second-key\n").unwrap();
    eventually("the new key is sent", async || sent().await == "Bearer second-key").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_secret_may_be_in_a_file_and_that_of_operators_may_change() {
    let database = "sqlite://mine.db\n";
    let gateway = Setup::new()
        .file("admin", "ann:planted-first-key-of-ann\n")
        .file("metrics", "planted-key-of-figures\r\n")
        .file("database", database)
        .env("ADMIN_KEY_FILE", "admin")
        .env("METRICS_KEY_FILE", "metrics")
        .env("DATABASE_URL_FILE", "database")
        .start();
    let opens = async |key: &str| answer(gateway.get("/admin/keys").bearer_auth(key)).await.0 == 200;
    assert!(opens("planted-first-key-of-ann").await && !opens("planted-second-key-of-ann").await);
    assert_eq!(
        gateway.get("/metrics").bearer_auth("planted-key-of-figures").send().await.unwrap().status(),
        200
    );
    assert!(gateway.folder.path().join("mine.db").exists());
    assert!(!gateway.log().contains("is not a known variable"), "{}", gateway.log());

    std::fs::write(gateway.folder.path().join("admin"), "ann:planted-second-key-of-ann").unwrap();
    eventually("the new key opens", async || opens("planted-second-key-of-ann").await).await;
    assert!(!opens("planted-first-key-of-ann").await);
    assert!(!gateway.log().contains("planted"), "{}", gateway.log());
}

#[test]
fn a_setting_and_its_file_together_are_a_start_error() {
    for command in [&[][..], &["check"], &["keys", "list"]] {
        for (name, value) in [("ADMIN_KEY", "planted-key"), ("REDIS_URL", "redis://:planted@127.0.0.1:1")] {
            let setup =
                Setup::new().file("secret", "x").env(name, value).env(&format!("{name}_FILE"), "secret");
            let ended = setup.run(command);
            assert_eq!(ended.code, Some(1), "{command:?} {}", ended.stderr);
            let words = format!("LLM_PROXY_API_{name}_FILE: is set together with LLM_PROXY_API_{name}");
            assert!(ended.stderr.contains(&words), "{}", ended.stderr);
            assert!(!ended.stderr.contains("planted"), "{}", ended.stderr);
        }
    }
    let ended = Setup::new().env("ADMIN_KEY_FILE", "nowhere").run(&[]);
    assert!(ended.code == Some(1) && ended.stderr.contains("`nowhere` cannot be read"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_does_not_change_reloads_nothing() {
    let gateway = Setup::new().file("admin", ADMIN).env("ADMIN_KEY_FILE", "admin").start();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(gateway.figure("llm_proxy_reloads_total", "").await, 0.0);
    let (_, listed): (u16, Value) = answer(gateway.get("/admin/keys").bearer_auth(ADMIN)).await;
    assert!(listed["keys"].is_array(), "{listed}");
}
