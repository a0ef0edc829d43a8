//! Promises that hold whoever goes first. Every test runs some thousands of schedules, half of them drawn blindly and
//! half by priorities that change seldom (PCT; Burckhardt et al., ASPLOS 2010), from a fixed seed; one that breaks a
//! promise is printed. `RERANKD_SCHEDULES` asks for more of them.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

mod admission;
mod batching;
mod flights;

use shuttle::Config;
use shuttle::scheduler::{PctScheduler, RandomScheduler};

const DEFAULT_SCHEDULES: usize = 2000;
const SEED: u64 = 2026;
/// Bugs that need more changes of priority than this are not looked for.
const PCT_DEPTH: usize = 3;

/// Runs `scenario` under many schedules. A deadlock is a failure like any other.
fn under_all_schedules(scenario: impl Fn() + Send + Sync + Copy + 'static) {
    let asked = std::env::var("RERANKD_SCHEDULES").ok().and_then(|number| number.parse().ok());
    let half = asked.unwrap_or(DEFAULT_SCHEDULES) / 2;
    let mut config = Config::new();
    // Locks are the scheduler's, but hashing and the cache's books are real code with real frames.
    config.stack_size = 1 << 18;
    let random = RandomScheduler::new_from_seed(SEED, half);
    shuttle::Runner::new(random, config.clone()).run(scenario);
    let by_priority = PctScheduler::new_from_seed(SEED, PCT_DEPTH, half);
    shuttle::Runner::new(by_priority, config).run(scenario);
}
