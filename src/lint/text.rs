//! The texts of operators' files.

use std::io;
use std::path::Path;

/// What some editors and shells write before a text in UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Reads a text without its byte order mark.
///
/// # Errors
/// The file cannot be read, or its text is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => io::Error::other("its text is not UTF-8; save it in that encoding"),
        _ => error,
    })?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len_utf8());
    }
    Ok(text)
}

/// The text without its byte order mark.
pub fn without_byte_order_mark(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_without_its_byte_order_mark() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        for (bytes, read) in [
            (&b"\xef\xbb\xbfa\n"[..], "a\n"),
            (b"a", "a"),
            (b"\xef\xbb\xbf", ""),
            (b"a\xef\xbb\xbf", "a\u{feff}"),
        ] {
            std::fs::write(&file, bytes).unwrap();
            assert_eq!(read_text(&file).unwrap(), read);
        }
        std::fs::write(&file, b"gr\xfc\xdfe").unwrap();
        assert!(read_text(&file).unwrap_err().to_string().contains("not UTF-8"));
    }
}
