//! The matrix product on tiles of 32 rows by 32 columns.
//!
//! The tile unit and the vector units work side by side: while the products of a tile are made, the tile
//! before it is finished, some rows after each step of k.

use super::super::{BLOCK_ROWS, LinearArgs, STEP_BYTES, STEP_DWORDS};
use super::{
    Bytes, Floats, Operands, PANEL, TILE_ROWS, Tiles, exchange, finish_row, multiply, store_sums,
};
use crate::engine::cpu::avx512;

type S = avx512::Avx512<true>;

#[repr(C, align(64))]
struct Sums([u32; BLOCK_ROWS * PANEL]);

/// Rows that meet all panels before the next ones do: half of a second-level cache of 2 MiB, which every CPU with AMX
/// has. With more, each panel would fetch them from the third level anew.
const CACHED_BYTES: usize = 1 << 20;

/// A tile: 32 rows of the output in one panel.
#[derive(Debug, Clone, Copy, Default)]
struct Tile {
    panel_idx: usize,
    first: usize,
    /// Those that are wanted; zero for the tile before the first.
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
    let mut sums = Sums([0; BLOCK_ROWS * PANEL]);
    let mut before = Tile::default();
    // SAFETY: the caller's promise.
    let tiles = unsafe { Tiles::configure() };
    let cached_rows = (CACHED_BYTES / args.x_stride_bytes / BLOCK_ROWS).max(1) * BLOCK_ROWS;
    for begin in (0..args.rows).step_by(cached_rows) {
        let end = args.rows.min(begin + cached_rows);
        // Panels outside, rows inside: a panel stays in cache for all of these rows.
        for panel_idx in 0..args.num_panels {
            for first in (begin..end).step_by(BLOCK_ROWS) {
                let tile = Tile { panel_idx, first, rows: BLOCK_ROWS.min(args.rows - first) };
                // SAFETY: a panel below `num_panels` and rows of `args`; `before` is the tile before.
                unsafe { multiply_tile::<INT8>(args, tile, before, &mut sums) };
                before = tile;
            }
        }
    }
    // SAFETY: the sums are those of the last tile.
    unsafe {
        store_sums(sums.0.as_mut_ptr(), PANEL * 4);
        drop(tiles);
        finish::<INT8>(args, before, &sums, 0, BLOCK_ROWS);
    }
}

/// Makes the products of a tile, and finishes the tile `before` it, whose sums go into `sums` first.
///
/// # Safety
/// As for [`linear`]; the tile's panel and rows are those of `args`, and whole blocks of rows may be read.
#[inline(always)]
unsafe fn multiply_tile<const INT8: bool>(
    args: &LinearArgs,
    tile: Tile,
    before: Tile,
    sums: &mut Sums,
) {
    // The first step stores the sums: finishing waits for the second, if there is one.
    let wait = usize::from(args.steps > 1);
    let rows_per_step = BLOCK_ROWS.div_ceil(args.steps - wait);
    let panel_bytes = args.steps * STEP_BYTES * PANEL;
    // SAFETY: the caller's promise.
    unsafe {
        let panel = args.panels.add(tile.panel_idx * panel_bytes);
        let x = args.x.add(tile.first * args.x_stride_bytes);
        for step in 0..args.steps {
            let x = x.add(step * STEP_BYTES);
            let weights = panel.add(step * STEP_DWORDS * PANEL * 4);
            let operands = Operands {
                rows: [x, x.add(TILE_ROWS * args.x_stride_bytes)],
                row_bytes: args.x_stride_bytes,
                columns: [weights, weights.add(STEP_BYTES)],
                column_bytes: PANEL * 4,
            };
            if step == 0 {
                exchange::<INT8>(&operands, sums.0.as_mut_ptr(), PANEL * 4);
            } else {
                multiply::<INT8>(&operands);
            }
            if step >= wait {
                let next = (step - wait) * rows_per_step;
                finish::<INT8>(args, before, sums, next, rows_per_step);
            }
        }
    }
}

/// Finishes `num_rows` rows of a tile from `next` on, as far as it has them.
///
/// # Safety
/// As for [`linear`]; `sums` are those of the tile.
#[inline(always)]
unsafe fn finish<const INT8: bool>(
    args: &LinearArgs,
    tile: Tile,
    sums: &Sums,
    next: usize,
    num_rows: usize,
) {
    for row in next..tile.rows.min(next + num_rows) {
        let raw = sums.0[row * PANEL..][..PANEL].as_ptr();
        // SAFETY: the row is one of the tile's, the panel the tile's.
        unsafe {
            let row = tile.first + row;
            if INT8 {
                finish_row::<Bytes, S, 2>(args, raw, row, tile.panel_idx);
            } else {
                finish_row::<Floats, S, 2>(args, raw, row, tile.panel_idx);
            }
        }
    }
}
