//! Attention that counts distances (DeBERTa): their vectors on the device, and its launch.

use cudarc::driver::{CudaSlice, PushKernelArg};
use half::f16;

use super::kernels::Attention;
use super::launch::config;
use super::{Batch, Cuda, Rows, buffers};
use crate::engine::{AttentionKind, Queries, RelativeInit, Window};
use crate::error::DeviceError;

/// The vectors of a layer.
#[derive(Debug)]
pub struct Relative {
    /// `[num_heads, num_buckets, head_dim]`
    keys: CudaSlice<f16>,
    queries: CudaSlice<f16>,
    /// Of each distance from `1 - max_length` to `max_length - 1`.
    buckets: CudaSlice<u32>,
    num_heads: usize,
    pub(super) head_dim: usize,
    num_buckets: usize,
    /// The longest sequence.
    pub(super) max_length: usize,
}

impl Relative {
    /// # Panics
    /// If the attention is none that this family has.
    pub(super) fn check(&self, head_dim: usize, kind: &AttentionKind) {
        assert_eq!((self.num_heads, self.head_dim), (kind.num_heads, head_dim), "all heads");
        assert_eq!(kind.num_heads, kind.num_kv_heads, "keys for each head");
        assert!(kind.window == Window::ALL && kind.softcap.is_none(), "every key in its place");
    }
}

impl Cuda {
    pub(super) fn relative(&self, init: &RelativeInit<'_>) -> Result<Relative, DeviceError> {
        let RelativeInit { keys, queries, num_heads, head_dim, buckets } = *init;
        let num_buckets = init.num_buckets();
        let upload = |vectors| self.upload("vectors of distances", &buffers::to_halves(vectors));
        Ok(Relative {
            keys: upload(keys)?,
            queries: upload(queries)?,
            buckets: self.upload("buckets of distances", buckets)?,
            num_heads,
            head_dim,
            num_buckets,
            max_length: buckets.len() / 2 + 1,
        })
    }

    pub(super) fn launch_relative_attention(
        &self,
        attention: &Attention,
        relative: &Relative,
        qkv: &Rows,
        batch: &Batch,
        kind: &AttentionKind,
        out: &mut Rows,
    ) {
        let (items, num_items) = batch.items_of(kind.queries);
        let (cu_seqlens, key_lens) = (batch.cu_seqlens(), batch.key_lens());
        let grid = (num_items * kind.num_heads, 1);
        let config = config(grid, attention.threads, attention.shared_bytes);
        let [heads, qkv_stride, out_stride, num_buckets, max_length] =
            [kind.num_heads, qkv.width, out.width, relative.num_buckets, relative.max_length]
                .map(|size| size as i32);
        let first_only = i32::from(kind.queries == Queries::First);
        let mut launch = self.stream.launch_builder(&attention.function);
        launch.arg(qkv.halves()).arg(&cu_seqlens).arg(&items).arg(out.halves_mut());
        launch.arg(&heads).arg(&qkv_stride).arg(&out_stride).arg(&first_only).arg(&key_lens);
        launch.arg(&relative.keys).arg(&relative.queries).arg(&relative.buckets);
        launch.arg(&num_buckets).arg(&max_length);
        // SAFETY: items name sequences of the batch and blocks within them, or end their block; rows of qkv and
        // out are those of the bucket. The kernel clamps distances to the table of buckets, which were compared
        // with the number of vectors.
        self.enqueued("relative attention", unsafe { launch.launch(config) });
    }
}
