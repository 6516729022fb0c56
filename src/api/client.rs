//! Asks a service like this one, for the commands: the other side of the admin API, which is why it stands beside it.
//!
//! One question on one connection, to an address that the settings name. While the service is down, any program can
//! listen there, so the key is sent only where it can reach no other user: an encrypted service has to show the very
//! certificate that the settings name, and an unencrypted one has to be of this user or of root.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use super::serve::tls;
use crate::config::{ListenAddress, TlsFiles};
use crate::local::listeners::{self, Untrusted};
use crate::reload::Report;

/// Who listens on this machine answers at once.
const CONNECT: Duration = Duration::from_secs(3);
/// A little more than the service takes for it.
const ANSWER: Duration = Duration::from_secs(35);
/// A report is never longer.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Why there is no report.
#[derive(Debug, PartialEq, Eq)]
pub enum NoReport {
    /// Nobody listens there.
    Nobody(Vec<String>),
    /// What is wrong with the configuration, one fault a line; or what else the service has to say.
    Refused(String),
    /// What answers is not such a service.
    Strange(String),
    /// Another user listens there.
    Untrusted(String),
}

impl fmt::Display for NoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(places) => write!(
                f,
                "no service answers at {}; start it, set LLM_PROXY_API_LISTEN to where it listens, or compare two files: check --diff=OLD_MODELS_FILE",
                places.join(", ")
            ),
            Self::Refused(words) => f.write_str(words),
            Self::Strange(words) => write!(f, "the service gives no report: {words}"),
            Self::Untrusted(words) => write!(
                f,
                "the admin key is not sent: {words}; run this command as the user of the service, or compare two files: check --diff=OLD_MODELS_FILE"
            ),
        }
    }
}

/// Asks the service that listens at one of these addresses what a reload would change.
///
/// # Errors
/// It does not say.
pub async fn rehearse(
    listen: &[ListenAddress],
    tls: Option<&TlsFiles>,
    key: &SecretString,
) -> Result<Report, NoReport> {
    for address in listen {
        let asked = match address {
            ListenAddress::Unix(path) => match timeout(CONNECT, UnixStream::connect(path)).await {
                Ok(Ok(socket)) => over_unix(socket, key).await,
                _ => continue,
            },
            ListenAddress::Tcp(address) => {
                let target = reachable(address);
                match timeout(CONNECT, connected(&target, tls.is_some())).await {
                    Ok(Ok(socket)) => over_tcp(socket, tls, key).await,
                    Ok(Err(error)) => match Untrusted::in_error(&error) {
                        Some(untrusted) => Err(NoReport::Untrusted(untrusted.to_string())),
                        None => continue,
                    },
                    Err(_) => continue,
                }
            }
        };
        return asked.and_then(|(status, body)| read(status, &body));
    }
    Err(NoReport::Nobody(listen.iter().map(ToString::to_string).collect()))
}

/// Who listens on all addresses is met on this machine's own.
fn reachable(address: &str) -> String {
    let Some((host, port)) = address.rsplit_once(':') else { return address.to_owned() };
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => format!("{}:{port}", Ipv4Addr::LOCALHOST),
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => format!("[{}]:{port}", Ipv6Addr::LOCALHOST),
        _ => address.to_owned(),
    }
}

/// A connection to the listener there: to anyone's if its certificate will be looked at, else only to this user's or
/// root's.
async fn connected(address: &str, is_encrypted: bool) -> io::Result<TcpStream> {
    if is_encrypted {
        return TcpStream::connect(address).await;
    }
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for target in lookup_host(address).await? {
        match listeners::connect(target, listeners::is_own_or_root).await {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => failure = error,
            Err(error) => return Err(error),
        }
    }
    Err(failure)
}

async fn over_unix(socket: UnixStream, key: &SecretString) -> Result<(StatusCode, Bytes), NoReport> {
    match socket.peer_cred().map(|listener| listener.uid()) {
        Ok(uid) if listeners::is_own_or_root(uid) => exchange(socket, key).await,
        Ok(uid) => Err(NoReport::Untrusted(format!("{} listens on the socket", listeners::user(uid)))),
        Err(error) => {
            Err(NoReport::Untrusted(format!("it is not visible who listens on the socket: {error}")))
        }
    }
}

async fn over_tcp(
    socket: TcpStream,
    tls: Option<&TlsFiles>,
    key: &SecretString,
) -> Result<(StatusCode, Bytes), NoReport> {
    let Some(files) = tls else { return exchange(socket, key).await };
    let connector = tls::connector(files).map_err(|fault| NoReport::Strange(fault.to_string()))?;
    // The certificate is known; its names do not matter.
    let encrypted = timeout(CONNECT, connector.connect(tls::anybody(), socket)).await;
    match encrypted {
        Ok(Ok(socket)) => exchange(socket, key).await,
        Ok(Err(error)) => Err(NoReport::Strange(format!("no encrypted connection comes about: {error}"))),
        Err(_) => Err(NoReport::Strange("no encrypted connection comes about in time".to_owned())),
    }
}

async fn exchange<S>(socket: S, key: &SecretString) -> Result<(StatusCode, Bytes), NoReport>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let strange = |error: hyper::Error| NoReport::Strange(error.to_string());
    let asked = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(strange)?;
        let request = Request::post("/admin/reload?dry_run=true")
            .header("host", "localhost")
            .header("x-admin-key", key.expose_secret())
            .body(Empty::<Bytes>::new())
            .map_err(|_| NoReport::Strange("the admin key cannot be sent in a header".to_owned()))?;
        let asking = async {
            let response = sender.send_request(request).await.map_err(strange)?;
            whole(response).await
        };
        // What goes wrong with the connection comes out of the request, too.
        let driving = async {
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answered = asking => answered,
            () = driving => Err(NoReport::Strange("the connection ended".to_owned())),
        }
    };
    let late = || NoReport::Strange(format!("there is no answer within {} s", ANSWER.as_secs()));
    timeout(ANSWER, asked).await.map_err(|_| late())?
}

async fn whole(response: Response<Incoming>) -> Result<(StatusCode, Bytes), NoReport> {
    let (head, mut body) = response.into_parts();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| NoReport::Strange(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + data.len() > MOST_BYTES {
            return Err(NoReport::Strange("its answer is too long".to_owned()));
        }
        all.extend_from_slice(&data);
    }
    Ok((head.status, all.freeze()))
}

fn read(status: StatusCode, body: &[u8]) -> Result<Report, NoReport> {
    let unreadable = || NoReport::Strange(format!("it answers with status {status}, in words unknown here"));
    if status == StatusCode::OK {
        return serde_json::from_slice(body).map_err(|_| unreadable());
    }
    let told: Value = serde_json::from_slice(body).map_err(|_| unreadable())?;
    let words = told.pointer("/error/message").and_then(Value::as_str).ok_or_else(unreadable)?;
    Err(NoReport::Refused(words.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_met_on_this_machine() {
        for (listen, met) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("localhost:80", "localhost:80"),
        ] {
            assert_eq!(reachable(listen), met);
        }
    }

    #[tokio::test]
    async fn a_service_of_this_user_is_connected_to() {
        let own = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = own.local_addr().unwrap().to_string();
        assert!(connected(&address, false).await.is_ok());
        assert!(connected(&address.replace("127.0.0.1", "localhost"), false).await.is_ok());
        drop(own);
        let gone = connected(&address, false).await.unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn answers_are_read_or_told() {
        let good = br#"{"status":true,"dry_run":true,"models":2,"prompts":1,"changes":[{"kind":"model","name":"m","change":"added","details":["a/m"]}],"kept_engines":[],"warnings":["w"]}"#;
        let report = read(StatusCode::OK, good).unwrap();
        assert_eq!((report.models, report.diff.changes[0].to_string()), (2, "+ model m: a/m".to_owned()));
        let refused =
            br#"{"error":{"message":"no:\nfault","type":"x","param":null,"code":"reload_refused"}}"#;
        assert_eq!(read(StatusCode::CONFLICT, refused), Err(NoReport::Refused("no:\nfault".to_owned())));
        for body in [&b""[..], b"<html>", b"{}"] {
            assert!(matches!(read(StatusCode::OK, body), Err(NoReport::Strange(_))));
            assert!(matches!(read(StatusCode::BAD_GATEWAY, body), Err(NoReport::Strange(_))));
        }
    }
}
