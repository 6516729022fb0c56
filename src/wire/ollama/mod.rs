//! Ollama's native dialect: `/api/chat`, `/api/generate` and `/api/embed`.

mod answer;
mod embed;
mod options;
mod request;

pub use answer::{LineDecoder, LineFault};
pub(crate) use embed::embedding;
pub use embed::{embed_answer, embed_request};
pub use request::{Translated, generation_request};
