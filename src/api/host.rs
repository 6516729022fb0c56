//! The host that a request names, and whether that is this machine.
//!
//! A page can make its own name lead to this machine, and is then of the same origin as the service. What it cannot do
//! is to have the browser send another name: so the name says whether the page may have come from here.

use std::net::{Ipv4Addr, Ipv6Addr};

use poem::Request;
use poem::http::header::HOST;
use poem::http::{HeaderValue, StatusCode, Version};

use super::error::ApiError;

/// `host[:port]` of a valid form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host<'r> {
    text: &'r str,
    name: Name<'r>,
    port: &'r str,
}

/// The name that always means this machine, and the last label of others that do.
const LOCALHOST: &str = "localhost";

#[derive(Clone, Copy, Debug)]
enum Name<'r> {
    /// A name, or an IPv4 address.
    Text(&'r str),
    V6(Ipv6Addr),
}

impl<'r> Host<'r> {
    /// The host that a request names: by its header, by an absolute target, or by both alike. `None` only in HTTP/1.0.
    ///
    /// # Errors
    /// There is none, more than one, or one that is no host (RFC 9112, 3.2).
    pub(super) fn of(request: &'r Request) -> Result<Option<Self>, ApiError> {
        let mut headers = request.headers().get_all(HOST).iter();
        let header = headers.next();
        if headers.next().is_some() {
            return Err(invalid("the request has more than one `host` header"));
        }
        let header = header.map(Self::of_header).transpose()?;
        let target = request.uri().authority();
        let target = target.map(|authority| Self::parsed(authority.as_str()).ok_or_else(not_a_host));
        match (header, target.transpose()?, request.version()) {
            (Some(header), Some(target), _) if !header.is_same_as(&target) => {
                Err(invalid("the `host` header and the target of the request name different hosts"))
            }
            (Some(host), _, _) | (None, Some(host), Version::HTTP_2 | Version::HTTP_10) => Ok(Some(host)),
            (None, None, Version::HTTP_10) => Ok(None),
            (None, _, _) => Err(invalid("the request has no `host` header")),
        }
    }

    fn of_header(value: &'r HeaderValue) -> Result<Self, ApiError> {
        value.to_str().ok().and_then(Self::parsed).ok_or_else(not_a_host)
    }

    /// Names of more signs than those of the domain name system are taken for none: nothing that has one is called here.
    pub(super) fn parsed(text: &'r str) -> Option<Self> {
        let (name, behind) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, behind) = rest.split_once(']')?;
                (Name::V6(address.parse().ok()?), behind)
            }
            None => {
                let (name, behind) = text.split_at(text.find(':').unwrap_or(text.len()));
                let is_sign =
                    |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
                (Name::Text(name).filter(!name.is_empty() && name.bytes().all(is_sign))?, behind)
            }
        };
        let port = behind.strip_prefix(':').or_else(|| behind.is_empty().then_some(""))?;
        let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.len() <= 5;
        is_port.then_some(Self { text, name, port })
    }

    /// As it was written.
    pub(super) fn as_str(&self) -> &'r str {
        self.text
    }

    /// Whether the name cannot but lead to this machine, for any browser: its addresses as browsers write them, and
    /// `localhost` with everything below it.
    pub(super) fn is_this_machine(&self) -> bool {
        let name = match self.name {
            Name::V6(address) => return address.to_canonical().is_loopback(),
            Name::Text(name) => name,
        };
        if name.as_bytes().first().is_some_and(u8::is_ascii_digit) {
            return name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback());
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        let Some((below, last)) =
            name.len().checked_sub(LOCALHOST.len()).and_then(|at| name.split_at_checked(at))
        else {
            return false;
        };
        last.eq_ignore_ascii_case(LOCALHOST) && (below.is_empty() || below.len() > 1 && below.ends_with('.'))
    }

    /// Whether both are the same host and port, one of which may leave out the usual port.
    pub(super) fn is_same_as(&self, other: &Host<'_>) -> bool {
        let is_same_name = match (self.name, other.name) {
            (Name::Text(one), Name::Text(other)) => one.eq_ignore_ascii_case(other),
            (Name::V6(one), Name::V6(other)) => one == other,
            _ => false,
        };
        let is_usual = |port: &str| matches!(port, "" | "80" | "443");
        let one_is_left_out = self.port.is_empty() || other.port.is_empty();
        is_same_name
            && (self.port == other.port || one_is_left_out && is_usual(self.port) && is_usual(other.port))
    }
}

impl Name<'_> {
    fn filter(self, holds: bool) -> Option<Self> {
        holds.then_some(self)
    }
}

fn not_a_host() -> ApiError {
    invalid("the request names no valid host")
}

fn invalid(message: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_host", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_known_and_no_others() {
        for text in [
            "localhost",
            "LocalHost:8080",
            "localhost.",
            "localhost.:80",
            "llm.localhost",
            "a.b.LOCALHOST:1",
            "127.0.0.1",
            "127.0.0.1:8080",
            "127.1.2.3",
            "[::1]",
            "[::1]:8080",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:7f00:1]",
        ] {
            assert!(Host::parsed(text).unwrap().is_this_machine(), "{text}");
        }
        for text in [
            "evil.example",
            "evil.example:8080",
            "notlocalhost",
            "localhost.evil.example",
            ".localhost",
            "localhost..",
            "127.0.0.1.evil.example",
            "127.0.0.1.",
            "127.1",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "127.0.0.01",
            "0.0.0.0",
            "10.0.0.7",
            "[::]",
            "[fe80::1]",
            "[::ffff:10.0.0.7]",
        ] {
            assert!(!Host::parsed(text).unwrap().is_this_machine(), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            ":80",
            "a/b?c",
            "x@a",
            "a b",
            "a,b",
            "a\\b",
            "a#b",
            "a:b",
            "a:80:80",
            "a:123456",
            "a:-1",
            "::1",
            "[::1",
            "[::1]80",
            "[::1]x",
            "[x]",
            "[127.0.0.1]",
            "[fe80::1%25eth0]",
            "a%2eb",
            "ż",
            "a\u{b}",
        ] {
            assert!(Host::parsed(text).is_none(), "{text}");
        }
    }

    fn of(version: Version, target: &str, hosts: &[&str]) -> Result<Option<String>, String> {
        let request = hosts.iter().fold(Request::builder(), |request, host| request.header(HOST, *host));
        let request = request.version(version).uri_str(target).finish();
        let host = Host::of(&request).map_err(|error| error.label().to_owned())?;
        Ok(host.map(|host| host.as_str().to_owned()))
    }

    #[test]
    fn a_request_names_one_host() {
        let (one, two, old) = (Version::HTTP_11, Version::HTTP_2, Version::HTTP_10);
        for (version, target, hosts, expected) in [
            (one, "/", &["a:80"][..], Some("a:80")),
            (one, "http://a/x", &["A"], Some("A")),
            (one, "http://a:80/x", &["a"], Some("a")),
            (one, "https://a/x", &["a:443"], Some("a:443")),
            (one, "http://[::1]:5/x", &["[0::1]:5"], Some("[0::1]:5")),
            (two, "http://a:5/x", &[], Some("a:5")),
            (two, "http://a:5/x", &["a:5"], Some("a:5")),
            (two, "/x", &["a:5"], Some("a:5")),
            (old, "/", &[], None),
        ] {
            assert_eq!(of(version, target, hosts), Ok(expected.map(str::to_owned)), "{target} {hosts:?}");
        }
        for (version, target, hosts) in [
            (one, "/", &[][..]),
            (one, "http://a/", &[]),
            (one, "/", &["a", "a"]),
            (one, "/", &["a", "b"]),
            (one, "/", &[""]),
            (one, "/", &["x@a"]),
            (one, "http://a/", &["b"]),
            (one, "http://a:1/", &["a:2"]),
            (one, "http://a:8080/", &["a"]),
            (one, "http://x@a/", &["a"]),
            (two, "http://a/", &["b"]),
            (two, "/", &[]),
            (old, "/", &["a", "a"]),
        ] {
            assert_eq!(of(version, target, hosts), Err("invalid_host".to_owned()), "{target} {hosts:?}");
        }
    }
}
