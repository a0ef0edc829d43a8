//! What distances between tokens add to the scores of attention (DeBERTa): the query's product with a vector for its
//! distance from the key, and the key's product with another.
//!
//! Both are products with every bucket of distances on the micro-kernel; then each pair of tokens takes its two numbers.

use super::buffer::Buffer;
use super::gemm::{Factors, tile_height, tile_of};
use super::kernels::AttentionArgs;
use super::simd::Simd;
use super::weight::pack_f32;
use crate::engine::{LinearInit, RelativeInit};
use std::ops::Range;

/// The vectors of a layer, prepared.
#[derive(Debug)]
pub struct Relative {
    /// `[num_heads][num_panels][head_dim][panel]`
    keys: Buffer,
    queries: Buffer,
    /// Of each distance from `1 - max_length` to `max_length - 1`.
    buckets: Vec<u32>,
    pub(super) num_heads: usize,
    pub(super) head_dim: usize,
    num_buckets: usize,
    panel: usize,
}

/// The vectors of one sequence's heads, and room for their products.
#[derive(Debug, Clone, Copy)]
pub(super) struct RelativeArgs {
    /// Of the first head, `[num_panels][head_dim][panel]`.
    pub(super) keys: *const f32,
    pub(super) queries: *const f32,
    /// Floats of a head.
    pub(super) head_stride: usize,
    /// The bucket of distance 0; those of others lie around it.
    pub(super) buckets: *const u32,
    /// Of a row of products: buckets in whole panels.
    pub(super) stride: usize,
    /// `[len, stride]`
    pub(super) by_key: *mut f32,
    /// `[tile_rows, stride]`
    pub(super) by_query: *mut f32,
}

impl Relative {
    pub(super) fn new(init: &RelativeInit<'_>, panel: usize) -> Self {
        let RelativeInit { keys, queries, num_heads, head_dim, buckets } = *init;
        // Ascending ones: the panels that a sequence needs are those between its two farthest distances.
        let num_buckets = init.num_buckets();
        let pack = |vectors: &[f32]| {
            let (n, k) = (num_buckets, head_dim);
            let heads = vectors.chunks_exact(n * k);
            let heads =
                heads.map(|weight| pack_f32(&LinearInit { weight, bias: &[], n, k }, panel));
            let heads: Vec<_> = heads.collect();
            let mut all = Buffer::zeroed(heads.iter().map(|head| head.len()).sum());
            for (to, head) in all.chunks_exact_mut(heads[0].len()).zip(&heads) {
                to.copy_from_slice(head);
            }
            all
        };
        let (keys, queries, buckets) = (pack(keys), pack(queries), buckets.to_vec());
        Self { keys, queries, buckets, num_heads, head_dim, num_buckets, panel }
    }

    /// Of a row of products.
    pub(super) fn stride(&self) -> usize {
        self.num_buckets.next_multiple_of(self.panel)
    }

    /// The longest sequence.
    pub(super) fn max_length(&self) -> usize {
        self.buckets.len() / 2 + 1
    }

    /// `by_key` has a row of [`Self::stride`] for each token, `by_query` for each row of a tile.
    pub(super) fn args(&self, head: usize, by_key: *mut f32, by_query: *mut f32) -> RelativeArgs {
        let head_stride = self.keys.len() / self.num_heads;
        RelativeArgs {
            keys: self.keys[head * head_stride..].as_ptr(),
            queries: self.queries[head * head_stride..].as_ptr(),
            head_stride,
            buckets: self.buckets[self.buckets.len() / 2..].as_ptr(),
            stride: self.stride(),
            by_key,
            by_query,
        }
    }
}

impl RelativeArgs {
    /// # Safety
    /// Query and key are positions of one sequence.
    #[inline(always)]
    pub(super) unsafe fn bucket(&self, query: usize, key: usize) -> usize {
        // SAFETY: a distance between two tokens of a sequence, which `Cpu::attend` compared with the table.
        unsafe { *self.buckets.offset(query as isize - key as isize) as usize }
    }

    /// The panels with the buckets of all distances in a sequence of `len` tokens, keys or not.
    ///
    /// # Safety
    /// `len` is the sequence's.
    unsafe fn panels(&self, len: usize, panel: usize) -> Range<usize> {
        // SAFETY: the first and the last token.
        unsafe { self.bucket(0, len - 1) / panel..self.bucket(len - 1, 0) / panel + 1 }
    }
}

/// Products of all keys of a head with the vectors of queries.
///
/// # Safety
/// As for `attention`; keys have heads of their own.
#[inline(always)]
pub(super) unsafe fn score_keys<S: Simd, const MR: usize, const NV: usize>(
    args: &AttentionArgs,
    relative: &RelativeArgs,
    head: usize,
) {
    let (panel, dim) = (NV * S::LANES, args.head_dim);
    let (height, mut row) = (tile_height(args.len, MR), 0);
    // SAFETY: rows below `len`, panels of the table, and products within a row of `by_key`.
    unsafe {
        while row < args.len {
            let rows = height.min(args.len - row);
            let keys = args.row(row).add((args.num_heads + head) * dim);
            for i in relative.panels(args.len.max(args.num_queries), panel) {
                let vectors = relative.queries.add(head * relative.head_stride + i * dim * panel);
                let out = relative.by_key.add(row * relative.stride + i * panel);
                let factors = Factors::packed(dim, (keys, args.qkv_stride), (vectors, panel));
                tile_of::<S, MR, NV>(rows, factors, args.work.zeros, out, relative.stride);
            }
            row += rows;
        }
    }
}

/// Adds to the scores of a tile of queries, `[rows, scores_stride]`, what their distances say.
///
/// # Safety
/// As for `attention`; `score_keys` was called for the head.
#[inline(always)]
pub(super) unsafe fn add<S: Simd, const MR: usize, const NV: usize>(
    args: &AttentionArgs,
    relative: &RelativeArgs,
    head: usize,
    (row, rows): (usize, usize),
    (scores, scores_stride): (*mut f32, usize),
) {
    let (panel, dim) = (NV * S::LANES, args.head_dim);
    // SAFETY: rows below `num_queries`, panels of the table, and products within a row of `by_query`.
    unsafe {
        let query = args.qkv.add(row * args.qkv_stride + head * dim);
        for i in relative.panels(args.len.max(args.num_queries), panel) {
            let vectors = relative.keys.add(head * relative.head_stride + i * dim * panel);
            let factors = Factors::packed(dim, (query, args.qkv_stride), (vectors, panel));
            let out = relative.by_query.add(i * panel);
            tile_of::<S, MR, NV>(rows, factors, args.work.zeros, out, relative.stride);
        }
        for i in 0..rows {
            let by_query = relative.by_query.add(i * relative.stride);
            for key in 0..args.len {
                let bucket = relative.bucket(row + i, key);
                let by_key = relative.by_key.add(key * relative.stride);
                *scores.add(i * scores_stride + key) += *by_query.add(bucket) + *by_key.add(bucket);
            }
        }
    }
}
