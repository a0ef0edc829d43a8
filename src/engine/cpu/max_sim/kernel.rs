//! Late interaction in f32.
//!
//! A tile's rows are read from the bytes that are kept into a scratch that stays in the first-level cache, and all of
//! the query's panels meet them there.

use super::kept::{CHUNK, Reader, Tile};
use crate::engine::cpu::buffer::Buffer;
use crate::engine::cpu::gemm::tile_height;
use crate::engine::cpu::kernels::MaxSimArgs;
use crate::engine::cpu::simd::Simd;

/// The rows of a tile, and what is fetched while it is computed: from memory bytes come as fast as they are used only
/// if they are asked for in their order, and early.
#[derive(Clone, Copy)]
struct Rows {
    /// As [`Tile`] has them.
    chunks: *const f32,
    k: usize,
    ahead: *const u8,
    /// What is fetched after each column.
    ahead_bytes: usize,
}

/// Tiles from a fetch to its use.
const TILES_AHEAD: usize = 3;

/// Folds the similarities of `M` of `MR` rows with a panel into `best`. `check` stays zero as long as they are finite: a
/// maximum would pass over what is no number.
///
/// # Safety
/// The CPU has the instruction set; there are as many rows, `panel` is valid for `[k, NV * LANES]`, `best` for
/// `[NV * LANES]`.
#[inline(always)]
unsafe fn multiply<S: Simd, const M: usize, const MR: usize, const NV: usize>(
    rows: Rows,
    panel: *const f32,
    best: *mut f32,
    check: &mut S::V,
) {
    let Rows { mut chunks, k, mut ahead, ahead_bytes } = rows;
    // SAFETY: all offsets stay below M rows, k columns and one panel, which the caller vouches for; a fetch beyond
    // them has no effect.
    unsafe {
        let zero = S::splat(0.0);
        let mut sums = [[zero; NV]; M];
        let mut b = panel;
        for begin in (0..k).step_by(CHUNK) {
            for p in 0..CHUNK.min(k - begin) {
                let mut columns = [zero; NV];
                for (j, column) in columns.iter_mut().enumerate() {
                    *column = S::load(b.add(j * S::LANES));
                }
                S::prefetch(ahead.cast());
                ahead = ahead.wrapping_add(ahead_bytes);
                for (i, row) in sums.iter_mut().enumerate() {
                    let x = S::splat(*chunks.add(i * CHUNK + p));
                    for (j, sum) in row.iter_mut().enumerate() {
                        *sum = S::fma(x, columns[j], *sum);
                    }
                }
                b = b.add(NV * S::LANES);
            }
            chunks = chunks.wrapping_add(MR * CHUNK);
        }
        // Of each row one vector of the query is enough: what is no number meets all of them.
        for row in &sums {
            *check = S::fma(row[0], zero, *check);
        }
        for j in 0..NV {
            let best = best.add(j * S::LANES);
            let mut maximum = S::load(best);
            for row in &sums {
                maximum = S::max(maximum, row[j]);
            }
            S::store(best, maximum);
        }
    }
}

/// # Safety
/// The CPU has the instruction set; `args` describes valid memory and `best` overlaps nothing else.
#[inline(always)]
pub(in crate::engine::cpu) unsafe fn max_sim<S: Simd, const MR: usize, const NV: usize>(
    args: &MaxSimArgs<'_>,
) -> bool {
    let MaxSimArgs { format, dim, documents, ends, panels, num_panels, best } = *args;
    let width = NV * S::LANES;
    let mut scratch = Buffer::zeroed(dim.next_multiple_of(CHUNK) * MR);
    let mut reader = Reader::new(format, dim);
    // SAFETY: documents below `ends.len()`, panels below `num_panels`, and tiles of the document's rows; the scratch
    // has room for one.
    unsafe {
        let mut check = S::splat(0.0);
        let mut begin = 0;
        for (document, end) in ends.iter().enumerate() {
            let num_rows = end - begin;
            begin = *end;
            if num_rows == 0 {
                continue;
            }
            reader.open::<S>(documents[document]);
            let best = best.add(document * num_panels * width);
            for i in (0..num_panels * width).step_by(S::LANES) {
                S::store(best.add(i), S::splat(f32::NEG_INFINITY));
            }
            let height = tile_height(num_rows, MR);
            for row in (0..num_rows).step_by(height) {
                let rows = height.min(num_rows - row);
                let ahead = TILES_AHEAD * height * reader.row_bytes;
                let tile = Rows {
                    chunks: scratch.as_ptr(),
                    k: dim,
                    ahead: reader.ahead(row, ahead, documents.get(document + 1)),
                    ahead_bytes: (rows * reader.row_bytes).div_ceil(dim),
                };
                reader.read::<S, _>(row, rows, dim, Tile::<MR>(scratch.as_mut_ptr()));
                for panel_idx in 0..num_panels {
                    let panel = panels.add(panel_idx * dim * width);
                    let best = best.add(panel_idx * width);
                    macro_rules! dispatch {
                        ($($m:literal)*) => {
                            match rows {
                                $($m if $m <= MR => {
                                    multiply::<S, $m, MR, NV>(tile, panel, best, &mut check);
                                })*
                                _ => unreachable!("a tile has 1 to {MR} rows"),
                            }
                        };
                    }
                    dispatch!(14 13 12 11 10 9 8 7 6 5 4 3 2 1);
                }
            }
        }
        // Asked this way round, a NaN is not zero.
        S::reduce_add(check) == 0.0
    }
}
