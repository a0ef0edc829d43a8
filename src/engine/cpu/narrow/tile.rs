//! The narrow product on SIMD registers: a tile of rows by one panel, all sums in registers.

use super::finish::finish_row;
use super::lanes::Lanes;
use super::{LinearArgs, STEP_DWORDS};

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

/// Dwords of the largest tile: 8 rows of 32 columns.
const TILE_DWORDS: usize = 256;

/// Sums of a tile before they are finished.
#[repr(C, align(64))]
struct Sums([u32; TILE_DWORDS]);

/// Tiles of `M` rows, which divide a block, by `NV` vectors, a panel.
///
/// # Safety
/// The CPU has the instruction set; `args` describes valid memory and `out` overlaps nothing else.
#[inline(always)]
pub(super) unsafe fn linear<D: Dot, S: Lanes, const M: usize, const NV: usize, const INT8: bool>(
    args: &LinearArgs,
) {
    let panel = NV * S::LANES;
    let dwords = args.steps * STEP_DWORDS;
    let mut sums = Sums([0; TILE_DWORDS]);
    // Panels outside, rows inside, as in the f32 product.
    for panel_idx in 0..args.num_panels {
        for first in (0..args.rows).step_by(M) {
            // SAFETY: a panel below `num_panels`; rows up to the end of a block may be read.
            unsafe {
                let weights = args.panels.cast::<u32>().add(panel_idx * dwords * panel);
                let x = args.x.add(first * args.x_stride_bytes);
                let rows: [*const u32; M] =
                    std::array::from_fn(|i| x.add(i * args.x_stride_bytes).cast());
                product::<D, S, M, NV>(dwords, rows, weights, &mut sums.0);
                for row in first..args.rows.min(first + M) {
                    let raw = sums.0.as_ptr().add((row - first) * panel);
                    finish_row::<S, NV, INT8>(args, raw, row, panel_idx);
                }
            }
        }
    }
}

/// # Safety
/// As for [`linear`]; `weights` is one panel and `out` holds `M * NV * LANES` dwords.
#[inline(always)]
unsafe fn product<D: Dot, S: Lanes, const M: usize, const NV: usize>(
    dwords: usize,
    rows: [*const u32; M],
    weights: *const u32,
    out: &mut [u32; TILE_DWORDS],
) {
    const { assert!(M * NV * S::LANES <= TILE_DWORDS) };
    // SAFETY: `dwords` of each row and of the panel; the tile fits, as asserted.
    unsafe {
        let mut sums = [[D::zero(); NV]; M];
        for p in 0..dwords {
            let columns: [D::Columns; NV] =
                std::array::from_fn(|j| D::columns(weights.add((p * NV + j) * S::LANES)));
            for (row, sums) in rows.iter().zip(&mut sums) {
                let x = D::row(row.add(p));
                for (sum, columns) in sums.iter_mut().zip(columns) {
                    *sum = D::dot(*sum, x, columns);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                D::store(out.as_mut_ptr().add((i * NV + j) * S::LANES), *sum);
            }
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

/// Entry functions that enable an instruction set around the narrow kernels, and their table.
macro_rules! narrow_table {
    (
        $name:ident, $entry:ident, $simd:ty, $features:literal, vectors: $vectors:literal,
        int8: $int8:ty, $int8_rows:literal, bf16: $bf16:ty, $bf16_rows:literal, attention: $attention:expr,
        max_sim: $max_sim:expr
    ) => {
        mod $entry {
            use super::*;
            use crate::engine::cpu::kernels::{GateArgs, HeadNormArgs, NormArgs, RotateArgs};
            use crate::engine::cpu::narrow::{EncodeArgs, LinearArgs, encode, tile};
            use crate::engine::cpu::{norm, numbers, rowwise};

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn linear_int8(args: &LinearArgs) {
                // SAFETY: as above.
                unsafe { tile::linear::<$int8, $simd, $int8_rows, $vectors, true>(args) }
            }

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn linear_bf16(args: &LinearArgs) {
                // SAFETY: as above.
                unsafe { tile::linear::<$bf16, $simd, $bf16_rows, $vectors, false>(args) }
            }

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn encode(args: &EncodeArgs) {
                // SAFETY: as above.
                unsafe { encode::encode::<$simd>(args) }
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
