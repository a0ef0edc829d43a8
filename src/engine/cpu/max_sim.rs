//! Late interaction: of each vector of a query the best similarity with a document's, and their sum.
//!
//! A document is the left side of a matrix product whose right side, the query, is one panel or a few: a tile's
//! similarities are folded into the maxima while they are in registers, and are never stored. Every similarity is
//! one chain over the columns, a maximum has no order, and the sum over the query's vectors has a fixed one.

use super::Cpu;
use super::buffer::Buffer;
use super::gemm::tile_height;
use super::kernels::MaxSimArgs;
use super::narrow::{self, BLOCK_ROWS, EncodeArgs, STEP_DWORDS, Source, Target};
use super::simd::Simd;
use crate::engine::{Dtype, MaxSim, Read};
use crate::error::DeviceError;

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

impl Query {
    pub fn num_vectors(&self) -> usize {
        self.num_vectors
    }
}

/// The vectors of a document as the kernel of [`Cpu::best_of_bf16`] reads them.
#[derive(Debug)]
pub struct Bf16Document {
    rows: Buffer<u16>,
    num_rows: usize,
    stride: usize,
}

impl Cpu {
    /// Lays out a query of `[num_vectors, dim]`.
    pub fn query(&self, vectors: &[f32], dim: usize) -> Query {
        let num_vectors = vectors.len() / dim;
        let narrow = self.narrow.max_sim.filter(|_| self.dtype != Dtype::F32);
        let panel = if narrow.is_some() { self.narrow.panel } else { self.kernels.panel };
        let num_panels = num_vectors.div_ceil(panel);
        // The place of column `d` of vector `i`.
        let place = |i: usize, d: usize, k: usize, group: usize| {
            ((i / panel * k + d) / group * panel + i % panel) * group + d % group
        };
        let rows = vectors.chunks_exact(dim).enumerate();
        let panels = if narrow.is_some() {
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

    /// The sum of the best similarities with a document of `[num_rows, dim]`; zero if it has no vectors.
    ///
    /// # Panics
    /// If the query was laid out for other kernels.
    pub fn best_of(&self, query: &Query, document: &[f32]) -> f32 {
        let num_rows = document.len() / query.dim;
        match &query.panels {
            Panels::F32(panels) => {
                let panel = self.kernels.panel;
                let num_panels = query.num_vectors.div_ceil(panel);
                assert_eq!(
                    panels.len(),
                    num_panels * query.dim * panel,
                    "a query of these kernels"
                );
                let mut best = vec![f32::NEG_INFINITY; num_panels * panel];
                let args = MaxSimArgs {
                    rows: document.as_ptr(),
                    stride: query.dim,
                    num_rows,
                    k: query.dim,
                    panels: panels.as_ptr(),
                    num_panels,
                    best: best.as_mut_ptr(),
                };
                // SAFETY: `with_isa` asked the CPU; the panels and the maxima are whole, and the document has
                // `num_rows` rows of `dim`.
                unsafe { (self.kernels.max_sim)(&args) };
                sum(&best, query.num_vectors, num_rows)
            }
            Panels::Bf16(_) => {
                let mut narrow = self.bf16_document(num_rows, query.dim);
                self.narrow_rows(document, query.dim, &mut narrow);
                self.best_of_bf16(query, &narrow)
            }
        }
    }

    /// Room for a document of so many vectors in bf16.
    pub fn bf16_document(&self, max_rows: usize, dim: usize) -> Bf16Document {
        let stride = padded(dim);
        let blocks = max_rows.next_multiple_of(BLOCK_ROWS);
        Bf16Document { rows: Buffer::zeroed(blocks * stride), num_rows: 0, stride }
    }

    /// Writes a document of `[num_rows, dim]` as bf16.
    pub fn narrow_rows(&self, document: &[f32], dim: usize, out: &mut Bf16Document) {
        let num_rows = document.len() / dim;
        if num_rows * out.stride > out.rows.len() {
            *out = self.bf16_document(num_rows, dim);
        }
        out.num_rows = num_rows;
        let stride = out.stride;
        if stride == dim {
            // Without padding all rows are one, of whole vectors.
            let width = num_rows * dim;
            let args = EncodeArgs {
                from: Source::F32(document.as_ptr()),
                to: Target::Bf16(out.rows.as_mut_ptr()),
                rows: 1,
                width,
                stride: width,
            };
            // SAFETY: `with_isa` asked the CPU; both have `width` numbers, a multiple of a step.
            unsafe { (self.narrow.encode)(&args) };
            return;
        }
        for (to, from) in out.rows.chunks_exact_mut(stride).zip(document.chunks_exact(dim)) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = bf16(*from));
        }
    }

    /// As [`Self::best_of`], in bf16 with sums in f32.
    ///
    /// # Panics
    /// If the query was laid out for other kernels, or these have none for bf16.
    pub fn best_of_bf16(&self, query: &Query, document: &Bf16Document) -> f32 {
        let (Panels::Bf16(panels), Some(kernel)) = (&query.panels, self.narrow.max_sim) else {
            panic!("a query in bf16, and kernels for it");
        };
        let (panel, k) = (self.narrow.panel, padded(query.dim));
        let num_panels = query.num_vectors.div_ceil(panel);
        assert_eq!(panels.len(), num_panels * k * panel, "a query of these kernels");
        assert_eq!(document.stride, k, "vectors of one size");
        let mut best = vec![f32::NEG_INFINITY; num_panels * panel];
        let args = narrow::MaxSimArgs {
            rows: document.rows.as_ptr(),
            stride: document.stride,
            num_rows: document.num_rows,
            steps: k / 2 / STEP_DWORDS,
            panels: panels.as_ptr(),
            num_panels,
            best: best.as_mut_ptr(),
        };
        // SAFETY: `with_isa` asked the CPU; panels and maxima are whole, and so are the document's blocks of rows.
        unsafe { kernel(&args) };
        sum(&best, query.num_vectors, document.num_rows)
    }

    /// Whether documents are compared in bf16.
    pub fn compares_bf16(&self) -> bool {
        self.dtype != Dtype::F32 && self.narrow.max_sim.is_some()
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
        let (mut document, mut narrow) = (Vec::new(), self.bf16_document(0, dim));
        let score = |i| {
            document.clear();
            read(i, &mut document);
            if self.compares_bf16() {
                self.narrow_rows(&document, dim, &mut narrow);
                self.best_of_bf16(&query, &narrow)
            } else {
                self.best_of(&query, &document)
            }
        };
        Ok((0..num_documents).map(score).collect())
    }
}

/// The maxima of the query's vectors, in their order.
fn sum(best: &[f32], num_vectors: usize, num_rows: usize) -> f32 {
    if num_rows == 0 { 0.0 } else { best[..num_vectors].iter().sum() }
}

/// Columns in whole steps of the narrow kernels.
fn padded(dim: usize) -> usize {
    dim.next_multiple_of(2 * STEP_DWORDS)
}

fn bf16(x: f32) -> u16 {
    half::bf16::from_f32(x).to_bits()
}

/// Folds the similarities of `M` rows with a panel into `best`.
///
/// # Safety
/// The CPU has the instruction set; `rows` is valid for `M` rows of `k` floats `stride` apart, `panel` for
/// `[k, NV * LANES]`.
#[inline(always)]
unsafe fn tile<S: Simd, const M: usize, const NV: usize>(
    k: usize,
    rows: *const f32,
    stride: usize,
    panel: *const f32,
    best: &mut [S::V; NV],
) {
    // SAFETY: all offsets stay below M rows, k columns and one panel, which the caller vouches for.
    unsafe {
        let mut sums = [[S::splat(0.0); NV]; M];
        let mut b = panel;
        for p in 0..k {
            let mut columns = [S::splat(0.0); NV];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = S::load(b.add(j * S::LANES));
            }
            for (i, row) in sums.iter_mut().enumerate() {
                let x = S::splat(*rows.add(i * stride + p));
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
pub(super) unsafe fn max_sim<S: Simd, const MR: usize, const NV: usize>(args: &MaxSimArgs) {
    let MaxSimArgs { rows, stride, num_rows, k, panels, num_panels, best } = *args;
    let width = NV * S::LANES;
    let height = tile_height(num_rows, MR);
    for panel_idx in 0..num_panels {
        // SAFETY: a panel below `num_panels`, and tiles of the rows.
        unsafe {
            let panel = panels.add(panel_idx * k * width);
            let out = best.add(panel_idx * width);
            let mut best = [S::splat(f32::NEG_INFINITY); NV];
            let mut row = 0;
            while row < num_rows {
                let tile_rows = height.min(num_rows - row);
                let from = rows.add(row * stride);
                macro_rules! dispatch {
                    ($($m:literal)*) => {
                        match tile_rows {
                            $($m if $m <= MR => tile::<S, $m, NV>(k, from, stride, panel, &mut best),)*
                            _ => unreachable!("a tile has 1 to {MR} rows"),
                        }
                    };
                }
                dispatch!(14 13 12 11 10 9 8 7 6 5 4 3 2 1);
                row += tile_rows;
            }
            for (j, best) in best.iter().enumerate() {
                S::store(out.add(j * S::LANES), *best);
            }
        }
    }
}
