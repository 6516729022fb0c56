//! The upstream of a case: it answers with the bytes of files, and remembers what it got.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::case::Answer;
use crate::http::{Request, read_request};

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    last: Arc<Mutex<Option<Request>>>,
}

impl Upstream {
    /// Serves until the test process ends.
    pub(crate) fn start(folder: &Path, answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let last = Arc::new(Mutex::new(None));
        let (folder, answers, seen): (PathBuf, Arc<[Answer]>, _) =
            (folder.into(), answers.into(), last.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (folder, answers, seen) = (folder.clone(), answers.clone(), seen.clone());
                std::thread::spawn(move || serve(socket, &folder, &answers, &seen));
            }
        });
        Self { address, last }
    }

    pub(crate) fn last(&self) -> Request {
        self.last.lock().unwrap().clone().unwrap_or_default()
    }
}

/// One request for each connection: how an answer ends belongs to its bytes.
fn serve(mut socket: TcpStream, folder: &Path, answers: &[Answer], seen: &Mutex<Option<Request>>) {
    let Some(request) = read_request(&mut BufReader::new(&socket)) else { return };
    let fits = |answer: &&Answer| {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let model = body.get("model").and_then(Value::as_str);
        let text = String::from_utf8_lossy(&request.body);
        answer.path.as_ref().is_none_or(|path| *path == request.path)
            && answer.model.as_ref().is_none_or(|name| Some(name.as_str()) == model)
            && answer.words.as_ref().is_none_or(|words| text.contains(words))
    };
    let bytes = answers.iter().find(fits).map_or_else(
        || b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}".to_vec(),
        |answer| std::fs::read(folder.join(&answer.file)).unwrap(),
    );
    *seen.lock().unwrap() = Some(request);
    // A gateway that gives an answer up closes the connection.
    let _ = socket.write_all(&bytes);
}
