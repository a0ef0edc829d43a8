//! AVX-512: `vpdpbusd` where VNNI is, `vdpbf16ps` where BF16 is, or the AVX2 way and f32 elsewhere.

use super::attention::vectors;
use super::finish::{Bytes, Floats};
use super::gelu;
use super::lanes::{Lanes, store_apart};
use super::tile::{Dot, LinearDot, WidenedBf16, narrow_table};
use super::words;
use crate::engine::cpu::avx2::Avx2;
use crate::engine::cpu::avx512::Avx512;
use crate::engine::cpu::kernels::MaxSimArgs;
use crate::engine::cpu::max_sim::kernel::{self, Comparison};
use std::arch::x86_64::*;

// SAFETY (every block): the traits' contract hands the feature and the pointers down to the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl<const BF16: bool> Lanes for Avx512<BF16> {
    type Bits = __m512i;
    const WEAVES: bool = true;

    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m512 {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: __m512) {
        unsafe {
            if BF16 {
                let narrow: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(v));
                return _mm256_storeu_si256(p.cast(), narrow);
            }
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
            _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(rounded));
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_pair(p: *mut u16, v: [__m512; 2]) {
        unsafe {
            if BF16 {
                let narrow: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(v[1], v[0]));
                return _mm512_storeu_si512(p.cast(), narrow);
            }
            store_apart::<Self>(p, v);
        }
    }
    #[inline(always)]
    unsafe fn gelu(x: __m512) -> __m512 {
        unsafe { gelu::from_table(x) }
    }
    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(p.cast())) }
    }
    #[inline(always)]
    unsafe fn zero_bits() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn load_bits(p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn larger<const PAIRS: bool>(most: [__m512i; 2], x: __m512i) -> [__m512i; 2] {
        unsafe {
            if PAIRS {
                [_mm512_max_epi16(most[0], x), _mm512_max_epu16(most[1], x)]
            } else {
                [_mm512_max_epi32(most[0], x), _mm512_max_epu32(most[1], x)]
            }
        }
    }
    #[inline(always)]
    unsafe fn largest<const PAIRS: bool>(bits: __m512i) -> u32 {
        unsafe {
            if PAIRS {
                let low = _mm512_slli_epi32::<16>(bits);
                return _mm512_reduce_max_epu32(_mm512_max_epu32(bits, low)) & 0xffff_0000;
            }
            _mm512_reduce_max_epu32(bits)
        }
    }
    #[inline(always)]
    unsafe fn store_codes(p: *mut u8, v: [__m512; 4]) {
        unsafe {
            let [a, b, c, d] = [
                _mm512_cvtps_epi32(v[0]),
                _mm512_cvtps_epi32(v[1]),
                _mm512_cvtps_epi32(v[2]),
                _mm512_cvtps_epi32(v[3]),
            ];
            let bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            // Each quarter has four bytes of each vector.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_storeu_si512(p.cast(), _mm512_permutexvar_epi32(order, bytes));
        }
    }
    #[inline(always)]
    unsafe fn store_codes_of_pairs(p: *mut u8, v: [[__m512; 2]; 2]) {
        unsafe {
            let [a, b, c, d] = [
                _mm512_cvtps_epi32(v[0][0]),
                _mm512_cvtps_epi32(v[1][0]),
                _mm512_cvtps_epi32(v[0][1]),
                _mm512_cvtps_epi32(v[1][1]),
            ];
            let bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            // Each quarter has four bytes of each vector.
            let woven = _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
            let bytes = _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(woven));
            let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
            _mm512_storeu_si512(p.cast(), _mm512_permutexvar_epi64(order, bytes));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const u32) -> [__m512; 2] {
        unsafe {
            let pairs = _mm512_loadu_si512(p.cast());
            let high = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            [_mm512_slli_epi32::<16>(pairs), high].map(|bits| _mm512_castsi512_ps(bits))
        }
    }
}

/// `vpdpbusd`: four bytes to a sum.
pub(super) struct Vnni;

// SAFETY (every block): the traits' contract hands the feature and the pointers down to the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl Dot for Vnni {
    type Row = __m512i;
    type Columns = __m512i;
    type Sums = __m512i;

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn row(p: *const u32) -> __m512i {
        unsafe { _mm512_set1_epi32(*p as i32) }
    }
    #[inline(always)]
    unsafe fn columns(p: *const u32) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn dot(sums: __m512i, row: __m512i, columns: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sums, row, columns) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u32, sums: __m512i) {
        unsafe { _mm512_storeu_si512(p.cast(), sums) }
    }
}

impl LinearDot for Vnni {
    type Raw = Bytes;
}

/// `vpmaddwd` on bytes widened to 16 bits: exact, where `vpmaddubsw` would saturate. The even and the odd
/// pairs of a dword have sums of their own.
pub(super) struct Madd;

// SAFETY (every block): the traits' contract hands the feature and the pointers down to the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl Dot for Madd {
    type Row = [__m512i; 2];
    type Columns = [__m512i; 2];
    type Sums = __m512i;

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn row(p: *const u32) -> [__m512i; 2] {
        unsafe {
            // Bytes 0 and 2, bytes 1 and 3, each as 16 bits.
            [(*p & 0x00ff_00ff), (*p >> 8 & 0x00ff_00ff)].map(|x| _mm512_set1_epi32(x as i32))
        }
    }
    #[inline(always)]
    unsafe fn columns(p: *const u32) -> [__m512i; 2] {
        unsafe {
            let bytes = _mm512_loadu_si512(p.cast());
            let even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(bytes));
            [even, _mm512_srai_epi16::<8>(bytes)]
        }
    }
    #[inline(always)]
    unsafe fn dot(sums: __m512i, row: [__m512i; 2], columns: [__m512i; 2]) -> __m512i {
        unsafe {
            let even = _mm512_madd_epi16(row[0], columns[0]);
            let odd = _mm512_madd_epi16(row[1], columns[1]);
            _mm512_add_epi32(sums, _mm512_add_epi32(even, odd))
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u32, sums: __m512i) {
        unsafe { _mm512_storeu_si512(p.cast(), sums) }
    }
}

impl LinearDot for Madd {
    type Raw = Bytes;
}

/// `vdpbf16ps`: two bf16 to a sum. It flushes denormals, and rounds as it likes.
pub(super) struct DotBf16;

// SAFETY (every block): the traits' contract hands the feature and the pointers down to the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl Dot for DotBf16 {
    type Row = __m512bh;
    type Columns = __m512bh;
    type Sums = __m512;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn row(p: *const u32) -> __m512bh {
        unsafe { std::mem::transmute(_mm512_set1_epi32(*p as i32)) }
    }
    #[inline(always)]
    unsafe fn columns(p: *const u32) -> __m512bh {
        unsafe { std::mem::transmute(_mm512_loadu_si512(p.cast())) }
    }
    #[inline(always)]
    unsafe fn dot(sums: __m512, row: __m512bh, columns: __m512bh) -> __m512 {
        unsafe { _mm512_dpbf16_ps(sums, row, columns) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u32, sums: __m512) {
        unsafe { _mm512_storeu_ps(p.cast(), sums) }
    }
}

impl LinearDot for DotBf16 {
    type Raw = Floats;
}

impl Comparison for DotBf16 {
    type Simd = Avx512<true>;
    type Number = u16;
    // Zen 4 converts in vectors of 256 bits beside its products, but in those of 512 in place of some.
    type Between = Avx2<true>;
    const READS_BETWEEN: bool = true;

    #[inline(always)]
    fn bytes_ahead(_: usize) -> usize {
        // Into the first-level cache, where a tile of kept f32 more would be too much.
        2048
    }
    #[inline(always)]
    unsafe fn fetch(line: *const u8) {
        // SAFETY: the caller's CPU has the instruction set.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }
}

narrow_table!(
    AVX512, avx512, Avx512, "avx512f,avx512bw", vectors: 2,
    int8: Madd, 8, bf16: WidenedBf16<Avx512>, 8, attention: None, words: None, max_sim: None
);
narrow_table!(
    VNNI, vnni, Avx512, "avx512f,avx512bw,avx512vnni", vectors: 2,
    int8: Vnni, 8, bf16: WidenedBf16<Avx512>, 8, attention: None, words: None, max_sim: None
);
narrow_table!(
    BF16, bf16, Avx512<true>, "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16", vectors: 2,
    int8: Vnni, 8, bf16: DotBf16, 8, attention: Some(vectors::ATTENTION),
    words: Some(&words::WORDS), max_sim: Some(max_sim_bf16)
);

/// # Safety
/// The CPU has the instruction set of [`BF16`]; `args` describes valid memory and `best` overlaps nothing else.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
unsafe fn max_sim_bf16(args: &MaxSimArgs<'_, u16>) -> bool {
    // SAFETY: the caller's promise.
    unsafe { kernel::max_sim::<DotBf16, 12, 2>(args) }
}
