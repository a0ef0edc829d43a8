//! Softmax attention of one sequence, head by head, in bf16 with f32 sums and softmax; scores may be products of bytes.
//!
//! Per head the keys are transposed and the values paired into packed tiles. Some queries at a time have their scores
//! made, then their softmax, then the weighted values: what one writes is in a near cache when the next reads it. As more
//! keys come, sums and values are scaled to a new maximum (Milakov and Gimelshein, 2018; Dao et al., 2022).
//!
//! What makes the products is an instruction set's own: here AVX512-BF16, in [`super::amx`] tiles.

#[cfg(target_arch = "x86_64")]
mod bytes;
#[cfg(target_arch = "x86_64")]
mod lines;
#[cfg(target_arch = "x86_64")]
pub(super) mod pack;
#[cfg(target_arch = "x86_64")]
pub(super) mod rows;
#[cfg(target_arch = "x86_64")]
pub(super) mod vectors;
#[cfg(target_arch = "x86_64")]
mod weights;
#[cfg(target_arch = "x86_64")]
mod work;

use crate::engine::Window;
use crate::engine::cpu::kernels::visible;
use std::ops::Range;

/// Keys and columns of two tiles.
#[cfg(target_arch = "x86_64")]
pub(super) const BLOCK: usize = 32;

/// What makes the products, and the memory it works in.
#[derive(Debug)]
pub(in crate::engine::cpu) struct Attention {
    pub(in crate::engine::cpu) kernel: unsafe fn(&AttentionArgs),
    /// Bytes for sequences of up to so many tokens, and heads of so many columns.
    pub(in crate::engine::cpu) work_bytes: fn(usize, usize) -> usize,
}

/// All heads of one sequence.
#[derive(Debug)]
pub(in crate::engine::cpu) struct AttentionArgs {
    /// `[len, (num_heads + 2 * num_kv_heads) * head_dim]` bf16: queries, keys, values. Whole blocks of 32 rows, and 32 numbers
    /// after each row's last, may be read; they are finite.
    pub(in crate::engine::cpu) qkv: *const u16,
    pub(in crate::engine::cpu) qkv_stride: usize,
    /// Rows of the same kind that come before them, for keys and values alone.
    pub(in crate::engine::cpu) trunk: *const u16,
    pub(in crate::engine::cpu) trunk_len: usize,
    /// Of all keys, the trunk's included.
    pub(in crate::engine::cpu) len: usize,
    /// Queries are the first `num_queries` rows.
    pub(in crate::engine::cpu) num_queries: usize,
    pub(in crate::engine::cpu) num_heads: usize,
    pub(in crate::engine::cpu) num_kv_heads: usize,
    pub(in crate::engine::cpu) head_dim: usize,
    pub(in crate::engine::cpu) window: Window,
    pub(in crate::engine::cpu) softcap: Option<f32>,
    /// Scores may be products of bytes.
    pub(in crate::engine::cpu) int8: bool,
    /// `[num_queries, num_heads * head_dim]`
    pub(in crate::engine::cpu) out: *mut f32,
    pub(in crate::engine::cpu) out_stride: usize,
    /// [`Attention::work_bytes`] of them, aligned to a cache line.
    pub(in crate::engine::cpu) work: *mut u8,
}

impl AttentionArgs {
    /// Heads of queries that share one of keys.
    pub(super) fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// The keys that the query at `row` sees.
    pub(super) fn visible(&self, row: usize) -> Range<usize> {
        visible(self.window, self.trunk_len + row, self.len)
    }

    /// The row of key `t`, whatever `t` is: of one that is not there, no column may be read.
    #[inline(always)]
    pub(super) fn row(&self, t: usize) -> *const u16 {
        match t.checked_sub(self.trunk_len) {
            None => self.trunk.wrapping_add(t * self.qkv_stride),
            Some(own) => self.qkv.wrapping_add(own * self.qkv_stride),
        }
    }
}
