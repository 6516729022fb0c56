//! What requests and answers look like, for the document. Their doc comments are the manual.

mod accounts;
mod admin;
mod chat;
mod engines;
mod facade;
mod keys;
mod object;
mod passages;
mod replicas;
mod routes;
mod tokens;
mod utilities;

use poem_openapi::Object;
use serde::Serialize;

pub(super) use accounts::{
    AuditBody, AuditList, BudgetList, BudgetOf, BudgetState, KeySummary, LimitState, OwnKey, OwnLimits,
    OwnerBody, OwnerList, OwnerUsage, UsageBody, UsageRowBody,
};
pub(super) use admin::{ChangeBody, ReloadBody, ServedBy, SwitchBody, SwitchedModel, SwitchedModelList};
pub(super) use chat::{
    ChatChunk, ChatCompletion, ChatRequestBody, CompletionRequestBody, EmbeddingsAnswer,
    EmbeddingsRequestBody, ModelCardBody, ModelList, ModelSupports, TextCompletion,
};
pub(super) use engines::{EngineBody, EngineList, EngineModelBody, EngineStep, EngineVariantBody};
pub(super) use facade::{
    Alive, Conversation, ConversationAnswer, ExtendedConversation, FacadeChat, GenerationOptions, OwnPrompt,
    PassthroughBody, Pong, PromptDetails, PromptList, PromptNote, PromptSummaryBody, Ready, Reload,
    RenderBody, RenderedBody, StoreHealth, Tag, TagDetails, TagList, TranslationBody,
};
pub use keys::key_as_json;
pub(super) use keys::{DeletedKey, KeyBody, KeyChangeBody, KeyList, NewKeyBody, RotationBody, SecretBody};
pub(super) use object::AnyObject;
pub(super) use passages::Passages;
pub(super) use replicas::RedisState;
pub(super) use routes::{
    CandidateBody, ExplainedPrompt, Explanation, ProbeBody, RouteBody, RouteList, ScoreBody,
};
pub(super) use tokens::{CountAnswer, CountBody};
pub(super) use utilities::{
    AboutAnswers, ArticleAnswer, ArticleRequest, ArticleText, FullArticle, FullArticleRequest,
    GenerativeAnswerRequest, OneText, Question, Questions, QuestionsAnswer, QuestionsRequest, SeveralTexts,
    SimplifyAnswer, SimplifyRequest, Streaming, TargetLanguage, TextQuestions, TranslateAnswer,
    TranslateRequest, Translated, UtilityRequest,
};

/// An error, in OpenAI's form.
#[derive(Debug, Serialize, Object)]
#[oai(rename = "Error")]
pub(super) struct ErrorBody {
    /// What went wrong.
    error: ErrorDetails,
}

/// What went wrong.
#[derive(Debug, Serialize, Object)]
struct ErrorDetails {
    /// A sentence for people.
    message: String,
    /// The kind of error, which follows from the status: `invalid_request_error`, `authentication_error`, `permission_error`,
    /// `not_found_error`, `rate_limit_error`, `insufficient_quota`, `upstream_error`, `overloaded_error`, `server_error`.
    r#type: String,
    /// The place in the request, such as `messages[1].role`.
    param: Option<String>,
    /// A word for programs, such as `model_not_found`.
    code: String,
    /// With the service in debug mode: the upstream's own words.
    detail: Option<String>,
}
