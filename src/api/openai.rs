//! OpenAI's own endpoints, below `/v1` and below the facade's prefix.

use std::sync::Arc;

use poem::Request;
use poem_openapi::OpenApi;

use super::body::JsonBody;
use super::context::Context;
use super::error::ApiError;
use super::payload::{EmbeddingsResponse, Json, json_response};
use super::record_of;
use super::reply::{self, GeneratedResponse, StreamForm, WholeForm};
use super::schema::{
    ChatChunk, ChatCompletion, ChatRequestBody, CompletionRequestBody, EmbeddingsAnswer,
    EmbeddingsRequestBody, ModelCardBody, ModelList, TextCompletion,
};
use super::{Tag, engines};
use crate::gateway::{GatewayError, may_use};
use crate::llm::ChatRequest;
use crate::router::Route;
use crate::wire::openai;

/// OpenAI's own endpoints.
pub(super) struct OpenAiApi {
    pub(super) context: Arc<Context>,
}

type ChatAnswer = GeneratedResponse<ChatCompletion, ChatChunk>;
type TextAnswer = GeneratedResponse<TextCompletion, TextCompletion>;

#[OpenApi(tag = "Tag::OpenAi")]
impl OpenAiApi {
    /// Chat
    ///
    /// OpenAI's chat completions, unchanged: whatever the provider takes, passes.
    #[oai(path = "/v1/chat/completions", method = "post", operation_id = "create_chat_completion")]
    async fn chat_completions(
        &self,
        request: &Request,
        body: JsonBody<ChatRequestBody>,
    ) -> Result<ChatAnswer, ApiError> {
        let chat = openai::chat_request(body.bytes, false)?;
        Ok(generate(&self.context, request, chat).await?.into())
    }

    /// Chat, below the prefix
    #[oai(path = "/api/v1/chat/completions", method = "post", hidden)]
    async fn prefixed_chat_completions(
        &self,
        request: &Request,
        body: JsonBody<ChatRequestBody>,
    ) -> Result<ChatAnswer, ApiError> {
        self.chat_completions(request, body).await
    }

    /// Text completion
    ///
    /// OpenAI's legacy completions.
    #[oai(path = "/v1/completions", method = "post", operation_id = "create_completion")]
    async fn completions(
        &self,
        request: &Request,
        body: JsonBody<CompletionRequestBody>,
    ) -> Result<TextAnswer, ApiError> {
        let completion = openai::completion_request(body.bytes)?;
        Ok(generate(&self.context, request, completion).await?.into())
    }

    /// Text completion, below the prefix
    #[oai(path = "/api/v1/completions", method = "post", hidden)]
    async fn prefixed_completions(
        &self,
        request: &Request,
        body: JsonBody<CompletionRequestBody>,
    ) -> Result<TextAnswer, ApiError> {
        self.completions(request, body).await
    }

    /// Embeddings
    ///
    /// OpenAI's embeddings.
    #[oai(path = "/v1/embeddings", method = "post", operation_id = "create_embeddings")]
    async fn embeddings(
        &self,
        request: &Request,
        body: JsonBody<EmbeddingsRequestBody>,
    ) -> Result<EmbeddingsResponse<EmbeddingsAnswer>, ApiError> {
        let record = record_of(request);
        let embed = openai::embed_request(body.bytes)?;
        let answer = self.context.gateway.embed(embed, record).await?;
        let mut response = json_response(answer.body.body.clone());
        reply::add_headers(response.headers_mut(), &answer);
        Ok(response.into())
    }

    /// Embeddings, below the prefix
    #[oai(path = "/api/v1/embeddings", method = "post", hidden)]
    async fn prefixed_embeddings(
        &self,
        request: &Request,
        body: JsonBody<EmbeddingsRequestBody>,
    ) -> Result<EmbeddingsResponse<EmbeddingsAnswer>, ApiError> {
        self.embeddings(request, body).await
    }

    /// Models
    ///
    /// The models that callers may name.
    #[oai(path = "/v1/models", method = "get", operation_id = "list_models")]
    async fn models(&self, request: &Request) -> Result<Json<ModelList>, ApiError> {
        let state = self.context.gateway.state();
        let record = record_of(request);
        let caller = record.caller();
        let data = state.shown(caller).map(|route| self.card(route)).collect();
        Ok(Json(ModelList { object: "list".to_owned(), data }))
    }

    /// Models, below the prefix
    #[oai(path = "/api/v1/models", method = "get", hidden)]
    async fn prefixed_models(&self, request: &Request) -> Result<Json<ModelList>, ApiError> {
        self.models(request).await
    }

    /// One model
    ///
    /// A model by its name, which may hold slashes.
    #[oai(path = "/v1/models/*id", method = "get", operation_id = "retrieve_model")]
    async fn model(&self, request: &Request) -> Result<Json<ModelCardBody>, ApiError> {
        let id = super::rest_of_path(request);
        let state = self.context.gateway.state();
        let record = record_of(request);
        let caller = record.caller();
        let route = state.route(&id, caller)?;
        if !may_use(caller, &route) {
            return Err(GatewayError::NotAllowed(id).into());
        }
        if !state.is_served(&route, caller) {
            return Err(GatewayError::Nobody(id).into());
        }
        Ok(Json(self.card(&route)))
    }

    /// One model, below the prefix
    #[oai(path = "/api/v1/models/*id", method = "get", hidden)]
    async fn prefixed_model(&self, request: &Request) -> Result<Json<ModelCardBody>, ApiError> {
        self.model(request).await
    }
}

impl OpenAiApi {
    fn card(&self, route: &Route) -> ModelCardBody {
        let (state, variants) = engines::state_of(&self.context, route);
        ModelCardBody {
            id: route.model.to_string(),
            object: "model".to_owned(),
            created: self.context.health.started_at_seconds(),
            owned_by: route
                .deployments
                .first()
                .map(|deployment| deployment.provider_name.to_string())
                .unwrap_or_default(),
            context_length: route.deployments.iter().filter_map(|deployment| deployment.context_tokens).max(),
            state: variants.is_some().then(|| state.to_owned()),
            variants,
        }
    }
}

/// Answers a checked request as its provider does.
pub(super) async fn generate(
    context: &Arc<Context>,
    request: &Request,
    chat: ChatRequest,
) -> Result<poem::Response, ApiError> {
    let record = record_of(request);
    let form = chat.stream.then(|| StreamForm::wanted(request.headers()));
    let (gateway, of_request) = (context.gateway.clone(), record.clone());
    let asked = Box::pin(async move { gateway.chat(chat, of_request).await });
    reply::respond(context, &record, asked, form, WholeForm::AsItIs).await
}
