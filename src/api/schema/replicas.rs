//! How it is with what replicas share.

use poem_openapi::Object;
use serde::Serialize;

/// How Redis is.
#[derive(Serialize, Object)]
pub(in crate::api) struct RedisState {
    /// Whether it answers. While it does not, each replica counts for itself, or refuses what is limited: as
    /// `LLM_PROXY_API_REDIS_FAIL` says.
    pub(in crate::api) ok: bool,
}
