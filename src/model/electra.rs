//! ELECTRA's discriminators: BERT whose embeddings may be narrower than its layers.

use super::bert::{BERT, Kind, Layout, Sizes};
use super::config::{Fields, MAX_SIZE};
use crate::engine::Epilogue;
use crate::error::ModelError;

#[derive(Debug)]
pub(super) enum Electra {}

impl Kind for Electra {
    const LAYOUT: Layout = Layout {
        prefix: "electra.",
        head_dense: "classifier.dense",
        head_act: Epilogue::BiasGelu,
        head_out: "classifier.out_proj",
        ..BERT
    };

    fn sizes(fields: &Fields) -> Result<Sizes, ModelError> {
        let sizes = Sizes::read(fields)?;
        // The format's own default.
        let embedding_size = fields.optional_size("embedding_size", MAX_SIZE)?.unwrap_or(128);
        Ok(Sizes { embedding_size, ..sizes })
    }
}
