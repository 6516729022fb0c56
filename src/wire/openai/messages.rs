//! The check of a conversation.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::wire::Invalid;

const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool", "function"];

/// A message, as far as it is checked.
#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow, default)]
    role: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Role<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<&'a RawValue>,
}

/// Checks the JSON text of `messages`.
pub(super) fn check(messages: &[u8]) -> Result<(), Invalid> {
    if let Ok(messages) = serde_json::from_slice::<Vec<Message<'_>>>(messages) {
        if messages.is_empty() {
            return Err(Invalid::value("messages", "`messages` must not be empty"));
        }
        return messages.iter().enumerate().try_for_each(|(index, message)| message.check(index));
    }
    // Slowly, to say where.
    let all: Vec<&RawValue> = serde_json::from_slice(messages)
        .map_err(|_| Invalid::value("messages", "`messages` must be a list of messages"))?;
    for (index, message) in all.iter().enumerate() {
        let place = format!("messages[{index}]");
        if !message.get().starts_with('{') {
            return Err(Invalid::value(&place, format!("`{place}` must be an object")));
        }
        serde_json::from_str::<Message<'_>>(message.get())
            .map_err(|_| Invalid::value(&place, format!("`{place}` has a member twice")))?
            .check(index)?;
    }
    Ok(())
}

impl<'a> Message<'a> {
    /// The content, if it is a text: its JSON, quotes included.
    pub(super) fn text(&self) -> Option<&'a str> {
        self.content.map(RawValue::get).filter(|content| content.starts_with('"'))
    }

    /// Whose it is, and what it says, as JSON.
    pub(super) fn said(&self) -> Option<(&'a str, &'a str)> {
        Some((self.role?.get(), self.content?.get()))
    }

    /// Whether it lists calls of tools. Then it need not say anything.
    fn calls_tools(&self) -> bool {
        self.tool_calls.is_some_and(|calls| calls.get().starts_with('[') && !is_empty_list(calls.get()))
    }

    /// Checks the message at this position.
    pub(super) fn check(&self, index: usize) -> Result<(), Invalid> {
        let place = |member: &str| format!("messages[{index}].{member}");
        let role = self.role.ok_or_else(|| Invalid::missing(place("role")))?;
        let role = serde_json::from_str::<Role<'_>>(role.get())
            .map_err(|_| Invalid::value(place("role"), format!("`{}` must be a text", place("role"))))?;
        if !ROLES.contains(&role.0.as_ref()) {
            let message = format!("`{}` must be one of {}", place("role"), ROLES.join(", "));
            return Err(Invalid::value(place("role"), message));
        }
        if let Some(calls) = self.tool_calls
            && !calls.get().starts_with(['[', 'n'])
        {
            return Err(Invalid::value(
                place("tool_calls"),
                format!("`{}` must be a list", place("tool_calls")),
            ));
        }
        match self.content.map(RawValue::get).filter(|content| *content != "null") {
            Some(content) if content.starts_with('"') => Ok(()),
            Some(content) if content.starts_with('[') && is_empty_list(content) && self.calls_tools() => {
                Ok(())
            }
            Some(content) if content.starts_with('[') => check_parts(content, &place("content")),
            Some(_) => {
                let message = format!("`{}` must be a text or a list of parts", place("content"));
                Err(Invalid::value(place("content"), message))
            }
            // An assistant may have said nothing and called tools; a function may have nothing to say.
            None if matches!(role.0.as_ref(), "assistant" | "function") => Ok(()),
            None => Err(Invalid::missing(place("content"))),
        }
    }
}

fn is_empty_list(json: &str) -> bool {
    let inner = json.strip_prefix('[').and_then(|json| json.strip_suffix(']'));
    inner.is_some_and(|inner| inner.trim().is_empty())
}

fn check_parts(parts: &str, place: &str) -> Result<(), Invalid> {
    let parts: Vec<&RawValue> = serde_json::from_str(parts)
        .map_err(|_| Invalid::value(place, format!("`{place}` must be a list of parts")))?;
    if parts.is_empty() {
        return Err(Invalid::value(place, format!("`{place}` must not be empty")));
    }
    for (index, part) in parts.iter().enumerate() {
        let place = format!("{place}[{index}]");
        // A bare text in the list is what some clients send and most servers take.
        if part.get().starts_with('"') {
            continue;
        }
        let object = || Invalid::value(&place, format!("`{place}` must be an object with a `type`"));
        let part: Part<'_> = serde_json::from_str(part.get()).map_err(|_| object())?;
        let kind = part.kind.ok_or_else(|| Invalid::missing(format!("{place}.type")))?;
        if !kind.get().starts_with('"') {
            return Err(Invalid::value(format!("{place}.type"), format!("`{place}.type` must be a text")));
        }
    }
    Ok(())
}
