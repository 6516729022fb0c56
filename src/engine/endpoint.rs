//! Where an engine listens, and that it is the engine that does.
//!
//! By itself the gateway gives each engine a unix socket in the run folder, where only this user can listen. A port that
//! the models file states can be taken by any program of any user, before the engine takes it or after the engine has
//! ended. So a connection to a port counts only if the engine's own process held the listening socket before the
//! connection came about, and still holds it afterwards.
//!
//! # Why a request never reaches another program
//!
//! - Linux gives an address to one listener at a time. One socket that listens before a connection comes about and after
//!   it has accepted that connection (see [`crate::local::listeners`]).
//! - Each new connection is looked at between the moment when it is there and the first byte that is sent on it
//!   ([`Port::connect`]). It does not matter when the gateway hears of the engine's end: the socket of a process that has
//!   ended is held by none, so a program that took the port meanwhile gets a connection that is closed without a byte.
//! - A connection that is kept for the next request was accepted by the engine, and ends with it.
//!
//! The first look reads the tables of the system; later ones read a single link ([`Held::is_true`]).

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::holder::Held;
use crate::config::EngineAddress;
use crate::local::{Socket, listeners};

/// A process that becomes another program, or changes its parent, may be overlooked for a moment.
const SECOND_LOOK: Duration = Duration::from_millis(50);

/// The first and the longest pause until an engine is asked again whose connections all wait to be accepted.
const FULL_BACKLOG_PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Where an engine listens.
#[derive(Debug)]
pub(super) enum Endpoint {
    /// On a unix socket in a folder of this user.
    Socket(PathBuf),
    /// On a port of this machine.
    Port(Port),
}

/// A port that the models file states, and the engine that is to listen there.
#[derive(Debug)]
pub(super) struct Port {
    address: EngineAddress,
    /// The engine's first process.
    leader: u32,
    /// The engine's mark.
    mark: String,
    // A std mutex: held for a copy.
    known: Mutex<Option<Known>>,
}

/// The address at which the engine was found to listen, and by what.
#[derive(Clone, Debug)]
struct Known {
    target: SocketAddr,
    held: Held,
}

/// Another program listens at an engine's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stranger {
    pub(super) port: u16,
    /// Whose program it is.
    uid: u32,
}

impl Endpoint {
    /// Connects to the engine, and to no other program.
    ///
    /// # Errors
    /// [`Stranger`] in the error if another program listens there; else what the system says.
    pub(super) async fn connect(&self) -> io::Result<Socket> {
        match self {
            Self::Socket(path) => connect_by_path(path).await.map(Socket::Unix),
            Self::Port(port) => port.connect().await.map(Socket::Tcp),
        }
    }

    /// What requests call it.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Socket(_) => "localhost".to_owned(),
            Self::Port(Port { address: EngineAddress { host, port }, .. }) if host.contains(':') => {
                format!("[{host}]:{port}")
            }
            Self::Port(Port { address: EngineAddress { host, port }, .. }) => format!("{host}:{port}"),
        }
    }

    /// Whether there is something to connect to, as far as that is seen from outside.
    pub(super) fn is_there(&self) -> bool {
        match self {
            Self::Socket(path) => path.exists(),
            Self::Port(_) => true,
        }
    }
}

/// Connects to a unix socket. While too many connections wait to be accepted (llama-server lets five wait), the system
/// refuses further ones at once, where those of TCP would wait: so this waits, and ends with the timeout of its caller.
async fn connect_by_path(path: &Path) -> io::Result<UnixStream> {
    let mut pause = FULL_BACKLOG_PAUSES.0;
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                sleep(pause).await;
                pause = (pause * 2).min(FULL_BACKLOG_PAUSES.1);
            }
            connected => return connected,
        }
    }
}

impl Port {
    /// One at which the engine with this first process and this mark is to listen.
    pub(super) fn new(address: EngineAddress, leader: u32, mark: String) -> Self {
        Self { address, leader, mark, known: Mutex::default() }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let Known { target, held } = match self.known() {
            Some(known) => known,
            None => self.find().await?,
        };
        let stream = TcpStream::connect(target).await?;
        // Nothing has been sent yet; see the head of this file.
        if held.is_true() { Ok(stream) } else { Err(io::Error::from(ErrorKind::ConnectionReset)) }
    }

    /// What was found before, if that is still so.
    fn known(&self) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.filter(|known| known.held.is_true())
    }

    /// Finds the engine's listener. Nothing is connected to.
    async fn find(&self) -> io::Result<Known> {
        let EngineAddress { host, port } = &self.address;
        for target in lookup_host((host.as_str(), *port)).await? {
            if let Some(held) = self.held_at(target).await? {
                let known = Known { target, held };
                *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known.clone());
                return Ok(known);
            }
        }
        Err(ErrorKind::ConnectionRefused.into())
    }

    /// By what the engine listens there; `None` if no program does.
    async fn held_at(&self, target: SocketAddr) -> io::Result<Option<Held>> {
        match self.look(target).await? {
            Look::Strange(_) => {}
            found => return found.settled(),
        }
        sleep(SECOND_LOOK).await;
        self.look(target).await?.settled()
    }

    async fn look(&self, target: SocketAddr) -> io::Result<Look> {
        let (leader, mark) = (self.leader, self.mark.clone());
        let looking = move || {
            let mut found = Look::Nothing;
            // Where several share the address, each may get a request.
            for listener in listeners::at(target)? {
                match Held::by_engine(leader, &mark, listener.inode) {
                    Some(held) => found = Look::Held(held),
                    None => {
                        return Ok(Look::Strange(Stranger { port: target.port(), uid: listener.uid }));
                    }
                }
            }
            Ok(found)
        };
        spawn_blocking(looking).await.map_err(io::Error::other)?
    }
}

/// What a look at an address has shown.
enum Look {
    Nothing,
    Held(Held),
    Strange(Stranger),
}

impl Look {
    fn settled(self) -> io::Result<Option<Held>> {
        match self {
            Self::Nothing => Ok(None),
            Self::Held(held) => Ok(Some(held)),
            Self::Strange(stranger) => Err(io::Error::new(ErrorKind::AddrInUse, stranger)),
        }
    }
}

impl Stranger {
    /// The one that an error of a connection tells of.
    pub(super) fn in_error(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Self>().cloned()
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, uid } = self;
        write!(
            f,
            "port {port} belongs to another program, of {}; end that program, or give the engine another port",
            listeners::user(*uid)
        )
    }
}

impl std::error::Error for Stranger {}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn listening() -> (TcpListener, EngineAddress) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, EngineAddress { host: "127.0.0.1".to_owned(), port })
    }

    #[tokio::test]
    async fn a_port_of_another_program_is_not_connected_to() {
        let (listener, address) = listening().await;
        // No process has this number.
        let port = Port::new(address.clone(), 1_999_999_999, "mark".to_owned());
        let stranger = Stranger::in_error(&port.connect().await.unwrap_err()).unwrap();
        assert_eq!(stranger.port, address.port);
        assert!(stranger.to_string().contains(&address.port.to_string()), "{stranger}");
        let accepted = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
        assert!(accepted.is_err(), "there is no connection at all");
    }

    #[tokio::test]
    async fn a_port_that_changes_hands_gets_nothing() {
        let (listener, address) = listening().await;
        let port = Port::new(address.clone(), std::process::id(), "mark".to_owned());
        let mut first = port.connect().await.unwrap();
        let known = port.known().unwrap();
        // The engine's listener goes, and another program takes the port: this process stands for both.
        drop(listener);
        let other = TcpListener::bind((address.host.as_str(), address.port)).await.unwrap();
        assert!(port.known().is_none() && !known.held.is_true());
        let stranger = Port { leader: 1_999_999_999, known: Mutex::new(Some(known)), ..port };
        assert!(Stranger::in_error(&stranger.connect().await.unwrap_err()).is_some());
        drop(other);
        assert!(
            matches!(first.read(&mut [0]).await, Ok(0) | Err(_)),
            "the old connection leads nowhere else"
        );
    }

    #[tokio::test]
    async fn where_no_program_listens_there_is_no_connection() {
        let (listener, address) = listening().await;
        drop(listener);
        let port = Port::new(address, std::process::id(), "mark".to_owned());
        assert_eq!(port.connect().await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_connection_waits_until_an_engine_has_accepted_those_before_it() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("e.sock");
        let server = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        server.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        server.listen(0).unwrap();
        server.set_nonblocking(true).unwrap();
        let server = tokio::net::UnixListener::from_std(std::os::unix::net::UnixListener::from(
            std::os::fd::OwnedFd::from(server),
        ))
        .unwrap();
        let endpoint = Endpoint::Socket(path);
        let _first = endpoint.connect().await.unwrap();
        let mut second = std::pin::pin!(endpoint.connect());
        let waits = tokio::time::timeout(Duration::from_millis(100), second.as_mut()).await;
        assert!(waits.is_err(), "one waits to be accepted already");
        server.accept().await.unwrap();
        second.await.unwrap();
    }
}
