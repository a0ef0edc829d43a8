//! The token ids of one request: all its sequences in one allocation.

use std::ops::Range;

use crate::engine::packed::Packed;

/// Sequences of token ids, each with special tokens, ready to be packed into batches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sequences {
    input_ids: Vec<u32>,
    spans: Vec<Span>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: usize,
    len: u32,
    first_segment_len: u32,
    /// Tokens that others attend to; those after them only ask.
    key_len: u32,
}

impl Sequences {
    pub fn with_capacity(num_tokens: usize, num_sequences: usize) -> Self {
        Self { input_ids: Vec::with_capacity(num_tokens), spans: Vec::with_capacity(num_sequences) }
    }

    /// Appends one sequence made of `parts`; its second segment begins after `first_segment_len` tokens.
    pub fn push(&mut self, parts: &[&[u32]], first_segment_len: usize) {
        let start = self.input_ids.len();
        for part in parts {
            self.input_ids.extend_from_slice(part);
        }
        let len = (self.input_ids.len() - start) as u32;
        let first_segment_len = first_segment_len as u32;
        self.spans.push(Span { start, len, first_segment_len, key_len: len });
    }

    /// Appends one sequence of a single segment, and to it `num_more` times `token`, which attends to the rest
    /// and is not attended to.
    pub fn push_expanded(&mut self, parts: &[&[u32]], token: u32, num_more: usize) {
        let key_len: usize = parts.iter().map(|part| part.len()).sum();
        let more = vec![token; num_more];
        self.push(&[parts, &[more.as_slice()]].concat(), key_len + num_more);
        if let Some(span) = self.spans.last_mut() {
            span.key_len = key_len as u32;
        }
    }

    /// These of the sequences, in this order.
    pub fn select(&self, indices: &[usize]) -> Self {
        let num_tokens = indices.iter().map(|i| self.seqlen(*i)).sum();
        let mut selected = Self::with_capacity(num_tokens, indices.len());
        for i in indices {
            let (input_ids, _) = self.get(*i);
            let start = selected.input_ids.len();
            selected.input_ids.extend_from_slice(input_ids);
            selected.spans.push(Span { start, ..self.spans[*i] });
        }
        selected
    }

    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub fn num_tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Tokens in sequence `i`.
    pub fn seqlen(&self, i: usize) -> usize {
        self.spans[i].len as usize
    }

    /// Tokens in all sequences of `range`.
    pub fn tokens_in(&self, range: Range<usize>) -> usize {
        self.spans[range].iter().map(|span| span.len as usize).sum()
    }

    /// The ids of sequence `i` and the length of its first segment.
    pub fn get(&self, i: usize) -> (&[u32], usize) {
        let Span { start, len, first_segment_len, .. } = self.spans[i];
        (&self.input_ids[start..start + len as usize], first_segment_len as usize)
    }

    /// The place of sequence `i`'s first token among all tokens; of one past the last, their number.
    pub fn first_token(&self, i: usize) -> usize {
        self.spans.get(i).map_or(self.input_ids.len(), |span| span.start)
    }

    /// Appends sequence `i` to a batch.
    pub fn pack(&self, i: usize, batch: &mut Packed) {
        let Span { len, key_len, .. } = self.spans[i];
        let (input_ids, first_segment_len) = self.get(i);
        if key_len < len {
            batch.push_with_keys(input_ids, key_len as usize);
        } else {
            batch.push(input_ids, first_segment_len);
        }
    }
}
