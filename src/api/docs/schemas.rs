//! Puts schemas right where poem-openapi says something that is not so.

use serde_json::{Map, Value, json};

/// Puts all components of a document right.
pub(super) fn mend(schemas: &mut Map<String, Value>) {
    for schema in schemas.values_mut().filter_map(Value::as_object_mut) {
        mend_union(schema);
        mend_properties(schema);
        if let Some(example) = schema.get_mut("example").and_then(Value::as_object_mut) {
            drop_nulls(example);
        }
    }
}

/// A union has the types of its alternatives. poem-openapi calls it an object.
fn mend_union(schema: &mut Map<String, Value>) {
    if schema.contains_key("anyOf") {
        schema.remove("type");
    }
}

fn mend_properties(schema: &mut Map<String, Value>) {
    let required: Vec<String> = names(schema.get("required"));
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (name, property) in properties.into_iter().flatten() {
        let Some(property) = property.as_object_mut() else { continue };
        mend_reference(property);
        // What may be left out may be null, unless something else stands for it then.
        if !required.contains(name) && !property.contains_key("default") {
            allow_null(property);
        }
    }
}

fn names(list: Option<&Value>) -> Vec<String> {
    let names = list.and_then(Value::as_array).into_iter().flatten();
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// A reference stands alone. poem-openapi repeats the description beside it, which generators take for a second type.
fn mend_reference(property: &mut Map<String, Value>) {
    if let Some(all) = property.get_mut("allOf").and_then(Value::as_array_mut) {
        all.retain(|one| one.get("$ref").is_some());
    }
}

fn allow_null(property: &mut Map<String, Value>) {
    if property.contains_key("type") {
        property.insert("nullable".into(), true.into());
        return;
    }
    if let Some(Value::Array(mut alternatives)) = property.remove("allOf") {
        // OpenAPI 3.0 has no type for null alone.
        alternatives.push(json!({"type": "object", "nullable": true, "enum": [null]}));
        property.insert("anyOf".into(), alternatives.into());
    }
}

/// An example is short: what is not given is left out.
fn drop_nulls(object: &mut Map<String, Value>) {
    object.retain(|_, value| !value.is_null());
    for value in object.values_mut() {
        match value {
            Value::Object(object) => drop_nulls(object),
            Value::Array(list) => list.iter_mut().filter_map(Value::as_object_mut).for_each(drop_nulls),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mended(schema: Value) -> Value {
        let mut schemas = Map::from_iter([("One".to_owned(), schema)]);
        mend(&mut schemas);
        schemas.remove("One").unwrap()
    }

    #[test]
    fn a_union_is_no_object() {
        let union = mended(json!({"type": "object", "anyOf": [{"type": "string"}]}));
        assert_eq!(union, json!({"anyOf": [{"type": "string"}]}));
    }

    #[test]
    fn what_may_be_left_out_may_be_null() {
        let schema = mended(json!({"type": "object", "required": ["a"], "properties": {
            "a": {"type": "string"}, "b": {"type": "string"}, "c": {"type": "string", "default": "x"}, "d": {}}}));
        assert_eq!(
            schema["properties"],
            json!({"a": {"type": "string"}, "b": {"type": "string", "nullable": true},
                "c": {"type": "string", "default": "x"}, "d": {}})
        );
    }

    #[test]
    fn a_reference_stands_alone_or_beside_null() {
        let reference = json!({"description": "x", "allOf": [{"$ref": "#/a"}, {"description": "x"}]});
        let schema =
            mended(json!({"required": ["a"], "properties": {"a": reference.clone(), "b": reference}}));
        assert_eq!(schema["properties"]["a"], json!({"description": "x", "allOf": [{"$ref": "#/a"}]}));
        let nothing = json!({"type": "object", "nullable": true, "enum": [null]});
        assert_eq!(
            schema["properties"]["b"],
            json!({"description": "x", "anyOf": [{"$ref": "#/a"}, nothing]})
        );
    }

    #[test]
    fn examples_hold_no_nulls() {
        let schema = mended(json!({"example": {"a": null, "b": [{"c": null, "d": 1}, 2], "e": {"f": null}}}));
        assert_eq!(schema["example"], json!({"b": [{"d": 1}, 2], "e": {}}));
    }
}
