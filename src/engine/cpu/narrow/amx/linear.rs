//! The matrix product on tiles of 32 rows by 32 columns.
//!
//! The tile unit and the vector units work side by side: while the products of a tile are made, the tile
//! before it is finished, some rows after each step of k.

use super::super::{BLOCK_ROWS, LinearArgs, STEP_BYTES, STEP_DWORDS};
use super::{Operands, PANEL, TILE_ROWS, Tiles, finish_row, multiply, store_sums, zero_sums};
use crate::engine::cpu::avx512::Avx512;

#[repr(C, align(64))]
struct Sums([u32; BLOCK_ROWS * PANEL]);

/// A tile whose sums are made and not yet finished.
#[derive(Clone, Copy)]
struct Pending {
    panel_idx: usize,
    first: usize,
    /// The next row of the tile, and one past the last that is wanted.
    next: usize,
    rows: usize,
}

// SAFETY: the caller vouches for AMX, AVX-512 and for the arguments.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
pub(super) unsafe fn linear_int8(args: &LinearArgs) {
    // SAFETY: as above.
    unsafe { linear::<true>(args) }
}

// SAFETY: the caller vouches for AMX, AVX-512 and for the arguments.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
pub(super) unsafe fn linear_bf16(args: &LinearArgs) {
    // SAFETY: as above.
    unsafe { linear::<false>(args) }
}

/// # Safety
/// AMX is available; `args` describes valid memory and `out` overlaps nothing else.
#[inline(always)]
unsafe fn linear<const INT8: bool>(args: &LinearArgs) {
    let panel_bytes = args.steps * STEP_BYTES * PANEL;
    let rows_per_step = BLOCK_ROWS.div_ceil(args.steps);
    let mut sums = [const { Sums([0; BLOCK_ROWS * PANEL]) }; 2];
    let mut current = 0;
    let mut pending = Pending { panel_idx: 0, first: 0, next: 0, rows: 0 };
    // SAFETY: the caller's promise.
    let tiles = unsafe { Tiles::configure() };
    // Panels outside, rows inside: a panel is read from memory once and stays in cache for all rows.
    for panel_idx in 0..args.num_panels {
        for first in (0..args.rows).step_by(BLOCK_ROWS) {
            // SAFETY: a panel below `num_panels`; whole blocks of rows may be read.
            unsafe {
                let x = args.x.add(first * args.x_stride_bytes);
                let panel = args.panels.add(panel_idx * panel_bytes);
                zero_sums();
                for step in 0..args.steps {
                    let x = x.add(step * STEP_BYTES);
                    let weights = panel.add(step * STEP_DWORDS * PANEL * 4);
                    multiply::<INT8>(&Operands {
                        rows: [x, x.add(TILE_ROWS * args.x_stride_bytes)],
                        row_bytes: args.x_stride_bytes,
                        columns: [weights, weights.add(STEP_BYTES)],
                        column_bytes: PANEL * 4,
                    });
                    finish::<INT8>(args, &mut pending, &sums[current ^ 1], rows_per_step);
                }
                store_sums(sums[current].0.as_mut_ptr(), PANEL * 4);
            }
            current ^= 1;
            let rows = BLOCK_ROWS.min(args.rows - first);
            pending = Pending { panel_idx, first, next: 0, rows };
        }
    }
    drop(tiles);
    // SAFETY: as above.
    unsafe { finish::<INT8>(args, &mut pending, &sums[current ^ 1], BLOCK_ROWS) };
}

/// Finishes the next `num_rows` rows of the pending tile, as far as it has them.
///
/// # Safety
/// As for [`linear`]; `sums` are those of the tile.
#[inline(always)]
unsafe fn finish<const INT8: bool>(
    args: &LinearArgs,
    pending: &mut Pending,
    sums: &Sums,
    num_rows: usize,
) {
    let end = pending.rows.min(pending.next + num_rows);
    for row in pending.next..end {
        let raw = &sums.0[row * PANEL..][..PANEL];
        // SAFETY: the row is one of the tile's, the panel the tile's.
        unsafe {
            finish_row::<Avx512<true>, 2, INT8>(
                args,
                raw.as_ptr(),
                pending.first + row,
                pending.panel_idx,
            );
        }
    }
    pending.next = end;
}
