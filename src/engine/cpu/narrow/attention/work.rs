//! The memory that one sequence's attention works in.

use super::BLOCK;
use super::vectors::ROWS;
use crate::engine::cpu::narrow::STEP_BYTES;

/// Sequences of `len` keys, heads of `dim` columns, both in whole blocks.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    len: usize,
    dim: usize,
}

impl Sizes {
    fn new(len: usize, head_dim: usize) -> Self {
        Self { len: len.next_multiple_of(BLOCK), dim: head_dim.next_multiple_of(BLOCK) }
    }

    /// Bytes of a head's keys, `[len / 16][dim / 32]` tiles of 16 dwords of a key by 16 keys, or of its values,
    /// `[len / 32][dim / 16]` tiles of 16 pairs of keys by 16 columns.
    fn head(self) -> usize {
        2 * self.len * self.dim
    }

    /// Bytes of a group's weights, `[ROWS][weights_stride]` bf16.
    fn weights(self) -> usize {
        2 * ROWS * self.weights_stride()
    }

    /// A line more than the keys keeps rows out of one another's cache set.
    fn weights_stride(self) -> usize {
        self.len + STEP_BYTES / 2
    }

    /// Scales of the keys' columns, and codes of a group of queries.
    fn bytes(self) -> usize {
        4 * self.dim + ROWS * self.dim
    }
}

pub(super) fn work_bytes(len: usize, head_dim: usize) -> usize {
    let sizes = Sizes::new(len, head_dim);
    3 * sizes.head() + 2 * sizes.weights() + sizes.bytes()
}

#[derive(Debug)]
pub(super) struct Work {
    start: *mut u8,
    sizes: Sizes,
}

impl Work {
    /// `start` has [`work_bytes`] of memory.
    pub(super) fn new(start: *mut u8, len: usize, head_dim: usize) -> Self {
        Self { start, sizes: Sizes::new(len, head_dim) }
    }

    /// Columns of a head, in whole blocks.
    pub(super) fn dim(&self) -> usize {
        self.sizes.dim
    }

    /// Keys in whole blocks.
    pub(super) fn len(&self) -> usize {
        self.sizes.len
    }

    pub(super) fn keys(&self) -> *mut u8 {
        self.start
    }

    /// Of two heads in turn: those of one are in use until scores of the next are made.
    pub(super) fn values(&self, head: usize) -> *mut u8 {
        self.start.wrapping_add((1 + head % 2) * self.sizes.head())
    }

    /// `[ROWS][weights_stride]`, of two groups in turn.
    pub(super) fn weights(&self, slot: usize) -> *mut u16 {
        let before = 3 * self.sizes.head() + slot * self.sizes.weights();
        self.start.wrapping_add(before).cast()
    }

    pub(super) fn weights_stride(&self) -> usize {
        self.sizes.weights_stride()
    }

    /// Of columns of keys that are bytes: `[dim]`.
    pub(super) fn scales(&self) -> *mut f32 {
        let before = 3 * self.sizes.head() + 2 * self.sizes.weights();
        self.start.wrapping_add(before).cast()
    }

    /// Of queries that are bytes: `[ROWS][dim]`.
    pub(super) fn codes(&self) -> *mut u8 {
        self.scales().wrapping_add(self.sizes.dim).cast()
    }
}
