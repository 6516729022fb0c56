//! Engines that the gateway runs itself: which, in what size, when, and for whom.

mod need;
mod planner;

pub use need::{AnswerLength, Need};
