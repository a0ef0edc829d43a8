//! Products of 32 rows with packed tiles of columns. Rows come by loads that keep them in the first-level cache: where
//! weights are large and rows are read once, as in a linear layer, the opposite is right.

use crate::engine::cpu::narrow::amx::{STEP_BYTES, TILE_ROWS};
use std::arch::asm;

/// Loads 32 rows, 64 bytes of each, `row_bytes` apart. They stay in the first-level cache: all keys meet them.
///
/// # Safety
/// The thread holds `Tiles`; the rows are valid.
#[inline(always)]
pub(super) unsafe fn load_rows(rows: *const u8, row_bytes: usize) {
    // SAFETY: the caller's promise; the compiler gives tile registers to nobody.
    unsafe {
        asm!(
            "tileloadd tmm4, [{high} + {stride} * 1]",
            "tileloadd tmm5, [{low} + {stride} * 1]",
            high = in(reg) rows, low = in(reg) rows.add(TILE_ROWS * row_bytes), stride = in(reg) row_bytes,
            out("tmm4") _, out("tmm5") _,
            options(nostack, readonly, preserves_flags)
        );
    }
}

/// Adds the products of the rows with two packed tiles of columns.
///
/// # Safety
/// The thread holds `Tiles`; the columns are whole tiles.
#[inline(always)]
pub(super) unsafe fn multiply(columns: [*const u8; 2]) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm6, [{c0} + {line} * 1]",
            "tileloadd tmm7, [{c1} + {line} * 1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            c0 = in(reg) columns[0], c1 = in(reg) columns[1], line = in(reg) STEP_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly, preserves_flags)
        );
    }
}

/// `store_sums` of the tile before and the first [`multiply`] of the next, woven.
///
/// # Safety
/// As for both.
#[inline(always)]
pub(super) unsafe fn exchange(columns: [*const u8; 2], out: *mut f32, out_bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm6, [{c0} + {line} * 1]",
            "tilestored [{high} + {stride} * 1], tmm0",
            "tilezero tmm0",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{c1} + {line} * 1]",
            "tilestored [{high} + {stride} * 1 + 64], tmm1",
            "tilezero tmm1",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tilestored [{low} + {stride} * 1], tmm2",
            "tilezero tmm2",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tilestored [{low} + {stride} * 1 + 64], tmm3",
            "tilezero tmm3",
            "tdpbf16ps tmm3, tmm5, tmm7",
            c0 = in(reg) columns[0], c1 = in(reg) columns[1], line = in(reg) STEP_BYTES,
            high = in(reg) out, low = in(reg) out.byte_add(TILE_ROWS * out_bytes), stride = in(reg) out_bytes,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags)
        );
    }
}
