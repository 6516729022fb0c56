//! Picoschema: the short form of Dotprompt files.
//!
//! `name: string, what it is` · `name?: integer` · `names(array): string` · `who(object): {…}` ·
//! `tone(enum): [plain, warm]` · `(*): string` for further members.

use serde_json::{Map, Value};

use super::{Kind, Node, Property, Slip, no_kind};

/// An object whose members are the map's entries. Further members are not allowed unless `(*)` is there.
pub(super) fn object(map: &Map<String, Value>, path: &[&str]) -> Result<Node, Slip> {
    let mut node = Node { kinds: vec![Kind::Object], closed: true, ..Node::default() };
    for (key, value) in map {
        if key == "(*)" {
            node.closed = false;
            continue;
        }
        node.properties.push(property(key, value, path)?);
    }
    Ok(node)
}

fn property(key: &str, value: &Value, path: &[&str]) -> Result<Property, Slip> {
    let path = &[path, &[key]].concat();
    let slip = |problem: String, cure: &str| Slip::at(path, problem, cure);
    let (head, form) = match key.split_once('(') {
        Some((head, rest)) => {
            let inside = rest.strip_suffix(')');
            let inside =
                inside.ok_or_else(|| slip(format!("`(` is not closed in `{key}`"), "write name(array)"))?;
            (head, Some(inside))
        }
        None => (key, None),
    };
    let (name, required) = match head.trim().strip_suffix('?') {
        Some(name) => (name, false),
        None => (head.trim(), true),
    };
    let (form, description) = match form.map(|form| form.split_once(',').unwrap_or((form, ""))) {
        Some((form, description)) => (Some(form.trim()), Some(description.trim().to_owned())),
        None => (None, None),
    };
    let mut node = match form {
        None => any(value, path)?,
        Some("array") => {
            Node { kinds: vec![Kind::Array], items: Some(any(value, path)?.into()), ..Node::default() }
        }
        Some("object") => match value {
            Value::Object(map) => object(map, path)?,
            _ => {
                return Err(slip(
                    format!("`{name}` is no object"),
                    "write a line `name: string` for each member",
                ));
            }
        },
        Some("enum") => match value {
            Value::Array(values) => Node { allowed: Some(values.clone()), ..Node::default() },
            _ => return Err(slip(format!("`{name}` is no list"), "write [one, two]")),
        },
        Some(other) => {
            return Err(slip(format!("`({other})` is unknown"), "known are (array), (object) and (enum)"));
        }
    };
    if let Some(description) = description.filter(|text| !text.is_empty()) {
        node.description = Some(description);
    }
    Ok(Property { name: name.to_owned(), required, node })
}

fn any(value: &Value, path: &[&str]) -> Result<Node, Slip> {
    match value {
        Value::Object(map) => object(map, path),
        Value::String(text) => {
            let (kind, description) = text.split_once(',').unwrap_or((text, ""));
            let kinds = match kind.trim() {
                "any" => Vec::new(),
                name => vec![Kind::named(name).ok_or_else(|| no_kind(path, &name.into()))?],
            };
            let description = Some(description.trim().to_owned()).filter(|text| !text.is_empty());
            Ok(Node { kinds, description, ..Node::default() })
        }
        _ => Err(no_kind(path, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Schema;
    use serde_json::json;

    #[test]
    fn the_short_form_means_the_same_as_the_long_one() {
        let short = json!({
            "text": "string, what to say",
            "count?": "integer",
            "names(array)": "string",
            "tone?(enum, how it sounds)": ["plain", "warm"],
            "who(object)": {"age": "any", "(*)": "any"},
        });
        let long = json!({
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "count": {"type": "integer"},
                "names": {"type": "array", "items": {"type": "string"}},
                "tone": {"enum": ["plain", "warm"]},
                "who": {"type": "object", "properties": {"age": {}}, "required": ["age"]},
            },
            "required": ["text", "names", "who"],
            "additionalProperties": false,
        });

        let short = Schema::parse(&short).unwrap();

        assert_eq!(short, Schema::parse(&long).unwrap());
        assert_eq!(short.to_json_schema()["properties"]["tone"]["description"], "how it sounds");
    }

    #[test]
    fn slips_are_faults() {
        for (json, hint) in [
            (json!({"a": "strin"}), "strin"),
            (json!({"a(list)": "string"}), "array"),
            (json!({"a(array": "string"}), "closed"),
            (json!({"a(enum)": "string"}), "list"),
            (json!({"a": 3}), "type"),
        ] {
            let slip = Schema::parse(&json).unwrap_err();
            let told = format!("{}: {}; {}", slip.path.join("."), slip.problem, slip.cure);
            assert!(told.contains(hint), "{json}: {told}");
        }
    }
}
