//! By what a conversation is known, so that its turns can stay where the beginning of its prompt is cached.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ChatRequest, RawObject};

/// Headers that name a conversation, the first one first.
const HEADERS: [&str; 5] =
    ["x-llm-session", "x-claude-code-session-id", "x-session-affinity", "x-session-id", "session-id"];
/// The source of what has no name.
const OPENING: &str = "first messages";

/// What is the same in all turns of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Where it was found. What stands there is never shown.
    pub source: &'static str,
    /// The same on all replicas.
    pub hash: u64,
}

/// Where in a body the members stand that name a conversation, and its first messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionPlaces {
    /// `prompt_cache_key`.
    pub cache_key: Option<Range<usize>>,
    /// `metadata`, which may name a user.
    pub metadata: Option<Range<usize>>,
    /// `user`.
    pub user: Option<Range<usize>>,
    /// The contents of the first message with instructions, and of the user's first.
    pub opening: [Option<Range<usize>>; 2],
}

impl SessionPlaces {
    /// Those of a body whose messages were not looked at.
    pub(super) fn of(body: &RawObject) -> Self {
        Self {
            cache_key: body.place("prompt_cache_key"),
            metadata: body.place("metadata"),
            user: body.place("user"),
            opening: [None, None],
        }
    }
}

impl Session {
    fn of(source: &'static str, parts: &[&[u8]]) -> Self {
        let mut hasher = DefaultHasher::new();
        parts.hash(&mut hasher);
        Self { source, hash: hasher.finish() }
    }

    /// The conversation that headers name.
    pub fn of_headers<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Option<Self> {
        let mut found: Option<(usize, &[u8])> = None;
        for (name, value) in headers {
            // Most headers are none of them, which their first letter tells.
            if !name.starts_with(['x', 's']) || value.is_empty() {
                continue;
            }
            let Some(rank) = HEADERS.iter().position(|known| *known == name) else { continue };
            if found.is_none_or(|(known, _)| rank < known) {
                found = Some((rank, value));
            }
        }
        let (rank, value) = found?;
        HEADERS.get(rank).map(|source| Self::of(source, &[value]))
    }
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow, default)]
    user_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

/// Whether this is the role of instructions, as JSON.
pub fn instructs(role: &str) -> bool {
    matches!(role, r#""system""# | r#""developer""#)
}

/// Whether this is the role of the user, as JSON.
pub fn is_user(role: &str) -> bool {
    role == r#""user""#
}

impl ChatRequest {
    /// The conversation that it is a turn of, as far as its body tells.
    pub fn session(&self) -> Option<Session> {
        let places = &self.places.session;
        let at = |place: &Option<Range<usize>>| self.body.text().get(place.clone()?);
        let named = |source, json: Option<&[u8]>| {
            // A text that says something.
            let json = json.filter(|json| json.starts_with(b"\"") && json.len() > 2)?;
            Some(Session::of(source, &[json]))
        };
        let metadata = at(&places.metadata).and_then(|json| serde_json::from_slice(json).ok());
        let user_id = metadata.and_then(|metadata: Metadata<'_>| metadata.user_id);
        named("prompt_cache_key", at(&places.cache_key))
            .or_else(|| named("metadata.user_id", user_id.map(|id| id.get().as_bytes())))
            .or_else(|| named("user", at(&places.user)))
            .or_else(|| match &places.opening {
                [None, None] => self.read_opening(),
                [system, user] => self.opened_by([at(system), at(user)]),
            })
    }

    fn read_opening(&self) -> Option<Session> {
        let messages: Vec<Message<'_>> = serde_json::from_slice(self.body.get("messages")?).ok()?;
        let first = |is: fn(&str) -> bool| {
            let mut messages = messages.iter();
            let message = messages.find(|message| message.role.map(RawValue::get).is_some_and(is))?;
            message.content.map(|content| content.get().as_bytes())
        };
        self.opened_by([first(instructs), first(is_user)])
    }

    fn opened_by(&self, [system, user]: [Option<&[u8]>; 2]) -> Option<Session> {
        system.or(user)?;
        let parts = [self.model.as_bytes(), system.unwrap_or_default(), user.unwrap_or_default()];
        Some(Session::of(OPENING, &parts))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::llm::{Options, Places, RequestKind};

    /// As the patient reader leaves it, which has looked for members alone.
    fn session(body: &str) -> Option<Session> {
        let body = RawObject::parse(body.to_owned().into()).unwrap();
        let request = ChatRequest {
            model: "m".to_owned(),
            kind: RequestKind::Chat,
            stream: false,
            include_usage: false,
            max_output_tokens: None,
            n: None,
            options: Options::default(),
            patience: None,
            answer_at_most: None,
            rival: None,
            places: Places::of(&body),
            body,
        };
        request.session()
    }

    #[test]
    fn the_first_of_all_sources_counts() {
        for (more, source) in [
            ("", OPENING),
            (r#""user":"u1","#, "user"),
            (r#""user":"u1","metadata":{"user_id":"id"},"#, "metadata.user_id"),
            (r#""user":"u1","metadata":{"user_id":""},"#, "user"),
            (r#""user":null,"metadata":{"user_id":7},"#, OPENING),
            (r#""metadata":[],"user":"u1","#, "user"),
            (r#""metadata":{"user_id":"id"},"prompt_cache_key":"k","#, "prompt_cache_key"),
            (r#""prompt_cache_key":"","user":"","#, OPENING),
        ] {
            let messages = r#"[{"role":"system","content":"s"},{"role":"user","content":"u"}]"#;
            let found = session(&format!(r#"{{{more}"messages":{messages}}}"#)).unwrap();
            assert_eq!(found.source, source, "{more}");
        }
        let headers = [("accept", "a"), ("session-id", "1"), ("x-session-id", "2"), ("x-llm-session", "")];
        let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        assert_eq!(Session::of_headers(headers.clone()).unwrap().source, "x-session-id");
        assert_eq!(Session::of_headers(headers.take(1)), None);
    }

    #[test]
    fn turns_of_a_conversation_are_known_by_how_it_began() {
        let said = |system: &str, user: &str, more: &[&str]| {
            let mut messages = vec![json!({"role": "developer", "content": system})];
            messages.push(json!({"role": "user", "content": [{"type": "text", "text": user}]}));
            messages.extend(more.iter().map(|text| json!({"role": "user", "content": text})));
            session(&json!({"messages": messages}).to_string()).unwrap()
        };
        let first = said("s", "u", &[]);
        assert_eq!(first, said("s", "u", &["more", "and more"]));
        assert!(first != said("s", "v", &[]) && first != said("t", "u", &[]) && first != said("su", "", &[]));
        assert_eq!(session(&json!({"messages": [{"role": "assistant", "content": "a"}]}).to_string()), None);
    }
}
