//! Takes keys and addresses out of an upstream's words before anybody sees them.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use super::secret_forms::forms;

/// Longer texts are cut: a message is not the place for a page.
const MAX_CHARS: usize = 1000;

/// Knows one provider's secrets.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Vec<String>,
}

// It holds the keys that it looks for.
impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    /// A redactor that also knows these texts. Those of fewer than four characters would hit innocent words.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        // `Bearer …`: the key alone may come back, too.
        let with_bare = |secret: String| {
            let bare = secret.rsplit_once(' ').map(|(_, bare)| bare.to_owned());
            std::iter::once(secret).chain(bare)
        };
        let known = secrets.into_iter().flat_map(with_bare).filter(|secret| secret.chars().count() >= 4);
        let mut secrets: Vec<String> = known.flat_map(|secret| forms(&secret)).collect();
        // A host is part of an address: the longer one first.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { secrets }
    }

    /// The text without known secrets, without anything that looks like a key or an address, and not
    /// longer than a message should be.
    pub fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), "[redacted]");
        }
        let mut out = String::with_capacity(text.len());
        let mut word = String::new();
        for letter in text.chars() {
            if letter.is_whitespace()
                || matches!(letter, '"' | '\'' | '`' | '(' | ')' | '<' | '>' | ',' | '{' | '}' | '|')
            {
                out.push_str(clean_word(&std::mem::take(&mut word)).as_ref());
                out.push(letter);
            } else {
                word.push(letter);
            }
        }
        out.push_str(clean_word(&word).as_ref());
        match out.char_indices().nth(MAX_CHARS) {
            Some((end, _)) => format!("{}…", out.get(..end).unwrap_or_default()),
            None => out,
        }
    }
}

fn clean_word(word: &str) -> Cow<'_, str> {
    // What stands in front, as in `url=http://…` or `key=sk-…`, says what it was and may stay.
    let front = match word.find("://") {
        Some(colon) => {
            word.get(..colon).unwrap_or_default().trim_end_matches(|c: char| c.is_ascii_alphanumeric()).len()
        }
        None => word.find('=').map_or(0, |equals| equals + 1),
    };
    let (front, rest) = word.split_at(front);
    let bare = rest.trim_end_matches(['.', ':', ';', '!', '?']);
    let tail = rest.get(bare.len()..).unwrap_or_default();
    if looks_like_key(bare) {
        format!("{front}[key]{tail}").into()
    } else if looks_like_address(bare) {
        format!("{front}[address]{tail}").into()
    } else {
        word.into()
    }
}

fn looks_like_key(word: &str) -> bool {
    let prefixes = ["sk-", "sk_", "llmp_", "hf_", "gsk_", "xai-", "AIza", "Bearer:"];
    word.len() >= 10 && prefixes.iter().any(|prefix| word.starts_with(prefix))
}

fn looks_like_address(word: &str) -> bool {
    if word.contains("://") || word.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let host = word.split('/').next().unwrap_or_default();
    if host.parse::<SocketAddr>().is_ok() || is_ip(host.trim_start_matches('[').trim_end_matches(']')) {
        return true;
    }
    // A name with a port: `gpu-box.internal:8000`, `localhost:8000`.
    host.rsplit_once(':').is_some_and(|(name, port)| {
        let is_name = name.contains('.') || name == "localhost";
        let sane = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
        is_name && name.bytes().all(sane) && port.len() >= 2 && port.parse::<u16>().is_ok()
    })
}

fn is_ip(word: &str) -> bool {
    // `::` and `1` parse as addresses in some form or other; texts hold them for other reasons.
    word.len() >= 7 && word.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_keys_and_addresses_are_taken_out() {
        let redactor = Redactor::new([
            "planted-key".to_owned(),
            "gpu-box".to_owned(),
            "gpu-box:8000".to_owned(),
            "v1".to_owned(),
        ]);
        for (text, cleaned) in [
            ("Incorrect API key provided: planted-key.", "Incorrect API key provided: [redacted]."),
            ("no route to gpu-box:8000 or gpu-box", "no route to [redacted] or [redacted]"),
            ("see https://example.org/a?b=c, please", "see [address], please"),
            ("dial tcp 10.0.0.7:8000: refused", "dial tcp [address]: refused"),
            ("host 192.168.1.20 is down", "host [address] is down"),
            ("[::1]:8080 is down", "[address] is down"),
            ("at \"localhost:11434/api/chat\"", "at \"[address]\""),
            ("key=sk-abcdefghijkl!", "key=[key]!"),
            ("key=sk-abcdefghijk==", "key=[key]"),
            ("model v1.5: 3.5 of 10.2, ratio 4:3 at 12:30", "model v1.5: 3.5 of 10.2, ratio 4:3 at 12:30"),
            ("żółw: nie ma pola `messages`", "żółw: nie ma pola `messages`"),
        ] {
            assert_eq!(redactor.clean(text), cleaned);
        }
    }

    #[test]
    fn secrets_are_taken_out_in_whatever_form_they_come() {
        let redactor = Redactor::new(["planted/key".to_owned()]);
        for text in [
            "cGxhbnRlZC9rZXk=",
            "706c616e7465642f6b6579",
            "planted%2Fkey",
            "planted&#x2F;key",
            r"planted\/key",
        ] {
            let cleaned = redactor.clean(&format!("you sent {text} to us"));
            assert!(cleaned.starts_with("you sent [redacted]"), "{text}: {cleaned}");
        }
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(Redactor::default().clean(&"ż".repeat(5000)).chars().count(), MAX_CHARS + 1);
    }

    #[test]
    fn debug_output_shows_no_secret() {
        assert!(!format!("{:?}", Redactor::new(["planted".to_owned()])).contains("planted"));
    }

    proptest! {
        #[test]
        fn a_secret_never_comes_through(before in "\\PC{0,20}", after in "\\PC{0,20}") {
            let redactor = Redactor::new(["pl4nted-s3cret".to_owned()]);
            let cleaned = redactor.clean(&format!("{before}pl4nted-s3cret{after}"));
            prop_assert!(!cleaned.contains("pl4nted-s3cret"));
        }
    }
}
