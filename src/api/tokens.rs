//! How many tokens something has.

use std::sync::Arc;

use poem::Request;
use poem_openapi::OpenApi;

use super::body::JsonBody;
use super::context::Context;
use super::error::ApiError;
use super::payload::Json;
use super::schema::{CountAnswer, CountBody};
use super::{Tag, record_of};
use crate::wire::openai;

/// Counting.
pub(super) struct TokensApi {
    pub(super) context: Arc<Context>,
}

#[OpenApi(tag = "Tag::Utilities")]
impl TokensApi {
    /// Count tokens
    ///
    /// How many tokens a text, each of several texts, or a conversation has for a model. Counted by whatever costs nothing:
    /// the engine that runs, the model's own file, or the provider's server if that counts for free. Otherwise it is an
    /// estimate of four bytes a token. No engine is started, and nobody is asked who wants to be paid.
    #[oai(path = "/api/tokenize/count", method = "post", operation_id = "count_tokens")]
    async fn count(
        &self,
        request: &Request,
        body: JsonBody<CountBody>,
    ) -> Result<Json<CountAnswer>, ApiError> {
        let question = openai::count_request(body.bytes)?;
        let count = self.context.gateway.count(&question, &record_of(request)).await?;
        Ok(Json(CountAnswer {
            count: count.total(),
            source: count.source.as_str().to_owned(),
            detail: question.is_list.then_some(count.tokens),
            model: question.model,
        }))
    }

    /// Count tokens, as llama-cpp-python has it
    ///
    /// The same at the path that clients of llama-cpp-python know.
    #[oai(path = "/extras/tokenize/count", method = "post", operation_id = "extras_count_tokens")]
    async fn extras_count(
        &self,
        request: &Request,
        body: JsonBody<CountBody>,
    ) -> Result<Json<CountAnswer>, ApiError> {
        self.count(request, body).await
    }
}
