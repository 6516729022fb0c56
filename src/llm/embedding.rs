//! Embeddings, in OpenAI's JSON.

use bytes::Bytes;

use super::{RawObject, Usage};

/// A request for embeddings, checked.
#[derive(Clone, Debug)]
pub struct EmbedRequest {
    /// The public model name, as the caller wrote it.
    pub model: String,
    /// A member of `body` that a server could take for the model, besides `model` itself.
    pub rival: Option<String>,
    /// The request as OpenAI's JSON.
    pub body: RawObject,
}

/// The answer to a request for embeddings.
#[derive(Clone, Debug)]
pub struct Embeddings {
    /// OpenAI's JSON; the upstream's own bytes where it speaks that.
    pub body: Bytes,
    /// What it took, if the provider said so.
    pub usage: Option<Usage>,
}
