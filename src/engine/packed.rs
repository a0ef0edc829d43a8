//! A batch as the engine sees it: the token rows of all its sequences, one after another.

/// Of a shorter prefix that sequences share, the rows saved are not worth the work of sharing.
pub const LEAST_PREFIX: usize = 16;

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
    /// `[num_sequences + 1]`, ascending, first `trunk_len`, last `num_tokens`.
    pub cu_seqlens: Vec<u32>,
    /// Rows at the beginning that all sequences have before their own, stored once: only where attention is causal,
    /// so that no row of them depends on what follows.
    pub trunk_len: usize,
    /// `[num_sequences]`: how many of a sequence's own rows are keys of attention. Those after them only ask.
    pub key_lens: Vec<u32>,
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
            trunk_len: 0,
            key_lens: Vec::with_capacity(num_sequences),
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
        self.key_lens.push(len as u32);
    }

    /// Appends one sequence of a single segment, of which no token attends to those after the first `key_len`.
    pub fn push_with_keys(&mut self, input_ids: &[u32], key_len: usize) {
        debug_assert!((1..=input_ids.len()).contains(&key_len), "keys are rows of the sequence");
        self.push(input_ids, input_ids.len());
        if let Some(last) = self.key_lens.last_mut() {
            *last = key_len as u32;
        }
    }

    /// Appends sequence `i` of another batch, without what the trunk has of it.
    pub fn push_sequence(&mut self, other: &Self, i: usize) {
        let rows = other.rows(i);
        self.push_rows(other, rows.start + self.trunk_len..rows.end);
        self.cu_seqlens.push(self.input_ids.len() as u32);
        self.key_lens.push(other.key_lens[i] - self.trunk_len as u32);
    }

    /// Makes the first `len` tokens of sequence `i` of another batch the trunk of this one, which is empty.
    pub fn begin_with_trunk(&mut self, other: &Self, i: usize, len: usize) {
        debug_assert!(self.input_ids.is_empty(), "a trunk comes first");
        let begin = other.rows(i).start;
        self.push_rows(other, begin..begin + len);
        self.cu_seqlens[0] = len as u32;
        self.trunk_len = len;
    }

    /// How many keys these sequences begin with alike. Each keeps one of its own at least.
    pub fn common_prefix(&self, members: &[u32]) -> usize {
        let key_len = |i: u32| self.key_lens[i as usize] as usize;
        let ids = |i: u32| &self.input_ids[self.rows(i as usize)][..key_len(i)];
        let Some((first, rest)) = members.split_first() else { return 0 };
        let first = ids(*first);
        rest.iter().fold(first.len().saturating_sub(1), |len, i| {
            let other = ids(*i);
            let alike = first[..len].iter().zip(other).take_while(|(a, b)| a == b).count();
            alike.min(other.len().saturating_sub(1))
        })
    }

    fn push_rows(&mut self, other: &Self, rows: std::ops::Range<usize>) {
        self.input_ids.extend_from_slice(&other.input_ids[rows.clone()]);
        self.token_type_ids.extend_from_slice(&other.token_type_ids[rows.clone()]);
        self.position_ids.extend_from_slice(&other.position_ids[rows]);
    }

    pub fn clear(&mut self) {
        self.input_ids.clear();
        self.token_type_ids.clear();
        self.position_ids.clear();
        self.cu_seqlens.clear();
        self.cu_seqlens.push(0);
        self.trunk_len = 0;
        self.key_lens.clear();
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
