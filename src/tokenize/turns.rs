//! Work for several threads, handed out tenant by tenant: whoever brings much waits for itself.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::batch::TenantId;

/// A queue of jobs of about equal size, round robin over tenants. Its size is bounded by admission.
#[derive(Debug)]
pub(super) struct Turns<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    /// Only tenants with jobs; the one whose turn it is comes first.
    ring: VecDeque<(TenantId, VecDeque<T>)>,
    is_closed: bool,
}

impl<T> Turns<T> {
    pub(super) fn new() -> Self {
        let state = State { ring: VecDeque::new(), is_closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn push(&self, tenant: TenantId, jobs: impl IntoIterator<Item = T>) {
        let mut state = self.lock();
        match state.ring.iter_mut().find(|(other, _)| *other == tenant) {
            Some((_, waiting)) => waiting.extend(jobs),
            None => state.ring.push_back((tenant, jobs.into_iter().collect())),
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for a job; `None` when there will be none.
    pub(super) fn next(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some((tenant, mut jobs)) = state.ring.pop_front() {
                let job = jobs.pop_front();
                if !jobs.is_empty() {
                    state.ring.push_back((tenant, jobs));
                }
                if job.is_some() {
                    return job;
                }
            } else if state.is_closed {
                return None;
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// No more jobs come; those that wait are still handed out.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Every change is complete before the lock is left, so a poisoned queue is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_take_turns_however_much_each_brings() {
        let turns = Turns::new();
        turns.push(TenantId(1), ["a1", "a2", "a3", "a4"]);
        turns.push(TenantId(2), ["b1"]);
        turns.push(TenantId(1), ["a5"]);
        turns.push(TenantId(3), ["c1", "c2"]);
        turns.push(TenantId(4), []);
        turns.close();
        let order: Vec<_> = std::iter::from_fn(|| turns.next()).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "c2", "a3", "a4", "a5"]);
    }

    #[test]
    fn closing_wakes_whoever_waits() {
        let turns = Turns::<u8>::new();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| turns.next());
            turns.close();
            assert_eq!(waiter.join().expect("no panic"), None);
        });
    }
}
