//! Late interaction in registers, in f32 and in bf16.
//!
//! A tile's rows are read from the bytes that are kept into a scratch that stays in the first-level cache, and all of
//! the query's panels meet them there.

use std::slice::from_raw_parts_mut;

use super::kept::{Reader, Target, Tile};
use crate::engine::cpu::buffer::{Buffer, Number};
use crate::engine::cpu::gemm::tile_height;
use crate::engine::cpu::kernels::MaxSimArgs;
use crate::engine::cpu::narrow::tile::Dot;
use crate::engine::cpu::simd::Simd;

/// How documents are compared: a dword of a row at a time with vectors of the query.
///
/// # Safety
/// As for [`Simd`].
pub(in crate::engine::cpu) trait Comparison:
    Dot<Sums = Vector<Self>>
{
    type Simd: Simd;
    /// One of these, or two, are a dword.
    type Number: Number;
    /// The vectors by which rows are read between the products of the tile before, if they are: where what converts
    /// them is not what multiplies, it costs little there.
    type Between: Simd;
    const READS_BETWEEN: bool;

    /// From what is read next to what is fetched meanwhile.
    fn bytes_ahead(tile_bytes: usize) -> usize;
    /// Brings a line to where it will be read from. Any address will do.
    unsafe fn fetch(line: *const u8);
}

type Vector<C> = <<C as Comparison>::Simd as Simd>::V;

/// f32, by fused multiply-adds.
pub(in crate::engine::cpu) struct F32<S>(std::marker::PhantomData<S>);

impl<S: Simd> Dot for F32<S> {
    type Row = S::V;
    type Columns = S::V;
    type Sums = S::V;

    #[inline(always)]
    unsafe fn zero() -> S::V {
        // SAFETY: the caller's CPU has the instruction set.
        unsafe { S::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn row(p: *const u32) -> S::V {
        // SAFETY: one float, the caller's promise.
        unsafe { S::splat(*p.cast()) }
    }
    #[inline(always)]
    unsafe fn columns(p: *const u32) -> S::V {
        // SAFETY: one vector of floats, the caller's promise.
        unsafe { S::load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn dot(sums: S::V, row: S::V, columns: S::V) -> S::V {
        // SAFETY: the caller's CPU has the instruction set.
        unsafe { S::fma(row, columns, sums) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u32, sums: S::V) {
        // SAFETY: one vector of floats, the caller's promise.
        unsafe { S::store(p.cast(), sums) }
    }
}

impl<S: Simd> Comparison for F32<S> {
    type Simd = S;
    type Number = f32;
    type Between = S;
    const READS_BETWEEN: bool = false;

    #[inline(always)]
    fn bytes_ahead(tile_bytes: usize) -> usize {
        2 * tile_bytes
    }
    #[inline(always)]
    unsafe fn fetch(line: *const u8) {
        // SAFETY: the caller's CPU has the instruction set.
        unsafe { S::prefetch(line.cast()) }
    }
}

/// Columns of a chunk of a tile.
const CHUNK: usize = 128;

/// The rows of a tile, and what is fetched while it is computed: from memory bytes come as fast as they are used only
/// if they are asked for in their order, and early.
#[derive(Clone, Copy)]
struct Rows<N> {
    /// As [`Tile`] has them.
    chunks: *const N,
    dim: usize,
    ahead: *const u8,
    /// What is fetched for each column.
    ahead_bytes: usize,
}

/// Folds the similarities of `M` of `MR` rows with a panel into `best`. `check` stays zero as long as they are finite: a
/// maximum would pass over what is no number. `between` is called `MR` times or more, if there are as many columns.
///
/// # Safety
/// The CPU has the instruction set; there are as many rows, `panel` is valid for `[dim, NV * LANES]` in whole dwords,
/// `best` for `[NV * LANES]`.
#[inline(always)]
unsafe fn multiply<C: Comparison, const M: usize, const MR: usize, const NV: usize>(
    rows: Rows<C::Number>,
    panel: *const C::Number,
    best: *mut f32,
    check: &mut Vector<C>,
    mut between: impl FnMut(),
) {
    let Rows { mut chunks, dim, mut ahead, ahead_bytes } = rows;
    let numbers = size_of::<u32>() / size_of::<C::Number>();
    let step = if C::READS_BETWEEN && M == MR { (dim / numbers / MR).max(1) } else { CHUNK };
    // SAFETY: all offsets stay below M rows, their columns and one panel, which the caller vouches for; a fetch beyond
    // them has no effect.
    unsafe {
        let mut sums = [[C::zero(); NV]; M];
        let mut b = panel.cast::<u32>();
        for begin in (0..dim).step_by(CHUNK) {
            let a = chunks.cast::<u32>();
            let end = CHUNK.min(dim - begin).div_ceil(numbers);
            for first in (0..end).step_by(step) {
                for p in first..end.min(first + step) {
                    let columns: [C::Columns; NV] =
                        std::array::from_fn(|j| C::columns(b.add(j * C::Simd::LANES)));
                    for _ in 0..numbers {
                        C::fetch(ahead);
                        ahead = ahead.wrapping_add(ahead_bytes);
                    }
                    for (i, row) in sums.iter_mut().enumerate() {
                        let x = C::row(a.add(i * CHUNK / numbers + p));
                        for (j, sum) in row.iter_mut().enumerate() {
                            *sum = C::dot(*sum, x, columns[j]);
                        }
                    }
                    b = b.add(NV * C::Simd::LANES);
                }
                between();
            }
            chunks = chunks.wrapping_add(MR * CHUNK);
        }
        // Of each row one vector of the query is enough: what is no number meets all of them.
        for row in &sums {
            *check = C::Simd::fma(row[0], C::Simd::splat(0.0), *check);
        }
        for j in 0..NV {
            let best = best.add(j * C::Simd::LANES);
            let mut maximum = C::Simd::load(best);
            for row in &sums {
                maximum = C::Simd::max(maximum, row[j]);
            }
            C::Simd::store(best, maximum);
        }
    }
}

/// Rows of a document that are compared together.
#[derive(Clone, Copy)]
struct Span {
    document: usize,
    row: usize,
    /// None after the last of all.
    num_rows: usize,
}

impl Span {
    /// In front of all rows.
    const START: Self = Self { document: 0, row: 0, num_rows: 0 };

    /// The one after it: `MR` rows at most, of no more documents than one.
    #[inline(always)]
    fn next<C: Comparison, const MR: usize>(self, ends: &[usize]) -> Self {
        let (mut document, mut row) = (self.document, self.row + self.num_rows);
        while let Some(end) = ends.get(document) {
            let len = if document == 0 { *end } else { end - ends[document - 1] };
            if row < len {
                // All of the same height, or whole ones, which read between.
                let height = if C::READS_BETWEEN { MR } else { tile_height(len, MR) };
                return Self { document, row, num_rows: height.min(len - row) };
            }
            (document, row) = (document + 1, 0);
        }
        Self { document, row, num_rows: 0 }
    }
}

/// # Safety
/// The CPU has the instruction sets; `args` describes valid memory and `best` overlaps nothing else.
#[inline(always)]
pub(in crate::engine::cpu) unsafe fn max_sim<C: Comparison, const MR: usize, const NV: usize>(
    args: &MaxSimArgs<'_, C::Number>,
) -> bool
where
    Tile<C::Number, MR, CHUNK>: Target<C::Simd> + Target<C::Between>,
{
    let MaxSimArgs { format, dim, documents, ends, panels, num_panels, best } = *args;
    let (width, panel_len) = (NV * C::Simd::LANES, panels.len() / num_panels);
    // What is read between is not in the way of what is multiplied.
    let len = dim.next_multiple_of(CHUNK) * MR;
    let num_tiles = 1 + usize::from(C::READS_BETWEEN);
    let mut scratch = Buffer::<C::Number>::zeroed(num_tiles * len);
    let first = Tile::<_, MR, CHUNK>(scratch.as_mut_ptr());
    let (mut tile, mut other) = (first, Tile(first.0.wrapping_add((num_tiles - 1) * len)));
    let mut reader = Reader::new(format, dim);
    let ahead = C::bytes_ahead(MR * reader.row_bytes);
    // SAFETY: documents below `ends.len()`, panels below `num_panels`, and spans of the document's rows; each tile of the
    // scratch has room for one.
    unsafe {
        let mut check = C::Simd::splat(0.0);
        let mut span = Span::START.next::<C, MR>(ends);
        if span.num_rows > 0 {
            reader.open::<C::Simd>(documents[span.document]);
            reader.read::<C::Simd, _>(0, span.num_rows, dim, tile);
        }
        while span.num_rows > 0 {
            let next = span.next::<C, MR>(ends);
            if next.document != span.document && next.num_rows > 0 {
                reader.open::<C::Simd>(documents[next.document]);
            }
            let best = best.add(span.document * num_panels * width);
            if span.row == 0 {
                from_raw_parts_mut(best, num_panels * width).fill(f32::NEG_INFINITY);
            }
            let rows = Rows {
                chunks: tile.0.cast_const(),
                dim,
                ahead: reader.ahead(next.row, ahead, documents.get(next.document + 1)),
                ahead_bytes: (span.num_rows * reader.row_bytes).div_ceil(dim),
            };
            let is_plain = C::READS_BETWEEN && reader.is_plain::<C::Between>();
            let (mut num_read, num_between) = (0, if is_plain { next.num_rows } else { 0 });
            for panel_idx in 0..num_panels {
                let panel = panels.as_ptr().add(panel_idx * panel_len);
                let best = best.add(panel_idx * width);
                macro_rules! dispatch {
                    ($($m:literal)*) => {
                        match span.num_rows {
                            num if num == MR => multiply::<C, MR, MR, NV>(rows, panel, best, &mut check, || {
                                if num_read < num_between {
                                    let to = Target::<C::Between>::row(other, num_read);
                                    reader.read_plain::<C::Between, _>(next.row + num_read, dim, to);
                                    num_read += 1;
                                }
                            }),
                            $($m if $m < MR => {
                                multiply::<C, $m, MR, NV>(rows, panel, best, &mut check, || ());
                            })*
                            _ => unreachable!("a tile has 1 to {MR} rows"),
                        }
                    };
                }
                dispatch!(13 12 11 10 9 8 7 6 5 4 3 2 1);
            }
            let (row, num_rows) = (next.row + num_read, next.num_rows - num_read);
            reader.read::<C::Simd, _>(row, num_rows, dim, Target::<C::Simd>::row(other, num_read));
            (tile, other, span) = (other, tile, next);
        }
        // Asked this way round, a NaN is not zero.
        C::Simd::reduce_add(check) == 0.0
    }
}
