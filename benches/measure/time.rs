//! The best time of several runs.

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
