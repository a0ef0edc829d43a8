//! The keys of a JSON object with their values still unread.
//!
//! Which keys are there decides the dialect, and the dialect decides which values are read and as what. Values
//! borrow the body, so splitting 16 MB of documents copies nothing. serde_json skips unread values without
//! recursion: nesting a million deep costs no stack.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::lenient;
use crate::error::Error;

/// No honest request has so many; without a bound, 6 bytes of body could cost 70 of memory.
const MAX_KEYS: usize = 4096;

#[derive(Debug)]
pub(super) struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Fields<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Whether the key is there at all, `null` included.
    pub(super) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(name, _)| name == key)
    }

    /// The value; `null` counts as absent, and of a repeated key the last counts, as in Python and JavaScript.
    pub(super) fn get(&self, key: &str) -> Option<&'a RawValue> {
        let (_, raw) = self.0.iter().rev().find(|(name, _)| name == key)?;
        (raw.get() != "null").then_some(*raw)
    }

    /// All keys whose value is not `null`, in the client's order.
    pub(super) fn present(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.entries().filter(|(_, raw)| raw.get() != "null")
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, raw)| (name.as_str(), *raw))
    }

    pub(super) fn is_list(&self, key: &str) -> bool {
        self.get(key).is_some_and(|raw| raw.get().starts_with('['))
    }

    pub(super) fn is_boolean(&self, key: &str) -> bool {
        self.get(key).is_some_and(|raw| lenient::boolean(raw).is_some())
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, Error> {
        self.read(key, "a boolean", lenient::boolean)
    }

    pub(super) fn integer(&self, key: &str) -> Result<Option<i64>, Error> {
        self.read(key, "an integer", lenient::integer)
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        self.read(key, "a number", lenient::number)
    }

    /// An integer that cannot be negative.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, Error> {
        let Some(value) = self.integer(key)? else { return Ok(None) };
        let count = usize::try_from(value);
        count.map(Some).map_err(|_| Error::invalid(key, format!("{key} must not be negative")))
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<String>, Error> {
        self.get(key).map(|raw| lenient::string(&key, raw)).transpose()
    }

    fn read<T>(
        &self,
        key: &str,
        expected: &str,
        reader: fn(&RawValue) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(raw) = self.get(key) else { return Ok(None) };
        reader(raw).map(Some).ok_or_else(|| lenient::wrong_type(&key, expected, raw))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Split;
        impl<'de> Visitor<'de> for Split {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    if fields.len() == MAX_KEYS {
                        let message = format!("an object with more than {MAX_KEYS} keys");
                        return Err(de::Error::custom(message));
                    }
                    fields.push(entry);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Split).map(Self)
    }
}
