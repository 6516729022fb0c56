//! Answers of fixed kinds: JSON, text, and streams of events, as the document describes them.

use std::marker::PhantomData;

use bytes::Bytes;
use poem::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use poem::http::{HeaderMap, HeaderValue};
use poem::{Body, IntoResponse, Response};
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaMediaType, MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiResponse, ResponseContent, registry};
use serde::Serialize;

/// A JSON answer of type `T`. `T` says what the document shows.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: Type> Payload for Json<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: Serialize + Send> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        // The types that are answered are maps with text keys, lists and plain values: they always serialise.
        json_response(serde_json::to_vec(&self.0).unwrap_or_default().into())
    }
}

impl<T: Type + Serialize + Send> ApiResponse for Json<T> {
    fn meta() -> registry::MetaResponses {
        registry::MetaResponses {
            responses: vec![registry::MetaResponse {
                description: "The answer.",
                status: Some(200),
                status_range: None,
                content: <Self as ResponseContent>::media_types(),
                headers: Vec::new(),
            }],
        }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// A JSON answer that nobody on the way is to keep, for it holds a secret.
pub(super) struct ToldOnce<T>(pub(super) T);

impl<T: Serialize + Send> IntoResponse for ToldOnce<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.0).into_response();
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

impl<T: Type + Serialize + Send> ApiResponse for ToldOnce<T> {
    fn meta() -> registry::MetaResponses {
        Json::<T>::meta()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// A table: JSON that is described as `T`, or comma-separated values.
pub(super) struct TableAnswer<T> {
    response: Response,
    described: PhantomData<fn() -> T>,
}

impl<T> From<Response> for TableAnswer<T> {
    fn from(response: Response) -> Self {
        Self { response, described: PhantomData }
    }
}

impl<T: Send> IntoResponse for TableAnswer<T> {
    fn into_response(self) -> Response {
        self.response
    }
}

impl<T: Type> ApiResponse for TableAnswer<T> {
    fn meta() -> registry::MetaResponses {
        let text = MetaSchemaRef::Inline(Box::new(MetaSchema::new("string")));
        answered(vec![
            MetaMediaType { content_type: Json::<T>::CONTENT_TYPE, schema: T::schema_ref() },
            MetaMediaType { content_type: "text/csv", schema: text },
        ])
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// A response of these JSON bytes.
pub(super) fn json_response(body: Bytes) -> Response {
    let mut response = Response::default();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.set_body(body);
    response
}

/// What the document says of a stream of `T` in a media type.
macro_rules! stream_of {
    ($(#[$doc:meta])* $name:ident, $content_type:literal, $format:literal) => {
        $(#[$doc])*
        pub(super) struct $name<T>(PhantomData<fn() -> T>);

        impl<T: Type> Payload for $name<T> {
            const CONTENT_TYPE: &'static str = $content_type;

            fn schema_ref() -> MetaSchemaRef {
                let items = Some(Box::new(T::schema_ref()));
                MetaSchemaRef::Inline(Box::new(MetaSchema { items, ..MetaSchema::new_with_format("array", $format) }))
            }

            fn register(registry: &mut Registry) {
                T::register(registry);
            }
        }
    };
}

stream_of!(
    /// Server-sent events.
    Events,
    "text/event-stream",
    "event-stream"
);
stream_of!(
    /// One JSON object a line.
    Lines,
    "application/x-ndjson",
    "ndjson"
);

/// Documents an operation that answers `W` whole, or `C` in pieces.
pub(super) fn whole_or_stream<W: Type, C: Type>() -> Vec<MetaMediaType> {
    let media = |content_type, schema| MetaMediaType { content_type, schema };
    vec![
        media(Json::<W>::CONTENT_TYPE, W::schema_ref()),
        media(Events::<C>::CONTENT_TYPE, Events::<C>::schema_ref()),
        media(Lines::<C>::CONTENT_TYPE, Lines::<C>::schema_ref()),
    ]
}

/// A text answer.
pub(super) fn text_response(content_type: &'static str, text: impl Into<Body>) -> Response {
    let mut response = Response::default();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.set_body(text);
    response
}

/// A stream of server-sent events.
pub(super) fn event_stream(body: impl Into<Body>) -> Response {
    let mut response = Response::default();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    not_held_back(headers);
    response.set_body(body);
    response
}

/// Nobody on the way is to keep a stream, nor to wait for the whole of it.
pub(super) fn not_held_back(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
}

/// A stream of events, each of which is a `T`.
pub(super) struct StepsAnswer<T> {
    response: Response,
    described: PhantomData<fn() -> T>,
}

impl<T> From<Response> for StepsAnswer<T> {
    fn from(response: Response) -> Self {
        Self { response, described: PhantomData }
    }
}

impl<T: Send> IntoResponse for StepsAnswer<T> {
    fn into_response(self) -> Response {
        self.response
    }
}

impl<T: Type> ApiResponse for StepsAnswer<T> {
    fn meta() -> registry::MetaResponses {
        let schema = Events::<T>::schema_ref();
        answered(vec![MetaMediaType { content_type: Events::<T>::CONTENT_TYPE, schema }])
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// A JSON answer that comes from a provider, described as `T`.
pub(super) struct EmbeddingsResponse<T> {
    response: Response,
    described: PhantomData<fn() -> T>,
}

impl<T> From<Response> for EmbeddingsResponse<T> {
    fn from(response: Response) -> Self {
        Self { response, described: PhantomData }
    }
}

impl<T: Send> IntoResponse for EmbeddingsResponse<T> {
    fn into_response(self) -> Response {
        self.response
    }
}

impl<T: Type> ApiResponse for EmbeddingsResponse<T> {
    fn meta() -> registry::MetaResponses {
        answered(vec![MetaMediaType { content_type: Json::<T>::CONTENT_TYPE, schema: T::schema_ref() }])
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// An answer that is what it is, and what the document says of its kind.
macro_rules! answer_of_kind {
    ($(#[$doc:meta])* $name:ident, $($content_type:literal: $schema:expr),+) => {
        $(#[$doc])*
        pub(super) struct $name(Response);

        impl From<Response> for $name {
            fn from(response: Response) -> Self {
                Self(response)
            }
        }

        impl IntoResponse for $name {
            fn into_response(self) -> Response {
                self.0
            }
        }

        impl ApiResponse for $name {
            fn meta() -> registry::MetaResponses {
                let of = |content_type, schema| MetaMediaType {
                    content_type,
                    schema: MetaSchemaRef::Inline(Box::new(schema)),
                };
                answered(vec![$(of($content_type, $schema)),+])
            }

            fn register(_: &mut Registry) {}
        }
    };
}

answer_of_kind!(
    /// An answer of any kind, as it came from a provider.
    RawAnswer,
    "application/json": MetaSchema::ANY,
    "application/octet-stream": MetaSchema::new_with_format("string", "binary")
);
answer_of_kind!(
    /// A text.
    TextAnswer,
    "text/plain": MetaSchema::new("string")
);

fn answered(content: Vec<MetaMediaType>) -> registry::MetaResponses {
    registry::MetaResponses {
        responses: vec![registry::MetaResponse {
            description: "The answer.",
            status: Some(200),
            status_range: None,
            content,
            headers: Vec::new(),
        }],
    }
}
