//! Where the service writes: one folder for all of it.
//!
//! That is `LLM_PROXY_API_DATA_DIR`, else `$STATE_DIRECTORY` (which systemd sets), else `data` in the folder in which the
//! program is started. A file that a setting of its own names is where that says.

use std::path::{Path, PathBuf};

use super::Environment;

const DATABASE: &str = "llm-proxy-api.db";
const LOG: &str = "llm-proxy-rest.log";
/// The folder where neither a setting nor the system names one.
const USUAL: &str = "data";

/// The files and folders that the service makes where no setting of their own names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folders {
    /// The database.
    pub database: PathBuf,
    /// The log.
    pub log: PathBuf,
    /// In which the folder of engines that run is made: the system's own for that, if the service has none of its own.
    pub run: PathBuf,
    /// Whether a setting, or the system, names the folder.
    pub is_named: bool,
    /// Where an older version would have kept the database, whose file is there.
    older: Option<PathBuf>,
}

impl Folders {
    pub(super) fn of(environment: &Environment, set: Option<PathBuf>) -> Self {
        // systemd lists several if the unit names several.
        let of_system = environment.get("STATE_DIRECTORY").and_then(|all| all.split(':').next());
        let named = set.or_else(|| of_system.map(PathBuf::from));
        let folder = named.clone().unwrap_or_else(|| USUAL.into());
        let of_user = environment.get("XDG_RUNTIME_DIR").filter(|_| named.is_none()).map(PathBuf::from);
        let run = of_user.unwrap_or_else(|| folder.clone());
        let database = folder.join(DATABASE);
        let older = Path::new(USUAL).join(DATABASE);
        let is_older = older != database && !database.exists() && older.exists();
        Self {
            database: if is_older { older.clone() } else { database },
            log: folder.join(LOG),
            // Engines may run in other folders.
            run: std::path::absolute(&run).unwrap_or(run),
            is_named: named.is_some(),
            older: is_older.then_some(older),
        }
    }

    /// What there is to say of them.
    pub(super) fn warning(&self) -> Option<String> {
        let older = self.older.as_ref()?.display();
        let folder = self.log.parent()?.display();
        Some(format!(
            "the database {older} of an older version is used; stop the service and move it to {folder}, where it is looked for first"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_folder_has_all_unless_a_setting_says_otherwise() {
        let folders = |set: Option<&str>, variables: &[(&str, &str)]| {
            let mut all = [("A", ""), ("B", "")];
            all.iter_mut().zip(variables).for_each(|(place, variable)| *place = *variable);
            Folders::of(&Environment::of(all), set.map(PathBuf::from))
        };
        let (state, run) = (("STATE_DIRECTORY", "/state/a:/state/b"), ("XDG_RUNTIME_DIR", "/run/me"));
        for (set, variables, folder, runs_in) in [
            (Some("/set"), &[state, run][..], "/set", "/set"),
            (None, &[state, run], "/state/a", "/state/a"),
            (None, &[run], "data", "/run/me"),
        ] {
            let folders = folders(set, variables);
            assert_eq!(folders.database, Path::new(folder).join("llm-proxy-api.db"));
            assert_eq!(folders.log, Path::new(folder).join("llm-proxy-rest.log"));
            assert_eq!((folders.run.as_path(), folders.is_named), (Path::new(runs_in), folder != "data"));
        }
        let usual = folders(None, &[]);
        assert!(usual.run.is_absolute() && usual.run.ends_with("data"), "{usual:?}");
    }
}
