//! How fast the device is: the figure behind Retry-After, deadlines at the door, and fairness in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Tokens per second over the last two seconds, and eight batches at least; shared by the batcher, which measures, and admission.
#[derive(Debug, Clone)]
pub struct Rate {
    /// An `f64` by its bits, always finite and positive.
    bits: Arc<AtomicU64>,
}

/// Batches of so many seconds count, since what is promised is due in seconds: a moment in which the device was quick
/// must not let in what it cannot do later.
const HORIZON_SECONDS: f64 = 2.0;

/// The most that the newest batch weighs, however long it took: about the last eight count.
const NEWEST: f64 = 0.125;

impl Rate {
    /// Begins at a guess or at a measurement made at load.
    pub fn new(tokens_per_second: f64) -> Self {
        Self { bits: Arc::new(AtomicU64::new(tokens_per_second.max(1.0).to_bits())) }
    }

    pub fn tokens_per_second(&self) -> f64 {
        f64::from_bits(self.bits.load(Ordering::Relaxed))
    }

    pub fn observe(&self, num_tokens: usize, took: Duration) {
        // Small batches tell more about overheads than about the device under load.
        const MIN_TOKENS: usize = 64;
        if num_tokens < MIN_TOKENS || took.is_zero() {
            return;
        }
        // A mean of times: one of rates would promise more than a device does whose batches differ in speed.
        let seen = took.as_secs_f64() / num_tokens as f64;
        let newest = (took.as_secs_f64() / HORIZON_SECONDS).min(NEWEST);
        let next = (1.0 - newest) / self.tokens_per_second() + newest * seen;
        self.bits.store(next.recip().max(1.0).to_bits(), Ordering::Relaxed);
    }

    /// How many tokens the device does in this time.
    pub fn tokens_in(&self, time: Duration) -> usize {
        (self.tokens_per_second() * time.as_secs_f64()) as usize
    }

    /// How long the device needs for so many tokens.
    pub fn time_for(&self, num_tokens: usize) -> Duration {
        Duration::from_secs_f64((num_tokens as f64 / self.tokens_per_second()).min(86_400.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_of_unequal_speed_is_promised_for_what_it_does_in_all() {
        let rate = Rate::new(1000.0);
        // 2,000 tokens in three seconds, half of them at twice the speed of the others.
        for took in [1, 2].repeat(100) {
            rate.observe(1000, Duration::from_secs(took));
        }
        let mean = 2000.0 / 3.0;
        assert!((rate.tokens_per_second() / mean - 1.0).abs() < 0.05, "{rate:?}");
    }

    #[test]
    fn a_second_of_luck_promises_little_more_and_two_of_misfortune_are_seen() {
        let rate = Rate::new(1000.0);
        for _ in 0..25 {
            rate.observe(80, Duration::from_millis(40));
        }
        assert!(rate.tokens_per_second() < 1300.0, "{rate:?}");
        for _ in 0..16 {
            rate.observe(64, Duration::from_millis(128));
        }
        assert!(rate.tokens_per_second() < 650.0, "{rate:?}");
    }
}
