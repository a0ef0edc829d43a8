//! The few vector operations the kernels are written in. Each instruction set implements them once.

use super::math;
use crate::matrix_format::{CODES_PER_BYTE, LEVELS, widen_half};

/// A vector register of `f32`.
///
/// # Safety
/// Every function needs a CPU with the instruction set. They are inlined into entry functions that enable
/// it (`kernel_table!`), and those are reached only through [`super::isa::Isa`], which has asked the CPU.
/// Pointers must be valid for the numbers read or written; none needs alignment.
pub(super) trait Simd: Copy {
    type V: Copy;
    const LANES: usize;

    unsafe fn splat(x: f32) -> Self::V;
    /// Reads `LANES` floats.
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn abs(a: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `a * 2^n` for whole `n` in [-126, 127].
    unsafe fn scale2(a: Self::V, n: Self::V) -> Self::V;

    /// `x * Phi(x)` within 2.7e-7.
    #[inline(always)]
    unsafe fn precise_gelu(x: Self::V) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { math::gelu::<Self>(x) }
    }

    /// Reads `LANES` halves.
    #[inline(always)]
    unsafe fn load_halves(p: *const u8) -> Self::V {
        // SAFETY: the caller lends two bytes for each lane.
        unsafe { Self::load(plain_halves(p, Self::LANES).as_ptr()) }
    }

    /// Reads `LANES` signed bytes.
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> Self::V {
        // SAFETY: the caller lends a byte for each lane.
        unsafe { Self::load(plain_bytes(p, Self::LANES).as_ptr()) }
    }

    /// Reads the [`LEVELS`] of `LANES` codes, four to a byte.
    #[inline(always)]
    unsafe fn load_levels(p: *const u8) -> Self::V {
        // SAFETY: the caller lends a byte for each four lanes.
        unsafe { Self::load(plain_levels(p, Self::LANES).as_ptr()) }
    }

    /// Brings a line towards the second-level cache. Any address will do.
    #[inline(always)]
    unsafe fn prefetch(_p: *const f32) {}

    /// Transposes the block of `LANES` rows of `LANES` floats: its column `d` goes to `out + d * out_stride`.
    #[inline(always)]
    unsafe fn transpose(rows: &[*const f32; MAX_LANES], out: *mut f32, out_stride: usize) {
        for (i, row) in rows[..Self::LANES].iter().enumerate() {
            for d in 0..Self::LANES {
                // SAFETY: the caller lends the rows, and as many as `LANES` of them at `out`.
                unsafe { *out.add(d * out_stride + i) = *row.add(d) };
            }
        }
    }

    /// The sum of all lanes, in halves: lane `i` with lane `i + LANES / 2`, and so on.
    #[inline(always)]
    unsafe fn reduce_add(v: Self::V) -> f32 {
        let mut lanes = [0f32; MAX_LANES];
        // SAFETY: `lanes` holds the widest vector.
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        let mut half = Self::LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }

    #[inline(always)]
    unsafe fn reduce_max(v: Self::V) -> f32 {
        let mut lanes = [0f32; MAX_LANES];
        // SAFETY: `lanes` holds the widest vector.
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        lanes[..Self::LANES].iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    /// Reads `n < LANES` floats; the other lanes are `fill`.
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize, fill: f32) -> Self::V {
        let mut lanes = [fill; MAX_LANES];
        // SAFETY: the caller lends `n` floats, and `lanes` holds the widest vector.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
            Self::load(lanes.as_ptr())
        }
    }

    /// Writes the first `n < LANES` lanes.
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, n: usize, v: Self::V) {
        let mut lanes = [0f32; MAX_LANES];
        // SAFETY: the caller lends `n` floats, and `lanes` holds the widest vector.
        unsafe {
            Self::store(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
        }
    }
}

/// Lanes of the widest vector.
pub(super) const MAX_LANES: usize = 16;

/// [`Simd::load_halves`] in plain Rust.
///
/// # Safety
/// `p` is valid for two bytes a lane.
#[inline(always)]
unsafe fn plain_halves(p: *const u8, num_lanes: usize) -> [f32; MAX_LANES] {
    let mut lanes = [0f32; MAX_LANES];
    for (i, lane) in lanes[..num_lanes].iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *lane = widen_half(u16::from_le_bytes(unsafe { p.add(2 * i).cast::<[u8; 2]>().read() }));
    }
    lanes
}

/// [`Simd::load_bytes`] in plain Rust.
///
/// # Safety
/// `p` is valid for a byte a lane.
#[inline(always)]
unsafe fn plain_bytes(p: *const u8, num_lanes: usize) -> [f32; MAX_LANES] {
    let mut lanes = [0f32; MAX_LANES];
    for (i, lane) in lanes[..num_lanes].iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *lane = f32::from(unsafe { p.add(i).cast::<i8>().read() });
    }
    lanes
}

/// [`Simd::load_levels`] in plain Rust.
///
/// # Safety
/// `p` is valid for a byte for each four lanes.
#[inline(always)]
unsafe fn plain_levels(p: *const u8, num_lanes: usize) -> [f32; MAX_LANES] {
    let mut lanes = [0f32; MAX_LANES];
    for (i, lane) in lanes[..num_lanes].iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let byte = unsafe { *p.add(i / CODES_PER_BYTE) };
        *lane = LEVELS[usize::from(byte >> (i % CODES_PER_BYTE * 2) & 3)];
    }
    lanes
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::engine::cpu::avx2::Avx2;
    use crate::engine::cpu::avx512::Avx512;
    use crate::engine::cpu::isa::Isa;

    type Load<V> = unsafe fn(*const u8) -> V;
    type Plain = unsafe fn(*const u8, usize) -> [f32; MAX_LANES];

    /// Whether `load` gives for all of these bytes, `lane_bits` a lane, what plain Rust gives.
    fn agrees<S: Simd>(load: Load<S::V>, plain: Plain, bytes: &[u8], lane_bits: usize) -> bool {
        bytes.chunks_exact(S::LANES * lane_bits / 8).all(|bytes| {
            let mut got = [0f32; MAX_LANES];
            // SAFETY: as many bytes as lanes need; the callers asked the CPU.
            let expected = unsafe {
                S::store(got.as_mut_ptr(), load(bytes.as_ptr()));
                plain(bytes.as_ptr(), S::LANES)
            };
            let same =
                |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            got.iter().zip(&expected).all(same)
        })
    }

    fn all_agree<S: Simd>() -> bool {
        let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        agrees::<S>(S::load_halves, plain_halves, &halves, 16)
            && agrees::<S>(S::load_bytes, plain_bytes, &halves, 8)
            && agrees::<S>(S::load_levels, plain_levels, &halves, 2)
    }

    #[test]
    fn kept_numbers_are_read_as_by_plain_rust() {
        assert!(Isa::Avx2.kernels().is_none() || all_agree::<Avx2>());
        assert!(Isa::Avx512.kernels().is_none() || all_agree::<Avx512>());
    }
}
