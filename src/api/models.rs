//! How an operator asks for other models: POST `/v1/models/load` and `/v1/models/unload`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Reply;
use super::info::ModelFacts;
use crate::error::Error;
use crate::request::LoadRequest;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Load {
    source: String,
    name: Option<String>,
    revision: Option<String>,
    aliases: Option<Vec<String>>,
    dtype: Option<String>,
    max_batch_tokens: Option<usize>,
    max_length: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unload {
    name: String,
}

/// Reads the body of a load: `source` is what `--model` takes, the rest is optional.
///
/// # Errors
/// What is wrong with which field.
pub fn load(body: &[u8]) -> Result<LoadRequest, Error> {
    let Load { source, name, revision, aliases, dtype, max_batch_tokens, max_length } = read(body)?;
    for (field, text) in [("source", Some(&source)), ("name", name.as_ref())] {
        if text.is_some_and(|text| text.trim().is_empty()) {
            return Err(Error::invalid(field, format!("{field}: is empty")));
        }
    }
    Ok(LoadRequest { source, name, revision, aliases, dtype, max_batch_tokens, max_length })
}

/// Reads the body of an unload.
///
/// # Errors
/// What is wrong with which field.
pub fn unload(body: &[u8]) -> Result<String, Error> {
    read::<Unload>(body).map(|Unload { name }| name)
}

/// The answer to a load.
pub fn loaded(model: &ModelFacts, memory_bytes: u64, has_replaced: bool) -> Reply {
    #[derive(Serialize)]
    struct Body<'a> {
        name: &'a str,
        aliases: &'a [String],
        architecture: &'a str,
        revision: Option<&'a str>,
        dtype: &'a str,
        max_length: usize,
        memory_bytes: u64,
        has_replaced: bool,
    }
    Reply::ok(&Body {
        name: &model.name,
        aliases: &model.aliases,
        architecture: &model.architecture,
        revision: model.revision.as_deref(),
        dtype: &model.dtype,
        max_length: model.max_length,
        memory_bytes,
        has_replaced,
    })
}

/// The answer to an unload.
pub fn unloaded(name: &str) -> Reply {
    Reply::ok(&serde_json::json!({ "name": name, "unloaded": true }))
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let value: Value =
        serde_json::from_slice(body).map_err(|error| Error::Syntax(error.to_string()))?;
    serde_json::from_value(value).map_err(|error| Error::invalid("body", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_load_is_named() {
        for (body, part) in [
            ("{", "syntax"),
            ("[]", "invalid length"),
            (r#"{"name": "x"}"#, "source"),
            (r#"{"source": " "}"#, "source: is empty"),
            (r#"{"source": "a/b", "sauce": 1}"#, "sauce"),
        ] {
            let error = load(body.as_bytes()).unwrap_err();
            assert_eq!(error.verdict().status, 400);
            assert!(error.to_string().contains(part), "{body}: {error}");
        }
        let request = load(br#"{"source": "a/b", "name": "x", "dtype": "int8"}"#).unwrap();
        assert_eq!((request.source.as_str(), request.dtype.as_deref()), ("a/b", Some("int8")));
    }
}
