//! Activation rows: a matrix with padded rows whose row count changes from batch to batch.

use super::buffer::Buffer;

/// The widest panel of any kernel: kernels write whole panels, into the padding if need be.
const ROW_PAD: usize = 32;
/// Rows a multiple of 4 KiB apart fall into one set of the L1 cache, and a tile reads 14 of them at once.
const ALIASING_FLOATS: usize = 1024;

/// `[num_rows, width]`, each row `stride` floats after the one before.
#[derive(Debug)]
pub struct Rows {
    data: Buffer,
    pub(super) width: usize,
    pub(super) stride: usize,
    pub(super) num_rows: usize,
}

impl Rows {
    pub fn new(max_rows: usize, width: usize) -> Self {
        let mut stride = width.next_multiple_of(ROW_PAD);
        if stride.is_multiple_of(ALIASING_FLOATS) {
            stride += ROW_PAD;
        }
        Self { data: Buffer::zeroed(max_rows * stride), width, stride, num_rows: 0 }
    }

    /// Sets the row count; the rows keep what they held.
    ///
    /// # Panics
    /// If there is no memory for so many rows: a batch beyond the limits given at load.
    pub fn set_rows(&mut self, num_rows: usize) {
        assert!(num_rows * self.stride <= self.data.len(), "{num_rows} rows exceed the arena");
        self.num_rows = num_rows;
    }

    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.stride..][..self.width]
    }

    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.stride..][..self.width]
    }

    pub(super) fn data(&self) -> &[f32] {
        &self.data
    }

    pub(super) fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }
}
