//! Rows on their way: who asks for the same waits for them instead of having them scored again.

use std::collections::HashMap;

use tokio::sync::watch;

use super::Key;
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The rows of one request, once they are there. Closed without, they will not come.
type Landing = watch::Receiver<Option<Arc<Vec<f32>>>>;

/// A row that another request is having scored.
#[derive(Debug, Clone)]
pub(super) struct Awaited {
    landing: Landing,
    /// Its place among that request's rows.
    position: usize,
    /// All that the other request has to have scored.
    pub(super) tokens: usize,
    /// The other request's; less comes first in the queue.
    pub(super) urgency: u32,
}

/// All that is on its way. Bounded as the queue is: every key belongs to an admitted request.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Key, Awaited>>);

/// The rows that one request has scored for itself and for whoever asks meanwhile. When it is dropped before,
/// its followers are told.
#[derive(Debug)]
pub(super) struct Flight {
    flights: Arc<Flights>,
    keys: Vec<Key>,
    sender: watch::Sender<Option<Arc<Vec<f32>>>>,
}

impl Flights {
    pub(super) fn find(&self, key: &Key) -> Option<Awaited> {
        self.lock().get(key).cloned()
    }

    /// Takes off with `keys`, of `tokens` in all. Of a key that is in the air already, the first counts.
    pub(super) fn begin(self: &Arc<Self>, keys: Vec<Key>, tokens: usize, urgency: u32) -> Flight {
        let (sender, landing) = watch::channel(None);
        let mut flights = self.lock();
        let mut own = Vec::with_capacity(keys.len());
        for (position, key) in keys.into_iter().enumerate() {
            flights.entry(key).or_insert_with(|| {
                own.push(key);
                Awaited { landing: landing.clone(), position, tokens, urgency }
            });
        }
        drop(flights);
        Flight { flights: Arc::clone(self), keys: own, sender }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Awaited>> {
        // Every change is complete before the lock is left.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// Hands the rows to whoever waits.
    pub(super) fn land(self, rows: Vec<f32>) {
        self.sender.send_replace(Some(Arc::new(rows)));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        for key in &self.keys {
            flights.remove(key);
        }
    }
}

impl Awaited {
    /// The row, `width` floats; `None` when the other request failed or its client left.
    pub(super) async fn row(&mut self, width: usize) -> Option<Vec<f32>> {
        let rows = self.landing.wait_for(Option::is_some).await.ok()?;
        let rows = rows.as_ref()?;
        Some(rows[self.position * width..][..width].to_vec())
    }
}
