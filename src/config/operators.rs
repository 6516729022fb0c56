//! The keys of operators: of those who use the admin API, each with a name, and of those who read the figures.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::parse::Parsed;

/// The name of a key that has none.
pub const UNNAMED_ADMIN: &str = "admin";
/// A shorter key may be guessed.
pub(super) const SAFE_KEY_LENGTH: usize = 16;
/// A longer name is a slip.
const LONGEST_NAME: usize = 64;

/// A key that opens the admin API.
#[derive(Clone, Debug)]
pub struct AdminKey {
    /// Whose it is: for logs and the audit.
    pub name: Arc<str>,
    /// The key.
    pub key: SecretString,
}

impl Parsed {
    /// `ADMIN_KEY`: a key, or a comma list of `name:key`. Nothing of it is repeated, for a name may be a key in the wrong
    /// place.
    pub(super) fn admin_keys(&mut self, value: Option<&str>) -> Vec<AdminKey> {
        const NAME: &str = "ADMIN_KEY";
        let parts = value.unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty());
        let mut keys: Vec<AdminKey> = Vec::new();
        for part in parts {
            let (name, key) = part.split_once(':').unwrap_or((UNNAMED_ADMIN, part));
            let Some(key) = self.key(NAME, Some(key)).filter(|_| is_name(name)) else {
                let cure = "give a key, or a comma list of name:key with names of letters, digits, `.`, `_`, `@` and `-`";
                self.fault(
                    NAME,
                    "has a key without a name, or a name that is not allowed".to_owned(),
                    cure.to_owned(),
                );
                continue;
            };
            let is_same =
                |known: &&AdminKey| *known.name == *name || known.key.expose_secret() == key.expose_secret();
            if key.expose_secret().is_empty() || keys.iter().find(is_same).is_some() {
                let problem = "has a key that is empty, or two with the same name or the same key".to_owned();
                self.fault(NAME, problem, "give each operator a name and a key of their own".to_owned());
            }
            keys.push(AdminKey { name: name.into(), key });
        }
        keys
    }
}

fn is_name(name: &str) -> bool {
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'@' | b'-');
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(sane)
}

/// Whether a key may be guessed.
pub(super) fn is_weak(key: &SecretString) -> bool {
    key.expose_secret().len() < SAFE_KEY_LENGTH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Vec<(String, String)>, String> {
        let mut parsed = Parsed::new("LLM_PROXY_API_");
        let keys = parsed.admin_keys(Some(value));
        let told = |key: &AdminKey| (key.name.to_string(), key.key.expose_secret().to_owned());
        match parsed.faults.first() {
            None => Ok(keys.iter().map(told).collect()),
            Some(fault) => Err(fault.to_string()),
        }
    }

    #[test]
    fn one_key_or_a_list_with_names() {
        let pairs = |all: &[(&str, &str)]| -> Vec<(String, String)> {
            all.iter().map(|(name, key)| ((*name).to_owned(), (*key).to_owned())).collect()
        };
        for (value, keys) in [
            ("secret", pairs(&[("admin", "secret")])),
            ("ann:one, bob@example.org:two ,", pairs(&[("ann", "one"), ("bob@example.org", "two")])),
            ("ann:one,two", pairs(&[("ann", "one"), ("admin", "two")])),
            ("ann:with:colon", pairs(&[("ann", "with:colon")])),
            ("", pairs(&[])),
        ] {
            assert_eq!(read(value), Ok(keys), "{value}");
        }
    }

    #[test]
    fn what_is_no_such_list_is_a_fault_that_repeats_nothing() {
        for value in [
            "ann:planted,ann:other",
            "ann:planted,bob:planted",
            "planted planted",
            "a b:planted",
            ":planted",
            "planted:",
            "planted,planted",
        ] {
            let fault = read(value).unwrap_err();
            assert!(fault.contains("ADMIN_KEY") && !fault.contains("planted"), "{value}: {fault}");
        }
    }
}
