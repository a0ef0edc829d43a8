//! What is on its way from a device: who asks for the same waits for it instead of having it made again.

use std::collections::HashMap;

use tokio::sync::watch;

use super::Key;
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All of one request, once it is there. Closed without, it will not come.
type Landing<T> = watch::Receiver<Option<Arc<T>>>;

/// What another request is having made.
#[derive(Debug, Clone)]
pub(super) struct Awaited<T> {
    landing: Landing<T>,
    /// Its place in all that the other request has made.
    position: usize,
    /// Of all that.
    tokens: usize,
    /// The other request's; less comes first in the queue.
    urgency: u32,
}

/// All that is on its way. Bounded as the queue is: every key belongs to an admitted request.
#[derive(Debug, Default)]
pub(super) struct Flights<T>(Mutex<HashMap<Key, Awaited<T>>>);

/// What one request has made for itself and for whoever asks meanwhile. When it is dropped before, its followers
/// are told.
#[derive(Debug)]
pub(super) struct Flight<T> {
    flights: Arc<Flights<T>>,
    keys: Vec<Key>,
    sender: watch::Sender<Option<Arc<T>>>,
}

impl<T: Clone> Flights<T> {
    /// What a request may wait for that would wait for no more than `patience` tokens to be made, and for nothing
    /// that comes later in the queue.
    pub(super) fn find(&self, key: &Key, patience: usize, urgency: u32) -> Option<Awaited<T>> {
        let flights = self.lock();
        let awaited = flights.get(key)?;
        (awaited.tokens <= patience && awaited.urgency <= urgency).then(|| awaited.clone())
    }

    /// Takes off with `keys`, of `tokens` in all. Of a key that is in the air already, the first counts.
    pub(super) fn begin(
        self: &Arc<Self>,
        keys: Vec<Key>,
        tokens: usize,
        urgency: u32,
    ) -> Flight<T> {
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
}

impl<T> Flights<T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Awaited<T>>> {
        // Every change is complete before the lock is left.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Flight<T> {
    /// Hands all of it to whoever waits.
    pub(super) fn land(self, all: T) {
        self.sender.send_replace(Some(Arc::new(all)));
    }
}

impl<T> Drop for Flight<T> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        for key in &self.keys {
            flights.remove(key);
        }
    }
}

impl<T> Awaited<T> {
    /// All that the other request had made, and the place in it; `None` when it failed or its client left.
    pub(super) async fn landed(&mut self) -> Option<(Arc<T>, usize)> {
        let all = self.landing.wait_for(Option::is_some).await.ok()?;
        all.as_ref().map(|all| (Arc::clone(all), self.position))
    }
}
