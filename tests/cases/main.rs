//! Reported faults as data: each folder of `tests/cases/` that has a `case.json` is a test.
//!
//! A case has the files that the gateway starts with (`files/`), what is sent (bodies, or whole requests), what the
//! upstream answers, byte by byte (`*.http`), and what must come out (`case.json`; see `case.rs` for its form). A new
//! case is a new folder and needs no code.
//!
//! `127.0.0.1:9100` stands for the address of the upstream, in files and in what is sent. A file `.env` is stored as
//! `dot-env`, and one whose name ends in `.log` as `….log_`, because the repository ignores those names.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests: what is not as it should be ends the test"
)]

mod case;
mod http;
mod play;
mod upstream;

use std::path::{Path, PathBuf};

use libtest_mimic::{Arguments, Trial};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut folders = Vec::new();
    collect(&root, &mut folders);
    folders.sort();
    let trials = folders.into_iter().map(|folder| {
        let name = folder.strip_prefix(&root).unwrap().to_string_lossy().replace('/', "::");
        Trial::test(name, move || play::play(&folder).map_err(Into::into))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

/// All folders below that are cases.
fn collect(folder: &Path, cases: &mut Vec<PathBuf>) {
    if folder.join("case.json").exists() {
        cases.push(folder.to_owned());
        return;
    }
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, cases);
        }
    }
}
