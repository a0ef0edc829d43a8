//! Typed launches, one a kernel: grid, block and arguments as the head of each `kernels/*.cu` asks.
//!
//! The callers in the parent module compared widths and row counts; the sizes of the buffers follow from them.

use cudarc::driver::{CudaSlice, CudaView, LaunchConfig, PushKernelArg};
use half::f16;

use super::buffers::{Elements, Embeddings, Linear, Norm, Rope, Rows, VECTOR};
use super::kernels::{Attention, GemmTile, GemmTiles};
use super::{Batch, Cuda};
use crate::engine::{AttentionKind, Epilogue, Gate, NormKind, Pooling, Queries};

const WARP: usize = 32;
/// Warps of the kernels that give a warp to each logit or head.
const WARPS: usize = 4;
/// Threads of the kernels that stride over vectors.
const STRIDING_THREADS: usize = 256;
/// A null pointer: an argument left out.
const NONE: u64 = 0;

/// Threads for a row of eight columns each, in whole warps.
fn row_threads(width: usize) -> u32 {
    (width / VECTOR).next_multiple_of(WARP) as u32
}

pub(super) fn config(grid: (usize, usize), threads: u32, shared_mem_bytes: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (grid.0 as u32, grid.1 as u32, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes,
    }
}

/// Rows of a table, by their numbers.
#[derive(Clone, Copy)]
pub(super) struct Gather<'a> {
    what: &'static str,
    ids: &'a CudaView<'a, u32>,
    table: &'a CudaSlice<f16>,
    width: usize,
}

impl<'a> Gather<'a> {
    pub(super) fn words(table: &'a Embeddings, ids: &'a CudaView<'a, u32>) -> Self {
        Self { what: "embed", ids, table: &table.words, width: table.hidden_size }
    }

    pub(super) fn rows(rows: &'a Rows, ids: &'a CudaView<'a, u32>) -> Self {
        Self { what: "gather", ids, table: rows.halves(), width: rows.width }
    }
}

impl Cuda {
    pub(super) fn launch_embed_norm(
        &self,
        batch: &Batch,
        table: &Embeddings,
        norm: &Norm,
        out: &mut Rows,
    ) {
        let (ids, types, positions) =
            (batch.input_ids(), batch.token_type_ids(), batch.position_ids());
        let width = norm.width as i32;
        let config = config((out.num_rows, 1), row_threads(norm.width), 0);
        let mut launch = self.stream.launch_builder(&self.kernels.embed_norm);
        launch.arg(&ids).arg(&types).arg(&positions);
        launch.arg(&table.words);
        for table in [&table.types, &table.positions] {
            match table {
                Some(table) => launch.arg(table),
                None => launch.arg(&NONE),
            };
        }
        launch.arg(&norm.gamma);
        match &norm.beta {
            Some(beta) => launch.arg(beta),
            None => launch.arg(&NONE),
        };
        launch.arg(&norm.eps).arg(&width).arg(out.halves_mut());
        // SAFETY: one block a token of the bucket, whose arrays and output rows have that many; ids were
        // checked against the tables when the batch was taken, and padding is id 0.
        self.enqueued("embed_norm", unsafe { launch.launch(config) });
    }

    /// `out[i] = table[ids[i]]`.
    ///
    /// # Panics
    /// If there are fewer ids than rows of `out`, or their widths differ.
    pub(super) fn launch_gather(&self, gather: Gather<'_>, out: &mut Rows) {
        let Gather { what, ids, table, width } = gather;
        assert!(ids.len() >= out.num_rows && out.width == width, "rows to gather");
        let vectors = out.num_rows * out.width / VECTOR;
        let config = config((vectors.div_ceil(STRIDING_THREADS), 1), STRIDING_THREADS as u32, 0);
        let [rows, width] = [out.num_rows, width].map(|size| size as i32);
        let mut launch = self.stream.launch_builder(&self.kernels.embed);
        launch.arg(ids).arg(table).arg(&rows).arg(&width).arg(out.halves_mut());
        // SAFETY: there is an id for each row. Ids of words were checked against the table when the batch was
        // taken, those of rows name rows of the bucket, and padding is id 0.
        self.enqueued(what, unsafe { launch.launch(config) });
    }

    pub(super) fn launch_gemm(&self, x: &Rows, w: &Linear, epilogue: Epilogue, out: &mut Rows) {
        let m = x.num_rows;
        let tile = self.gemm_tile(m, w.n);
        let grid = (w.n.div_ceil(tile.edge), m.div_ceil(tile.edge));
        let config = config(grid, tile.threads, tile.shared_bytes);
        let [rows, n, k] = [m, w.n, w.k].map(|size| size as i32);
        let [x_stride, weight_stride, out_stride] =
            [x.width, w.stride, out.width].map(|s| s as i32);
        let epilogue = epilogue as i32;
        let mut launch = self.stream.launch_builder(&tile.function);
        launch.arg(x.halves()).arg(&w.weight).arg(&w.bias).arg(&NONE).arg(out.halves_mut());
        launch.arg(&rows).arg(&n).arg(&k);
        launch.arg(&x_stride).arg(&weight_stride).arg(&out_stride).arg(&out_stride).arg(&epilogue);
        // SAFETY: the kernel guards its edges by m, n and k; strides are those of the buffers, multiples of a
        // vector by construction.
        self.enqueued("gemm", unsafe { launch.launch(config) });
    }

    /// The large tile if its blocks keep two on every multiprocessor.
    fn gemm_tile(&self, m: usize, n: usize) -> &GemmTile {
        let GemmTiles { large, small } = &self.kernels.gemm;
        let blocks = m.div_ceil(large.edge) * n.div_ceil(large.edge);
        match small {
            Some(small) if blocks < 2 * self.num_multiprocessors => small,
            _ => large,
        }
    }

    pub(super) fn launch_classify(&self, x: &Rows, w: &Linear, out: &mut Rows) {
        let blocks = (x.num_rows * w.n).div_ceil(WARPS);
        let config = config((blocks, 1), (WARPS * WARP) as u32, 0);
        let [rows, labels, width] = [x.num_rows, w.n, w.stride].map(|size| size as i32);
        let Elements::F32(logits) = &mut out.data else { panic!("logits are f32") };
        let mut launch = self.stream.launch_builder(&self.kernels.classify);
        launch.arg(x.halves()).arg(&w.weight).arg(&w.bias).arg(logits);
        launch.arg(&rows).arg(&labels).arg(&width);
        // SAFETY: a warp a logit, guarded by rows and labels; rows of x are as wide as those of the weight,
        // since activations are whole vectors wide.
        self.enqueued("classify", unsafe { launch.launch(config) });
    }

    pub(super) fn launch_attention(
        &self,
        attention: &Attention,
        qkv: &Rows,
        batch: &Batch,
        kind: &AttentionKind,
        out: &mut Rows,
    ) {
        let AttentionKind { queries, num_heads, num_kv_heads, window, softcap } = *kind;
        let (items, num_items) = batch.items_of(queries);
        let (cu_seqlens, key_lens) = (batch.cu_seqlens(), batch.key_lens());
        let config = config((num_items * num_heads, 1), attention.threads, attention.shared_bytes);
        let [heads, kv_heads, left, right] =
            [num_heads, num_kv_heads, window.left, window.right].map(|size| size as i32);
        let [qkv_stride, out_stride] = [qkv.width, out.width].map(|stride| stride as i32);
        let first_only = i32::from(queries == Queries::First);
        let mut launch = self.stream.launch_builder(&attention.function);
        launch.arg(qkv.halves()).arg(&cu_seqlens).arg(&items).arg(out.halves_mut());
        launch.arg(&heads).arg(&kv_heads).arg(&qkv_stride).arg(&out_stride);
        launch.arg(&left).arg(&right).arg(&first_only).arg(&key_lens);
        if let Some(cap) = &softcap {
            launch.arg(cap);
        }
        // SAFETY: items name sequences of the batch and blocks within them, or end their block; rows of qkv
        // and out are those of the bucket.
        self.enqueued("attention", unsafe { launch.launch(config) });
    }

    pub(super) fn launch_residual_norm(&self, hidden: &mut Rows, update: &Rows, norm: &Norm) {
        let width = norm.width as i32;
        let config = config((hidden.num_rows, 1), row_threads(norm.width), 0);
        let hidden = hidden.halves();
        let mut launch = self.stream.launch_builder(&self.kernels.residual_norm);
        launch.arg(hidden).arg(update.halves()).arg(&norm.gamma);
        match &norm.beta {
            Some(beta) => launch.arg(beta),
            None => launch.arg(&NONE),
        };
        launch.arg(&norm.eps).arg(&width).arg(&NONE).arg(hidden);
        // SAFETY: one block a row; the kernel reads its columns of `hidden` before it writes them, and the
        // caller borrowed them alone.
        self.enqueued("residual_norm", unsafe { launch.launch(config) });
    }

    /// `out = norm(hidden + update)`, and the sum stays in `hidden`, which the caller borrowed alone if there is an
    /// update.
    pub(super) fn launch_pre_norm(
        &self,
        hidden: &Rows,
        update: Option<&Rows>,
        norm: &Norm,
        out: &mut Rows,
    ) {
        let width = norm.width as i32;
        let config = config((hidden.num_rows, 1), row_threads(norm.width), 0);
        let hidden = hidden.halves();
        let kernel = match norm.kind {
            NormKind::Layer => &self.kernels.residual_norm,
            NormKind::Rms => &self.kernels.rms_norm,
        };
        let mut launch = self.stream.launch_builder(kernel);
        launch.arg(hidden);
        match update {
            Some(update) => launch.arg(update.halves()),
            None => launch.arg(&NONE),
        };
        launch.arg(&norm.gamma);
        match (norm.kind, &norm.beta) {
            (NormKind::Rms, _) => &mut launch,
            (NormKind::Layer, Some(beta)) => launch.arg(beta),
            (NormKind::Layer, None) => launch.arg(&NONE),
        };
        launch.arg(&norm.eps).arg(&width);
        match update {
            Some(_) => launch.arg(hidden),
            None => launch.arg(&NONE),
        };
        launch.arg(out.halves_mut());
        // SAFETY: one block a row; the kernel reads its columns of `hidden` before it writes them, and the
        // caller borrowed them alone.
        self.enqueued("pre_norm", unsafe { launch.launch(config) });
    }

    pub(super) fn launch_head_norm(
        &self,
        qkv: &mut Rows,
        (queries, keys): (&Norm, &Norm),
        kind: &AttentionKind,
    ) {
        let heads = qkv.num_rows * (kind.num_heads + kind.num_kv_heads);
        let config = config((heads.div_ceil(WARPS), 1), (WARPS * WARP) as u32, 0);
        let [rows, num_heads, num_kv_heads, head_dim, stride] =
            [qkv.num_rows, kind.num_heads, kind.num_kv_heads, queries.width, qkv.width]
                .map(|size| size as i32);
        let mut launch = self.stream.launch_builder(&self.kernels.head_norm);
        launch.arg(qkv.halves_mut()).arg(&queries.gamma).arg(&keys.gamma).arg(&queries.eps);
        launch.arg(&rows).arg(&num_heads).arg(&num_kv_heads).arg(&head_dim).arg(&stride);
        // SAFETY: a warp a head, guarded by their number; rows hold all heads, and gammas are as wide as one.
        self.enqueued("head_norm", unsafe { launch.launch(config) });
    }

    pub(super) fn launch_rope(
        &self,
        qkv: &mut Rows,
        batch: &Batch,
        rope: &Rope,
        kind: &AttentionKind,
    ) {
        let num_rotated = kind.num_heads + kind.num_kv_heads;
        let vectors = qkv.num_rows * num_rotated * rope.half / VECTOR;
        let config = config((vectors.div_ceil(STRIDING_THREADS), 1), STRIDING_THREADS as u32, 0);
        let positions = batch.position_ids();
        let [rows, rotated, head_dim, stride] =
            [qkv.num_rows, num_rotated, 2 * rope.half, qkv.width].map(|size| size as i32);
        let mut launch = self.stream.launch_builder(&self.kernels.rope);
        launch.arg(qkv.halves_mut()).arg(&positions).arg(&rope.cosines).arg(&rope.sines);
        launch.arg(&rows).arg(&rotated).arg(&head_dim).arg(&stride);
        // SAFETY: rows of qkv are those of the bucket and hold all heads; positions were checked against the
        // model's length, which the tables have, and padding is position 0.
        self.enqueued("rope", unsafe { launch.launch(config) });
    }

    pub(super) fn launch_gated_activation(&self, x: &Rows, gate: Gate, out: &mut Rows) {
        let vectors = out.num_rows * out.width / VECTOR;
        let config = config((vectors.div_ceil(STRIDING_THREADS), 1), STRIDING_THREADS as u32, 0);
        let [rows, width, gate] = [out.num_rows, out.width, gate as usize].map(|size| size as i32);
        let mut launch = self.stream.launch_builder(&self.kernels.gated_activation);
        launch.arg(x.halves()).arg(out.halves_mut()).arg(&rows).arg(&width).arg(&gate);
        // SAFETY: rows of x are twice as wide as those of out, and as many.
        self.enqueued("gated_activation", unsafe { launch.launch(config) });
    }

    pub(super) fn launch_pool(
        &self,
        hidden: &Rows,
        batch: &Batch,
        pooling: Pooling,
        out: &mut Rows,
    ) {
        // The first row of a run that begins with a sequence's last one.
        let (cu_seqlens, pooling) = match pooling {
            Pooling::Last => (batch.last_rows(), Pooling::Cls),
            other => (batch.cu_seqlens(), other),
        };
        let (width, pooling) = (hidden.width as i32, pooling as i32);
        let config = config((out.num_rows, 1), row_threads(hidden.width), 0);
        let mut launch = self.stream.launch_builder(&self.kernels.pool);
        launch.arg(hidden.halves()).arg(&cu_seqlens).arg(&width).arg(&pooling);
        launch.arg(out.halves_mut());
        // SAFETY: one block a sequence of the bucket; cu_seqlens ends at rows of the batch.
        self.enqueued("pool", unsafe { launch.launch(config) });
    }

    pub(super) fn launch_normalize(&self, rows: &mut Rows) {
        let width = rows.width as i32;
        let config = config((rows.num_rows, 1), row_threads(rows.width), 0);
        let mut launch = self.stream.launch_builder(&self.kernels.normalize);
        launch.arg(rows.halves_mut()).arg(&width);
        // SAFETY: one block a row.
        self.enqueued("normalize", unsafe { launch.launch(config) });
    }
}
