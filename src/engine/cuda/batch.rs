//! A batch on the device: its arrays in one allocation, laid out for the bucket that it fills.
//!
//! A captured graph knows sizes and addresses, so batches are rounded up to a few sizes. What a batch leaves of
//! its bucket is filled with token 0 of no sequence, empty sequences, and work items that end their block.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::ops::Range;

use cudarc::driver::{CudaSlice, CudaView};

use super::{ATTENTION_QUERIES, Sharing};
use crate::engine::Queries;
use crate::engine::packed::Packed;

/// A work item that ends its block at once.
const NO_ITEM: [u32; 2] = [u32::MAX, 0];
/// Arrays begin at multiples of 16 bytes.
const ALIGN: usize = 4;
/// No bucket is smaller: rows of one GEMM tile.
const LEAST_TOKENS: usize = 64;

/// What a graph is captured for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bucket {
    pub num_tokens: usize,
    pub num_sequences: usize,
    /// Rows that all but attention computes: fewer than tokens where sequences share some.
    pub num_rows: usize,
}

impl Bucket {
    /// The smallest bucket that holds so much. Tokens come in four sizes to an octave, so that at most a
    /// fifth of the rows is padding; sequences, which only the last layer's few rows follow, in octaves.
    pub fn of(num_tokens: usize, num_sequences: usize) -> Self {
        let num_tokens = size_of_bucket(num_tokens);
        let num_sequences = num_sequences.next_power_of_two().min(num_tokens);
        Self { num_tokens, num_sequences, num_rows: num_tokens }
    }

    /// The smallest bucket that holds a batch.
    pub(crate) fn of_batch(batch: &Packed, sharing: Option<&Sharing>) -> Self {
        let bucket = Self::of(batch.num_tokens(), batch.num_sequences());
        let num_rows =
            sharing.map_or(bucket.num_rows, |sharing| size_of_bucket(sharing.num_rows()));
        Self { num_rows, ..bucket }
    }

    /// Whether attention has rows gathered for it.
    pub(super) fn shares(self) -> bool {
        self.num_rows < self.num_tokens
    }

    /// Tokens of every bucket, up to that of `max_tokens`.
    pub fn sizes(max_tokens: usize) -> impl Iterator<Item = usize> {
        let last = Self::of(max_tokens, 1).num_tokens;
        std::iter::successors(Some(LEAST_TOKENS), |size| Some(Self::of(size + 1, 1).num_tokens))
            .take_while(move |size| *size <= last)
    }

    /// Blocks of queries of all sequences, at most.
    fn num_items(self) -> usize {
        self.num_tokens / ATTENTION_QUERIES + self.num_sequences
    }

    /// Where the arrays lie, in words.
    fn layout(self) -> Layout {
        let (num_shared, num_sharing) =
            if self.shares() { (self.num_rows, self.num_tokens) } else { (0, 0) };
        let mut end = 0;
        let mut array = |len: usize| {
            let begin = end;
            end = (begin + len).next_multiple_of(ALIGN);
            begin..begin + len
        };
        Layout {
            input_ids: array(self.num_rows),
            token_type_ids: array(self.num_rows),
            position_ids: array(self.num_rows),
            row_of_token: array(num_sharing),
            token_of_row: array(num_shared),
            cu_seqlens: array(self.num_sequences + 1),
            items: array(2 * self.num_items()),
            first_items: array(2 * self.num_sequences),
            last_rows: array(self.num_sequences + 1),
            key_lens: array(self.num_sequences),
        }
    }

    /// Words of all arrays.
    pub(super) fn num_words(self) -> usize {
        self.layout().key_lens.end
    }

    /// The same of this bucket or any below it: what says which rows are shared takes more than they save.
    pub(super) fn most_words(self) -> usize {
        self.num_words() + 2 * self.num_tokens
    }
}

/// Rows of the bucket for so many.
fn size_of_bucket(num_rows: usize) -> usize {
    let octave = num_rows.max(1).next_power_of_two();
    num_rows.next_multiple_of((octave / 8).max(LEAST_TOKENS))
}

#[derive(Debug)]
struct Layout {
    input_ids: Range<usize>,
    token_type_ids: Range<usize>,
    position_ids: Range<usize>,
    row_of_token: Range<usize>,
    token_of_row: Range<usize>,
    cu_seqlens: Range<usize>,
    items: Range<usize>,
    first_items: Range<usize>,
    last_rows: Range<usize>,
    key_lens: Range<usize>,
}

/// The arrays of one batch on the device.
#[derive(Debug)]
pub struct Batch {
    pub(super) words: CudaSlice<u32>,
    pub(super) bucket: Bucket,
}

impl Batch {
    fn array(&self, range: impl FnOnce(Layout) -> Range<usize>) -> CudaView<'_, u32> {
        self.words.slice(range(self.bucket.layout()))
    }

    pub(super) fn input_ids(&self) -> CudaView<'_, u32> {
        self.array(|layout| layout.input_ids)
    }

    pub(super) fn token_type_ids(&self) -> CudaView<'_, u32> {
        self.array(|layout| layout.token_type_ids)
    }

    pub(super) fn position_ids(&self) -> CudaView<'_, u32> {
        self.array(|layout| layout.position_ids)
    }

    /// Of each token, the row that has it, where sequences share rows; else empty.
    pub(super) fn row_of_token(&self) -> CudaView<'_, u32> {
        self.array(|layout| layout.row_of_token)
    }

    /// Of each row, a token that has it, where sequences share rows; else empty.
    pub(super) fn token_of_row(&self) -> CudaView<'_, u32> {
        self.array(|layout| layout.token_of_row)
    }

    pub(super) fn cu_seqlens(&self) -> CudaView<'_, u32> {
        self.array(|layout| layout.cu_seqlens)
    }

    /// `(sequence, block of queries)` pairs, and how many; of first tokens alone, the first block of each sequence.
    pub(super) fn items_of(&self, queries: Queries) -> (CudaView<'_, u32>, usize) {
        match queries {
            Queries::All => (self.array(|layout| layout.items), self.bucket.num_items()),
            Queries::First => (self.array(|layout| layout.first_items), self.bucket.num_sequences),
        }
    }

    /// Of each sequence, how many of its rows are keys.
    pub(super) fn key_lens(&self) -> CudaView<'_, u32> {
        self.array(|layout| layout.key_lens)
    }

    /// As [`Self::cu_seqlens`], of runs of rows that begin with the last row of a sequence.
    pub(super) fn last_rows(&self) -> CudaView<'_, u32> {
        self.array(|layout| layout.last_rows)
    }
}

/// Writes a batch into `words` as its bucket lays it out, and returns the bucket.
///
/// # Panics
/// If `words` is shorter than the bucket, or the sharing another batch's.
pub(super) fn lay_out(batch: &Packed, sharing: Option<&Sharing>, words: &mut [u32]) -> Bucket {
    let bucket = Bucket::of_batch(batch, sharing);
    let layout = bucket.layout();
    let of_rows = |of_tokens| match sharing {
        None => Cow::Borrowed(of_tokens),
        Some(sharing) => Cow::Owned(sharing.rows_of(of_tokens)),
    };
    fill(&mut words[layout.input_ids], &of_rows(&batch.input_ids), 0);
    fill(&mut words[layout.token_type_ids], &of_rows(&batch.token_type_ids), 0);
    fill(&mut words[layout.position_ids], &of_rows(&batch.position_ids), 0);
    if let Some(sharing) = sharing {
        assert_eq!(sharing.row_of_token.len(), batch.num_tokens(), "a row for each token");
        fill(&mut words[layout.row_of_token], &sharing.row_of_token, 0);
        fill(&mut words[layout.token_of_row], &sharing.token_of_row, 0);
    }
    fill(&mut words[layout.cu_seqlens], &batch.cu_seqlens, batch.num_tokens() as u32);
    fill_items(&mut words[layout.items], items(batch));
    fill_items(
        &mut words[layout.first_items],
        (0..batch.num_sequences()).map(|sequence| [sequence as u32, 0]),
    );
    let row_of = |token: u32| sharing.map_or(token, |s| s.row_of_token[token as usize]);
    let num_rows = sharing.map_or(batch.num_tokens(), Sharing::num_rows);
    // Each sequence has its last row by itself, so that they ascend.
    let ends = batch.cu_seqlens[1..].iter().map(|end| row_of(end - 1));
    let ends = ends.chain(std::iter::repeat(num_rows as u32));
    words[layout.last_rows].iter_mut().zip(ends).for_each(|(to, end)| *to = end);
    fill(&mut words[layout.key_lens], &batch.key_lens, 0);
    bucket
}

fn fill(to: &mut [u32], from: &[u32], rest: u32) {
    let (head, tail) = to.split_at_mut(from.len());
    head.copy_from_slice(from);
    tail.fill(rest);
}

fn fill_items(to: &mut [u32], items: impl Iterator<Item = [u32; 2]>) {
    let items = items.chain(std::iter::repeat(NO_ITEM));
    to.chunks_exact_mut(2).zip(items).for_each(|(to, item)| to.copy_from_slice(&item));
}

/// Blocks of the longest sequences first: a block walks all keys of its sequence, and the last blocks to
/// start decide when the launch ends.
fn items(batch: &Packed) -> impl Iterator<Item = [u32; 2]> {
    let len = |sequence: u32| batch.rows(sequence as usize).len();
    let mut sequences: Vec<u32> = (0..batch.num_sequences() as u32).collect();
    sequences.sort_unstable_by_key(|sequence| (Reverse(len(*sequence)), *sequence));
    sequences.into_iter().flat_map(move |sequence| {
        let blocks = len(sequence).div_ceil(ATTENTION_QUERIES) as u32;
        (0..blocks).map(move |block| [sequence, block])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(lens: &[usize]) -> Packed {
        let mut batch = Packed::with_capacity(0, lens.len());
        lens.iter().for_each(|len| batch.push(&vec![7; *len], *len / 2));
        batch
    }

    proptest! {
        #[test]
        fn a_bucket_holds_its_batch_with_little_to_spare(lens in prop::collection::vec(1usize..600, 1..90)) {
            let batch = packed(&lens);
            let bucket = Bucket::of(batch.num_tokens(), batch.num_sequences());
            prop_assert!(bucket.num_tokens >= batch.num_tokens());
            prop_assert!(bucket.num_sequences >= batch.num_sequences());
            let padding = bucket.num_tokens - batch.num_tokens();
            prop_assert!(padding < LEAST_TOKENS.max(batch.num_tokens() / 4), "{padding} rows of padding");
            // What fits a bucket has that bucket: graphs are found again.
            prop_assert_eq!(Bucket::of(bucket.num_tokens, bucket.num_sequences), bucket);
        }

        #[test]
        fn every_block_of_queries_is_one_work_item(lens in prop::collection::vec(1usize..600, 1..90)) {
            let batch = packed(&lens);
            let mut words = vec![0xABAD_1DEA; 1 << 17];
            let bucket = lay_out(&batch, None, &mut words);
            let mut items: Vec<_> = words[bucket.layout().items]
                .chunks(2)
                .map(|item| (item[0], item[1]))
                .take_while(|item| item.0 != u32::MAX)
                .collect();
            let longest = lens[items[0].0 as usize];
            prop_assert_eq!(longest, *lens.iter().max().unwrap());
            items.sort_unstable();
            let expected: Vec<_> = (0..lens.len() as u32)
                .flat_map(|i| {
                    let blocks = lens[i as usize].div_ceil(ATTENTION_QUERIES) as u32;
                    (0..blocks).map(move |block| (i, block))
                })
                .collect();
            prop_assert_eq!(items, expected);
            prop_assert!(words[bucket.num_words()..].iter().all(|word| *word == 0xABAD_1DEA));
        }
    }
}
