//! Where the rows of a request come together: filled batch by batch, sent once.

use std::ops::Range;
use std::time::Instant;

use tokio::sync::oneshot;

use super::Sequences;
use crate::error::Error;
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the device gave for a whole request.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// `[num_rows, width]`, row-major, in the order of the request's sequences.
    pub values: Vec<f32>,
    /// The first of its sequences was handed to the device.
    pub started: Instant,
    /// The last of its sequences came back.
    pub scored: Instant,
}

/// The promise of one answer. Its receiver is the client: dropping it cancels the request.
#[derive(Debug)]
pub struct Answer {
    state: Mutex<State>,
    /// Of an answer with a row for each token: where each sequence's begin.
    tokens_of: Option<Arc<Sequences>>,
}

/// Open => Sent when the last row is filled, or when it fails. Nothing leaves Sent.
#[derive(Debug)]
enum State {
    Open(Open),
    Sent,
}

#[derive(Debug)]
struct Open {
    sender: oneshot::Sender<Result<Rows, Error>>,
    values: Vec<f32>,
    remaining: usize,
    started: Option<Instant>,
}

impl Answer {
    /// An answer of `num_sequences` rows of `width` floats.
    pub fn new(
        num_sequences: usize,
        width: usize,
    ) -> (Self, oneshot::Receiver<Result<Rows, Error>>) {
        Self::with_room(num_sequences, num_sequences * width, None)
    }

    /// An answer of a row of `width` floats for each token of `sequences`.
    pub fn of_tokens(
        sequences: &Arc<Sequences>,
        width: usize,
    ) -> (Self, oneshot::Receiver<Result<Rows, Error>>) {
        let num_floats = sequences.num_tokens() * width;
        Self::with_room(sequences.len(), num_floats, Some(Arc::clone(sequences)))
    }

    fn with_room(
        num_sequences: usize,
        num_floats: usize,
        tokens_of: Option<Arc<Sequences>>,
    ) -> (Self, oneshot::Receiver<Result<Rows, Error>>) {
        let (sender, receiver) = oneshot::channel();
        let values = vec![0.0; num_floats];
        let open = Open { sender, values, remaining: num_sequences, started: None };
        (Self { state: Mutex::new(State::Open(open)), tokens_of }, receiver)
    }

    /// The rows of these sequences, by their places among those of all.
    pub fn rows_of(&self, sequences: Range<usize>) -> Range<usize> {
        match &self.tokens_of {
            None => sequences,
            Some(all) => all.first_token(sequences.start)..all.first_token(sequences.end),
        }
    }

    /// Whether nobody waits for rows any more: the client left, or the answer was sent.
    pub fn is_closed(&self) -> bool {
        match &*self.lock() {
            State::Open(open) => open.sender.is_closed(),
            State::Sent => true,
        }
    }

    /// The first batch with a sequence of this request goes to the device.
    pub fn start(&self, now: Instant) {
        if let State::Open(open) = &mut *self.lock() {
            open.started.get_or_insert(now);
        }
    }

    /// Puts the rows of `sequences` in place. The call that fills the last row sends the answer and
    /// returns true. Rows for an answer that was already sent are dropped.
    pub fn fill(&self, sequences: Range<usize>, rows: &[f32], now: Instant) -> bool {
        let mut state = self.lock();
        let State::Open(open) = &mut *state else { return false };
        let num_sequences = sequences.len();
        let places = self.rows_of(sequences);
        let width = rows.len() / places.len();
        open.values[places.start * width..places.end * width].copy_from_slice(rows);
        open.remaining -= num_sequences;
        if open.remaining > 0 {
            return false;
        }
        if let State::Open(open) = std::mem::replace(&mut *state, State::Sent) {
            let started = open.started.unwrap_or(now);
            let rows = Rows { values: open.values, started, scored: now };
            // The client may leave at this very moment: then nobody is owed the answer.
            let _ = open.sender.send(Ok(rows));
        }
        true
    }

    /// Sends an error instead of scores. Returns false if an answer had been sent before.
    pub fn fail(&self, error: Error) -> bool {
        match std::mem::replace(&mut *self.lock(), State::Sent) {
            State::Open(open) => {
                let _ = open.sender.send(Err(error));
                true
            }
            State::Sent => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every transition is complete before the lock is left, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
