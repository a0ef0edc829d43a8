//! AVX2: `vpdpbusd` where AVX-VNNI is, `vpmaddwd` elsewhere; bf16 by f32.

use super::finish::Bytes;
use super::lanes::{Lanes, store_apart};
use super::tile::{Dot, LinearDot, WidenedBf16, narrow_table};
use crate::engine::cpu::avx2::Avx2;
use std::arch::x86_64::*;

// SAFETY (every block): the traits' contract hands the feature and the pointers down to the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl<const BF16: bool> Lanes for Avx2<BF16> {
    type Bits = __m256i;
    const WEAVES: bool = false;

    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m256 {
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: __m256) {
        unsafe {
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
            let (low, high) =
                (_mm256_castsi256_si128(rounded), _mm256_extracti128_si256::<1>(rounded));
            _mm_storeu_si128(p.cast(), _mm_packus_epi32(low, high));
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_pair(p: *mut u16, v: [__m256; 2]) {
        unsafe {
            if BF16 {
                let narrow: __m256i = std::mem::transmute(_mm256_cvtne2ps_pbh(v[1], v[0]));
                return _mm256_storeu_si256(p.cast(), narrow);
            }
            store_apart::<Self>(p, v);
        }
    }
    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn zero_bits() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn load_bits(p: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn larger<const PAIRS: bool>(most: [__m256i; 2], x: __m256i) -> [__m256i; 2] {
        unsafe {
            if PAIRS {
                [_mm256_max_epi16(most[0], x), _mm256_max_epu16(most[1], x)]
            } else {
                [_mm256_max_epi32(most[0], x), _mm256_max_epu32(most[1], x)]
            }
        }
    }
    #[inline(always)]
    unsafe fn largest<const PAIRS: bool>(bits: __m256i) -> u32 {
        unsafe {
            let mut bits = bits;
            if PAIRS {
                let low = _mm256_slli_epi32::<16>(bits);
                let high = _mm256_and_si256(bits, _mm256_set1_epi32(0xffff_0000_u32 as i32));
                bits = _mm256_max_epu32(high, low);
            }
            let bits: [u32; 8] = std::mem::transmute(bits);
            bits.into_iter().fold(0, u32::max)
        }
    }
    #[inline(always)]
    unsafe fn store_codes(p: *mut u8, v: [__m256; 4]) {
        unsafe {
            let [a, b, c, d] = [
                _mm256_cvtps_epi32(v[0]),
                _mm256_cvtps_epi32(v[1]),
                _mm256_cvtps_epi32(v[2]),
                _mm256_cvtps_epi32(v[3]),
            ];
            let bytes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            // Each half has four bytes of each vector.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            _mm256_storeu_si256(p.cast(), _mm256_permutevar8x32_epi32(bytes, order));
        }
    }
    #[inline(always)]
    unsafe fn store_codes_of_pairs(p: *mut u8, v: [[__m256; 2]; 2]) {
        unsafe {
            let [a, b, c, d] = [
                _mm256_cvtps_epi32(v[0][0]),
                _mm256_cvtps_epi32(v[1][0]),
                _mm256_cvtps_epi32(v[0][1]),
                _mm256_cvtps_epi32(v[1][1]),
            ];
            let bytes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            // Each half has four bytes of each vector.
            let woven = _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
            let bytes = _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(woven));
            _mm256_storeu_si256(p.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(bytes));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const u32) -> [__m256; 2] {
        unsafe {
            let pairs = _mm256_loadu_si256(p.cast());
            let high = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            [_mm256_slli_epi32::<16>(pairs), high].map(|bits| _mm256_castsi256_ps(bits))
        }
    }
}

/// `vpdpbusd`: four bytes to a sum.
pub(super) struct Vnni;

// SAFETY (every block): the traits' contract hands the feature and the pointers down to the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl Dot for Vnni {
    type Row = __m256i;
    type Columns = __m256i;
    type Sums = __m256i;

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn row(p: *const u32) -> __m256i {
        unsafe { _mm256_set1_epi32(*p as i32) }
    }
    #[inline(always)]
    unsafe fn columns(p: *const u32) -> __m256i {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn dot(sums: __m256i, row: __m256i, columns: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(sums, row, columns) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u32, sums: __m256i) {
        unsafe { _mm256_storeu_si256(p.cast(), sums) }
    }
}

impl LinearDot for Vnni {
    type Raw = Bytes;
}

/// `vpmaddwd` on bytes widened to 16 bits: exact, where `vpmaddubsw` would saturate.
pub(super) struct Madd;

// SAFETY (every block): the traits' contract hands the feature and the pointers down to the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl Dot for Madd {
    type Row = [__m256i; 2];
    type Columns = [__m256i; 2];
    type Sums = __m256i;

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn row(p: *const u32) -> [__m256i; 2] {
        unsafe {
            // Bytes 0 and 2, bytes 1 and 3, each as 16 bits.
            [(*p & 0x00ff_00ff), (*p >> 8 & 0x00ff_00ff)].map(|x| _mm256_set1_epi32(x as i32))
        }
    }
    #[inline(always)]
    unsafe fn columns(p: *const u32) -> [__m256i; 2] {
        unsafe {
            let bytes = _mm256_loadu_si256(p.cast());
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes));
            [even, _mm256_srai_epi16::<8>(bytes)]
        }
    }
    #[inline(always)]
    unsafe fn dot(sums: __m256i, row: [__m256i; 2], columns: [__m256i; 2]) -> __m256i {
        unsafe {
            let even = _mm256_madd_epi16(row[0], columns[0]);
            let odd = _mm256_madd_epi16(row[1], columns[1]);
            _mm256_add_epi32(sums, _mm256_add_epi32(even, odd))
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u32, sums: __m256i) {
        unsafe { _mm256_storeu_si256(p.cast(), sums) }
    }
}

impl LinearDot for Madd {
    type Raw = Bytes;
}

narrow_table!(
    AVX2, avx2, Avx2, "avx2,fma", vectors: 2,
    int8: Madd, 4, bf16: WidenedBf16<Avx2>, 4, attention: None, words: None, max_sim: None
);
narrow_table!(
    VNNI, vnni, Avx2, "avx2,fma,avxvnni", vectors: 2,
    int8: Vnni, 4, bf16: WidenedBf16<Avx2>, 4, attention: None, words: None, max_sim: None
);
