//! AMX: tile registers of 16 rows of 64 bytes, and products of whole tiles.
//!
//! Sizes are constant: all eight tiles are whole, rows and columns beyond the data are computed and dropped.

mod attention;
mod linear;
mod max_sim;

use super::finish::{Bytes, Floats, finish_row};
use super::{Kernels, STEP_BYTES, TILE_BYTES, TILE_ROWS, avx512};
use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::LazyLock;

/// Columns of a weight panel: two tiles.
const PANEL: usize = 32;

pub(in crate::engine::cpu) static KERNELS: Kernels = Kernels {
    panel: PANEL,
    linear_int8: linear::linear_int8,
    linear_bf16: linear::linear_bf16,
    words: None,
    encode: avx512::BF16.encode,
    add_norm: avx512::BF16.add_norm,
    gate: avx512::BF16.gate,
    rotate: avx512::BF16.rotate,
    head_norm: avx512::BF16.head_norm,
    attention: Some(attention::ATTENTION),
    max_sim: Some(max_sim::max_sim),
};

/// Whether the CPU has AMX with both kinds of products and the system lets this process use it.
pub(in crate::engine::cpu) fn is_available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        // Bits 22, 24, 25 of EDX: AMX-BF16, AMX-TILE, AMX-INT8.
        const AMX: u32 = 1 << 22 | 1 << 24 | 1 << 25;
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        if __cpuid_count(7, 0).edx & AMX != AMX {
            return false;
        }
        // SAFETY: asks the system for leave to use the tiles' state; it holds for all threads.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    });
    *AVAILABLE
}

/// Tiles in use by this thread; dropping it gives them back, so that the system need not save them.
struct Tiles(());

/// Palette 1: eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Palette([u8; 64]);

static PALETTE: Palette = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = STEP_BYTES as u8;
        bytes[48 + tile] = TILE_ROWS as u8;
        tile += 1;
    }
    Palette(bytes)
};

impl Tiles {
    /// # Safety
    /// AMX is available; the thread holds no other `Tiles`.
    #[inline(always)]
    unsafe fn configure() -> Self {
        // SAFETY: the palette is valid.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &PALETTE, options(nostack, readonly, preserves_flags));
        }
        Self(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: AMX is available, or `configure` had not been called.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// Two tiles of rows and two of columns; the four sums are tiles 0 to 3, row by row.
///
/// The compiler gives tile registers to nobody, so the sums live on between the calls of one tile: it only
/// ever sees them as clobbered.
#[derive(Clone, Copy)]
struct Operands {
    /// The first 16 rows and the next, `row_bytes` apart.
    rows: [*const u8; 2],
    row_bytes: usize,
    /// The first 16 columns and the next, in dwords of k `column_bytes` apart.
    columns: [*const u8; 2],
    column_bytes: usize,
}

/// The operands of the tile instructions below, and what they change.
macro_rules! tiles {
    ($operands:ident, [$($line:expr),* $(,)?] $(, $name:ident = $value:expr)*) => {
        asm!(
            $($line,)*
            r0 = in(reg) $operands.rows[0], r1 = in(reg) $operands.rows[1],
            row = in(reg) $operands.row_bytes,
            c0 = in(reg) $operands.columns[0], c1 = in(reg) $operands.columns[1],
            column = in(reg) $operands.column_bytes,
            $($name = in(reg) $value,)*
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags)
        )
    };
}

macro_rules! multiply {
    ($operands:ident, $load:literal, $product:literal) => {
        tiles!(
            $operands,
            [
                concat!($load, " tmm4, [{r0} + {row} * 1]"),
                "tileloadd tmm6, [{c0} + {column} * 1]",
                "tileloadd tmm7, [{c1} + {column} * 1]",
                concat!($product, " tmm0, tmm4, tmm6"),
                concat!($load, " tmm5, [{r1} + {row} * 1]"),
                concat!($product, " tmm1, tmm4, tmm7"),
                concat!($product, " tmm2, tmm5, tmm6"),
                concat!($product, " tmm3, tmm5, tmm7"),
            ]
        )
    };
}

macro_rules! exchange {
    ($operands:ident, $load:literal, $product:literal, $out:ident, $out_bytes:ident) => {
        tiles!(
            $operands,
            [
                concat!($load, " tmm4, [{r0} + {row} * 1]"),
                "tileloadd tmm6, [{c0} + {column} * 1]",
                "tilestored [{high} + {stride} * 1], tmm0",
                "tilezero tmm0",
                concat!($product, " tmm0, tmm4, tmm6"),
                "tileloadd tmm7, [{c1} + {column} * 1]",
                "tilestored [{high} + {stride} * 1 + 64], tmm1",
                "tilezero tmm1",
                concat!($product, " tmm1, tmm4, tmm7"),
                concat!($load, " tmm5, [{r1} + {row} * 1]"),
                "tilestored [{low} + {stride} * 1], tmm2",
                "tilezero tmm2",
                concat!($product, " tmm2, tmm5, tmm6"),
                "tilestored [{low} + {stride} * 1 + 64], tmm3",
                "tilezero tmm3",
                concat!($product, " tmm3, tmm5, tmm7"),
            ],
            high = $out,
            low = $out.byte_add(TILE_ROWS * $out_bytes),
            stride = $out_bytes
        )
    };
}

/// Adds the products of one step of k to the sums.
///
/// Rows come by `tileloaddt1`: they are read once a panel, and must not drive the panel out of the
/// first-level cache.
///
/// # Safety
/// The thread holds `Tiles`; the operands are valid for 16 rows of 64 bytes each.
#[inline(always)]
unsafe fn multiply<const INT8: bool>(operands: &Operands) {
    // SAFETY: the caller's promise.
    unsafe {
        if INT8 {
            multiply!(operands, "tileloaddt1", "tdpbusd");
        } else {
            multiply!(operands, "tileloaddt1", "tdpbf16ps");
        }
    }
}

/// [`multiply`] of bf16 by a panel so small that rows may be in the first-level cache: then they come faster by
/// `tileloadd`.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn multiply_near(operands: &Operands) {
    // SAFETY: the caller's promise.
    unsafe { multiply!(operands, "tileloadd", "tdpbf16ps") };
}

/// [`store_sums`] of the tile before and the first step of the next, woven: the tile unit has a product to
/// make while each of the others is stored. Right after `Tiles::configure` the sums are zeros.
///
/// # Safety
/// As for both.
#[inline(always)]
unsafe fn exchange<const INT8: bool>(operands: &Operands, out: *mut u32, out_bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if INT8 {
            exchange!(operands, "tileloaddt1", "tdpbusd", out, out_bytes);
        } else {
            exchange!(operands, "tileloaddt1", "tdpbf16ps", out, out_bytes);
        }
    }
}

/// [`exchange`] as [`multiply_near`] multiplies.
///
/// # Safety
/// As for [`exchange`].
#[inline(always)]
unsafe fn exchange_near(operands: &Operands, out: *mut u32, out_bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { exchange!(operands, "tileloadd", "tdpbf16ps", out, out_bytes) };
}

/// Writes the sums as 32 rows of 32 dwords, `out_bytes` apart.
///
/// # Safety
/// The thread holds `Tiles`; `out` is valid for them.
#[inline(always)]
unsafe fn store_sums(out: *mut u32, out_bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let low = out.byte_add(TILE_ROWS * out_bytes);
        asm!(
            "tilestored [{high} + {stride} * 1], tmm0",
            "tilestored [{high} + {stride} * 1 + 64], tmm1",
            "tilestored [{low} + {stride} * 1], tmm2",
            "tilestored [{low} + {stride} * 1 + 64], tmm3",
            high = in(reg) out, low = in(reg) low, stride = in(reg) out_bytes,
            options(nostack, preserves_flags)
        );
    }
}
