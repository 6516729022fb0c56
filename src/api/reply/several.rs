//! Answers that are made of several, which are given whole.

use std::marker::PhantomData;

use poem::http::HeaderMap;
use poem::{IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type;

use super::super::payload::Json;
use super::{How, documented_headers};
use crate::gateway::Replies;

/// The answer of an operation that works on several texts, whole.
#[derive(Debug)]
pub(in crate::api) struct SeveralResponse<W> {
    response: Response,
    described: PhantomData<fn() -> W>,
}

impl<W> From<Response> for SeveralResponse<W> {
    fn from(response: Response) -> Self {
        Self { response, described: PhantomData }
    }
}

impl<W: Send> IntoResponse for SeveralResponse<W> {
    fn into_response(self) -> Response {
        self.response
    }
}

impl<W: Type> ApiResponse for SeveralResponse<W> {
    fn meta() -> MetaResponses {
        let content = MetaMediaType { content_type: Json::<W>::CONTENT_TYPE, schema: W::schema_ref() };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The answers, in the order of the texts.",
                status: Some(200),
                status_range: None,
                content: vec![content],
                headers: documented_headers(),
            }],
        }
    }

    fn register(registry: &mut Registry) {
        W::register(registry);
    }
}

/// Says who answered, and how: everybody once, in the order of the texts.
pub(in crate::api) fn add_headers_of_several(headers: &mut HeaderMap, replies: &Replies, ignored: &[String]) {
    let answers = || replies.answers.iter();
    let ignored_options =
        answers().flat_map(|reply| &reply.ignored_options).chain(ignored).map(String::as_str);
    let how = How {
        provider: &each_once(answers().map(|reply| &*reply.deployment.provider_name)),
        model: &each_once(answers().map(|reply| &*reply.deployment.upstream_model)),
        variant: &each_once(answers().filter_map(|reply| reply.variant.as_deref())),
        ignored_options: &each_once(ignored_options),
        prompt: replies.prompt.as_ref(),
        attempts: answers().map(|reply| reply.attempts).fold(0, u32::saturating_add),
    };
    how.put_into(headers);
}

/// The names in a list, without those that stand before.
fn each_once<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut seen: Vec<&str> = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen.join(", ")
}
