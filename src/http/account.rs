//! A scoring request in the books of the server and of its tenant: received once, and ended once in one of four
//! ways.

use std::sync::Arc;
use std::time::Instant;

use crate::clock;
use crate::error::Error;
use crate::metrics::{End, Metrics};
use crate::request::Tally;
use crate::tenant::Tenant;

/// Open from a request's head to its answer. Dropped before that, the client left.
#[derive(Debug)]
pub(super) struct Account<'a> {
    metrics: &'a Metrics,
    received: Instant,
    /// `None` until a key is known.
    tenant: Option<Arc<Tenant>>,
    is_open: bool,
}

impl<'a> Account<'a> {
    pub(super) fn open(metrics: &'a Metrics, received: Instant) -> Self {
        metrics.received();
        Self { metrics, received, tenant: None, is_open: true }
    }

    pub(super) fn belongs_to(&mut self, tenant: &Arc<Tenant>) {
        self.tenant = Some(Arc::clone(tenant));
    }

    pub(super) fn answered(self, tally: &Tally<'_>) {
        if let Some(tenant) = &self.tenant {
            tenant.answered(tally);
        }
        self.close(End::Answered);
    }

    pub(super) fn refused(self, error: &Error) {
        self.metrics.refused(error, clock::now() - self.received);
        let end = End::of(error);
        // Whoever left was answered nothing.
        if let (Some(tenant), End::Refused | End::Failed) = (&self.tenant, end) {
            tenant.refused();
        }
        self.close(end);
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
