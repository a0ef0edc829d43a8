//! Attention whose products are `vdpbf16ps`, and `vpdpbusd` for scores of bytes: a tile of rows by 32 keys or columns, all
//! sums in registers.
//!
//! Scores never leave them: while the values of one tile of keys are multiplied, those of the next become weights, by units
//! that have no products to make. Weights are relative to a power of two near the largest of a row's first keys, and only if
//! that proves too small to a larger one.

use super::bytes::{self, CODE_TILE_BYTES};
use super::lines::{Rows, add_scores, add_values, line, line_of_scores};
use super::pack::{self, fetch};
use super::rows::{self, NO_KEY};
use super::weights::{self, ByRow, QUADS, Reference, STEPS, STEPS_POWER, reduce};
use super::work::{Work, work_bytes};
use super::{Attention, AttentionArgs, BLOCK};
use crate::engine::cpu::avx512::Avx512;
use crate::engine::cpu::math;
use crate::engine::cpu::narrow::{STEP_BYTES, TILE_BYTES, TILE_ROWS};
use crate::engine::cpu::simd::Simd;
use std::arch::x86_64::*;
use std::ops::Range;

type S = Avx512<true>;
const LANES: usize = S::LANES;

pub(in crate::engine::cpu::narrow) const ATTENTION: Attention =
    Attention { kernel: attention, work_bytes };

/// Queries of a group: sums of its scores and of its values leave eight registers.
pub(super) const ROWS: usize = 6;
pub(super) type Sums = [[__m512; 2]; ROWS];

/// [`ROWS`] queries of one head, those beyond its last whatever rows come next.
#[derive(Debug, Clone, Copy)]
struct Group {
    head: usize,
    /// Of keys and values.
    kv_head: usize,
    /// The first query, and how many.
    first: usize,
    rows: usize,
    /// Keys that some query sees: whole blocks, which lie alike for every group, so that no sum depends on who shares one.
    begin: usize,
    end: usize,
    /// Which of two places has its weights.
    slot: usize,
}

impl Group {
    fn new(args: &AttentionArgs, (head, first): (usize, usize), slot: usize) -> Self {
        let rows = ROWS.min(args.num_queries - first);
        let begin = args.visible(first).start / BLOCK * BLOCK;
        let end = args.visible(first + rows - 1).end.next_multiple_of(BLOCK);
        Self { head, kv_head: head / args.group(), first, rows, begin, end, slot }
    }

    fn next(self, args: &AttentionArgs) -> Option<Self> {
        let (head, first) = if self.first + ROWS < args.num_queries {
            (self.head, self.first + ROWS)
        } else {
            (self.head + 1, 0)
        };
        (head < args.num_heads).then(|| Self::new(args, (head, first), 1 - self.slot))
    }

    /// The keys that its query `i` sees.
    fn visible(&self, args: &AttentionArgs, i: usize) -> Range<usize> {
        args.visible(self.first + i.min(self.rows - 1))
    }

    /// # Safety
    /// As for [`attention`]; so for all here.
    #[inline(always)]
    unsafe fn query(&self, args: &AttentionArgs) -> *const u16 {
        // SAFETY: a row, and a head of it.
        unsafe { args.qkv.add(self.first * args.qkv_stride + self.head * args.head_dim) }
    }

    /// Weights of the row's keys from `begin` on.
    #[inline(always)]
    unsafe fn weights(&self, work: &Work, row: usize) -> *mut u16 {
        // SAFETY: one of the rows.
        unsafe { work.weights(self.slot).add(row * work.weights_stride()) }
    }
}

/// A group, and a block of its keys.
#[derive(Debug, Clone, Copy)]
struct Tile {
    group: Group,
    key: usize,
}

/// # Safety
/// AVX-512 with BF16, DQ and VBMI is available; `args` describes valid memory and nothing overlaps.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
pub(super) unsafe fn attention(args: &AttentionArgs) {
    // SAFETY: the caller's promise.
    unsafe {
        if bytes::pays(args) {
            attend::<true>(args);
        } else {
            attend::<false>(args);
        }
    }
}

/// With scores that are products of bytes, or of bf16: each a function of its own, as in one both would lack registers.
///
/// # Safety
/// As for [`attention`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
unsafe fn attend<const BYTES: bool>(args: &AttentionArgs) {
    // SAFETY: the caller's promise; groups are made of heads, queries and keys that are there.
    unsafe {
        let work = Work::new(args.work, args.len, args.head_dim);
        let mut context = [[_mm512_setzero_ps(); 2]; ROWS];
        let (mut before, mut next) = (None::<Tile>, Some(Group::new(args, (0, 0), 0)));
        while let Some(group) = next {
            let mut reference = prepare::<BYTES>(args, group, &work);
            for key in (group.begin..group.end).step_by(BLOCK) {
                let tile = Tile { group, key };
                let scores = score::<BYTES>(args, tile, &work);
                if key == group.begin {
                    reference.raise(&scores);
                }
                // Before the first there is nothing to multiply, and what comes of it is not taken.
                let values = before.unwrap_or(tile);
                let peak = weave::<BYTES>(tile, &scores, &reference, values, &work, &mut context);
                if before.is_none_or(|before| before.key + BLOCK == before.group.end) {
                    if let Some(before) = before {
                        finish(args, before.group, &work, context);
                    }
                    context = [[_mm512_setzero_ps(); 2]; ROWS];
                }
                if weights::exceeds(peak) {
                    context = raise::<BYTES>(args, tile, &work, &mut reference, context);
                }
                before = Some(tile);
            }
            next = group.next(args);
        }
        if let Some(Tile { group, key }) = before {
            multiply(group, key..group.end, 0, &work, &mut context);
            finish(args, group, &work, context);
        }
    }
}

/// Packs what a head reads before its first group, brings the next head's rows nearer, and codes queries.
///
/// # Safety
/// As for [`attention`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
unsafe fn prepare<const BYTES: bool>(args: &AttentionArgs, group: Group, work: &Work) -> Reference {
    // SAFETY: the caller's promise.
    unsafe {
        if group.first == 0 && group.head.is_multiple_of(args.group()) {
            let head = group.kv_head;
            if BYTES {
                bytes::keys(args, head, work);
            } else {
                pack::keys::<STEPS_POWER>(args, head, work.keys());
            }
            pack::values(args, head, work.values(head));
        }
        fetch(args, group.head + 1, group.first..group.first + ROWS);
        Reference::new(if BYTES {
            bytes::queries(args, group.query(args), work)
        } else {
            [_mm512_set1_ps(1.0 / STEPS); QUADS]
        })
    }
}

/// Scores of a tile, nothing where a query may not see.
///
/// # Safety
/// As for [`attention`]; the head's keys are packed.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
unsafe fn score<const BYTES: bool>(args: &AttentionArgs, tile: Tile, work: &Work) -> Sums {
    let (Tile { group, key }, steps) = (tile, work.dim() / BLOCK);
    // SAFETY: offsets stay inside the workspace, and inside a block of queries.
    unsafe {
        let (queries, step_bytes, tile_bytes) = if BYTES {
            let rows = Rows { start: work.codes().cast_const(), stride: work.dim() };
            (rows, STEP_BYTES / 2, CODE_TILE_BYTES)
        } else {
            let start = group.query(args).cast();
            (Rows { start, stride: 2 * args.qkv_stride }, STEP_BYTES, TILE_BYTES)
        };
        let keys = work.keys().add(key / TILE_ROWS * steps * tile_bytes).cast_const();
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for step in 0..steps {
            let keys = keys.add(step * tile_bytes);
            let columns = [keys, keys.add(steps * tile_bytes)];
            let rows = Rows { start: queries.start.add(step * step_bytes), ..queries };
            for dword in 0..if BYTES { TILE_ROWS / 2 } else { TILE_ROWS } {
                add_scores!(BYTES, dword, rows, columns, &mut sums);
            }
        }
        if BYTES {
            for sum in sums.as_flattened_mut() {
                *sum = _mm512_cvtepi32_ps(_mm512_castps_si512(*sum));
            }
        }
        // A window moves on with the queries: what the first and the last see, all see.
        let seen = group.visible(args, ROWS - 1).start..group.visible(args, 0).end;
        if args.softcap.is_some() || key < seen.start || seen.end < key + BLOCK {
            sums = restrict(args, tile, if BYTES { 1.0 } else { STEPS }, sums);
        }
        sums
    }
}

/// Caps scores, of which one is so many `steps`, and takes those away that a row may not see.
///
/// # Safety
/// As for [`attention`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
unsafe fn restrict(
    args: &AttentionArgs,
    Tile { group, key }: Tile,
    steps: f32,
    mut sums: Sums,
) -> Sums {
    for (i, sums) in sums.iter_mut().enumerate() {
        let seen = group.visible(args, i);
        // SAFETY: a row of sums.
        unsafe {
            if let Some(cap) = args.softcap {
                math::softcap::<S>(sums.as_mut_ptr().cast(), BLOCK, cap * steps);
            }
            let below = |end: usize| (1u64 << end.saturating_sub(key).min(BLOCK)) - 1;
            let hidden = !(below(seen.end) & !below(seen.start));
            for (i, scores) in sums.iter_mut().enumerate() {
                let hidden = (hidden >> (i * LANES)) as __mmask16;
                *scores = _mm512_mask_mov_ps(*scores, hidden, _mm512_set1_ps(NO_KEY * steps));
            }
        }
    }
    sums
}

/// Writes the weights of a tile, and returns the largest; meanwhile adds the values of another by its weights.
///
/// # Safety
/// As for [`attention`]; the weights of `values` were written.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
unsafe fn weave<const BYTES: bool>(
    tile: Tile,
    scores: &Sums,
    reference: &Reference,
    values: Tile,
    work: &Work,
    context: &mut Sums,
) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let (rows, columns) = of_values(values, 0, work);
        // By value: what has an address has no register.
        let (mut sums, mut peak) = (*context, _mm512_setzero_si512());
        let weights = tile.group.weights(work, 0).add(tile.key - tile.group.begin);
        // Not a loop, in which sums would have addresses.
        macro_rules! row {
            ($row:literal after line $first:literal, then $($dword:literal)*) => {
                add_values!($first, rows, columns, &mut sums);
                let weights = weights.add($row * work.weights_stride());
                peak = reference.weigh::<BYTES>($row, scores[$row], weights, peak);
                $(add_values!($dword, rows, columns, &mut sums);)*
            };
        }
        row!(0 after line 0, then 1);
        row!(1 after line 2, then 3 4);
        row!(2 after line 5, then 6 7);
        row!(3 after line 8, then 9);
        row!(4 after line 10, then 11 12);
        row!(5 after line 13, then 14 15);
        *context = sums;
        peak
    }
}

/// The weights and the values, from `column` on, of a tile.
#[inline(always)]
unsafe fn of_values(
    Tile { group, key }: Tile,
    column: usize,
    work: &Work,
) -> (Rows, [*const u8; 2]) {
    // SAFETY: a tile of the group's.
    unsafe {
        let start = group.weights(work, 0).add(key - group.begin).cast::<u8>().cast_const();
        let tile = key / BLOCK * (work.dim() / TILE_ROWS) + column / TILE_ROWS;
        let values = work.values(group.kv_head).add(tile * TILE_BYTES).cast_const();
        (Rows { start, stride: 2 * work.weights_stride() }, [values, values.add(TILE_BYTES)])
    }
}

/// Adds the values of some keys, 32 columns from `column` on, by a group's weights.
///
/// # Safety
/// As for [`attention`]; the weights were written.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
unsafe fn multiply(
    group: Group,
    keys: Range<usize>,
    column: usize,
    work: &Work,
    context: &mut Sums,
) {
    let mut sums = *context;
    for key in keys.step_by(BLOCK) {
        // SAFETY: the caller's promise.
        unsafe {
            let (rows, columns) = of_values(Tile { group, key }, column, work);
            for dword in 0..TILE_ROWS {
                add_values!(dword, rows, columns, &mut sums);
            }
        }
    }
    *context = sums;
}

/// Makes a tile's weights again, where some are too large, and those of the keys before relative to the same.
///
/// # Safety
/// As for [`weave`].
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
unsafe fn raise<const BYTES: bool>(
    args: &AttentionArgs,
    tile: Tile,
    work: &Work,
    reference: &mut Reference,
    mut context: Sums,
) -> Sums {
    let Tile { group, key } = tile;
    // SAFETY: the caller's promise.
    unsafe {
        let scores = score::<BYTES>(args, tile, work);
        let factors = ByRow::new(reference.raise(&scores));
        for (row, (scores, context)) in scores.into_iter().zip(&mut context).enumerate() {
            let (weights, factor) = (group.weights(work, row), factors.of(row));
            weights::scale(weights, key - group.begin, factor);
            for x in context {
                *x = S::mul(*x, S::splat(factor));
            }
            let weights = weights.add(key - group.begin);
            reference.weigh::<BYTES>(row, scores, weights, _mm512_setzero_si512());
        }
        context
    }
}

/// Divides a group's values, of which `context` has the first 32 columns, by the sums of their weights.
///
/// # Safety
/// As for [`attention`]; all weights of the group were written.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
unsafe fn finish(args: &AttentionArgs, group: Group, work: &Work, mut context: Sums) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); ROWS];
        for key in (0..group.end - group.begin).step_by(BLOCK) {
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = weights::add(*sum, group.weights(work, row).add(key));
            }
        }
        let mut scales = reduce(sums, |a, b| S::add(a, b));
        for scale in &mut scales {
            *scale = S::div(S::splat(1.0), *scale);
        }
        let scales = ByRow::new(scales);
        for column in (0..args.head_dim).step_by(BLOCK) {
            if column > 0 {
                context = [[_mm512_setzero_ps(); 2]; ROWS];
                multiply(group, group.begin..group.end, column, work, &mut context);
            }
            for (row, x) in context.into_iter().enumerate().take(group.rows) {
                let at = (group.first + row) * args.out_stride + group.head * args.head_dim;
                let columns = BLOCK.min(args.head_dim - column);
                let scale = S::splat(scales.of(row));
                let x = [S::mul(x[0], scale), S::mul(x[1], scale)];
                rows::store(x, args.out.add(at + column), columns);
            }
        }
    }
}
