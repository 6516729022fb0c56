//! Makes plain bytes of a body that may be compressed. Its first bytes say whether it is, and how, not its label.

use std::io::{self, Write};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use flate2::write::{MultiGzDecoder, ZlibDecoder};

use super::transport::{Failure, FailureKind};

/// This many bytes are unpacked at once. They become a thousand times as many at most.
const STEP: usize = 1024;
/// So many bytes say whether they are text.
const LOOKED_AT: usize = 64;

/// Unpacks one body.
#[derive(Debug, Default)]
pub(super) struct Unpacker {
    /// What has come and has not been unpacked.
    packed: BytesMut,
    /// A plain piece that was put back.
    ready: Bytes,
    form: Form,
    has_ended: bool,
}

#[derive(Debug, Default)]
enum Form {
    /// Too little has come to say.
    #[default]
    Unknown,
    Plain,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zlib(Box<ZlibDecoder<Vec<u8>>>),
}

impl Unpacker {
    /// Puts a plain piece back, before all that comes.
    pub(super) fn put_back(&mut self, piece: Bytes) {
        self.ready = piece;
    }

    /// The next plain piece of the body that `poll_chunk` gives.
    pub(super) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        mut poll_chunk: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>>,
    ) -> Poll<Option<Result<Bytes, Failure>>> {
        if !self.ready.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.ready))));
        }
        loop {
            match self.step() {
                Ok(piece) if !piece.is_empty() => return Poll::Ready(Some(Ok(piece))),
                Ok(_) if self.has_ended && self.packed.is_empty() => return Poll::Ready(None),
                Ok(_) if !self.packed.is_empty() && !matches!(self.form, Form::Unknown) => continue,
                Ok(_) => {}
                Err(error) => {
                    self.packed.clear();
                    self.has_ended = true;
                    return Poll::Ready(Some(Err(Failure {
                        kind: FailureKind::Packed,
                        source: error.into(),
                    })));
                }
            }
            match ready!(poll_chunk(cx)) {
                Some(Ok(chunk)) => self.packed.extend_from_slice(&chunk),
                Some(Err(failure)) => return Poll::Ready(Some(Err(failure))),
                None => self.has_ended = true,
            }
        }
    }

    /// What the next step gives, which may be nothing.
    fn step(&mut self) -> io::Result<Bytes> {
        if matches!(self.form, Form::Unknown) {
            self.form = form_of(&self.packed, self.has_ended)?;
        }
        let step = self.packed.len().min(STEP);
        match &mut self.form {
            Form::Unknown => Ok(Bytes::new()),
            Form::Plain => Ok(self.packed.split().freeze()),
            Form::Gzip(decoder) => {
                write(decoder, &self.packed.split_to(step))?;
                Ok(std::mem::take(decoder.get_mut()).into())
            }
            Form::Zlib(decoder) => {
                write(decoder, &self.packed.split_to(step))?;
                Ok(std::mem::take(decoder.get_mut()).into())
            }
        }
    }
}

/// Unpacks a step up to its last byte, for the next one may be long in coming.
fn write(decoder: &mut impl Write, packed: &[u8]) -> io::Result<()> {
    if packed.is_empty() {
        return Ok(());
    }
    decoder.write_all(packed)?;
    decoder.flush()
}

/// What a body is, by its beginning; `is_all` if no more of it will come.
fn form_of(start: &[u8], is_all: bool) -> io::Result<Form> {
    match start {
        [0x1f, 0x8b, ..] => Ok(Form::Gzip(Box::new(MultiGzDecoder::new(Vec::new())))),
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => Ok(Form::Zlib(Box::new(ZlibDecoder::new(Vec::new())))),
        [] | [_] if !is_all => Ok(Form::Unknown),
        _ if is_text(start) => Ok(Form::Plain),
        _ => Err(io::Error::other("neither text nor gzip nor deflate")),
    }
}

/// Whether a body begins as a text: in UTF-8, or nearly all in letters that other encodings share with it.
fn is_text(start: &[u8]) -> bool {
    let start = start.get(..LOOKED_AT).unwrap_or(start);
    let is_written = |byte: &u8| *byte >= b' ' || byte.is_ascii_whitespace();
    // The last character may be cut.
    let is_utf_8 = std::str::from_utf8(start).map_or_else(|error| error.error_len().is_none(), |_| true);
    let others = start.iter().filter(|byte| !byte.is_ascii()).count();
    start.iter().all(is_written) && (is_utf_8 || others * 8 <= start.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    const TEXT: &str = r#"{"error":{"message":"zażółć"}}"#;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// All pieces of a body that comes in chunks of this size, and how large the largest of them is.
    fn unpacked(body: &[u8], size: usize) -> Result<(Vec<u8>, usize), FailureKind> {
        let (mut unpacker, mut chunks) = (Unpacker::default(), body.chunks(size));
        let (mut all, mut largest) = (Vec::new(), 0);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut next =
            |_: &mut Context<'_>| Poll::Ready(chunks.next().map(|chunk| Ok(Bytes::copy_from_slice(chunk))));
        loop {
            match unpacker.poll_piece(&mut cx, &mut next) {
                Poll::Ready(None) => return Ok((all, largest)),
                Poll::Ready(Some(Ok(piece))) => {
                    largest = largest.max(piece.len());
                    all.extend_from_slice(&piece);
                }
                Poll::Ready(Some(Err(failure))) => return Err(failure.kind),
                Poll::Pending => unreachable!("there is always a chunk or the end"),
            }
        }
    }

    #[test]
    fn a_body_is_read_by_its_bytes_however_they_are_cut() {
        let twice = [gzip(TEXT.as_bytes()), gzip(b"!")].concat();
        for size in 1..80 {
            for body in [TEXT.as_bytes(), &gzip(TEXT.as_bytes()), &zlib(TEXT.as_bytes())] {
                assert_eq!(unpacked(body, size).unwrap().0, TEXT.as_bytes(), "{size}");
            }
            assert_eq!(unpacked(&twice, size).unwrap().0, format!("{TEXT}!").as_bytes());
            assert_eq!(unpacked(b"x", size).unwrap().0, b"x");
            assert_eq!(unpacked(b"", size).unwrap().0, b"");
        }
    }

    #[test]
    fn what_has_come_is_given_before_more_comes() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let mut unpacker = Unpacker::default();
        for event in ["data: {\"a\":1}\n\n", "data: {\"b\":2}\n\n"] {
            encoder.write_all(event.as_bytes()).unwrap();
            encoder.flush().unwrap();
            unpacker.packed.extend_from_slice(encoder.get_ref());
            encoder.get_mut().clear();
            assert_eq!(unpacker.step().unwrap(), event);
        }
    }

    #[test]
    fn what_is_neither_text_nor_known_is_a_failure() {
        let zstd = b"\x28\xb5\x2f\xfd\x04\x00";
        assert_eq!(unpacked(zstd, 3), Err(FailureKind::Packed));
        assert_eq!(unpacked(b"!\xf2\xe9?\xd0", 9), Err(FailureKind::Packed));
        let latin_1 = b"{\"message\":\"caf\xE9\"}";
        assert_eq!(unpacked(latin_1, 99).unwrap().0, latin_1);
        let mut broken = gzip(&[7; 500]);
        broken[10] ^= 0xff;
        assert_eq!(unpacked(&broken, 9), Err(FailureKind::Packed));
    }

    #[test]
    fn no_piece_is_large() {
        let (all, largest) = unpacked(&gzip(&vec![0; 20 << 20]), 1 << 20).unwrap();
        assert_eq!(all.len(), 20 << 20);
        assert!(largest <= 2 << 20, "{largest}");
    }
}
