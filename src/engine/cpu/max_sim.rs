//! Late interaction: of each vector of a query the best similarity with a document's, and their sum.
//!
//! Documents are the left side of a matrix product whose right side, the query, is one panel or a few: a tile's
//! similarities are folded into the maxima while they are near, and are never stored. Every similarity is one
//! chain over the columns, a maximum has no order, and the sum over the query's vectors has a fixed one.
//!
//! Documents come as a store keeps them, and are decoded a tile or a block at a time.

pub(super) mod kept;
pub(super) mod kernel;

use super::Cpu;
use super::buffer::Buffer;
use super::kernels::MaxSimArgs;
use super::narrow::STEP_DWORDS;
use super::simd::MAX_LANES;
use crate::engine::{Dtype, MaxSim, MaxSimError};
use crate::error::DeviceError;
use crate::matrix_format::{Format, sum_in_halves};

/// Documents that are compared at a time: their maxima stay in a core's caches, and what the last block of a group has
/// too many rows is little beside them.
const GROUP: usize = 128;

/// The vectors of a query, laid out for the kernels of one [`Cpu`].
#[derive(Debug)]
struct Query {
    num_vectors: usize,
    /// One at least, zeros after the last vector.
    num_panels: usize,
    panels: Panels,
}

#[derive(Debug)]
enum Panels {
    /// `[num_panels][dim][panel]`
    F32(Buffer),
    /// `[num_panels][dim / 2][panel]` pairs of bf16; `dim` in whole steps.
    Bf16(Buffer<u16>),
}

impl Cpu {
    /// Whether documents are compared in bf16.
    pub fn compares_bf16(&self) -> bool {
        self.narrow_max_sim().is_some()
    }

    fn narrow_max_sim(&self) -> Option<unsafe fn(&MaxSimArgs<'_, u16>) -> bool> {
        self.narrow.max_sim.filter(|_| self.dtype != Dtype::F32)
    }

    /// Columns of a panel of a query.
    fn query_panel(&self) -> usize {
        if self.compares_bf16() { self.narrow.panel } else { self.kernels.panel }
    }

    /// Lays out `[num_vectors, dim]`.
    fn query(&self, vectors: &[f32], dim: usize) -> Query {
        let (num_vectors, panel) = (vectors.len() / dim, self.query_panel());
        let num_panels = num_vectors.div_ceil(panel).max(1);
        let rows = vectors.chunks_exact(dim).enumerate();
        let panels = if self.compares_bf16() {
            let k = padded(dim);
            let mut panels = Buffer::zeroed(num_panels * k * panel);
            for (i, row) in rows {
                let to = &mut panels[i / panel * k * panel + i % panel * 2..];
                for (pair, to) in row.chunks(2).zip(to.chunks_mut(2 * panel)) {
                    to.iter_mut().zip(pair).for_each(|(to, x)| *to = bf16(*x));
                }
            }
            Panels::Bf16(panels)
        } else {
            let mut panels = Buffer::zeroed(num_panels * dim * panel);
            for (i, row) in rows {
                let to = panels[i / panel * dim * panel + i % panel..].iter_mut().step_by(panel);
                to.zip(row).for_each(|(to, x)| *to = *x);
            }
            Panels::F32(panels)
        };
        Query { num_vectors, num_panels, panels }
    }

    /// Writes the maxima of documents: `[num_documents][num_panels * panel]`, zeros of one without vectors.
    fn best_of(
        &self,
        query: &Query,
        (format, dim): (Format, usize),
        documents: &[&[u8]],
        best: &mut Vec<f32>,
    ) -> Result<(), MaxSimError> {
        let mut ends = Vec::with_capacity(documents.len());
        let mut end = 0;
        for bytes in documents {
            end += format.num_vectors(bytes.len(), dim).ok_or(MaxSimError::NotKept)?;
            ends.push(end);
        }
        let (ends, num_panels) = (ends.as_slice(), query.num_panels);
        best.clear();
        best.resize(documents.len() * num_panels * self.query_panel(), 0.0);
        let best = best.as_mut_ptr();
        let are_finite = match (&query.panels, self.narrow_max_sim()) {
            (Panels::Bf16(panels), Some(kernel)) => {
                let args = MaxSimArgs { format, dim, documents, ends, panels, num_panels, best };
                // SAFETY: `with_isa` asked the CPU; panels and maxima are whole, and so are the documents' vectors.
                unsafe { kernel(&args) }
            }
            (Panels::F32(panels), _) => {
                let args = MaxSimArgs { format, dim, documents, ends, panels, num_panels, best };
                // SAFETY: as above.
                unsafe { (self.kernels.max_sim)(&args) }
            }
            (Panels::Bf16(_), None) => unreachable!("laid out by the same kernels"),
        };
        if are_finite { Ok(()) } else { Err(MaxSimError::NotKept) }
    }
}

impl MaxSim for Cpu {
    fn max_sim(
        &self,
        query: &[f32],
        dim: usize,
        format: Format,
        documents: &[&[u8]],
    ) -> Result<Vec<f32>, MaxSimError> {
        if !query.iter().all(|x| x.is_finite()) {
            return Err(DeviceError::new("a vector of the query has no finite length").into());
        }
        let query = self.query(query, dim);
        let (mut sums, mut best) = (Vec::with_capacity(documents.len()), Vec::new());
        for documents in documents.chunks(GROUP) {
            self.best_of(&query, (format, dim), documents, &mut best)?;
            let of_one = best.chunks_exact(best.len() / documents.len());
            sums.extend(of_one.map(|best| sum(&best[..query.num_vectors])));
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
    sum_in_halves(&mut lanes)
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
