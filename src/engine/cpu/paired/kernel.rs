//! Tiles of twenty rows by a vector of columns.

use super::{IN_PAIRS, LANES, STEP};
use crate::engine::cpu::avx512::Avx512;
use crate::engine::cpu::gemm::{Factors, tile_height, tile_of};
use crate::engine::cpu::kernels::LinearArgs;
use crate::engine::cpu::math;
use crate::engine::cpu::simd::Simd;
use std::arch::x86_64::*;
use std::ops::Range;

type S = Avx512;

/// Rows of a tile: with the columns of a step and what is added to them they fill the registers.
const TILE_ROWS: usize = 20;
/// Rows of plain products; two such tiles have the rows of one.
const PLAIN_ROWS: usize = TILE_ROWS / 2;
/// Rows that go through all panels together: a group's, unless a single sequence has more. What is kept of each is on the
/// stack.
const MAX_ROWS: usize = 512;

/// Mean squares of rows that are near enough to that of the weights: by a factor of 32, so sums may lose five bits.
const MEAN_SQUARES: Range<f32> = 1.0 / 1024.0..1024.0;

/// Sums of a tile before they are finished: lines that are in the L1 cache, where those of the output need not be.
#[repr(C, align(64))]
struct Sums([f32; TILE_ROWS * LANES]);

/// What is known of the rows: the sum of the products of their pairs, or that they have none that could be used.
struct Pairs([Option<f32>; MAX_ROWS]);

/// # Safety
/// The CPU has AVX-512; `args` describes valid memory and `out` overlaps nothing else.
#[target_feature(enable = "avx512f")]
pub(in crate::engine::cpu) unsafe fn linear(args: &LinearArgs) {
    let height = tile_height(args.rows, TILE_ROWS);
    let mut pairs = Pairs([None; MAX_ROWS]);
    let block = MAX_ROWS / height * height;
    for first in (0..args.rows).step_by(block) {
        let rows = first..args.rows.min(first + block);
        // SAFETY: the caller's promise.
        unsafe {
            for (row, pairs) in rows.clone().zip(&mut pairs.0) {
                *pairs = products_of_pairs(args.x.add(row * args.x_stride), args.k);
            }
            multiply(args, rows, height, &pairs);
        }
    }
}

/// Takes some rows through all panels.
///
/// # Safety
/// As for [`linear`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn multiply(args: &LinearArgs, rows: Range<usize>, height: usize, pairs: &Pairs) {
    let mut sums = Sums([0.0; TILE_ROWS * LANES]);
    let panel_floats = args.k * LANES;
    // While a panel is in use, each of its tiles fetches its share of the next one.
    let share = panel_floats / rows.len().div_ceil(height) + 1;
    for panel_idx in 0..args.num_panels {
        let mut ahead = panel_floats;
        for first in rows.clone().step_by(height) {
            let tile = first..rows.end.min(first + height);
            let pairs = &pairs.0[first - rows.start..][..tile.len()];
            // SAFETY: a panel and rows of `args`; a fetch past the last panel has no effect.
            unsafe {
                let panel = args.panels.add(panel_idx * panel_floats);
                for line in (ahead..ahead + share).step_by(LANES) {
                    S::prefetch(panel.wrapping_add(line));
                }
                let x = args.x.add(first * args.x_stride);
                let start = S::load(args.starts.add(panel_idx * LANES));
                if pairs.iter().any(Option::is_some) {
                    tile_of_pairs((x, args.x_stride), (panel, args.k), start, pairs, &mut sums.0);
                }
                if pairs.iter().any(Option::is_none) {
                    plain((x, args.x_stride), (panel, args.k), pairs, &mut sums.0);
                }
                finish(args, tile, panel_idx, &sums);
            }
            ahead += share;
        }
    }
}

/// The sum of `x1 x2` over all pairs of a row; `None` if the row is of another size than the weights, or not finite.
///
/// # Safety
/// AVX-512 is available, and `x` valid for `k` floats; so for all here.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn products_of_pairs(x: *const f32, k: usize) -> Option<f32> {
    /// The first of each pair, in three vectors, which are eight steps.
    const FIRSTS: [u16; STEP / 2] = {
        let (mut firsts, mut i) = ([0; STEP / 2], 0);
        while i < STEP / 2 * LANES {
            if i % STEP < IN_PAIRS && i.is_multiple_of(2) {
                firsts[i / LANES] |= 1 << (i % LANES);
            }
            i += 1;
        }
        firsts
    };
    let whole = k / STEP * STEP;
    // SAFETY: vectors of the row's floats, the last masked.
    unsafe {
        let mut products = [S::splat(0.0); STEP / 2];
        let mut squares = products;
        for first in (0..k).step_by(STEP / 2 * LANES) {
            for (j, firsts) in FIRSTS.iter().enumerate() {
                let at = first + j * LANES;
                let before = |end: usize| ((1u32 << end.saturating_sub(at).min(LANES)) - 1) as u16;
                let x = _mm512_maskz_loadu_ps(before(k), x.wrapping_add(at));
                let next = _mm512_permute_ps::<0xb1>(x);
                let mask = firsts & before(whole);
                products[j] = _mm512_mask3_fmadd_ps(x, next, products[j], mask);
                squares[j] = S::fma(x, x, squares[j]);
            }
        }
        let sum = |x: [__m512; STEP / 2]| S::reduce_add(S::add(S::add(x[0], x[1]), x[2]));
        let mean_square = sum(squares) / k as f32;
        MEAN_SQUARES.contains(&mean_square).then(|| sum(products))
    }
}

/// A tile whose rows have products of pairs; what it writes for one that has not is not wanted.
///
/// # Safety
/// The rows, `stride` apart, have `k` floats each, and so many vectors has the panel.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn tile_of_pairs(
    x: (*const f32, usize),
    panel: (*const f32, usize),
    start: __m512,
    pairs: &[Option<f32>],
    sums: &mut [f32; TILE_ROWS * LANES],
) {
    macro_rules! dispatch {
        ($($m:literal)*) => {
            match pairs.len() {
                // SAFETY: the caller's promise.
                $($m => unsafe { tile::<$m>(x, panel, start, pairs, sums) },)*
                _ => unreachable!("a tile has 1 to {TILE_ROWS} rows"),
            }
        };
    }
    dispatch!(20 19 18 17 16 15 14 13 12 11 10 9 8 7 6 5 4 3 2 1);
}

/// Adds a row's products of one step to its sums. Written out, as the compiler would make additions of all rows first, and
/// then lack registers.
macro_rules! add_step {
    ($sums:expr, $x:expr, $y:expr) => {
        std::arch::asm!(
            "prefetcht0 [{x} + 256]",
            "vaddps zmm26, {y1}, dword ptr [{x}]{{1to16}}",
            "vaddps zmm27, {y0}, dword ptr [{x} + 4]{{1to16}}",
            "vaddps zmm28, {y3}, dword ptr [{x} + 8]{{1to16}}",
            "vaddps zmm29, {y2}, dword ptr [{x} + 12]{{1to16}}",
            "vfmadd231ps {sums}, zmm26, zmm27",
            "vfmadd231ps {sums}, zmm28, zmm29",
            "vfmadd231ps {sums}, {y4}, dword ptr [{x} + 16]{{1to16}}",
            "vfmadd231ps {sums}, {y5}, dword ptr [{x} + 20]{{1to16}}",
            sums = inout(zmm_reg) $sums,
            x = in(reg) $x,
            y0 = in(zmm_reg) $y[0], y1 = in(zmm_reg) $y[1], y2 = in(zmm_reg) $y[2],
            y3 = in(zmm_reg) $y[3], y4 = in(zmm_reg) $y[4], y5 = in(zmm_reg) $y[5],
            out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _,
            options(pure, readonly, nostack, preserves_flags),
        )
    };
}

/// # Safety
/// As for [`tile_of_pairs`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn tile<const M: usize>(
    (mut x, stride): (*const f32, usize),
    (mut panel, k): (*const f32, usize),
    start: __m512,
    pairs: &[Option<f32>],
    sums: &mut [f32; TILE_ROWS * LANES],
) {
    // SAFETY: `k` floats of M rows, and vectors of the panel.
    unsafe {
        let mut acc = [start; M];
        for (acc, pairs) in acc.iter_mut().zip(pairs) {
            *acc = S::sub(*acc, S::splat(pairs.unwrap_or(0.0)));
        }
        for _ in 0..k / STEP {
            let mut y = [start; STEP];
            for (i, y) in y.iter_mut().enumerate() {
                *y = S::load(panel.add(i * LANES));
            }
            macro_rules! rows {
                ($($i:literal)*) => {$(
                    if $i < M {
                        add_step!(acc[$i], x.add($i * stride), y);
                    }
                )*};
            }
            rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19);
            x = x.add(STEP);
            panel = panel.add(STEP * LANES);
        }
        for p in 0..k % STEP {
            let y = S::load(panel.add(p * LANES));
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = S::fma(y, S::splat(*x.add(i * stride + p)), *acc);
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            S::store(sums.as_mut_ptr().add(i * LANES), *acc);
        }
    }
}

/// Plain products in the place of rows without products of pairs.
///
/// # Safety
/// As for [`tile_of_pairs`].
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f")]
unsafe fn plain(
    (x, stride): (*const f32, usize),
    (panel, k): (*const f32, usize),
    pairs: &[Option<f32>],
    sums: &mut [f32; TILE_ROWS * LANES],
) {
    let (nothing, mut products) = ([0.0; LANES], [0.0; PLAIN_ROWS * LANES]);
    let halves = pairs.chunks(PLAIN_ROWS).zip(sums.chunks_exact_mut(PLAIN_ROWS * LANES));
    for (i, (pairs, sums)) in halves.enumerate() {
        // SAFETY: the caller's promise, for some of the rows.
        unsafe {
            let x = (x.add(i * PLAIN_ROWS * stride), stride);
            let factors = Factors::packed(k, x, (panel, LANES));
            let out = products.as_mut_ptr();
            tile_of::<S, PLAIN_ROWS, 1>(pairs.len(), factors, nothing.as_ptr(), out, LANES);
        }
        let rows = sums.chunks_exact_mut(LANES).zip(products.chunks_exact(LANES));
        for ((sums, products), pairs) in rows.zip(pairs) {
            if pairs.is_none() {
                sums.copy_from_slice(products);
            }
        }
    }
}

/// Writes the rows of a tile: scales, bias, activation.
///
/// # Safety
/// As for [`linear`]; the tile and the panel are of `args`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn finish(args: &LinearArgs, rows: Range<usize>, panel_idx: usize, sums: &Sums) {
    let column = panel_idx * LANES;
    // SAFETY: the caller's promise.
    unsafe {
        let (scales, bias) = (S::load(args.scales.add(column)), S::load(args.bias.add(column)));
        for (row, sums) in rows.zip(sums.0.chunks_exact(LANES)) {
            let x = S::fma(S::load(sums.as_ptr()), scales, bias);
            let out = args.out.add(row * args.out_stride + column);
            S::store(out, math::activate::<S>(args.epilogue, x));
        }
    }
}
