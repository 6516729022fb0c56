//! The variables of a prompt: a schema in JSON Schema or Picoschema, and the check of values against it.
//!
//! Of JSON Schema the keywords in [`KEYWORDS`] are understood. Another one is a fault when the library
//! loads, rather than a rule that is silently not kept.

mod pico;

use serde_json::{Map, Value, json};

use super::PromptError;
use crate::lint::did_you_mean;

/// What variables a prompt takes. Descriptions do not count when two are compared, so that
/// translations may translate them.
#[derive(Clone, Debug)]
pub struct Schema {
    root: Node,
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.root.same_rules(&other.root)
    }
}

/// The rules for one value.
#[derive(Clone, Debug, Default)]
struct Node {
    kinds: Vec<Kind>,
    description: Option<String>,
    properties: Vec<Property>,
    /// Whether members without a rule of their own are allowed.
    closed: bool,
    items: Option<Box<Node>>,
    allowed: Option<Vec<Value>>,
    /// Least and greatest value of a number.
    range: Bounds<f64>,
    /// Least and greatest length: characters of a text, items of a list.
    length: Bounds<u64>,
}

#[derive(Clone, Debug)]
struct Property {
    name: String,
    required: bool,
    node: Node,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Bounds<T> {
    least: Option<T>,
    greatest: Option<T>,
}

impl<T> Default for Bounds<T> {
    fn default() -> Self {
        Self { least: None, greatest: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

const KINDS: &[(&str, Kind)] = &[
    ("null", Kind::Null),
    ("boolean", Kind::Boolean),
    ("integer", Kind::Integer),
    ("number", Kind::Number),
    ("string", Kind::String),
    ("array", Kind::Array),
    ("object", Kind::Object),
];

/// The keywords of JSON Schema that are understood.
const KEYWORDS: &[&str] = &[
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "enum",
    "const",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minimum",
    "maximum",
    "description",
    "title",
    "default",
    "examples",
    "$schema",
    "$comment",
];

/// A rule that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slip {
    /// The keys that lead to it.
    pub(super) path: Vec<String>,
    pub(super) problem: String,
    pub(super) cure: String,
}

impl Slip {
    fn at(path: &[&str], problem: impl Into<String>, cure: impl Into<String>) -> Self {
        let path = path.iter().map(|key| (*key).to_owned()).collect();
        Self { path, problem: problem.into(), cure: cure.into() }
    }
}

impl Schema {
    /// Reads a schema in either form.
    ///
    /// # Errors
    /// What cannot be understood, with its place.
    pub(super) fn parse(schema: &Value) -> Result<Self, Slip> {
        let root = match schema {
            Value::Object(map) if is_json_schema(map) => Node::from_json_schema(map, &[])?,
            Value::Object(map) => pico::object(map, &[])?,
            _ => {
                return Err(Slip::at(
                    &[],
                    "it is not an object",
                    "write a line `name: string` for each variable",
                ));
            }
        };
        if !root.kinds.is_empty() && root.kinds != [Kind::Object] {
            return Err(Slip::at(&["type"], "variables are always an object", "write type: object"));
        }
        Ok(Self { root })
    }

    /// Whether a variable of that name may be given.
    pub(super) fn allows(&self, name: &str) -> bool {
        !self.root.closed || self.root.properties.iter().any(|property| property.name == name)
    }

    /// The variables that have a rule.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.root.properties.iter().map(|property| property.name.as_str())
    }

    /// What is wrong with a variable's value, as the end of a sentence.
    pub(super) fn objection(&self, name: &str, value: &Value) -> Option<String> {
        let members = Map::from_iter([(name.to_owned(), value.clone())]);
        let property = self.root.properties.iter().find(|property| property.name == name)?;
        let alone = Node { properties: vec![property.clone()], ..Node::default() };
        alone
            .check_members(&members, "")
            .err()
            .map(|Violation { path, problem }| format!("`{path}` {problem}"))
    }

    /// The names of variables that may be left out.
    pub(super) fn optional(&self) -> impl Iterator<Item = &str> {
        let optional = self.root.properties.iter().filter(|property| !property.required);
        optional.map(|property| property.name.as_str())
    }

    /// Checks the variables of one call.
    ///
    /// # Errors
    /// The first that is missing, unknown, or not what it should be.
    pub(super) fn check(&self, prompt: &str, variables: &Map<String, Value>) -> Result<(), PromptError> {
        for property in self.root.properties.iter().filter(|property| property.required) {
            if !variables.contains_key(&property.name) {
                let (name, variable) = (prompt.to_owned(), property.name.clone());
                return Err(PromptError::MissingVariable { name, variable, unknown: Vec::new() });
            }
        }
        let violation = self.root.check_members(variables, "");
        violation
            .map_err(|Violation { path, problem }| PromptError::InvalidVariable { variable: path, problem })
    }

    /// The rules as JSON Schema.
    pub fn to_json_schema(&self) -> Value {
        self.root.to_json_schema()
    }
}

/// A value that breaks a rule.
struct Violation {
    path: String,
    problem: String,
}

impl Violation {
    fn new(path: &str, problem: impl Into<String>) -> Self {
        Self { path: path.to_owned(), problem: problem.into() }
    }
}

impl Node {
    fn from_json_schema(map: &Map<String, Value>, path: &[&str]) -> Result<Self, Slip> {
        if let Some(unknown) = map.keys().find(|key| !KEYWORDS.contains(&key.as_str())) {
            let cure = did_you_mean(unknown, KEYWORDS.iter().copied());
            return Err(Slip::at(
                &[path, &[unknown]].concat(),
                format!("the keyword `{unknown}` is not understood"),
                cure,
            ));
        }
        let at =
            |key: &'static str, problem: &str, cure: &str| Slip::at(&[path, &[key]].concat(), problem, cure);
        let allowed = match (map.get("enum"), map.get("const")) {
            (None, None) => None,
            (Some(Value::Array(values)), None) => Some(values.clone()),
            (None, Some(value)) => Some(vec![value.clone()]),
            (Some(_), None) => return Err(at("enum", "`enum` is no list", "write [one, two]")),
            _ => return Err(at("enum", "`enum` and `const` stand together", "take one of them out")),
        };
        let items = match map.get("items") {
            None => None,
            Some(Value::Object(items)) => {
                Some(Self::from_json_schema(items, &[path, &["items"]].concat())?.into())
            }
            Some(_) => return Err(at("items", "`items` is no object", "write items: {type: string}")),
        };
        Ok(Self {
            kinds: kinds(map.get("type"), path)?,
            description: map.get("description").and_then(Value::as_str).map(str::to_owned),
            properties: properties(map, path)?,
            closed: map.get("additionalProperties") == Some(&Value::Bool(false)),
            items,
            allowed,
            range: Bounds { least: number(map, "minimum", path)?, greatest: number(map, "maximum", path)? },
            length: Bounds {
                least: length(map, ["minLength", "minItems"], path)?,
                greatest: length(map, ["maxLength", "maxItems"], path)?,
            },
        })
    }

    fn same_rules(&self, other: &Self) -> bool {
        let members = |node: &Self| node.properties.len();
        members(self) == members(other)
            && self.properties.iter().all(|mine| {
                let theirs = other.properties.iter().find(|theirs| theirs.name == mine.name);
                theirs.is_some_and(|theirs| {
                    theirs.required == mine.required && mine.node.same_rules(&theirs.node)
                })
            })
            && match (&self.items, &other.items) {
                (None, None) => true,
                (Some(mine), Some(theirs)) => mine.same_rules(theirs),
                _ => false,
            }
            && (&self.kinds, self.closed, &self.allowed) == (&other.kinds, other.closed, &other.allowed)
            && (self.range, self.length) == (other.range, other.length)
    }

    fn check(&self, value: &Value, path: &str) -> Result<(), Violation> {
        if !self.kinds.is_empty() && !self.kinds.iter().any(|kind| kind.fits(value)) {
            let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.name()).collect();
            return Err(Violation::new(path, format!("must be of type {}", kinds.join(" or "))));
        }
        if let Some(allowed) = &self.allowed
            && !allowed.contains(value)
        {
            let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
            return Err(Violation::new(path, format!("must be one of {}", allowed.join(", "))));
        }
        match value {
            Value::Number(number) => self.range.check(number.as_f64().unwrap_or(f64::NAN), path, ["be", ""]),
            Value::String(text) => {
                self.length.check(text.chars().count() as u64, path, ["have", " characters"])
            }
            Value::Array(items) => {
                self.length.check(items.len() as u64, path, ["have", " items"])?;
                let Some(node) = &self.items else { return Ok(()) };
                items.iter().enumerate().try_for_each(|(at, item)| node.check(item, &format!("{path}[{at}]")))
            }
            Value::Object(members) => self.check_members(members, &format!("{path}.")),
            Value::Null | Value::Bool(_) => Ok(()),
        }
    }

    fn check_members(&self, members: &Map<String, Value>, prefix: &str) -> Result<(), Violation> {
        for property in self.properties.iter().filter(|property| property.required) {
            if !members.contains_key(&property.name) {
                return Err(Violation::new(&format!("{prefix}{}", property.name), "is missing"));
            }
        }
        for (name, value) in members {
            let path = format!("{prefix}{name}");
            match self.properties.iter().find(|property| property.name == *name) {
                // What may be left out may as well be null.
                Some(property) if !property.required && value.is_null() => {}
                Some(property) => property.node.check(value, &path)?,
                None if self.closed => {
                    let known = self.properties.iter().map(|property| property.name.as_str());
                    let cure = did_you_mean(name, known);
                    return Err(Violation::new(&path, format!("is not known to the prompt; {cure}")));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn to_json_schema(&self) -> Value {
        let mut schema = Map::new();
        match self.kinds.as_slice() {
            [] => {}
            [kind] => drop(schema.insert("type".into(), kind.name().into())),
            kinds => {
                let kinds = kinds.iter().map(|kind| Value::from(kind.name())).collect();
                schema.insert("type".into(), Value::Array(kinds));
            }
        }
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                schema.insert(key.to_owned(), value);
            }
        };
        put("description", self.description.clone().map(Value::from));
        put("enum", self.allowed.clone().map(Value::from));
        put("minimum", self.range.least.map(Value::from));
        put("maximum", self.range.greatest.map(Value::from));
        let (least, greatest) = match self.kinds.as_slice() {
            [Kind::Array] => ("minItems", "maxItems"),
            _ => ("minLength", "maxLength"),
        };
        put(least, self.length.least.map(Value::from));
        put(greatest, self.length.greatest.map(Value::from));
        put("items", self.items.as_ref().map(|items| items.to_json_schema()));
        if !self.properties.is_empty() || self.closed {
            let members = self.properties.iter().map(|p| (p.name.clone(), p.node.to_json_schema()));
            put("properties", Some(Value::Object(members.collect())));
            let required = self.properties.iter().filter(|property| property.required);
            put("required", Some(required.map(|property| json!(property.name)).collect()));
            put("additionalProperties", Some(json!(!self.closed)));
        }
        Value::Object(schema)
    }
}

impl<T: PartialOrd + std::fmt::Display + Copy> Bounds<T> {
    fn check(&self, value: T, path: &str, [verb, unit]: [&str; 2]) -> Result<(), Violation> {
        match self {
            Self { least: Some(least), .. } if value < *least => {
                Err(Violation::new(path, format!("must {verb} at least {least}{unit}")))
            }
            Self { greatest: Some(greatest), .. } if value > *greatest => {
                Err(Violation::new(path, format!("must {verb} at most {greatest}{unit}")))
            }
            _ => Ok(()),
        }
    }
}

impl Kind {
    fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    fn named(name: &str) -> Option<Self> {
        KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    fn fits(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Integer, Value::Number(number)) => {
                number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|n| n.fract() == 0.0)
            }
            (Self::Null, Value::Null)
            | (Self::Boolean, Value::Bool(_))
            | (Self::Number, Value::Number(_))
            | (Self::String, Value::String(_))
            | (Self::Array, Value::Array(_))
            | (Self::Object, Value::Object(_)) => true,
            _ => false,
        }
    }
}

/// Picoschema has names for keys and rules for values; only JSON Schema has these two like so.
fn is_json_schema(map: &Map<String, Value>) -> bool {
    map.contains_key("$schema")
        || map.get("properties").is_some_and(Value::is_object)
        || map.get("type").is_some_and(|kind| kind == "object")
}

fn kinds(value: Option<&Value>, path: &[&str]) -> Result<Vec<Kind>, Slip> {
    let names: Vec<&Value> = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(names)) => names.iter().collect(),
        Some(name) => vec![name],
    };
    let path = [path, &["type"]].concat();
    let kind = |name: &Value| name.as_str().and_then(Kind::named).ok_or_else(|| no_kind(&path, name));
    names.into_iter().map(kind).collect()
}

/// A word that names no type.
fn no_kind(path: &[&str], name: &Value) -> Slip {
    let name = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
    let known: Vec<&str> = KINDS.iter().map(|(known, _)| *known).collect();
    let all = format!("types are {}", known.join(", "));
    let cure = match crate::lint::nearest(&name, known) {
        Some(near) => format!("did you mean `{near}`? {all}"),
        None => all,
    };
    Slip::at(path, format!("`{name}` is no type"), cure)
}

fn properties(map: &Map<String, Value>, path: &[&str]) -> Result<Vec<Property>, Slip> {
    let at = |keys: &[&str], problem: String, cure: &str| Slip::at(&[path, keys].concat(), problem, cure);
    let required: Vec<&str> = match map.get("required") {
        None => Vec::new(),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        Some(_) => {
            return Err(at(&["required"], "`required` is no list".to_owned(), "write a list of names"));
        }
    };
    let members = match map.get("properties") {
        None => return Ok(Vec::new()),
        Some(Value::Object(members)) => members,
        Some(_) => {
            return Err(at(
                &["properties"],
                "`properties` is no object".to_owned(),
                "write name: {type: string}",
            ));
        }
    };
    let property = |(name, rules): (&String, &Value)| {
        let keys = ["properties", name.as_str()];
        let no_object = || at(&keys, format!("the rule of `{name}` is no object"), "write {type: string}");
        let node = Node::from_json_schema(rules.as_object().ok_or_else(no_object)?, &[path, &keys].concat())?;
        Ok(Property { name: name.clone(), required: required.contains(&name.as_str()), node })
    };
    members.iter().map(property).collect()
}

fn number(map: &Map<String, Value>, key: &str, path: &[&str]) -> Result<Option<f64>, Slip> {
    let fault = || Slip::at(&[path, &[key]].concat(), format!("`{key}` is no number"), "give a number");
    map.get(key).map(|value| value.as_f64().ok_or_else(fault)).transpose()
}

fn length(map: &Map<String, Value>, keys: [&str; 2], path: &[&str]) -> Result<Option<u64>, Slip> {
    let Some((key, value)) = keys.iter().find_map(|key| Some((*key, map.get(*key)?))) else {
        return Ok(None);
    };
    let fault = || {
        Slip::at(
            &[path, &[key]].concat(),
            format!("`{key}` is no whole number"),
            "give a whole number from 0",
        )
    };
    value.as_u64().map(Some).ok_or_else(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(json: &Value) -> Schema {
        Schema::parse(json).unwrap()
    }

    fn check(schema: &Schema, variables: &Value) -> Result<(), String> {
        schema.check("p", variables.as_object().unwrap()).map_err(|error| error.to_string())
    }

    fn rules() -> Schema {
        schema(&json!({
            "type": "object",
            "properties": {
                "text": {"type": "string", "minLength": 2, "maxLength": 4},
                "count": {"type": "integer", "minimum": 1, "maximum": 9},
                "tone": {"enum": ["plain", "warm"]},
                "names": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
                "who": {"type": "object", "properties": {"age": {"type": ["number", "null"]}}, "required": ["age"]},
            },
            "required": ["text"],
            "additionalProperties": false,
        }))
    }

    #[test]
    fn values_are_checked_against_json_schema() {
        let good = json!({"text": "żółw", "count": 3, "tone": "warm", "names": ["a"], "who": {"age": null}});
        assert_eq!(check(&rules(), &good), Ok(()));
        assert_eq!(check(&rules(), &json!({"text": "ab", "count": null})), Ok(()), "optional may be null");

        for (variables, expected) in [
            (json!({}), "needs the variable `text`"),
            (json!({"text": 3}), "`text` must be of type string"),
            (json!({"text": "a"}), "`text` must have at least 2 characters"),
            (json!({"text": "abcde"}), "`text` must have at most 4 characters"),
            (json!({"text": "ab", "count": 1.5}), "`count` must be of type integer"),
            (json!({"text": "ab", "count": 10}), "`count` must be at most 9"),
            (json!({"text": "ab", "tone": "cold"}), "`tone` must be one of \"plain\", \"warm\""),
            (json!({"text": "ab", "names": ["a", 1]}), "`names[1]` must be of type string"),
            (json!({"text": "ab", "names": ["a", "b", "c"]}), "`names` must have at most 2 items"),
            (json!({"text": "ab", "who": {}}), "`who.age` is missing"),
            (json!({"text": "ab", "who": {"age": "x"}}), "`who.age` must be of type number or null"),
            (json!({"text": "ab", "other": 1}), "`other` is not known"),
            (json!({"text": "ab", "cuont": 1}), "`cuont` is not known to the prompt; did you mean `count`?"),
        ] {
            let error = check(&rules(), &variables).unwrap_err();
            assert!(error.contains(expected), "{variables}: {error}");
        }
    }

    #[test]
    fn rules_that_are_not_understood_are_faults() {
        for (json, hint) in [
            (json!({"type": "object", "properties": {"a": {"pattern": "x"}}}), "properties.a.pattern"),
            (json!({"type": "object", "properties": {"a": {"type": "text"}}}), "text"),
            (json!({"type": "object", "required": "a", "properties": {}}), "required"),
            (json!({"type": "object", "properties": {"a": {"minLength": -1}}}), "minLength"),
            (json!({"$schema": "x", "type": "string"}), "object"),
            (json!("string"), "object"),
        ] {
            let slip = Schema::parse(&json).unwrap_err();
            let told = format!("{}: {}; {}", slip.path.join("."), slip.problem, slip.cure);
            assert!(told.contains(hint), "{json}: {told}");
        }
    }

    #[test]
    fn descriptions_may_differ_and_rules_may_not() {
        let with = |description: &str, kind: &str| {
            schema(
                &json!({"type": "object", "properties": {"a": {"type": kind, "description": description}}}),
            )
        };
        assert_eq!(with("one", "string"), with("jeden", "string"));
        assert_ne!(with("one", "string"), with("one", "number"));
        assert_ne!(rules(), with("one", "string"));
    }

    #[test]
    fn the_rules_can_be_shown_again() {
        let shown = rules().to_json_schema();
        assert_eq!(Schema::parse(&shown).unwrap(), rules());
        assert_eq!(shown["required"], json!(["text"]));
    }
}
