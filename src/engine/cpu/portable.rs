//! The kernels in plain Rust: for machines without the instruction sets, and the reference in the tests.
//!
//! Nothing is shared with the SIMD kernels but the table's layouts: exponentials come from the standard
//! library, and the error function from its series and continued fraction.

use super::kernels::{AttentionArgs, Kernels, LinearArgs, NormArgs};
use crate::engine::Epilogue;
use std::slice::{from_raw_parts, from_raw_parts_mut};

const PANEL: usize = 16;

pub(super) static KERNELS: Kernels =
    Kernels { panel: PANEL, tile_rows: 1, linear, attention, add_norm };

/// # Safety
/// `args` describes valid memory and `out` overlaps nothing else.
unsafe fn linear(args: &LinearArgs) {
    for row in 0..args.rows {
        for panel_idx in 0..args.num_panels {
            // SAFETY: a row below `rows` and a panel below `num_panels`.
            let (x, panel, bias, out) = unsafe {
                (
                    from_raw_parts(args.x.add(row * args.x_stride), args.k),
                    from_raw_parts(args.panels.add(panel_idx * args.k * PANEL), args.k * PANEL),
                    from_raw_parts(args.bias.add(panel_idx * PANEL), PANEL),
                    from_raw_parts_mut(
                        args.out.add(row * args.out_stride + panel_idx * PANEL),
                        PANEL,
                    ),
                )
            };
            let mut sums = [0f32; PANEL];
            sums.copy_from_slice(bias);
            for (x, weights) in x.iter().zip(panel.chunks_exact(PANEL)) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum += x * weight;
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = activate(args.epilogue, sum);
            }
        }
    }
}

pub(super) fn activate(epilogue: Epilogue, x: f32) -> f32 {
    match epilogue {
        Epilogue::Bias => x,
        Epilogue::BiasGelu => {
            let x = f64::from(x);
            (0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))) as f32
        }
        Epilogue::BiasGeluTanh => {
            let (a, b) = super::math::GELU_TANH;
            0.5 * x * (1.0 + (a * (x + b * x * x * x)).tanh())
        }
        Epilogue::BiasRelu => x.max(0.0),
        Epilogue::BiasTanh => x.tanh(),
    }
}

/// The error function, within 1e-12: its series below 3, its continued fraction above.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let y = if a < 3.0 {
        let (mut term, mut sum) = (a, a);
        for n in 1..60 {
            term *= 2.0 * a * a / f64::from(2 * n + 1);
            sum += term;
            if term < 1e-15 * sum {
                break;
            }
        }
        2.0 / std::f64::consts::PI.sqrt() * (-a * a).exp() * sum
    } else {
        let mut fraction = a;
        for n in (1..40).rev() {
            fraction = a + f64::from(n) / 2.0 / fraction;
        }
        1.0 - (-a * a).exp() / (std::f64::consts::PI.sqrt() * fraction)
    };
    y.copysign(x)
}

/// # Safety
/// `args` describes valid memory; the workspace has the sizes of `AttentionSizes`.
unsafe fn attention(args: &AttentionArgs) {
    let (len, dim) = (args.len, args.head_dim);
    // SAFETY: the caller's promise.
    let scores = unsafe { from_raw_parts_mut(args.work.scores, len) };
    for head in 0..args.num_heads {
        // Part 0 is the queries, 1 the keys, 2 the values.
        let part = |part: usize, t: usize| {
            let at = t * args.qkv_stride + (part * args.num_heads + head) * dim;
            // SAFETY: `t` is below `len` and the three parts lie in each row.
            unsafe { from_raw_parts(args.qkv.add(at), dim) }
        };
        for t in 0..args.num_queries {
            let query = part(0, t);
            for (s, score) in scores.iter_mut().enumerate() {
                *score = query.iter().zip(part(1, s)).map(|(q, k)| q * k).sum();
            }
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|score| *score = (*score - max).exp2());
            let sum: f32 = scores.iter().sum();
            // SAFETY: `t` is below `num_queries`; the caller lends `out` to this call alone.
            let out =
                unsafe { from_raw_parts_mut(args.out.add(t * args.out_stride + head * dim), dim) };
            out.fill(0.0);
            for (s, weight) in scores.iter().enumerate() {
                for (out, value) in out.iter_mut().zip(part(2, s)) {
                    *out += weight / sum * value;
                }
            }
        }
    }
}

/// # Safety
/// `args` describes valid memory.
unsafe fn add_norm(args: &NormArgs) {
    for row in 0..args.rows {
        // SAFETY: a row below `rows`.
        unsafe {
            let update = from_raw_parts(args.update.add(row * args.update_stride), args.width);
            norm_row(args, row, update.iter().copied());
        }
    }
}

/// Row `row` of [`add_norm`], whatever its update is stored as.
///
/// # Safety
/// `args` describes valid memory and has the row.
pub(super) unsafe fn norm_row<U>(
    args: &NormArgs<U>,
    row: usize,
    update: impl Iterator<Item = f32>,
) {
    let width = args.width;
    // SAFETY: a row below `rows`; the parameters have the row's width.
    let (hidden, gamma, beta) = unsafe {
        (
            from_raw_parts_mut(args.hidden.add(row * args.hidden_stride), width),
            from_raw_parts(args.gamma, width),
            from_raw_parts(args.beta, width),
        )
    };
    hidden.iter_mut().zip(update).for_each(|(h, u)| *h += u);
    let mean = hidden.iter().sum::<f32>() / width as f32;
    let variance = hidden.iter().map(|h| (h - mean).powi(2)).sum::<f32>() / width as f32;
    let scale = 1.0 / (variance + args.eps).sqrt();
    for (h, (gamma, beta)) in hidden.iter_mut().zip(gamma.iter().zip(beta)) {
        *h = (*h - mean) * scale * gamma + beta;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn erf_matches_known_values() {
        for (x, y) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (2.999_999, 0.999_977_909_363_838_8),
            (3.5, 0.999_999_256_901_627_7),
            (-1.0, -0.842_700_792_949_714_9),
        ] {
            assert!((super::erf(x) - y).abs() < 1e-11, "erf({x}) is {}, not {y}", super::erf(x));
        }
    }
}
