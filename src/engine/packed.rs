//! A batch as the engine sees it: the token rows of all its sequences, one after another.

/// Token rows of several sequences without padding between them.
///
/// Sequence `i` owns rows `cu_seqlens[i]..cu_seqlens[i + 1]` of the three token arrays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// `[num_tokens]`
    pub input_ids: Vec<u32>,
    /// `[num_tokens]`: 0 in the first segment, 1 in the second.
    pub token_type_ids: Vec<u32>,
    /// `[num_tokens]`: counts from 0 in each sequence.
    pub position_ids: Vec<u32>,
    /// `[num_sequences + 1]`, ascending, first 0, last `num_tokens`.
    pub cu_seqlens: Vec<u32>,
}

impl Packed {
    pub fn with_capacity(num_tokens: usize, num_sequences: usize) -> Self {
        let mut cu_seqlens = Vec::with_capacity(num_sequences + 1);
        cu_seqlens.push(0);
        Self {
            input_ids: Vec::with_capacity(num_tokens),
            token_type_ids: Vec::with_capacity(num_tokens),
            position_ids: Vec::with_capacity(num_tokens),
            cu_seqlens,
        }
    }

    /// Appends one sequence; its second segment begins at `first_segment_len`.
    pub fn push(&mut self, input_ids: &[u32], first_segment_len: usize) {
        let len = input_ids.len();
        debug_assert!(first_segment_len <= len, "the first segment is part of the sequence");
        self.input_ids.extend_from_slice(input_ids);
        self.token_type_ids.extend((0..len).map(|i| u32::from(i >= first_segment_len)));
        self.position_ids.extend(0..len as u32);
        self.cu_seqlens.push(self.input_ids.len() as u32);
    }

    /// Appends sequence `i` of another batch.
    pub fn push_sequence(&mut self, other: &Self, i: usize) {
        let rows = other.rows(i);
        self.input_ids.extend_from_slice(&other.input_ids[rows.clone()]);
        self.token_type_ids.extend_from_slice(&other.token_type_ids[rows.clone()]);
        self.position_ids.extend_from_slice(&other.position_ids[rows]);
        self.cu_seqlens.push(self.input_ids.len() as u32);
    }

    pub fn clear(&mut self) {
        self.input_ids.clear();
        self.token_type_ids.clear();
        self.position_ids.clear();
        self.cu_seqlens.clear();
        self.cu_seqlens.push(0);
    }

    pub fn num_tokens(&self) -> usize {
        self.input_ids.len()
    }

    pub fn num_sequences(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }

    /// The rows of sequence `i`.
    pub fn rows(&self, i: usize) -> std::ops::Range<usize> {
        self.cu_seqlens[i] as usize..self.cu_seqlens[i + 1] as usize
    }
}
