//! What goes through the pipes between the gateway and a confined child: frames, each with its length before it.

use std::io::{Error, ErrorKind, Read, Result, Write};

/// The longest question, and the longest answer. Neither side believes the other.
pub(super) const MOST_BYTES: usize = 32 * 1024 * 1024;

pub(super) fn write(to: &mut impl Write, frame: &[u8]) -> Result<()> {
    let length =
        u32::try_from(frame.len()).ok().filter(|_| frame.len() <= MOST_BYTES).ok_or_else(too_long)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(frame)?;
    to.flush()
}

/// The next frame; `None` if the other side has ended between two of them.
pub(super) fn read(from: &mut impl Read) -> Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read(&mut length)? {
        0 => return Ok(None),
        read => from.read_exact(length.get_mut(read..).unwrap_or_default())?,
    }
    let length = u32::from_le_bytes(length);
    let length = usize::try_from(length).ok().filter(|length| *length <= MOST_BYTES).ok_or_else(too_long)?;
    let mut frame = Vec::new();
    // Memory is taken as the bytes come, not as they are announced.
    from.take(length as u64).read_to_end(&mut frame)?;
    if frame.len() < length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(frame))
}

fn too_long() -> Error {
    Error::new(ErrorKind::InvalidData, "the frame is too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_through_whole_and_within_bounds() {
        let mut pipe = Vec::new();
        for frame in [&b"one"[..], b"", b"three"] {
            write(&mut pipe, frame).unwrap();
        }
        let mut from = pipe.as_slice();
        for frame in [&b"one"[..], b"", b"three"] {
            assert_eq!(read(&mut from).unwrap().as_deref(), Some(frame));
        }
        assert_eq!(read(&mut from).unwrap(), None);
        for broken in [&b"\x05\0\0\0abc"[..], b"\x05\0", b"\xff\xff\xff\xff"] {
            assert!(read(&mut &*broken).is_err(), "{broken:?}");
        }
        assert!(write(&mut pipe, &vec![0; MOST_BYTES + 1]).is_err());
    }
}
