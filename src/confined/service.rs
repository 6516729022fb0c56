//! The child's side: it binds itself to the gateway, sets its limits, and answers until nothing more is asked.

use std::process::ExitCode;

use super::{Limits, bind_to, frames};

/// Answers each question by `answer`. With what to exit.
///
/// Runs before any thread is started. A question that goes beyond the limits ends the process.
pub fn serve(gateway: u32, limits: Limits, mut answer: impl FnMut(&[u8]) -> Vec<u8>) -> ExitCode {
    if !bind_to(gateway).unwrap_or(false) || limits.apply().is_err() {
        return ExitCode::FAILURE;
    }
    let (mut from, mut to) = (std::io::stdin().lock(), std::io::stdout().lock());
    while let Ok(Some(question)) = frames::read(&mut from) {
        if frames::write(&mut to, &answer(&question)).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
