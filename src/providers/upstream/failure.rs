//! What an upstream's bad status means.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::timeout;

use super::Upstream;
use crate::providers::error::{ErrorKind, INSUFFICIENT_QUOTA, ProviderError, Rejection};
use crate::providers::transport::Response;
use crate::providers::upstream_error::UpstreamError;

/// An error's text beyond this says nothing more.
const MAX_ERROR_BYTES: usize = 256 * 1024;
/// How long an error's text may take.
const ERROR_TIMEOUT: Duration = Duration::from_secs(5);
/// Nobody can wait longer for a retry.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

impl Upstream {
    /// What an answer with a bad status means.
    pub(super) async fn failure_of(&self, response: Response) -> ProviderError {
        let status = response.status.as_u16();
        let retry_after = retry_after(&response.headers, SystemTime::now());
        let body = timeout(ERROR_TIMEOUT, beginning(response, MAX_ERROR_BYTES)).await;
        // What cannot be read, or not in time, says nothing; the status does.
        let error = UpstreamError::read(&body.unwrap_or_default());
        let words = self.redactor.clean(error.message.as_deref().unwrap_or_default());
        let kind = error.meaning(status, retry_after, &words, &|text| self.redactor.clean(text));
        let error = self.failed(kind);
        if words.is_empty() { error } else { error.with_detail(words) }
    }
}

/// The beginning of a body, up to so many bytes or as far as it comes.
async fn beginning(response: Response, limit: usize) -> Bytes {
    let mut all = BytesMut::new();
    let Ok(mut response) = response.unpacked().await else { return Bytes::new() };
    while let Some(Ok(chunk)) = response.chunk().await {
        let room = limit - all.len();
        all.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if all.len() == limit {
            break;
        }
    }
    all.freeze()
}

impl UpstreamError {
    fn meaning(
        self,
        status: u16,
        retry_after: Option<Duration>,
        words: &str,
        clean: &dyn Fn(&str) -> String,
    ) -> ErrorKind {
        let message = if words.is_empty() {
            format!("the provider answered with status {status}")
        } else {
            words.to_owned()
        };
        match status {
            401 => ErrorKind::Unauthorized { status },
            // The account has run dry, of which callers need not know more.
            402 => {
                let message = "the provider's quota is used up".to_owned();
                let code = Some(INSUFFICIENT_QUOTA.to_owned());
                let rejection = Box::new(Rejection { status, message, code, param: None });
                ErrorKind::RateLimited { retry_after, rejection }
            }
            403 => ErrorKind::Forbidden(Box::new(Rejection { status, message, code: None, param: None })),
            429 => {
                let code = self.code.or(self.kind).map(|code| clean(&code));
                let rejection = Box::new(Rejection { status, message, code, param: None });
                ErrorKind::RateLimited { retry_after, rejection }
            }
            400 | 413 | 422 if self.is_context_too_long() => ErrorKind::ContextTooLong {
                needed_tokens: self.needed_tokens,
                context_tokens: self.context_tokens,
                message,
            },
            400 | 404..=407 | 409..=499 => ErrorKind::Rejected(Box::new(Rejection {
                status,
                message,
                code: self.code.map(|code| clean(&code)),
                param: self.param.map(|param| clean(&param)),
            })),
            408 | 500..=599 => ErrorKind::Unavailable { status, retry_after },
            _ => ErrorKind::Protocol(format!("it answered with status {status}")),
        }
    }
}

/// How long an upstream wants to be left alone: `retry-after-ms`, or `retry-after` in seconds or as a date, or when the
/// limit that is used up holds anew.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let milliseconds =
        text("retry-after-ms").and_then(|text| text.parse::<f64>().ok()).and_then(|ms| seconds(ms / 1000.0));
    let wait = milliseconds.or_else(|| {
        let text = text(RETRY_AFTER.as_str())?;
        if let Ok(seconds) = text.parse::<f64>() {
            return self::seconds(seconds);
        }
        let date = httpdate::parse_http_date(text).ok()?;
        Some(date.duration_since(now).unwrap_or_default())
    });
    let reset = || {
        let of = |(name, value): (&HeaderName, &HeaderValue)| {
            let kind = name.as_str().strip_prefix("x-ratelimit-reset")?;
            let is_left = text(&format!("x-ratelimit-remaining{kind}")).is_some_and(|left| left != "0");
            until_reset(value.to_str().ok()?.trim(), now).filter(|_| !is_left)
        };
        headers.iter().filter_map(of).max()
    };
    wait.or_else(reset).map(|wait| wait.min(MAX_RETRY_AFTER))
}

/// However many there are said to be, it is a wait; less than none is a slip.
fn seconds(seconds: f64) -> Option<Duration> {
    (seconds >= 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(MAX_RETRY_AFTER))
}

/// Seconds, a time such as `6m0s` or `20ms`, or a moment in seconds or milliseconds since 1970.
fn until_reset(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(number) = text.parse::<f64>() {
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let seconds = match number {
            number if number >= 1e12 => number / 1000.0 - since_1970,
            number if number >= 1e9 => number - since_1970,
            number => number,
        };
        return Duration::try_from_secs_f64(seconds.max(0.0)).ok();
    }
    let mut rest = text;
    let mut whole = 0.0;
    while !rest.is_empty() {
        let unit = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(unit)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(end)?;
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        whole += number.parse::<f64>().ok()? * seconds;
        rest = after;
    }
    Duration::try_from_secs_f64(whole).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(status: u16, body: &str) -> ErrorKind {
        let error = UpstreamError::read(body.as_bytes());
        let words = error.message.clone().unwrap_or_else(|| body.to_owned());
        error.meaning(status, None, &words, &str::to_owned)
    }

    #[test]
    fn statuses_have_their_meaning() {
        assert_eq!(meaning(401, "x"), ErrorKind::Unauthorized { status: 401 });
        let of_account = |kind| matches!(kind, ErrorKind::RateLimited { rejection, .. } if rejection.code.as_deref() == Some(INSUFFICIENT_QUOTA));
        assert!(of_account(meaning(402, r#"{"error":{"message":"m","code":"no_credits"}}"#)));
        let forbidden = Rejection { status: 403, message: "m".to_owned(), code: None, param: None };
        assert_eq!(
            meaning(403, r#"{"error":{"message":"m","code":403}}"#),
            ErrorKind::Forbidden(Box::new(forbidden))
        );
        assert_eq!(meaning(503, "x"), ErrorKind::Unavailable { status: 503, retry_after: None });
        assert_eq!(meaning(408, "x"), ErrorKind::Unavailable { status: 408, retry_after: None });
        assert!(matches!(meaning(302, "x"), ErrorKind::Protocol(_)));
        let limited = meaning(429, r#"{"error":{"message":"slow down","code":"insufficient_quota"}}"#);
        assert!(
            matches!(limited, ErrorKind::RateLimited { rejection, .. } if rejection.code.as_deref() == Some("insufficient_quota"))
        );
        let rejected = meaning(422, r#"{"error":{"message":"m","code":"c","param":"p"}}"#);
        let expected = Rejection {
            status: 422,
            message: "m".to_owned(),
            code: Some("c".to_owned()),
            param: Some("p".to_owned()),
        };
        assert_eq!(rejected, ErrorKind::Rejected(Box::new(expected)));
    }

    #[test]
    fn a_prompt_that_is_too_long_is_known_in_every_dialect() {
        let llama = r#"{"error":{"code":400,"message":"request (10810 tokens) exceeds the available context size (256 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":10810,"n_ctx":256}}"#;
        let ollama = serde_json::json!({ "error": llama }).to_string();
        for body in [llama, &ollama] {
            let kind = meaning(400, body);
            assert!(
                matches!(
                    kind,
                    ErrorKind::ContextTooLong { needed_tokens: Some(10810), context_tokens: Some(256), .. }
                ),
                "{body}"
            );
        }
        let by_code = r#"{"error":{"message":"m","code":"context_length_exceeded"}}"#;
        assert!(matches!(meaning(400, by_code), ErrorKind::ContextTooLong { .. }));
    }

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let read = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            retry_after(&headers, now)
        };

        assert_eq!(read("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(read("retry-after", "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(read("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        assert_eq!(read("retry-after", "Sun, 09 Sep 2001 01:46:50 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(read("retry-after", "Sun, 09 Sep 2001 01:46:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("retry-after", "99999999"), Some(MAX_RETRY_AFTER));
        for (text, seconds) in [
            ("1.5s", 1.5),
            ("6m0s", 360.0),
            ("20ms", 0.02),
            ("1h2m", 3720.0),
            ("12", 12.0),
            ("1000000010", 10.0),
            ("1000000010000", 10.0),
        ] {
            let wait = read("x-ratelimit-reset-tokens", text);
            assert_eq!(wait, Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for kind in ["", "-requests-day", "-input-tokens"] {
            let (reset, left) = (format!("x-ratelimit-reset{kind}"), format!("x-ratelimit-remaining{kind}"));
            let name = |name: &str| HeaderName::from_bytes(name.as_bytes()).unwrap();
            let mut headers = HeaderMap::from_iter([(name(&reset), HeaderValue::from_static("9"))]);
            headers.insert("x-ratelimit-reset-other", HeaderValue::from_static("3s"));
            assert_eq!(retry_after(&headers, now), Some(Duration::from_secs(9)), "{kind}");
            headers.insert(name(&left), HeaderValue::from_static("5"));
            assert_eq!(
                retry_after(&headers, now),
                Some(Duration::from_secs(3)),
                "{kind}: that one is not used up"
            );
        }
        for bad in ["soon", "s", "5x"] {
            assert_eq!(read("x-ratelimit-reset-requests", bad), None, "{bad}");
        }
        for absurd in ["1e99", "99999999999999999999"] {
            assert_eq!(read("retry-after", absurd), Some(MAX_RETRY_AFTER), "{absurd}");
            assert_eq!(read("retry-after-ms", absurd), Some(MAX_RETRY_AFTER), "{absurd}");
        }
        for bad in ["soon", "-1", ""] {
            assert_eq!(read("retry-after", bad), None, "{bad}");
        }
    }
}
