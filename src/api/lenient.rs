//! Scalars as clients really spell them: booleans in quotes, integers with a decimal point.
//!
//! The grammar of every value was checked when the body was split into fields, so a raw number or keyword is
//! looked at as text.

use std::borrow::Cow;
use std::fmt::Display;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::Error;

/// RAGFlow's Xinference client sends `"true"`; Python's `str(True)` gives `"True"`.
pub(super) fn boolean(raw: &RawValue) -> Option<bool> {
    match unquoted(raw)?.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// `3`, `3.0` and `"3"`; never `3.5`.
pub(super) fn integer(raw: &RawValue) -> Option<i64> {
    let text = unquoted(raw)?;
    if let Ok(exact) = text.trim().parse::<i64>() {
        return Some(exact);
    }
    // Above 2^53 a float no longer tells one integer from the next.
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    let value = number(raw)?;
    (value.fract() == 0.0 && value.abs() <= MAX_EXACT).then_some(value as i64)
}

pub(super) fn number(raw: &RawValue) -> Option<f64> {
    // In quotes Rust's parser also knows "inf" and "nan", which no field of ours means.
    unquoted(raw)?.trim().parse::<f64>().ok().filter(|value| value.is_finite())
}

/// A string; `path` names it in the error.
pub(super) fn string(path: &dyn Display, raw: &RawValue) -> Result<String, Error> {
    if !raw.get().starts_with('"') {
        return Err(wrong_type(path, "a string", raw));
    }
    // What is left to go wrong is an escape that is no character: half of a surrogate pair.
    serde_json::from_str(raw.get())
        .map_err(|e| Error::invalid(path.to_string(), format!("{path}: {e}")))
}

/// The elements of a list, each still unread; none beyond `max` is kept. `Err` holds how many there are.
pub(super) fn list(raw: &RawValue, max: usize) -> Result<Vec<&RawValue>, usize> {
    struct Elements(usize);
    impl<'de> Visitor<'de> for Elements {
        type Value = (Vec<&'de RawValue>, usize);

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let (mut kept, mut count) = (Vec::new(), 0);
            while let Some(element) = seq.next_element::<&RawValue>()? {
                count += 1;
                if count <= self.0 {
                    kept.push(element);
                }
            }
            Ok((kept, count))
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    // Not a list: no caller asks without having seen the bracket.
    let (kept, count) = deserializer.deserialize_seq(Elements(max)).unwrap_or_default();
    if count > max { Err(count) } else { Ok(kept) }
}

pub(super) fn wrong_type(path: &dyn Display, expected: &str, raw: &RawValue) -> Error {
    let got = match raw.get().as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    };
    Error::invalid(path.to_string(), format!("{path}: expected {expected}, got {got}"))
}

/// The inside of a string, or the text of any other value.
fn unquoted(raw: &RawValue) -> Option<Cow<'_, str>> {
    if raw.get().starts_with('"') {
        serde_json::from_str::<String>(raw.get()).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(raw.get()))
    }
}
