//! Secrets that settings name by a file: `NAME_FILE` in the place of `NAME`, as containers and systemd hand them over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Fault;

/// Every setting that holds a secret.
const SECRETS: [&str; 5] = [
    "LLM_PROXY_API_ADMIN_KEY",
    "LLM_PROXY_API_DATABASE_URL",
    "LLM_PROXY_API_METRICS_KEY",
    "LLM_PROXY_API_REDIS_URL",
    "OPENAI_API_KEY",
];
const ENDING: &str = "_FILE";
/// More is no secret, but a slip.
const MOST_BYTES: u64 = 64 * 1024;

/// Puts the text of every file that is named into the variable that it stands for. The files, and what is wrong with them.
pub(super) fn resolve(variables: &mut BTreeMap<String, String>) -> (Vec<PathBuf>, Vec<Fault>) {
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    let set = |variables: &BTreeMap<String, String>, name: &str| {
        variables.get(name).filter(|value| !value.is_empty()).cloned()
    };
    for name in SECRETS {
        let variable = format!("{name}{ENDING}");
        let Some(path) = set(variables, &variable) else { continue };
        if set(variables, name).is_some() {
            let cure = format!("unset {name} or {variable}");
            faults.push(Fault::new(variable, format!("is set together with {name}"), cure));
            continue;
        }
        match read(Path::new(&path)) {
            Ok(secret) => drop(variables.insert(name.to_owned(), secret)),
            Err(problem) => {
                let cure = "name a file with the secret and nothing else, which this user can read";
                faults.push(Fault::new(variable, format!("`{path}` {problem}"), cure));
            }
        }
        files.push(path.into());
    }
    (files, faults)
}

/// Whether a setting names the file of a secret.
pub(super) fn is_file_of_secret(variable: &str) -> bool {
    variable.strip_suffix(ENDING).is_some_and(|name| SECRETS.contains(&name))
}

/// # Errors
/// Why there is no secret in it, without a word of what is.
fn read(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let found = std::fs::metadata(path).map_err(cannot)?;
    if found.len() > MOST_BYTES {
        return Err("is too long for a secret".to_owned());
    }
    let bytes = std::fs::read(path).map_err(cannot)?;
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    // Editors and `echo` put one there.
    let secret = text.trim_start_matches('\u{feff}').trim_end_matches(['\n', '\r']);
    if secret.is_empty() { Err("is empty".to_owned()) } else { Ok(secret.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Variables = BTreeMap<String, String>;

    fn variables<const N: usize>(all: [(&str, &str); N]) -> Variables {
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    #[test]
    fn a_secret_is_the_files_text_without_the_end_of_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let named = || variables([("LLM_PROXY_API_ADMIN_KEY_FILE", path.to_str().unwrap())]);
        for (text, secret) in [
            ("planted\n", "planted"),
            ("planted\r\n", "planted"),
            ("planted", "planted"),
            ("\u{feff}planted", "planted"),
            ("pla nted \n", "pla nted "),
        ] {
            std::fs::write(&path, text).unwrap();
            let mut variables = named();
            let (files, faults) = resolve(&mut variables);
            assert!(faults.is_empty(), "{faults:?}");
            assert_eq!(variables["LLM_PROXY_API_ADMIN_KEY"], secret, "{text:?}");
            assert_eq!(files, std::slice::from_ref(&path));
        }
        for text in ["", "\n"] {
            std::fs::write(&path, text).unwrap();
            let (_, faults) = resolve(&mut named());
            assert!(faults[0].to_string().contains("is empty"), "{faults:?}");
        }
        std::fs::remove_file(&path).unwrap();
        let (files, faults) = resolve(&mut named());
        assert!(faults[0].to_string().contains("cannot be read") && files.len() == 1, "{faults:?}");
    }

    #[test]
    fn every_secret_has_this_form_and_nothing_else_does() {
        for name in SECRETS {
            assert!(is_file_of_secret(&format!("{name}_FILE")));
        }
        assert!(
            !is_file_of_secret("LLM_PROXY_API_LISTEN_FILE") && !is_file_of_secret("LLM_PROXY_API_ADMIN_KEY")
        );
    }

    #[test]
    fn both_forms_of_a_setting_are_a_fault_that_names_both_and_no_secret() {
        let mut variables = variables([
            ("LLM_PROXY_API_REDIS_URL", "redis://:planted@h"),
            ("LLM_PROXY_API_REDIS_URL_FILE", "/no/such/file"),
            ("LLM_PROXY_API_DATABASE_URL", ""),
            ("LLM_PROXY_API_DATABASE_URL_FILE", ""),
        ]);
        let (_, faults) = resolve(&mut variables);
        let fault = faults[0].to_string();
        assert!(fault.starts_with("LLM_PROXY_API_REDIS_URL_FILE: is set together with"), "{fault}");
        assert!(!fault.contains("planted") && faults.len() == 1, "{fault}");
    }
}
