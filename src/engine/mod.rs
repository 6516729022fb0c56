//! Engines that the gateway runs itself: which, in what size, when, and for whom.
//!
//! A [`Pool`] is one provider's engines. One task owns them (`pool`), a pure planner decides (`planner`), each process
//! has a task that watches it (`runner`). Providers ask for a [`Lease`] and drop it when their answer has ended.

mod estimate;
pub mod guard;
mod identity;
mod inherited;
mod log;
mod need;
mod planner;
mod pool;
mod probe;
mod process;
mod registry;
mod run_folder;
mod runner;
mod tokenizer;
pub mod watch;

pub use log::Log;
pub use need::{AnswerLength, Need};
pub use pool::{EngineError, EngineEvent, EngineState, Lease, Place, Pool};
pub use process::{Exit, Launch, Launcher, Process, StartError};
pub use registry::{Counting, Engines, Thought};
pub use run_folder::RunFolder;
