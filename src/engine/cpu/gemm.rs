//! The matrix product: tiles of rows by one weight panel, all accumulators in registers.
//!
//! Every output element is the bias plus one chain of fused multiply-adds over k, in order, whatever the
//! number of rows: full tiles, edge tiles and batch mates give the same bits.

use super::kernels::LinearArgs;
use super::math;
use super::simd::Simd;
use crate::engine::Epilogue;

const FLOATS_PER_LINE: usize = 16;

/// Floats of the largest tile: 14 rows of 32 columns.
const RAW_FLOATS: usize = 448;

/// A tile before its activation: lines that are in the L1 cache, where those of the output need not be.
#[repr(C, align(64))]
struct Raw([f32; RAW_FLOATS]);

/// Where the factors of a product `a[rows, k] * b[k, NV * LANES]` lie. Steps are in floats; where they are constants
/// the compiler sees them, as all of this is inlined.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    pub(super) k: usize,
    pub(super) a: *const f32,
    /// From a row of `a` to the next.
    pub(super) a_row: usize,
    /// From a column of `a` to the next.
    pub(super) a_column: usize,
    pub(super) b: *const f32,
    /// From a row of `b` to the next.
    pub(super) b_row: usize,
}

impl Factors {
    /// Rows that are `lda` apart, by a packed panel of `width` columns.
    #[inline(always)]
    pub(super) fn packed(
        k: usize,
        (a, lda): (*const f32, usize),
        (panel, width): (*const f32, usize),
    ) -> Self {
        Self { k, a, a_row: lda, a_column: 1, b: panel, b_row: width }
    }
}

/// `c[M, NV * LANES] = a[M, k] * b[k, NV * LANES] + bias`
///
/// # Safety
/// The CPU has the instruction set; the pointers are valid for the sizes above, `c` with the stride `ldc`.
#[inline(always)]
unsafe fn tile<S: Simd, const M: usize, const NV: usize>(
    factors: Factors,
    bias: *const f32,
    c: *mut f32,
    ldc: usize,
) {
    let Factors { k, a, a_row, a_column, mut b, b_row } = factors;
    // SAFETY: all offsets stay below M rows, k columns and one panel, which the caller vouches for.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; M];
        for row in &mut acc {
            for (j, x) in row.iter_mut().enumerate() {
                *x = S::load(bias.add(j * S::LANES));
            }
        }
        for p in 0..k {
            let mut columns = [S::splat(0.0); NV];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = S::load(b.add(j * S::LANES));
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let x = S::splat(*a.add(i * a_row + p * a_column));
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum = S::fma(x, columns[j], *sum);
                }
            }
            b = b.add(b_row);
        }
        for (i, row) in acc.iter().enumerate() {
            for (j, sum) in row.iter().enumerate() {
                S::store(c.add(i * ldc + j * S::LANES), *sum);
            }
        }
    }
}

/// A tile of `rows <= MR` rows: the micro-kernel for exactly that many.
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
pub(super) unsafe fn tile_of<S: Simd, const MR: usize, const NV: usize>(
    rows: usize,
    factors: Factors,
    bias: *const f32,
    c: *mut f32,
    ldc: usize,
) {
    macro_rules! dispatch {
        ($($m:literal)*) => {
            match rows {
                // SAFETY: the caller's promise, for `rows` rows.
                $($m if $m <= MR => unsafe { tile::<S, $m, NV>(factors, bias, c, ldc) },)*
                _ => unreachable!("a tile has 1 to {MR} rows"),
            }
        };
    }
    dispatch!(14 13 12 11 10 9 8 7 6 5 4 3 2 1);
}

/// Rows of a tile such that `rows` rows make tiles of even height: an edge tile of one or two rows would
/// wait for the latency of its few sums.
#[inline(always)]
pub(super) fn tile_height(rows: usize, max: usize) -> usize {
    rows.div_ceil(rows.div_ceil(max).max(1)).max(1)
}

/// # Safety
/// The CPU has the instruction set; `args` describes valid memory and `out` overlaps nothing else.
#[inline(always)]
pub(super) unsafe fn linear<S: Simd, const MR: usize, const NV: usize>(args: &LinearArgs) {
    let width = NV * S::LANES;
    let mut raw = Raw([0.0; RAW_FLOATS]);
    const { assert!(MR * NV * S::LANES <= RAW_FLOATS) };
    let height = tile_height(args.rows, MR);
    let panel_floats = args.k * width;
    // While a panel is in use, each of its tiles fetches its share of the next one.
    let share = panel_floats / args.rows.div_ceil(height).max(1) + 1;
    // Panels outside, rows inside: a panel is read from memory once and stays in cache for all rows.
    for panel_idx in 0..args.num_panels {
        let mut row = 0;
        let mut ahead = panel_floats;
        while row < args.rows {
            let rows = height.min(args.rows - row);
            // SAFETY: offsets of a panel below `num_panels` and of rows below `args.rows`; a fetch past
            // the last panel has no effect.
            unsafe {
                let panel = args.panels.add(panel_idx * panel_floats);
                for line in (ahead..ahead + share).step_by(FLOATS_PER_LINE) {
                    S::prefetch(panel.wrapping_add(line));
                }
                let bias = args.bias.add(panel_idx * width);
                let a = (args.x.add(row * args.x_stride), args.x_stride);
                let c = args.out.add(row * args.out_stride + panel_idx * width);
                let (factors, ldc) = (Factors::packed(args.k, a, (panel, width)), args.out_stride);
                if args.epilogue == Epilogue::Bias {
                    tile_of::<S, MR, NV>(rows, factors, bias, c, ldc);
                } else {
                    let raw = raw.0.as_mut_ptr();
                    tile_of::<S, MR, NV>(rows, factors, bias, raw, width);
                    activate_tile::<S, NV>(args.epilogue, rows, raw, c, ldc);
                }
            }
            ahead += share;
            row += rows;
        }
    }
}

/// Writes the activation of a tile's `raw` sums.
///
/// # Safety
/// `raw` is valid for `rows` rows of one panel one after another, and so is `c` with the stride `ldc`.
#[inline(always)]
unsafe fn activate_tile<S: Simd, const NV: usize>(
    epilogue: Epilogue,
    rows: usize,
    raw: *const f32,
    c: *mut f32,
    ldc: usize,
) {
    for i in 0..rows {
        for j in 0..NV {
            // SAFETY: inside the tile.
            unsafe {
                let x = S::load(raw.add((i * NV + j) * S::LANES));
                S::store(c.add(i * ldc + j * S::LANES), math::activate::<S>(epilogue, x));
            }
        }
    }
}
