//! What speeds are measured against: the peak of a core in each precision.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod time;

use rerankd::engine::Dtype;
use rerankd::engine::cpu::Isa;
use std::hint::black_box;
use std::time::Duration;

pub(crate) use time::{best_cpu_time, best_time};

pub(crate) fn gflops(flops: f64, time: Duration) -> f64 {
    flops / time.as_secs_f64() / 1e9
}

/// GFLOP/s of one core that does nothing but the products of a precision in registers, by the instruction
/// that `isa` has for them. Short runs, many of them: the best one was not interrupted.
pub(crate) fn peak_gflops(isa: Isa, dtype: Dtype) -> f64 {
    const ROUNDS: usize = 50_000;
    #[cfg(target_arch = "x86_64")]
    {
        let (products, time) = match (isa, dtype) {
            #[cfg(target_os = "linux")]
            (Isa::Amx, Dtype::Int8 | Dtype::Bf16) => {
                // SAFETY: the engine has asked for AMX, or it would not name it.
                let time = best_time(50, || unsafe { amx::multiply(dtype, 0, ROUNDS / 8) });
                (amx::products(dtype) * ROUNDS / 8, time)
            }
            (Isa::Avx512Bf16 | Isa::Avx512Vnni, Dtype::Int8) => {
                // SAFETY: the CPU has the instruction set.
                (24 * 64 * ROUNDS, best_time(200, || unsafe { dot_avx512(ROUNDS) }))
            }
            (Isa::AvxVnni, Dtype::Int8) => {
                // SAFETY: the CPU has the instruction set.
                (12 * 32 * ROUNDS, best_time(200, || unsafe { dot_avx2(ROUNDS) }))
            }
            (Isa::Avx512Bf16, Dtype::Bf16) => {
                // SAFETY: the CPU has the instruction set.
                (24 * 32 * ROUNDS, best_time(200, || unsafe { bf16_avx512(ROUNDS) }))
            }
            (Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx, _) => {
                // SAFETY: the CPU has the instruction set.
                (24 * 16 * ROUNDS, best_time(200, || unsafe { fma_avx512(ROUNDS) }))
            }
            (Isa::Avx2 | Isa::AvxVnni, _) => {
                // SAFETY: the CPU has the instruction set.
                (12 * 8 * ROUNDS, best_time(200, || unsafe { fma_avx2(ROUNDS) }))
            }
            _ => plain(ROUNDS),
        };
        gflops((products * 2) as f64, time)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (isa, dtype);
        let (products, time) = plain(ROUNDS);
        gflops((products * 2) as f64, time)
    }
}

/// As [`peak_gflops`] with numbers in the tiles, where that differs: they toggle more wires, and the clock falls.
pub(crate) fn peak_with_numbers(isa: Isa, dtype: Dtype) -> Option<f64> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if isa == Isa::Amx && dtype != Dtype::F32 {
        const ROUNDS: usize = 6_000;
        // As bf16 0.0017, whose sums stay finite.
        const FILL: u8 = 0x3a;
        // SAFETY: the engine has asked for AMX, or it would not name it.
        let time = best_time(50, || unsafe { amx::multiply(dtype, FILL, ROUNDS) });
        return Some(gflops((2 * amx::products(dtype) * ROUNDS) as f64, time));
    }
    let _ = (isa, dtype);
    None
}

fn plain(rounds: usize) -> (usize, Duration) {
    let time = best_time(200, || {
        let mut sums = [black_box(0f32); 32];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = *sum * 0.5 + 1.0);
        }
        black_box(sums);
    });
    (32 * rounds, time)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn fma_avx512(rounds: usize) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
    let (x, y) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(1.0)));
    let mut sums = [y; 24];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, x, y);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fma_avx2(rounds: usize) {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};
    let (x, y) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(1.0)));
    let mut sums = [y; 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, x, y);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot_avx512(rounds: usize) {
    use std::arch::x86_64::{_mm512_dpbusd_epi32, _mm512_set1_epi32};
    let (x, y) = (_mm512_set1_epi32(black_box(1)), _mm512_set1_epi32(black_box(2)));
    let mut sums = [y; 24];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, x, y);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avxvnni")]
fn dot_avx2(rounds: usize) {
    use std::arch::x86_64::{_mm256_dpbusd_avx_epi32, _mm256_set1_epi32};
    let (x, y) = (_mm256_set1_epi32(black_box(1)), _mm256_set1_epi32(black_box(2)));
    let mut sums = [y; 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_dpbusd_avx_epi32(*sum, x, y);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16_avx512(rounds: usize) {
    use std::arch::x86_64::{_mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_set1_ps};
    let y = _mm512_set1_ps(black_box(1.0));
    let x = _mm512_cvtne2ps_pbh(y, y);
    let mut sums = [y; 24];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, x, x);
        }
    }
    black_box(sums);
}
