//! Late interaction on tiles of 32 vectors of documents by 32 of a query.
//!
//! Documents lie one after another and share tiles, so that no row is made in vain but beyond the last. The tile unit
//! and the vector units work side by side: while the products of a block are made, the similarities of the block
//! before it are folded into the maxima, some rows after each step.

use super::super::{BLOCK_ROWS, MaxSimArgs, STEP_BYTES, STEP_DWORDS};
use super::{Operands, PANEL, TILE_BYTES, Tiles, exchange_near, multiply_near, store_sums};
use crate::engine::cpu::avx512;
use crate::engine::cpu::simd::Simd;

type S = avx512::Avx512<true>;

#[repr(C, align(64))]
struct Sums([u32; BLOCK_ROWS * PANEL]);

/// # Safety
/// AMX and AVX-512 with BF16 are available; `args` describes valid memory and `best` overlaps nothing else.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
pub(super) unsafe fn max_sim(args: &MaxSimArgs<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        for panel_idx in 0..args.num_panels {
            // With 96, 128 and 384 columns, which are common, the rows folded after each step are known to the
            // compiler: a tenth of the time.
            match args.steps {
                3 => panel::<3>(args, panel_idx),
                4 => panel::<4>(args, panel_idx),
                12 => panel::<12>(args, panel_idx),
                _ => panel::<0>(args, panel_idx),
            }
        }
    }
}

/// All documents with one panel. `STEPS` are the steps, or zero if they are any.
///
/// # Safety
/// As for [`max_sim`].
#[inline(always)]
unsafe fn panel<const STEPS: usize>(args: &MaxSimArgs<'_>, panel_idx: usize) {
    let steps = if STEPS == 0 { args.steps } else { STEPS };
    let num_rows = args.ends.last().copied().unwrap_or(0);
    // The first step stores the sums: folding waits for the second, if there is one.
    let wait = usize::from(steps > 1);
    let rows_per_step = BLOCK_ROWS.div_ceil(steps - wait);
    let mut sums = Sums([0; BLOCK_ROWS * PANEL]);
    let mut fold = Fold::new(args, panel_idx);
    // SAFETY: a panel below `num_panels`; whole blocks of rows may be read.
    unsafe {
        let tiles = Tiles::configure();
        let query = args.panels.cast::<u8>().add(panel_idx * steps * STEP_DWORDS * PANEL * 4);
        let mut block = args.rows.cast::<u8>();
        for first in (0..num_rows).step_by(BLOCK_ROWS) {
            // Of the block before, if there is one.
            let is_of_one = first > 0 && fold.end > first;
            for step in 0..steps {
                let from = block.add(step * BLOCK_ROWS * STEP_BYTES);
                let query = query.add(step * STEP_DWORDS * PANEL * 4);
                let operands = Operands {
                    rows: [from, from.add(TILE_BYTES)],
                    row_bytes: STEP_BYTES,
                    columns: [query, query.add(STEP_BYTES)],
                    column_bytes: PANEL * 4,
                };
                if step == 0 {
                    exchange_near(&operands, sums.0.as_mut_ptr(), PANEL * 4);
                } else {
                    multiply_near(&operands);
                }
                if is_of_one && step >= wait {
                    let next = (step - wait) * rows_per_step;
                    fold.rows(&sums, next, BLOCK_ROWS.min(next + rows_per_step));
                } else if first > 0 && step == wait {
                    fold.documents(&sums, first - BLOCK_ROWS, BLOCK_ROWS);
                }
            }
            block = block.add(steps * BLOCK_ROWS * STEP_BYTES);
        }
        store_sums(sums.0.as_mut_ptr(), PANEL * 4);
        drop(tiles);
        if num_rows > 0 {
            let first = (num_rows - 1) / BLOCK_ROWS * BLOCK_ROWS;
            fold.documents(&sums, first, num_rows - first);
        }
    }
}

/// The maxima of the document whose rows are being folded.
struct Fold<'a> {
    args: &'a MaxSimArgs<'a>,
    panel_idx: usize,
    maxima: [<S as Simd>::V; 2],
    document: usize,
    /// Its last row, and one.
    end: usize,
}

impl<'a> Fold<'a> {
    #[inline(always)]
    fn new(args: &'a MaxSimArgs<'a>, panel_idx: usize) -> Self {
        // SAFETY: AVX-512 is available to all that can reach this module's kernel.
        let maxima = [unsafe { S::splat(f32::NEG_INFINITY) }; 2];
        let mut fold = Self { args, panel_idx, maxima, document: 0, end: 0 };
        fold.find(0);
        fold
    }

    /// Goes to the document that row `row` is of; beyond the last row to none.
    #[inline(always)]
    fn find(&mut self, row: usize) {
        while self.args.ends.get(self.document).is_some_and(|end| *end <= row) {
            self.document += 1;
        }
        self.end = self.args.ends.get(self.document).copied().unwrap_or(usize::MAX);
    }

    /// Folds rows `begin` to `end` of a block, all of one document.
    ///
    /// # Safety
    /// AVX-512 is available; `end` is at most a block.
    #[inline(always)]
    unsafe fn rows(&mut self, sums: &Sums, begin: usize, end: usize) {
        for row in begin..end {
            let row = sums.0[row * PANEL..][..PANEL].as_ptr().cast::<f32>();
            // SAFETY: a row of sums is two vectors.
            unsafe {
                self.maxima[0] = S::max(self.maxima[0], S::load(row));
                self.maxima[1] = S::max(self.maxima[1], S::load(row.add(S::LANES)));
            }
        }
    }

    /// Folds the first `num_rows` rows of the block that begins at row `first`, and writes the maxima of each
    /// document that ends there.
    ///
    /// # Safety
    /// As for [`max_sim`]; the rows before `first` are folded.
    #[inline(always)]
    unsafe fn documents(&mut self, sums: &Sums, first: usize, num_rows: usize) {
        let mut row = 0;
        while row < num_rows {
            let stop = num_rows.min(self.end - first);
            // SAFETY: rows of the block; a document below `ends.len()`, for it has this row.
            unsafe {
                self.rows(sums, row, stop);
                if first + stop == self.end {
                    let at = self.document * self.args.num_panels + self.panel_idx;
                    let out = self.args.best.add(at * PANEL);
                    S::store(out, self.maxima[0]);
                    S::store(out.add(S::LANES), self.maxima[1]);
                    self.maxima = [S::splat(f32::NEG_INFINITY); 2];
                    self.find(first + stop);
                }
            }
            row = stop;
        }
    }
}
