//! Runs a model on a GPU: the next batch is copied in and queued while this one computes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Family, Grain, Scorer, check_room};
use crate::clock;
use crate::engine::cuda::{Bucket, Cuda, Graphs, Sharing, Slot, Work};
use crate::engine::packed::Packed;
use crate::error::DeviceError;

/// One batch computes, one is copied in behind it: a third would only add latency.
const NUM_SLOTS: usize = 2;

/// A model on one GPU.
#[derive(Debug)]
pub struct Pipeline<F: Family<Cuda>> {
    // Fields drop in this order: graphs and slots before the device they live on.
    graphs: Graphs,
    slots: [Slot; NUM_SLOTS],
    activations: F::Lane,
    family: F,
    cuda: Cuda,
    max_tokens: usize,
    timeout: Duration,
    next_slot: usize,
    /// The slots of the batches begun and not yet asked for, oldest first, or why one could not begin.
    begun: VecDeque<Result<usize, DeviceError>>,
    /// When the oldest of them had the device to itself.
    since: Instant,
    /// Once the device is lost, every batch is told so at once.
    lost: Option<DeviceError>,
}

impl<F: Family<Cuda>> Pipeline<F> {
    /// Takes memory for batches of up to `max_tokens`. A batch that runs longer than `timeout` means that
    /// the device hangs.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn new(
        cuda: Cuda,
        family: F,
        max_tokens: usize,
        timeout: Duration,
    ) -> Result<Self, DeviceError> {
        let max_tokens = max_tokens.max(family.limits().max_length);
        // Activations have the rows of the largest bucket, not only of the largest batch.
        let activations = family.lane(&cuda, Bucket::of(max_tokens, 1).num_tokens)?;
        cuda.choose_products(max_tokens)?;
        let slot = |index| Slot::new(&cuda, index, max_tokens, family.width());
        Ok(Self {
            graphs: Graphs::default(),
            slots: [slot(0)?, slot(1)?],
            activations,
            family,
            max_tokens,
            timeout,
            next_slot: 0,
            begun: VecDeque::with_capacity(NUM_SLOTS),
            since: clock::now(),
            lost: None,
            cuda,
        })
    }

    fn try_begin(&mut self, batch: &Packed) -> Result<usize, DeviceError> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        self.family.limits().check(batch)?;
        if batch.num_tokens() > self.max_tokens {
            let message = format!(
                "a batch of {} tokens, but the device has memory for {}",
                batch.num_tokens(),
                self.max_tokens
            );
            return Err(DeviceError::new(message));
        }
        let index = self.next_slot;
        let sharing = self.sharing(batch);
        let (family, cuda, activations) = (&self.family, &self.cuda, &mut self.activations);
        let num_rows = family.grain().num_rows(batch);
        let work = Work { batch, sharing: sharing.as_ref(), num_rows };
        self.slots[index].begin(cuda, &mut self.graphs, work, |device_batch| {
            family.forward(cuda, activations, device_batch)
        })?;
        self.next_slot = (index + 1) % NUM_SLOTS;
        Ok(index)
    }

    fn sharing(&self, batch: &Packed) -> Option<Sharing> {
        if self.family.limits().is_causal { Sharing::of(batch) } else { None }
    }
}

impl<F: Family<Cuda>> Scorer for Pipeline<F> {
    fn width(&self) -> usize {
        self.family.width()
    }

    fn grain(&self) -> Grain {
        self.family.grain()
    }

    fn begin(&mut self, batch: &Packed) {
        debug_assert!(
            self.begun.len() < NUM_SLOTS,
            "no batch is begun before the last but one is asked for"
        );
        if self.begun.is_empty() {
            self.since = clock::now();
        }
        let slot = self.try_begin(batch);
        self.begun.push_back(slot);
    }

    fn num_begun(&self) -> usize {
        self.begun.len()
    }

    fn recover(&mut self) {
        self.begun.clear();
        // The slots may be in use still. What this says, the next batch says again.
        let _ = self.cuda.synchronize();
    }

    fn is_done(&self) -> bool {
        match self.begun.front() {
            Some(Ok(slot)) => {
                // Of a device that hangs, `score` says so.
                self.slots[*slot].is_done() || clock::now() > self.since + self.timeout
            }
            _ => true,
        }
    }

    fn score(&mut self, batch: &Packed, out: &mut [f32]) -> Result<(), DeviceError> {
        if self.begun.is_empty() {
            check_room(batch, (self.family.grain(), self.family.width()), out)?;
            self.begin(batch);
        }
        let slot = self.begun.pop_front();
        let scored = slot.unwrap_or_else(|| Err(DeviceError::new("no batch was begun")));
        let deadline = self.since + self.timeout;
        let scored = scored.and_then(|slot| self.slots[slot].finish(deadline, out));
        if scored.is_ok() {
            self.family.finish(out);
        }
        self.since = clock::now();
        if let Err(fault) = &scored
            && fault.lost
        {
            self.lost = Some(fault.clone());
        }
        scored
    }

    fn padding_tokens(&self, batch: &Packed) -> usize {
        let sharing = self.sharing(batch);
        let bucket = Bucket::of_batch(batch, sharing.as_ref());
        bucket.num_rows - sharing.map_or(batch.num_tokens(), |sharing| sharing.num_rows())
    }
}
