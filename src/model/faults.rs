//! Faults on purpose, for the soak test: only in builds with debug assertions, which nobody serves with.
//!
//! `RERANKD_FAULTS=200` lets one batch in 200 fail, in turn by an error, a panic, a score that is no number, and
//! a stall that the watchdog has to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Grain, Scorer, Spare};
use crate::engine::packed::Packed;
use crate::error::DeviceError;

const VARIABLE: &str = "RERANKD_FAULTS";

/// Longer than the watchdog waits where the device's timeout is a few seconds. The thread wakes in the end, to
/// find that it was given up.
const STALL: Duration = Duration::from_secs(5);

/// Puts the faults that the environment asks for before the scorers.
pub fn inject(scorers: Vec<Box<dyn Scorer>>) -> Vec<Box<dyn Scorer>> {
    let one_in = std::env::var(VARIABLE).ok().and_then(|value| value.parse().ok());
    let Some(one_in) = one_in.filter(|one_in| *one_in > 0) else { return scorers };
    tracing::warn!(one_in, "batches fail on purpose");
    let plan = Arc::new(FaultPlan { one_in, num_batches: AtomicUsize::new(0) });
    let faulty = |inner| -> Box<dyn Scorer> { Box::new(Faulty { inner, plan: Arc::clone(&plan) }) };
    scorers.into_iter().map(faulty).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Error,
    Panic,
    NotANumber,
    Stall,
}

/// Which batch fails, and how; shared with whatever takes the place of a scorer that failed.
#[derive(Debug)]
struct FaultPlan {
    one_in: usize,
    num_batches: AtomicUsize,
}

impl FaultPlan {
    /// For the next batch.
    fn next(&self) -> Option<Fault> {
        const TURNS: [Fault; 4] = [Fault::Error, Fault::Panic, Fault::NotANumber, Fault::Stall];
        let batch = self.num_batches.fetch_add(1, Ordering::Relaxed) + 1;
        let turn = (batch / self.one_in).wrapping_sub(1) % TURNS.len();
        batch.is_multiple_of(self.one_in).then(|| TURNS[turn])
    }
}

struct Faulty {
    inner: Box<dyn Scorer>,
    plan: Arc<FaultPlan>,
}

impl Scorer for Faulty {
    fn width(&self) -> usize {
        self.inner.width()
    }

    fn grain(&self) -> Grain {
        self.inner.grain()
    }

    fn begin(&mut self, batch: &Packed) {
        self.inner.begin(batch);
    }

    fn num_begun(&self) -> usize {
        self.inner.num_begun()
    }

    fn recover(&mut self) {
        self.inner.recover();
    }

    fn spare(&self) -> Option<Spare> {
        let (spare, plan) = (self.inner.spare()?, Arc::clone(&self.plan));
        Some(Arc::new(move || Ok(Box::new(Self { inner: spare()?, plan: Arc::clone(&plan) }))))
    }

    fn give_way(&mut self) {
        self.inner.give_way();
    }

    fn is_done(&self) -> bool {
        self.inner.is_done()
    }

    fn score(&mut self, batch: &Packed, out: &mut [f32]) -> Result<(), DeviceError> {
        let fault = self.plan.next();
        match fault {
            Some(Fault::Panic) => panic!("a panic on purpose"),
            Some(Fault::Stall) => std::thread::sleep(STALL),
            _ => {}
        }
        self.inner.score(batch, out)?;
        match (fault, out.first_mut()) {
            (Some(Fault::Error), _) => return Err(DeviceError::new("an error on purpose")),
            (Some(Fault::NotANumber), Some(first)) => *first = f32::NAN,
            _ => {}
        }
        Ok(())
    }

    fn padding_tokens(&self, batch: &Packed) -> usize {
        self.inner.padding_tokens(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_batch_in_so_many_fails_and_each_kind_has_its_turn() {
        let plan = FaultPlan { one_in: 3, num_batches: AtomicUsize::new(0) };
        let faults: Vec<_> = (0..15).filter_map(|i| Some((i, plan.next()?))).collect();
        let expected = [
            (2, Fault::Error),
            (5, Fault::Panic),
            (8, Fault::NotANumber),
            (11, Fault::Stall),
            (14, Fault::Error),
        ];
        assert_eq!(faults, expected);
    }
}
