//! A scoring request in the books: received once, and ended once in one of four ways.

use crate::error::Error;
use crate::metrics::{End, Metrics};

/// Open from a request's head to its answer. Dropped before that, the client left.
#[derive(Debug)]
pub(super) struct Account<'a> {
    metrics: &'a Metrics,
    is_open: bool,
}

impl<'a> Account<'a> {
    pub(super) fn open(metrics: &'a Metrics) -> Self {
        metrics.received();
        Self { metrics, is_open: true }
    }

    pub(super) fn answered(self) {
        self.close(End::Answered);
    }

    pub(super) fn refused(self, error: &Error) {
        self.metrics.refused(error);
        self.close(End::of(error));
    }

    fn close(mut self, end: End) {
        self.metrics.ended(end);
        self.is_open = false;
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.metrics.ended(End::Cancelled);
        }
    }
}
