//! Late interaction on tiles of 32 vectors of documents by 32 of a query.
//!
//! Documents lie one after another and share tiles, so that no row is made in vain but beyond the last. The tile unit
//! and the vector units work side by side: while the products of a block are made, the similarities of the tile before
//! it are folded into the maxima and the rows of the block after it are read, some after each step.

use super::super::{BLOCK_ROWS, STEP_BYTES, STEP_DWORDS};
use super::{Operands, PANEL, TILE_BYTES, Tiles, exchange_near, multiply_near, store_sums};
use crate::engine::cpu::avx512;
use crate::engine::cpu::buffer::Buffer;
use crate::engine::cpu::kernels::MaxSimArgs;
use crate::engine::cpu::max_sim::kept::{Reader, Target, Tile};
use crate::engine::cpu::simd::Simd;

type S = avx512::Avx512<true>;
/// What tile units read.
type Block = Tile<u16, BLOCK_ROWS, { 2 * STEP_DWORDS }>;

#[repr(C, align(64))]
struct Sums([u32; BLOCK_ROWS * PANEL]);

/// # Safety
/// AMX and AVX-512 with BF16 are available; `args` describes valid memory and `best` overlaps nothing else.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
pub(super) unsafe fn max_sim(args: &MaxSimArgs<'_, u16>) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        // With 96, 128 and 384 columns, which are common, what is done after each step is known to the compiler.
        match args.dim {
            96 => blocks::<96>(args),
            128 => blocks::<128>(args),
            384 => blocks::<384>(args),
            _ => blocks::<0>(args),
        }
    }
}

/// Blocks from reading one to its products: tiles that load what was just stored would wait for it.
const BLOCKS_AHEAD: usize = 2;

/// `DIM` are the columns, or zero if they are any.
///
/// # Safety
/// As for [`max_sim`].
#[inline(always)]
unsafe fn blocks<const DIM: usize>(args: &MaxSimArgs<'_, u16>) -> bool {
    let dim = if DIM == 0 { args.dim } else { DIM };
    let steps = dim.div_ceil(2 * STEP_DWORDS);
    let num_rows = args.ends.last().copied().unwrap_or(0);
    // The first step stores the sums: folding waits for the second, if there is one.
    let wait = usize::from(steps > 1);
    let (rows_per_fold, rows_per_read) =
        (BLOCK_ROWS.div_ceil(steps - wait), BLOCK_ROWS.div_ceil(steps));
    let mut sums = Sums([0; BLOCK_ROWS * PANEL]);
    let mut rows = Rows::new(args);
    // A block is `[steps][BLOCK_ROWS][STEP_DWORDS]` pairs of bf16: line after line, as tiles read it.
    let block_bytes = steps * BLOCK_ROWS * STEP_BYTES;
    let mut blocks = Buffer::<u16>::zeroed((BLOCKS_AHEAD + 1) * block_bytes / 2);
    let blocks = blocks.as_mut_ptr();
    let block = |i: usize| blocks.wrapping_byte_add(i % (BLOCKS_AHEAD + 1) * block_bytes);
    // SAFETY: a panel below `num_panels`; whole blocks of rows may be read and written.
    unsafe {
        let mut fold = Fold::new(args);
        for i in 0..BLOCKS_AHEAD {
            rows.read(dim, block(i), 0, BLOCK_ROWS);
        }
        let tiles = Tiles::configure();
        for (i, first) in (0..num_rows).step_by(BLOCK_ROWS).enumerate() {
            let (now, later) = (block(i), block(i + BLOCKS_AHEAD));
            for panel_idx in 0..args.num_panels {
                let query = args.panels.as_ptr().cast::<u8>();
                let query = query.add(panel_idx * steps * STEP_DWORDS * PANEL * 4);
                // Of the tile before, if there is one.
                let is_of_one = fold.is_of_one();
                for step in 0..steps {
                    let from = now.cast::<u8>().add(step * BLOCK_ROWS * STEP_BYTES);
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
                        let begin = (step - wait) * rows_per_fold;
                        fold.rows(&sums, begin, BLOCK_ROWS.min(begin + rows_per_fold));
                    } else if step == wait {
                        fold.documents(&sums);
                    }
                    if panel_idx == 0 {
                        let begin = BLOCK_ROWS.min(step * rows_per_read);
                        rows.read(dim, later, begin, BLOCK_ROWS.min(begin + rows_per_read));
                    }
                }
                if is_of_one {
                    fold.store(fold.document);
                }
                fold.begin(first, BLOCK_ROWS.min(num_rows - first), panel_idx);
            }
        }
        store_sums(sums.0.as_mut_ptr(), PANEL * 4);
        drop(tiles);
        fold.documents(&sums);
        // Asked this way round, a NaN is not zero.
        S::reduce_add(fold.check) == 0.0
    }
}

/// The rows of all documents, one after another.
struct Rows<'a> {
    args: &'a MaxSimArgs<'a, u16>,
    reader: Reader<'a>,
    /// The first document that is not opened.
    document: usize,
    /// Of the document that is open.
    row: usize,
    num_rows: usize,
}

/// Bytes from a fetch to its use.
const BYTES_AHEAD: usize = 8192;
const LINE_BYTES: usize = 64;

impl<'a> Rows<'a> {
    #[inline(always)]
    fn new(args: &'a MaxSimArgs<'a, u16>) -> Self {
        let reader = Reader::new(args.format, args.dim);
        Self { args, reader, document: 0, row: 0, num_rows: 0 }
    }

    /// Reads the next rows into rows `begin` to `end` of a block, if there are so many.
    ///
    /// # Safety
    /// As for [`max_sim`]; `block` is valid for a block.
    #[inline(always)]
    unsafe fn read(&mut self, dim: usize, block: *mut u16, begin: usize, end: usize) {
        let (mut to, block): (_, Block) = (begin, Tile(block));
        while to < end {
            while self.row == self.num_rows {
                let Some(document_end) = self.args.ends.get(self.document) else { return };
                let document_begin = match self.document {
                    0 => 0,
                    i => self.args.ends[i - 1],
                };
                (self.row, self.num_rows) = (0, document_end - document_begin);
                if self.num_rows > 0 {
                    // SAFETY: the caller's promise.
                    unsafe { self.reader.open::<S>(self.args.documents[self.document]) };
                }
                self.document += 1;
            }
            let num = (end - to).min(self.num_rows - self.row);
            let next = self.args.documents.get(self.document);
            // SAFETY: rows of the document and of the block; a fetch beyond has no effect.
            unsafe {
                let ahead = self.reader.ahead(self.row, BYTES_AHEAD, next);
                for line in (0..num * self.reader.row_bytes).step_by(LINE_BYTES) {
                    S::prefetch(ahead.wrapping_add(line).cast());
                }
                self.reader.read::<S, _>(self.row, num, dim, Target::<S>::row(block, to));
            }
            self.row += num;
            to += num;
        }
    }
}

/// The maxima of the tile before the one that is being multiplied.
struct Fold<'a> {
    args: &'a MaxSimArgs<'a, u16>,
    /// Of the document whose rows are being folded.
    maxima: [<S as Simd>::V; 2],
    /// Zero as long as all similarities are finite: a maximum would pass over what is no number.
    check: <S as Simd>::V,
    panel_idx: usize,
    /// The tile's first row, and how many it has.
    first: usize,
    num_rows: usize,
    /// The document of the first row.
    document: usize,
}

impl<'a> Fold<'a> {
    /// Of a tile without rows.
    ///
    /// # Safety
    /// As for [`max_sim`].
    #[inline(always)]
    unsafe fn new(args: &'a MaxSimArgs<'a, u16>) -> Self {
        // SAFETY: the caller's promise.
        let (maxima, check) = unsafe { ([S::splat(f32::NEG_INFINITY); 2], S::splat(0.0)) };
        Self { args, maxima, check, panel_idx: 0, first: 0, num_rows: 0, document: 0 }
    }

    /// Goes to a tile that comes after.
    ///
    /// # Safety
    /// As for [`max_sim`]; the rows are some of the documents'.
    #[inline(always)]
    unsafe fn begin(&mut self, first: usize, num_rows: usize, panel_idx: usize) {
        (self.first, self.num_rows, self.panel_idx) = (first, num_rows, panel_idx);
        while self.args.ends[self.document] <= first {
            self.document += 1;
        }
        // SAFETY: the caller's promise.
        unsafe { self.load(self.document) };
    }

    /// Whether all rows of a whole tile are of one document.
    #[inline(always)]
    fn is_of_one(&self) -> bool {
        self.num_rows == BLOCK_ROWS && self.args.ends[self.document] >= self.first + BLOCK_ROWS
    }

    #[inline(always)]
    unsafe fn best(&self, document: usize) -> *mut f32 {
        // SAFETY: the caller's document is one of `args`.
        unsafe { self.args.best.add((document * self.args.num_panels + self.panel_idx) * PANEL) }
    }

    /// The maxima so far of the document of the tile's rows, or of one that begins in it.
    ///
    /// # Safety
    /// As for [`max_sim`]; a document with rows.
    #[inline(always)]
    unsafe fn load(&mut self, document: usize) {
        let begin = if document == 0 { 0 } else { self.args.ends[document - 1] };
        // SAFETY: the caller's promise.
        unsafe {
            self.maxima = [S::splat(f32::NEG_INFINITY); 2];
            if begin < self.first {
                let best = self.best(document);
                self.maxima = [S::load(best), S::load(best.add(S::LANES))];
            }
        }
    }

    /// # Safety
    /// As for [`max_sim`]; the document whose maxima were loaded.
    #[inline(always)]
    unsafe fn store(&self, document: usize) {
        // SAFETY: the document is one of `args`.
        unsafe {
            let best = self.best(document);
            S::store(best, self.maxima[0]);
            S::store(best.add(S::LANES), self.maxima[1]);
        }
    }

    /// Folds rows `begin` to `end` of the tile, all of one document.
    ///
    /// # Safety
    /// AVX-512 is available; `end` is at most a block.
    #[inline(always)]
    unsafe fn rows(&mut self, sums: &Sums, begin: usize, end: usize) {
        for row in begin..end {
            let row = sums.0[row * PANEL..][..PANEL].as_ptr().cast::<f32>();
            // SAFETY: a row of sums is two vectors.
            unsafe {
                let sums = [S::load(row), S::load(row.add(S::LANES))];
                self.maxima[0] = S::max(self.maxima[0], sums[0]);
                self.maxima[1] = S::max(self.maxima[1], sums[1]);
                // What is no number meets all vectors of the query.
                self.check = S::fma(sums[0], S::splat(0.0), self.check);
            }
        }
    }

    /// Folds all rows of the tile, document by document.
    ///
    /// # Safety
    /// As for [`max_sim`].
    #[inline(always)]
    unsafe fn documents(&mut self, sums: &Sums) {
        let (mut row, mut document) = (0, self.document);
        while row < self.num_rows {
            let stop = self.num_rows.min(self.args.ends[document] - self.first);
            if stop > row {
                // SAFETY: rows of the tile; a document with rows in it.
                unsafe {
                    self.load(document);
                    self.rows(sums, row, stop);
                    self.store(document);
                }
            }
            row = stop;
            document += 1;
        }
    }
}
