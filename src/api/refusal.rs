//! Refusals of requests whose head cannot be read.
//!
//! Those never reach an endpoint: hyper refuses them itself, with a status and nothing else. They get the body that
//! every error has, and their line in the log.

use std::time::Duration;

use bytes::Bytes;
use memchr::memmem;
use poem::http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::ApiError;
use crate::llm::unique_id;

/// How much of a refused request is read, and for how long.
const MOST_UNREAD_BYTES: usize = 256 * 1024;
const LINGER: Duration = Duration::from_secs(1);

/// The refusal in words, if `head` is the beginning of one by hyper. Answers of our own have an id. `is_endless` says that a
/// body was announced whose length no number holds, which hyper takes for headers that are too long.
pub(super) fn in_words(head: &[u8], is_endless: bool) -> Option<Bytes> {
    let status = head.strip_prefix(b"HTTP/1.1 ").filter(|status| status.starts_with(b"4"))?;
    if memmem::find(head, b"x-request-id").is_some() {
        return None;
    }
    let status = StatusCode::from_bytes(status.get(..3)?).ok()?;
    let status = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE if is_endless => StatusCode::PAYLOAD_TOO_LARGE,
        status => status,
    };
    let (code, message) = match status {
        StatusCode::PAYLOAD_TOO_LARGE => ("request_too_large", "the body is larger than any that is taken"),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            ("headers_too_large", "the headers are too many or too long")
        }
        StatusCode::URI_TOO_LONG => ("uri_too_long", "the address is too long"),
        _ => ("invalid_http", "the request is not valid HTTP"),
    };
    Some(whole(status, code, message))
}

/// Answers a request that came without encryption where there is encryption, and ends its connection.
///
/// # Errors
/// The connection is gone.
pub(super) async fn of_plain_http(mut socket: TcpStream) -> std::io::Result<()> {
    let message = "this port speaks HTTPS: use an address that begins with https://";
    socket.write_all(&whole(StatusCode::BAD_REQUEST, "https_required", message)).await?;
    socket.shutdown().await?;
    // What is still to come is read for a moment: closed before, the caller may never see the answer.
    let mut read = 0;
    let unread = async {
        let mut piece = [0; 4096];
        while read < MOST_UNREAD_BYTES {
            match socket.read(&mut piece).await {
                Ok(bytes) if bytes > 0 => read += bytes,
                _ => break,
            }
        }
    };
    let _ = timeout(LINGER, unread).await;
    Ok(())
}

/// The whole answer to a request that no endpoint gets, which is written down here.
fn whole(status: StatusCode, code: &'static str, message: &str) -> Bytes {
    let id = unique_id("req_");
    tracing::info!(
        request_id = %id,
        endpoint = "unreadable",
        status = status.as_u16(),
        outcome = "failed",
        error = code,
        "Request"
    );
    let body = ApiError::new(status, code, message).body(false).to_string();
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nx-request-id: {id}\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n{body}"
    );
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_refusal_is_put_into_words() {
        for (head, code) in [
            (
                &b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n"[..],
                "headers_too_large",
            ),
            (b"HTTP/1.1 414 URI Too Long\r\n\r\n", "uri_too_long"),
            (b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", "invalid_http"),
        ] {
            let told = in_words(head, false).unwrap();
            let told = std::str::from_utf8(&told).unwrap();
            let (head, body) = told.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["error"]["code"], code);
        }
    }

    #[test]
    fn a_length_that_no_number_holds_is_a_body_that_is_too_large() {
        let told = in_words(b"HTTP/1.1 431 Request Header Fields Too Large\r\n\r\n", true).unwrap();
        let told = std::str::from_utf8(&told).unwrap();
        assert!(told.starts_with("HTTP/1.1 413 ") && told.contains("request_too_large"), "{told}");
    }

    #[test]
    fn answers_of_our_own_and_bodies_are_left_alone() {
        for text in [
            &b"HTTP/1.1 404 Not Found\r\nx-request-id: 1\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"data: HTTP/1.1 400",
            b"HTTP/1.1 4",
            b"",
        ] {
            assert!(in_words(text, false).is_none());
        }
    }
}
