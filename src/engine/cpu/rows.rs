//! Activation rows: a matrix with padded rows whose row count changes from batch to batch.

use super::buffer::Buffer;
use super::narrow::{BLOCK_ROWS, Code, Numbers, STEP_BYTES};

/// The widest panel of any kernel: kernels write whole panels, into the padding if need be. Also a step of
/// the narrow products, which read whole ones.
pub(super) const ROW_PAD: usize = STEP_BYTES;
/// Rows a multiple of 4 KiB apart fall into one set of the L1 cache, and a tile reads 14 of them at once.
const ALIASING_FLOATS: usize = 512;

/// `[num_rows, width]`, each row `stride` numbers after the one before.
///
/// The same numbers may stand in several forms. What writes the rows says in which; what reads them asks for
/// the form it needs, and panics if it was not written: a defect of the backend that any score would show.
#[derive(Debug)]
pub struct Rows {
    wide: Buffer,
    /// For narrow products: bf16.
    half: Buffer<u16>,
    /// For products of integers: their bytes, and how they are meant in each row.
    bytes: Buffer<u8>,
    codes: Vec<Code>,
    forms: Forms,
    pub(super) width: usize,
    pub(super) stride: usize,
    pub(super) num_rows: usize,
}

/// Which forms of the rows hold their numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Forms {
    pub(super) wide: bool,
    pub(super) half: bool,
    pub(super) codes: bool,
}

impl Forms {
    pub(super) const WIDE: Self = Self { wide: true, half: false, codes: false };
    pub(super) const HALF: Self = Self { wide: false, half: true, codes: false };
}

impl Rows {
    /// With forms beside f32 if narrow products are to read them.
    pub(super) fn new(max_rows: usize, width: usize, numbers: Option<Numbers>) -> Self {
        let mut stride = width.next_multiple_of(ROW_PAD);
        if stride.is_multiple_of(ALIASING_FLOATS) {
            stride += ROW_PAD;
        }
        // Narrow products and attention read whole blocks, from any row on.
        let blocks = max_rows.next_multiple_of(BLOCK_ROWS) + BLOCK_ROWS;
        let half = if numbers.is_some() { blocks } else { 0 };
        let coded = numbers.filter(|numbers| *numbers != Numbers::Bf16);
        let codes = if coded.is_some() { blocks } else { 0 };
        Self {
            wide: Buffer::zeroed(max_rows * stride),
            half: Buffer::zeroed(half * stride),
            bytes: Buffer::zeroed(codes * stride * coded.map_or(0, Numbers::size)),
            codes: vec![Code::default(); codes],
            forms: Forms::WIDE,
            width,
            stride,
            num_rows: 0,
        }
    }

    /// Sets the row count; the rows keep what they held.
    ///
    /// # Panics
    /// If there is no memory for so many rows: a batch beyond the limits given at load.
    pub fn set_rows(&mut self, num_rows: usize) {
        assert!(num_rows * self.stride <= self.wide.len(), "{num_rows} rows exceed the arena");
        self.num_rows = num_rows;
    }

    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn row(&self, i: usize) -> &[f32] {
        &self.wide()[i * self.stride..][..self.width]
    }

    /// The f32 form, which the caller writes.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        let (stride, width) = (self.stride, self.width);
        &mut self.wide_mut()[i * stride..][..width]
    }

    pub(super) fn forms(&self) -> Forms {
        self.forms
    }

    pub(super) fn wide(&self) -> &[f32] {
        assert!(self.forms.wide, "rows in f32");
        &self.wide
    }

    pub(super) fn half(&self) -> &[u16] {
        assert!(self.forms.half, "rows in bf16");
        &self.half
    }

    pub(super) fn codes(&self) -> (&[u8], &[Code]) {
        assert!(self.forms.codes, "rows in integers");
        (&self.bytes, &self.codes)
    }

    /// From here on only the f32 form holds.
    pub(super) fn wide_mut(&mut self) -> &mut [f32] {
        self.forms = Forms::WIDE;
        &mut self.wide
    }

    /// From here on only the bf16 form holds.
    pub(super) fn half_mut(&mut self) -> &mut [u16] {
        self.forms = Forms::HALF;
        &mut self.half
    }

    /// All forms' memory, and the note of which hold: for what makes one from another.
    pub(super) fn parts(&mut self) -> Parts<'_> {
        Parts {
            wide: &self.wide,
            half: &mut self.half,
            bytes: &mut self.bytes,
            codes: &mut self.codes,
            forms: &mut self.forms,
        }
    }
}

pub(super) struct Parts<'a> {
    pub(super) wide: &'a [f32],
    pub(super) half: &'a mut [u16],
    pub(super) bytes: &'a mut [u8],
    pub(super) codes: &'a mut [Code],
    pub(super) forms: &'a mut Forms,
}
