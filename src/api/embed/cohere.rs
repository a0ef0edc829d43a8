//! Cohere's `/v1/embed` and `/v2/embed`: vectors in one kind of numbers or in several at once.
//!
//! Version 1 gives plain lists where no kind is named; version 2 gives an object by kind, always.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::encoding::{Encoded, Encoding};
use crate::api::fields::Fields;
use crate::api::reply::Reply;
use crate::api::{Call, Context, Dialect, ErrorDialect, Form, Version, lenient, text, unified};
use crate::error::Error;
use crate::request::{Answer, EmbedResponse, Inputs};

pub(in crate::api) const FORM: Form = Form { read, errors: ErrorDialect(unified::error) };

#[derive(Debug)]
struct Cohere {
    version: Version,
    /// None asked for: floats, in version 1 without a name.
    encodings: Vec<Encoding>,
    texts: Vec<String>,
}

fn read(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
    if fields.get("images").is_some() {
        return Err(text::no_images(&"images", "image"));
    }
    let field = ["texts", "inputs"].into_iter().find(|field| fields.get(field).is_some());
    let Some(field) = field else {
        return Err(Error::invalid("texts", "texts is required (or inputs)"));
    };
    let rules = text::Rules {
        field,
        rank_fields: None,
        keep_objects: false,
        max_texts: context.max_texts(),
    };
    let raw = fields.get(field).expect("found above");
    let texts = text::texts(raw, &rules)?.texts;
    if texts.is_empty() {
        return Err(Error::invalid(field, format!("{field} must not be empty")));
    }
    let dialect =
        Cohere { version: context.version, encodings: encodings(fields)?, texts: texts.clone() };
    let inputs = Inputs::Texts(texts);
    let mut request = context.embed_request(fields, inputs, super::prompt(fields)?)?;
    if let Some(limit) = fields.count("max_tokens")? {
        if limit == 0 {
            return Err(Error::invalid("max_tokens", "max_tokens must be at least 1"));
        }
        request.truncation.max_tokens_per_doc = Some(limit);
    }
    Ok(Call::Embed(request, Box::new(dialect)))
}

/// Each kind once, in the order asked for.
fn encodings(fields: &Fields<'_>) -> Result<Vec<Encoding>, Error> {
    const FIELD: &str = "embedding_types";
    let Some(raw) = fields.get(FIELD) else { return Ok(Vec::new()) };
    // The most that are distinct; a longer list repeats itself, or is none of Cohere's.
    let max = Encoding::ALL.len();
    let words = if raw.get().starts_with('[') {
        lenient::list(raw, max).map_err(|count| text::too_many(FIELD, count, max))?
    } else {
        vec![raw]
    };
    let mut encodings = Vec::with_capacity(words.len());
    for word in words {
        let encoding = Encoding::named(&lenient::string(&FIELD, word)?, FIELD)?;
        if !encodings.contains(&encoding) {
            encodings.push(encoding);
        }
    }
    Ok(encodings)
}

impl Dialect<EmbedResponse> for Cohere {
    fn reply(&self, response: &EmbedResponse) -> Reply {
        let is_plain = self.encodings.is_empty() && self.version == Version::V1;
        let all = ByType { response, encodings: &self.encodings };
        Reply::ok(&Body {
            id: &response.id,
            embeddings: if is_plain { Embeddings::Plain(all) } else { Embeddings::ByType(all) },
            texts: &self.texts,
            meta: Meta {
                api_version: ApiVersion {
                    version: if self.version == Version::V2 { "2" } else { "1" },
                },
                billed_units: InputTokens { input_tokens: response.prompt_tokens },
                tokens: InputTokens { input_tokens: response.prompt_tokens },
                warnings: warning(response).into_iter().collect(),
            },
            response_type: if is_plain { "embeddings_floats" } else { "embeddings_by_type" },
        })
    }
}

fn warning(response: &EmbedResponse) -> Option<String> {
    let tally = response.tally();
    let lost: usize = response.truncated_tokens.iter().sum();
    let (cut, of) = (tally.num_truncated, tally.num_texts);
    (cut > 0).then(|| format!("{cut} of {of} texts did not fit: {lost} tokens were cut"))
}

enum Embeddings<'a> {
    Plain(ByType<'a>),
    ByType(ByType<'a>),
}

struct ByType<'a> {
    response: &'a EmbedResponse,
    encodings: &'a [Encoding],
}

impl ByType<'_> {
    fn lists(&self, encoding: Encoding) -> Vec<Encoded<'_>> {
        self.response.rows().map(|vector| Encoded { vector, encoding }).collect()
    }
}

impl Serialize for Embeddings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(all) => all.lists(Encoding::Float).serialize(serializer),
            Self::ByType(all) => {
                let encodings =
                    if all.encodings.is_empty() { &[Encoding::Float][..] } else { all.encodings };
                let mut map = serializer.serialize_map(Some(encodings.len()))?;
                for encoding in encodings {
                    map.serialize_entry(encoding.name(), &all.lists(*encoding))?;
                }
                map.end()
            }
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    embeddings: Embeddings<'a>,
    texts: &'a [String],
    meta: Meta,
    response_type: &'static str,
}

#[derive(Serialize)]
struct Meta {
    api_version: ApiVersion,
    billed_units: InputTokens,
    tokens: InputTokens,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct ApiVersion {
    version: &'static str,
}

#[derive(Serialize)]
struct InputTokens {
    input_tokens: usize,
}
