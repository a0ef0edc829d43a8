//! Text Embeddings Inference `/embed`: `inputs` in, a bare list of vectors out.

use super::encoding::{Encoded, Encoding};
use crate::api::fields::Fields;
use crate::api::reply::Reply;
use crate::api::{Call, Context, Dialect, ErrorDialect, Form, tei};
use crate::error::Error;
use crate::request::{Answer, EmbedResponse};

pub(in crate::api) const FORM: Form = Form { read, errors: ErrorDialect(tei::error) };

#[derive(Debug)]
struct Tei {
    /// TEI writes floats alone; its client in huggingface_hub sends `encoding_format` all the same.
    encoding: Encoding,
}

fn read(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
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
    let dialect = Tei { encoding: encoding.unwrap_or(Encoding::Float) };
    Ok(Call::Embed(request, Box::new(dialect)))
}

impl Dialect<EmbedResponse> for Tei {
    fn reply(&self, response: &EmbedResponse) -> Reply {
        let encoding = self.encoding;
        let vectors: Vec<_> = response.rows().map(|vector| Encoded { vector, encoding }).collect();
        tei::with_compute_headers(Reply::ok(&vectors), &response.tally())
    }
}
