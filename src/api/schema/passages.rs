//! Passages of text: a list, or lists by the names of the documents from which they come.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Passages, each list in its order, with the name of its document if there is one.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::api) enum Passages {
    /// Without names.
    List(Vec<String>),
    /// By documents, in the order of the request.
    Documents(Vec<(String, Vec<String>)>),
}

/// Written by hand, because a derived choice would not say which passage is no text.
impl<'de> Deserialize<'de> for Passages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Passages;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of texts, or an object with a list of texts for each document")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Passages, A::Error> {
                let mut list = Vec::new();
                while let Some(text) = items.next_element()? {
                    list.push(text);
                }
                Ok(Passages::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Passages, A::Error> {
                let mut documents = Vec::new();
                while let Some(document) = members.next_entry()? {
                    documents.push(document);
                }
                Ok(Passages::Documents(documents))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl Type for Passages {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "Passages".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        let any_of = vec![Vec::<String>::schema_ref(), BTreeMap::<String, Vec<String>>::schema_ref()];
        MetaSchemaRef::Inline(Box::new(MetaSchema { any_of, ..MetaSchema::ANY }))
    }

    fn register(registry: &mut Registry) {
        BTreeMap::<String, Vec<String>>::register(registry);
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ParseFromJSON for Passages {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        Self::deserialize(value.unwrap_or_default()).map_err(ParseError::custom)
    }
}

impl ToJSON for Passages {
    fn to_json(&self) -> Option<Value> {
        Some(match self {
            Self::List(list) => list.iter().map(String::as_str).collect(),
            Self::Documents(documents) => {
                let document = |(name, list): &(String, Vec<String>)| (name.clone(), list.clone().into());
                Value::Object(documents.iter().map(document).collect::<Map<String, Value>>())
            }
        })
    }
}
