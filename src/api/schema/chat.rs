//! OpenAI's requests and answers, as far as this gateway looks at them. All further members pass.

use poem_openapi::types::Example;
use poem_openapi::{Enum, Object, Union};
use serde::Serialize;
use serde_json::{Value, json};

use super::AnyObject;
use crate::llm::Abilities;
use crate::router::Route;

type Any = poem_openapi::types::Any<Value>;

/// A chat request, in OpenAI's form. Members that are not listed here go to the provider as they are.
#[derive(Object)]
#[oai(rename = "ChatCompletionRequest", example)]
pub(in crate::api) struct ChatRequestBody {
    /// The model's public name.
    pub(super) model: String,
    /// The conversation so far, oldest first.
    #[oai(validator(min_items = 1))]
    pub(super) messages: Vec<Message>,
    /// Whether to answer with a stream of chunks.
    pub(super) stream: Option<bool>,
    /// What a stream should hold.
    pub(super) stream_options: Option<StreamOptions>,
    /// How freely to choose words, 0 to 2.
    #[oai(validator(minimum(value = "0"), maximum(value = "2")))]
    pub(super) temperature: Option<f64>,
    /// Choose among the most likely words that together have this likelihood, 0 to 1.
    #[oai(validator(minimum(value = "0"), maximum(value = "1")))]
    pub(super) top_p: Option<f64>,
    /// How many answers to give.
    #[oai(validator(minimum(value = "1"), maximum(value = "128")))]
    pub(super) n: Option<u32>,
    /// The most tokens of an answer.
    #[oai(validator(minimum(value = "1")))]
    pub(super) max_tokens: Option<u64>,
    /// The most tokens of an answer, its reasoning included.
    #[oai(validator(minimum(value = "1")))]
    pub(super) max_completion_tokens: Option<u64>,
    /// Where to stop: a text, or a list of texts.
    pub(super) stop: Option<Any>,
    /// Tools that the model may call.
    pub(super) tools: Option<Vec<AnyObject>>,
    /// `none`, `auto`, `required`, or one tool.
    pub(super) tool_choice: Option<Any>,
    /// Text, JSON, or JSON by a schema.
    pub(super) response_format: Option<AnyObject>,
    /// For answers that can be had again.
    pub(super) seed: Option<i64>,
    /// Against repeating topics, -2 to 2.
    #[oai(validator(minimum(value = "-2"), maximum(value = "2")))]
    pub(super) presence_penalty: Option<f64>,
    /// Against repeating words, -2 to 2.
    #[oai(validator(minimum(value = "-2"), maximum(value = "2")))]
    pub(super) frequency_penalty: Option<f64>,
    /// Whether to tell how likely each token was.
    pub(super) logprobs: Option<bool>,
    /// How many alternatives to tell for each token.
    #[oai(validator(maximum(value = "20")))]
    pub(super) top_logprobs: Option<u32>,
    #[oai(flatten)]
    pub(super) extra: AnyObject,
}

impl Example for ChatRequestBody {
    fn example() -> Self {
        Self {
            model: "echo".to_owned(),
            messages: vec![Message {
                role: Role::User,
                content: Some(Content::Text("Say this is a test".to_owned())),
                name: None,
                tool_calls: None,
                tool_call_id: None,
                extra: AnyObject::default(),
            }],
            stream: Some(false),
            stream_options: None,
            temperature: None,
            top_p: None,
            n: None,
            max_tokens: None,
            max_completion_tokens: None,
            stop: None,
            tools: None,
            tool_choice: None,
            response_format: None,
            seed: None,
            presence_penalty: None,
            frequency_penalty: None,
            logprobs: None,
            top_logprobs: None,
            extra: AnyObject::default(),
        }
    }
}

/// What a stream should hold.
#[derive(Object)]
pub(in crate::api) struct StreamOptions {
    /// Whether the last chunk tells what was used.
    include_usage: Option<bool>,
    #[oai(flatten)]
    extra: AnyObject,
}

/// One message of a conversation.
#[derive(Object)]
pub(in crate::api) struct Message {
    /// Who speaks.
    role: Role,
    /// What is said: a text, or a list of parts. An assistant that calls tools may say nothing.
    content: Option<Content>,
    /// A name for whoever speaks.
    name: Option<String>,
    /// Tools that the assistant called.
    tool_calls: Option<Vec<AnyObject>>,
    /// Which call a tool answers.
    tool_call_id: Option<String>,
    #[oai(flatten)]
    extra: AnyObject,
}

/// Who speaks.
#[derive(Enum)]
#[oai(rename_all = "lowercase")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
    Function,
}

/// What is said: a text, or a list of parts.
#[derive(Union)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message: a text, an image …
#[derive(Object)]
struct Part {
    /// `text`, `image_url` …
    r#type: String,
    #[oai(flatten)]
    extra: AnyObject,
}

/// A legacy text completion request. Members that are not listed here go to the provider as they are.
#[derive(Object)]
#[oai(rename = "CompletionRequest", example)]
pub(in crate::api) struct CompletionRequestBody {
    /// The model's public name.
    model: String,
    /// The text to go on from, or a list of texts.
    prompt: Any,
    /// Whether to answer with a stream of chunks.
    stream: Option<bool>,
    /// The most tokens of an answer.
    max_tokens: Option<u64>,
    /// How freely to choose words, 0 to 2.
    #[oai(validator(minimum(value = "0"), maximum(value = "2")))]
    temperature: Option<f64>,
    /// Where to stop: a text, or a list of texts.
    stop: Option<Any>,
    #[oai(flatten)]
    extra: AnyObject,
}

impl Example for CompletionRequestBody {
    fn example() -> Self {
        let prompt = poem_openapi::types::Any(json!("Once upon a time"));
        Self {
            model: "echo".to_owned(),
            prompt,
            stream: None,
            max_tokens: None,
            temperature: None,
            stop: None,
            extra: AnyObject::default(),
        }
    }
}

/// A request for embeddings. Members that are not listed here go to the provider as they are.
#[derive(Object)]
#[oai(rename = "EmbeddingsRequest", example)]
pub(in crate::api) struct EmbeddingsRequestBody {
    /// The model's public name.
    model: String,
    /// A text, a list of texts, or lists of tokens.
    input: Any,
    /// `float`, or `base64` for less to carry.
    encoding_format: Option<String>,
    /// How long the vectors should be.
    dimensions: Option<u32>,
    #[oai(flatten)]
    extra: AnyObject,
}

impl Example for EmbeddingsRequestBody {
    fn example() -> Self {
        let input = poem_openapi::types::Any(json!(["one text", "and another"]));
        Self {
            model: "echo".to_owned(),
            input,
            encoding_format: None,
            dimensions: None,
            extra: AnyObject::default(),
        }
    }
}

/// What a request used.
#[derive(Object)]
#[oai(rename = "Usage")]
pub(in crate::api) struct UsageCounts {
    /// Tokens of the prompt.
    pub(super) prompt_tokens: u64,
    /// Tokens of the answer.
    pub(super) completion_tokens: Option<u64>,
    /// Both.
    pub(super) total_tokens: u64,
    #[oai(flatten)]
    pub(super) extra: AnyObject,
}

/// A whole answer to a chat request.
#[derive(Object)]
pub(in crate::api) struct ChatCompletion {
    /// A name for the answer.
    id: String,
    /// `chat.completion`
    object: String,
    /// When it was made, in seconds since 1970.
    created: u64,
    /// The provider's name of the model.
    model: String,
    /// The answers.
    choices: Vec<ChatChoice>,
    /// What it took.
    usage: Option<UsageCounts>,
    #[oai(flatten)]
    extra: AnyObject,
}

/// One answer.
#[derive(Object)]
struct ChatChoice {
    /// Which one.
    index: u32,
    /// The message.
    message: AnyObject,
    /// Why it ended: `stop`, `length`, `tool_calls`, `content_filter`.
    finish_reason: Option<String>,
    #[oai(flatten)]
    extra: AnyObject,
}

/// A piece of a streamed answer to a chat request.
#[derive(Object)]
#[oai(rename = "ChatCompletionChunk")]
pub(in crate::api) struct ChatChunk {
    /// The same in all chunks of an answer.
    id: String,
    /// `chat.completion.chunk`
    object: String,
    /// The same in all chunks of an answer.
    created: u64,
    /// The provider's name of the model.
    model: String,
    /// What is added; empty in the chunk that tells usage.
    choices: Vec<ChunkChoice>,
    /// In the last chunk, if it was asked for.
    usage: Option<UsageCounts>,
    #[oai(flatten)]
    extra: AnyObject,
}

/// What a chunk adds to one answer.
#[derive(Object)]
struct ChunkChoice {
    /// Which answer.
    index: u32,
    /// What is added: `role`, `content`, `reasoning_content`, `tool_calls`.
    delta: AnyObject,
    /// In the last chunk: why it ended.
    finish_reason: Option<String>,
    #[oai(flatten)]
    extra: AnyObject,
}

/// A text completion, whole or a piece of one.
#[derive(Object)]
pub(in crate::api) struct TextCompletion {
    /// A name for the answer.
    id: String,
    /// `text_completion`
    object: String,
    /// When it was made, in seconds since 1970.
    created: u64,
    /// The provider's name of the model.
    model: String,
    /// The answers: `text`, `index`, `finish_reason`.
    choices: Vec<AnyObject>,
    /// What it took.
    usage: Option<UsageCounts>,
    #[oai(flatten)]
    extra: AnyObject,
}

/// Embeddings.
#[derive(Object)]
#[oai(rename = "EmbeddingsResponse")]
pub(in crate::api) struct EmbeddingsAnswer {
    /// `list`
    object: String,
    /// One embedding an input: `object`, `index`, `embedding`.
    data: Vec<AnyObject>,
    /// The provider's name of the model.
    model: String,
    /// What it took.
    usage: Option<UsageCounts>,
    #[oai(flatten)]
    extra: AnyObject,
}

/// The models that callers may name.
#[derive(Serialize, Object)]
pub(in crate::api) struct ModelList {
    /// `list`
    pub(in crate::api) object: String,
    /// The models.
    pub(in crate::api) data: Vec<ModelCardBody>,
}

/// A model that callers may name.
#[derive(Serialize, Object)]
#[oai(rename = "Model")]
pub(in crate::api) struct ModelCardBody {
    /// Its public name.
    pub(in crate::api) id: String,
    /// `model`
    pub(in crate::api) object: String,
    /// When the service began to serve it, in seconds since 1970.
    pub(in crate::api) created: u64,
    /// The provider that is asked first.
    pub(in crate::api) owned_by: String,
    /// Context size in tokens, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) context_length: Option<u64>,
    /// The most tokens of an answer, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) max_output_tokens: Option<u64>,
    /// What it can do, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) supports: Option<ModelSupports>,
    /// For a model that the gateway runs itself: `cold`, `loading`, `ready`, `draining` or `stopping`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) state: Option<String>,
    /// The contexts in which the gateway runs it, if it does so itself, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) variants: Option<Vec<u64>>,
}

/// What a model can do; what is not known of it is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Object)]
pub(in crate::api) struct ModelSupports {
    /// Whether it calls tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) tools: Option<bool>,
    /// Whether it looks at images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) images: Option<bool>,
    /// Whether it keeps to a form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) response_format: Option<bool>,
    /// Whether it reasons before it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) reasoning: Option<bool>,
}

impl ModelSupports {
    /// What any deployment of a model can do; `None` if nothing is known of any.
    pub(in crate::api) fn of(route: &Route) -> Option<Self> {
        let any = |ability: fn(&Abilities) -> Option<bool>| {
            route.deployments.iter().filter_map(|deployment| ability(&deployment.abilities)).max()
        };
        let supports = Self {
            tools: any(|can| can.tools),
            images: any(|can| can.images),
            response_format: any(|can| can.response_format),
            reasoning: any(|can| can.reasoning),
        };
        let Self { tools, images, response_format, reasoning } = supports;
        [tools, images, response_format, reasoning].iter().any(Option::is_some).then_some(supports)
    }
}
