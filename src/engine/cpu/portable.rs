//! The kernels in plain Rust: for machines without the instruction sets, and the reference in the tests.
//!
//! Nothing is shared with the SIMD kernels but the table's layouts: exponentials come from the standard
//! library, and the error function from its series and continued fraction.

use super::kernels::{
    AttentionArgs, FirstArgs, GateArgs, HeadNormArgs, Kernels, LinearArgs, MaxSimArgs, NormArgs,
    RotateArgs,
};
use super::relative::RelativeArgs;
use crate::engine::{Epilogue, Gate, NormKind};
use std::slice::{from_raw_parts, from_raw_parts_mut};

const PANEL: usize = 16;

pub(super) static KERNELS: Kernels = Kernels {
    panel: PANEL,
    tile_rows: 1,
    linear,
    paired: None,
    attention,
    first,
    add_norm,
    gate,
    rotate,
    head_norm,
    max_sim,
};

/// # Safety
/// `args` describes valid memory and `best` overlaps nothing else.
unsafe fn max_sim(args: &MaxSimArgs<'_>) -> bool {
    let num_vectors = args.num_panels * PANEL;
    let mut rows = Vec::new();
    for (document, bytes) in args.documents.iter().enumerate() {
        rows.clear();
        if !args.format.decode(bytes, args.dim, &mut rows) {
            return false;
        }
        for i in (0..num_vectors).take_while(|_| !rows.is_empty()) {
            let place = i / PANEL * args.dim * PANEL + i % PANEL;
            let number = |d: usize| args.panels[place + d * PANEL];
            let mut best = f32::NEG_INFINITY;
            for row in rows.chunks_exact(args.dim) {
                let product: f32 = row.iter().enumerate().map(|(d, x)| x * number(d)).sum();
                if !product.is_finite() {
                    return false;
                }
                best = best.max(product);
            }
            // SAFETY: the caller lends a float for each document and vector of the panels.
            unsafe { *args.best.add(document * num_vectors + i) = best };
        }
    }
    true
}

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
/// `args` describes valid memory and `out` overlaps nothing else.
unsafe fn first(args: &FirstArgs) {
    let FirstArgs { len, columns, .. } = *args;
    // SAFETY: rows below `len`, heads below `num_heads`, whole rows of `columns`.
    let row = |t: usize| unsafe { from_raw_parts(args.rows.add(t * args.stride), columns) };
    for head in 0..args.num_heads {
        // SAFETY: as above; `scores` has a float for each token at least.
        let (query, scores, out) = unsafe {
            (
                from_raw_parts(args.queries.add(head * args.query_stride), columns),
                from_raw_parts_mut(args.scores, len),
                from_raw_parts_mut(args.out.add(head * columns), columns),
            )
        };
        for (t, score) in scores.iter_mut().enumerate() {
            *score = query.iter().zip(row(t)).map(|(q, x)| q * x).sum();
        }
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        scores.iter_mut().for_each(|score| *score = (*score - max).exp2());
        let sum: f32 = scores.iter().sum();
        out.fill(0.0);
        for (t, weight) in scores.iter().enumerate() {
            out.iter_mut().zip(row(t)).for_each(|(out, x)| *out += weight / sum * x);
        }
    }
}

/// # Safety
/// `args` describes valid memory; the workspace has the sizes of `AttentionSizes`.
unsafe fn attention(args: &AttentionArgs) {
    let (len, dim) = (args.len, args.head_dim);
    // SAFETY: the caller's promise.
    let all_scores = unsafe { from_raw_parts_mut(args.work.scores, len) };
    for head in 0..args.num_heads {
        let kv_head = head / (args.num_heads / args.num_kv_heads);
        let of = |head: usize, t: usize| {
            // SAFETY: `t` is below `len` and the heads of all three parts lie in each row.
            unsafe { from_raw_parts(args.row(t).add(head * dim), dim) }
        };
        let key = |t| of(args.num_heads + kv_head, t);
        let value = |t| of(args.num_heads + args.num_kv_heads + kv_head, t);
        for t in 0..args.num_queries {
            let (query, visible) = (of(head, args.trunk_len + t), args.visible(t));
            let scores = &mut all_scores[visible.clone()];
            for (s, score) in visible.clone().zip(scores.iter_mut()) {
                *score = query.iter().zip(key(s)).map(|(q, k)| q * k).sum();
                if let Some(relative) = &args.relative {
                    let vectors = (args.trunk_len + t, s);
                    // SAFETY: both are positions of the sequence.
                    *score += unsafe { distance_score(relative, head, vectors, query, key(s)) };
                }
                if let Some(cap) = args.softcap {
                    *score = cap * (*score / cap).tanh();
                }
            }
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|score| *score = (*score - max).exp2());
            let sum: f32 = scores.iter().sum();
            // SAFETY: `t` is below `num_queries`; the caller lends `out` to this call alone.
            let out =
                unsafe { from_raw_parts_mut(args.out.add(t * args.out_stride + head * dim), dim) };
            out.fill(0.0);
            for (s, weight) in visible.zip(scores.iter()) {
                for (out, value) in out.iter_mut().zip(value(s)) {
                    *out += weight / sum * value;
                }
            }
        }
    }
}

/// What the distance between two tokens adds to their score.
///
/// # Safety
/// `relative` describes valid memory, and `(t, s)` are positions of the sequence: of the query, and of the key.
unsafe fn distance_score(
    relative: &RelativeArgs,
    head: usize,
    (t, s): (usize, usize),
    query: &[f32],
    key: &[f32],
) -> f32 {
    let dim = query.len();
    // SAFETY: a bucket of the table, and its column in the panel of the head.
    unsafe {
        let bucket = relative.bucket(t, s);
        let first = head * relative.head_stride + bucket / PANEL * dim * PANEL + bucket % PANEL;
        let of = |vectors: *const f32, d: usize| *vectors.add(first + d * PANEL);
        let products = query.iter().zip(key).enumerate();
        products.map(|(d, (q, k))| q * of(relative.keys, d) + k * of(relative.queries, d)).sum()
    }
}

/// # Safety
/// `args` describes valid memory.
unsafe fn add_norm(args: &NormArgs) {
    for row in 0..args.rows {
        // SAFETY: a row below `rows`.
        unsafe {
            let update = (!args.update.is_null())
                .then(|| from_raw_parts(args.update.add(row * args.update_stride), args.width));
            norm_row(args, row, update.into_iter().flatten().copied());
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
    let mean = match args.kind {
        NormKind::Layer => hidden.iter().sum::<f32>() / width as f32,
        NormKind::Rms => 0.0,
    };
    let variance = hidden.iter().map(|h| (h - mean).powi(2)).sum::<f32>() / width as f32;
    let scale = 1.0 / (variance + args.eps).sqrt();
    for (i, (gamma, beta)) in gamma.iter().zip(beta).enumerate() {
        let y = (hidden[i] - mean) * scale * gamma + beta;
        // SAFETY: a column of the row of `out`, which may be `hidden`.
        unsafe { *args.out.add(row * args.out_stride + i) = y };
    }
}

/// # Safety
/// `args` describes valid memory.
unsafe fn gate(args: &GateArgs) {
    for row in 0..args.rows {
        // SAFETY: a row below `rows`.
        unsafe {
            let x = from_raw_parts(args.x.add(row * args.x_stride), 2 * args.width);
            gate_row(args, row, x.iter().copied());
        }
    }
}

/// Row `row` of [`gate`], whatever its numbers are stored as.
///
/// # Safety
/// `args` describes valid memory and has the row.
pub(super) unsafe fn gate_row<U>(
    args: &GateArgs<U>,
    row: usize,
    x: impl Iterator<Item = f32> + Clone,
) {
    // SAFETY: the caller's promise.
    let out = unsafe { from_raw_parts_mut(args.out.add(row * args.out_stride), args.width) };
    for (out, (gate, up)) in out.iter_mut().zip(x.clone().zip(x.skip(args.width))) {
        let gate = match args.gate {
            Gate::Gelu => activate(Epilogue::BiasGelu, gate),
            Gate::GeluTanh => activate(Epilogue::BiasGeluTanh, gate),
            Gate::Silu => gate / (1.0 + (-gate).exp()),
            Gate::Relu => gate.max(0.0),
        };
        *out = gate * up;
    }
}

/// # Safety
/// `args` describes valid memory.
unsafe fn rotate(args: &RotateArgs) {
    for row in 0..args.num_rows {
        // SAFETY: a row below `num_rows`.
        unsafe {
            let width = args.num_heads * 2 * args.half;
            let numbers = from_raw_parts_mut(args.rows.add(row * args.stride), width);
            rotate_row(args, row, numbers);
        }
    }
}

/// Row `row` of [`rotate`], whatever its numbers are stored as.
///
/// # Safety
/// `args` describes valid memory and has the row.
pub(super) unsafe fn rotate_row<U>(args: &RotateArgs<U>, row: usize, numbers: &mut [f32]) {
    // SAFETY: the position is one of the tables'.
    let (cosines, sines) = unsafe {
        let at = *args.positions.add(row) as usize * args.half;
        (
            from_raw_parts(args.cosines.add(at), args.half),
            from_raw_parts(args.sines.add(at), args.half),
        )
    };
    for head in numbers.chunks_exact_mut(2 * args.half) {
        let (low, high) = head.split_at_mut(args.half);
        for (i, (x, y)) in low.iter_mut().zip(high).enumerate() {
            (*x, *y) = (*x * cosines[i] - *y * sines[i], *y * cosines[i] + *x * sines[i]);
        }
    }
}

/// # Safety
/// `args` describes valid memory.
unsafe fn head_norm(args: &HeadNormArgs) {
    for at in 0..args.num_rows * args.num_heads {
        let (row, head) = (at / args.num_heads, at % args.num_heads);
        // SAFETY: a row below `num_rows`, a head below `num_heads`.
        unsafe {
            let start = args.heads.add(row * args.stride + head * args.head_dim);
            norm_head(args, from_raw_parts_mut(start, args.head_dim));
        }
    }
}

/// One head of [`head_norm`], whatever its numbers are stored as.
///
/// # Safety
/// `args` describes valid memory.
pub(super) unsafe fn norm_head<U>(args: &HeadNormArgs<U>, head: &mut [f32]) {
    // SAFETY: the caller's promise.
    let gamma = unsafe { from_raw_parts(args.gamma, args.head_dim) };
    let square = head.iter().map(|x| x * x).sum::<f32>() / args.head_dim as f32;
    let scale = 1.0 / (square + args.eps).sqrt();
    head.iter_mut().zip(gamma).for_each(|(x, gamma)| *x = *x * scale * gamma);
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
