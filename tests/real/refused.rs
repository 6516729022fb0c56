//! Clients that send a large body without a key: each of them reads why it is refused.

use std::process::Stdio;

use tempfile::NamedTempFile;
use tokio::process::Command;

use crate::harness::{Claim, Need, claims};
use crate::support::{Gateway, soon};

pub(crate) fn claims() -> Vec<Claim> {
    let node = claims![&[Need::Node]; fetch_of_node_reads_every_refusal];
    let python = claims![&[Need::Python]; http_client_of_python_reads_every_refusal];
    let curl = claims![&[Need::Curl]; curl_reads_every_refusal];
    [node, python, curl].into_iter().flatten().collect()
}

/// What a program prints that is asked to speak to a gateway which wants a key.
async fn said(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = soon("a client", command.output()).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.trim().to_owned()
}

async fn fetch_of_node_reads_every_refusal() {
    const SCRIPT: &str = r#"
        const [base] = process.argv.slice(1);
        const body = "x".repeat(5_000_000);
        const seen = {};
        const count = (what) => { seen[what] = (seen[what] ?? 0) + 1; };
        const ask = async (path, headers, method = "POST") => {
            try {
                const answer = await fetch(base + path, { method, headers, body });
                await answer.text();
                count(`${answer.status}`);
            } catch (error) {
                count(error.cause?.code ?? `${error}`);
            }
        };
        const json = { "content-type": "application/json" };
        // More wrong keys than this are slowed.
        for (let i = 0; i < 12; i++) {
            await ask("/v1/chat/completions", { ...json, authorization: "Bearer llmp_wrong" });
        }
        for (let i = 0; i < 8; i++) {
            await ask("/v1/chat/completions", json);
        }
        for (let i = 0; i < 5; i++) {
            await ask("/v1/chat/completions", { ...json, origin: "https://evil.example" });
            await ask("/nothing", json);
            await ask("/api/ping", json, "PUT");
        }
        console.log(JSON.stringify(seen));
    "#;
    let gateway = Gateway::with_keys().await;
    let seen = said("node", &["-e", SCRIPT, &gateway.base]).await;
    let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
    let wrong = seen["401"].as_u64().unwrap_or_default();
    assert!(wrong == 20 && seen["404"] == 5 && seen["405"] == 5 && seen["403"] == 5, "{seen}");
}

async fn http_client_of_python_reads_every_refusal() {
    const SCRIPT: &str = r#"
import http.client, sys
host, port = sys.argv[1].split("//")[1].split(":")
def ask(connection, path, body, **headers):
    connection.request("POST", path, body, {"content-type": "application/json", **headers})
    answer = connection.getresponse()
    answer.read()
    return answer.status
connection = http.client.HTTPConnection(host, int(port))
small = [ask(connection, "/v1/chat/completions", "x" * (n * 1000)) for n in range(60)]
assert small == [401] * 60, small
large = [ask(connection, "/v1/chat/completions", "x" * 5_000_000) for _ in range(60)]
assert large == [401] * 60, large
others = [ask(connection, "/nothing", "x" * 5_000_000) for _ in range(10)]
assert others == [404] * 10, others
typed = [ask(connection, "/v1/chat/completions", "x" * 5_000_000, origin="null") for _ in range(10)]
assert typed == [403] * 10, typed
print("all read")
"#;
    let gateway = Gateway::with_keys().await;
    assert_eq!(said(Need::Python.path(), &["-c", SCRIPT, &gateway.base]).await, "all read");
}

async fn curl_reads_every_refusal() {
    let gateway = Gateway::with_keys().await;
    let open = Gateway::of_echo().await;
    let body = NamedTempFile::new().unwrap();
    let data = format!("@{}", body.path().display());
    for (gateway, length, path, header, status) in [
        (&gateway, 200_000, "/v1/chat/completions", "x: y", "401"),
        (&gateway, 200_000, "/v1/chat/completions", "expect:", "401"),
        (&gateway, 2_000_000, "/nothing", "expect:", "404"),
        (&open, 200_000, "/v1/chat/completions", "content-encoding: gzip", "415"),
        (&open, 30_000_000, "/v1/chat/completions", "expect:", "413"),
    ] {
        std::fs::write(body.path(), vec![b'x'; length]).unwrap();
        let url = format!("{}{path}", gateway.base);
        for _ in 0..10 {
            let arguments =
                ["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", "content-type: application/json"];
            let request = ["-H", header, "--data-binary", &data, &url];
            assert_eq!(said(Need::Curl.path(), &[&arguments[..], &request].concat()).await, status, "{path}");
        }
    }
}
