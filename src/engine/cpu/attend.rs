//! Attention of a batch: sequence by sequence, in the rows' form.

use super::buffer::Buffer;
use super::first::{First, FirstWork};
use super::kernels::{AttentionArgs, AttentionSizes, Kernels, Workspace};
use super::narrow::{self, widen};
use super::relative::RelativeArgs;
use super::{Cpu, Relative, Rows};
use crate::engine::packed::Packed;
use crate::engine::{AttentionKind, Dtype, Queries, Window};

/// Attention's workspace, sized for the longest sequence.
#[derive(Debug)]
pub struct Scratch {
    max_length: usize,
    head_dim: usize,
    /// Of the f32 kernels.
    data: Buffer,
    /// One head's queries, keys and values in f32, if they come in bf16: `[max_length, 3 * head_dim]`.
    head: Buffer,
    /// Of the kernel that takes bf16.
    tiles: Buffer<u8>,
    /// Products with the vectors of distances, of all keys and of a tile of queries.
    by_key: Buffer,
    by_query: Buffer,
    /// Of attention with the first token alone.
    pub(super) first: Option<FirstWork>,
}

/// One sequence of a batch.
#[derive(Debug, Clone, Copy)]
struct Sequence {
    first: usize,
    /// Rows of its own that are keys.
    len: usize,
    /// Rows before them, which begin the batch.
    trunk_len: usize,
    num_queries: usize,
    /// Of the first query in the output.
    out_row: usize,
}

impl Scratch {
    pub(super) fn new(cpu: &Cpu, max_length: usize, head_dim: usize) -> Self {
        match &cpu.narrow.attention {
            Some(attention) if cpu.dtype != Dtype::F32 => {
                let tiles = Buffer::zeroed((attention.work_bytes)(max_length, head_dim));
                Self { tiles, ..Self::empty(max_length, head_dim) }
            }
            _ => Self::wide(cpu, max_length, head_dim),
        }
    }

    /// For scores that count distances: by the f32 kernel, whatever rows come in.
    pub(super) fn relative(cpu: &Cpu, max_length: usize, relative: &Relative) -> Self {
        assert!(max_length <= relative.max_length(), "distances within the table");
        let stride = relative.stride();
        Self {
            by_key: Buffer::zeroed(max_length * stride),
            by_query: Buffer::zeroed(cpu.kernels.tile_rows * stride),
            ..Self::wide(cpu, max_length, relative.head_dim)
        }
    }

    pub(super) fn first(max_length: usize, first: &First) -> Self {
        Self { first: Some(first.work(max_length)), ..Self::empty(max_length, 0) }
    }

    /// Of the f32 kernel.
    fn wide(cpu: &Cpu, max_length: usize, head_dim: usize) -> Self {
        let sizes = AttentionSizes::new(cpu.kernels, max_length, head_dim);
        let floats = sizes.keys + sizes.values + sizes.scores + sizes.tile + cpu.kernels.panel;
        let head = if cpu.dtype == Dtype::F32 { 0 } else { max_length * 3 * head_dim };
        Self {
            data: Buffer::zeroed(floats),
            head: Buffer::zeroed(head),
            ..Self::empty(max_length, head_dim)
        }
    }

    fn empty(max_length: usize, head_dim: usize) -> Self {
        let none = || Buffer::zeroed(0);
        Self {
            max_length,
            head_dim,
            data: none(),
            head: none(),
            tiles: Buffer::zeroed(0),
            by_key: none(),
            by_query: none(),
            first: None,
        }
    }

    /// The vectors of distances from `head` on, with this workspace.
    fn relative_args(&mut self, relative: &Relative, head: usize) -> RelativeArgs {
        relative.args(head, self.by_key.as_mut_ptr(), self.by_query.as_mut_ptr())
    }

    /// The workspace of a sequence of `len <= max_length` tokens.
    fn split(data: &mut [f32], kernels: &Kernels, len: usize, head_dim: usize) -> Workspace {
        let sizes = AttentionSizes::new(kernels, len, head_dim);
        let (zeros, rest) = data.split_at_mut(kernels.panel);
        let (keys, rest) = rest.split_at_mut(sizes.keys);
        let (values, rest) = rest.split_at_mut(sizes.values);
        let (scores, rest) = rest.split_at_mut(sizes.scores);
        let (tile, _) = rest.split_at_mut(sizes.tile);
        Workspace {
            keys: keys.as_mut_ptr(),
            values: values.as_mut_ptr(),
            scores: scores.as_mut_ptr(),
            tile: tile.as_mut_ptr(),
            zeros: zeros.as_ptr(),
        }
    }
}

impl Cpu {
    pub(super) fn attend(
        &self,
        qkv: &Rows,
        batch: &Packed,
        (kind, relative): (&AttentionKind, Option<&Relative>),
        scratch: &mut Scratch,
        out: &mut Rows,
    ) {
        let head_dim = scratch.head_dim;
        if let Some(relative) = relative {
            let heads = (relative.num_heads, relative.head_dim);
            assert_eq!(heads, (kind.num_heads, head_dim), "vectors for each head");
            assert_eq!(kind.num_heads, kind.num_kv_heads, "keys for each head");
            assert!(scratch.max_length <= relative.max_length(), "distances within the table");
            assert!(kind.window == Window::ALL && batch.trunk_len == 0, "every key in its place");
            assert!(
                scratch.by_key.len() >= scratch.max_length * relative.stride()
                    && scratch.by_query.len() >= self.kernels.tile_rows * relative.stride(),
                "room for products with distances"
            );
        }
        assert_eq!(qkv.width, kind.num_row_heads() * head_dim, "query, key and value side by side");
        assert_eq!(out.width, kind.num_heads * head_dim, "columns of all heads");
        assert!(kind.num_heads.is_multiple_of(kind.num_kv_heads), "whole groups of heads");
        let trunk_len = batch.trunk_len;
        let causal = kind.queries == Queries::All && kind.window.right == 0;
        assert!(trunk_len == 0 || causal, "a trunk that nothing after it changes");
        out.set_rows(match kind.queries {
            Queries::All => qkv.num_rows,
            Queries::First => batch.num_sequences(),
        });
        let mut attend = |sequence: Sequence| {
            let num_rows = sequence.len.max(sequence.num_queries);
            let fits = sequence.trunk_len + num_rows <= scratch.max_length;
            assert!(fits, "a sequence longer than the workspace");
            if qkv.forms().wide {
                self.attend_f32(qkv, sequence, (kind, relative), scratch, out);
            } else {
                self.attend_bf16(qkv, sequence, (kind, relative), scratch, out);
            }
        };
        if trunk_len > 0 {
            assert!(trunk_len <= qkv.num_rows, "rows of the trunk");
            let num_queries = trunk_len;
            attend(Sequence { first: 0, len: trunk_len, trunk_len: 0, num_queries, out_row: 0 });
        }
        for (i, bounds) in batch.cu_seqlens.windows(2).enumerate() {
            let (first, end) = (bounds[0] as usize, bounds[1] as usize);
            assert!(first < end && end <= qkv.num_rows, "rows of a sequence");
            let len = batch.key_lens[i] as usize;
            assert!((1..=end - first).contains(&len), "keys of a sequence");
            let (num_queries, out_row) = match kind.queries {
                Queries::All => (end - first, first),
                Queries::First => (1, i),
            };
            attend(Sequence { first, len, trunk_len, num_queries, out_row });
        }
        self.encode(out);
    }

    fn attend_f32(
        &self,
        qkv: &Rows,
        sequence: Sequence,
        (kind, relative): (&AttentionKind, Option<&Relative>),
        scratch: &mut Scratch,
        out: &mut Rows,
    ) {
        let Sequence { first, len, trunk_len, num_queries, out_row } = sequence;
        let (out_stride, len) = (out.stride, trunk_len + len);
        let relative = relative.map(|relative| scratch.relative_args(relative, 0));
        let args = AttentionArgs {
            // SAFETY: `first` is a row of `qkv`.
            qkv: unsafe { qkv.wide().as_ptr().add(first * qkv.stride) },
            qkv_stride: qkv.stride,
            trunk: qkv.wide().as_ptr(),
            trunk_len,
            len,
            num_queries,
            num_heads: kind.num_heads,
            num_kv_heads: kind.num_kv_heads,
            head_dim: scratch.head_dim,
            window: kind.window,
            softcap: kind.softcap,
            relative,
            // SAFETY: `out_row` is a row of `out`, sized by `attend`.
            out: unsafe { out.wide_mut().as_mut_ptr().add(out_row * out_stride) },
            out_stride,
            work: Scratch::split(&mut scratch.data, self.kernels, len, scratch.head_dim),
        };
        // SAFETY: `with_isa` asked the CPU; `attend` compared rows and widths, `split` gave parts of the
        // sizes that `len` needs, and `out` and the scratch are borrowed alone.
        unsafe { (self.kernels.attention)(&args) };
    }

    fn attend_bf16(
        &self,
        qkv: &Rows,
        sequence: Sequence,
        (kind, relative): (&AttentionKind, Option<&Relative>),
        scratch: &mut Scratch,
        out: &mut Rows,
    ) {
        if let (Some(attention), None) = (&self.narrow.attention, relative) {
            let Sequence { first, len, trunk_len, num_queries, out_row } = sequence;
            let (head_dim, out_stride, len) = (scratch.head_dim, out.stride, trunk_len + len);
            assert!(scratch.tiles.len() >= (attention.work_bytes)(len, head_dim), "workspace");
            let args = narrow::attention::AttentionArgs {
                // SAFETY: `first` is a row of `qkv`.
                qkv: unsafe { qkv.half().as_ptr().add(first * qkv.stride) },
                qkv_stride: qkv.stride,
                trunk: qkv.half().as_ptr(),
                trunk_len,
                len,
                num_queries,
                num_heads: kind.num_heads,
                num_kv_heads: kind.num_kv_heads,
                head_dim,
                window: kind.window,
                softcap: kind.softcap,
                int8: self.dtype == Dtype::Int8,
                // SAFETY: `out_row` is a row of `out`, sized by `attend`.
                out: unsafe { out.wide_mut().as_mut_ptr().add(out_row * out_stride) },
                out_stride,
                work: scratch.tiles.as_mut_ptr(),
            };
            // SAFETY: `with_isa` asked the CPU; `attend` compared rows and widths, `Rows::new` keeps a block
            // of rows after the last, and `out` and the scratch are borrowed alone.
            unsafe { (attention.kernel)(&args) };
            return;
        }
        for head in 0..kind.num_heads {
            self.attend_head(qkv, sequence, head, (kind, relative), scratch, out);
        }
    }

    /// One head by the f32 kernel, from bf16.
    fn attend_head(
        &self,
        qkv: &Rows,
        sequence: Sequence,
        head: usize,
        (kind, relative): (&AttentionKind, Option<&Relative>),
        scratch: &mut Scratch,
        out: &mut Rows,
    ) {
        let Sequence { first, len, trunk_len, num_queries, out_row } = sequence;
        let (dim, out_stride) = (scratch.head_dim, out.stride);
        let num_rows = trunk_len + len.max(num_queries);
        let len = trunk_len + len;
        let AttentionKind { num_heads, num_kv_heads, window, softcap, .. } = *kind;
        let key = num_heads + head / (num_heads / num_kv_heads);
        for (t, floats) in scratch.head.chunks_exact_mut(3 * dim).take(num_rows).enumerate() {
            let row = if t < trunk_len { t } else { first + t - trunk_len };
            let row = &qkv.half()[row * qkv.stride..];
            let parts = floats.chunks_exact_mut(dim).zip([head, key, key + num_kv_heads]);
            for (floats, head) in parts {
                let numbers = &row[head * dim..][..dim];
                floats.iter_mut().zip(numbers).for_each(|(x, bf16)| *x = widen(*bf16));
            }
        }
        let relative = relative.map(|relative| scratch.relative_args(relative, head));
        let args = AttentionArgs {
            // SAFETY: `head` has the trunk's rows and those of the sequence.
            qkv: unsafe { scratch.head.as_ptr().add(trunk_len * 3 * dim) },
            qkv_stride: 3 * dim,
            trunk: scratch.head.as_ptr(),
            trunk_len,
            len,
            num_queries,
            num_heads: 1,
            num_kv_heads: 1,
            head_dim: dim,
            window,
            softcap,
            relative,
            // SAFETY: `out_row` is a row of `out`, and `head * dim` lies in it.
            out: unsafe { out.wide_mut().as_mut_ptr().add(out_row * out_stride + head * dim) },
            out_stride,
            work: Scratch::split(&mut scratch.data, self.kernels, len, dim),
        };
        // SAFETY: as in `attend_f32`; `head` holds the rows of this head.
        unsafe { (self.kernels.attention)(&args) };
    }
}
