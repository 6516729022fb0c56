//! The head of a model's file, as far as tokens are concerned: checked, and without all that counting does not need.
//!
//! The file may come from anywhere. It is read front to back; a length that the file cannot hold, arrays within arrays
//! and a head of an absurd size are refused before memory is taken for them. What is left over is a small file of the same form,
//! for the tokenizer's own reader. Runs in a confined child, and leans on that for nothing but the rest of the risk.

use std::io::{self, BufRead, Read as _, Seek, SeekFrom};

const MAGIC: &[u8; 4] = b"GGUF";
/// Entries whose names begin so are what counting needs.
const WANTED: &[u8] = b"tokenizer.";
/// How texts are split, by a name.
const WAY: &[u8] = b"tokenizer.ggml.pre";

/// Real heads have some dozens of entries.
const MOST_ENTRIES: u64 = 10_000;
const MOST_NAME_BYTES: u64 = 1024;
/// The largest vocabularies in use take a fifth of it.
const MOST_WANTED_BYTES: usize = 64 * 1024 * 1024;

/// Kinds of values, in the file's numbers.
const TEXT: u32 = 8;
const LIST: u32 = 9;

/// Why a head is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is not what a model's file is.
    #[error("{0}")]
    Unsound(&'static str),
    /// Nothing is known of its way to split texts.
    #[error("its way to split texts is not one of those that are counted")]
    Unproven,
}

/// The part of a model's head that says what its tokens are, as a file of the same form.
///
/// # Errors
/// The file is unsound, or splits texts in a way that is none of `proven`. Its vocabulary has not been taken apart then.
pub(super) fn of_tokens(file: impl BufRead + Seek, proven: &[&str]) -> Result<Vec<u8>, Refused> {
    let mut reader = Reader::new(file)?;
    let entries = reader.opening()?;
    let mut head = Head::default();
    for _ in 0..entries {
        reader.entry(&mut head)?;
    }
    let is_proven = |way: &[u8]| proven.iter().any(|proven| proven.as_bytes() == way);
    head.way.as_deref().is_some_and(is_proven).then(|| head.finish(reader.version)).ok_or(Refused::Unproven)
}

/// What is kept.
#[derive(Default)]
struct Head {
    entries: u64,
    bytes: Vec<u8>,
    way: Option<Vec<u8>>,
}

impl Head {
    fn finish(self, version: u32) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.extend(version.to_le_bytes());
        file.extend(0_u64.to_le_bytes());
        file.extend(self.entries.to_le_bytes());
        file.extend(self.bytes);
        file
    }
}

struct Reader<R> {
    file: R,
    /// What is left of the file.
    left: u64,
    version: u32,
}

impl<R: BufRead + Seek> Reader<R> {
    fn new(mut file: R) -> io::Result<Self> {
        let left = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Self { file, left, version: 0 })
    }

    /// What stands before the entries; how many there are.
    fn opening(&mut self) -> Result<u64, Refused> {
        if self.array()? != *MAGIC {
            return Err(Refused::Unsound("it is no GGUF file"));
        }
        self.version = self.number()?;
        if !(2..=3).contains(&self.version) {
            return Err(Refused::Unsound("its version is not known"));
        }
        let _tensors = self.long()?;
        let entries = self.long()?;
        if entries > MOST_ENTRIES {
            return Err(Refused::Unsound("it has too many entries"));
        }
        Ok(entries)
    }

    /// Reads an entry, and keeps it if it is wanted.
    fn entry(&mut self, head: &mut Head) -> Result<(), Refused> {
        let length = self.long()?;
        if length > MOST_NAME_BYTES {
            return Err(Refused::Unsound("the name of an entry is too long"));
        }
        let mut name = Vec::new();
        self.take(length, &mut name)?;
        let kind = self.number()?;
        if !name.starts_with(WANTED) {
            return self.value(kind, None);
        }
        let bytes = &mut head.bytes;
        bytes.extend(length.to_le_bytes());
        bytes.extend(&name);
        bytes.extend(kind.to_le_bytes());
        let start = bytes.len();
        self.value(kind, Some(bytes))?;
        if name == WAY && kind == TEXT {
            // The text stands behind its length.
            head.way = bytes.get(start + size_of::<u64>()..).map(<[u8]>::to_vec);
        }
        head.entries += 1;
        Ok(())
    }

    /// Passes a value, and copies it to where it is kept.
    fn value(&mut self, kind: u32, kept: Option<&mut Vec<u8>>) -> Result<(), Refused> {
        match kind {
            TEXT => self.texts(1, kept),
            LIST => self.list(kept),
            _ => self.pass(width_of(kind)?, kept),
        }
    }

    fn list(&mut self, mut kept: Option<&mut Vec<u8>>) -> Result<(), Refused> {
        let (kind, count) = (self.number()?, self.long()?);
        if let Some(kept) = kept.as_deref_mut() {
            kept.extend(kind.to_le_bytes());
            kept.extend(count.to_le_bytes());
        }
        match kind {
            // No model has lists of lists.
            LIST => Err(Refused::Unsound("it has lists within lists")),
            TEXT => self.texts(count, kept),
            _ => {
                let bytes = count.checked_mul(width_of(kind)?).ok_or(TOO_LONG)?;
                self.pass(bytes, kept)
            }
        }
    }

    fn texts(&mut self, count: u64, mut kept: Option<&mut Vec<u8>>) -> Result<(), Refused> {
        // Each has a length at least.
        if count.checked_mul(size_of::<u64>() as u64).is_none_or(|bytes| bytes > self.left) {
            return Err(TOO_LONG);
        }
        for _ in 0..count {
            let length = self.long()?;
            if let Some(kept) = kept.as_deref_mut() {
                kept.extend(length.to_le_bytes());
            }
            self.pass(length, kept.as_deref_mut())?;
        }
        Ok(())
    }

    fn pass(&mut self, bytes: u64, kept: Option<&mut Vec<u8>>) -> Result<(), Refused> {
        if bytes > self.left {
            return Err(TOO_LONG);
        }
        match kept {
            Some(kept) if kept.len() as u64 + bytes > MOST_WANTED_BYTES as u64 => {
                Err(Refused::Unsound("its vocabulary is too large"))
            }
            Some(kept) => self.take(bytes, kept),
            None => {
                self.left -= bytes;
                let bytes = i64::try_from(bytes).map_err(|_| TOO_LONG)?;
                Ok(self.file.seek_relative(bytes)?)
            }
        }
    }

    /// Appends the next bytes.
    fn take(&mut self, bytes: u64, to: &mut Vec<u8>) -> Result<(), Refused> {
        if bytes > self.left {
            return Err(TOO_LONG);
        }
        self.left -= bytes;
        let taken = (&mut self.file).take(bytes).read_to_end(to)?;
        // It may have become shorter meanwhile.
        if taken as u64 == bytes { Ok(()) } else { Err(TOO_LONG) }
    }

    fn number(&mut self) -> Result<u32, Refused> {
        self.array().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Result<u64, Refused> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const BYTES: usize>(&mut self) -> Result<[u8; BYTES], Refused> {
        self.left = self.left.checked_sub(BYTES as u64).ok_or(TOO_LONG)?;
        let mut array = [0; BYTES];
        self.file.read_exact(&mut array)?;
        Ok(array)
    }
}

const TOO_LONG: Refused = Refused::Unsound("it ends within its head");

/// How many bytes a value takes that is neither a text nor a list.
fn width_of(kind: u32) -> Result<u64, Refused> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(Refused::Unsound("it holds a kind of value that is not known")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn entry(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        [&text(name)[..], &kind.to_le_bytes(), value].concat()
    }

    fn file(entries: &[Vec<u8>]) -> Vec<u8> {
        let numbers = [&3_u32.to_le_bytes()[..], &0_u64.to_le_bytes(), &(entries.len() as u64).to_le_bytes()];
        [&MAGIC[..], &numbers.concat(), &entries.concat()].concat()
    }

    fn list(kind: u32, count: u64, items: &[u8]) -> Vec<u8> {
        [&kind.to_le_bytes()[..], &count.to_le_bytes(), items].concat()
    }

    fn read(file: &[u8]) -> Result<Vec<u8>, Refused> {
        of_tokens(Cursor::new(file), &["qwen2"])
    }

    fn way() -> Vec<u8> {
        entry("tokenizer.ggml.pre", TEXT, &text("qwen2"))
    }

    #[test]
    fn only_what_counting_needs_is_kept() {
        let tokens = entry("tokenizer.ggml.tokens", LIST, &list(TEXT, 2, &[text("a"), text("ł")].concat()));
        let others = [
            entry("general.name", TEXT, &text("m")),
            entry("x.numbers", LIST, &list(10, 3, &[0; 24])),
            entry("x.flag", 7, &[1]),
        ];
        let whole = file(&[others.to_vec(), vec![tokens.clone(), way()]].concat());
        assert_eq!(read(&whole).unwrap(), file(&[tokens, way()]));
        assert!(matches!(read(&file(&others)), Err(Refused::Unproven)));
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn what_the_file_cannot_hold_is_refused_before_memory_is_taken() {
        let huge = u64::MAX / 2;
        for (entry, words) in [
            (entry("x", LIST, &list(LIST, 1, &list(LIST, 1, &[0; 64]))), "lists within lists"),
            (entry("x", LIST, &list(LIST, 0, &[])), "lists within lists"),
            (entry("tokenizer.x", LIST, &list(TEXT, huge, &[])), "ends within"),
            (entry("tokenizer.x", LIST, &list(12, huge, &[])), "ends within"),
            (entry("x", LIST, &list(0, 1 << 40, &[])), "ends within"),
            (entry("tokenizer.x", TEXT, &(1_u64 << 63).to_le_bytes()), "ends within"),
            (entry(&"n".repeat(2000), 7, &[1]), "name"),
            (entry("x", 13, &[0; 64]), "not known"),
        ] {
            let refused = read(&file(&[entry, way()])).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
        let mut many = file(&[way()]);
        many[16..24].copy_from_slice(&huge.to_le_bytes());
        assert!(read(&many).unwrap_err().to_string().contains("too many"));
    }
}
