//! The environment: the process's own variables over those of a `.env` file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::dotenv::{self, Variables};
use super::{ConfigError, Fault, command_line, secret_files};

/// All variables, read once at the start.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// Files that have secrets in the place of variables.
    secret_files: Vec<PathBuf>,
}

// Variables hold keys: their values must not get into any text.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl Environment {
    /// Reads the process's variables and those of `.env` in `folder`, where there is one. What is
    /// set already is not overridden by the file.
    ///
    /// # Errors
    /// The file is there and cannot be read, or that of a secret cannot.
    pub fn load(folder: &Path) -> Result<Self, ConfigError> {
        match Self::judge(folder) {
            (environment, faults) if faults.is_empty() => Ok(environment),
            (_, faults) => Err(faults.into()),
        }
    }

    /// The same, with what is wrong with the files: of `.env` the variables up to that place are read.
    pub fn judge(folder: &Path) -> (Self, Vec<Fault>) {
        let mut variables = BTreeMap::new();
        let named = command_line::env_file();
        let file = named.map_or_else(|| folder.join(".env"), Path::to_owned);
        let read = if named.is_some() || file.is_file() { read(&file, &mut variables) } else { Ok(()) };
        let own = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        variables.extend(own);
        variables.extend(command_line::settings());
        let (secret_files, mut faults) = secret_files::resolve(&mut variables);
        faults.extend(read.err());
        (Self { variables, secret_files }, faults)
    }

    /// An environment of just these variables.
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self { variables: variables.into(), secret_files: Vec::new() }
    }

    /// Files that have secrets in the place of variables.
    pub fn secret_files(&self) -> &[PathBuf] {
        &self.secret_files
    }

    /// A variable's value; an empty one counts as unset.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables, the empty ones too.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Adds the variables of the file, of which the last one of a name counts.
fn read(file: &Path, variables: &mut BTreeMap<String, String>) -> Result<(), Fault> {
    let text = dotenv::text_of(file)?;
    for pair in Variables::of(file, &text) {
        let (name, value) = pair?;
        variables.insert(name, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_no_value() {
        let environment = Environment::of([("OPENAI_API_KEY", "sk-planted")]);
        assert_eq!(format!("{environment:?}"), r#"{"OPENAI_API_KEY"}"#);
    }

    #[test]
    fn a_dotenv_file_is_read_and_its_faults_do_not_quote_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".env"), "\u{feff}SOME_NAME_OF_OURS=\"a b\"\r\nPATH=/nowhere\n")
            .unwrap();

        let environment = Environment::load(folder.path()).unwrap();

        assert_eq!(environment.get("SOME_NAME_OF_OURS"), Some("a b"));
        assert_ne!(environment.get("PATH"), Some("/nowhere"), "the process's own variable wins");

        std::fs::write(folder.path().join(".env"), "GOOD=1\n\nKEY sk-planted\n").unwrap();
        let error = Environment::load(folder.path()).unwrap_err().to_string();
        assert!(!error.contains("planted") && error.contains(".env: line 3: "), "{error}");
        std::fs::write(folder.path().join(".env"), "KEY='sk-planted\n").unwrap();
        let error = Environment::load(folder.path()).unwrap_err().to_string();
        assert!(!error.contains("planted"), "{error}");
    }
}
