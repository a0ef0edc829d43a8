//! The texts of a request: queries and documents in every shape clients give them.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::fields::Fields;
use super::lenient;
use crate::error::Error;

/// More parts than any message has; they are joined to one text.
const MAX_PARTS: usize = 1024;

pub(super) const EMPTY_LIST: &str = "list of documents must not be empty";
const EMPTY_QUERY: &str = "query must not be empty or be only whitespace";
const EMPTY_RANK_FIELDS: &str =
    "rank_fields cannot be empty, it must either contain at least one field or be omitted";

/// How the texts under one key are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    /// The client's key, for the paths in errors.
    pub field: &'a str,
    /// The keys of an object that make its text, in this order.
    pub rank_fields: Option<&'a [String]>,
    /// Whether objects are kept to be echoed.
    pub keep_objects: bool,
    pub max_texts: usize,
}

/// The texts under one key, in order.
#[derive(Debug, Default)]
pub(super) struct Texts {
    pub texts: Vec<String>,
    /// The client's object behind each text, where there was one; empty unless they were to be kept.
    pub objects: Vec<Option<Box<RawValue>>>,
}

/// A scalar or a list of strings and objects.
pub(super) fn texts(raw: &RawValue, rules: &Rules<'_>) -> Result<Texts, Error> {
    let mut out = Texts::default();
    if !raw.get().starts_with('[') {
        out.push(document(&Path { field: rules.field, index: None }, raw, rules)?, rules);
        return Ok(out);
    }
    let elements = lenient::list(raw, rules.max_texts)
        .map_err(|count| too_many(rules.field, count, rules.max_texts))?;
    out.texts.reserve_exact(elements.len());
    for (index, element) in elements.into_iter().enumerate() {
        let path = Path { field: rules.field, index: Some(index) };
        out.push(document(&path, element, rules)?, rules);
    }
    Ok(out)
}

/// The documents of a rerank body, at least one.
pub(super) fn documents(fields: &Fields<'_>, rules: &Rules<'_>) -> Result<Texts, Error> {
    let raw = fields
        .get(rules.field)
        .ok_or_else(|| Error::invalid(rules.field, format!("{} is required", rules.field)))?;
    let out = texts(raw, rules)?;
    if out.texts.is_empty() {
        return Err(Error::invalid(rules.field, EMPTY_LIST));
    }
    Ok(out)
}

/// A query that asks something.
pub(super) fn query(fields: &Fields<'_>) -> Result<String, Error> {
    let query = any_query(fields)?;
    if query.trim().is_empty() {
        return Err(Error::invalid("query", EMPTY_QUERY));
    }
    Ok(query)
}

/// A query that may be empty, as TEI and Weaviate allow.
pub(super) fn any_query(fields: &Fields<'_>) -> Result<String, Error> {
    let raw = fields.get("query").ok_or_else(|| Error::invalid("query", "query is required"))?;
    if !raw.get().starts_with('{') {
        return lenient::string(&"query", raw);
    }
    let object = object_of(&"query", raw)?;
    if let Some(text) = object.get("text") {
        return lenient::string(&"query.text", text);
    }
    let content = object.get("content").ok_or_else(|| {
        Error::invalid("query.text", "query: expected a string, or an object with text or content")
    })?;
    content_text(&"query", content)
}

/// The `rank_fields` of a body; Cohere refuses an empty list rather than rank by nothing.
pub(super) fn rank_fields(fields: &Fields<'_>) -> Result<Option<Vec<String>>, Error> {
    let Some(raw) = fields.get("rank_fields") else { return Ok(None) };
    let rules = Rules {
        field: "rank_fields",
        rank_fields: None,
        keep_objects: false,
        max_texts: MAX_PARTS,
    };
    let names = texts(raw, &rules)?.texts;
    if names.is_empty() {
        return Err(Error::invalid("rank_fields", EMPTY_RANK_FIELDS));
    }
    Ok(Some(names))
}

pub(super) fn too_many(field: &str, count: usize, max: usize) -> Error {
    let message = format!("{field} has {count} entries, this server takes at most {max}");
    Error::TooMany { field: field.to_owned(), message }
}

impl Texts {
    fn push(&mut self, (text, object): (String, Option<Box<RawValue>>), rules: &Rules<'_>) {
        self.texts.push(text);
        if rules.keep_objects {
            self.objects.push(object);
        }
    }
}

/// Where a text stands, in the client's words; written out only for an error.
#[derive(Debug, Clone, Copy)]
struct Path<'a> {
    field: &'a str,
    index: Option<usize>,
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field)?;
        self.index.map_or(Ok(()), |index| write!(f, "[{index}]"))
    }
}

fn document(
    path: &Path<'_>,
    raw: &RawValue,
    rules: &Rules<'_>,
) -> Result<(String, Option<Box<RawValue>>), Error> {
    if raw.get().starts_with('"') {
        return Ok((lenient::string(path, raw)?, None));
    }
    if !raw.get().starts_with('{') {
        return Err(lenient::wrong_type(path, "a string or an object", raw));
    }
    let object = object_of(path, raw)?;
    let ranked = rules.rank_fields.map_or(Ok(None), |names| ranked_text(path, &object, names))?;
    let (text, is_complete) = match (ranked, object.get("text")) {
        (Some(text), _) => (text, true),
        (None, Some(text)) => (lenient::string(&format_args!("{path}.text"), text)?, true),
        (None, None) => (derived_text(path, &object)?, false),
    };
    let echo = match (rules.keep_objects, is_complete) {
        (false, _) => None,
        (true, true) => Some(raw.to_owned()),
        (true, false) => with_text(&object, &text).ok(),
    };
    Ok((text, echo))
}

/// The named keys that the object has, one a line. Cohere ranks by these alone, even beside a `text`.
fn ranked_text(
    path: &Path<'_>,
    object: &Fields<'_>,
    names: &[String],
) -> Result<Option<String>, Error> {
    let values = names.iter().filter_map(|name| Some((name, object.get(name)?)));
    let lines: Vec<String> = values
        .map(|(name, raw)| value_text(&format_args!("{path}.{name}"), raw))
        .collect::<Result<_, _>>()?;
    Ok((!lines.is_empty()).then(|| lines.join("\n")))
}

/// The text of an object that names none: its content, else all it holds.
fn derived_text(path: &Path<'_>, object: &Fields<'_>) -> Result<String, Error> {
    if let Some(content) = object.get("content") {
        return content_text(path, content);
    }
    let keys: Vec<&str> = object.present().map(|(key, _)| key).collect();
    match keys.as_slice() {
        [] => {
            let index = path.index.unwrap_or(0);
            let message = format!("document at index {index} cannot be empty");
            return Err(Error::invalid(path.to_string(), message));
        }
        // An image alone is Jina's image document; beside other keys it is the caller's own note.
        [key @ ("image" | "image_url")] => {
            return Err(no_images(&format_args!("{path}.{key}"), key));
        }
        _ => {}
    }
    // `key: value` lines, which Cohere recommends for structured documents; JSON values are YAML too.
    let mut dump = String::new();
    for (key, raw) in object.present() {
        let value = value_text(&format_args!("{path}.{key}"), raw)?;
        if !dump.is_empty() {
            dump.push('\n');
        }
        dump.push_str(key);
        dump.push_str(": ");
        dump.push_str(&value);
    }
    Ok(dump)
}

/// vLLM's `content`: a string, or a list of parts of which only text can be scored.
fn content_text(path: &dyn fmt::Display, raw: &RawValue) -> Result<String, Error> {
    let path = format_args!("{path}.content");
    if !raw.get().starts_with('[') {
        return lenient::string(&path, raw);
    }
    let parts = lenient::list(raw, MAX_PARTS)
        .map_err(|count| too_many(&path.to_string(), count, MAX_PARTS))?;
    let mut lines = Vec::with_capacity(parts.len());
    for (index, part) in parts.into_iter().enumerate() {
        lines.push(part_text(&format_args!("{path}[{index}]"), part)?);
    }
    Ok(lines.join("\n"))
}

fn part_text(path: &dyn fmt::Display, raw: &RawValue) -> Result<String, Error> {
    if raw.get().starts_with('"') {
        return lenient::string(path, raw);
    }
    if !raw.get().starts_with('{') {
        return Err(lenient::wrong_type(path, "a string or an object", raw));
    }
    let part = object_of(path, raw)?;
    if let Some(kind) = part.string("type")?.filter(|kind| kind != "text") {
        return Err(no_images(path, &kind));
    }
    let text = part.get("text").ok_or_else(|| no_images(path, "untyped"))?;
    lenient::string(&format_args!("{path}.text"), text)
}

fn object_of<'a>(path: &dyn fmt::Display, raw: &'a RawValue) -> Result<Fields<'a>, Error> {
    Fields::parse(raw.get()).map_err(|e| Error::invalid(path.to_string(), format!("{path}: {e}")))
}

fn value_text(path: &dyn fmt::Display, raw: &RawValue) -> Result<String, Error> {
    if raw.get().starts_with('"') { lenient::string(path, raw) } else { Ok(raw.get().to_owned()) }
}

pub(super) fn no_images(path: &dyn fmt::Display, kind: &str) -> Error {
    let message = format!("{path}: '{kind}' input is not supported, the model reads text only");
    Error::invalid(path.to_string(), message)
}

/// The caller's object, with the text that was scored where it names none: LiteLLM and Dify read `document.text`.
fn with_text(object: &Fields<'_>, text: &str) -> Result<Box<RawValue>, serde_json::Error> {
    struct Named<'a>(&'a Fields<'a>, &'a str);
    impl Serialize for Named<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            map.serialize_entry("text", self.1)?;
            for (key, raw) in self.0.entries().filter(|(key, _)| *key != "text") {
                map.serialize_entry(key, raw)?;
            }
            map.end()
        }
    }
    serde_json::value::to_raw_value(&Named(object, text))
}
