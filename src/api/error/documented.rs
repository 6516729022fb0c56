//! What the document says of errors.

use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaHeader, MetaResponse, MetaResponses, MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiResponse, registry};

use super::ApiError;
use crate::api::payload::Json;
use crate::api::schema::ErrorBody;

/// The same for every operation that can have them.
const DOCUMENTED: &[(u16, &str)] = &[
    (
        400,
        "The request is not valid, or the prompt does not fit the model's context. `param` names the place.",
    ),
    (401, "The key is missing or wrong."),
    (403, "The key may not use the model, or a page of a site that may not call has sent the request."),
    (
        404,
        "The model, the prompt, the provider, the key or the path does not exist, or the model is switched off, or its scores leave out whoever serves it.",
    ),
    (408, "The body did not arrive in time."),
    (409, "The configuration is refused, and the one before it goes on. The message has one fault a line."),
    (413, "The body is larger than the service takes."),
    (415, "The body is not JSON."),
    (
        429,
        "A limit or a budget is used up, or the provider limits the rate. `retry-after` says how long to wait, where that helps.",
    ),
    (502, "The provider cannot be reached, gave no valid answer, or rejects the gateway's credentials."),
    (503, "Nothing can answer now. `retry-after` says how long to wait."),
    (504, "The provider did not answer in time."),
];

/// What is said of a status.
pub(in crate::api) fn description_of(status: u16) -> Option<&'static str> {
    DOCUMENTED.iter().find(|(known, _)| *known == status).map(|(_, description)| *description)
}

impl ApiResponse for ApiError {
    fn meta() -> MetaResponses {
        let response = |(status, description): &(u16, &'static str)| MetaResponse {
            description,
            status: Some(*status),
            status_range: None,
            content: vec![registry::MetaMediaType {
                content_type: Json::<ErrorBody>::CONTENT_TYPE,
                schema: ErrorBody::schema_ref(),
            }],
            headers: if matches!(status, 429 | 502..=504) { vec![retry_after_header()] } else { Vec::new() },
        };
        MetaResponses { responses: DOCUMENTED.iter().map(response).collect() }
    }

    fn register(registry: &mut Registry) {
        ErrorBody::register(registry);
    }
}

fn retry_after_header() -> MetaHeader {
    MetaHeader {
        name: "retry-after".to_owned(),
        description: Some("Seconds to wait before trying again.".to_owned()),
        required: false,
        deprecated: false,
        schema: MetaSchemaRef::Inline(Box::new(registry::MetaSchema::new("integer"))),
    }
}
