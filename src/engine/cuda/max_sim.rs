//! Late interaction on the device: matrices in, one sum a document out.

use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaStream, LaunchConfig, PushKernelArg};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::Cuda;
use super::error::fault;
use super::kernels::max_sim;
use crate::engine::{MaxSim, MaxSimError};
use crate::error::DeviceError;
use crate::matrix_format::Format;

/// Threads of a block, which makes one sum.
const THREADS: u32 = 128;
/// Halves of documents on the device at a time: enough for every multiprocessor to have many documents, little
/// beside a model.
const MAX_HALVES: usize = 32 << 20;

/// Compares vectors on a stream of its own, beside the forward passes.
#[derive(Debug)]
pub struct Comparer {
    stream: Arc<CudaStream>,
    kernel: CudaFunction,
    /// Columns of the kernel: vectors are padded with zeros, which change no product.
    columns: usize,
    shared_bytes: u32,
}

impl Cuda {
    /// Compares vectors of `dim` on this device; `None` if no kernel is so wide.
    ///
    /// # Errors
    /// The device fails.
    pub fn comparer(&self, dim: usize) -> Result<Option<Comparer>, DeviceError> {
        let Some((kernel, columns)) = max_sim(&self.context, dim)? else { return Ok(None) };
        let stream = self.context.new_stream().map_err(fault("making a stream"))?;
        // Two stages of 64 vectors of a document, and 32 of the query.
        let shared_bytes = ((2 * 64 + 32) * size_of::<f16>() * columns) as u32;
        Ok(Some(Comparer { stream, kernel, columns, shared_bytes }))
    }
}

impl MaxSim for Comparer {
    fn max_sim(
        &self,
        query: &[f32],
        dim: usize,
        format: Format,
        documents: &[&[u8]],
    ) -> Result<Vec<f32>, MaxSimError> {
        assert!(dim <= self.columns, "vectors of the kernel's width");
        let mut queries = Vec::new();
        self.pad(query, dim, &mut queries);
        let mut sums = Vec::with_capacity(documents.len());
        let (mut halves, mut ends, mut document) = (Vec::new(), vec![0u32], Vec::new());
        for (i, bytes) in documents.iter().enumerate() {
            format.num_vectors(bytes.len(), dim).ok_or(MaxSimError::NotKept)?;
            let is_whole = if format == Format::F16 {
                self.pad_halves(bytes, dim, &mut halves)
            } else {
                document.clear();
                let is_whole = format.decode(bytes, dim, &mut document);
                self.pad(&document, dim, &mut halves);
                is_whole
            };
            if !is_whole {
                return Err(MaxSimError::NotKept);
            }
            ends.push((halves.len() / self.columns) as u32);
            if halves.len() >= MAX_HALVES || i + 1 == documents.len() {
                self.compare(&queries, &halves, &ends, &mut sums)?;
                halves.clear();
                ends.truncate(1);
            }
        }
        Ok(sums)
    }
}

impl Comparer {
    /// Appends the vectors as halves, each as wide as the kernel.
    fn pad(&self, vectors: &[f32], dim: usize, out: &mut Vec<f16>) {
        for vector in vectors.chunks_exact(dim) {
            let begin = out.len();
            out.resize(begin + self.columns, f16::ZERO);
            out[begin..begin + dim].convert_from_f32_slice(vector);
        }
    }

    /// The same of kept halves; returns whether all are finite.
    fn pad_halves(&self, bytes: &[u8], dim: usize, out: &mut Vec<f16>) -> bool {
        // The largest bits of a magnitude: a way out would take one number after another.
        let mut largest = 0;
        for vector in bytes.chunks_exact(2 * dim) {
            let (halves, _) = vector.as_chunks::<2>();
            let halves = halves.iter().map(|half| u16::from_le_bytes(*half));
            largest = halves.clone().fold(largest, |max, half| max.max(half & 0x7fff));
            let end = out.len() + self.columns;
            out.extend(halves.map(f16::from_bits));
            out.resize(end, f16::ZERO);
        }
        largest < f16::INFINITY.to_bits()
    }

    /// Appends the sum of each document whose vectors end at these rows.
    fn compare(
        &self,
        queries: &[f16],
        documents: &[f16],
        ends: &[u32],
        sums: &mut Vec<f32>,
    ) -> Result<(), DeviceError> {
        let num_documents = ends.len() - 1;
        let pairs: Vec<u32> = (0..num_documents as u32).flat_map(|i| [0, i]).collect();
        let cu_queries = [0, (queries.len() / self.columns) as u32];
        // A slice of none has no address.
        let some =
            |halves: &[f16]| if halves.is_empty() { vec![f16::ZERO] } else { halves.to_vec() };
        let upload = |what| fault(format!("copying {what} to the device"));
        let queries = self.stream.clone_htod(&some(queries)).map_err(upload("a query"))?;
        let documents = self.stream.clone_htod(&some(documents)).map_err(upload("documents"))?;
        let cu_queries = self.stream.clone_htod(&cu_queries).map_err(upload("a query"))?;
        let cu_documents = self.stream.clone_htod(ends).map_err(upload("documents"))?;
        let pairs = self.stream.clone_htod(&pairs).map_err(upload("documents"))?;
        let out = self.stream.alloc_zeros::<f32>(num_documents);
        let mut out = out.map_err(fault("allocating sums"))?;
        let config = LaunchConfig {
            grid_dim: (num_documents as u32, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: self.shared_bytes,
        };
        let mut launch = self.stream.launch_builder(&self.kernel);
        launch.arg(&queries).arg(&cu_queries).arg(&documents);
        launch.arg(&cu_documents).arg(&pairs).arg(&mut out);
        // SAFETY: a block a pair; `cu_queries` and `ends` end at rows of the buffers, each as wide as the kernel.
        unsafe { launch.launch(config) }.map_err(fault("max_sim"))?;
        let begin = sums.len();
        sums.resize(begin + num_documents, 0.0);
        self.stream.memcpy_dtoh(&out, &mut sums[begin..]).map_err(fault("reading sums"))?;
        self.stream.synchronize().map_err(fault("comparing vectors"))?;
        match sums[begin..].iter().all(|sum| sum.is_finite()) {
            true => Ok(()),
            // The largest of what is no number is minus infinity.
            false => Err(DeviceError::new("a sum of similarities is not a number")),
        }
    }
}
