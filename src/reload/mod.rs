//! What a reload changes, and how somebody asks for one.
//!
//! The differences between two loaded sets are found here and nowhere else: the log, the admin API and the command
//! `check --diff` all tell the same. Names are told, values that may be secret never.

mod desk;
mod diff;

pub use desk::{Outcome, Reloads, Report, Request, Unanswered, Wish};
pub use diff::{Change, Diff, How, Set, What};
