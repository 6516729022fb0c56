//! Requests and answers of the facade.

use poem_openapi::Object;
use poem_openapi::types::Example;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use validator::Validate;

use super::AnyObject;
use super::chat::Message;
use crate::llm::Usage;

type Any = poem_openapi::types::Any<Value>;

/// A chat request in OpenAI's form, streamed unless it says otherwise. Members that are not listed here go to
/// the provider as they are.
#[derive(Object)]
#[oai(rename = "ChatRequest", example)]
pub(in crate::api) struct FacadeChat {
    /// The model's public name.
    model: String,
    /// The conversation so far, oldest first.
    #[oai(validator(min_items = 1))]
    messages: Vec<Message>,
    /// Whether to answer with a stream of chunks.
    #[oai(default = "yes")]
    stream: bool,
    /// The caller's language. It does not change this request; the conversation endpoints choose their prompt by it.
    language: Option<String>,
    /// How long the provider should keep the model in memory, such as `30m`. Ollama only.
    keep_alive: Option<Any>,
    /// Options in Ollama's words (`num_ctx`, `num_predict`, `repeat_penalty` …), mapped for the provider that
    /// answers. `x-llm-ignored-options` names those that it cannot take.
    options: Option<AnyObject>,
    #[oai(flatten)]
    extra: AnyObject,
}

fn yes() -> bool {
    true
}

impl Example for FacadeChat {
    fn example() -> Self {
        let super::ChatRequestBody { model, messages, extra, .. } = super::ChatRequestBody::example();
        Self { model, messages, stream: false, language: None, keep_alive: None, options: None, extra }
    }
}

/// What a user says to a model, after a system prompt from the library.
#[derive(Deserialize, Validate, Object)]
#[oai(rename = "ConversationRequest", example)]
pub(in crate::api) struct Conversation {
    /// The model's public name. `model` means the same.
    #[serde(alias = "model")]
    #[validate(length(min = 1, message = "must not be empty"))]
    pub(in crate::api) model_name: String,
    /// What the user says now.
    #[validate(length(min = 1, message = "must not be empty"))]
    #[oai(validator(min_length = 1))]
    pub(in crate::api) user_last_statement: String,
    /// What was said before, oldest first: `{"user": …, "assistant": …}` pairs or `{"role": …, "content": …}` messages, also mixed.
    #[serde(default)]
    #[oai(default)]
    pub(in crate::api) historical_messages: Vec<AnyObject>,
    /// The language of the prompt, as a tag such as `pl` or `pt-BR`. Without it `Accept-Language` counts.
    pub(in crate::api) language: Option<String>,
    /// Whether another language than the wanted one is an error.
    #[serde(default)]
    #[oai(default)]
    pub(in crate::api) strict_language: bool,
    /// The prompt's name, with a label behind `@` if need be.
    #[serde(default = "default_prompt")]
    #[oai(default = "default_prompt")]
    pub(in crate::api) prompt: String,
    /// Variables for the prompt's template.
    #[serde(default)]
    #[oai(default)]
    pub(in crate::api) variables: AnyObject,
    /// Whether to answer with a stream of chunks.
    #[serde(default = "yes")]
    #[oai(default = "yes")]
    pub(in crate::api) stream: bool,
    /// How freely to choose words, 0 to 2.
    #[validate(range(min = 0.0, max = 2.0, message = "must be between 0 and 2"))]
    #[oai(validator(minimum(value = "0"), maximum(value = "2")))]
    pub(in crate::api) temperature: Option<f64>,
    /// The most tokens of an answer.
    #[validate(range(min = 1, message = "must be at least 1"))]
    #[oai(validator(minimum(value = "1")))]
    pub(in crate::api) max_new_tokens: Option<u64>,
}

fn default_prompt() -> String {
    "chat-conversation-simple".to_owned()
}

impl Example for Conversation {
    fn example() -> Self {
        Self {
            model_name: "echo".to_owned(),
            user_last_statement: "And what is the highest one?".to_owned(),
            historical_messages: vec![AnyObject::of(
                json!({"user": "What mountains are there in Poland?", "assistant": "The Tatras, for example."}),
            )],
            language: Some("en".to_owned()),
            strict_language: false,
            prompt: default_prompt(),
            variables: AnyObject::default(),
            stream: false,
            temperature: None,
            max_new_tokens: None,
        }
    }
}

/// What a user says to a model, after a system prompt from the library or of the caller's own, with generation options.
#[derive(Object)]
#[oai(rename = "ExtendedConversationRequest", example)]
pub(in crate::api) struct ExtendedConversation {
    #[oai(flatten)]
    conversation: Conversation,
    #[oai(flatten)]
    own: OwnPrompt,
    #[oai(flatten)]
    generation: GenerationOptions,
}

/// A prompt of the caller's own. Read from the same body as the rest.
#[derive(Default, Deserialize, Validate, Object)]
pub(in crate::api) struct OwnPrompt {
    /// The system prompt. It takes the place of the library's.
    pub(in crate::api) system_prompt: Option<String>,
}

/// How to generate. Read from the same body as the rest.
#[derive(Default, Deserialize, Validate, Object)]
pub(in crate::api) struct GenerationOptions {
    /// Choose among the most likely words that together have this likelihood, 0 to 1.
    #[validate(range(min = 0.0, max = 1.0, message = "must be between 0 and 1"))]
    #[oai(validator(minimum(value = "0"), maximum(value = "1")))]
    pub(in crate::api) top_p: Option<f64>,
    /// Choose among so many of the most likely words; 0 means all.
    pub(in crate::api) top_k: Option<u32>,
    /// Choose among words that are about as surprising as is usual, 0 to 1.
    #[validate(range(min = 0.0, max = 1.0, message = "must be between 0 and 1"))]
    #[oai(validator(minimum(value = "0"), maximum(value = "1")))]
    pub(in crate::api) typical_p: Option<f64>,
    /// Against repetition; 1 means nothing.
    #[validate(range(exclusive_min = 0.0, message = "must be more than 0"))]
    #[oai(validator(minimum(value = "0", exclusive)))]
    pub(in crate::api) repetition_penalty: Option<f64>,
    /// For answers that can be had again.
    pub(in crate::api) seed: Option<i64>,
    /// Where to stop: a text, or a list of texts.
    pub(in crate::api) stop: Option<StopTexts>,
}

/// Where to stop: a text, or a list of texts.
#[derive(Clone, Debug, Deserialize, Serialize, poem_openapi::Union)]
#[serde(untagged)]
pub(in crate::api) enum StopTexts {
    One(String),
    Several(Vec<String>),
}

impl Example for ExtendedConversation {
    fn example() -> Self {
        Self {
            conversation: Conversation {
                temperature: Some(0.7),
                max_new_tokens: Some(256),
                ..Conversation::example()
            },
            own: OwnPrompt { system_prompt: Some("Answer like a pirate.".to_owned()) },
            generation: GenerationOptions { top_p: Some(0.9), ..GenerationOptions::default() },
        }
    }
}

/// A whole answer to a conversation.
#[derive(Serialize, Object)]
#[oai(rename = "ConversationResponse")]
pub(in crate::api) struct ConversationAnswer {
    /// What the model says.
    pub(in crate::api) response: String,
    /// Seconds that it took.
    pub(in crate::api) generation_time: f64,
    /// The provider's name of the model.
    pub(in crate::api) model: String,
    /// Why it ended: `stop`, `length` …
    pub(in crate::api) finish_reason: String,
    /// What it took.
    pub(in crate::api) usage: UsageBody,
    /// The prompt from the library that was used, if one was.
    pub(in crate::api) prompt: Option<PromptNote>,
}

/// What an answer took.
#[derive(Serialize, Object)]
#[oai(rename = "ConversationUsage")]
pub(in crate::api) struct UsageBody {
    /// Tokens of the prompt.
    pub(in crate::api) prompt_tokens: u64,
    /// Tokens of the answer.
    pub(in crate::api) completion_tokens: u64,
    /// Both.
    pub(in crate::api) total_tokens: u64,
}

impl From<Usage> for UsageBody {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.input_tokens,
            completion_tokens: usage.output_tokens,
            total_tokens: usage.input_tokens.saturating_add(usage.output_tokens),
        }
    }
}

/// Which prompt was used, and in which language.
#[derive(Serialize, Object)]
pub(in crate::api) struct PromptNote {
    /// The prompt's name.
    pub(in crate::api) name: String,
    /// Its language.
    pub(in crate::api) language: String,
    /// The language that was wanted.
    pub(in crate::api) requested_language: String,
    /// Whether another language than the wanted one had to do.
    pub(in crate::api) fallback: bool,
    /// The version that its file states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) version: Option<String>,
}

/// The models, in the form that Ollama's clients read.
#[derive(Serialize, Object)]
#[oai(rename = "Tags")]
pub(in crate::api) struct TagList {
    /// The models.
    pub(in crate::api) models: Vec<Tag>,
}

/// A model.
#[derive(Serialize, Object)]
pub(in crate::api) struct Tag {
    /// Its public name.
    pub(in crate::api) name: String,
    /// The same.
    pub(in crate::api) model: String,
    /// When the service began to serve it, or what the provider says.
    pub(in crate::api) modified_at: String,
    /// Bytes, if the provider says; else 0.
    pub(in crate::api) size: u64,
    /// What the provider says, or nothing.
    pub(in crate::api) digest: String,
    /// What Ollama's clients show.
    pub(in crate::api) details: TagDetails,
    /// The provider that is asked first.
    pub(in crate::api) provider: String,
    /// All providers, in the order in which they are asked.
    pub(in crate::api) providers: Vec<String>,
    /// Further names for it.
    pub(in crate::api) aliases: Vec<String>,
    /// The largest context size in tokens, if known.
    pub(in crate::api) context: Option<u64>,
    /// Languages of the model, or else those of the prompt library.
    pub(in crate::api) languages: Vec<String>,
    /// `available`; for a model that the gateway runs itself `cold`, `loading`, `ready`, `draining` or `stopping`.
    pub(in crate::api) state: String,
    /// The contexts in which the gateway runs it, if it does so itself, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) variants: Option<Vec<u64>>,
}

/// What Ollama's clients show.
#[derive(Serialize, Object, Default)]
pub(in crate::api) struct TagDetails {
    /// Always empty.
    pub(in crate::api) parent_model: String,
    /// Such as `gguf`.
    pub(in crate::api) format: String,
    /// Such as `llama`.
    pub(in crate::api) family: String,
    /// The same, as a list.
    pub(in crate::api) families: Vec<String>,
    /// Such as `8B`.
    pub(in crate::api) parameter_size: String,
    /// Such as `Q4_K_M`.
    pub(in crate::api) quantization_level: String,
}

/// A sign of life.
#[derive(Serialize, Object)]
pub(in crate::api) struct Pong {
    /// `true`
    pub(in crate::api) status: bool,
    /// `pong`
    pub(in crate::api) body: String,
    /// Seconds that it took.
    pub(in crate::api) response_time: f64,
}

/// A sign of life of the process.
#[derive(Serialize, Object)]
pub(in crate::api) struct Alive {
    /// `alive`
    pub(in crate::api) status: String,
}

/// What the service has to serve with.
#[derive(Serialize, Object)]
pub(in crate::api) struct Ready {
    /// `ready`, or `draining`
    pub(in crate::api) status: String,
    /// Why it is not ready.
    pub(in crate::api) reasons: Vec<String>,
    /// How many models are served.
    pub(in crate::api) models: usize,
    /// How many prompts there are.
    pub(in crate::api) prompts: usize,
    /// How the last change of the configuration went.
    pub(in crate::api) reload: Reload,
    /// How it is with the store of keys and usage. Requests are answered from memory whatever it is like.
    pub(in crate::api) store: StoreHealth,
    /// How Redis is, through which replicas share limits. Absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    pub(in crate::api) redis: Option<super::replicas::RedisState>,
}

/// How it is with the store of keys and usage.
#[derive(Serialize, Object)]
pub(in crate::api) struct StoreHealth {
    /// Whether all is written down.
    pub(in crate::api) ok: bool,
    /// What is wrong. What waits is written when it is well again.
    pub(in crate::api) error: Option<String>,
}

/// How the last change of the configuration went.
#[derive(Serialize, Object)]
pub(in crate::api) struct Reload {
    /// Whether it was accepted. If not, the one before it goes on serving.
    pub(in crate::api) ok: bool,
    /// Why it was refused.
    pub(in crate::api) error: Option<String>,
}

/// The prompts of the library.
#[derive(Serialize, Object)]
pub(in crate::api) struct PromptList {
    /// In the order of their names.
    pub(in crate::api) prompts: Vec<PromptSummaryBody>,
    /// All languages in which there is any prompt.
    pub(in crate::api) languages: Vec<String>,
    /// The language that does when no other is wanted.
    pub(in crate::api) default_language: String,
}

/// A prompt.
#[derive(Serialize, Object)]
#[oai(rename = "PromptSummary")]
pub(in crate::api) struct PromptSummaryBody {
    /// Its name, with a label behind `@` if it has one.
    pub(in crate::api) name: String,
    /// What it is for.
    pub(in crate::api) description: Option<String>,
    /// Its languages.
    pub(in crate::api) languages: Vec<String>,
}

/// A prompt in all its languages.
#[derive(Serialize, Object)]
#[oai(rename = "Prompt")]
pub(in crate::api) struct PromptDetails {
    /// Its name, with a label behind `@` if it has one.
    pub(in crate::api) name: String,
    /// What it is for.
    pub(in crate::api) description: Option<String>,
    /// The variables that it takes, as JSON Schema.
    pub(in crate::api) variables: Option<Any>,
    /// What it is in each language.
    pub(in crate::api) translations: Vec<TranslationBody>,
}

/// A prompt in one language.
#[derive(Serialize, Object)]
#[oai(rename = "Translation")]
pub(in crate::api) struct TranslationBody {
    /// The language.
    pub(in crate::api) language: String,
    /// The template.
    pub(in crate::api) template: String,
    /// The version that its file states.
    pub(in crate::api) version: Option<String>,
    /// The model it was written for.
    pub(in crate::api) model: Option<String>,
    /// Options that it suggests.
    pub(in crate::api) config: AnyObject,
    /// The hash that an up-to-date translation of it names as its source.
    pub(in crate::api) hash: String,
}

/// Variables and language for a preview.
#[derive(Deserialize, Validate, Object)]
#[oai(rename = "RenderRequest", example)]
pub(in crate::api) struct RenderBody {
    /// The language, as a tag such as `pl` or `pt-BR`. Without it `Accept-Language` counts.
    pub(in crate::api) language: Option<String>,
    /// Whether another language than the wanted one is an error.
    #[serde(default)]
    #[oai(default)]
    pub(in crate::api) strict_language: bool,
    /// Variables for the template.
    #[serde(default)]
    #[oai(default)]
    pub(in crate::api) variables: AnyObject,
}

impl Example for RenderBody {
    fn example() -> Self {
        let variables = AnyObject::of(json!({"target_language": "Polish"}));
        Self { language: Some("en".to_owned()), strict_language: false, variables }
    }
}

/// A prompt with its variables put in.
#[derive(Serialize, Object)]
#[oai(rename = "RenderedPrompt")]
pub(in crate::api) struct RenderedBody {
    /// The text.
    pub(in crate::api) text: String,
    /// Which prompt, and in which language.
    pub(in crate::api) prompt: PromptNote,
    /// The messages that a conversation would begin with.
    pub(in crate::api) messages: Vec<AnyObject>,
    /// Options that the prompt suggests.
    pub(in crate::api) config: AnyObject,
}

/// A request for one provider, passed on as it is.
#[derive(Deserialize, Validate, Object)]
#[oai(rename = "PassthroughRequest", example)]
pub(in crate::api) struct PassthroughBody {
    /// The provider's name. Either this or `model`.
    pub(in crate::api) provider: Option<String>,
    /// A public model's name: the provider that is asked first for it.
    pub(in crate::api) model: Option<String>,
    /// The method.
    #[serde(default = "post")]
    #[oai(default = "post")]
    pub(in crate::api) method: String,
    /// The path at the provider, such as `/v1/audio/speech`.
    pub(in crate::api) path: String,
    /// Parameters for behind the question mark.
    #[serde(default)]
    #[oai(default)]
    pub(in crate::api) query: AnyObject,
    /// Headers. Those that matter to an answer pass (`accept`, `openai-beta` …); credentials and the like are refused.
    #[serde(default)]
    #[oai(default)]
    pub(in crate::api) headers: AnyObject,
    /// The body: sent as JSON, unless it is null.
    #[serde(default)]
    pub(in crate::api) body: Option<Any>,
    /// Whether an event stream is wanted. Answers are passed on as they come in any case.
    #[serde(default)]
    #[oai(default)]
    pub(in crate::api) stream: bool,
}

fn post() -> String {
    "POST".to_owned()
}

impl Example for PassthroughBody {
    fn example() -> Self {
        Self {
            provider: Some("echo".to_owned()),
            model: None,
            method: "POST".to_owned(),
            path: "/v1/audio/speech".to_owned(),
            query: AnyObject::default(),
            headers: AnyObject::default(),
            body: Some(poem_openapi::types::Any(
                json!({"model": "tts-1", "input": "Hello!", "voice": "alloy"}),
            )),
            stream: false,
        }
    }
}
