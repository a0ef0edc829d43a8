//! The engine: packed token rows in, one row of floats per sequence out.

pub mod packed;
