//! OpenAI's own endpoints, below `/v1` and below the facade's prefix.

use std::sync::Arc;

use poem::Request;
use poem::http::HeaderValue;
use poem_openapi::OpenApi;

use super::body::JsonBody;
use super::context::Context;
use super::error::ApiError;
use super::payload::{EmbeddingsResponse, Json, json_response};
use super::prompt_headers::{self, PROMPT};
use super::record_of;
use super::reply::{self, GeneratedResponse, StreamForm, Waiting, WholeForm};
use super::schema::{
    ChatChunk, ChatCompletion, ChatRequestBody, CompletionRequestBody, EmbeddingsAnswer,
    EmbeddingsRequestBody, ModelCardBody, ModelList, ModelSupports, TextCompletion,
};
use super::{Tag, engines};
use crate::gateway::{GatewayError, Opening};
use crate::llm::{ChatRequest, RawObject, RequestKind};
use crate::router::Route;
use crate::wire::{Invalid, openai};

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
        let mut answer = self.context.gateway.embed(embed, record).await?;
        if request.headers().contains_key(&PROMPT) {
            answer.ignored_options.push(PROMPT.to_string());
        }
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
        let data = state.listed(caller).iter().map(|route| self.card(route)).collect();
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
        let route = state.as_allowed(route, caller).ok_or_else(|| GatewayError::NotAllowed(id.clone()))?;
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
            context_length: route.context_tokens(),
            max_output_tokens: route.max_output_tokens(),
            supports: ModelSupports::of(route),
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
    let Some(name) = request.headers().get(&PROMPT) else {
        let asked = Box::pin(async move { gateway.chat(chat, of_request).await });
        return reply::respond(context, &record, asked, form, WholeForm::AsItIs).await;
    };
    let asked: Waiting = match chat.kind {
        RequestKind::Chat => {
            let (chat, opening) = opened(chat, name, request)?;
            Box::pin(async move { gateway.chat_behind(&opening, chat, of_request).await })
        }
        // It has no place for a system prompt.
        RequestKind::Completion => Box::pin(async move {
            let mut reply = gateway.chat(chat, of_request).await?;
            reply.ignored_options.push(PROMPT.to_string());
            Ok(reply)
        }),
    };
    let answered = reply::respond(context, &record, asked, form, WholeForm::AsItIs).await;
    answered.map_err(prompt_headers::named)
}

/// A chat, and the prompt that is to stand before it.
///
/// # Errors
/// A header cannot be read, or the body has a member twice.
pub(super) fn opened(
    mut chat: ChatRequest,
    name: &HeaderValue,
    request: &Request,
) -> Result<(ChatRequest, Opening), ApiError> {
    let opening = prompt_headers::opening(name, request)?;
    // It will be changed, so all its members are looked at.
    let body = RawObject::parse(chat.body.text().clone()).map_err(Invalid::from)?;
    chat.replace_body(body);
    Ok((chat, opening))
}
