//! How far a kernel may be from its reference, and why.

/// Half a unit in the last place of an f16, relative.
pub const F16: f64 = 1.0 / 2048.0;
/// Half of the smallest f16: values below 2^-14 are rounded to multiples of 2^-24.
pub const F16_TINY: f64 = 1.0 / 33_554_432.0;
/// Half a unit in the last place of an f32, relative.
pub const F32: f64 = 1.0 / 16_777_216.0;

/// A reference value and how much error its computation may have before it is rounded to the output.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    pub value: f64,
    pub error: f64,
}

impl Expected {
    pub fn exact(value: f64) -> Self {
        Self { value, error: 0.0 }
    }

    /// A sum of `terms` in f32: each of its additions and products rounds a partial sum, which is at most
    /// the sum of the terms' magnitudes.
    pub fn sum(terms: impl Iterator<Item = f64> + Clone) -> Self {
        let magnitude: f64 = terms.clone().map(f64::abs).sum();
        let count = terms.clone().count() as f64;
        Self { value: terms.sum(), error: magnitude * F32 * (count + 1.0) }
    }

    /// Applies a function whose slope is at most `slope` and which itself is `relative` accurate.
    pub fn map(self, f: impl Fn(f64) -> f64, slope: f64, relative: f64) -> Self {
        let value = f(self.value);
        Self { value, error: self.error * slope + value.abs() * relative }
    }

    pub fn plus(self, other: f64) -> Self {
        let value = self.value + other;
        Self { value, error: self.error + value.abs() * F32 }
    }
}

/// Fails with the first and the worst element that is further off than its error and one rounding to f16.
#[track_caller]
pub fn assert_f16(what: &str, out: &[f32], expected: &[Expected]) {
    assert_within(what, out, expected, |e| (e.value.abs() + e.error) * F16 + F16_TINY);
}

/// The same for results that stay f32.
#[track_caller]
pub fn assert_f32(what: &str, out: &[f32], expected: &[Expected]) {
    assert_within(what, out, expected, |e| (e.value.abs() + e.error) * F32);
}

#[track_caller]
fn assert_within(
    what: &str,
    out: &[f32],
    expected: &[Expected],
    rounding: impl Fn(&Expected) -> f64,
) {
    assert_eq!(out.len(), expected.len(), "{what}: number of elements");
    let excess = |i: usize| {
        let e = &expected[i];
        let off = (f64::from(out[i]) - e.value).abs();
        let ratio = off / (e.error + rounding(e)).max(f64::MIN_POSITIVE);
        if ratio.is_nan() { f64::INFINITY } else { ratio }
    };
    let wrong: Vec<usize> = (0..out.len()).filter(|&i| excess(i) > 1.0).collect();
    let Some(&first) = wrong.first() else { return };
    let worst = wrong.iter().fold(first, |a, &b| if excess(b) > excess(a) { b } else { a });
    panic!(
        "{what}: {} of {} elements are off; first [{first}] {} for {:?}, worst [{worst}] {} for {:?}",
        wrong.len(),
        out.len(),
        out[first],
        expected[first],
        out[worst],
        expected[worst],
    );
}
