//! The secret of a key: shown once, kept as a digest.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// What every secret begins with.
const MARK: &str = "llmp_";
/// So many characters of base 62 hold 256 bits.
const CHARACTERS: usize = 43;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// So much of a secret, its mark included, is kept in clear text to find it and to tell it from others.
const PREFIX: usize = 12;

/// The secret itself. It cannot be printed.
#[derive(Clone)]
pub struct Secret(SecretString);

/// SHA-256 of a secret. Secrets have 256 bits of chance, so nothing slower is needed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Secret {
    /// A new one, from the system's source of chance.
    ///
    /// # Errors
    /// The system has none.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut text = String::with_capacity(MARK.len() + CHARACTERS);
        text.push_str(MARK);
        let mut bytes = [0_u8; 64];
        while text.len() < MARK.len() + CHARACTERS {
            getrandom::fill(&mut bytes)?;
            // What is beyond four times the alphabet would make its beginning likelier.
            let even = bytes
                .iter()
                .filter(|byte| **byte < 248)
                .filter_map(|byte| ALPHABET.get(usize::from(byte % 62)));
            let missing = MARK.len() + CHARACTERS - text.len();
            text.extend(even.take(missing).map(|byte| char::from(*byte)));
        }
        Ok(Self(text.into()))
    }

    /// One that a caller shows. Anything may be shown.
    pub fn shown(text: &str) -> Self {
        Self(text.into())
    }

    /// The secret, for whoever it was made for.
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }

    /// Its first characters; `None` if it has not the form of a secret.
    pub fn prefix(&self) -> Option<&str> {
        let text = self.0.expose_secret();
        let rest = text.strip_prefix(MARK)?;
        let is_secret = rest.len() == CHARACTERS && rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_secret.then(|| text.get(..PREFIX)).flatten()
    }

    /// Whether more of one stands in a text than its first characters, which are told of every key.
    pub fn may_be_in(text: &str) -> bool {
        let length = |rest: &str| MARK.len() + rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
        text.match_indices(MARK)
            .any(|(at, mark)| length(text.get(at + mark.len()..).unwrap_or_default()) > PREFIX)
    }

    /// What is kept of it.
    pub fn digest(&self) -> Digest {
        Digest(Sha256::digest(self.0.expose_secret().as_bytes()).into())
    }
}

impl Digest {
    /// Whether it is the same, found out in a time that tells nothing of where they differ.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// In 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest")
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text).ok_or_else(|| serde::de::Error::custom("this is no digest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_their_form_and_differ() {
        let secrets: Vec<Secret> = (0..100).map(|_| Secret::generate().unwrap()).collect();
        for secret in &secrets {
            assert_eq!(secret.reveal().len(), 48);
            assert_eq!(secret.prefix(), secret.reveal().get(..12));
            assert!(!format!("{secret:?} {:?}", secret.digest()).contains(&secret.reveal()[5..]));
        }
        let mut digests: Vec<String> = secrets.iter().map(|secret| secret.digest().to_hex()).collect();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), 100);
        let all: String = secrets.iter().map(|secret| secret.reveal().get(5..).unwrap()).collect();
        assert!(ALPHABET.iter().all(|letter| all.as_bytes().contains(letter)), "every letter comes about");
    }

    #[test]
    fn digests_are_read_as_they_are_written() {
        let digest = Secret::shown("llmp_x").digest();
        assert!(Digest::from_hex(&digest.to_hex()).unwrap().is(&digest));
        assert!(!digest.is(&Secret::shown("llmp_y").digest()));
        for bad in ["", "zz", &"g".repeat(64), &"é".repeat(32)] {
            assert!(Digest::from_hex(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_has_not_the_form_of_a_secret_has_no_prefix() {
        for text in
            ["", "llmp_", "sk-1234", &format!("llmp_{}", "a".repeat(42)), &format!("llmp_{}", "é".repeat(43))]
        {
            assert_eq!(Secret::shown(text).prefix(), None, "{text}");
        }
    }
}
