//! Device memory: what the kernel may touch, and proof when it touches anything else.

pub mod address;
pub mod global;
mod lanes;
mod proxy;
pub mod shared;

/// Fresh memory is filled with this byte: NaN as f16, bf16, f32 and f64, so that a value nobody wrote
/// spoils every result it reaches.
pub const POISON: u8 = 0xff;
