//! Text Embeddings Inference `/embed`: `inputs` in, a bare list of vectors out; and `/embed_all`: of each text a list,
//! one vector a token, special tokens included.

use super::encoding::{Encoded, Encoding};
use crate::api::fields::Fields;
use crate::api::reply::Reply;
use crate::api::{Call, Context, Dialect, ErrorDialect, Form, tei};
use crate::error::Error;
use crate::request::{Answer, EmbedRequest, EmbedResponse};

pub(in crate::api) const FORM: Form = Form { read, errors: ErrorDialect(tei::error) };
pub(in crate::api) const ALL_FORM: Form = Form { read: read_all, ..FORM };

#[derive(Debug)]
struct Tei {
    /// TEI writes floats alone; its client in huggingface_hub sends `encoding_format` all the same.
    encoding: Encoding,
}

/// Lists of vectors, whatever encoding is asked for: no client knows of another form.
#[derive(Debug)]
struct TeiAll;

fn read(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
    let (request, encoding) = request(context, fields)?;
    Ok(Call::Embed(request, Box::new(Tei { encoding })))
}

fn read_all(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
    let (request, _) = request(context, fields)?;
    Ok(Call::Embed(EmbedRequest { of_tokens: true, ..request }, Box::new(TeiAll)))
}

fn request(context: &Context<'_>, fields: &Fields<'_>) -> Result<(EmbedRequest, Encoding), Error> {
    let raw =
        fields.get("inputs").ok_or_else(|| Error::invalid("inputs", "missing field `inputs`"))?;
    let inputs = super::inputs(raw, "inputs", context.max_texts()).map_err(tei::batch_size)?;
    if inputs.is_empty() {
        return Err(Error::invalid("inputs", tei::EMPTY_INPUTS));
    }
    let word = fields.string("encoding_format")?;
    let encoding = word.map(|word| Encoding::named(&word, "encoding_format")).transpose()?;
    let mut request = context.embed_request(fields, inputs, super::prompt(fields)?)?;
    request.normalize = fields.boolean("normalize")? != Some(false);
    Ok((request, encoding.unwrap_or(Encoding::Float)))
}

impl Dialect<EmbedResponse> for Tei {
    fn reply(&self, response: &EmbedResponse) -> Reply {
        let encoding = self.encoding;
        let vectors: Vec<_> = response.rows().map(|vector| Encoded { vector, encoding }).collect();
        tei::with_compute_headers(Reply::ok(&vectors), &response.tally())
    }
}

impl Dialect<EmbedResponse> for TeiAll {
    fn reply(&self, response: &EmbedResponse) -> Reply {
        let encoding = Encoding::Float;
        let mut rows = response.rows().map(|vector| Encoded { vector, encoding });
        let texts = response.num_vectors.iter();
        let texts: Vec<Vec<_>> = texts.map(|num| rows.by_ref().take(*num).collect()).collect();
        tei::with_compute_headers(Reply::ok(&texts), &response.tally())
    }
}
