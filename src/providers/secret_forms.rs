//! The forms in which a server may repeat a key: as it is, or written as text is written somewhere.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// A shorter text may stand anywhere by chance.
const LEAST_BYTES: usize = 8;

/// All forms of a secret, itself first. Those of short secrets are left out, as they would hit innocent words.
pub(super) fn forms(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let mut forms = vec![secret.to_owned()];
    let mut add = |form: String| {
        if form.len() >= LEAST_BYTES && !forms.contains(&form) {
            forms.push(form);
        }
    };
    if bytes.len() < LEAST_BYTES {
        return forms;
    }
    for before in 0..3 {
        add(in_base64(&STANDARD, before, bytes));
        add(in_base64(&URL_SAFE, before, bytes));
    }
    // Hexadecimal digits, escapes in URLs, in JSON, and in HTML: of all letters, or of those that have to be written so.
    add(written(bytes, none, |out, byte| write!(out, "{byte:02x}")));
    add(written(bytes, none, |out, byte| write!(out, "{byte:02X}")));
    let kept: [fn(u8) -> bool; 3] = [none, is_unreserved, is_plain];
    for keeps in kept {
        add(written(bytes, keeps, |out, byte| write!(out, "%{byte:02X}")));
        add(written(bytes, keeps, |out, byte| write!(out, "%{byte:02x}")));
        add(written(bytes, keeps, |out, byte| write!(out, "\\u{byte:04x}")));
        add(written(bytes, keeps, |out, byte| write!(out, "\\u{byte:04X}")));
        add(written(bytes, keeps, |out, byte| write!(out, "&#{byte};")));
        add(written(bytes, keeps, |out, byte| write!(out, "&#x{byte:x};")));
        add(written(bytes, keeps, |out, byte| write!(out, "&#x{byte:X};")));
    }
    add(secret.replace('/', "\\/"));
    add(secret
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;"));
    forms
}

fn none(_: u8) -> bool {
    false
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn is_unreserved(byte: u8) -> bool {
    is_plain(byte) || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The letters of base64 that depend on the secret alone, where so many bytes stand before it in its group of three.
fn in_base64(alphabet: &impl Engine, before: usize, secret: &[u8]) -> String {
    let mut bytes = vec![0; before];
    bytes.extend_from_slice(secret);
    let text = alphabet.encode(&bytes);
    let (from, to) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
    text.get(from..to).unwrap_or_default().to_owned()
}

fn written(secret: &[u8], keeps: fn(u8) -> bool, escape: fn(&mut String, u8) -> std::fmt::Result) -> String {
    let mut out = String::with_capacity(secret.len() * 6);
    for byte in secret {
        if keeps(*byte) {
            out.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = escape(&mut out, *byte);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_in_every_form_wherever_it_stands() {
        let secret = "sk-pl4nted/key+=";
        let forms = forms(secret);
        let holds = |text: &str| forms.iter().any(|form| text.contains(form.as_str()));
        for before in ["", "B", "Be", "Bearer ", "Bearer  x"] {
            for behind in ["", "x", "xy", "\n"] {
                let text = format!("{before}{secret}{behind}");
                for encoded in
                    [STANDARD.encode(&text), URL_SAFE.encode(&text), STANDARD.encode(text.repeat(2))]
                {
                    assert!(holds(&encoded), "{text:?} as {encoded}");
                }
            }
        }
        for text in [
            "736b2d706c346e7465642f6b65792b3d",
            "736B2D706C346E7465642F6B65792B3D",
            "sk-pl4nted%2Fkey%2B%3D",
            "sk-pl4nted%2fkey%2b%3d",
            "sk%2Dpl4nted%2Fkey%2B%3D",
            r"sk-pl4nted\/key+=",
            r"sk-pl4nted\u002fkey\u002b\u003d",
            "sk-pl4nted&#47;key&#43;&#61;",
            "sk&#45;pl4nted&#47;key&#43;&#61;",
            "sk-pl4nted&#x2F;key&#x2B;&#x3D;",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in ["sk-pl4nted", "c2stcGw0", "736b2d70", ""] {
            assert!(!holds(text), "{text}");
        }
    }

    #[test]
    fn short_secrets_have_one_form() {
        assert_eq!(forms("abc/d"), ["abc/d"]);
    }
}
