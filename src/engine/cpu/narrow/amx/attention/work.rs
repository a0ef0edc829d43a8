//! The memory that one sequence's attention works in, and how blocks of queries go through it.

use crate::engine::cpu::narrow::STEP_BYTES;
use crate::engine::cpu::narrow::attention::{AttentionArgs, BLOCK};

/// Keys at a time: scores and weights of two blocks are 56 KiB then.
const CHUNK: usize = 128;
/// Heads whose values are in use at a time: where a head is one block, that of each stage.
const VALUES: usize = 3;

/// Bytes of the workspace's parts for sequences of `len` tokens, each a multiple of a cache line. Scores and weights
/// are there twice, as one stage writes them while another reads; values [`VALUES`] times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// `[len / 16][dim / 32]` tiles of 16 dwords of a key by 16 keys.
    keys: usize,
    /// `[len / 32][dim / 16]` tiles of 16 pairs of keys by 16 columns.
    values: usize,
    /// `[queries][scores_stride]` f32
    scores: usize,
    /// `[queries][weights_stride]` bf16
    weights: usize,
    /// `[32][32]` f32
    tile: usize,
    /// `[32][dim]` f32: values by the weights of the keys so far.
    context: usize,
    len: usize,
    /// Keys at a time.
    pub(super) chunk: usize,
    pub(super) dim: usize,
}

impl Sizes {
    pub(super) fn new(len: usize, head_dim: usize) -> Self {
        let (len, dim) = (len.next_multiple_of(BLOCK), head_dim.next_multiple_of(BLOCK));
        let mut sizes = Self {
            keys: 2 * len * dim,
            values: 2 * len * dim,
            scores: 0,
            weights: 0,
            tile: 0,
            context: 4 * BLOCK * dim,
            len,
            chunk: CHUNK,
            dim,
        };
        sizes.scores = 4 * BLOCK * sizes.scores_stride();
        sizes.weights = 2 * BLOCK * sizes.weights_stride();
        sizes.tile = 4 * BLOCK * BLOCK;
        sizes
    }

    /// A line more than the keys keeps rows out of one another's cache set.
    pub(super) fn scores_stride(&self) -> usize {
        self.len.min(self.chunk) + STEP_BYTES / 4
    }

    pub(super) fn weights_stride(&self) -> usize {
        self.len.min(self.chunk) + STEP_BYTES / 2
    }

    fn all(&self) -> usize {
        let twice = self.scores + self.weights;
        self.keys + VALUES * self.values + 2 * twice + self.tile + self.context
    }
}

/// Bytes that sequences of up to `len` tokens need.
pub(in crate::engine::cpu::narrow::amx) fn work_bytes(len: usize, head_dim: usize) -> usize {
    Sizes::new(len, head_dim).all()
}

/// A block of queries of one head and some of its keys, on their way through the stages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) head: usize,
    /// The first query, and how many.
    pub(super) first: usize,
    pub(super) rows: usize,
    /// The keys: whole tiles, up to `chunk` of them.
    pub(super) begin: usize,
    pub(super) end: usize,
    /// Those that some query of the block sees.
    first_key: usize,
    last_key: usize,
    chunk: usize,
    /// Which of two places has its scores and weights, and which of [`VALUES`] its values.
    pub(super) slot: usize,
    values_slot: usize,
}

impl Block {
    /// The first keys, at most `chunk`, of the first block of queries.
    pub(super) fn first(args: &AttentionArgs, chunk: usize) -> Self {
        Self::new(args, chunk, (0, 0), 0)
    }

    fn new(args: &AttentionArgs, chunk: usize, (head, first): (usize, usize), slot: usize) -> Self {
        let rows = BLOCK.min(args.num_queries - first);
        let begin = args.visible(first).start / BLOCK * BLOCK;
        let last_key = args.visible(first + rows - 1).end.next_multiple_of(BLOCK);
        Self {
            head,
            first,
            rows,
            begin,
            end: end_of_chunk(begin, chunk).min(last_key),
            first_key: begin,
            last_key,
            chunk,
            slot,
            values_slot: head / args.group() % VALUES,
        }
    }

    /// More keys, then more queries, then the next head.
    pub(super) fn next(&self, args: &AttentionArgs) -> Option<Self> {
        let slot = 1 - self.slot;
        if self.end < self.last_key {
            let (begin, end) = (self.end, end_of_chunk(self.end, self.chunk).min(self.last_key));
            return Some(Self { begin, end, slot, ..*self });
        }
        if self.first + BLOCK < args.num_queries {
            let next = (self.head, self.first + BLOCK);
            return Some(Self::new(args, self.chunk, next, slot));
        }
        let next = (self.head + 1, 0);
        (next.0 < args.num_heads).then(|| Self::new(args, self.chunk, next, slot))
    }

    pub(super) fn has_first_keys(&self) -> bool {
        self.begin == self.first_key
    }

    pub(super) fn has_last_keys(&self) -> bool {
        self.end == self.last_key
    }
}

/// Chunks end where they end for every block of queries, so that sums do not depend on which queries share one.
fn end_of_chunk(key: usize, chunk: usize) -> usize {
    (key / chunk + 1) * chunk
}

#[derive(Debug)]
pub(super) struct Work {
    start: *mut u8,
    pub(super) tile: *mut f32,
    pub(super) context: *mut f32,
    pub(super) sizes: Sizes,
}

impl Work {
    /// # Safety
    /// `start` has [`work_bytes`] of memory.
    pub(super) unsafe fn new(start: *mut u8, sizes: Sizes) -> Self {
        let context = sizes.all() - sizes.context;
        // SAFETY: the last two parts.
        let (tile, context) = unsafe { (start.add(context - sizes.tile), start.add(context)) };
        Self { start, tile: tile.cast(), context: context.cast(), sizes }
    }

    pub(super) fn keys(&self) -> *mut u8 {
        self.start
    }

    /// # Safety
    /// As for [`Self::new`]; so for all here.
    pub(super) unsafe fn values(&self, block: Block) -> *mut u8 {
        // SAFETY: one of the places.
        unsafe { self.start.add(self.sizes.keys + block.values_slot * self.sizes.values) }
    }

    pub(super) unsafe fn scores(&self, slot: usize) -> *mut f32 {
        let before = self.sizes.keys + VALUES * self.sizes.values;
        // SAFETY: one of the two.
        unsafe { self.start.add(before + slot * self.sizes.scores).cast() }
    }

    pub(super) unsafe fn weights(&self, slot: usize) -> *mut u16 {
        let before = self.sizes.keys + VALUES * self.sizes.values + 2 * self.sizes.scores;
        // SAFETY: one of the two.
        unsafe { self.start.add(before + slot * self.sizes.weights).cast() }
    }
}
