//! As much HTTP/1.1 as the mock and the load generator need: heads, and bodies with a length or in chunks.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const READ_BYTES: usize = 16 * 1024;

/// What stands before a body.
#[derive(Debug)]
pub struct Head {
    pub start_line: String,
    pub body: Body,
}

/// How much of a body is still to come.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    Length(usize),
    Chunked(Chunks),
}

/// Where in a chunked body the next byte stands.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunks {
    /// In the line with the size, so far as read.
    Size(usize),
    /// In the size line behind the size.
    Extension(usize),
    Data(usize),
    /// In the line end behind the data.
    DataEnd,
    /// In the lines behind the last chunk; true while the line is empty.
    Trailer(bool),
    Ended,
}

impl Head {
    /// Reads a head and says how long it is, or `None` if it is not there as a whole.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(bytes.get(..end).unwrap_or_default())?;
        let mut lines = text.split("\r\n");
        let start_line = lines.next().unwrap_or_default().to_owned();
        let mut body = Body::Length(0);
        for line in lines {
            let (name, value) = line.split_once(':').context("a header without a colon")?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                body = Body::Length(value.parse().context("an odd content-length")?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                ensure!(value.eq_ignore_ascii_case("chunked"), "an unknown transfer-encoding");
                body = Body::Chunked(Chunks::Size(0));
            }
        }
        Ok(Some((Head { start_line, body }, end + 4)))
    }
}

impl Body {
    pub fn ended(&self) -> bool {
        matches!(self, Body::Length(0) | Body::Chunked(Chunks::Ended))
    }

    /// Appends to `output` what `input` holds of the body, and says how much of `input` that took.
    pub fn decode(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<usize> {
        let mut rest = input;
        while let Some(first) = rest.first().copied() {
            match self {
                Body::Length(0) | Body::Chunked(Chunks::Ended) => break,
                Body::Length(left) | Body::Chunked(Chunks::Data(left)) => {
                    let (taken, after) = rest.split_at((*left).min(rest.len()));
                    output.extend_from_slice(taken);
                    *left -= taken.len();
                    rest = after;
                    if *self == Body::Chunked(Chunks::Data(0)) {
                        *self = Body::Chunked(Chunks::DataEnd);
                    }
                }
                Body::Chunked(chunks) => {
                    chunks.step(first)?;
                    rest.advance(1);
                }
            }
        }
        Ok(input.len() - rest.len())
    }
}

impl Chunks {
    /// Takes one byte outside of the data.
    fn step(&mut self, byte: u8) -> Result<()> {
        *self = match (&*self, byte) {
            (Chunks::Size(0) | Chunks::Extension(0), b'\n') => Chunks::Trailer(true),
            (Chunks::Size(size) | Chunks::Extension(size), b'\n') => Chunks::Data(*size),
            (Chunks::Size(size), b'\r' | b';' | b' ') | (Chunks::Extension(size), _) => {
                Chunks::Extension(*size)
            }
            (Chunks::Size(size), _) => match char::from(byte).to_digit(16) {
                Some(digit) if *size < usize::MAX >> 5 => Chunks::Size(size * 16 + digit as usize),
                _ => bail!("an odd chunk size"),
            },
            (Chunks::DataEnd, b'\n') => Chunks::Size(0),
            (Chunks::DataEnd, b'\r') => Chunks::DataEnd,
            (Chunks::DataEnd, _) => bail!("a chunk longer than its size"),
            (Chunks::Trailer(true), b'\n') => Chunks::Ended,
            (Chunks::Trailer(empty), b'\r') => Chunks::Trailer(*empty),
            (Chunks::Trailer(_), b'\n') => Chunks::Trailer(true),
            (Chunks::Trailer(_), _) => Chunks::Trailer(false),
            (Chunks::Data(_) | Chunks::Ended, _) => bail!("a byte where none belongs"),
        };
        Ok(())
    }
}

/// One connection, from either side.
pub struct Connection {
    stream: TcpStream,
    unread: BytesMut,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Result<Connection> {
        stream.set_nodelay(true)?;
        Ok(Connection { stream, unread: BytesMut::new() })
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The next head, or `None` if the other side is done.
    pub async fn head(&mut self) -> Result<Option<Head>> {
        loop {
            if let Some((head, length)) = Head::parse(&self.unread)? {
                self.unread.advance(length);
                return Ok(Some(head));
            }
            if !self.fill().await? {
                ensure!(self.unread.is_empty(), "closed inside of a head");
                return Ok(None);
            }
        }
    }

    /// Appends the next part of a body that has not ended.
    pub async fn body_part(&mut self, body: &mut Body, output: &mut Vec<u8>) -> Result<()> {
        if self.unread.is_empty() {
            ensure!(self.fill().await?, "closed inside of a body");
        }
        let taken = body.decode(&self.unread, output)?;
        self.unread.advance(taken);
        Ok(())
    }

    /// Puts a whole body in place of what `output` held.
    pub async fn whole_body(&mut self, mut body: Body, output: &mut Vec<u8>) -> Result<()> {
        output.clear();
        while !body.ended() {
            self.body_part(&mut body, output).await?;
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<bool> {
        self.unread.reserve(READ_BYTES);
        Ok(self.stream.read_buf(&mut self.unread).await? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nX: y\r\n\r\nrest";
        for end in 0..45 {
            assert!(Head::parse(&bytes[..end]).unwrap().is_none());
        }
        let (head, length) = Head::parse(bytes).unwrap().unwrap();
        assert_eq!((head.start_line.as_str(), head.body, length), ("HTTP/1.1 200 OK", Body::Length(12), 45));
        assert!(Head::parse(b"GET / HTTP/1.1\r\nno colon\r\n\r\n").is_err());
    }

    #[test]
    fn chunks_are_joined_however_they_are_cut() {
        let bytes = b"5\r\nhello\r\n1a;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nA: b\r\n\r\nnext";
        for step in 1..bytes.len() {
            let (mut body, mut output, mut taken) = (Body::Chunked(Chunks::Size(0)), Vec::new(), 0);
            for part in bytes.chunks(step) {
                taken += body.decode(part, &mut output).unwrap();
            }
            assert_eq!(output, b"helloabcdefghijklmnopqrstuvwxyz");
            assert!(body.ended());
            assert_eq!(taken, bytes.len() - 4);
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        for bytes in [&b"x\r\n"[..], b"2\r\nabc\r\n", b"fffffffffffffffffff\r\n"] {
            let mut body = Body::Chunked(Chunks::Size(0));
            assert!(body.decode(bytes, &mut Vec::new()).is_err());
        }
    }
}
