//! What an engine may be asked by a raw request, and what such a request needs of it.
//!
//! A list of what may be asked, not of what may not: llama-server also saves, restores and erases slots, swaps adapters
//! and changes its settings by requests, and a newer one may do more. A server decodes a path before it reads it, so the
//! path is compared decoded, and the engine gets it as it stands in the list.

use http::Method;
use serde_json::{Map, Value};

use crate::engine::{AnswerLength, Need};
use crate::lint::percent_decoded;
use crate::providers::RawRequest;
use crate::providers::error::{ErrorKind, Rejection};

/// Does it write an answer?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Generates,
    Other,
}

/// Methods and paths, as llama-server knows them.
const MAY_BE_ASKED: &[(Method, Work, &[&str])] = &[
    (
        Method::GET,
        Work::Other,
        &["/health", "/v1/health", "/props", "/slots", "/models", "/v1/models", "/metrics", "/api/tags"],
    ),
    (
        Method::POST,
        Work::Generates,
        &[
            "/chat/completions",
            "/v1/chat/completions",
            "/api/chat",
            "/completion",
            "/completions",
            "/v1/completions",
            "/infill",
            "/messages",
            "/v1/messages",
            "/responses",
            "/v1/responses",
        ],
    ),
    (
        Method::POST,
        Work::Other,
        &[
            "/embedding",
            "/embeddings",
            "/v1/embeddings",
            "/rerank",
            "/reranking",
            "/v1/rerank",
            "/v1/reranking",
            "/tokenize",
            "/detokenize",
            "/apply-template",
            "/chat/completions/input_tokens",
            "/v1/chat/completions/input_tokens",
            "/responses/input_tokens",
            "/v1/responses/input_tokens",
            "/messages/count_tokens",
            "/v1/messages/count_tokens",
            "/audio/transcriptions",
            "/v1/audio/transcriptions",
        ],
    ),
];

/// A raw request that may be made of an engine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    path: &'static str,
    work: Work,
}

impl Allowed {
    /// The entry for a request.
    ///
    /// # Errors
    /// It is not in the list.
    pub(super) fn of(request: &RawRequest) -> Result<Self, ErrorKind> {
        let path = percent_decoded(request.path.as_bytes()).unwrap_or_default();
        let rows = MAY_BE_ASKED.iter().filter(|(method, ..)| *method == request.method);
        let mut entries =
            rows.flat_map(|(_, work, paths)| paths.iter().map(|path| Self { path, work: *work }));
        entries.find(|entry| entry.path.as_bytes() == path).ok_or_else(|| {
            ErrorKind::Rejected(Box::new(Rejection {
                status: 403,
                message: "an engine that is run here cannot be asked for that; raw requests may generate, embed, rerank, tokenize, and read its state".to_owned(),
                code: Some("path_not_allowed".to_owned()),
                param: Some("path".to_owned()),
            }))
        })
    }

    /// The same request, with its path as it stands in the list.
    pub(super) fn applied(self, mut request: RawRequest) -> RawRequest {
        if request.path != self.path {
            self.path.clone_into(&mut request.path);
        }
        request
    }

    /// What the request needs. Its content is not known; if it generates something, its text has at most as many
    /// tokens as bytes, and without a limit for its answer it is better alone in a context that is shared.
    pub(super) fn need(self, request: &RawRequest) -> Need {
        if self.work != Work::Generates {
            return Need::NOTHING;
        }
        let body = request.body.as_deref().unwrap_or_default();
        let bytes = body.len() as u64;
        let members: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        let limits = ["max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"];
        let limit = limits.iter().find_map(|name| members.get(*name)?.as_u64());
        Need {
            prompt_tokens: bytes / 4,
            prompt_at_most: bytes,
            answer: limit.map_or(AnswerLength::Open(0), AnswerLength::Asked),
            is_alone: limit.is_none(),
            ..Need::NOTHING
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, path: &str) -> RawRequest {
        RawRequest {
            method: method.parse().unwrap(),
            path: path.to_owned(),
            query: None,
            headers: http::HeaderMap::new(),
            body: None,
            model: None,
        }
    }

    #[test]
    fn what_is_listed_passes_in_whatever_spelling_as_it_is_listed() {
        for (method, path, sent) in [
            ("GET", "/props", "/props"),
            ("GET", "/%70rops", "/props"),
            ("POST", "/v1/chat/completions", "/v1/chat/completions"),
            ("POST", "/%76%31/chat/completion%73", "/v1/chat/completions"),
            ("POST", "/v1/%72erank", "/v1/rerank"),
        ] {
            let request = request(method, path);
            assert_eq!(Allowed::of(&request).unwrap().applied(request).path, sent, "{method} {path}");
        }
    }

    #[test]
    fn all_else_is_refused_in_whatever_spelling() {
        for (method, path) in [
            ("POST", "/slots/0"),
            ("POST", "/%73lots/0"),
            ("POST", "/%2573lots/0"),
            ("POST", "//slots/0"),
            ("POST", "/slots/0/"),
            ("POST", "/SLOTS/0"),
            ("POST", "/slots;x/0"),
            ("POST", "/completion/../slots/0"),
            ("POST", "/lora-adapters"),
            ("GET", "/lora-adapters"),
            ("POST", "/lora%2Dadapters"),
            ("POST", "/props"),
            ("POST", "/%50rops"),
            ("POST", "/models/load"),
            ("DELETE", "/models"),
            ("PUT", "/completion"),
            ("GET", "/completion"),
            ("HEAD", "/health"),
            ("GET", "/"),
            ("GET", "/health/"),
            ("GET", "/health%00"),
            ("GET", "/%zz"),
            ("POST", ""),
        ] {
            let refused = Allowed::of(&request(method, path)).map(|allowed| allowed.path);
            assert!(
                matches!(refused, Err(ErrorKind::Rejected(rejection)) if rejection.status == 403),
                "{method} {path}"
            );
        }
    }

    #[test]
    fn what_generates_needs_room() {
        let need = |path: &str, body: &str| {
            let request = RawRequest { body: Some(body.to_owned().into()), ..request("POST", path) };
            Allowed::of(&request).unwrap().need(&request)
        };
        assert_eq!(need("/tokenize", r#"{"content":"x"}"#), Need::NOTHING);
        let open = need("/v1/messages", r#"{"prompt":"xxxx"}"#);
        assert!((open.prompt_at_most, open.is_alone) == (17, true));
        assert!(!need("/infill", r#"{"n_predict":3}"#).is_alone);
        assert_eq!(need("/v1/messages/count_tokens", "{}"), Need::NOTHING);
    }
}
