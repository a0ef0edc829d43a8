//! What both benches need: the FMA peak of a core, and the best time of several runs.

#![allow(dead_code, reason = "each bench uses a part")]

use std::hint::black_box;
use std::time::{Duration, Instant};

/// The shortest of `runs` runs after one to warm up: what the code costs when nothing disturbs it.
#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
pub(crate) fn best_time(runs: usize, mut work: impl FnMut()) -> Duration {
    work();
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed()
    });
    times.min().unwrap_or_default()
}

/// The least CPU time of all threads together over `runs` runs: blind to other programs on the machine, but
/// not to what they do to the caches.
pub(crate) fn best_cpu_time(runs: usize, mut work: impl FnMut()) -> Duration {
    let times = (0..runs).map(|_| {
        let start = process_cpu_time();
        work();
        process_cpu_time().saturating_sub(start)
    });
    times.min().unwrap_or_default()
}

fn process_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

pub(crate) fn gflops(flops: f64, time: Duration) -> f64 {
    flops / time.as_secs_f64() / 1e9
}

/// GFLOP/s of one core that does nothing but fused multiply-adds in registers. Short runs, many of them: the
/// best one was not interrupted.
pub(crate) fn peak_gflops() -> f64 {
    const ROUNDS: usize = 50_000;
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has just been asked.
            let time = best_time(200, || unsafe { fma_avx512(ROUNDS) });
            return gflops((ROUNDS * 24 * 16 * 2) as f64, time);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has just been asked.
            let time = best_time(200, || unsafe { fma_avx2(ROUNDS) });
            return gflops((ROUNDS * 12 * 8 * 2) as f64, time);
        }
    }
    let time = best_time(200, || {
        let mut sums = [black_box(0f32); 32];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = *sum * 0.5 + 1.0);
        }
        black_box(sums);
    });
    gflops((ROUNDS * 32 * 2) as f64, time)
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
