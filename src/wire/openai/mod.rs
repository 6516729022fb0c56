//! OpenAI's dialect: requests of callers, checked; and chunks for those who must make them.

mod chunk;
mod count;
mod fields;
mod messages;
mod quick;
mod request;

pub use chunk::{ChunkWriter, Delta};
pub use count::count_request;
pub use request::{chat_request, completion_request, embed_request};
