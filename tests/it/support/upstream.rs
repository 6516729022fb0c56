//! A server that follows a script, byte by byte: what no well-behaved server does, this one can.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use super::PATIENCE;

/// What to do with a request, in order. After the last step the connection takes another request.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Send(Vec<u8>),
    /// Each byte in a write of its own.
    ByteWise(Vec<u8>),
    Pause(Duration),
    /// Waits until the other side has closed the connection.
    Hold,
    Close,
    /// Closes with a reset.
    Reset,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The number of the connection on which it came.
    pub(crate) connection: usize,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

type Script = dyn Fn(&Seen) -> Vec<Step> + Send + Sync;

/// The server. Ends when dropped.
pub(crate) struct Upstream {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    left: mpsc::UnboundedReceiver<Instant>,
    serving: tokio::task::JoinHandle<()>,
}

impl Upstream {
    pub(crate) async fn start(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Self {
        // Crowds come at once: whoever finds no room would wait for seconds before the next try.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(4096).unwrap();
        Self::on(listener, script)
    }

    pub(crate) fn on(
        listener: TcpListener,
        script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let (script, seen): (Arc<Script>, Arc<Mutex<Vec<Seen>>>) = (Arc::new(script), Arc::default());
        let (sender, left) = mpsc::unbounded_channel();
        let seeing = seen.clone();
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for number in 0.. {
                let (socket, _) = listener.accept().await.unwrap();
                let (script, seen, left) = (script.clone(), seeing.clone(), sender.clone());
                connections.spawn(serve(socket, number, script, seen, left));
            }
        });
        Self { address, seen, left, serving }
    }

    /// Always the same answer.
    pub(crate) async fn answering(step: Step) -> Self {
        Self::start(move |_| vec![step.clone()]).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn v1(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The last request, as JSON.
    pub(crate) fn last(&self) -> Value {
        self.seen().last().expect("nothing was asked").json()
    }

    /// When the other side left, during a `Hold` or while it was sent to.
    pub(crate) async fn left(&mut self) -> Instant {
        tokio::time::timeout(PATIENCE, self.left.recv()).await.expect("it never left").unwrap()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    mut socket: TcpStream,
    connection: usize,
    script: Arc<Script>,
    seen: Arc<Mutex<Vec<Seen>>>,
    left: mpsc::UnboundedSender<Instant>,
) {
    socket.set_nodelay(true).unwrap();
    let mut ahead = Vec::new();
    while let Some(request) = read(&mut socket, &mut ahead).await {
        let request = Seen { connection, ..request };
        let steps = script(&request);
        seen.lock().unwrap().push(request);
        for step in steps {
            let tells = matches!(step, Step::Hold | Step::Send(_));
            if take(&mut socket, step).await.is_none() {
                if tells {
                    let _ = left.send(Instant::now());
                }
                return;
            }
        }
    }
}

/// One step; `None` if nothing can follow it.
async fn take(socket: &mut TcpStream, step: Step) -> Option<()> {
    match step {
        Step::Send(bytes) => socket.write_all(&bytes).await.ok(),
        Step::ByteWise(bytes) => {
            for byte in bytes {
                socket.write_all(&[byte]).await.ok()?;
                tokio::task::yield_now().await;
            }
            Some(())
        }
        Step::Pause(time) => {
            tokio::time::sleep(time).await;
            Some(())
        }
        Step::Hold => {
            let _ = socket.read(&mut [0; 64]).await;
            None
        }
        Step::Close => None,
        Step::Reset => {
            socket.set_zero_linger().unwrap();
            None
        }
    }
}

/// One request with a `content-length` or without a body.
async fn read(socket: &mut TcpStream, ahead: &mut Vec<u8>) -> Option<Seen> {
    let head_end = loop {
        if let Some(end) = ahead.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        more(socket, ahead).await?;
    };
    let head = String::from_utf8(ahead[..head_end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(0, |(_, length)| length.parse().unwrap());
    while ahead.len() < head_end + 4 + length {
        more(socket, ahead).await?;
    }
    let rest = ahead.split_off(head_end + 4 + length);
    let body = ahead.split_off(head_end + 4);
    *ahead = rest;
    Some(Seen { connection: 0, method, path, headers, body })
}

async fn more(socket: &mut TcpStream, ahead: &mut Vec<u8>) -> Option<()> {
    let read = socket.read_buf(ahead).await.ok()?;
    (read > 0).then_some(())
}

/// A JSON answer.
pub(crate) fn json(status: u16, headers: &str, body: &Value) -> Step {
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    Step::Send([head.as_bytes(), body.as_bytes()].concat())
}

/// The head of a stream of events, and these events in one piece. The stream goes on until the connection ends.
pub(crate) fn sse(events: &[&str]) -> Step {
    let mut text =
        String::from("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n");
    text.extend(events.iter().map(|event| format!("data: {event}\n\n")));
    Step::Send(text.into_bytes())
}

/// A recorded answer of a real server, with its head.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{name}.http"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
