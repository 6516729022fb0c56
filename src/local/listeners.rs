//! Who listens on a TCP port of this machine, as Linux shows it in `/proc/net/tcp` and `/proc/net/tcp6`.
//!
//! # How a connection is known to lead to a certain listener
//!
//! To look first and connect then is not enough: another program may take the port in between. To connect first and
//! look then is not enough either: another program may accept the connection, close its listener and leave the port to
//! the right one. But Linux gives an address to one listener at a time (several share it only if all of them belong to
//! one user). So a listener that was there before the connection *and* is still there after it has accepted it. A
//! listener is known by the number of its socket (inode), which no other socket gets while that one exists.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

use super::own_uid;

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The state of a socket that listens, as the tables show it.
const LISTENS: &str = "0A";
/// Users below are those of the system and its services.
const FIRST_PERSON: u32 = 1000;
/// Users that systemd makes up for a service while it runs (`DynamicUser`).
const OF_SERVICES: std::ops::RangeInclusive<u32> = 61_184..=65_519;

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its address.
    pub address: SocketAddr,
    /// The user who made it.
    pub uid: u32,
    /// Its number, by which the processes that hold it are found.
    pub inode: u64,
}

/// Those that accept connections to `target`: the ones at exactly this address, else the ones at all addresses.
///
/// # Errors
/// The system does not show them.
pub fn at(target: SocketAddr) -> io::Result<Vec<Listener>> {
    let mut found = Vec::new();
    let mut is_shown = false;
    for table in TABLES {
        match std::fs::File::open(table) {
            Ok(file) => found.extend(read(BufReader::new(file), target.port())?),
            // A machine without IPv6 has no table of it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        is_shown = true;
    }
    if is_shown { Ok(accepting(found, target.ip())) } else { Err(ErrorKind::NotFound.into()) }
}

/// As [`at`], on a thread that may wait: the tables hold every connection of the machine.
///
/// # Errors
/// The system does not show them.
pub async fn found_at(target: SocketAddr) -> io::Result<Vec<Listener>> {
    spawn_blocking(move || at(target)).await.map_err(io::Error::other)?
}

/// Connects to `target` if all that listens there was made by a user whom `is_trusted` accepts. Nothing is sent.
///
/// # Errors
/// [`Untrusted`] in the error if another user listens there; else what the system says.
pub async fn connect(target: SocketAddr, is_trusted: fn(u32) -> bool) -> io::Result<TcpStream> {
    let before = found_at(target).await?;
    if let Some(other) = before.iter().find(|listener| !is_trusted(listener.uid)) {
        return Err(Untrusted { address: target, uid: Some(other.uid) }.into());
    }
    let stream = TcpStream::connect(target).await?;
    let after = found_at(target).await?;
    // One that listens before and after has accepted it; see the head of this file.
    if before.is_empty() || before != after {
        return Err(Untrusted { address: target, uid: None }.into());
    }
    Ok(stream)
}

/// A local address whose listener is not one to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untrusted {
    /// The address.
    pub address: SocketAddr,
    /// Whose listener it is; `None` if the system does not show that, or shows another one each time.
    pub uid: Option<u32>,
}

impl Untrusted {
    /// The one that an error of a connection tells of.
    pub fn in_error(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Self>().copied()
    }
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.uid {
            Some(uid) => write!(f, "{} is in use by {}", self.address, user(uid)),
            None => write!(f, "it is not visible which user listens on {}", self.address),
        }
    }
}

impl std::error::Error for Untrusted {}

impl From<Untrusted> for io::Error {
    fn from(untrusted: Untrusted) -> Self {
        Self::new(ErrorKind::PermissionDenied, untrusted)
    }
}

/// Whether it is the user of this process, or root.
pub fn is_own_or_root(uid: u32) -> bool {
    uid == own_uid() || uid == 0
}

/// Whether it is the user of this process, root, or the user of a service of this machine: no other person.
pub fn is_own_or_of_system(uid: u32) -> bool {
    is_own_or_root(uid) || uid < FIRST_PERSON || OF_SERVICES.contains(&uid)
}

/// A user in words: by name, if the machine's own list has one.
pub fn user(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    match name_in(&users, uid) {
        Some(name) => format!("user {name}"),
        None => format!("user {uid}"),
    }
}

fn name_in(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// The listeners on a port, of one of the system's tables.
fn read(table: impl BufRead, port: u16) -> io::Result<Vec<Listener>> {
    let mut found = Vec::new();
    // The first line names the columns.
    for line in table.lines().skip(1) {
        found.extend(listener(&line?).filter(|listener| listener.address.port() == port));
    }
    Ok(found)
}

/// A line of the table, if it is of a socket that listens: number, own address, other address, state, queues, timer,
/// retransmissions, user, time-out, inode.
fn listener(line: &str) -> Option<Listener> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let address = fields.next()?;
    if fields.nth(1)? != LISTENS {
        return None;
    }
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Listener { address: socket_address(address)?, uid, inode })
}

/// `0100007F:1F90`: words of 32 bits as they are in memory, and the port.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for word in ip.as_bytes().chunks(8) {
        if word.len() < 8 {
            return None;
        }
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    // A socket for both may show an address of the old kind in the form of the new one.
    Some(SocketAddr::new(ip.to_canonical(), port))
}

/// Of all listeners on a port those that accept connections to an address.
fn accepting(listeners: Vec<Listener>, target: IpAddr) -> Vec<Listener> {
    let target = target.to_canonical();
    let exact: Vec<Listener> =
        listeners.iter().copied().filter(|listener| listener.address.ip() == target).collect();
    if !exact.is_empty() {
        return exact;
    }
    // One at all addresses of IPv6 may accept connections by IPv4 as well.
    let accepts = |ip: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || target.is_ipv4());
    listeners.into_iter().filter(|listener| accepts(listener.address.ip())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 4711 1 0000000000000000 100 0 0 10 0
   1: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 100 0 0 10 0
   2: 0100007F:1F90 0100007F:A000 01 00000000:00000000 00:00000000 00000000  1002        0 4713 1 0000000000000000 20 4 30 10 -1
";
    const V6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1003        0 4714 1
   1: 00000000000000000000000000000000:1F92 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1004        0 4715 1
   2: 0000000000000000FFFF00000100007F:1F93 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1005        0 4716 1
";

    fn inodes(target: &str) -> Vec<u64> {
        let target: SocketAddr = target.parse().unwrap();
        let tables = [V4, V6].map(|table| read(table.as_bytes(), target.port()).unwrap());
        accepting(tables.concat(), target.ip()).iter().map(|listener| listener.inode).collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_listener_that_accepts_a_connection_is_found() {
        for (target, found) in [
            ("127.0.0.1:8080", &[4711][..]),
            ("[::1]:8080", &[4714]),
            ("127.0.0.2:8080", &[]),
            ("127.0.0.1:8081", &[4712]),
            ("[::1]:8081", &[]),
            ("127.0.0.1:8082", &[4715]),
            ("[::1]:8082", &[4715]),
            ("127.0.0.1:8083", &[4716]),
            ("127.0.0.1:9999", &[]),
        ] {
            assert_eq!(inodes(target), found, "{target}");
        }
        let one = read(V4.as_bytes(), 8080).unwrap();
        assert_eq!((one[0].uid, one[0].address), (1001, "127.0.0.1:8080".parse().unwrap()));
    }

    #[test]
    fn odd_lines_are_no_listeners() {
        for line in [
            "",
            "0:",
            "0: 0100007F 0 0A",
            "0: xx:yy 0:0 0A 0:0 0:0 0 0 0 1",
            "0: 01:1 0:0 0A 0:0 0:0 0 0 0 1",
        ] {
            assert_eq!(listener(line), None, "{line}");
        }
    }

    #[test]
    fn users_have_names() {
        let users = "root:x:0:0:root:/root:/bin/sh\nollama:x:998:998::/usr/share/ollama:/bin/false\n";
        assert_eq!((name_in(users, 998), name_in(users, 5)), (Some("ollama"), None));
        assert!(is_own_or_of_system(998) && is_own_or_of_system(own_uid()) && is_own_or_of_system(61_200));
        let other = if own_uid() == 1001 { 1002 } else { 1001 };
        assert!(!is_own_or_of_system(other) && !is_own_or_root(other) && !is_own_or_of_system(65_534));
    }

    #[tokio::test]
    async fn one_connects_to_a_listener_of_ones_own_and_to_no_others() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        assert!(connect(target, is_own_or_root).await.is_ok());
        let refused = connect(target, |_| false).await.unwrap_err();
        assert!(refused.to_string().contains("in use by user"), "{refused}");
        drop(server);
        assert!(connect(target, |_| true).await.is_err());
    }
}
