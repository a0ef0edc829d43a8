//! The products of tiles by themselves.

use rerankd::engine::Dtype;
use std::arch::asm;

#[repr(C, align(64))]
struct Palette([u8; 64]);

/// Products that one round of [`multiply`] makes.
pub(crate) fn products(dtype: Dtype) -> usize {
    4 * 16 * 16 * if dtype == Dtype::Int8 { 64 } else { 32 }
}

/// Four products of whole tiles a round, into four sums: of tiles whose bytes are all `fill`.
///
/// # Safety
/// The system lets this process use AMX.
pub(crate) unsafe fn multiply(dtype: Dtype, fill: u8, rounds: usize) {
    let tile = [fill; 1024];
    let mut palette = Palette([0; 64]);
    palette.0[0] = 1;
    for tile in 0..8 {
        palette.0[16 + 2 * tile] = 64;
        palette.0[48 + tile] = 16;
    }
    macro_rules! rounds {
        ($product:literal) => {
            asm!(
                "2:",
                concat!($product, " tmm0, tmm4, tmm6"),
                concat!($product, " tmm1, tmm4, tmm7"),
                concat!($product, " tmm2, tmm5, tmm6"),
                concat!($product, " tmm3, tmm5, tmm7"),
                "dec {rounds}",
                "jnz 2b",
                rounds = inout(reg) rounds => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            )
        };
    }
    // SAFETY: the palette is valid, a tile's memory is a whole tile, and `rounds` is not zero.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &palette);
        asm!(
            "tileloadd tmm4, [{tile} + {row} * 1]",
            "tileloadd tmm5, [{tile} + {row} * 1]",
            "tileloadd tmm6, [{tile} + {row} * 1]",
            "tileloadd tmm7, [{tile} + {row} * 1]",
            tile = in(reg) &tile, row = in(reg) 64usize,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
        );
        if dtype == Dtype::Int8 {
            rounds!("tdpbusd");
        } else {
            rounds!("tdpbf16ps");
        }
        asm!("tilerelease");
    }
}
