//! Engines that the gateway runs itself: which, in what size, when, and for whom.
//!
//! A [`Pool`] is one provider's engines. One task owns them (`owner`), a pure planner decides (`planner`), each process
//! has a task that watches it (`runner`). Providers ask for a [`Lease`] and drop it when their answer has ended.

mod arrivals;
pub mod counter;
mod counting;
mod endpoint;
mod estimate;
pub mod guard;
mod holder;
mod identity;
mod inherited;
mod lease;
mod log;
mod memory;
mod model_head;
mod need;
mod owner;
mod planner;
mod pool;
mod probe;
mod process;
mod prompt_cache;
mod prompt_folder;
mod registry;
mod run_folder;
mod runner;
mod tokenizer;
mod view;
mod vitals;
mod vocabulary;
pub mod watch;

pub use arrivals::Arrival;
pub use counting::{Counting, Thought};
pub use lease::{Death, EngineError, Lease, Place};
pub use log::Log;
pub use need::{AnswerLength, Need};
pub use pool::Pool;
pub use process::{Exit, Launch, Launcher, Process, StartError};
pub use registry::Engines;
pub use run_folder::{RunFolder, RunPlace};
pub use view::{EngineEvent, EngineState};
