//! Late interaction on tiles of 32 vectors of a document by 32 of a query.
//!
//! The tile unit and the vector units work side by side: while the products of a block are made, the similarities
//! of the block before it are folded into the maxima, some rows after each step.

use super::super::{BLOCK_ROWS, MaxSimArgs, STEP_BYTES, STEP_DWORDS};
use super::{Operands, PANEL, TILE_ROWS, Tiles, exchange, multiply, store_sums};
use crate::engine::cpu::avx512;
use crate::engine::cpu::simd::Simd;

type S = avx512::Avx512<true>;

#[repr(C, align(64))]
struct Sums([u32; BLOCK_ROWS * PANEL]);

/// # Safety
/// AMX and AVX-512 with BF16 are available; `args` describes valid memory and `best` overlaps nothing else.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
pub(super) unsafe fn max_sim(args: &MaxSimArgs) {
    let MaxSimArgs { rows, stride, num_rows, steps, panels, num_panels, best } = *args;
    let row_bytes = 2 * stride;
    // The first step stores the sums: folding waits for the second, if there is one.
    let wait = usize::from(steps > 1);
    let rows_per_step = BLOCK_ROWS.div_ceil(steps - wait);
    let mut sums = Sums([0; BLOCK_ROWS * PANEL]);
    for panel_idx in 0..num_panels {
        // SAFETY: a panel below `num_panels`; whole blocks of rows may be read.
        unsafe {
            let tiles = Tiles::configure();
            let panel = panels.cast::<u8>().add(panel_idx * steps * STEP_DWORDS * PANEL * 4);
            let out = best.add(panel_idx * PANEL);
            let mut maxima = [S::splat(f32::NEG_INFINITY); 2];
            let mut rows_before = 0;
            for first in (0..num_rows).step_by(BLOCK_ROWS) {
                let block = rows.cast::<u8>().add(first * row_bytes);
                for step in 0..steps {
                    let from = block.add(step * STEP_BYTES);
                    let query = panel.add(step * STEP_DWORDS * PANEL * 4);
                    let operands = Operands {
                        rows: [from, from.add(TILE_ROWS * row_bytes)],
                        row_bytes,
                        columns: [query, query.add(STEP_BYTES)],
                        column_bytes: PANEL * 4,
                    };
                    if step == 0 {
                        exchange::<false>(&operands, sums.0.as_mut_ptr(), PANEL * 4);
                    } else {
                        multiply::<false>(&operands);
                    }
                    if step >= wait {
                        let next = (step - wait) * rows_per_step;
                        fold(&sums, next..rows_before.min(next + rows_per_step), &mut maxima);
                    }
                }
                rows_before = BLOCK_ROWS.min(num_rows - first);
            }
            store_sums(sums.0.as_mut_ptr(), PANEL * 4);
            drop(tiles);
            fold(&sums, 0..rows_before, &mut maxima);
            S::store(out, maxima[0]);
            S::store(out.add(S::LANES), maxima[1]);
        }
    }
}

/// # Safety
/// AVX-512 is available; `rows` are rows of a block.
#[inline(always)]
unsafe fn fold(sums: &Sums, rows: std::ops::Range<usize>, maxima: &mut [<S as Simd>::V; 2]) {
    for row in rows {
        let row = sums.0[row * PANEL..][..PANEL].as_ptr().cast::<f32>();
        // SAFETY: a row of sums is two vectors.
        unsafe {
            maxima[0] = S::max(maxima[0], S::load(row));
            maxima[1] = S::max(maxima[1], S::load(row.add(S::LANES)));
        }
    }
}
