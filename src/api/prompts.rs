//! The prompt library, to list, to read and to try.

use std::sync::Arc;

use poem::Request;
use poem::http::HeaderMap;
use poem::http::header::ACCEPT_LANGUAGE;
use poem_openapi::OpenApi;
use poem_openapi::param::Path;
use serde_json::json;

use super::Tag;
use super::body::JsonBody;
use super::context::Context;
use super::dto;
use super::error::ApiError;
use super::payload::Json;
use super::record_of;
use super::schema::{
    AnyObject, PromptDetails, PromptList, PromptNote, PromptSummaryBody, RenderBody, RenderedBody,
    TranslationBody,
};
use crate::prompts::{Language, PromptSummary, Rendered, Translation, Wanted, accepted_languages};

/// The members of a preview.
const RENDER: &[&str] = &["language", "strict_language", "variables"];

/// The prompt library.
pub(super) struct PromptsApi {
    pub(super) context: Arc<Context>,
}

#[OpenApi(prefix_path = "/api", tag = "Tag::Prompts")]
impl PromptsApi {
    /// Prompts
    ///
    /// All prompts, with their languages.
    #[oai(path = "/prompts", method = "get", operation_id = "list_prompts")]
    async fn list(&self) -> Result<Json<PromptList>, ApiError> {
        let state = self.context.gateway.state();
        let summary = |prompt: PromptSummary| PromptSummaryBody {
            languages: prompt
                .translations
                .iter()
                .map(|translation| translation.language.to_string())
                .collect(),
            name: prompt.name,
            description: prompt.description,
        };
        Ok(Json(PromptList {
            prompts: state.prompts.list().into_iter().map(summary).collect(),
            languages: state.prompts.languages().iter().map(ToString::to_string).collect(),
            default_language: state.prompts.default_language().to_string(),
        }))
    }

    /// One prompt
    ///
    /// A prompt in all its languages. A slash in its name is written `%2F`.
    #[oai(path = "/prompts/:name", method = "get", operation_id = "get_prompt")]
    async fn get(
        &self,
        /// The prompt's name, with a label behind `@` if need be.
        name: Path<String>,
    ) -> Result<Json<PromptDetails>, ApiError> {
        let prompt = self.context.gateway.state().prompts.get(&name.0)?;
        let translation = |translation: Translation| TranslationBody {
            language: translation.language.to_string(),
            template: translation.template,
            version: translation.version,
            model: translation.model,
            config: AnyObject(translation.config),
            hash: translation.hash,
        };
        Ok(Json(PromptDetails {
            name: prompt.name,
            description: prompt.description,
            variables: prompt.schema.map(poem_openapi::types::Any),
            translations: prompt.translations.into_iter().map(translation).collect(),
        }))
    }

    /// Preview
    ///
    /// A prompt with its variables put in, without asking any model.
    #[oai(path = "/prompts/:name/render", method = "post", operation_id = "render_prompt")]
    async fn render(
        &self,
        request: &Request,
        /// The prompt's name, with a label behind `@` if need be.
        name: Path<String>,
        body: JsonBody<RenderBody>,
    ) -> Result<Json<RenderedBody>, ApiError> {
        let object = dto::object(body.bytes)?;
        dto::only_known(&object, &[RENDER], &[])?;
        let body: RenderBody = dto::read(object.text())?;
        let wanted = wanted(body.language.as_deref(), body.strict_language, request)?;
        let rendered = self.context.gateway.state().prompts.render(&name.0, &wanted, &body.variables.0)?;
        Ok(Json(RenderedBody {
            prompt: note(&rendered),
            messages: vec![AnyObject::of(json!({"role": "system", "content": rendered.text}))],
            text: rendered.text,
            config: AnyObject(rendered.config),
        }))
    }
}

/// The languages that a request wants: what it says itself, then what its software says.
pub(super) fn wanted(language: Option<&str>, strict: bool, request: &Request) -> Result<Wanted, ApiError> {
    let parse = |tag: &str| {
        Language::parse(tag).ok_or_else(|| {
            ApiError::invalid("language", "`language` must be a language tag, such as `pl` or `pt-BR`")
        })
    };
    let requested = language.filter(|tag| !tag.is_empty()).map(parse).transpose()?;
    // What the key says goes before what the software says.
    let of_key =
        record_of(request).caller().and_then(|caller| Language::parse(caller.key.language.as_deref()?));
    let accepted = of_key.into_iter().chain(accepted(request.headers())).collect();
    Ok(Wanted { requested, accepted, strict })
}

fn accepted(headers: &HeaderMap) -> Vec<Language> {
    let texts = headers.get_all(ACCEPT_LANGUAGE).iter().filter_map(|value| value.to_str().ok());
    accepted_languages(&texts.collect::<Vec<_>>().join(","))
}

/// Which prompt was used.
pub(super) fn note(prompt: &Rendered) -> PromptNote {
    PromptNote {
        name: prompt.name.clone(),
        language: prompt.language.to_string(),
        requested_language: prompt.requested_language.to_string(),
        fallback: prompt.fallback,
        version: prompt.version.clone(),
    }
}
