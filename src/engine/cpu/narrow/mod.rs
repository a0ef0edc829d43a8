//! Products of narrow numbers: bf16 by bf16 into f32, u8 by s8 into i32, and 16-bit integers into i32 in the place of bf16.
//!
//! All are told in dwords: two numbers of 16 bits or four bytes of k side by side, so that a weight panel is
//! `[k in dwords][panel columns]` for every instruction set, and 64 bytes of k are one step of a tile. The
//! raw sums of a tile lie in a small buffer before bias, scales and activation turn them into bf16.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) mod amx;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86-64 has its products"))]
pub(super) mod attention;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod encode;
pub(super) mod finish;
mod gelu;
pub(super) mod lanes;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod portable;
pub(super) mod tile;
pub(super) mod weight;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only AMD's cores gain by it"))]
mod words;

use attention::Attention;

use super::kernels::{GateArgs, HeadNormArgs, MaxSimArgs, NormArgs, RotateArgs};
use crate::engine::Epilogue;

/// Bytes of k in one step: a row of an AMX tile, and what rows and weights are padded to.
pub(super) const STEP_BYTES: usize = 64;
pub(super) const STEP_DWORDS: usize = STEP_BYTES / 4;
/// Rows of an AMX tile; a packed tile has as many lines of [`STEP_BYTES`].
#[cfg(target_arch = "x86_64")]
const TILE_ROWS: usize = 16;
#[cfg(target_arch = "x86_64")]
const TILE_BYTES: usize = TILE_ROWS * STEP_BYTES;
/// Rows are stored in whole blocks of so many: a tile computes rows beyond the last, and drops them.
pub(super) const BLOCK_ROWS: usize = 32;

/// The narrow kernels of one instruction set.
#[derive(Debug)]
pub(super) struct Kernels {
    /// Columns of a weight panel.
    pub(super) panel: usize,
    pub(super) linear_int8: unsafe fn(&LinearArgs),
    pub(super) linear_bf16: unsafe fn(&LinearArgs),
    /// What stands for bf16 products where it is faster.
    pub(super) words: Option<&'static Words>,
    pub(super) encode: unsafe fn(&EncodeArgs, Target),
    /// [`NormArgs`] whose update is bf16.
    pub(super) add_norm: unsafe fn(&NormArgs<u16>),
    /// What touches rows by themselves, on bf16.
    pub(super) gate: unsafe fn(&GateArgs<u16>),
    pub(super) rotate: unsafe fn(&RotateArgs<u16>),
    pub(super) head_norm: unsafe fn(&HeadNormArgs<u16>),
    /// In bf16; elsewhere the f32 kernel takes widened rows.
    pub(super) attention: Option<Attention>,
    /// Late interaction in bf16, where an instruction multiplies them.
    pub(super) max_sim: Option<unsafe fn(&MaxSimArgs<'_, u16>) -> bool>,
}

/// Products of 16-bit integers.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) linear: unsafe fn(&LinearArgs),
    pub(super) encode: unsafe fn(&EncodeArgs, *mut i16, *mut Code),
}

/// What is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbers {
    Bf16,
    /// 16-bit integers.
    Words,
    /// Rows of u8 by columns of s8.
    Bytes,
}

impl Numbers {
    /// Bytes of each.
    pub(super) fn size(self) -> usize {
        match self {
            Self::Bf16 | Self::Words => 2,
            Self::Bytes => 1,
        }
    }
}

/// How the integers of a row stand for numbers: `x = scale * (code - zero)`, for each row by itself, so that no
/// score depends on batch mates.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C)]
pub(super) struct Code {
    pub(super) scale: f32,
    /// Of bytes, a whole number in [0, 255].
    pub(super) zero: f32,
    /// Of words, the sum of the products of their pairs.
    pub(super) pairs: i32,
}

/// `out[rows, panels * panel] = epilogue(x[rows, k] * weight + bias)`
#[derive(Debug)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86-64 has words"))]
pub(super) struct LinearArgs {
    /// Bf16 or codes; whole blocks of [`BLOCK_ROWS`] rows may be read.
    pub(super) x: *const u8,
    pub(super) x_stride_bytes: usize,
    pub(super) rows: usize,
    /// k in steps of [`STEP_BYTES`].
    pub(super) steps: usize,
    /// `[num_panels][steps * STEP_DWORDS][panel]` dwords.
    pub(super) panels: *const u8,
    pub(super) num_panels: usize,
    /// `[num_panels * panel]`
    pub(super) bias: *const f32,
    /// `[rows]`; for bf16 null.
    pub(super) codes: *const Code,
    /// `[num_panels * panel]`: what one stands for in each column.
    pub(super) scales: *const f32,
    /// For bytes `[num_panels * panel]`, the sum of a column's codes; else empty.
    pub(super) sums: *const f32,
    /// For words `[num_panels * panel]`, what a column's sums begin at; else empty.
    pub(super) starts: *const i32,
    pub(super) epilogue: Epilogue,
    /// Whole panels are written: `out_stride >= num_panels * panel`.
    pub(super) out: Output,
    pub(super) out_stride: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Output {
    F32(*mut f32),
    Bf16(*mut u16),
}

/// Where the numbers to encode are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    F32(*const f32),
    Bf16(*const u16),
}

/// Where they go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    Bf16(*mut u16),
    Bytes(*mut u8, *mut Code),
}

/// Rows in another form. Codes need strides that are multiples of [`STEP_BYTES`].
#[derive(Debug)]
pub(super) struct EncodeArgs {
    pub(super) from: Source,
    pub(super) rows: usize,
    pub(super) width: usize,
    /// In elements.
    pub(super) from_stride: usize,
    pub(super) to_stride: usize,
}

/// The number that the upper half of an f32's bits stands for.
#[inline(always)]
pub(super) fn widen(bf16: u16) -> f32 {
    f32::from_bits(u32::from(bf16) << 16)
}
