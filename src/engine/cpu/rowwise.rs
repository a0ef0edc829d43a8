//! What touches each row by itself: gated activations, norms of heads and rotary positions.

use super::kernels::{GateArgs, HeadNormArgs, RotateArgs};
use super::math;
use super::numbers::Numbers;
use super::simd::Simd;

/// # Safety
/// The CPU has the instruction set; `args` describes valid memory.
#[inline(always)]
pub(super) unsafe fn gate<S: Simd, N: Numbers<S>>(args: &GateArgs<N::Number>) {
    let tail = args.width % S::LANES;
    let whole = args.width - tail;
    for row in 0..args.rows {
        // SAFETY: a row below `args.rows`; whole vectors below `whole`, and a part of `tail` after them.
        unsafe {
            let x = args.x.add(row * args.x_stride);
            let (up, out) = (x.add(args.width), args.out.add(row * args.out_stride));
            for i in (0..whole).step_by(S::LANES) {
                let gate = math::gate::<S>(args.gate, N::load(x.add(i)));
                S::store(out.add(i), S::mul(gate, N::load(up.add(i))));
            }
            if tail > 0 {
                let gate = math::gate::<S>(args.gate, N::load_part(x.add(whole), tail));
                let y = S::mul(gate, N::load_part(up.add(whole), tail));
                S::store_part(out.add(whole), tail, y);
            }
        }
    }
}

/// # Safety
/// The CPU has the instruction set; `args` describes valid memory, and `half` is a multiple of `LANES`.
#[inline(always)]
pub(super) unsafe fn rotate<S: Simd, N: Numbers<S>>(args: &RotateArgs<N::Number>) {
    for row in 0..args.num_rows {
        // SAFETY: a row below `num_rows`, a head below `num_heads`, and whole vectors of its halves.
        unsafe {
            let at = *args.positions.add(row) as usize * args.half;
            let (cosines, sines) = (args.cosines.add(at), args.sines.add(at));
            for head in 0..args.num_heads {
                let low = args.rows.add(row * args.stride + head * 2 * args.half);
                let high = low.add(args.half);
                for i in (0..args.half).step_by(S::LANES) {
                    let (x, y) = (N::load(low.add(i)), N::load(high.add(i)));
                    let (cosine, sine) = (S::load(cosines.add(i)), S::load(sines.add(i)));
                    N::store(low.add(i), S::sub(S::mul(x, cosine), S::mul(y, sine)));
                    N::store(high.add(i), S::fma(x, sine, S::mul(y, cosine)));
                }
            }
        }
    }
}

/// # Safety
/// The CPU has the instruction set; `args` describes valid memory, and `head_dim` is a multiple of `LANES`.
#[inline(always)]
pub(super) unsafe fn head_norm<S: Simd, N: Numbers<S>>(args: &HeadNormArgs<N::Number>) {
    for row in 0..args.num_rows {
        for head in 0..args.num_heads {
            // SAFETY: a row below `num_rows`, a head below `num_heads`, and its whole vectors.
            unsafe {
                let x = args.heads.add(row * args.stride + head * args.head_dim);
                let mut squares = S::splat(0.0);
                for i in (0..args.head_dim).step_by(S::LANES) {
                    let x = N::load(x.add(i));
                    squares = S::fma(x, x, squares);
                }
                let square = S::reduce_add(squares) / args.head_dim as f32;
                let scale = S::splat(1.0 / (square + args.eps).sqrt());
                for i in (0..args.head_dim).step_by(S::LANES) {
                    let y = S::mul(S::mul(N::load(x.add(i)), scale), S::load(args.gamma.add(i)));
                    N::store(x.add(i), y);
                }
            }
        }
    }
}
