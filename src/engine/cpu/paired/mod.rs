//! The f32 product with a third fewer multiplications, for cores whose adders stand beside their multipliers.
//!
//! `x1 y1 + x2 y2 = (x1 + y2) (x2 + y1) - x1 x2 - y1 y2` (Winograd, "A New Algorithm for Inner Product", IEEE Transactions
//! on Computers C-17, 1968): two additions stand for one multiplication, and what is taken away is one number a row and
//! one a column. Of six columns four are made so and two as they are: then adders and multipliers have as much to do.
//!
//! The sums grow with the larger of the factors, so both must be of one size: a column of weights is scaled to a mean
//! square of one, and a row whose own is far from it is multiplied as everywhere. Nothing of this depends on other rows.

#[cfg(target_arch = "x86_64")]
mod kernel;

#[cfg(target_arch = "x86_64")]
pub(super) use kernel::linear;

use super::buffer::Buffer;
use crate::engine::LinearInit;

/// Columns of a panel: a vector of AVX-512.
const LANES: usize = 16;

/// Columns of k that are taken together, and how many of them in pairs.
const STEP: usize = 6;
const IN_PAIRS: usize = 4;

/// Weights whose columns have a mean square near one.
#[derive(Debug)]
pub(super) struct Paired {
    /// `[num_panels][k][LANES]`, columns padded with zeros to whole panels.
    pub(super) panels: Buffer,
    /// What one stands for in each column, a power of two.
    pub(super) scales: Buffer,
    /// Where a column's sums start: less the products of its pairs.
    pub(super) starts: Buffer,
}

impl Paired {
    /// Columns of a panel.
    pub(super) const PANEL: usize = LANES;

    pub(super) fn pack(init: &LinearInit<'_>) -> Self {
        let LinearInit { weight, n, k, .. } = *init;
        let padded = n.next_multiple_of(LANES);
        let mut packed = Self {
            panels: Buffer::zeroed_weights(padded * k),
            scales: Buffer::zeroed(padded),
            starts: Buffer::zeroed(padded),
        };
        for (column, weight) in weight.chunks_exact(k).enumerate() {
            let scale = power_near_size(weight);
            packed.scales[column] = scale;
            if scale == 0.0 {
                continue;
            }
            let (panel, lane) = (column / LANES * k * LANES, column % LANES);
            for (p, x) in weight.iter().enumerate() {
                packed.panels[panel + p * LANES + lane] = x / scale;
            }
            packed.starts[column] = -products_of_pairs(weight, scale);
        }
        packed
    }
}

/// The power of two that is nearest to the root of the mean square; zero where that is nothing, as sums that only rounding
/// has left are worth nothing.
fn power_near_size(weight: &[f32]) -> f32 {
    /// So that products of the unit and its inverse with any sum are floats.
    const MOST: f64 = 60.0;
    let squares: f64 = weight.iter().map(|x| f64::from(*x).powi(2)).sum();
    let exponent = (squares / weight.len() as f64).log2() / 2.0;
    if squares == 0.0 { 0.0 } else { exponent.round().clamp(-MOST, MOST).exp2() as f32 }
}

/// The sum of `y1 y2` over all pairs of a column, in units of `scale`.
fn products_of_pairs(weight: &[f32], scale: f32) -> f32 {
    let in_pairs = weight.chunks_exact(STEP).flat_map(|step| step[..IN_PAIRS].chunks_exact(2));
    let sum: f64 = in_pairs.map(|pair| f64::from(pair[0]) * f64::from(pair[1])).sum();
    (sum / f64::from(scale) / f64::from(scale)) as f32
}
