//! Engines that the gateway starts itself.

pub mod guard;
mod inherited;
mod log;
mod process;
mod run_folder;

pub use log::Log;
pub use process::{Exit, Launch, Launcher, Process, StartError};
pub use run_folder::RunFolder;
