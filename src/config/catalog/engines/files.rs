//! Whether the programs and files that engines need are there.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Finds a program: by its path, or by its name in the folders of `PATH`.
///
/// # Errors
/// Problem and cure.
pub(super) fn program(name: &str, path_variable: Option<&str>) -> Result<PathBuf, (String, String)> {
    if name.trim().is_empty() {
        return Err(("`binary` is empty".to_owned(), "give the path of llama-server".to_owned()));
    }
    if name.contains('/') {
        return runnable(Path::new(name)).map(|()| name.into());
    }
    let folders = path_variable.unwrap_or_default().split(':').filter(|folder| !folder.is_empty());
    let found = folders.map(|folder| Path::new(folder).join(name)).find(|path| runnable(path).is_ok());
    found.ok_or_else(|| {
        let problem = format!("the program `{name}` is in no folder of PATH");
        (problem, "install it, or give its whole path as `binary`".to_owned())
    })
}

fn runnable(path: &Path) -> Result<(), (String, String)> {
    let shown = path.display();
    let Ok(metadata) = path.metadata() else {
        let problem = format!("the program `{shown}` does not exist");
        return Err((problem, "install it, or give its right path as `binary`".to_owned()));
    };
    if !metadata.is_file() {
        let problem = format!("the program `{shown}` is no file");
        return Err((problem, "give the path of llama-server itself as `binary`".to_owned()));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        let problem = format!("the program `{shown}` is not executable");
        return Err((problem, format!("make it so: chmod +x {shown}")));
    }
    Ok(())
}

/// Problem and cure, if a file that an argument names is not there. A relative path may be meant from where the
/// gateway runs or from the program's own folder.
pub(super) fn unreadable(flag: &str, file: &str, binary: Option<&Path>) -> Option<(String, String)> {
    let beside = binary.and_then(Path::parent).map(|folder| folder.join(file));
    let is_there = Path::new(file).is_file() || beside.is_some_and(|path| path.is_file());
    (!is_there).then(|| {
        let problem = format!("the file `{file}`, named by `{flag}`, does not exist");
        (problem, format!("put it there, or give its right path behind `{flag}`"))
    })
}
