//! Addresses, headers and the retry on a closed connection, against a raw server.

use std::sync::atomic::{AtomicUsize, Ordering};

use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

fn config(base_url: &str) -> ProviderConfig {
    ProviderConfig {
        base_url: Some(base_url.to_owned()),
        api_key: Some(SecretString::from("planted-key")),
        place: "models.json: providers.p".to_owned(),
        ..ProviderConfig::of("p", "openai")
    }
}

fn upstream(base_url: &str) -> Arc<Upstream> {
    Arc::new(Upstream::new(&config(base_url), &Shared::default(), "/v1").unwrap())
}

#[test]
fn addresses_with_and_without_a_path_are_joined() {
    for (base, chat, root) in [
        ("http://h:1", "http://h:1/v1/chat", "http://h:1/x"),
        ("http://h:1/", "http://h:1/v1/chat", "http://h:1/x"),
        ("http://h:1/v1", "http://h:1/v1/chat", "http://h:1/x"),
        ("http://h:1/v1/", "http://h:1/v1/chat", "http://h:1/x"),
        ("https://h/api/v1", "https://h/api/v1/chat", "https://h/api/x"),
        ("https://h/openai", "https://h/openai/chat", "https://h/openai/x"),
    ] {
        let upstream = upstream(base);
        assert_eq!(upstream.target("chat").unwrap().url.as_str(), chat);
        assert_eq!(upstream.root_target("/x", None).unwrap().url.as_str(), root);
    }
}

#[test]
fn bad_addresses_and_keys_are_faults_that_do_not_repeat_them() {
    for base in ["", "h:1", "ftp://h", "http://planted:secret@h", "http://h/?planted=1", "http://"] {
        let fault = Upstream::new(&config(base), &Shared::default(), "/v1").unwrap_err().to_string();
        assert!(
            fault.contains("base_url") && fault.contains("providers.p") && !fault.contains("planted"),
            "{base}: {fault}"
        );
    }
    for key in [
        "planted\nkey",
        "planted key",
        "“planted”",
        "planted\u{200b}",
        "\u{a0}planted",
        "plantedź",
        "\"planted\"",
        "'planted'",
    ] {
        let mut config = config("http://h");
        config.api_key = Some(SecretString::from(key));
        let fault = Upstream::new(&config, &Shared::default(), "/v1").unwrap_err().to_string();
        assert!(fault.contains("api_key") && !fault.contains("planted"), "{fault}");
    }
    for (value, is_good) in [
        ("“planted”", false),
        ("planted\u{feff}", false),
        ("planted\r", false),
        ("Żółw's planted \"key\"", true),
    ] {
        let mut config = config("http://h");
        config.headers = [("x-key".to_owned(), SecretString::from(value))].into_iter().collect();
        let made = Upstream::new(&config, &Shared::default(), "/v1");
        assert_eq!(made.is_ok(), is_good, "{value}");
        let fault = made.map_or_else(|fault| fault.to_string(), |_| "`x-key`".to_owned());
        assert!(fault.contains("`x-key`") && !fault.contains("planted"), "{fault}");
    }
}

#[test]
fn debug_output_shows_no_key() {
    assert!(!format!("{:?}", upstream("http://h")).contains("planted"));
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

/// A server that answers the first `answers` requests of a connection, and closes it on the next one
/// without a word. Counts the requests of all connections.
async fn server(answers: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    #[expect(clippy::disallowed_methods, reason = "a test's own server ends with the test")]
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(converse(socket, answers, counted.clone()));
        }
    });
    (address, requests)
}

async fn converse(mut socket: TcpStream, answers: usize, counted: Arc<AtomicUsize>) {
    let mut buffer = [0; 4096];
    for answered in 0.. {
        let read = socket.read(&mut buffer).await.unwrap_or(0);
        counted.fetch_add(read.min(1), Ordering::SeqCst);
        if read == 0 || answered == answers {
            return;
        }
        socket.write_all(ANSWER).await.unwrap();
    }
}

async fn ask(upstream: &Upstream) -> Result<Bytes, ErrorKind> {
    upstream
        .get(&upstream.target("models").unwrap(), Duration::from_secs(5))
        .await
        .map_err(|error| error.kind)
}

#[tokio::test]
async fn a_request_on_a_connection_that_turns_out_closed_is_sent_once_more() {
    let (address, requests) = server(1).await;
    let upstream = upstream(&address);

    assert_eq!(ask(&upstream).await.unwrap(), "{}");
    // The server reads this one on the pooled connection and hangs up; the next connection answers.
    assert_eq!(ask(&upstream).await.unwrap(), "{}");
    assert_eq!(requests.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_request_on_its_own_connection_is_never_sent_twice() {
    let (address, requests) = server(0).await;
    let upstream = upstream(&address);

    assert_eq!(ask(&upstream).await, Err(ErrorKind::Unreachable));
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}
