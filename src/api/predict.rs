//! Text Embeddings Inference `/predict`: a classifier's labels for texts or pairs.

use serde::Serialize;
use serde_json::value::RawValue;

use super::fields::Fields;
use super::rank::finite;
use super::reply::Reply;
use super::{Call, Context, Dialect, ErrorDialect, Form, lenient, tei, text};
use crate::error::Error;
use crate::request::{Answer, Inputs, RerankResponse};

pub(super) const FORM: Form = Form { read, errors: ErrorDialect(tei::error) };

#[derive(Debug)]
struct Predict {
    is_raw: bool,
    is_batch: bool,
}

/// One entry of `inputs`: `"s"` and `["s"]` are a text, `["a", "b"]` is a pair.
enum Entry {
    Text(String),
    Pair(String, String),
}

fn read(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
    let raw =
        fields.get("inputs").ok_or_else(|| Error::invalid("inputs", "missing field `inputs`"))?;
    let (entries, is_batch) = entries(raw, context.limits.max_documents)?;
    let dialect = Predict { is_raw: fields.boolean("raw_scores")? == Some(true), is_batch };
    let request = context.request(fields, inputs(entries)?)?;
    Ok(Call::Rerank(request, Box::new(dialect)))
}

/// A list of lists is a batch; every other shape is one entry.
fn entries(raw: &RawValue, max: usize) -> Result<(Vec<Entry>, bool), Error> {
    if !raw.get().starts_with('[') {
        return Ok((vec![Entry::Text(lenient::string(&"inputs", raw)?)], false));
    }
    let elements = lenient::list(raw, max)
        .map_err(|count| tei::batch_size(text::too_many("inputs", count, max)))?;
    match elements.first() {
        None => Err(Error::invalid("inputs", tei::EMPTY_INPUTS)),
        Some(first) if first.get().starts_with('[') => {
            let numbered = elements.into_iter().enumerate();
            let entries = numbered.map(|(index, raw)| batched(index, raw, max));
            Ok((entries.collect::<Result<_, _>>()?, true))
        }
        Some(_) => Ok((vec![entry("inputs", &elements)?], false)),
    }
}

fn batched(index: usize, raw: &RawValue, max: usize) -> Result<Entry, Error> {
    let path = format!("inputs[{index}]");
    if !raw.get().starts_with('[') {
        return Err(lenient::wrong_type(&path, "a list of one text or two", raw));
    }
    let texts = lenient::list(raw, max).map_err(|count| text::too_many(&path, count, 2))?;
    entry(&path, &texts)
}

fn entry(path: &str, texts: &[&RawValue]) -> Result<Entry, Error> {
    let read = |index: usize| lenient::string(&format_args!("{path}[{index}]"), texts[index]);
    match texts.len() {
        1 => Ok(Entry::Text(read(0)?)),
        2 => Ok(Entry::Pair(read(0)?, read(1)?)),
        n => Err(Error::invalid(path, format!("{path}: expected one text or two, got {n}"))),
    }
}

fn inputs(entries: Vec<Entry>) -> Result<Inputs, Error> {
    let (mut texts, mut pairs) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry {
            Entry::Text(text) => texts.push(text),
            Entry::Pair(first, second) => pairs.push((first, second)),
        }
    }
    match (texts.is_empty(), pairs.is_empty()) {
        (_, true) => Ok(Inputs::Texts(texts)),
        (true, false) => Ok(Inputs::Pairs(pairs)),
        (false, false) => {
            Err(Error::invalid("inputs", "inputs: texts and pairs cannot be mixed in one batch"))
        }
    }
}

impl Dialect for Predict {
    fn reply(&self, response: &RerankResponse) -> Reply {
        let rows = (0..response.results.len()).map(|index| self.labelled(response, index));
        let mut rows: Vec<Vec<Label<'_>>> = rows.collect();
        let reply = match rows.pop() {
            Some(row) if !self.is_batch => Reply::ok(&row),
            Some(row) => {
                rows.push(row);
                Reply::ok(&rows)
            }
            None => Reply::ok(&rows),
        };
        tei::with_compute_headers(reply, &response.tally())
    }
}

impl Predict {
    /// The labels of one entry, best first.
    fn labelled<'a>(&self, response: &'a RerankResponse, index: usize) -> Vec<Label<'a>> {
        let num_labels = response.labels.len();
        let row = response.label_logits.get(index * num_labels..(index + 1) * num_labels);
        let Some(row) = row.filter(|row| row.len() > 1) else {
            // One label: the score is already its sigmoid.
            let score = &response.results[index].score;
            let score = finite(if self.is_raw { score.raw } else { score.probability });
            let label = response.labels.first().map_or("LABEL_0", String::as_str);
            return vec![Label { score, label }];
        };
        let scores = if self.is_raw { row.to_vec() } else { softmax(row) };
        let named = scores.into_iter().zip(&response.labels);
        let mut labels: Vec<_> =
            named.map(|(score, label)| Label { score: finite(score), label }).collect();
        labels.sort_by(|a, b| b.score.total_cmp(&a.score));
        labels
    }
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    // Less the largest, so that exp never overflows.
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let total: f32 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

#[derive(Serialize)]
struct Label<'a> {
    score: f32,
    label: &'a str,
}
