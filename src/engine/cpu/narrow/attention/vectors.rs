//! Attention whose products are `vdpbf16ps`: a tile of rows by 32 keys or columns, all sums in registers.
//!
//! Three groups of queries are under way at a time, one in each stage: between the lines of two groups' products the
//! third's softmax is taken, by units that have no products to make.

use super::bytes::{self, CODE_TILE_BYTES};
use super::pack::fetch;
use super::stages::{pack, settle, store};
use super::state::{NO_KEY, Part, ROWS, State};
use super::woven::{OfScores, Softmax};
use super::{AttentionArgs, BLOCK, Block, GROUP, Sizes, Work};
use crate::engine::cpu::avx512::Avx512;
use crate::engine::cpu::math;
use crate::engine::cpu::narrow::{STEP_BYTES, TILE_BYTES, TILE_ROWS};
use crate::engine::cpu::simd::Simd;
use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

type S = Avx512<true>;
const LANES: usize = S::LANES;

const _: () = assert!(BLOCK.is_multiple_of(GROUP) && (TILE_ROWS / 2).is_multiple_of(ROWS));

/// Those of a group: 16 sums wait for no product's latency.
type Sums = [[__m512; 2]; GROUP];

/// [`GROUP`] queries of a block, those beyond its last whatever rows come next, and the block's keys.
#[derive(Debug, Clone, Copy)]
struct Group {
    block: Block,
    row: usize,
    /// Which of two places has its scores and weights.
    slot: usize,
}

impl Group {
    fn next(self, args: &AttentionArgs) -> Option<Self> {
        let (row, slot) = (self.row + GROUP, 1 - self.slot);
        if row < self.block.rows {
            return Some(Self { row, slot, ..self });
        }
        self.block.next(args).map(|block| Self { block, row: 0, slot })
    }

    /// The keys that its query `i` sees.
    fn visible(&self, args: &AttentionArgs, i: usize) -> Range<usize> {
        let Block { first, rows, .. } = self.block;
        args.visible(first + (self.row + i).min(rows - 1))
    }

    /// # Safety
    /// As for [`attention`]; so for all here.
    #[inline(always)]
    unsafe fn scores(&self, work: &Work) -> Part<f32> {
        // SAFETY: the caller's promise.
        Part { start: unsafe { work.scores(self.slot) }, stride: work.sizes.scores_stride() }
    }

    #[inline(always)]
    unsafe fn weights(&self, work: &Work) -> Part<u16> {
        // SAFETY: the caller's promise.
        Part { start: unsafe { work.weights(self.slot) }, stride: work.sizes.weights_stride() }
    }

    /// The softmax of its scores, whose maxima and scales are those of either slot.
    #[inline(always)]
    unsafe fn softmax<const SCALED: bool>(
        &self,
        work: &Work,
        of_scores: &[OfScores; 2],
        state: &State,
    ) -> Softmax<SCALED> {
        let Self { block, row, slot } = *self;
        // SAFETY: the caller's promise; rows of the block.
        unsafe {
            let rows = [row, row + ROWS].map(|row| state.rows(row, block.has_first_keys()));
            let parts = (self.scores(work), self.weights(work));
            Softmax::new(parts, block.end - block.begin, &of_scores[slot], rows)
        }
    }
}

/// # Safety
/// AVX-512 with BF16, DQ and VBMI is available; `args` describes valid memory and nothing overlaps.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
pub(in crate::engine::cpu) unsafe fn attention(args: &AttentionArgs) {
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
        let work = Work::new(args.work, Sizes::new(args.len, args.head_dim, GROUP));
        let mut state = State::default();
        let mut of_scores = [OfScores::none(); 2];
        let first = Group { block: Block::first(args, work.sizes.chunk), row: 0, slot: 0 };
        let (mut before, mut current, mut next) = (None::<Group>, None::<Group>, Some(first));
        while next.is_some() || current.is_some() || before.is_some() {
            // Made anew each time: one that lives on would not be held in registers.
            let mut softmax: Softmax<BYTES> = match current {
                Some(group) => group.softmax(&work, &of_scores, &state),
                None => Softmax::none(),
            };
            if let Some(group) = next {
                prepare::<BYTES>(args, group, &work);
                score(args, group, &work, &mut of_scores[group.slot], &mut softmax);
            }
            if let Some(group) = before {
                mix(args, group, (&work, &state), &mut softmax);
            }
            if let Some(group) = current {
                softmax.end(group.row, group.block.slot, &mut state);
            }
            (before, current, next) = (current, next, next.and_then(|group| group.next(args)));
        }
    }
}

/// Packs what a head reads before its first group, and brings the next head's rows nearer.
///
/// # Safety
/// As for [`attention`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
unsafe fn prepare<const BYTES: bool>(
    args: &AttentionArgs,
    Group { block, row, .. }: Group,
    work: &Work,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if row == 0 {
            pack::<BYTES>(args, block, work);
        }
        if block.has_first_keys() {
            let first = block.first + row;
            fetch(args, block.head + 1, first..first + GROUP);
        }
    }
}

/// Scores of a group, nothing where a query may not see, and their maxima.
///
/// # Safety
/// As for [`attention`]; the head's keys are packed.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
unsafe fn score<const BYTES: bool>(
    args: &AttentionArgs,
    group: Group,
    work: &Work,
    of_scores: &mut OfScores,
    softmax: &mut Softmax<BYTES>,
) {
    let (block, steps) = (group.block, work.sizes.dim / BLOCK);
    // A window moves on with the queries: what the first and the last see, all see.
    let seen = group.visible(args, GROUP - 1).start..group.visible(args, 0).end;
    // SAFETY: offsets stay inside the workspace, and inside a block of queries.
    unsafe {
        let scores = group.scores(work);
        *of_scores = OfScores::none();
        let query = args.qkv.add((block.first + group.row) * args.qkv_stride);
        let query = query.add(block.head * args.head_dim);
        let (query, row_bytes, step_bytes, tile_bytes) = if BYTES {
            of_scores.scales = bytes::queries(args, query, work);
            (work.codes().cast_const(), work.sizes.dim, STEP_BYTES / 2, CODE_TILE_BYTES)
        } else {
            (query.cast(), 2 * args.qkv_stride, STEP_BYTES, TILE_BYTES)
        };
        for key in (block.begin..block.end).step_by(BLOCK) {
            let keys = work.keys().add(key / TILE_ROWS * steps * tile_bytes).cast_const();
            let mut sums = [[_mm512_setzero_ps(); 2]; GROUP];
            for step in 0..steps {
                let keys = keys.add(step * tile_bytes);
                let columns = [keys, keys.add(steps * tile_bytes)];
                let query = query.add(step * step_bytes);
                multiply::<BYTES, BYTES>(query, row_bytes, columns, &mut sums, softmax);
            }
            if BYTES {
                for sum in sums.as_flattened_mut() {
                    *sum = _mm512_cvtepi32_ps(_mm512_castps_si512(*sum));
                }
            }
            if args.softcap.is_some() || key < seen.start || seen.end < key + BLOCK {
                sums = restrict(args, group, key, sums);
            }
            for (i, (sums, max)) in sums.into_iter().zip(&mut of_scores.maxima).enumerate() {
                *max = S::max(*max, S::max(sums[0], sums[1]));
                store(sums, scores.row(i).add(key - block.begin), BLOCK);
            }
        }
    }
}

/// Caps scores, and takes those away that a row may not see.
///
/// # Safety
/// As for [`attention`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
unsafe fn restrict(args: &AttentionArgs, group: Group, key: usize, mut sums: Sums) -> Sums {
    for (i, sums) in sums.iter_mut().enumerate() {
        let seen = group.visible(args, i);
        // SAFETY: a row of sums.
        unsafe {
            if let Some(cap) = args.softcap {
                math::softcap::<S>(sums.as_mut_ptr().cast(), BLOCK, cap);
            }
            let below = |end: usize| (1u64 << end.saturating_sub(key).min(BLOCK)) - 1;
            let hidden = !(below(seen.end) & !below(seen.start));
            for (i, scores) in sums.iter_mut().enumerate() {
                let hidden = (hidden >> (i * LANES)) as __mmask16;
                *scores = _mm512_mask_mov_ps(*scores, hidden, _mm512_set1_ps(NO_KEY));
            }
        }
    }
    sums
}

/// Values by the weights of a group.
///
/// # Safety
/// As for [`attention`]; the head's values are packed.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
unsafe fn mix<const SCALED: bool>(
    args: &AttentionArgs,
    group: Group,
    (work, state): (&Work, &State),
    softmax: &mut Softmax<SCALED>,
) {
    let (Group { block, row, .. }, dim) = (group, work.sizes.dim);
    // SAFETY: offsets stay inside the workspace; rows of the block.
    unsafe {
        let weights = group.weights(work);
        for column in (0..dim).step_by(BLOCK) {
            let mut sums = [[_mm512_setzero_ps(); 2]; GROUP];
            for key in (block.begin..block.end).step_by(BLOCK) {
                let tile = key / BLOCK * (dim / TILE_ROWS) + column / TILE_ROWS;
                let values = work.values(block).add(tile * TILE_BYTES).cast_const();
                let weights_of = weights.start.add(key - block.begin).cast::<u8>();
                let columns = [values, values.add(TILE_BYTES)];
                let row_bytes = 2 * weights.stride;
                multiply::<false, SCALED>(weights_of, row_bytes, columns, &mut sums, softmax);
            }
            for (i, sums) in sums.into_iter().enumerate().take(block.rows - row) {
                settle(args, (block, row + i), column, sums, (work, state));
            }
        }
    }
}

/// Adds the products of [`GROUP`] rows, 64 bytes of each, with two packed tiles of columns; if `BYTES`, those of 32 signed
/// bytes with unsigned ones, as integers. The next piece of softmax is taken meanwhile.
///
/// # Safety
/// As for [`attention`]; the rows and tiles are valid.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
unsafe fn multiply<const BYTES: bool, const SCALED: bool>(
    rows: *const u8,
    row_bytes: usize,
    columns: [*const u8; 2],
    sums: &mut Sums,
    softmax: &mut Softmax<SCALED>,
) {
    let lines = if BYTES { TILE_ROWS / 2 } else { TILE_ROWS };
    // SAFETY: a line of each tile, a dword of each row.
    unsafe {
        // By value: what has an address has no register.
        let mut own = *sums;
        let piece = softmax.next();
        for row in 0..ROWS {
            multiply_line::<BYTES>(row * lines / ROWS, (rows, row_bytes), columns, &mut own);
            if let Some(piece) = &piece {
                piece.weigh(row);
            }
            for dword in row * lines / ROWS + 1..(row + 1) * lines / ROWS {
                multiply_line::<BYTES>(dword, (rows, row_bytes), columns, &mut own);
            }
        }
        *sums = own;
    }
}

/// A dword of each row by a vector of each of two tiles. Written out, as the compiler would gather the products behind
/// what is woven between them, and then lack registers.
///
/// # Safety
/// As for [`multiply`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
unsafe fn multiply_line<const BYTES: bool>(
    dword: usize,
    (rows, row_bytes): (*const u8, usize),
    columns: [*const u8; 2],
    [s0, s1, s2, s3, s4, s5, s6, s7]: &mut Sums,
) {
    macro_rules! multiply_line {
        ($product:literal) => {
            // SAFETY: the caller's promise; it reads memory alone.
            unsafe {
                let row = rows.add(dword * 4);
                asm!(
                    "vmovups zmm16, [{low}]",
                    "vmovups zmm17, [{high}]",
                    concat!($product, " zmm0, zmm16, dword ptr [{row}]{{1to16}}"),
                    concat!($product, " zmm1, zmm17, dword ptr [{row}]{{1to16}}"),
                    concat!($product, " zmm2, zmm16, dword ptr [{row} + {stride}]{{1to16}}"),
                    concat!($product, " zmm3, zmm17, dword ptr [{row} + {stride}]{{1to16}}"),
                    concat!($product, " zmm4, zmm16, dword ptr [{row} + 2*{stride}]{{1to16}}"),
                    concat!($product, " zmm5, zmm17, dword ptr [{row} + 2*{stride}]{{1to16}}"),
                    concat!($product, " zmm6, zmm16, dword ptr [{third}]{{1to16}}"),
                    concat!($product, " zmm7, zmm17, dword ptr [{third}]{{1to16}}"),
                    concat!($product, " zmm8, zmm16, dword ptr [{row} + 4*{stride}]{{1to16}}"),
                    concat!($product, " zmm9, zmm17, dword ptr [{row} + 4*{stride}]{{1to16}}"),
                    concat!($product, " zmm10, zmm16, dword ptr [{third} + 2*{stride}]{{1to16}}"),
                    concat!($product, " zmm11, zmm17, dword ptr [{third} + 2*{stride}]{{1to16}}"),
                    concat!($product, " zmm12, zmm16, dword ptr [{sixth}]{{1to16}}"),
                    concat!($product, " zmm13, zmm17, dword ptr [{sixth}]{{1to16}}"),
                    concat!($product, " zmm14, zmm16, dword ptr [{sixth} + {stride}]{{1to16}}"),
                    concat!($product, " zmm15, zmm17, dword ptr [{sixth} + {stride}]{{1to16}}"),
                    low = in(reg) columns[0].add(dword * STEP_BYTES),
                    high = in(reg) columns[1].add(dword * STEP_BYTES),
                    row = in(reg) row,
                    third = in(reg) row.add(3 * row_bytes),
                    sixth = in(reg) row.add(6 * row_bytes),
                    stride = in(reg) row_bytes,
                    inout("zmm0") s0[0], inout("zmm1") s0[1],
                    inout("zmm2") s1[0], inout("zmm3") s1[1],
                    inout("zmm4") s2[0], inout("zmm5") s2[1],
                    inout("zmm6") s3[0], inout("zmm7") s3[1],
                    inout("zmm8") s4[0], inout("zmm9") s4[1],
                    inout("zmm10") s5[0], inout("zmm11") s5[1],
                    inout("zmm12") s6[0], inout("zmm13") s6[1],
                    inout("zmm14") s7[0], inout("zmm15") s7[1],
                    out("zmm16") _, out("zmm17") _,
                    options(nostack, readonly, preserves_flags),
                );
            }
        };
    }
    if BYTES { multiply_line!("vpdpbusd") } else { multiply_line!("vdpbf16ps") }
}
