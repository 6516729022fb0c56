//! Child processes of this program that read untrusted files: model files with their templates, and models
//! files in Lua.
//!
//! A file that overflows the stack, takes all memory or never ends does so in a [`Child`]: a process of the same program
//! that has limits on memory and processor time, no environment, and nothing but two pipes. It is asked one question at
//! a time and is killed with a question that takes too long. It cannot outlive the gateway, whatever ends that.
//!
//! The other side of the pipes is [`serve`], which the hidden command [`CONFINED_COMMAND`] calls.

mod child;
mod frames;
mod limits;
mod parent;
mod service;
mod spawner;

pub use child::{Child, Failure};
pub use limits::Limits;
pub use parent::bind_to;
pub use service::serve;
pub use spawner::spawn;

/// The name of the command by which the gateway starts itself as a confined child.
pub const CONFINED_COMMAND: &str = "confined";

/// The running program, also when its file has been replaced since.
pub const THIS_PROGRAM: &str = "/proc/self/exe";
