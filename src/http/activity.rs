//! What a connection is doing, and until when it may go on with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Version;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a client may take over what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To send a request's head, from its first byte; to shake hands and send a first request, from the
    /// connection's beginning.
    pub header: Duration,
    /// To send a request's body.
    pub body: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// To take an answer that is ready.
    pub write: Duration,
}

/// What has to happen when nothing else happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A request is worked on: its own bounds end it.
    Nothing,
    /// Say goodbye.
    Close(Instant),
    /// End the connection as it is.
    Cut(Instant),
}

/// Shared by a connection's bytes, its requests and the task that watches it.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    changed: Notify,
}

/// Fresh => Busy at a request's head; Busy => Resting when its last answer is made; Resting => Busy at the
/// next. Closing is for good.
#[derive(Debug)]
struct State {
    in_flight: usize,
    /// The connection's beginning, or the end of its last request.
    since: Instant,
    /// No request has come yet.
    is_fresh: bool,
    /// HTTP/2 sends bytes that belong to no request; its heads are bounded in size and by the idle timeout.
    is_http2: bool,
    /// The first byte after `since`.
    head_since: Option<Instant>,
    closing_since: Option<Instant>,
}

/// A request that is worked on, until it is dropped.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Activity {
    pub(super) fn new() -> Self {
        let state = State {
            in_flight: 0,
            since: Instant::now(),
            is_fresh: true,
            is_http2: false,
            head_since: None,
            closing_since: None,
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Bytes came.
    pub(super) fn bytes_came(&self) {
        let mut state = self.lock();
        if state.in_flight == 0 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
            drop(state);
            self.changed.notify_one();
        }
    }

    /// A request's head is whole.
    pub(super) fn request(self: &Arc<Self>, version: Version) -> Busy {
        let mut state = self.lock();
        state.in_flight += 1;
        state.is_fresh = false;
        state.is_http2 = version == Version::HTTP_2;
        state.head_since = None;
        drop(state);
        self.changed.notify_one();
        Busy(Arc::clone(self))
    }

    /// The client was told that the connection ends.
    pub(super) fn closing(&self) {
        self.lock().closing_since.get_or_insert_with(Instant::now);
    }

    /// Ready when [`due`](Self::due) may have changed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn due(&self, timeouts: &Timeouts) -> Due {
        let state = self.lock();
        if state.in_flight > 0 {
            return Due::Nothing;
        }
        if let Some(closing_since) = state.closing_since {
            return Due::Cut(closing_since.max(state.since) + timeouts.write);
        }
        match state.head_since {
            _ if state.is_fresh => Due::Cut(state.since + timeouts.header),
            Some(head_since) if !state.is_http2 => Due::Cut(head_since + timeouts.header),
            _ => Due::Close(state.since + timeouts.idle),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.in_flight -= 1;
        state.since = Instant::now();
        drop(state);
        self.0.changed.notify_one();
    }
}
