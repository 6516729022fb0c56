//! One caller: sends requests over a kept connection and checks what comes back.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use memchr::memchr;
use tokio::net::TcpStream;

use crate::answer::{Event, Pace, StreamCheck, check_whole};
use crate::http1::Connection;
use crate::stats::now_ns;
use crate::tally::Tally;

const PROMPT_BYTES: usize = 512;

/// One caller with one connection.
pub struct Client {
    address: SocketAddr,
    connection: Option<Connection>,
    request: Vec<u8>,
    pub streamed: bool,
    chunks: usize,
    /// Kept, so that it is not allocated anew for each answer.
    body: Vec<u8>,
}

impl Client {
    pub fn new(port: u16, model: &str) -> Result<Client> {
        let pace = Pace::of_model(model).with_context(|| format!("no model {model}"))?;
        let streamed = model.starts_with("chunks-");
        Ok(Client {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            connection: None,
            request: request(model, streamed).into_bytes(),
            streamed,
            chunks: pace.chunks,
            body: Vec::new(),
        })
    }

    /// With another key than the usual one.
    pub fn with_key(mut self, key: &str) -> Client {
        let usual = String::from_utf8_lossy(&self.request);
        let (bearer, with_key) = (format!("Bearer {KEY}\r\n"), format!("Bearer {key}\r\n"));
        self.request = usual.replacen(&bearer, &with_key, 1).into_bytes();
        self
    }

    /// The next request opens a new connection.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Asks for a whole answer and checks it.
    pub async fn whole(&mut self) -> Result<()> {
        let connection = ask(&mut self.connection, self.address, &self.request).await?;
        let head = connection.head().await?.context("closed before the answer")?;
        connection.whole_body(head.body, &mut self.body).await?;
        check_status(&head.start_line, &self.body)?;
        check_whole(&self.body)
    }

    /// Asks for a stream and checks it; `counted` says whether what came just now is measured.
    pub async fn stream(&mut self, tally: &mut Tally, counted: &mut impl FnMut() -> bool) -> Result<()> {
        let mut arrivals = Arrivals { asked_ns: now_ns(), last_ns: None };
        let connection = ask(&mut self.connection, self.address, &self.request).await?;
        let head = connection.head().await?.context("closed before the answer")?;
        let mut body = head.body;
        self.body.clear();
        let mut check = StreamCheck::new(self.chunks);
        if !head.start_line.contains(" 200 ") {
            connection.whole_body(body, &mut self.body).await?;
            return check_status(&head.start_line, &self.body);
        }
        while !body.ended() {
            connection.body_part(&mut body, &mut self.body).await?;
            let (now_ns, counted) = (now_ns(), counted());
            take_lines(&mut self.body, |line| {
                if let Some(Event::Content { sent_ns, .. }) = check.line(line)? {
                    arrivals.note(now_ns, sent_ns, counted.then_some(&mut *tally));
                }
                Ok(())
            })?;
        }
        check.end()
    }
}

/// When the chunks of one stream came.
struct Arrivals {
    asked_ns: u64,
    last_ns: Option<u64>,
}

impl Arrivals {
    fn note(&mut self, now_ns: u64, sent_ns: Option<u64>, tally: Option<&mut Tally>) {
        let last_ns = self.last_ns.replace(now_ns);
        let Some(tally) = tally else { return };
        tally.chunks += 1;
        tally.transit_ns.extend(sent_ns.map(|sent_ns| now_ns.saturating_sub(sent_ns)));
        match last_ns {
            Some(last_ns) => tally.gap_ns.push(now_ns - last_ns),
            None => tally.first_token_ns.push(now_ns - self.asked_ns),
        }
    }
}

/// Sends the request, over a new connection if there is none.
async fn ask<'a>(
    connection: &'a mut Option<Connection>,
    address: SocketAddr,
    request: &[u8],
) -> Result<&'a mut Connection> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(Connection::new(TcpStream::connect(address).await?)?),
    };
    connection.send(request).await?;
    Ok(connection)
}

/// What a gateway is shown that asks nobody for a key.
pub const KEY: &str = "bench";

/// A request as applications send it, head and body.
pub fn request(model: &str, streamed: bool) -> String {
    let words = "All work and no play makes a dull benchmark. ".repeat(PROMPT_BYTES / 45 + 1);
    let prompt = words.get(..PROMPT_BYTES).unwrap_or_default();
    let options = if streamed { r#","stream":true,"stream_options":{"include_usage":true}"# } else { "" };
    let body = format!(
        r#"{{"model":"{model}","messages":[{{"role":"system","content":"You are brief."}},{{"role":"user","content":"{prompt}"}}],"temperature":0.2,"max_tokens":256{options}}}"#
    );
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: gateway-bench\r\n\
         authorization: Bearer {KEY}\r\naccept: */*\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

pub fn check_status(start_line: &str, body: &[u8]) -> Result<()> {
    if start_line.contains(" 200 ") {
        return Ok(());
    }
    bail!("{start_line}: {}", String::from_utf8_lossy(body.get(..200).unwrap_or(body)))
}

/// Hands on the lines that are whole and keeps the rest.
fn take_lines(text: &mut Vec<u8>, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut taken = 0;
    while let Some(rest) = text.get(taken..)
        && let Some(length) = memchr(b'\n', rest)
    {
        each(rest.get(..length).unwrap_or_default())?;
        taken += length + 1;
    }
    text.drain(..taken);
    ensure!(text.len() < 1 << 20, "a line without an end");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_when_they_are_whole() {
        let (mut text, mut lines) = (Vec::new(), Vec::new());
        for byte in b"data: a\n\ndata: b\nrest" {
            text.push(*byte);
            take_lines(&mut text, |line| {
                lines.push(String::from_utf8_lossy(line).into_owned());
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(lines, ["data: a", "", "data: b"]);
        assert_eq!(text, b"rest");
    }

    #[test]
    fn arrivals_give_first_token_gap_and_transit() {
        let (mut arrivals, mut tally) = (Arrivals { asked_ns: 100, last_ns: None }, Tally::default());
        arrivals.note(150, Some(140), Some(&mut tally));
        arrivals.note(170, None, None);
        arrivals.note(200, Some(260), Some(&mut tally));
        assert_eq!((tally.first_token_ns, tally.gap_ns), (vec![50], vec![30]));
        assert_eq!((tally.transit_ns, tally.chunks), (vec![10, 0], 2));
    }

    #[test]
    fn requests_are_what_they_say() {
        let request = request("whole", false);
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["messages"][1]["content"].as_str().unwrap().len(), PROMPT_BYTES);
    }
}
