//! The vectors of a document from the bytes that a store keeps, row by row: as rows of f32, or of bf16 in the blocks
//! that tiles read.
//!
//! Each number is what [`Format::decode`] makes of it.

use crate::engine::cpu::buffer::Buffer;
use crate::engine::cpu::narrow::lanes::Lanes;
use crate::engine::cpu::simd::{MAX_LANES, Simd};
use crate::matrix_format::{CODES_PER_BYTE, Format, SCALE_BYTES, to_length_one};

/// Reads the rows of one document after another.
pub(in crate::engine::cpu) struct Reader<'a> {
    format: Format,
    dim: usize,
    pub(in crate::engine::cpu) row_bytes: usize,
    bytes: &'a [u8],
    /// The first vector.
    rows: *const u8,
    /// Of 2 bits the means and the deviations of the columns, and room for rows, each [`in_whole_vectors`].
    columns: Buffer,
}

/// Rows of 2 bits that are read together: no row waits for the root of the one before.
const RESIDUAL_ROWS: usize = 16;

/// Columns with room for a whole vector of any instruction set at their end.
fn in_whole_vectors(dim: usize) -> usize {
    dim.next_multiple_of(MAX_LANES)
}

impl<'a> Reader<'a> {
    pub(in crate::engine::cpu) fn new(format: Format, dim: usize) -> Self {
        let num_rows = if format == Format::Bits2 { 2 + RESIDUAL_ROWS } else { 0 };
        let columns = Buffer::zeroed(num_rows * in_whole_vectors(dim));
        let row_bytes = format.row_bytes(dim);
        Self { format, dim, row_bytes, bytes: &[], rows: std::ptr::null(), columns }
    }

    /// Goes to a document that has rows.
    ///
    /// # Safety
    /// The CPU has the instruction set; the bytes are as many as the format has for whole vectors.
    #[inline(always)]
    pub(in crate::engine::cpu) unsafe fn open<S: Simd>(&mut self, bytes: &'a [u8]) {
        let head_bytes = self.format.head_bytes(self.dim);
        self.bytes = bytes;
        // SAFETY: the head is in front of the first row.
        unsafe {
            self.rows = bytes.as_ptr().add(head_bytes);
            if head_bytes > 0 {
                let columns = self.columns.as_mut_ptr();
                copy::<S, _, _>(Halves, bytes.as_ptr(), self.dim, Line(columns));
                let deviations = bytes.as_ptr().add(head_bytes / 2);
                let to = Line(columns.add(in_whole_vectors(self.dim)));
                copy::<S, _, _>(Halves, deviations, self.dim, to);
            }
        }
    }

    /// Where row `row` begins.
    ///
    /// # Safety
    /// The document has it.
    #[inline(always)]
    unsafe fn row(&self, row: usize) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe { self.rows.add(row * self.row_bytes) }
    }

    /// What is read `ahead` bytes after row `row`, if `next` is the document after this one.
    #[inline(always)]
    pub(in crate::engine::cpu) fn ahead(
        &self,
        row: usize,
        ahead: usize,
        next: Option<&&[u8]>,
    ) -> *const u8 {
        let rows = self.rows.wrapping_add(row * self.row_bytes).wrapping_add(ahead);
        let beyond = (rows as usize).wrapping_sub(self.bytes.as_ptr_range().end as usize);
        match next {
            Some(next) if beyond.cast_signed() >= 0 => next.as_ptr().wrapping_add(beyond),
            _ => rows,
        }
    }

    /// Whether rows are whole pairs of vectors whose numbers stand for themselves.
    #[inline(always)]
    pub(in crate::engine::cpu) fn is_plain<S: Simd>(&self) -> bool {
        self.format != Format::Bits2 && self.dim.is_multiple_of(2 * S::LANES)
    }

    /// Writes row `row` as [`Self::read`] does, in so few registers that those of a product around it stay where they
    /// are.
    ///
    /// # Safety
    /// As for [`Self::read`]; rows are plain.
    #[inline(always)]
    pub(in crate::engine::cpu) unsafe fn read_plain<S: Simd, T: Target<S>>(
        &self,
        row: usize,
        dim: usize,
        to: T,
    ) {
        // SAFETY: the caller's promise; a scale is in front of its codes.
        unsafe {
            let from = self.row(row);
            match self.format {
                Format::F16 => copy_pairs::<S, _, _>(Halves, from, dim, to),
                Format::Int8 => {
                    let codes = Codes(S::splat(from.cast::<f32>().read_unaligned()));
                    copy_pairs::<S, _, _>(codes, from.add(SCALE_BYTES), dim, to);
                }
                Format::F32 | Format::Bits2 => copy_pairs::<S, _, _>(Singles, from, dim, to),
            }
        }
    }

    /// Writes `num` rows from `row` on; `dim` is the reader's, here where a caller knows it before it runs.
    ///
    /// # Safety
    /// The CPU has the instruction set; the document has the rows, and `to` is valid for them.
    #[inline(always)]
    pub(in crate::engine::cpu) unsafe fn read<S: Simd, T: Target<S>>(
        &mut self,
        row: usize,
        num: usize,
        dim: usize,
        to: T,
    ) {
        // SAFETY: the caller's promise; a scale is in front of its codes.
        unsafe {
            match self.format {
                Format::F32 => {
                    for i in 0..num {
                        copy::<S, _, _>(Singles, self.row(row + i), dim, to.row(i));
                    }
                }
                Format::F16 => {
                    for i in 0..num {
                        copy::<S, _, _>(Halves, self.row(row + i), dim, to.row(i));
                    }
                }
                Format::Int8 => {
                    for i in 0..num {
                        let from = self.row(row + i);
                        let codes = Codes(S::splat(from.cast::<f32>().read_unaligned()));
                        copy::<S, _, _>(codes, from.add(SCALE_BYTES), dim, to.row(i));
                    }
                }
                Format::Bits2 => {
                    for begin in (0..num).step_by(RESIDUAL_ROWS) {
                        let num = RESIDUAL_ROWS.min(num - begin);
                        self.read_residuals::<S, T>(row + begin, num, dim, to.row(begin));
                    }
                }
            }
        }
    }

    /// # Safety
    /// As for [`Self::read`]; the document is one of 2 bits, and the rows are [`RESIDUAL_ROWS`] at most.
    #[inline(always)]
    unsafe fn read_residuals<S: Simd, T: Target<S>>(
        &mut self,
        row: usize,
        num: usize,
        dim: usize,
        to: T,
    ) {
        let width = in_whole_vectors(dim);
        let columns = self.columns.as_mut_ptr();
        let mut scales = [0f32; RESIDUAL_ROWS];
        // SAFETY: the caller's promise; `columns` has room for so many rows after two.
        unsafe {
            let wide = |i: usize| columns.add((2 + i) * width);
            for (i, squares) in scales[..num].iter_mut().enumerate() {
                *squares = levels::<S>(self.row(row + i), columns, dim, wide(i));
            }
            scales.iter_mut().for_each(|scale| *scale = to_length_one(*scale));
            for (i, scale) in scales[..num].iter().enumerate() {
                let scaled = Scaled(S::splat(*scale));
                copy::<S, _, _>(scaled, wide(i).cast(), dim, to.row(i));
            }
        }
    }
}

/// Writes what the codes of 2 bits at `from` stand for, and sums their squares; `columns` are the means and the
/// deviations.
///
/// # Safety
/// The CPU has the instruction set; the row has a code for each column; `columns` and `to` are [`in_whole_vectors`].
#[inline(always)]
unsafe fn levels<S: Simd>(from: *const u8, columns: *const f32, dim: usize, to: *mut f32) -> f32 {
    let whole = dim - dim % S::LANES;
    // SAFETY: the caller's promise; of the codes what is no whole vector is copied.
    unsafe {
        let zero = S::splat(0.0);
        let deviations = columns.add(in_whole_vectors(dim));
        let mut residuals =
            Residuals { mean: columns, deviations, to, squares: [zero; MOST_VECTORS] };
        for d in (0..whole).step_by(S::LANES) {
            residuals.columns::<S>(d, from.add(d / CODES_PER_BYTE));
        }
        if whole < dim {
            let num_bytes = (dim - whole).div_ceil(CODES_PER_BYTE);
            residuals
                .columns::<S>(whole, last(from.add(whole / CODES_PER_BYTE), num_bytes).as_ptr());
        }
        residuals.sum::<S>()
    }
}

/// That the lanes of a sum are in.
const MOST_VECTORS: usize = 4;

struct Residuals<V> {
    mean: *const f32,
    deviations: *const f32,
    to: *mut f32,
    squares: [V; MOST_VECTORS],
}

impl<V: Copy> Residuals<V> {
    /// # Safety
    /// As for [`levels`].
    #[inline(always)]
    unsafe fn columns<S: Simd<V = V>>(&mut self, d: usize, codes: *const u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let residuals = S::mul(S::load(self.deviations.add(d)), S::load_levels(codes));
            let x = S::add(S::load(self.mean.add(d)), residuals);
            S::store(self.to.add(d), x);
            // Not fused, as plain Rust.
            let sum = &mut self.squares[d / S::LANES % (MAX_LANES / S::LANES)];
            *sum = S::add(*sum, S::mul(x, x));
        }
    }

    /// The squares, in halves.
    ///
    /// # Safety
    /// As for [`Simd`].
    #[inline(always)]
    unsafe fn sum<S: Simd<V = V>>(mut self) -> f32 {
        const { assert!(MAX_LANES <= MOST_VECTORS * S::LANES) };
        let mut half = MAX_LANES / S::LANES / 2;
        // SAFETY: the caller's promise.
        unsafe {
            while half > 0 {
                for i in 0..half {
                    self.squares[i] = S::add(self.squares[i], self.squares[i + half]);
                }
                half /= 2;
            }
            S::reduce_add(self.squares[0])
        }
    }
}

/// Numbers in memory that become f32 in a register.
///
/// # Safety
/// As for [`Simd`].
trait Source<S: Simd>: Copy {
    const NUM_BYTES: usize;
    /// Reads `LANES` numbers.
    unsafe fn load(self, from: *const u8) -> S::V;
}

/// Where rows go.
///
/// # Safety
/// As for [`Simd`].
pub(in crate::engine::cpu) trait Target<S: Simd>: Copy {
    /// The same, from row `i` on.
    unsafe fn row(self, i: usize) -> Self;
    /// Writes the columns of the first row from `d` on.
    unsafe fn store(self, d: usize, v: S::V);
    /// Writes two vectors: `d` is a multiple of theirs.
    #[inline(always)]
    unsafe fn store_pair(self, d: usize, v: [S::V; 2]) {
        // SAFETY: the caller's promise.
        unsafe {
            self.store(d, v[0]);
            self.store(d + S::LANES, v[1]);
        }
    }
}

/// Copies a row of `dim`, in whole vectors: beyond the last column they hold what zeros become.
///
/// # Safety
/// The CPU has the instruction set; `from` is valid for `dim` numbers, `to` for as many in whole vectors.
#[inline(always)]
unsafe fn copy<S: Simd, N: Source<S>, T: Target<S>>(
    numbers: N,
    from: *const u8,
    dim: usize,
    to: T,
) {
    let (pairs, whole) = (dim - dim % (2 * S::LANES), dim - dim % S::LANES);
    // SAFETY: the caller's promise; what is no whole vector is copied.
    unsafe {
        copy_pairs::<S, _, _>(numbers, from, pairs, to);
        if pairs < whole {
            to.store(pairs, numbers.load(from.add(pairs * N::NUM_BYTES)));
        }
        if whole < dim {
            let from = from.add(whole * N::NUM_BYTES);
            to.store(whole, numbers.load(last(from, (dim - whole) * N::NUM_BYTES).as_ptr()));
        }
    }
}

/// Copies `num` numbers of a row, in whole pairs of vectors.
///
/// # Safety
/// As for [`copy`]; there are as many.
#[inline(always)]
unsafe fn copy_pairs<S: Simd, N: Source<S>, T: Target<S>>(
    numbers: N,
    from: *const u8,
    num: usize,
    to: T,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for d in (0..num).step_by(2 * S::LANES) {
            let second = from.add((d + S::LANES) * N::NUM_BYTES);
            to.store_pair(d, [numbers.load(from.add(d * N::NUM_BYTES)), numbers.load(second)]);
        }
    }
}

/// The last numbers of a row, and zeros: a load of a whole vector may not go beyond the bytes.
///
/// # Safety
/// `from` is valid for `num_bytes`, at most four a lane.
#[inline(always)]
unsafe fn last(from: *const u8, num_bytes: usize) -> [u8; 4 * MAX_LANES] {
    let mut bytes = [0; 4 * MAX_LANES];
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), num_bytes) };
    bytes
}

/// Kept f32. On the machines that have these kernels, numbers in memory begin with their lowest byte.
#[derive(Clone, Copy)]
struct Singles;

impl<S: Simd> Source<S> for Singles {
    const NUM_BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load(self, from: *const u8) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load(from.cast()) }
    }
}

/// Kept f16.
#[derive(Clone, Copy)]
struct Halves;

impl<S: Simd> Source<S> for Halves {
    const NUM_BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load(self, from: *const u8) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_halves(from) }
    }
}

/// Kept int8, and the vector's scale in all lanes.
#[derive(Clone, Copy)]
struct Codes<V>(V);

impl<S: Simd> Source<S> for Codes<S::V> {
    const NUM_BYTES: usize = 1;

    #[inline(always)]
    unsafe fn load(self, from: *const u8) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::mul(S::load_bytes(from), self.0) }
    }
}

/// A row of residuals, and in all lanes what makes its length one.
#[derive(Clone, Copy)]
struct Scaled<V>(V);

impl<S: Simd> Source<S> for Scaled<S::V> {
    const NUM_BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load(self, from: *const u8) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::mul(S::load(from.cast()), self.0) }
    }
}

/// One row of floats.
#[derive(Clone, Copy)]
struct Line(*mut f32);

impl<S: Simd> Target<S> for Line {
    #[inline(always)]
    unsafe fn row(self, _: usize) -> Self {
        self
    }
    #[inline(always)]
    unsafe fn store(self, d: usize, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { S::store(self.0.add(d), v) }
    }
}

/// `[num_chunks][ROWS][CHUNK]` numbers: rows lie so far apart that a kernel need not multiply.
#[derive(Clone, Copy)]
pub(in crate::engine::cpu) struct Tile<N, const ROWS: usize, const CHUNK: usize>(
    pub(in crate::engine::cpu) *mut N,
);

impl<N: Copy, const ROWS: usize, const CHUNK: usize> Tile<N, ROWS, CHUNK> {
    /// # Safety
    /// The tile has the row.
    #[inline(always)]
    unsafe fn at_row(self, i: usize) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { self.0.add(i * CHUNK) })
    }

    /// # Safety
    /// The tile has the column.
    #[inline(always)]
    unsafe fn column(self, d: usize) -> *mut N {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(d / CHUNK * ROWS * CHUNK + d % CHUNK) }
    }
}

impl<S: Simd, const ROWS: usize, const CHUNK: usize> Target<S> for Tile<f32, ROWS, CHUNK> {
    #[inline(always)]
    unsafe fn row(self, i: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe { self.at_row(i) }
    }
    #[inline(always)]
    unsafe fn store(self, d: usize, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { S::store(self.column(d), v) }
    }
}

impl<S: Lanes, const ROWS: usize, const CHUNK: usize> Target<S> for Tile<u16, ROWS, CHUNK> {
    #[inline(always)]
    unsafe fn row(self, i: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe { self.at_row(i) }
    }
    #[inline(always)]
    unsafe fn store(self, d: usize, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { S::store_bf16(self.column(d), v) }
    }
    #[inline(always)]
    unsafe fn store_pair(self, d: usize, v: [S::V; 2]) {
        // SAFETY: the caller's promise; a pair of vectors does not cross a chunk.
        unsafe { S::store_bf16_pair(self.column(d), v) }
    }
}
