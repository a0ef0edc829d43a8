//! A PTX emulator: runs CUDA kernels where there is no GPU, and reports what a GPU would corrupt
//! silently.

pub mod fault;
pub mod memory;
pub mod ptx;
