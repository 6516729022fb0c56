//! A JSON object as the bytes it came in, with an index of its members.
//!
//! A request passes through the gateway with one or two members changed. Parsing it into a tree and
//! writing it anew would lose what a tree cannot hold (the order of members, numbers beyond `f64`,
//! spacing) and cost more than all the rest of the way. So members are found once, and an edit copies
//! everything else as it is. Nested values are never looked into here.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Deserializer, Map, Value};

use super::{TOO_DEEP, is_too_deep, json_fault, shortened};

/// A JSON object kept as its own text.
#[derive(Clone, Debug)]
pub struct RawObject {
    text: Bytes,
    /// Found when they are first asked for: many requests pass without.
    members: OnceLock<Vec<Member>>,
}

#[derive(Clone, Debug)]
struct Member {
    name: Name,
    /// From the quote that opens the name to the end of the value.
    whole: Range<usize>,
    value: Range<usize>,
}

/// Names without escapes, nearly all, stay where they are in the text.
#[derive(Clone, Debug)]
enum Name {
    InText(Range<usize>),
    Decoded(Box<str>),
}

/// What an edit does to one member.
#[derive(Clone, Debug)]
pub enum Change<'a> {
    /// Gives the member this JSON text as its value, adding it where it is missing.
    Set(&'a str, Cow<'a, str>),
    /// Leaves the member out.
    Remove(&'a str),
}

/// Why a text is not a JSON object that can be worked with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidObject {
    /// Not JSON at all; the text says where and why, without quoting the input.
    #[error("{0}")]
    Syntax(String),
    /// JSON, but something else than an object.
    #[error("expected a JSON object")]
    NotAnObject,
    /// The same member twice: readers disagree which of them counts, so neither does.
    #[error("the member `{0}` stands twice")]
    Duplicate(String),
}

impl RawObject {
    /// Finds the members of `text`.
    ///
    /// # Errors
    /// The text is not one JSON object, has a member twice, or is nested too deeply.
    pub fn parse(text: Bytes) -> Result<Self, InvalidObject> {
        if is_too_deep(&text) {
            return Err(InvalidObject::Syntax(TOO_DEEP.to_owned()));
        }
        match Scanner::new(&text).members() {
            Ok(members) => {
                let object = Self { text, members: members.into() };
                object.refuse_duplicates()?;
                Ok(object)
            }
            Err(Broken) => Err(explain(&text)),
        }
    }

    /// Takes a text that is known to be a JSON object, in which every member that somebody asks for stands once. Its
    /// members are found when they are first asked for.
    pub fn known(text: Bytes) -> Self {
        Self { text, members: OnceLock::new() }
    }

    fn members_found(&self) -> &[Member] {
        self.members.get_or_init(|| Scanner::new(&self.text).members().unwrap_or_default())
    }

    /// The object made of `map`.
    pub fn from_map(map: &Map<String, Value>) -> Self {
        // A map of values is always an object with members of different names.
        let text = Bytes::from(Value::Object(map.clone()).to_string());
        Self::parse(text).unwrap_or_else(|_| Self::empty())
    }

    /// The object without members.
    pub fn empty() -> Self {
        Self::known(Bytes::from_static(b"{}"))
    }

    /// The JSON text of a member's value; `None` where it is missing. `null` is a value.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let member = self.members_found().iter().find(|m| self.name(m) == name)?;
        self.text.get(member.value.clone())
    }

    /// Where the value of a member stands in the text.
    pub fn place(&self, name: &str) -> Option<Range<usize>> {
        self.members_found().iter().find(|m| self.name(m) == name).map(|member| member.value.clone())
    }

    /// The names of all members, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members_found().iter().map(|member| self.name(member))
    }

    /// The members in their order: name and JSON text of the value.
    pub fn members(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.members_found().iter().map(|member| {
            let value = self.text.get(member.value.clone()).unwrap_or_default();
            (self.name(member), value)
        })
    }

    /// The whole text.
    pub fn text(&self) -> &Bytes {
        &self.text
    }

    /// The text with `changes` made. What no change names stays byte for byte as it is; without
    /// changes the text itself is returned, not a copy.
    pub fn edit(&self, changes: &[Change<'_>]) -> Bytes {
        if changes.is_empty() {
            return self.text.clone();
        }
        if changes.iter().any(|c| matches!(c, Change::Remove(name) if self.get(name).is_some())) {
            self.rebuild(changes)
        } else {
            self.splice(changes)
        }
    }

    /// As [`RawObject::edit`], read again.
    ///
    /// # Errors
    /// The text was taken as known, and is not what was said of it: a member stands twice, or one cannot be read.
    pub fn edited(&self, changes: &[Change<'_>]) -> Result<Self, InvalidObject> {
        // First, because an edit of a text whose members cannot be found would come to nothing.
        let checked = Self::parse(self.text.clone())?;
        Self::parse(checked.edit(changes))
    }

    fn name<'a>(&'a self, member: &'a Member) -> &'a str {
        match &member.name {
            Name::InText(range) => self
                .text
                .get(range.clone())
                .and_then(|name| std::str::from_utf8(name).ok())
                .unwrap_or_default(),
            Name::Decoded(name) => name,
        }
    }

    fn refuse_duplicates(&self) -> Result<(), InvalidObject> {
        // Quadratic, but over the ten or so members of a request that is faster than hashing them.
        // Objects with more are sorted.
        let twice = if self.members_found().len() <= 24 {
            let mut names = self.members_found().iter().enumerate();
            names.find_map(|(at, member)| {
                let name = self.name(member);
                let before = self.members_found().iter().take(at);
                before.map(|m| self.name(m)).find(|other| *other == name)
            })
        } else {
            let mut names: Vec<&str> = self.names().collect();
            names.sort_unstable();
            names.windows(2).find_map(|pair| match pair {
                [a, b] if a == b => Some(*a),
                _ => None,
            })
        };
        twice.map_or(Ok(()), |name| Err(InvalidObject::Duplicate(shortened(name).into_owned())))
    }

    /// Replaces values in place and appends what is new.
    fn splice(&self, changes: &[Change<'_>]) -> Bytes {
        let mut out = self.output_buffer(changes);
        let mut copied = 0;
        for member in self.members_found() {
            if let Some(value) = self.new_value(member, changes) {
                out.extend_from_slice(self.slice(copied..member.value.start));
                out.extend_from_slice(value.as_bytes());
                copied = member.value.end;
            }
        }
        let end = self.text.iter().rposition(|b| *b == b'}').unwrap_or(self.text.len());
        // Behind the last value there may be white space; it goes before the new members.
        out.extend_from_slice(self.slice(copied..end));
        self.append_new(&mut out, changes, !self.members_found().is_empty());
        out.extend_from_slice(self.slice(end..self.text.len()));
        out.into()
    }

    /// Writes the members anew, each as it stands, without those removed.
    fn rebuild(&self, changes: &[Change<'_>]) -> Bytes {
        let mut out = self.output_buffer(changes);
        out.push(b'{');
        let mut has_members = false;
        for member in self.members_found() {
            let name = self.name(member);
            if changes.iter().any(|c| matches!(c, Change::Remove(removed) if *removed == name)) {
                continue;
            }
            if has_members {
                out.push(b',');
            }
            has_members = true;
            match self.new_value(member, changes) {
                Some(value) => {
                    out.extend_from_slice(self.slice(member.whole.start..member.value.start));
                    out.extend_from_slice(value.as_bytes());
                }
                None => out.extend_from_slice(self.slice(member.whole.clone())),
            }
        }
        self.append_new(&mut out, changes, has_members);
        out.push(b'}');
        out.into()
    }

    fn append_new(&self, out: &mut Vec<u8>, changes: &[Change<'_>], mut has_members: bool) {
        for change in changes {
            let Change::Set(name, value) = change else {
                continue;
            };
            if self.get(name).is_some() {
                continue;
            }
            if has_members {
                out.push(b',');
            }
            has_members = true;
            out.extend_from_slice(Value::from(*name).to_string().as_bytes());
            out.push(b':');
            out.extend_from_slice(value.as_bytes());
        }
    }

    fn new_value<'c>(&self, member: &Member, changes: &'c [Change<'_>]) -> Option<&'c str> {
        let name = self.name(member);
        changes.iter().find_map(|change| match change {
            Change::Set(set, value) if *set == name => Some(value.as_ref()),
            _ => None,
        })
    }

    fn slice(&self, range: Range<usize>) -> &[u8] {
        self.text.get(range).unwrap_or_default()
    }

    fn output_buffer(&self, changes: &[Change<'_>]) -> Vec<u8> {
        let added: usize = changes
            .iter()
            .map(|change| match change {
                Change::Set(name, value) => name.len() + value.len() + 8,
                Change::Remove(_) => 0,
            })
            .sum();
        Vec::with_capacity(self.text.len() + added)
    }
}

/// The text is not an object; [`explain`] says why, on the slow path.
struct Broken;

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    fn members(mut self) -> Result<Vec<Member>, Broken> {
        // Most requests have fewer members than this.
        let mut members = Vec::with_capacity(12);
        self.expect(b'{')?;
        if self.peek() != Some(b'}') {
            members.push(self.member()?);
            while self.peek() == Some(b',') {
                self.at += 1;
                members.push(self.member()?);
            }
        }
        self.expect(b'}')?;
        if self.peek().is_some() { Err(Broken) } else { Ok(members) }
    }

    fn member(&mut self) -> Result<Member, Broken> {
        if self.peek() != Some(b'"') {
            return Err(Broken);
        }
        let quote = self.at;
        let name = match self.value::<MemberName<'a>>()? {
            (range, MemberName(Cow::Borrowed(_))) => Name::InText(range.start + 1..range.end - 1),
            (_, MemberName(Cow::Owned(name))) => Name::Decoded(name.into()),
        };
        self.expect(b':')?;
        self.peek();
        let (value, _) = self.value::<&'a RawValue>()?;
        Ok(Member { name, whole: quote..value.end, value })
    }

    /// Reads one JSON value and says where it stands.
    fn value<T: Deserialize<'a>>(&mut self) -> Result<(Range<usize>, T), Broken> {
        let rest = self.text.get(self.at..).ok_or(Broken)?;
        let mut values = Deserializer::from_slice(rest).into_iter::<T>();
        let value = values.next().ok_or(Broken)?.map_err(|_| Broken)?;
        let range = self.at..self.at + values.byte_offset();
        self.at = range.end;
        Ok((range, value))
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.text.get(self.at..)?;
        let blank = rest.iter().position(|b| !matches!(b, b' ' | b'\t' | b'\n' | b'\r'));
        self.at += blank.unwrap_or(rest.len());
        self.text.get(self.at).copied()
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Broken> {
        if self.peek() == Some(wanted) {
            self.at += 1;
            Ok(())
        } else {
            Err(Broken)
        }
    }
}

/// Borrowed where it holds no escape. (A bare `Cow` would always be read into a new string.)
#[derive(Deserialize)]
struct MemberName<'a>(#[serde(borrow)] Cow<'a, str>);

/// Says what is wrong with a text that is no object, by reading it as serde does.
fn explain(text: &[u8]) -> InvalidObject {
    match serde_json::from_slice::<IgnoredAny>(text) {
        Err(error) => InvalidObject::Syntax(json_fault(&error)),
        // Read leniently, so a string with a broken encoding is not seen there.
        Ok(_) if std::str::from_utf8(text).is_err() => InvalidObject::Syntax("not UTF-8".to_owned()),
        Ok(_) => match serde_json::from_slice::<Value>(text) {
            Err(error) => InvalidObject::Syntax(json_fault(&error)),
            Ok(_) => InvalidObject::NotAnObject,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(text: &str) -> RawObject {
        RawObject::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    fn set<'a>(name: &'a str, value: &'a str) -> Change<'a> {
        Change::Set(name, value.into())
    }

    #[test]
    fn finds_members_whatever_the_spacing() {
        let object = object(" {\n \"model\" : \"m\" ,\"n\":1, \"x\":{\"model\":2} }\n");

        assert_eq!(object.get("model"), Some(&b"\"m\""[..]));
        assert_eq!(object.get("n"), Some(&b"1"[..]));
        assert_eq!(object.get("x"), Some(&b"{\"model\":2}"[..]));
        assert_eq!(object.get("y"), None);
    }

    #[test]
    fn reads_names_with_escapes() {
        assert_eq!(object(r#"{"mod\u0065l":"m"}"#).get("model"), Some(&b"\"m\""[..]));
    }

    #[test]
    fn an_edit_leaves_the_rest_as_it_is() {
        let object = object("{ \"a\" : 1.50,\n\"model\":  \"m\", \"big\":123456789012345678901234567890 }");

        assert_eq!(
            object.edit(&[set("model", "\"other\""), set("stream", "true")]),
            "{ \"a\" : 1.50,\n\"model\":  \"other\", \"big\":123456789012345678901234567890 ,\"stream\":true}"
        );
    }

    #[test]
    fn an_edit_adds_to_an_empty_object() {
        assert_eq!(object("{ }").edit(&[set("a", "1"), set("b", "2")]), "{ \"a\":1,\"b\":2}");
    }

    #[test]
    fn an_edit_removes_first_middle_and_last() {
        let object = object(r#"{"a":1, "b": 2 ,"c":3}"#);

        assert_eq!(object.edit(&[Change::Remove("a")]), r#"{"b": 2,"c":3}"#);
        assert_eq!(object.edit(&[Change::Remove("b")]), r#"{"a":1,"c":3}"#);
        assert_eq!(
            object.edit(&[Change::Remove("c"), Change::Remove("z"), set("b", "7")]),
            r#"{"a":1,"b": 7}"#
        );
    }

    #[test]
    fn tells_why_a_text_is_refused() {
        let refused = |text: &str| RawObject::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap_err();

        assert_eq!(refused("[1]"), InvalidObject::NotAnObject);
        assert_eq!(refused("3"), InvalidObject::NotAnObject);
        assert_eq!(refused(r#"{"a":1,"b":2,"a":3}"#), InvalidObject::Duplicate("a".to_owned()));
        for text in ["", "{", "{\"a\":}", "{\"a\" 1}", "{\"a\":1,}", "{\"a\":1} x", "{a:1}", "nul"] {
            assert!(matches!(refused(text), InvalidObject::Syntax(_)), "{text}");
        }
    }

    #[test]
    fn broken_utf8_is_refused() {
        let broken = Bytes::from_static(b"{\"a\":\"\xff\"}");
        assert!(matches!(RawObject::parse(broken), Err(InvalidObject::Syntax(_))));
    }

    #[test]
    fn a_duplicate_is_found_among_many() {
        let members: Vec<String> = (0..40).map(|i| format!("\"m{i}\":{i}")).collect();
        let text = format!("{{{},\"m7\":0}}", members.join(","));
        assert_eq!(RawObject::parse(text.into()).unwrap_err(), InvalidObject::Duplicate("m7".to_owned()));
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[\\PC\"\\\\\n]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[\\PC\"]{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn edits_mean_what_they_say(
            members in prop::collection::btree_map("[a-dé\"]{1,3}", json_value(), 0..6),
            name in "[a-dé\"]{1,3}",
            value in json_value(),
            pretty in any::<bool>(),
            remove in any::<bool>(),
        ) {
            let before: Map<String, Value> = members.into_iter().collect();
            let text = if pretty { serde_json::to_string_pretty(&before) } else { serde_json::to_string(&before) };
            let object = RawObject::parse(text.unwrap().into()).unwrap();
            let mut after = before.clone();
            let json = value.to_string();
            let change = if remove {
                after.shift_remove(&name);
                Change::Remove(&name)
            } else {
                after.insert(name.clone(), value);
                Change::Set(&name, json.into())
            };

            let edited: Value = serde_json::from_slice(&object.edit(&[change])).unwrap();

            prop_assert_eq!(edited, Value::Object(after));
        }

        #[test]
        fn no_input_panics(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = RawObject::parse(text.into());
        }

        #[test]
        fn accepts_what_serde_accepts(text in "\\{?[ \"a:,\\[\\]{}1e\\\\.-]{0,12}\\}?") {
            let ours = RawObject::parse(Bytes::copy_from_slice(text.as_bytes()));
            let theirs = serde_json::from_str::<Value>(&text);
            match ours {
                Ok(_) => prop_assert!(matches!(theirs, Ok(Value::Object(_)))),
                Err(InvalidObject::Duplicate(_)) => prop_assert!(theirs.is_ok()),
                Err(_) => prop_assert!(!matches!(theirs, Ok(Value::Object(_)))),
            }
        }
    }
}
