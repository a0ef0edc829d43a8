//! The narrow product on SIMD registers: a tile of rows by one panel, all sums in registers.

use super::finish::{Floats, Raw, finish_row};
use super::lanes::Lanes;
use super::{LinearArgs, STEP_DWORDS};
use std::ops::Range;

/// A dot-product instruction over dwords: of narrow numbers, or of one f32.
///
/// # Safety
/// As for [`crate::engine::cpu::simd::Simd`].
pub(in crate::engine::cpu) trait Dot {
    /// One dword of a row, as all columns need it.
    type Row: Copy;
    type Columns: Copy;
    type Sums: Copy;

    unsafe fn zero() -> Self::Sums;
    unsafe fn row(p: *const u32) -> Self::Row;
    /// A dword each of one vector of columns.
    unsafe fn columns(p: *const u32) -> Self::Columns;
    unsafe fn dot(sums: Self::Sums, row: Self::Row, columns: Self::Columns) -> Self::Sums;
    unsafe fn store(p: *mut u32, sums: Self::Sums);
}

/// A dot product whose sums are those of a linear layer.
///
/// # Safety
/// As for [`Dot`].
pub(super) trait LinearDot: Dot {
    /// What the sums are.
    type Raw: Raw;

    /// What the sums of a vector of columns, `column` and those after it, begin at.
    #[inline(always)]
    unsafe fn start(_args: &LinearArgs, _column: usize) -> Self::Sums {
        // SAFETY: the caller's promise.
        unsafe { Self::zero() }
    }
}

/// How the sums of a tile are made, some dwords of k at a time.
///
/// # Safety
/// As for [`Dot`].
pub(super) trait Product {
    /// Dwords of k that are taken together, as far as a row has so many.
    const STEP: usize;
    /// A step of one vector of columns.
    type Columns: Copy;
    type Sums: Copy;
    /// What the sums are.
    type Raw: Raw;

    /// What the sums of a row begin at in the vector of columns from `column` on.
    unsafe fn start(args: &LinearArgs, row: usize, column: usize) -> Self::Sums;
    /// The dwords of a column are `panel` of them apart.
    unsafe fn columns(p: *const u32, panel: usize) -> Self::Columns;
    /// Adds a step's products of a row with all of a panel's vectors.
    unsafe fn add_step<const NV: usize>(
        sums: &mut [Self::Sums; NV],
        row: *const u32,
        columns: &[Self::Columns; NV],
    );
    /// Adds those of a single dword, after the last whole step.
    unsafe fn add_dword(sums: Self::Sums, row: *const u32, columns: *const u32) -> Self::Sums;
    unsafe fn store(p: *mut u32, sums: Self::Sums);
}

impl<D: LinearDot> Product for D {
    const STEP: usize = 1;
    type Columns = D::Columns;
    type Sums = D::Sums;
    type Raw = D::Raw;

    #[inline(always)]
    unsafe fn start(args: &LinearArgs, _: usize, column: usize) -> D::Sums {
        // SAFETY: the caller's promise.
        unsafe { D::start(args, column) }
    }
    #[inline(always)]
    unsafe fn columns(p: *const u32, _: usize) -> D::Columns {
        // SAFETY: the caller's promise.
        unsafe { D::columns(p) }
    }
    #[inline(always)]
    unsafe fn add_step<const NV: usize>(
        sums: &mut [D::Sums; NV],
        row: *const u32,
        columns: &[D::Columns; NV],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let x = D::row(row);
            for (sum, columns) in sums.iter_mut().zip(columns) {
                *sum = D::dot(*sum, x, *columns);
            }
        }
    }
    #[inline(always)]
    unsafe fn add_dword(sums: D::Sums, row: *const u32, columns: *const u32) -> D::Sums {
        // SAFETY: the caller's promise.
        unsafe { D::dot(sums, D::row(row), D::columns(columns)) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u32, sums: D::Sums) {
        // SAFETY: the caller's promise.
        unsafe { D::store(p, sums) }
    }
}

/// Dwords of the largest tile: 8 rows of 32 columns.
const TILE_DWORDS: usize = 256;

/// Sums of a tile before they are finished.
#[repr(C, align(64))]
struct Sums([u32; TILE_DWORDS]);

/// A tile: up to `M` rows of the output in one panel.
#[derive(Debug, Clone, Copy, Default)]
struct Tile {
    panel_idx: usize,
    first: usize,
    /// Those that are wanted; zero for the tile before the first.
    rows: usize,
}

/// Tiles of `M` rows, which divide a block, by `NV` vectors, a panel.
///
/// # Safety
/// The CPU has the instruction set; `args` describes valid memory and `out` overlaps nothing else.
#[inline(always)]
pub(super) unsafe fn linear<P: Product, S: Lanes, const M: usize, const NV: usize>(
    args: &LinearArgs,
) {
    let mut sums = Sums([0; TILE_DWORDS]);
    let mut before = Tile::default();
    // Panels outside, rows inside, as in the f32 product.
    for panel_idx in 0..args.num_panels {
        for first in (0..args.rows).step_by(M) {
            let tile = Tile { panel_idx, first, rows: M.min(args.rows - first) };
            // SAFETY: a panel below `num_panels`; rows up to the end of a block may be read.
            unsafe { multiply::<P, S, M, NV>(args, tile, before, &mut sums.0) };
            before = tile;
        }
    }
    // SAFETY: the sums are those of the last tile.
    unsafe { finish::<P::Raw, S, NV>(args, before, 0..M, &sums.0) };
}

/// Makes the sums of a tile, and finishes those of the tile `before` it: a row after each `M`th of k, if the registers
/// are enough, since units that make no products have that to do.
///
/// # Safety
/// As for [`linear`]; the tiles are those of `args`, and `sums` are those of `before`.
#[inline(always)]
unsafe fn multiply<P: Product, S: Lanes, const M: usize, const NV: usize>(
    args: &LinearArgs,
    tile: Tile,
    before: Tile,
    sums: &mut [u32; TILE_DWORDS],
) {
    const { assert!(M * NV * S::LANES <= TILE_DWORDS && STEP_DWORDS.is_multiple_of(M)) };
    let dwords = args.steps * STEP_DWORDS;
    let panel = dwords * NV * S::LANES;
    // While a panel is in use, each part of its tiles fetches its share of the next one.
    let num_lines = (panel / STEP_DWORDS).div_ceil(args.rows.next_multiple_of(M));
    // SAFETY: `dwords` of each row and of the panel; the tile fits, as asserted.
    unsafe {
        let weights = args.panels.cast::<u32>().add(tile.panel_idx * panel);
        let mut ahead = weights.wrapping_add(panel + tile.first * num_lines * STEP_DWORDS);
        let x = args.x.add(tile.first * args.x_stride_bytes);
        let rows: [*const u32; M] = std::array::from_fn(|i| x.add(i * args.x_stride_bytes).cast());
        if !S::WEAVES {
            finish::<P::Raw, S, NV>(args, before, 0..M, sums);
        }
        let mut tile_sums: [[P::Sums; NV]; M] = std::array::from_fn(|i| {
            std::array::from_fn(|j| {
                P::start(args, tile.first + i, (tile.panel_idx * NV + j) * S::LANES)
            })
        });
        let num_steps = dwords / P::STEP;
        for part in 0..M {
            for _ in 0..num_lines {
                S::prefetch(ahead.cast());
                ahead = ahead.wrapping_add(STEP_DWORDS);
            }
            for step in part * num_steps / M..(part + 1) * num_steps / M {
                let p = step * P::STEP;
                let columns: [P::Columns; NV] = std::array::from_fn(|j| {
                    P::columns(weights.add((p * NV + j) * S::LANES), NV * S::LANES)
                });
                for (row, sums) in rows.iter().zip(&mut tile_sums) {
                    P::add_step(sums, row.add(p), &columns);
                }
            }
            if S::WEAVES {
                finish::<P::Raw, S, NV>(args, before, part..part + 1, sums);
            }
        }
        for p in num_steps * P::STEP..dwords {
            for (row, sums) in rows.iter().zip(&mut tile_sums) {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = P::add_dword(*sum, row.add(p), weights.add((p * NV + j) * S::LANES));
                }
            }
        }
        for (i, row_sums) in tile_sums.iter().enumerate() {
            for (j, sum) in row_sums.iter().enumerate() {
                P::store(sums.as_mut_ptr().add((i * NV + j) * S::LANES), *sum);
            }
        }
    }
}

/// Finishes some rows of a tile, as far as it has them.
///
/// # Safety
/// As for [`linear`]; `sums` are those of the tile.
#[inline(always)]
unsafe fn finish<R: Raw, S: Lanes, const NV: usize>(
    args: &LinearArgs,
    tile: Tile,
    rows: Range<usize>,
    sums: &[u32; TILE_DWORDS],
) {
    for row in rows.start..rows.end.min(tile.rows) {
        // SAFETY: the row is one of the tile's, the panel the tile's.
        unsafe {
            let raw = sums.as_ptr().add(row * NV * S::LANES);
            finish_row::<R, S, NV>(args, raw, tile.first + row, tile.panel_idx);
        }
    }
}

/// bf16 products by f32 fused multiply-adds, for CPUs without an instruction for them: exact products, and
/// two roundings a dword.
pub(super) struct WidenedBf16<S>(std::marker::PhantomData<S>);

impl<S: Lanes> Dot for WidenedBf16<S> {
    type Row = [S::V; 2];
    type Columns = [S::V; 2];
    type Sums = S::V;

    #[inline(always)]
    unsafe fn zero() -> S::V {
        // SAFETY: the caller's CPU has the instruction set.
        unsafe { S::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn row(p: *const u32) -> [S::V; 2] {
        // SAFETY: one dword, the caller's promise.
        unsafe {
            let pair = *p;
            [f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000)].map(|x| S::splat(x))
        }
    }
    #[inline(always)]
    unsafe fn columns(p: *const u32) -> [S::V; 2] {
        // SAFETY: one vector of dwords, the caller's promise.
        unsafe { S::load_bf16_pairs(p) }
    }
    #[inline(always)]
    unsafe fn dot(sums: S::V, row: [S::V; 2], columns: [S::V; 2]) -> S::V {
        // SAFETY: the caller's CPU has the instruction set.
        unsafe { S::fma(row[1], columns[1], S::fma(row[0], columns[0], sums)) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u32, sums: S::V) {
        // SAFETY: one vector of dwords, the caller's promise.
        unsafe { S::store(p.cast(), sums) }
    }
}

impl<S: Lanes> LinearDot for WidenedBf16<S> {
    type Raw = Floats;
}

/// Entry functions that enable an instruction set around the narrow kernels, and their table.
macro_rules! narrow_table {
    (
        $name:ident, $entry:ident, $simd:ty, $features:literal, vectors: $vectors:literal,
        int8: $int8:ty, $int8_rows:literal, bf16: $bf16:ty, $bf16_rows:literal, attention: $attention:expr,
        words: $words:expr, max_sim: $max_sim:expr
    ) => {
        mod $entry {
            use super::*;
            use crate::engine::cpu::kernels::{GateArgs, HeadNormArgs, NormArgs, RotateArgs};
            use crate::engine::cpu::narrow::{EncodeArgs, LinearArgs, Target, encode, tile};
            use crate::engine::cpu::{norm, numbers, rowwise};

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn linear_int8(args: &LinearArgs) {
                // SAFETY: as above.
                unsafe { tile::linear::<$int8, $simd, $int8_rows, $vectors>(args) }
            }

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn linear_bf16(args: &LinearArgs) {
                // SAFETY: as above.
                unsafe { tile::linear::<$bf16, $simd, $bf16_rows, $vectors>(args) }
            }

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn encode(args: &EncodeArgs, to: Target) {
                // SAFETY: as above.
                unsafe { encode::encode::<$simd>(args, to) }
            }

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn add_norm(args: &NormArgs<u16>) {
                // SAFETY: as above.
                unsafe { norm::add_norm::<$simd, numbers::Bf16>(args) }
            }

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn gate(args: &GateArgs<u16>) {
                // SAFETY: as above.
                unsafe { rowwise::gate::<$simd, numbers::Bf16>(args) }
            }

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn rotate(args: &RotateArgs<u16>) {
                // SAFETY: as above.
                unsafe { rowwise::rotate::<$simd, numbers::Bf16>(args) }
            }

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn head_norm(args: &HeadNormArgs<u16>) {
                // SAFETY: as above.
                unsafe { rowwise::head_norm::<$simd, numbers::Bf16>(args) }
            }
        }

        pub(in crate::engine::cpu) static $name: super::Kernels = super::Kernels {
            panel: $vectors * <$simd as crate::engine::cpu::simd::Simd>::LANES,
            linear_int8: $entry::linear_int8,
            linear_bf16: $entry::linear_bf16,
            words: $words,
            encode: $entry::encode,
            add_norm: $entry::add_norm,
            gate: $entry::gate,
            rotate: $entry::rotate,
            head_norm: $entry::head_norm,
            attention: $attention,
            max_sim: $max_sim,
        };
    };
}
pub(super) use narrow_table;
