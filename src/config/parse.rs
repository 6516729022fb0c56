//! Reads single values of the environment, and collects what is wrong with them.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;

use super::{Auth, Fault, ListenAddress, LogFormat, Network, RawRequests};
use crate::callers::Zone;
use crate::lint::is_language_tag;

/// Values read so far, and the faults among them. A bad value is replaced by a good one, so that all
/// faults are found in one go.
pub(super) struct Parsed {
    prefix: &'static str,
    pub(super) faults: Vec<Fault>,
}

impl Parsed {
    pub(super) fn new(prefix: &'static str) -> Self {
        Self { prefix, faults: Vec::new() }
    }

    pub(super) fn fault(&mut self, name: &str, problem: String, cure: String) {
        self.faults.push(Fault::new(format!("{}{name}", self.prefix), problem, cure));
    }

    pub(super) fn bad(&mut self, name: &str, value: &str, allowed: &str) {
        self.fault(name, format!("`{value}` is not allowed"), format!("give {allowed}"));
    }

    pub(super) fn missing_partner<T>(&mut self, name: &str, partner: &str) -> Option<T> {
        let cure = format!("set {}{partner} too, or neither", self.prefix);
        self.fault(name, format!("is set without {}{partner}", self.prefix), cure);
        None
    }

    /// Every yes or no is read here.
    pub(super) fn flag(&mut self, name: &str, value: Option<&str>) -> bool {
        let value = value.unwrap_or_default();
        match value.trim().to_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => true,
            "" | "0" | "false" | "no" | "off" => false,
            _ => {
                self.bad(name, value, "1, true, yes or on, or 0, false, no or off");
                false
            }
        }
    }

    pub(super) fn seconds(&mut self, name: &str, value: Option<&str>, default: Duration) -> Duration {
        let seconds = self.seconds_or_zero(name, value, default);
        if seconds.is_zero() {
            self.bad(name, value.unwrap_or("0"), "seconds, more than 0");
        }
        seconds
    }

    pub(super) fn seconds_or_zero(&mut self, name: &str, value: Option<&str>, default: Duration) -> Duration {
        let Some(value) = value else { return default };
        // More than a year is a slip, and sums of it could overflow.
        let seconds = value.trim().parse::<f64>().ok().filter(|s| (0.0..=31_536_000.0).contains(s));
        seconds.map_or_else(
            || {
                self.bad(name, value, "seconds, such as 30 or 0.5");
                default
            },
            Duration::from_secs_f64,
        )
    }

    pub(super) fn count(&mut self, name: &str, value: Option<&str>, default: usize) -> usize {
        let Some(value) = value else { return default };
        value.trim().parse().ok().filter(|count| *count > 0).unwrap_or_else(|| {
            self.bad(name, value, "a whole number, more than 0");
            default
        })
    }

    pub(super) fn days(&mut self, name: &str, value: Option<&str>, default: u32) -> u32 {
        let Some(value) = value else { return default };
        // A century.
        value.trim().parse().ok().filter(|days| (1..=36_500).contains(days)).unwrap_or_else(|| {
            self.bad(name, value, "a number of days, 1 to 36500");
            default
        })
    }

    pub(super) fn zone(&mut self, name: &str, value: &str) -> Zone {
        Zone::named(value).unwrap_or_else(|| {
            self.bad(name, value, "the name of a time zone, such as Europe/Warsaw or UTC");
            Zone::default()
        })
    }

    /// A value that is bad is not shown: it may hold a password.
    pub(super) fn database(&mut self, name: &str, value: Option<&str>, usual: &Path) -> SecretString {
        let usual = format!("sqlite://{}", usual.display());
        let url = value.unwrap_or(&usual).trim();
        let path = url.strip_prefix("sqlite://");
        let is_file =
            path.is_some_and(|path| !path.is_empty() && !path.starts_with(':') && !path.contains('?'));
        if !is_file && !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            let cure = "give sqlite:// and the path of a file, or postgres://user:password@host/database";
            self.fault(name, "names no database that can be used".to_owned(), cure.to_owned());
        }
        url.into()
    }

    pub(super) fn listen(&mut self, name: &str, value: &str) -> Vec<ListenAddress> {
        let parts: Vec<&str> = value.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
        let addresses: Vec<_> = parts.iter().filter_map(|part| listen_address(part)).collect();
        if addresses.is_empty() || addresses.len() < parts.len() {
            self.bad(name, value, "a comma list of host:port, [v6 address]:port or unix:/path");
        }
        for (index, address) in addresses.iter().enumerate() {
            if let Some(other) = addresses.iter().take(index).find(|other| are_the_same(address, other)) {
                let problem = format!("`{other}` and `{address}` are the same address");
                self.fault(name, problem, "name each address once".to_owned());
            }
        }
        addresses
    }

    pub(super) fn prefix(&mut self, name: &str, value: &str) -> String {
        let path = value.trim().trim_matches('/');
        let sane = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b'/');
        if !path.bytes().all(sane) || path.split('/').any(|segment| matches!(segment, "." | "..")) {
            self.bad(name, value, "a path of letters, digits, `-`, `_`, `.` and `/`, such as /api");
        }
        if path.is_empty() { String::new() } else { format!("/{path}") }
    }

    pub(super) fn language(&mut self, name: &str, value: &str) -> String {
        if !is_language_tag(value) {
            self.bad(name, value, "a language tag, such as en or pt-BR");
            return "en".to_owned();
        }
        value.to_owned()
    }

    pub(super) fn log_format(&mut self, name: &str, value: Option<&str>) -> LogFormat {
        match value.map(str::to_lowercase).as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            _ => {
                self.bad(name, value.unwrap_or_default(), "text or json");
                LogFormat::Text
            }
        }
    }

    pub(super) fn auth(&mut self, name: &str, value: Option<&str>) -> Auth {
        match value.map(str::to_lowercase).as_deref() {
            None | Some("auto") => Auth::Auto,
            Some("none") => Auth::None,
            Some("keys") => Auth::Keys,
            _ => {
                self.bad(name, value.unwrap_or_default(), "auto, keys or none");
                Auth::Auto
            }
        }
    }

    /// Which keys may make raw requests.
    pub(super) fn raw_requests(&mut self, name: &str, value: Option<&str>) -> RawRequests {
        match value.map(str::to_lowercase).as_deref() {
            None | Some("listed") => RawRequests::Listed,
            Some("open") => RawRequests::Open,
            _ => {
                self.bad(name, value.unwrap_or_default(), "listed or open");
                RawRequests::Listed
            }
        }
    }

    /// A secret that callers send in a header. It is never repeated.
    pub(super) fn key(&mut self, name: &str, value: Option<&str>) -> Option<SecretString> {
        let value = value?;
        if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            let problem = "holds characters that cannot be sent in a header".to_owned();
            self.fault(name, problem, "use letters, digits and signs, without spaces".to_owned());
        }
        Some(value.to_owned().into())
    }

    pub(super) fn origins(&mut self, name: &str, value: Option<&str>) -> Vec<String> {
        let Some(value) = value else { return Vec::new() };
        let origins: Vec<&str> = value.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
        if !origins.iter().all(|origin| *origin == "*" || is_origin(origin)) {
            self.bad(name, value, "a comma list of origins, such as https://app.example.org, or *");
        }
        origins.into_iter().map(|origin| origin.trim_end_matches('/').to_owned()).collect()
    }

    pub(super) fn networks(&mut self, name: &str, value: Option<&str>) -> Vec<Network> {
        let Some(value) = value else { return Vec::new() };
        let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
        let networks: Vec<Option<Network>> = parts.map(Network::parse).collect();
        if networks.contains(&None) {
            self.bad(name, value, "a comma list of addresses and networks, such as 10.0.0.0/8, ::1");
        }
        networks.into_iter().flatten().collect()
    }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
pub(super) fn host_of(address: &str) -> Option<&str> {
    let (host, _) = address.rsplit_once(':')?;
    Some(host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host))
}

pub(super) fn listen_address(text: &str) -> Option<ListenAddress> {
    if let Some(path) = text.strip_prefix("unix:") {
        return (!path.is_empty()).then(|| ListenAddress::Unix(path.into()));
    }
    let (host, port) = text.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let valid = match in_brackets {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '/', ' ']),
    };
    valid.then(|| ListenAddress::Tcp(text.to_owned()))
}

/// Whether two addresses cannot both be listened on. Port 0 is another one each time.
pub(super) fn are_the_same(one: &ListenAddress, other: &ListenAddress) -> bool {
    let (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) = (one, other) else { return one == other };
    let parts = |address: &str| {
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let host = host_of(address).unwrap_or_default().to_ascii_lowercase();
        let host = if host == "localhost" { "127.0.0.1".to_owned() } else { host };
        (port.filter(|port| *port > 0), host.parse::<IpAddr>().map_err(|_| host))
    };
    let ((port, one), (other_port, other)) = (parts(one), parts(other));
    let covers = |all: &Result<IpAddr, String>, one: &Result<IpAddr, String>| match (all, one) {
        (Ok(all), Ok(one)) => all.is_unspecified() && all.is_ipv4() == one.is_ipv4(),
        _ => false,
    };
    port.is_some() && port == other_port && (one == other || covers(&one, &other) || covers(&other, &one))
}

fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| {
        let host = host.trim_end_matches('/');
        !host.is_empty() && host.is_ascii() && !host.contains(['/', ' ', '?', '#', '@'])
    })
}
