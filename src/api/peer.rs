//! Where a request comes from: the address at the other end of the connection, or the one that a trusted proxy there
//! names.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use poem::http::header::FORWARDED;
use poem::http::{HeaderMap, HeaderName, HeaderValue};
use poem::{Addr, Request};

use crate::config::Network;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Peer {
    Address(IpAddr),
    /// A program of this machine, by a unix socket.
    Unix,
}

impl Peer {
    pub(super) fn of(request: &Request, trusted: &[Network]) -> Self {
        let Addr::SocketAddr(near) = &**request.remote_addr() else { return Self::Unix };
        let near = near.ip().to_canonical();
        if trusted.is_empty() {
            Self::Address(near)
        } else {
            Self::Address(beyond(near, request.headers(), trusted))
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// The last address that no trusted proxy has. What stands before it may be anybody's invention.
fn beyond(near: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(near) {
        return near;
    }
    let follow = |name: &HeaderName, address: fn(&str) -> Option<IpAddr>| {
        let values = headers.get_all(name).iter().rev();
        let hops = values.flat_map(|value: &HeaderValue| value.to_str().unwrap_or("?").rsplit(','));
        let mut last = near;
        for hop in hops {
            match address(hop) {
                Some(hop) if is_trusted(hop) => last = hop,
                Some(hop) => return hop,
                None => return last,
            }
        }
        last
    };
    match (headers.contains_key(&X_FORWARDED_FOR), headers.contains_key(FORWARDED)) {
        (false, false) => near,
        (true, false) => follow(&X_FORWARDED_FOR, address),
        (false, true) => follow(&FORWARDED, address_of_element),
        // A proxy writes one of them and passes the other on as it came: then only what both say counts.
        (true, true) => {
            let told = follow(&X_FORWARDED_FOR, address);
            if told == follow(&FORWARDED, address_of_element) { told } else { near }
        }
    }
}

/// The address in an element of `Forwarded`, such as `for="[2001:db8::1]:4711";proto=https`.
fn address_of_element(element: &str) -> Option<IpAddr> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| address(value))?
    })
}

/// An address, also with a port, in brackets or quoted.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address: Option<IpAddr> = text.parse().ok().or_else(with_port).or_else(in_brackets);
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: &str = "10.0.0.1";

    fn seen(near: &str, headers: &[(&'static str, &str)]) -> String {
        let trusted = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"].map(|text| Network::parse(text).unwrap());
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        beyond(near.parse().unwrap(), &headers.collect(), &trusted).to_string()
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_counts() {
        let x = "x-forwarded-for";
        for (headers, expected) in [
            (&[][..], NEAR),
            (&[(x, "203.0.113.9")], "203.0.113.9"),
            (&[(x, "1.1.1.1, 203.0.113.9")], "203.0.113.9"),
            (&[(x, "1.1.1.1,203.0.113.9 , 10.2.3.4,192.0.2.7")], "203.0.113.9"),
            (&[(x, "1.1.1.1"), (x, "203.0.113.9"), (x, "10.9.9.9")], "203.0.113.9"),
            (&[(x, "10.5.5.5, 10.6.6.6")], "10.5.5.5"),
            (&[(x, "203.0.113.9:1234")], "203.0.113.9"),
            (&[(x, "2a00::1")], "2a00::1"),
            (&[(x, "[2a00::1]:80, 2001:db8::5")], "2a00::1"),
            (&[(x, "::ffff:203.0.113.9")], "203.0.113.9"),
            // What cannot be read is no address, and what stands before it is not looked at.
            (&[(x, "203.0.113.9, unknown")], NEAR),
            (&[(x, "203.0.113.9, , 10.2.3.4")], "10.2.3.4"),
            (&[(x, "")], NEAR),
            (&[("forwarded", "for=1.1.1.1, For=\"203.0.113.9:99\";proto=https;by=10.0.0.1")], "203.0.113.9"),
            (&[("forwarded", "proto=https; for=\"[2a00::1]:4711\"")], "2a00::1"),
            (&[("forwarded", "for=203.0.113.9, for=_hidden")], NEAR),
            (&[("forwarded", "for=203.0.113.9"), (x, "203.0.113.9")], "203.0.113.9"),
            (&[("forwarded", "for=1.1.1.1"), (x, "203.0.113.9")], NEAR),
        ] {
            assert_eq!(seen(NEAR, headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn who_is_not_trusted_is_not_believed() {
        assert_eq!(seen("203.0.113.1", &[("x-forwarded-for", "1.1.1.1")]), "203.0.113.1");
    }
}
