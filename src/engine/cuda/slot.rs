//! A batch's way onto the device and back: pinned memory at both ends, events between the streams.
//!
//! Two slots let the next batch be copied while this one computes. Forward passes run one after another on
//! the computing stream, so they share their activations; only the arrays of a slot are its own.

use std::time::Instant;

use cudarc::driver::sys::{CU_MEMHOSTALLOC_PORTABLE, CUdeviceptr};
use cudarc::driver::{CudaEvent, DevicePtr, PinnedHostSlice, result};
use half::f16;

use super::buffers::{Elements, Rows};
use super::error::fault;
use super::{Batch, Bucket, Cuda, Graphs, POLL, Sharing, batch};
use crate::clock;
use crate::engine::packed::Packed;
use crate::error::DeviceError;

/// Where a forward pass leaves its results on the device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    address: CUdeviceptr,
    is_f16: bool,
}

/// A batch, and what comes of it.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    pub batch: &'a Packed,
    pub sharing: Option<&'a Sharing>,
    /// Rows of the result.
    pub num_rows: usize,
}

/// The memory of one batch on its way.
#[derive(Debug)]
pub struct Slot {
    index: usize,
    width: usize,
    /// `[Bucket::most_words()]` of the largest bucket.
    host: PinnedHostSlice<u32>,
    device: Batch,
    /// `[max_tokens * width]` floats, or half as many bytes of halves: a sequence has a token at least.
    results: PinnedHostSlice<f32>,
    results_are_f16: bool,
    copied: CudaEvent,
    done: CudaEvent,
}

impl Slot {
    /// Memory for batches of up to `max_tokens`; `width` floats come back for each row.
    ///
    /// # Errors
    /// No memory on the device, or none that can be pinned.
    pub fn new(
        cuda: &Cuda,
        index: usize,
        max_tokens: usize,
        width: usize,
    ) -> Result<Self, DeviceError> {
        let largest = Bucket::of(max_tokens, max_tokens);
        let event = || cuda.context.new_event(None).map_err(fault("making an event"));
        let words = largest.most_words();
        // SAFETY: u32 and f32 have no invalid bits, and `begin` writes before the device reads.
        let host = unsafe { cuda.context.alloc_pinned_with_flags(words, CU_MEMHOSTALLOC_PORTABLE) };
        // SAFETY: as above; the device writes before `finish` reads.
        let results = unsafe {
            let floats = largest.num_tokens * width;
            cuda.context.alloc_pinned_with_flags(floats, CU_MEMHOSTALLOC_PORTABLE)
        };
        let slot = Self {
            index,
            width,
            host: host.map_err(fault("pinning memory for batches"))?,
            device: Batch { words: cuda.zeros("batches", words)?, bucket: largest },
            results: results.map_err(fault("pinning memory for results"))?,
            results_are_f16: false,
            copied: event()?,
            done: event()?,
        };
        // The memory was cleared on the computing stream, and batches are copied on the other.
        cuda.synchronize()?;
        Ok(slot)
    }

    /// Copies a batch in and enqueues its forward pass and the way back. `forward` is called where no graph of
    /// this size was captured yet.
    ///
    /// The batch before last must have been finished: its slot is this one.
    ///
    /// # Errors
    /// The device does not take the work.
    pub fn begin<'a>(
        &mut self,
        cuda: &Cuda,
        graphs: &mut Graphs,
        work: Work<'_>,
        forward: impl FnOnce(&Batch) -> &'a Rows,
    ) -> Result<(), DeviceError> {
        let words = self.host.as_mut_slice().map_err(fault("reaching pinned memory"))?;
        let bucket = batch::lay_out(work.batch, work.sharing, words);
        self.device.bucket = bucket;
        self.copy_in(cuda, bucket.num_words())?;
        cuda.stream.wait(&self.copied).map_err(fault("ordering the streams"))?;
        let device = &self.device;
        let source = graphs.replay(cuda, (self.index, bucket), || {
            let rows = forward(device);
            assert_eq!(rows.width, self.width, "rows of the model");
            Source::of(cuda, rows)
        })?;
        self.results_are_f16 = source.is_f16;
        self.copy_out(cuda, source, work.num_rows)?;
        self.done.record(&cuda.stream).map_err(fault("marking the end of a batch"))
    }

    fn copy_in(&mut self, cuda: &Cuda, num_words: usize) -> Result<(), DeviceError> {
        let words = self.host.as_slice().map_err(fault("reaching pinned memory"))?;
        let (to, _tracked) = self.device.words.device_ptr(&cuda.copies);
        let stream = cuda.copies.cu_stream();
        // SAFETY: both ends live as long as the slot, which waits for its work before it is dropped or
        // written again, and the bucket's words fit both.
        unsafe { result::memcpy_htod_async(to, &words[..num_words], stream) }
            .map_err(fault("copying a batch to the device"))?;
        self.copied.record(&cuda.copies).map_err(fault("marking the end of a copy"))
    }

    fn copy_out(
        &mut self,
        cuda: &Cuda,
        source: Source,
        num_rows: usize,
    ) -> Result<(), DeviceError> {
        let results = self.results.as_mut_slice().map_err(fault("reaching pinned memory"))?;
        let results = &mut results[..num_rows * self.width];
        let num_bytes = if source.is_f16 { results.len() * 2 } else { results.len() * 4 };
        let to = results.as_mut_ptr().cast::<u8>();
        // SAFETY: `to` begins at least `num_bytes` of pinned memory, borrowed alone here and read again
        // only by `finish`, after `done`.
        let to = unsafe { std::slice::from_raw_parts_mut(to, num_bytes) };
        let stream = cuda.stream.cu_stream();
        // SAFETY: the results of `num_rows` rows begin at the source; the slot outlives the copy.
        unsafe { result::memcpy_dtoh_async(to, source.address, stream) }
            .map_err(fault("copying results from the device"))
    }

    /// Whether `finish` would not wait.
    pub fn is_done(&self) -> bool {
        // A fault is told by `finish`.
        self.done.try_is_complete().unwrap_or(true)
    }

    /// Waits for the batch begun last and writes its rows to `out`, `[num_rows, width]`.
    ///
    /// # Errors
    /// The batch failed, or was not done at `deadline`: then the device is lost.
    pub fn finish(&self, deadline: Instant, out: &mut [f32]) -> Result<(), DeviceError> {
        while !self.done.try_is_complete().map_err(fault("computing a batch"))? {
            if clock::now() > deadline {
                return Err(DeviceError::lost("the device hangs: a batch took too long"));
            }
            std::thread::sleep(POLL);
        }
        let results = self.results.as_slice().map_err(fault("reaching pinned memory"))?;
        if self.results_are_f16 {
            // SAFETY: `copy_out` had the device write so many halves here, and f16 has no invalid bits.
            let halves =
                unsafe { std::slice::from_raw_parts(results.as_ptr().cast::<f16>(), out.len()) };
            out.iter_mut().zip(halves).for_each(|(to, from)| *to = from.to_f32());
        } else {
            out.copy_from_slice(&results[..out.len()]);
        }
        Ok(())
    }
}

impl Source {
    fn of(cuda: &Cuda, rows: &Rows) -> Self {
        match &rows.data {
            Elements::F16(data) => Self { address: data.device_ptr(&cuda.stream).0, is_f16: true },
            Elements::F32(data) => Self { address: data.device_ptr(&cuda.stream).0, is_f16: false },
        }
    }
}
