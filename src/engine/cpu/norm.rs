//! Residual add and norm, some rows side by side.

use super::kernels::NormArgs;
use super::numbers::Numbers;
use super::simd::Simd;
use crate::engine::NormKind;

/// Rows side by side: in one alone each addition to a sum would wait for the one before. Their bits are those they
/// have alone.
const ROWS: usize = 4;

/// # Safety
/// The CPU has the instruction set; `args` describes valid memory.
#[inline(always)]
pub(super) unsafe fn add_norm<S: Simd, N: Numbers<S>>(args: &NormArgs<N::Number>) {
    let whole = args.rows - args.rows % ROWS;
    // SAFETY: rows below `args.rows`.
    unsafe {
        for row in (0..whole).step_by(ROWS) {
            norm_rows::<S, N, ROWS>(args, row);
        }
        for row in whole..args.rows {
            norm_rows::<S, N, 1>(args, row);
        }
    }
}

/// Mean first, then the variance around it: the one-pass form cancels in f32.
///
/// # Safety
/// As for [`add_norm`], for `R` rows from `first` on.
#[inline(always)]
unsafe fn norm_rows<S: Simd, N: Numbers<S>, const R: usize>(
    args: &NormArgs<N::Number>,
    first: usize,
) {
    let width = args.width as f32;
    // SAFETY: the rows are those of `args`.
    unsafe {
        let sums = add_rows::<S, N, R>(args, first);
        let mut means = [0.0; R];
        if args.kind == NormKind::Layer {
            for (mean, sum) in means.iter_mut().zip(sums) {
                *mean = S::reduce_add(sum) / width;
            }
        }
        let squares = squares::<S, _, R>(args, first, means);
        let mut scales = means;
        for (scale, squares) in scales.iter_mut().zip(squares) {
            *scale = 1.0 / (S::reduce_add(squares) / width + args.eps).sqrt();
        }
        write_rows::<S, _, R>(args, first, means, scales);
    }
}

/// Vectors of a row: where each begins, and how many numbers it has.
#[inline(always)]
fn vectors<S: Simd>(width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..width).step_by(S::LANES).map(move |i| (i, S::LANES.min(width - i)))
}

/// Adds the update; returns each row's sums.
///
/// # Safety
/// As for [`norm_rows`].
#[inline(always)]
unsafe fn add_rows<S: Simd, N: Numbers<S>, const R: usize>(
    args: &NormArgs<N::Number>,
    first: usize,
) -> [S::V; R] {
    // SAFETY: the rows are those of `args`, and `width` long.
    unsafe {
        let mut sums = [S::splat(0.0); R];
        for (i, n) in vectors::<S>(args.width) {
            for (r, sum) in sums.iter_mut().enumerate() {
                let hidden = args.hidden.add((first + r) * args.hidden_stride + i);
                let mut x = load::<S>(hidden, n, 0.0);
                if !args.update.is_null() {
                    let update = args.update.add((first + r) * args.update_stride + i);
                    let update =
                        if n == S::LANES { N::load(update) } else { N::load_part(update, n) };
                    x = S::add(x, update);
                    store::<S>(hidden, n, x);
                }
                *sum = S::add(*sum, x);
            }
        }
        sums
    }
}

/// The sums of squares around the means.
///
/// # Safety
/// As for [`norm_rows`].
#[inline(always)]
unsafe fn squares<S: Simd, U, const R: usize>(
    args: &NormArgs<U>,
    first: usize,
    means: [f32; R],
) -> [S::V; R] {
    // SAFETY: the rows are those of `args`, and `width` long.
    unsafe {
        let mut squares = [S::splat(0.0); R];
        for (i, n) in vectors::<S>(args.width) {
            for (r, (squares, mean)) in squares.iter_mut().zip(means).enumerate() {
                let hidden = args.hidden.add((first + r) * args.hidden_stride + i);
                let d = S::sub(load::<S>(hidden, n, mean), S::splat(mean));
                *squares = S::fma(d, d, *squares);
            }
        }
        squares
    }
}

/// # Safety
/// As for [`norm_rows`].
#[inline(always)]
unsafe fn write_rows<S: Simd, U, const R: usize>(
    args: &NormArgs<U>,
    first: usize,
    means: [f32; R],
    scales: [f32; R],
) {
    // SAFETY: the rows are those of `args`, and `width` long.
    unsafe {
        for (i, n) in vectors::<S>(args.width) {
            let gamma = load::<S>(args.gamma.add(i), n, 0.0);
            let beta = load::<S>(args.beta.add(i), n, 0.0);
            for (r, (mean, scale)) in means.into_iter().zip(scales).enumerate() {
                let hidden = args.hidden.add((first + r) * args.hidden_stride + i);
                let d = S::sub(load::<S>(hidden, n, mean), S::splat(mean));
                let out = args.out.add((first + r) * args.out_stride + i);
                store::<S>(out, n, S::fma(S::mul(d, S::splat(scale)), gamma, beta));
            }
        }
    }
}

/// Reads `n` floats, up to a vector; the other lanes are `fill`.
///
/// # Safety
/// The CPU has the instruction set, and the floats are valid memory.
#[inline(always)]
unsafe fn load<S: Simd>(p: *const f32, n: usize, fill: f32) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { if n == S::LANES { S::load(p) } else { S::load_part(p, n, fill) } }
}

/// Writes `n` floats, up to a vector.
///
/// # Safety
/// The CPU has the instruction set, and the floats are valid memory.
#[inline(always)]
unsafe fn store<S: Simd>(p: *mut f32, n: usize, v: S::V) {
    // SAFETY: the caller's promise.
    unsafe {
        if n == S::LANES {
            S::store(p, v);
        } else {
            S::store_part(p, n, v);
        }
    }
}
