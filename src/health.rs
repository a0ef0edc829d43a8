//! What the server may say of itself: started, ready, live.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::Notify;

use crate::error::DeviceError;

/// Faults in a row after which the device is not trusted with more requests. One may be a
/// pathological batch; three batches in a row share nothing but the device.
const MAX_CONSECUTIVE_FAULTS: u32 = 3;

/// Faults in a row, batches and probes, after which new workers are not to be expected to do better: a new
/// process may.
pub const LAST_FAULT: u32 = 6;

/// Health of the whole server, told by those who know and read by the probes.
#[derive(Debug, Default)]
pub struct Health {
    started: AtomicBool,
    draining: AtomicBool,
    consecutive_faults: AtomicU32,
    is_lost: AtomicBool,
    lost: Notify,
}

/// Starting => Ready when the golden pairs match; Ready => Faulty after three lost batches, and back after
/// a good one or a good probe; any => Lost when a device answers nothing more, keeps failing, or the batcher
/// stands still; any => Draining on SIGTERM. The last two are for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Starting,
    Ready,
    Faulty,
    Lost,
    Draining,
}

impl Health {
    pub fn state(&self) -> State {
        if self.is_lost() {
            State::Lost
        } else if self.draining.load(Ordering::Acquire) {
            State::Draining
        } else if !self.started.load(Ordering::Acquire) {
            State::Starting
        } else if self.consecutive_faults.load(Ordering::Acquire) >= MAX_CONSECUTIVE_FAULTS {
            State::Faulty
        } else {
            State::Ready
        }
    }

    pub fn is_ready(&self) -> bool {
        self.state() == State::Ready
    }

    /// The model is loaded and gives its golden scores.
    pub fn started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// No new requests; what was admitted is still answered.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// A device finished a batch or a probe, well or with this fault.
    pub fn device_ran(&self, fault: Option<&DeviceError>) {
        let Some(fault) = fault else {
            self.consecutive_faults.store(0, Ordering::Release);
            return;
        };
        let faults = self.consecutive_faults.fetch_add(1, Ordering::AcqRel) + 1;
        if fault.lost || faults >= LAST_FAULT {
            self.is_lost.store(true, Ordering::Release);
            self.lost.notify_one();
        }
    }

    /// Whether only a new process can serve again.
    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    /// Ready when a device is lost. For one waiter.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }
}

impl State {
    /// Why requests are refused in this state; empty when they are not.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Starting => "the model is loading",
            Self::Ready => "",
            Self::Faulty => "the device keeps failing",
            Self::Lost => "the device is lost and the server is ending",
            Self::Draining => "the server is shutting down",
        }
    }
}
