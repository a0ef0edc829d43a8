//! Attention in which the first token of each sequence alone asks, from the hidden rows themselves.
//!
//! One query needs no keys: `q (K x + b) = (q K) x + q b`, where `q b` is the same for all tokens and falls out of the
//! softmax; and no values: `sum p (V x + c) = V (sum p x) + c`. So the projections of keys and values meet one row a
//! sequence instead of one a token, and what is left for a token are two products with as many numbers as there are
//! heads. All of it is f32, whatever the precision.

use super::buffer::Buffer;
use super::gemm::{Factors, tile_height, tile_of};
use super::kernels::FirstArgs;
use super::math;
use super::rows::ROW_PAD;
use super::simd::{MAX_LANES, Simd};
use super::{Cpu, Linear, Rows, Scratch};
use crate::engine::packed::Packed;
use crate::engine::{Epilogue, FirstInit, LinearInit};

/// Sequences that meet a projection together: a tile of rows. More would only take more workspace.
const SEQUENCES: usize = 14;

/// The projections of a layer, prepared.
#[derive(Debug)]
pub struct First {
    query: Linear,
    /// Of each head the key projection transposed, `[width, head_dim]`.
    keys: Vec<Linear>,
    /// Of each head, `[head_dim, width]`.
    values: Vec<Linear>,
    width: usize,
    head_dim: usize,
}

/// Workspace for sequences of so many tokens.
#[derive(Debug)]
pub(super) struct FirstWork {
    max_length: usize,
    /// `[SEQUENCES, stride]`: the rows that ask, then a head's context.
    rows: Buffer,
    /// `[SEQUENCES, stride of all heads]`
    queries: Buffer,
    /// `[num_heads, SEQUENCES, stride]`: the queries as hidden rows meet them.
    folded: Buffer,
    /// `[SEQUENCES, num_heads, stride]`: hidden rows by their weights.
    mixed: Buffer,
    /// Of the kernel: folded queries in panels, and the scores of a sequence.
    panels: Buffer,
    scores: Buffer,
    /// A panel of zeros.
    zeros: Buffer,
}

impl First {
    pub(super) fn new(init: &FirstInit<'_>, panel: usize) -> Self {
        let FirstInit { query, key, value, num_heads } = *init;
        let (width, all) = (query.k, query.n);
        let head_dim = all / num_heads;
        assert_eq!(head_dim * num_heads, all, "whole heads");
        for part in [&key, &value] {
            assert_eq!((part.n, part.k), (all, width), "projections of one size");
        }
        let nothing = vec![0.0; width];
        let of_key = |head: usize| {
            let rows = &key.weight[head * head_dim * width..][..head_dim * width];
            let column = |i: usize| rows.iter().skip(i).step_by(width).copied();
            let transposed: Vec<f32> = (0..width).flat_map(column).collect();
            let init = LinearInit { weight: &transposed, bias: &nothing, n: width, k: head_dim };
            Linear::pack(&init, panel)
        };
        let of_value = |head: usize| {
            let weight = &value.weight[head * head_dim * width..][..head_dim * width];
            let bias = &value.bias[head * head_dim..][..head_dim];
            Linear::pack(&LinearInit { weight, bias, n: head_dim, k: width }, panel)
        };
        Self {
            query: Linear::pack(&query, panel),
            keys: (0..num_heads).map(of_key).collect(),
            values: (0..num_heads).map(of_value).collect(),
            width,
            head_dim,
        }
    }

    fn num_heads(&self) -> usize {
        self.keys.len()
    }

    /// Of a row as wide as the hidden ones, in whole panels of any kernel.
    fn stride(&self) -> usize {
        self.width.next_multiple_of(ROW_PAD)
    }

    /// Of a row of all heads' queries; the last head's are written in whole panels.
    fn query_stride(&self) -> usize {
        self.query.n.next_multiple_of(ROW_PAD)
    }

    /// Heads in whole vectors.
    fn padded_heads(&self) -> usize {
        self.num_heads().next_multiple_of(MAX_LANES)
    }

    pub(super) fn work(&self, max_length: usize) -> FirstWork {
        let (stride, heads) = (self.stride(), self.num_heads());
        FirstWork {
            max_length,
            rows: Buffer::zeroed(SEQUENCES * stride.max(self.head_dim.next_multiple_of(ROW_PAD))),
            queries: Buffer::zeroed(SEQUENCES * self.query_stride()),
            folded: Buffer::zeroed(heads * SEQUENCES * stride),
            mixed: Buffer::zeroed(heads * SEQUENCES * stride),
            panels: Buffer::zeroed(stride * self.padded_heads()),
            scores: Buffer::zeroed(max_length * self.padded_heads()),
            zeros: Buffer::zeroed(ROW_PAD),
        }
    }
}

impl Cpu {
    pub(super) fn attend_with_first(
        &self,
        hidden: &Rows,
        batch: &Packed,
        first: &First,
        scratch: &mut Scratch,
        out: &mut Rows,
    ) {
        let work = scratch.first.as_mut().expect("a workspace for this attention");
        assert_eq!(hidden.width, first.width, "columns to attend to");
        assert_eq!(out.width, first.query.n, "columns of all heads");
        assert!(hidden.stride >= first.stride(), "hidden rows in whole panels");
        assert_eq!(work.panels.len(), first.stride() * first.padded_heads(), "a fitting workspace");
        assert_eq!(batch.trunk_len, 0, "sequences that are whole");
        let num_sequences = batch.num_sequences();
        out.set_rows(num_sequences);
        for begin in (0..num_sequences).step_by(SEQUENCES) {
            let num = SEQUENCES.min(num_sequences - begin);
            self.fold_queries(hidden, batch, first, work, (begin, num));
            for i in 0..num {
                let rows = batch.rows(begin + i);
                let len = batch.key_lens[begin + i] as usize;
                assert!(rows.end <= hidden.num_rows, "rows of a sequence");
                assert!((1..=rows.len().min(work.max_length)).contains(&len), "keys that fit");
                self.mix(
                    &hidden.wide()[rows.start * hidden.stride..],
                    hidden.stride,
                    first,
                    work,
                    (i, len),
                );
            }
            for (head, weight) in first.values.iter().enumerate() {
                let stride = first.stride();
                let x = (&work.mixed[head * stride..], first.num_heads() * stride);
                let padded = first.head_dim.next_multiple_of(ROW_PAD);
                self.multiply_f32(num, x, weight, Epilogue::Bias, (&mut work.rows, padded));
                for (i, context) in work.rows.chunks_exact(padded).take(num).enumerate() {
                    out.row_mut(begin + i)[head * first.head_dim..][..first.head_dim]
                        .copy_from_slice(&context[..first.head_dim]);
                }
            }
        }
        self.encode(out);
    }

    /// The queries of `num` sequences from `begin` on, multiplied by each head's key projection.
    fn fold_queries(
        &self,
        hidden: &Rows,
        batch: &Packed,
        first: &First,
        work: &mut FirstWork,
        (begin, num): (usize, usize),
    ) {
        let (stride, query_stride) = (first.stride(), first.query_stride());
        for (i, row) in work.rows.chunks_exact_mut(stride).take(num).enumerate() {
            row[..first.width].copy_from_slice(hidden.row(batch.rows(begin + i).start));
        }
        let queries = (&mut work.queries[..], query_stride);
        self.multiply_f32(num, (&work.rows, stride), &first.query, Epilogue::Bias, queries);
        let heads = work.folded.chunks_exact_mut(SEQUENCES * stride);
        for (head, (weight, folded)) in first.keys.iter().zip(heads).enumerate() {
            let queries = (&work.queries[head * first.head_dim..], query_stride);
            self.multiply_f32(num, queries, weight, Epilogue::Bias, (folded, stride));
        }
    }

    /// Hidden rows of sequence `i` of the workspace by the softmax of their scores.
    fn mix(
        &self,
        rows: &[f32],
        stride: usize,
        first: &First,
        work: &mut FirstWork,
        (i, len): (usize, usize),
    ) {
        let columns = first.stride();
        let num_heads = first.num_heads();
        assert!(rows.len() >= len * stride, "rows of a sequence");
        let args = FirstArgs {
            rows: rows.as_ptr(),
            stride,
            len,
            columns,
            num_heads,
            queries: work.folded[i * columns..].as_ptr(),
            query_stride: SEQUENCES * columns,
            panels: work.panels.as_mut_ptr(),
            scores: work.scores.as_mut_ptr(),
            zeros: work.zeros.as_ptr(),
            out: work.mixed[i * num_heads * columns..].as_mut_ptr(),
        };
        // SAFETY: `with_isa` asked the CPU; `attend_with_first` compared the rows, and `First::work` sized the rest.
        unsafe { (self.kernels.first)(&args) };
    }
}

/// `out[h] = sum over tokens of softmax(queries[h] x)[t] * x[t]`, in base two.
///
/// # Safety
/// The CPU has the instruction set; `args` describes valid memory and `out` overlaps nothing else.
#[inline(always)]
pub(super) unsafe fn first<S: Simd, const MR: usize, const NV: usize>(args: &FirstArgs) {
    let FirstArgs { len, columns, num_heads, .. } = *args;
    let width = num_heads.next_multiple_of(MAX_LANES);
    // SAFETY: a vector of heads below `width`, tiles of tokens below `len`, panels of whole rows.
    unsafe {
        for head in (0..num_heads).step_by(S::LANES) {
            pack_queries::<S>(args, head);
            let (height, mut row) = (tile_height(len, MR), 0);
            while row < len {
                let rows = height.min(len - row);
                let x = (args.rows.add(row * args.stride), args.stride);
                let factors = Factors::packed(columns, x, (args.panels, S::LANES));
                let scores = args.scores.add(row * width + head);
                tile_of::<S, MR, 1>(rows, factors, args.zeros, scores, width);
                row += rows;
            }
            softmax::<S>(args.scores.add(head), len, width);
        }
        let (height, mut head) = (tile_height(num_heads, MR), 0);
        while head < num_heads {
            let heads = height.min(num_heads - head);
            for column in (0..columns).step_by(NV * S::LANES) {
                let factors = Factors {
                    k: len,
                    a: args.scores.add(head),
                    a_row: 1,
                    a_column: width,
                    b: args.rows.add(column),
                    b_row: args.stride,
                };
                let out = args.out.add(head * columns + column);
                tile_of::<S, MR, NV>(heads, factors, args.zeros, out, columns);
            }
            head += heads;
        }
    }
}

/// The queries of a vector of heads from `head` on as one panel, zeros for heads that are not there.
///
/// # Safety
/// As for [`first`].
#[inline(always)]
unsafe fn pack_queries<S: Simd>(args: &FirstArgs, head: usize) {
    for column in (0..args.columns).step_by(S::LANES) {
        let mut rows = [args.zeros; MAX_LANES];
        for (i, row) in rows.iter_mut().enumerate().take(S::LANES.min(args.num_heads - head)) {
            // SAFETY: a head and a column that are there; a panel has a vector for each column.
            *row = unsafe { args.queries.add((head + i) * args.query_stride + column) };
        }
        // SAFETY: as above.
        unsafe { S::transpose(&rows, args.panels.add(column * S::LANES), S::LANES) };
    }
}

/// The softmax over `len` rows of one vector of heads, rows `width` apart.
///
/// # Safety
/// As for [`first`].
#[inline(always)]
unsafe fn softmax<S: Simd>(scores: *mut f32, len: usize, width: usize) {
    // SAFETY: rows below `len`.
    unsafe {
        let mut max = S::load(scores);
        for t in 1..len {
            max = S::max(max, S::load(scores.add(t * width)));
        }
        let mut sum = S::splat(0.0);
        for t in 0..len {
            let score = scores.add(t * width);
            let weight = math::exp2::<S>(S::sub(S::load(score), max));
            S::store(score, weight);
            sum = S::add(sum, weight);
        }
        let scale = S::div(S::splat(1.0), sum);
        for t in 0..len {
            let score = scores.add(t * width);
            S::store(score, S::mul(S::load(score), scale));
        }
    }
}
