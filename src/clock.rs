//! The one place that reads the clock.
//!
//! Everything that decides by time takes the time as an argument; only the edge (`http`, `cli`) and the
//! worker threads call these, so that tests drive all other code on a clock of their own.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The monotonic time, for stamps, deadlines and durations.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Instant {
    Instant::now()
}

/// Seconds since 1970, for `created` fields in replies. 0 if the machine's clock stands before that.
#[allow(clippy::disallowed_methods)]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
