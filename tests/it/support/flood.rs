//! A server that sends without a pause for as long as it is listened to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Instant;

use super::PATIENCE;

/// The server. Its threads end with the connections.
pub(crate) struct Flood {
    address: SocketAddr,
    ends: mpsc::Receiver<Instant>,
}

impl Flood {
    /// Answers each request with `head`, and then with `piece` again and again.
    pub(crate) fn of(head: &'static str, piece: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, ends) = mpsc::channel();
        let pieces = piece.repeat((64 * 1024 / piece.len()).max(1));
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let (pieces, sender) = (pieces.clone(), sender.clone());
                std::thread::spawn(move || {
                    flood(socket, head, &pieces);
                    let _ = sender.send(Instant::now());
                });
            }
        });
        Self { address, ends }
    }

    /// Events that are sent in chunks of their own, as servers do.
    pub(crate) fn of_events(event: &str) -> Self {
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        Self::of(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
            &chunk,
        )
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn v1(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// When the next connection ended.
    pub(crate) fn ended(&self) -> Instant {
        self.ends.recv_timeout(PATIENCE).expect("no one hangs up")
    }
}

/// Until the other side has closed. Requests are small: they come at once.
fn flood(mut socket: TcpStream, head: &str, pieces: &str) {
    let mut request = vec![0; 64 * 1024];
    if socket.read(&mut request).is_ok_and(|read| read > 0) && socket.write_all(head.as_bytes()).is_ok() {
        while socket.write_all(pieces.as_bytes()).is_ok() {}
    }
}
