//! OpenAI's `/v1/embeddings`, as TEI, vLLM, Infinity, Voyage, Jina and NIM serve it too.
//!
//! Vectors have length one, as OpenAI's have. A text too long is cut, and the reply says of how many tokens.

use serde::Serialize;

use super::encoding::{Encoded, Encoding};
use crate::api::fields::Fields;
use crate::api::reply::Reply;
use crate::api::{Call, Context, Dialect, ErrorDialect, Form, unified};
use crate::error::Error;
use crate::request::EmbedResponse;

pub(in crate::api) const FORM: Form = Form { read, errors: ErrorDialect(unified::error) };

#[derive(Debug)]
struct OpenAi {
    encoding: Encoding,
}

fn read(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
    let raw = fields.get("input").ok_or_else(|| {
        let message = "input is required: a text, a list of texts, or token ids";
        Error::invalid("input", message)
    })?;
    let inputs = super::inputs(raw, "input", context.max_texts())?;
    if inputs.is_empty() {
        return Err(Error::invalid("input", "input must not be an empty list"));
    }
    let mut request = context.embed_request(fields, inputs, super::prompt(fields)?)?;
    // vLLM's word, and Jina's.
    for key in ["normalize", "normalized"] {
        request.normalize &= fields.boolean(key)? != Some(false);
    }
    Ok(Call::Embed(request, Box::new(OpenAi { encoding: encoding(fields)? })))
}

/// OpenAI's `encoding_format`; Voyage's `output_dtype` and Jina's `embedding_type` name kinds of numbers as well.
fn encoding(fields: &Fields<'_>) -> Result<Encoding, Error> {
    let mut chosen = None;
    for key in ["encoding_format", "output_dtype", "embedding_type"] {
        let Some(word) = fields.string(key)? else { continue };
        let encoding = Encoding::named(&word, key)?;
        match chosen {
            // Voyage packs whatever kind into base64; nobody but NumPy could read it, and nobody has asked.
            Some(other) if other != encoding && encoding != Encoding::Float => {
                let message = format!("{key} asks for {word} where encoding_format asks otherwise");
                return Err(Error::invalid(key, message));
            }
            Some(_) => {}
            None => chosen = Some(encoding),
        }
    }
    Ok(chosen.unwrap_or(Encoding::Float))
}

impl Dialect<EmbedResponse> for OpenAi {
    fn reply(&self, response: &EmbedResponse) -> Reply {
        let encoding = self.encoding;
        let item = |(index, vector)| Item {
            object: "embedding",
            index,
            embedding: Encoded { vector, encoding },
        };
        let truncated_tokens: usize = response.truncated_tokens.iter().sum();
        Reply::ok(&Body {
            object: "list",
            data: response.rows().enumerate().map(item).collect(),
            model: &response.model,
            usage: Usage {
                prompt_tokens: response.prompt_tokens,
                total_tokens: response.prompt_tokens,
                truncated_tokens: (truncated_tokens > 0).then_some(truncated_tokens),
            },
        })
    }
}

#[derive(Serialize)]
struct Body<'a> {
    object: &'static str,
    data: Vec<Item<'a>>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Item<'a> {
    object: &'static str,
    index: usize,
    embedding: Encoded<'a>,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
    /// Ours: there where a text did not fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated_tokens: Option<usize>,
}
