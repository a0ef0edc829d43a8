//! Residual add and norm, one row at a time.

use super::kernels::NormArgs;
use super::numbers::Numbers;
use super::simd::Simd;
use crate::engine::NormKind;

/// # Safety
/// The CPU has the instruction set; `args` describes valid memory.
#[inline(always)]
pub(super) unsafe fn add_norm<S: Simd, N: Numbers<S>>(args: &NormArgs<N::Number>) {
    for row in 0..args.rows {
        // SAFETY: a row below `args.rows`.
        unsafe {
            let hidden = args.hidden.add(row * args.hidden_stride);
            if !args.update.is_null() {
                let update = args.update.add(row * args.update_stride);
                add_row::<S, N>(args.width, hidden, update);
            }
            norm_row::<S, _>(args, hidden, args.out.add(row * args.out_stride));
        }
    }
}

/// # Safety
/// As for [`add_norm`]; both rows have `width` numbers.
#[inline(always)]
unsafe fn add_row<S: Simd, N: Numbers<S>>(
    width: usize,
    hidden: *mut f32,
    update: *const N::Number,
) {
    let tail = width % S::LANES;
    let whole = width - tail;
    // SAFETY: whole vectors below `whole`, and a part of `tail` floats after them.
    unsafe {
        for i in (0..whole).step_by(S::LANES) {
            S::store(hidden.add(i), S::add(S::load(hidden.add(i)), N::load(update.add(i))));
        }
        if tail > 0 {
            let (h, u) = (hidden.add(whole), update.add(whole));
            S::store_part(h, tail, S::add(S::load_part(h, tail, 0.0), N::load_part(u, tail)));
        }
    }
}

/// Mean first, then the variance around it: the one-pass form cancels in f32.
///
/// # Safety
/// As for [`add_norm`]; both rows have `args.width` floats, and may be the same.
#[inline(always)]
unsafe fn norm_row<S: Simd, U>(args: &NormArgs<U>, hidden: *const f32, out: *mut f32) {
    let width = args.width;
    let tail = width % S::LANES;
    let whole = width - tail;
    // SAFETY: whole vectors below `whole`, and a part of `tail` floats after them.
    unsafe {
        let mean = match args.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => {
                let mut sum = S::splat(0.0);
                for i in (0..whole).step_by(S::LANES) {
                    sum = S::add(sum, S::load(hidden.add(i)));
                }
                if tail > 0 {
                    sum = S::add(sum, S::load_part(hidden.add(whole), tail, 0.0));
                }
                S::reduce_add(sum) / width as f32
            }
        };
        let mean_v = S::splat(mean);

        let mut squares = S::splat(0.0);
        for i in (0..whole).step_by(S::LANES) {
            let d = S::sub(S::load(hidden.add(i)), mean_v);
            squares = S::fma(d, d, squares);
        }
        if tail > 0 {
            let d = S::sub(S::load_part(hidden.add(whole), tail, mean), mean_v);
            squares = S::fma(d, d, squares);
        }
        let variance = S::reduce_add(squares) / width as f32;
        let scale = S::splat(1.0 / (variance + args.eps).sqrt());

        for i in (0..whole).step_by(S::LANES) {
            let x = S::mul(S::sub(S::load(hidden.add(i)), mean_v), scale);
            let y = S::fma(x, S::load(args.gamma.add(i)), S::load(args.beta.add(i)));
            S::store(out.add(i), y);
        }
        if tail > 0 {
            let gamma = S::load_part(args.gamma.add(whole), tail, 0.0);
            let beta = S::load_part(args.beta.add(whole), tail, 0.0);
            let x = S::mul(S::sub(S::load_part(hidden.add(whole), tail, mean), mean_v), scale);
            S::store_part(out.add(whole), tail, S::fma(x, gamma, beta));
        }
    }
}
