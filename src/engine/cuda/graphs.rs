//! Forward passes captured as graphs: one launch a batch instead of one an operation.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::error::fault;
use super::slot::Source;
use super::{Bucket, Cuda};
use crate::error::DeviceError;

/// A model's buckets are a few dozen, twice over for the two slots, and more where sequences share rows. Past this
/// many, the one used longest ago goes: a client that sends every length once must not fill the device with graphs.
const MAX_GRAPHS: usize = 128;

/// What was captured, by slot and bucket: a graph knows the addresses of its slot's arrays.
#[derive(Debug, Default)]
pub struct Graphs {
    captured: HashMap<(usize, Bucket), Captured>,
    /// Replays so far: the age of a graph is that of its last one.
    replays: u64,
}

struct Captured {
    graph: CudaGraph,
    /// Where the forward pass leaves its results.
    results: Source,
    last_replay: u64,
}

// SAFETY: the driver wants calls on a graph not to be concurrent, and they go through `&mut Graphs`.
unsafe impl Send for Captured {}

impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Captured").field("last_replay", &self.last_replay).finish_non_exhaustive()
    }
}

impl Graphs {
    /// Enqueues the forward pass of this slot and bucket, capturing it with `forward` at its first time.
    /// Returns where its results will be.
    ///
    /// # Errors
    /// An operation could not be captured or the graph not launched.
    pub(super) fn replay(
        &mut self,
        cuda: &Cuda,
        key: (usize, Bucket),
        forward: impl FnOnce() -> Source,
    ) -> Result<Source, DeviceError> {
        self.replays += 1;
        let num_captured = self.captured.len();
        let captured = match self.captured.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(capture(cuda, forward)?),
        };
        captured.last_replay = self.replays;
        let results = captured.results;
        captured.graph.launch().map_err(fault("launching a graph"))?;
        if num_captured > MAX_GRAPHS {
            self.drop_oldest(cuda)?;
        }
        Ok(results)
    }

    fn drop_oldest(&mut self, cuda: &Cuda) -> Result<(), DeviceError> {
        let oldest = self.captured.iter().min_by_key(|(_, captured)| captured.last_replay);
        if let Some((&key, _)) = oldest {
            // It may be running still.
            cuda.synchronize()?;
            self.captured.remove(&key);
        }
        Ok(())
    }
}

fn capture(cuda: &Cuda, forward: impl FnOnce() -> Source) -> Result<Captured, DeviceError> {
    cuda.take_refusal()?;
    // Thread-local: another device's thread may allocate meanwhile.
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    cuda.stream.begin_capture(mode).map_err(fault("beginning a capture"))?;
    let results = forward();
    let graph = cuda.stream.end_capture(CUgraphInstantiate_flags(0));
    // What a launch said is nearer to the cause than what the capture says of it.
    cuda.take_refusal()?;
    let graph = graph.map_err(fault("ending a capture"))?;
    let graph = graph.ok_or_else(|| DeviceError::new("the capture of a forward pass is empty"))?;
    Ok(Captured { graph, results, last_replay: 0 })
}
