//! Late interaction: of each vector of a query the best similarity with a document's, and their sum.
//!
//! Documents are the left side of a matrix product whose right side, the query, is one panel or a few: a tile's
//! similarities are folded into the maxima while they are near, and are never stored. Every similarity is one
//! chain over the columns, a maximum has no order, and the sum over the query's vectors has a fixed one.

use super::Cpu;
use super::buffer::Buffer;
use super::gemm::tile_height;
use super::kernels::MaxSimArgs;
use super::narrow::{self, BLOCK_ROWS, EncodeArgs, STEP_DWORDS, Source, Target};
use super::simd::{MAX_LANES, Simd};
use crate::engine::{Dtype, MaxSim, Read};
use crate::error::DeviceError;

/// Vectors of documents, and documents, that are compared at a time: they stay in a core's second-level cache, and
/// what the last block has too many rows is little beside them.
const GROUP: usize = 2048;

/// The vectors of a query, laid out for the kernels of one [`Cpu`].
#[derive(Debug)]
pub struct Query {
    dim: usize,
    num_vectors: usize,
    panels: Panels,
}

#[derive(Debug)]
enum Panels {
    /// `[num_panels][dim][panel]`, zeros after the last vector.
    F32(Buffer),
    /// `[num_panels][dim / 2][panel]` pairs of bf16; `dim` in whole steps.
    Bf16(Buffer<u16>),
}

/// The vectors of documents, one after another, as the kernels of one [`Cpu`] read them.
#[derive(Debug)]
pub struct Documents {
    dim: usize,
    /// `[num_rows, dim]`; in bf16 the document that is being written alone.
    wide: Vec<f32>,
    /// `[num_blocks][steps][BLOCK_ROWS][STEP]`, as tiles read it: line after line.
    half: Option<Buffer<u16>>,
    /// Where each document ends, in rows.
    ends: Vec<usize>,
}

impl Documents {
    fn num_rows(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    pub fn clear(&mut self) {
        self.wide.clear();
        self.ends.clear();
    }
}

impl Cpu {
    /// Lays out a query of `[num_vectors, dim]`.
    pub fn query(&self, vectors: &[f32], dim: usize) -> Query {
        let num_vectors = vectors.len() / dim;
        let narrow = self.narrow_max_sim().is_some();
        let panel = if narrow { self.narrow.panel } else { self.kernels.panel };
        let num_panels = num_vectors.div_ceil(panel);
        // The place of column `d` of vector `i`.
        let place = |i: usize, d: usize, k: usize, group: usize| {
            ((i / panel * k + d) / group * panel + i % panel) * group + d % group
        };
        let rows = vectors.chunks_exact(dim).enumerate();
        let panels = if narrow {
            let k = padded(dim);
            let mut panels = Buffer::zeroed(num_panels * k * panel);
            for (i, row) in rows {
                row.iter().enumerate().for_each(|(d, x)| panels[place(i, d, k, 2)] = bf16(*x));
            }
            Panels::Bf16(panels)
        } else {
            let mut panels = Buffer::zeroed(num_panels * dim * panel);
            for (i, row) in rows {
                row.iter().enumerate().for_each(|(d, x)| panels[place(i, d, dim, 1)] = *x);
            }
            Panels::F32(panels)
        };
        Query { dim, num_vectors, panels }
    }

    /// Room for documents of `max_rows` vectors of `dim`; more find room when they come.
    pub fn documents(&self, dim: usize, max_rows: usize) -> Documents {
        let half = self.narrow_max_sim().map(|_| halves(dim, max_rows));
        let wide = if half.is_some() { 0 } else { max_rows * dim };
        Documents { dim, wide: Vec::with_capacity(wide), half, ends: Vec::new() }
    }

    /// Adds the document whose vectors, `[num_vectors, dim]`, `read` appends.
    pub fn add_document(&self, documents: &mut Documents, read: impl FnOnce(&mut Vec<f32>)) {
        let begin = documents.num_rows();
        let Some(half) = &mut documents.half else {
            read(&mut documents.wide);
            documents.ends.push(documents.wide.len() / documents.dim);
            return;
        };
        documents.wide.clear();
        read(&mut documents.wide);
        let dim = documents.dim;
        let end = begin + documents.wide.len() / dim;
        documents.ends.push(end);
        if end.next_multiple_of(BLOCK_ROWS) * padded(dim) > half.len() {
            let mut larger = halves(dim, 2 * end);
            larger[..half.len()].copy_from_slice(half);
            *half = larger;
        }
        let mut first = begin;
        while first < end {
            let rows = end.min((first / BLOCK_ROWS + 1) * BLOCK_ROWS) - first;
            let from = &documents.wide[(first - begin) * dim..][..rows * dim];
            self.narrow_rows(from, dim, first % BLOCK_ROWS, {
                let block = BLOCK_ROWS * padded(dim);
                &mut half[first / BLOCK_ROWS * block..][..block]
            });
            first += rows;
        }
    }

    /// Writes rows of `dim` into a block, from its row `row` on.
    fn narrow_rows(&self, from: &[f32], dim: usize, row: usize, block: &mut [u16]) {
        let rows = from.len() / dim;
        assert!(row + rows <= BLOCK_ROWS, "rows of one block");
        for (step, block) in block.chunks_exact_mut(BLOCK_ROWS * STEP).enumerate() {
            let width = STEP.min(dim - step * STEP);
            let to = &mut block[row * STEP..][..rows * STEP];
            if width == STEP {
                let args = EncodeArgs {
                    from: Source::F32(from[step * STEP..].as_ptr()),
                    to: Target::Bf16(to.as_mut_ptr()),
                    rows,
                    width,
                    from_stride: dim,
                    to_stride: STEP,
                };
                // SAFETY: `with_isa` asked the CPU; `rows` rows of `dim` have a whole step here, and `to` is as many.
                unsafe { (self.narrow.encode)(&args) };
                continue;
            }
            for (to, from) in to.chunks_exact_mut(STEP).zip(from.chunks_exact(dim)) {
                let from = &from[step * STEP..];
                to.iter_mut().zip(from).for_each(|(to, from)| *to = bf16(*from));
            }
        }
    }

    /// For each document the sum of the best similarities; zero if it has no vectors.
    ///
    /// # Panics
    /// If the query or the documents were laid out for other kernels.
    pub fn best_of(&self, query: &Query, documents: &Documents) -> Vec<f32> {
        assert_eq!(documents.dim, query.dim, "vectors of one size");
        let (dim, ends) = (query.dim, documents.ends.as_slice());
        let width = match (&query.panels, &documents.half, self.narrow_max_sim()) {
            (Panels::F32(_), None, None) => self.kernels.panel,
            (Panels::Bf16(_), Some(_), Some(_)) => self.narrow.panel,
            _ => panic!("a query and documents of these kernels"),
        };
        let num_panels = query.num_vectors.div_ceil(width);
        // A document without vectors leaves its zeros.
        let mut best = vec![0.0; ends.len() * num_panels * width];
        match (&query.panels, &documents.half, self.narrow_max_sim()) {
            (Panels::Bf16(panels), Some(half), Some(kernel)) => {
                assert_eq!(panels.len(), num_panels * padded(dim) * width, "whole panels");
                let args = narrow::MaxSimArgs {
                    rows: half.as_ptr(),
                    steps: padded(dim) / STEP,
                    ends,
                    panels: panels.as_ptr(),
                    num_panels,
                    best: best.as_mut_ptr(),
                };
                // SAFETY: `with_isa` asked the CPU; panels and maxima are whole, and there is room for whole
                // blocks of the rows up to the last end.
                unsafe { kernel(&args) };
            }
            (Panels::F32(panels), ..) => {
                assert_eq!(panels.len(), num_panels * dim * width, "whole panels");
                assert_eq!(documents.wide.len(), documents.num_rows() * dim, "whole documents");
                let rows = documents.wide.as_ptr();
                let panels = panels.as_ptr();
                let best = best.as_mut_ptr();
                let args = MaxSimArgs { rows, k: dim, ends, panels, num_panels, best };
                // SAFETY: `with_isa` asked the CPU; the panels and the maxima are whole, and the documents have
                // as many rows as the last end says.
                unsafe { (self.kernels.max_sim)(&args) };
            }
            _ => unreachable!("compared above"),
        }
        let of_one = best.chunks_exact((num_panels * width).max(1));
        let mut sums: Vec<f32> = of_one.map(|best| sum(&best[..query.num_vectors])).collect();
        // A query of no vectors has no maxima.
        sums.resize(ends.len(), 0.0);
        sums
    }

    /// Whether documents are compared in bf16.
    pub fn compares_bf16(&self) -> bool {
        self.narrow_max_sim().is_some()
    }

    fn narrow_max_sim(&self) -> Option<unsafe fn(&narrow::MaxSimArgs)> {
        self.narrow.max_sim.filter(|_| self.dtype != Dtype::F32)
    }
}

impl MaxSim for Cpu {
    fn max_sim(
        &self,
        query: &[f32],
        dim: usize,
        num_documents: usize,
        read: &mut Read<'_>,
    ) -> Result<Vec<f32>, DeviceError> {
        let query = self.query(query, dim);
        let mut documents = self.documents(dim, GROUP);
        let mut sums = Vec::with_capacity(num_documents);
        for i in 0..num_documents {
            self.add_document(&mut documents, |out| read(i, out));
            let is_last = i + 1 == num_documents;
            if is_last || documents.num_rows() + documents.ends.len() >= GROUP {
                sums.extend(self.best_of(&query, &documents));
                documents.clear();
            }
        }
        Ok(sums)
    }
}

/// The sum in a fixed order: lane by lane, then of the lanes in halves.
fn sum(best: &[f32]) -> f32 {
    let mut lanes = [0f32; MAX_LANES];
    let (whole, rest) = best.as_chunks::<MAX_LANES>();
    for best in whole {
        lanes.iter_mut().zip(best).for_each(|(lane, best)| *lane += best);
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, best)| *lane += best);
    let mut half = MAX_LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

fn halves(dim: usize, max_rows: usize) -> Buffer<u16> {
    Buffer::zeroed(max_rows.next_multiple_of(BLOCK_ROWS) * padded(dim))
}

/// Numbers of a step of the narrow kernels.
const STEP: usize = 2 * STEP_DWORDS;

/// Columns in whole steps.
fn padded(dim: usize) -> usize {
    dim.next_multiple_of(STEP)
}

fn bf16(x: f32) -> u16 {
    half::bf16::from_f32(x).to_bits()
}

/// Folds the similarities of `M` rows with a panel into `best`, and fetches the rows some tiles ahead: from memory
/// they come as fast as they are used only if they are asked for in their order, and early.
///
/// # Safety
/// The CPU has the instruction set; `rows` is valid for `M` rows of `k` floats, `panel` for `[k, NV * LANES]`.
#[inline(always)]
unsafe fn tile<S: Simd, const M: usize, const NV: usize>(
    k: usize,
    rows: *const f32,
    panel: *const f32,
    best: &mut [S::V; NV],
) {
    const TILES_AHEAD: usize = 3;
    const FLOATS_PER_LINE: usize = 16;
    let ahead = rows.wrapping_add(TILES_AHEAD * M * k);
    // SAFETY: all offsets stay below M rows, k columns and one panel, which the caller vouches for; a fetch beyond
    // them has no effect.
    unsafe {
        let mut sums = [[S::splat(0.0); NV]; M];
        let mut b = panel;
        for p in 0..k {
            let mut columns = [S::splat(0.0); NV];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = S::load(b.add(j * S::LANES));
            }
            S::prefetch(ahead.wrapping_add(p * FLOATS_PER_LINE));
            for (i, row) in sums.iter_mut().enumerate() {
                let x = S::splat(*rows.add(i * k + p));
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum = S::fma(x, columns[j], *sum);
                }
            }
            b = b.add(NV * S::LANES);
        }
        for row in &sums {
            for (best, sum) in best.iter_mut().zip(row) {
                *best = S::max(*best, *sum);
            }
        }
    }
}

/// # Safety
/// The CPU has the instruction set; `args` describes valid memory and `best` overlaps nothing else.
#[inline(always)]
pub(super) unsafe fn max_sim<S: Simd, const MR: usize, const NV: usize>(args: &MaxSimArgs<'_>) {
    let MaxSimArgs { rows, k, ends, panels, num_panels, best } = *args;
    let width = NV * S::LANES;
    let mut begin = 0;
    for (document, end) in ends.iter().enumerate() {
        for panel_idx in 0..num_panels {
            if begin == *end {
                continue;
            }
            let height = tile_height(end - begin, MR);
            // SAFETY: a panel below `num_panels`, and tiles of the document's rows.
            unsafe {
                let panel = panels.add(panel_idx * k * width);
                let mut maxima = [S::splat(f32::NEG_INFINITY); NV];
                let mut row = begin;
                while row < *end {
                    let tile_rows = height.min(end - row);
                    let from = rows.add(row * k);
                    macro_rules! dispatch {
                        ($($m:literal)*) => {
                            match tile_rows {
                                $($m if $m <= MR => tile::<S, $m, NV>(k, from, panel, &mut maxima),)*
                                _ => unreachable!("a tile has 1 to {MR} rows"),
                            }
                        };
                    }
                    dispatch!(14 13 12 11 10 9 8 7 6 5 4 3 2 1);
                    row += tile_rows;
                }
                let out = best.add((document * num_panels + panel_idx) * width);
                for (j, maximum) in maxima.iter().enumerate() {
                    S::store(out.add(j * S::LANES), *maximum);
                }
            }
        }
        begin = *end;
    }
}
