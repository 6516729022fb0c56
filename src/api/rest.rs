//! The facade: chat, conversations with prompts from the library, models, and a sign of life.

use std::sync::Arc;

use poem::http::StatusCode;
use poem::{Request, Response};
use poem_openapi::OpenApi;
use serde_json::{Map, Value};

use super::body::JsonBody;
use super::context::Context;
use super::error::ApiError;
use super::payload::Json;
use super::reply::{self, GeneratedResponse, StreamForm, WholeForm};
use super::schema::{
    ChatChunk, ChatCompletion, Conversation, ConversationAnswer, ExtendedConversation, FacadeChat,
    GenerationOptions, OwnPrompt, Pong, TagDetails, TagList,
};
use super::{Tag, dto, engines, openai as openai_api, prompts, record_of};
use crate::gateway::{self, Opening, Role};
use crate::lint::out_of_range;
use crate::llm::{AnswerText, Change, ChatRequest, Completion, Options, RawObject};
use crate::prompts::Rendered;
use crate::router::Route;
use crate::telemetry::RequestRecord;
use crate::wire::{Invalid, openai};

/// The facade.
pub(super) struct FacadeApi {
    pub(super) context: Arc<Context>,
}

/// The members of a conversation.
const CONVERSATION: &[&str] = &[
    "model_name",
    "model",
    "user_last_statement",
    "historical_messages",
    "language",
    "strict_language",
    "prompt",
    "variables",
    "stream",
    "temperature",
    "max_new_tokens",
];
/// The further members of an extended one.
const GENERATION: &[&str] =
    &["system_prompt", "top_p", "top_k", "typical_p", "repetition_penalty", "seed", "stop"];

#[OpenApi(tag = "Tag::Facade")]
impl FacadeApi {
    /// Chat
    ///
    /// A chat in OpenAI's form, streamed unless `stream` is false.
    #[oai(path = "/api/chat", method = "post", operation_id = "chat")]
    async fn chat(
        &self,
        request: &Request,
        body: JsonBody<FacadeChat>,
    ) -> Result<GeneratedResponse<ChatCompletion, ChatChunk>, ApiError> {
        let chat = facade_chat(openai::chat_request(body.bytes, true)?)?;
        Ok(openai_api::generate(&self.context, request, chat).await?.into())
    }

    /// Conversation
    ///
    /// A conversation after a system prompt from the library, in the wanted language. Streamed unless `stream` is false.
    #[oai(path = "/api/conversation_with_model", method = "post", operation_id = "conversation_with_model")]
    async fn conversation(
        &self,
        request: &Request,
        body: JsonBody<Conversation>,
    ) -> Result<GeneratedResponse<ConversationAnswer, ChatChunk>, ApiError> {
        let object = dto::object(body.bytes)?;
        let ignored = dto::only_known(&object, &[CONVERSATION], &[GENERATION, dto::OF_OLDER_CLIENTS])?;
        let conversation: Conversation = dto::read(object.text())?;
        let conversation = spoken(conversation, OwnPrompt::default(), request)?;
        Ok(converse(&self.context, request, conversation, ignored, WholeForm::Own(conversation_answer))
            .await?
            .into())
    }

    /// Conversation with options
    ///
    /// As the other one, with generation options and, if need be, a system prompt of the caller's own.
    #[oai(
        path = "/api/extended_conversation_with_model",
        method = "post",
        operation_id = "extended_conversation_with_model"
    )]
    async fn extended_conversation(
        &self,
        request: &Request,
        body: JsonBody<ExtendedConversation>,
    ) -> Result<GeneratedResponse<ConversationAnswer, ChatChunk>, ApiError> {
        let object = dto::object(body.bytes)?;
        let (conversation, ignored) = extended(&object, request)?;
        Ok(converse(&self.context, request, conversation, ignored, WholeForm::Own(conversation_answer))
            .await?
            .into())
    }

    /// Models
    ///
    /// The models, in a form that Ollama's clients read, with provider, context, languages and state.
    #[oai(path = "/api/tags", method = "get", operation_id = "tags")]
    async fn tags(&self, request: &Request) -> Result<Json<TagList>, ApiError> {
        let state = self.context.gateway.state();
        let library: Vec<String> = state.prompts.languages().iter().map(ToString::to_string).collect();
        let record = record_of(request);
        let caller = record.caller();
        let listed = state.listed(caller);
        let models = listed.iter().map(|route| tag(&self.context, route, &library)).collect();
        Ok(Json(TagList { models }))
    }

    /// Sign of life
    ///
    /// Touches nothing but the service itself.
    #[oai(path = "/api/ping", method = "get", operation_id = "ping")]
    async fn ping(&self, request: &Request) -> Result<Json<Pong>, ApiError> {
        let response_time = record_of(request).elapsed().as_secs_f64();
        Ok(Json(Pong { status: true, body: "pong".to_owned(), response_time }))
    }
}

/// Answers a conversation, in this form if it is to come whole.
pub(super) async fn converse(
    context: &Arc<Context>,
    request: &Request,
    conversation: gateway::Conversation,
    ignored: Vec<String>,
    whole: WholeForm,
) -> Result<Response, ApiError> {
    let record = record_of(request);
    let form = conversation.stream.then(|| StreamForm::wanted(request.headers()));
    let (gateway, of_request) = (context.gateway.clone(), record.clone());
    let asked = Box::pin(async move {
        let mut reply = gateway.converse(conversation, of_request).await?;
        reply.ignored_options.extend(ignored);
        Ok(reply)
    });
    let answered = reply::respond(context, &record, asked, form, whole).await;
    answered.map_err(|error| error.with_param_named("model", "model_name"))
}

/// Takes the facade's own members out of a chat: `options` become options of the house, and nobody else
/// knows `language`.
fn facade_chat(mut chat: ChatRequest) -> Result<ChatRequest, ApiError> {
    let given = |name: &str| chat.body.get(name).filter(|value| *value != b"null");
    let mut options = Options::default();
    if let Some(text) = given("options") {
        let map: Map<String, Value> = serde_json::from_slice(text)
            .map_err(|_| ApiError::invalid("options", "`options` must be an object"))?;
        if let Some((name, _, allowed)) = out_of_range(&map).into_iter().next() {
            let place = format!("options.{name}");
            return Err(ApiError::invalid(&place, format!("`{place}` must be {allowed}")));
        }
        options.extend(map);
    }
    if let Some(text) = given("keep_alive") {
        let value: Value = serde_json::from_slice(text).unwrap_or_default();
        if !(value.is_string() || value.is_number()) {
            return Err(ApiError::invalid(
                "keep_alive",
                "`keep_alive` must be a text such as `30m`, or seconds",
            ));
        }
        options.set("keep_alive", value);
    }
    if given("language").is_some_and(|text| !text.starts_with(b"\"")) {
        return Err(ApiError::invalid("language", "`language` must be a language tag, such as `pl`"));
    }
    let own: Vec<Change<'_>> = ["options", "keep_alive", "language"]
        .into_iter()
        .filter(|name| chat.body.get(name).is_some())
        .map(Change::Remove)
        .collect();
    if !own.is_empty() {
        let body = chat.body.edited(&own).map_err(Invalid::from)?;
        chat.replace_body(body);
    }
    chat.options = options;
    Ok(chat)
}

/// A conversation with options, as the gateway takes it, and the members that do nothing.
pub(super) fn extended(
    object: &RawObject,
    request: &Request,
) -> Result<(gateway::Conversation, Vec<String>), ApiError> {
    let ignored = dto::only_known(object, &[CONVERSATION, GENERATION], &[dto::OF_OLDER_CLIENTS])?;
    let conversation: Conversation = dto::read(object.text())?;
    let own: OwnPrompt = dto::read(object.text())?;
    let generation: GenerationOptions = dto::read(object.text())?;
    let mut conversation = spoken(conversation, own, request)?;
    set_options(&mut conversation.options, generation);
    Ok((conversation, ignored))
}

/// A conversation as the gateway takes it.
fn spoken(
    conversation: Conversation,
    own: OwnPrompt,
    request: &Request,
) -> Result<gateway::Conversation, ApiError> {
    let mut options = Options::default();
    options.set("temperature", conversation.temperature);
    options.set("max_tokens", conversation.max_new_tokens);
    let history =
        history(&conversation.historical_messages.iter().map(|message| &message.0).collect::<Vec<_>>())?;
    let wanted = prompts::wanted(conversation.language.as_deref(), conversation.strict_language, request)?;
    Ok(gateway::Conversation {
        model: conversation.model_name,
        opening: match own.system_prompt {
            Some(text) => Opening::Text(text),
            None => Opening::Prompt {
                name: conversation.prompt,
                variables: conversation.variables.0,
                wanted,
                offers: Vec::new(),
            },
        },
        history,
        statement: conversation.user_last_statement,
        stream: conversation.stream,
        options,
    })
}

/// Adds what is given of the options.
pub(super) fn set_options(options: &mut Options, generation: GenerationOptions) {
    options.set("top_p", generation.top_p);
    options.set("top_k", generation.top_k);
    options.set("typical_p", generation.typical_p);
    options.set("repetition_penalty", generation.repetition_penalty);
    options.set("seed", generation.seed);
    options.set("stop", serde_json::to_value(generation.stop).unwrap_or_default());
}

/// What was said before: pairs of user and assistant, or messages with a role, also mixed.
fn history(messages: &[&Map<String, Value>]) -> Result<Vec<(Role, String)>, ApiError> {
    let mut history = Vec::with_capacity(messages.len() * 2);
    for (index, message) in messages.iter().enumerate() {
        let place = format!("historical_messages[{index}]");
        let text = |name: &str| match message.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => {
                let param = format!("{place}.{name}");
                Err(ApiError::invalid(&param, format!("`{param}` must be a text")))
            }
        };
        let before = history.len();
        if message.contains_key("role") {
            let role = match text("role")?.as_deref() {
                Some("system" | "developer") => Role::System,
                Some("user") => Role::User,
                Some("assistant") => Role::Assistant,
                _ => {
                    let param = format!("{place}.role");
                    return Err(ApiError::invalid(
                        &param,
                        format!("`{param}` must be one of system, user, assistant"),
                    ));
                }
            };
            history.extend(text("content")?.map(|content| (role, content)));
        } else {
            history.extend(text("user")?.map(|said| (Role::User, said)));
            history.extend(text("assistant")?.map(|said| (Role::Assistant, said)));
        }
        if history.len() == before {
            let message = format!("`{place}` must have `user` and `assistant`, or `role` and `content`");
            return Err(ApiError::invalid(&place, message));
        }
    }
    Ok(history)
}

/// The answer of a conversation, out of the provider's.
fn conversation_answer(
    completion: &Completion,
    prompt: Option<&Rendered>,
    record: &RequestRecord,
) -> Result<bytes::Bytes, ApiError> {
    let body = answer_of(completion, prompt, record)?;
    Ok(serde_json::to_vec(&body).map_err(|_| ApiError::internal())?.into())
}

pub(super) fn answer_of(
    completion: &Completion,
    prompt: Option<&Rendered>,
    record: &RequestRecord,
) -> Result<ConversationAnswer, ApiError> {
    let AnswerText { text, finish_reason } = answer_text(completion)?;
    let usage = record.facts().usage.or(completion.usage).unwrap_or_default();
    Ok(ConversationAnswer {
        response: text,
        generation_time: record.elapsed().as_secs_f64(),
        model: record.facts().model.as_deref().unwrap_or_default().to_owned(),
        finish_reason,
        usage: usage.into(),
        prompt: prompt.map(prompts::note),
    })
}

/// Reads a provider's answer.
pub(super) fn answer_text(completion: &Completion) -> Result<AnswerText, ApiError> {
    completion.answer_text().map_err(|reason| {
        let message = format!("the provider gave no valid answer: {reason}");
        ApiError::new(StatusCode::BAD_GATEWAY, "upstream_protocol", message)
    })
}

fn tag(context: &Context, route: &Route, library: &[String]) -> super::schema::Tag {
    let started = context.health.started_at();
    let (state, variants) = engines::state_of(context, route);
    let first = route.deployments.first();
    let details = first.map(|deployment| deployment.details.clone()).unwrap_or_default();
    let text = |name: &str| details.get(name).and_then(Value::as_str).map(str::to_owned);
    let languages: Vec<String> = first.map(|deployment| deployment.languages.clone()).unwrap_or_default();
    let providers: Vec<String> =
        route.deployments.iter().map(|deployment| deployment.provider_name.to_string()).collect();
    super::schema::Tag {
        name: route.model.to_string(),
        model: route.model.to_string(),
        modified_at: text("modified_at")
            .unwrap_or_else(|| humantime::format_rfc3339_seconds(started).to_string()),
        size: details.get("size").and_then(Value::as_u64).unwrap_or(0),
        digest: text("digest").unwrap_or_default(),
        details: tag_details(details.get("details").unwrap_or(&Value::Null)),
        provider: providers.first().cloned().unwrap_or_default(),
        providers,
        aliases: route.aliases.clone(),
        context: route.context_tokens(),
        languages: if languages.is_empty() { library.to_vec() } else { languages },
        state: state.to_owned(),
        variants,
    }
}

fn tag_details(details: &Value) -> TagDetails {
    let text = |name: &str| details.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let families = details.get("families").and_then(Value::as_array);
    TagDetails {
        parent_model: text("parent_model"),
        format: text("format"),
        family: text("family"),
        families: families.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        parameter_size: text("parameter_size"),
        quantization_level: text("quantization_level"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(messages: &Value) -> Result<Vec<(Role, String)>, String> {
        let maps: Vec<&Map<String, Value>> =
            messages.as_array().unwrap().iter().filter_map(Value::as_object).collect();
        history(&maps).map_err(|error| error.body(false)["error"]["param"].as_str().unwrap().to_owned())
    }

    #[test]
    fn pairs_and_messages_mix() {
        let messages = json!([
            {"user": "a", "assistant": "b"}, {"role": "user", "content": "c"}, {"user": "d"}, {"assistant": "e"},
            {"role": "system", "content": "f"}, {"user": "g", "assistant": null},
        ]);
        let roles: Vec<(Role, &str)> = vec![
            (Role::User, "a"),
            (Role::Assistant, "b"),
            (Role::User, "c"),
            (Role::User, "d"),
            (Role::Assistant, "e"),
            (Role::System, "f"),
            (Role::User, "g"),
        ];
        let told = told(&messages).unwrap();
        assert_eq!(told.iter().map(|(role, text)| (*role, text.as_str())).collect::<Vec<_>>(), roles);
    }

    #[test]
    fn a_bad_item_is_named() {
        for (message, param) in [
            (json!({}), "historical_messages[1]"),
            (json!({"human": "x"}), "historical_messages[1]"),
            (json!({"user": 3}), "historical_messages[1].user"),
            (json!({"role": "boss", "content": "x"}), "historical_messages[1].role"),
            (json!({"role": "user"}), "historical_messages[1]"),
        ] {
            assert_eq!(told(&json!([{"user": "ok"}, message])), Err(param.to_owned()));
        }
    }

    fn facade(body: &Value) -> Result<ChatRequest, ApiError> {
        facade_chat(openai::chat_request(body.to_string().into(), true).unwrap())
    }

    #[test]
    fn the_facades_own_members_do_not_travel() {
        let chat =
            facade(&json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "language": "pl",
            "keep_alive": "30m", "options": {"num_predict": 5, "num_ctx": 9}, "my": 1}))
            .unwrap();

        let body: Value = serde_json::from_slice(chat.body.text()).unwrap();
        assert_eq!(body, json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "my": 1}));
        assert_eq!(chat.options.get("max_tokens"), Some(&json!(5)));
        assert_eq!(chat.options.get("keep_alive"), Some(&json!("30m")));
        assert!(chat.stream);
    }

    #[test]
    fn bad_members_of_the_facade_are_named() {
        for (name, value) in [("options", json!([])), ("keep_alive", json!({})), ("language", json!(1))] {
            let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
            body[name] = value;
            assert_eq!(facade(&body).unwrap_err().body(false)["error"]["param"], name);
        }
    }
}
