//! AVX-512F: 32 registers of 16 floats. With `BF16` the conversions to bf16 are those of AVX512-BF16.

use super::gelu;
use super::simd::{MAX_LANES, Simd};
use crate::matrix_format::LEVELS;
use std::arch::x86_64::*;

#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512<const BF16: bool = false>;

// SAFETY (every block): the trait's contract hands the feature and the pointers down to the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl<const BF16: bool> Simd for Avx512<BF16> {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_halves(p: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_levels(p: *const u8) -> __m512 {
        unsafe {
            let shifts =
                _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let codes = _mm512_set1_epi32(p.cast::<i32>().read_unaligned());
            // What stands above a code in its lane picks the same levels in other quarters.
            let levels = _mm512_broadcast_f32x4(_mm_loadu_ps(LEVELS.as_ptr()));
            _mm512_permutexvar_ps(_mm512_srlv_epi32(codes, shifts), levels)
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn scale2(a: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    unsafe fn precise_gelu(x: __m512) -> __m512 {
        unsafe { gelu::from_table(x) }
    }
    #[inline(always)]
    unsafe fn transpose(rows: &[*const f32; MAX_LANES], out: *mut f32, out_stride: usize) {
        unsafe {
            // A loop, not `map`: a closure does not have the instruction set.
            let mut block = [_mm512_setzero_si512(); 16];
            for (to, row) in block.iter_mut().zip(rows) {
                *to = _mm512_loadu_si512(row.cast());
            }
            for (d, column) in transpose(block).iter().enumerate() {
                _mm512_storeu_si512(out.add(d * out_stride).cast(), *column);
            }
        }
    }
    #[inline(always)]
    unsafe fn reduce_add(v: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    unsafe fn reduce_max(v: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize, fill: f32) -> __m512 {
        unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), ((1u32 << n) - 1) as __mmask16, p) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, n: usize, v: __m512) {
        unsafe { _mm512_mask_storeu_ps(p, ((1u32 << n) - 1) as __mmask16, v) }
    }
}

/// Transposes 16 by 16 dwords.
#[inline(always)]
pub(super) unsafe fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    // SAFETY: the caller's CPU has AVX-512.
    unsafe {
        let mut a = rows;
        // Dwords of two rows, then of four, side by side in each quarter.
        for i in (0..16).step_by(2) {
            a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
            a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
        }
        let mut b = a;
        for i in (0..16).step_by(4) {
            b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
            b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
            b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
            b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
        }
        // Quarter q of b[4g + c] has dword 4q + c of rows 4g to 4g + 3.
        let mut out = rows;
        for c in 0..4 {
            let low = _mm512_shuffle_i32x4::<0x88>(b[c], b[4 + c]);
            let high = _mm512_shuffle_i32x4::<0xdd>(b[c], b[4 + c]);
            let low_2 = _mm512_shuffle_i32x4::<0x88>(b[8 + c], b[12 + c]);
            let high_2 = _mm512_shuffle_i32x4::<0xdd>(b[8 + c], b[12 + c]);
            out[c] = _mm512_shuffle_i32x4::<0x88>(low, low_2);
            out[8 + c] = _mm512_shuffle_i32x4::<0xdd>(low, low_2);
            out[4 + c] = _mm512_shuffle_i32x4::<0x88>(high, high_2);
            out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(high, high_2);
        }
        out
    }
}

super::kernels::kernel_table!(Avx512, "avx512f", rows: 14, vectors: 2);

/// For cores whose adders stand beside their multipliers.
pub(super) static PAIRED: super::kernels::Kernels =
    super::kernels::Kernels { paired: Some(super::paired::linear), ..TABLE };
