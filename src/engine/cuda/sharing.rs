//! What sequences of a batch begin with alike, computed once where attention is causal.
//!
//! All operations but attention take the rows that are left. Attention takes the batch as it is: its queries, keys
//! and values are gathered from those rows, and its output is gathered into them, so that no bit depends on sharing.

use super::launch::Gather;
use super::{Batch, Bucket, Cuda, Rows, Scratch};
use crate::engine::packed::{LEAST_PREFIX, Packed};
use crate::engine::{AttentionKind, Queries};

/// Which rows of a batch are computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing {
    /// Of each token, the row that has it.
    pub(super) row_of_token: Vec<u32>,
    /// Of each row, the first token that has it.
    pub(super) token_of_row: Vec<u32>,
}

impl Sharing {
    /// What each sequence begins with as the one before it does is shared. `None` where that leaves the bucket
    /// as it is: the next smaller one saves an eighth of its rows at least.
    pub fn of(batch: &Packed) -> Option<Self> {
        let sharing = Self::all_of(batch);
        Bucket::of_batch(batch, Some(&sharing)).shares().then_some(sharing)
    }

    fn all_of(batch: &Packed) -> Self {
        let mut row_of_token: Vec<u32> = Vec::with_capacity(batch.num_tokens());
        let mut token_of_row = Vec::with_capacity(batch.num_tokens());
        for i in 0..batch.num_sequences() {
            if let Some(before) = i.checked_sub(1) {
                let prefix_len = batch.common_prefix(&[before as u32, i as u32]);
                if prefix_len >= LEAST_PREFIX {
                    let begin = batch.rows(before).start;
                    row_of_token.extend_from_within(begin..begin + prefix_len);
                }
            }
            for token in row_of_token.len()..batch.rows(i).end {
                row_of_token.push(token_of_row.len() as u32);
                token_of_row.push(token as u32);
            }
        }
        Self { row_of_token, token_of_row }
    }

    pub fn num_rows(&self) -> usize {
        self.token_of_row.len()
    }

    /// Of an array of tokens, what the rows have.
    pub(super) fn rows_of(&self, of_tokens: &[u32]) -> Vec<u32> {
        self.token_of_row.iter().map(|token| of_tokens[*token as usize]).collect()
    }
}

/// Rows of all tokens of a batch whose sequences share some.
#[derive(Debug)]
pub(super) struct Gathered {
    qkv: Rows,
    context: Rows,
}

impl Gathered {
    pub(super) fn new(qkv: Rows, context: Rows) -> Self {
        Self { qkv, context }
    }
}

impl Cuda {
    /// Attention of a batch whose sequences may share rows.
    ///
    /// # Panics
    /// If they share some, and what one of them sees depends on tokens after it, or the scratch has no room.
    pub(super) fn attend(
        &self,
        qkv: &Rows,
        batch: &Batch,
        kind: &AttentionKind,
        scratch: &mut Scratch,
        out: &mut Rows,
    ) {
        let attention = &scratch.attention;
        if !batch.bucket.shares() {
            self.launch_attention(attention, qkv, batch, kind, out);
            return;
        }
        assert!(kind.queries == Queries::All && kind.window.right == 0, "causal attention of all");
        let Some(gathered) = &mut scratch.gathered else { panic!("no room to gather rows") };
        gathered.qkv.set_rows(batch.bucket.num_tokens);
        gathered.context.set_rows(batch.bucket.num_tokens);
        let (row_of_token, token_of_row) = (batch.row_of_token(), batch.token_of_row());
        self.launch_gather(Gather::rows(qkv, &row_of_token), &mut gathered.qkv);
        self.launch_attention(attention, &gathered.qkv, batch, kind, &mut gathered.context);
        self.launch_gather(Gather::rows(&gathered.context, &token_of_row), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sequences that follow a few prefixes for a while, and then go their own ways.
    fn batches() -> impl Strategy<Value = Packed> {
        let sequence = (0usize..3, 0usize..90, prop::collection::vec(0u32..3, 1..30));
        prop::collection::vec(sequence, 1..30).prop_map(|sequences| {
            let mut batch = Packed::with_capacity(0, sequences.len());
            for (salt, prefix_len, rest) in sequences {
                let prefix = (0..prefix_len).map(|at| ((at / 20 * salt + at) % 5) as u32);
                let ids: Vec<u32> = prefix.chain(rest).collect();
                batch.push(&ids, ids.len());
            }
            batch
        })
    }

    proptest! {
        #[test]
        fn a_token_has_a_row_of_the_same_tokens_up_to_it(batch in batches()) {
            let sharing = Sharing::all_of(&batch);
            prop_assert_eq!(sharing.row_of_token.len(), batch.num_tokens());
            let sequence_of = |token: usize| {
                (0..batch.num_sequences()).map(|i| batch.rows(i)).find(|rows| rows.contains(&token)).unwrap()
            };
            for token in 0..batch.num_tokens() {
                let other = sharing.token_of_row[sharing.row_of_token[token] as usize] as usize;
                let up_to = |token: usize| &batch.input_ids[sequence_of(token).start..=token];
                prop_assert_eq!(up_to(token), up_to(other));
                prop_assert_eq!(batch.position_ids[token], batch.position_ids[other]);
            }
            for (row, token) in sharing.token_of_row.iter().enumerate() {
                prop_assert_eq!(sharing.row_of_token[*token as usize] as usize, row);
            }
            let last = |i: usize| sharing.row_of_token[batch.rows(i).end - 1];
            prop_assert!((1..batch.num_sequences()).all(|i| last(i - 1) < last(i)), "last rows ascend");
        }

        #[test]
        fn a_bucket_with_shared_rows_keeps_its_words_within_bounds(batch in batches()) {
            let sharing = Sharing::of(&batch);
            let bucket = Bucket::of_batch(&batch, sharing.as_ref());
            let plain = Bucket::of_batch(&batch, None);
            prop_assert_eq!(bucket.shares(), sharing.is_some());
            prop_assert!(!bucket.shares() || 8 * bucket.num_rows <= 7 * bucket.num_tokens);
            prop_assert!(bucket.num_words() <= plain.most_words());
        }
    }

    #[test]
    fn requests_that_meet_share_each_their_own_prefix() {
        let instruction = [7; 20];
        let query = |id: u32, rest: &[u32]| [&instruction[..], &[id; 20], rest].concat();
        let mut batch = Packed::with_capacity(0, 0);
        for ids in [query(1, &[2]), query(1, &[3, 4]), query(5, &[6]), query(5, &[8])] {
            batch.push(&ids, ids.len());
        }
        let sharing = Sharing::of(&batch).unwrap();
        assert_eq!(sharing.num_rows(), 41 + 2 + 21 + 1);
        assert_eq!(sharing.rows_of(&batch.input_ids)[40..46], [2, 3, 4, 5, 5, 5]);
        assert_eq!(sharing.rows_of(&batch.position_ids)[40..46], [40, 40, 41, 20, 21, 22]);

        let mut alone = Packed::with_capacity(0, 0);
        alone.push_sequence(&batch, 0);
        assert_eq!(Sharing::of(&alone), None);
    }
}
