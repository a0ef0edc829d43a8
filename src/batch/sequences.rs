//! The token ids of one request: all its sequences in one allocation.

use std::ops::Range;

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
        self.spans.push(Span { start, len, first_segment_len: first_segment_len as u32 });
    }

    /// These of the sequences, in this order.
    pub fn select(&self, indices: &[usize]) -> Self {
        let num_tokens = indices.iter().map(|i| self.seqlen(*i)).sum();
        let mut selected = Self::with_capacity(num_tokens, indices.len());
        for i in indices {
            let (input_ids, first_segment_len) = self.get(*i);
            selected.push(&[input_ids], first_segment_len);
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
        let Span { start, len, first_segment_len } = self.spans[i];
        (&self.input_ids[start..start + len as usize], first_segment_len as usize)
    }
}
