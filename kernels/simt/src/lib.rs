//! A PTX emulator: runs CUDA kernels where there is no GPU, and reports what a GPU would corrupt
//! silently.

pub mod alu;
pub mod fault;
pub mod lower;
pub mod memory;
pub mod program;
pub mod ptx;
