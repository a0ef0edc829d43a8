//! A request scored in process, tokenisation included, without a server around it.

use rerankd::engine::Dtype;
use rerankd::engine::packed::Packed;
use rerankd::model::Scorer;
use rerankd::request::{Inputs, Truncation};
use rerankd::rerank::Prepared;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::num::NonZeroUsize;

/// What the server takes by default on a GPU.
pub(crate) const GPU_BATCH_TOKENS: usize = 16_384;

#[derive(Deserialize, Serialize)]
pub(crate) struct Request {
    pub(crate) query: String,
    pub(crate) documents: Vec<String>,
}

impl Request {
    /// Logits, one a document; tokenised by so many threads.
    pub(crate) fn score(
        &self,
        model: &mut Prepared,
        threads: NonZeroUsize,
    ) -> Result<Vec<f32>, Box<dyn Error>> {
        let encoder = &model.encoder;
        let texts: Vec<&str> =
            std::iter::once(&self.query).chain(&self.documents).map(String::as_str).collect();
        let parts: Vec<Result<Vec<_>, _>> = std::thread::scope(|scope| {
            let parts = texts.chunks(texts.len().div_ceil(threads.get()));
            let parts: Vec<_> = parts
                .map(|part| scope.spawn(|| part.iter().map(|text| encoder.ids(text)).collect()))
                .collect();
            parts.into_iter().map(|part| part.join().expect("no panic in a tokenizer")).collect()
        });
        let ids = parts.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
        let inputs =
            Inputs::OneQuery { query: self.query.clone(), documents: self.documents.clone() };
        let tokenized = encoder.assemble(&inputs, &ids, &Truncation::default())?;

        let mut batches = vec![Packed::with_capacity(0, 0)];
        let most = if model.dtype == Dtype::F16 { GPU_BATCH_TOKENS } else { usize::MAX };
        for i in 0..tokenized.sequences.len() {
            let (input_ids, first_segment_len) = tokenized.sequences.get(i);
            if batches.last().is_some_and(|batch| batch.num_tokens() + input_ids.len() > most) {
                batches.push(Packed::with_capacity(0, 0));
            }
            let batch = batches.last_mut().ok_or("no batch")?;
            batch.push(input_ids, first_segment_len);
        }
        forward(&mut *model.scorers[0], &batches)
    }
}

/// Each batch is begun while the one before it computes, as the server does.
fn forward(scorer: &mut dyn Scorer, batches: &[Packed]) -> Result<Vec<f32>, Box<dyn Error>> {
    let mut logits = vec![0.0; batches.iter().map(Packed::num_sequences).sum()];
    let mut rest = &mut logits[..];
    scorer.begin(&batches[0]);
    for (i, batch) in batches.iter().enumerate() {
        if let Some(next) = batches.get(i + 1) {
            scorer.begin(next);
        }
        let out;
        (out, rest) = rest.split_at_mut(batch.num_sequences());
        scorer.score(batch, out)?;
    }
    Ok(logits)
}
