//! What a thread is at, and since when: its sign of life.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Batch;

/// Written by one thread, read by the watchdog.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    state: Mutex<State>,
}

/// Resting => Working at [`Pulse::begins`], and back at [`Pulse::ends`]; Working => GivenUp when it is overdue,
/// for good.
#[derive(Debug, Default)]
enum State {
    #[default]
    Resting,
    Working {
        since: Instant,
        /// What is on the device or behind it, oldest first.
        held: Vec<Arc<Batch>>,
    },
    GivenUp,
}

impl Pulse {
    /// Work begins: a batch, which may be held already, or something that nobody waits for.
    pub(super) fn begins(&self, batch: Option<&Arc<Batch>>, now: Instant) {
        let mut state = self.lock();
        if matches!(*state, State::Resting) {
            *state = State::Working { since: now, held: batch.cloned().into_iter().collect() };
        }
    }

    /// The thread took a further batch meanwhile.
    pub(super) fn holds(&self, batch: &Arc<Batch>) {
        if let State::Working { held, .. } = &mut *self.lock() {
            held.push(Arc::clone(batch));
        }
    }

    /// The oldest work is done. False if the thread was given up before: others did the rest for it.
    pub(super) fn ends(&self, now: Instant) -> bool {
        let mut state = self.lock();
        match &mut *state {
            State::GivenUp => return false,
            State::Working { since, held } if held.len() > 1 => {
                held.remove(0);
                *since = now;
            }
            _ => *state = State::Resting,
        }
        true
    }

    /// Gives up a thread that has been at one piece of work for longer than `limit`; what it held.
    pub(super) fn give_up(&self, now: Instant, limit: Duration) -> Option<Vec<Arc<Batch>>> {
        let mut state = self.lock();
        match &mut *state {
            State::Working { since, held } if now.saturating_duration_since(*since) > limit => {
                let held = std::mem::take(held);
                *state = State::GivenUp;
                Some(held)
            }
            _ => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every transition is complete before the lock is left, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::packed::Packed;

    const LIMIT: Duration = Duration::from_secs(10);

    fn batch() -> Arc<Batch> {
        Arc::new(Batch { packed: Packed::with_capacity(0, 0), slices: Vec::new() })
    }

    #[test]
    fn only_work_that_takes_longer_than_the_limit_is_given_up() {
        let start = crate::clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let pulse = Pulse::default();
        assert!(pulse.give_up(at(1000), LIMIT).is_none(), "rest is no work");
        pulse.begins(Some(&batch()), at(0));
        assert!(pulse.give_up(at(10), LIMIT).is_none());
        assert!(pulse.ends(at(10)));
        assert!(pulse.give_up(at(30), LIMIT).is_none(), "it rests again");
        pulse.begins(None, at(40));
        assert_eq!(pulse.give_up(at(51), LIMIT).map(|held| held.len()), Some(0));
        assert!(!pulse.ends(at(60)), "it hears of it");
        assert!(pulse.give_up(at(100), LIMIT).is_none(), "once");
    }

    #[test]
    fn a_batch_behind_another_has_the_limit_for_itself() {
        let start = crate::clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (pulse, first, second) = (Pulse::default(), batch(), batch());
        pulse.begins(Some(&first), at(0));
        pulse.holds(&second);
        assert!(pulse.ends(at(9)));
        pulse.begins(Some(&second), at(9));
        assert!(pulse.give_up(at(19), LIMIT).is_none());
        assert_eq!(pulse.give_up(at(20), LIMIT).map(|held| held.len()), Some(1));
    }
}
