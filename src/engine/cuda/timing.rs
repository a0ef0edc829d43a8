//! How fast the kernels are on this card, against what the card itself was measured to do.
//!
//! The ceilings are measured too: the bytes that a copy within the device moves, and the largest product. On an
//! emulated driver all of it is the emulator's time.

use std::time::Instant;

use cudarc::driver::DevicePtr;
use cudarc::driver::result;

use super::error::fault;
use super::{Batch, Cuda, Rows};
use crate::clock;
use crate::engine::packed::Packed;
use crate::engine::{AttentionKind, Backend, Epilogue, LinearInit, Queries};
use crate::error::DeviceError;

/// What one operation did in a second.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    pub operation: String,
    pub seconds: f64,
    /// Useful work: multiply-adds count two.
    pub flops: f64,
    /// Bytes that must at least move.
    pub bytes: f64,
}

/// The best of a few runs, each of which began on an idle device.
const RUNS: usize = 3;
const COPY_BYTES: usize = 64 << 20;

impl Cuda {
    /// Times a copy, products and attention, at `scale` times the sizes of a small model's batch: 8 or more
    /// fills a card, 1 is enough to see that it works.
    ///
    /// # Errors
    /// The device fails or has too little memory.
    pub fn time(&self, scale: usize) -> Result<Vec<Timing>, DeviceError> {
        let num_tokens = 128 * scale;
        let mut timings = vec![self.time_copy(COPY_BYTES / 64 * scale.min(64))?];
        for (n, k) in [(384, 384), (1536, 384), (384, 1536), (768, 768), (3072, 768)] {
            timings.push(self.time_linear(num_tokens, n, k)?);
        }
        for (head_dim, num_heads) in [(32, 12), (64, 12)] {
            timings.push(self.time_attention(num_tokens, head_dim, num_heads)?);
        }
        Ok(timings)
    }

    /// Seconds of the best run.
    pub(super) fn best(
        &self,
        mut run: impl FnMut() -> Result<(), DeviceError>,
    ) -> Result<f64, DeviceError> {
        // The first run pays for what is made on first use.
        run()?;
        self.synchronize()?;
        let mut best = f64::INFINITY;
        for _ in 0..RUNS {
            let start: Instant = clock::now();
            run()?;
            self.synchronize()?;
            best = best.min(clock::now().saturating_duration_since(start).as_secs_f64());
        }
        Ok(best)
    }

    fn time_copy(&self, num_bytes: usize) -> Result<Timing, DeviceError> {
        let (from, to) =
            (self.zeros::<u8>("a copy", num_bytes)?, self.zeros::<u8>("a copy", num_bytes)?);
        let (from, to) = (from.device_ptr(&self.stream).0, to.device_ptr(&self.stream).0);
        let seconds = self.best(|| {
            // SAFETY: both allocations have that many bytes and outlive the wait in `best`.
            unsafe { result::memcpy_dtod_async(to, from, num_bytes, self.stream.cu_stream()) }
                .map_err(fault("copying within the device"))
        })?;
        let operation = format!("copy of {} KiB", num_bytes >> 10);
        Ok(Timing { operation, seconds, flops: 0.0, bytes: 2.0 * num_bytes as f64 })
    }

    fn filled(&self, num_rows: usize, width: usize) -> Result<Rows, DeviceError> {
        let mut rows = self.rows(num_rows, width)?;
        rows.set_rows(num_rows);
        Ok(rows)
    }

    fn time_linear(&self, m: usize, n: usize, k: usize) -> Result<Timing, DeviceError> {
        let (weight, bias) = (vec![0.01; n * k], vec![0.1; n]);
        let w = self.prepare_linear(&LinearInit { weight: &weight, bias: &bias, n, k })?;
        let (x, mut out) = (self.filled(m, k)?, self.filled(m, n)?);
        let seconds = self.best(|| {
            self.linear(&x, &w, Epilogue::BiasGelu, &mut out);
            Ok(())
        })?;
        Ok(Timing {
            operation: format!("linear {k} -> {n}, GELU, {m} rows"),
            seconds,
            flops: 2.0 * (m * n * k) as f64,
            bytes: 2.0 * (m * k + n * k + m * n) as f64,
        })
    }

    fn time_attention(
        &self,
        num_tokens: usize,
        head_dim: usize,
        num_heads: usize,
    ) -> Result<Timing, DeviceError> {
        const LEN: usize = 128;
        let mut packed = Packed::with_capacity(num_tokens, num_tokens / LEN);
        (0..num_tokens / LEN).for_each(|_| packed.push(&[0; LEN], LEN));
        let batch: Batch = self.batch(&packed, None)?;
        let width = num_heads * head_dim;
        let qkv = self.filled(batch.bucket.num_tokens, 3 * width)?;
        let mut out = self.filled(batch.bucket.num_tokens, width)?;
        let mut scratch = self.scratch(LEN, head_dim)?;
        let kind = AttentionKind::full(Queries::All, num_heads);
        let seconds = self.best(|| {
            self.attention(&qkv, &batch, &kind, &mut scratch, &mut out);
            Ok(())
        })?;
        Ok(Timing {
            operation: format!("attention, {num_heads} heads of {head_dim}, {num_tokens} tokens"),
            seconds,
            flops: 4.0 * (num_tokens * LEN * width) as f64,
            bytes: 2.0 * (num_tokens * 4 * width) as f64,
        })
    }
}
