//! A JSON object with any members; flattened into another, its further members.

use std::borrow::Cow;

use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{
    ParseError, ParseFromJSON, ParseFromXML, ParseFromYAML, ParseResult, ToJSON, ToXML, ToYAML, Type,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An object with any members. Flattened into another type it stands for the further members there, and must be
/// the last field.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::api) struct AnyObject(pub(in crate::api) Map<String, Value>);

impl AnyObject {
    /// The members of a JSON object; none of anything else.
    pub(in crate::api) fn of(value: Value) -> Self {
        match value {
            Value::Object(map) => Self(map),
            _ => Self::default(),
        }
    }
}

impl Type for AnyObject {
    const IS_REQUIRED: bool = false;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "AnyObject".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            additional_properties: Some(Box::new(MetaSchemaRef::Inline(Box::new(MetaSchema::ANY)))),
            ..MetaSchema::new("object")
        }))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ParseFromJSON for AnyObject {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        match value {
            Some(Value::Object(map)) => Ok(Self(map)),
            None | Some(Value::Null) => Ok(Self::default()),
            Some(_) => Err(ParseError::custom("expected an object")),
        }
    }
}

impl ToJSON for AnyObject {
    fn to_json(&self) -> Option<Value> {
        Some(Value::Object(self.0.clone()))
    }
}

// poem-openapi asks every flattened type for these forms, too; no operation uses them.
impl ParseFromXML for AnyObject {
    fn parse_from_xml(value: Option<Value>) -> ParseResult<Self> {
        Self::parse_from_json(value)
    }
}

impl ToXML for AnyObject {
    fn to_xml(&self) -> Option<Value> {
        self.to_json()
    }
}

impl ParseFromYAML for AnyObject {
    fn parse_from_yaml(value: Option<Value>) -> ParseResult<Self> {
        Self::parse_from_json(value)
    }
}

impl ToYAML for AnyObject {
    fn to_yaml(&self) -> Option<Value> {
        self.to_json()
    }
}
