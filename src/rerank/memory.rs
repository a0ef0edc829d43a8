//! The memory that models hold, and what is left for another.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::ModelError;
use crate::model::memory::{Need, mib};

/// The models' memory, against a limit. What a model takes is estimated; the limit leaves room for the rest.
#[derive(Debug)]
pub struct Ledger {
    limit_bytes: u64,
    held: Mutex<Vec<Held>>,
}

#[derive(Debug)]
struct Held {
    id: u64,
    name: String,
    bytes: u64,
}

/// A model's part, given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    ledger: Arc<Ledger>,
    id: u64,
}

impl Ledger {
    pub fn new(limit_bytes: u64) -> Arc<Self> {
        Arc::new(Self { limit_bytes, held: Mutex::default() })
    }

    /// Sets memory aside for a model that is about to be loaded.
    ///
    /// # Errors
    /// It does not fit beside the others: the whole sum.
    pub fn reserve(self: &Arc<Self>, name: &str, need: &Need) -> Result<Reservation, ModelError> {
        let mut held = self.held();
        let taken: u64 = held.iter().map(|held| held.bytes).sum();
        if taken.saturating_add(need.bytes()) > self.limit_bytes {
            return Err(ModelError::Memory(self.arithmetic(name, need, &held)));
        }
        let id = held.last().map_or(0, |last| last.id + 1);
        held.push(Held { id, name: name.to_owned(), bytes: need.bytes() });
        Ok(Reservation { ledger: Arc::clone(self), id })
    }

    fn arithmetic(&self, name: &str, need: &Need, held: &[Held]) -> String {
        let taken: u64 = held.iter().map(|held| held.bytes).sum();
        let limit = mib(self.limit_bytes);
        let free = mib(self.limit_bytes.saturating_sub(taken));
        let others: Vec<_> =
            held.iter().map(|held| format!("'{}' holds {}", held.name, mib(held.bytes))).collect();
        let others =
            if others.is_empty() { "nothing is held".to_owned() } else { others.join(", ") };
        format!(
            "'{name}' needs {need}; of {limit} (max-model-memory-bytes) {free} are free: {others}"
        )
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        // Every change is complete before the lock is left, so a poisoned list is still whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Replaces the estimate by a better one.
    pub fn correct(&self, need: &Need) {
        if let Some(held) = self.ledger.held().iter_mut().find(|held| held.id == self.id) {
            held.bytes = need.bytes();
        }
    }

    pub fn num_bytes(&self) -> u64 {
        let held = self.ledger.held();
        held.iter().find(|held| held.id == self.id).map_or(0, |held| held.bytes)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.held().retain(|held| held.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Dtype;

    fn need(weight_bytes: u64) -> Need {
        Need {
            num_parameters: weight_bytes / 4,
            dtype: Dtype::F32,
            weight_bytes,
            activation_bytes: 0,
            tokenizer_bytes: 0,
            matrix_bytes: 0,
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_sum() {
        let ledger = Ledger::new(100 << 20);
        let first = ledger.reserve("small", &need(70 << 20)).unwrap();
        let error = ledger.reserve("large", &need(40 << 20)).unwrap_err().to_string();
        for part in
            ["'large' needs 40.0 MiB", "of 100.0 MiB", "30.0 MiB are free", "'small' holds 70"]
        {
            assert!(error.contains(part), "{error} lacks {part}");
        }
        first.correct(&need(50 << 20));
        let second = ledger.reserve("large", &need(40 << 20)).unwrap();
        assert!(ledger.reserve("third", &need(40 << 20)).is_err());
        drop(first);
        assert_eq!(second.num_bytes(), 40 << 20);
        assert!(ledger.reserve("third", &need(40 << 20)).is_ok());
    }
}
