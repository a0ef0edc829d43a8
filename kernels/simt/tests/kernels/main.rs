//! The project's CUDA kernels, each compared with a plain reference in f64 on the shapes at which tiles end.
//!
//! Inputs are rounded to f16 first, so a difference is the kernel's. Nothing here has run on a GPU.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

mod attention;
mod gemm;
mod gpu;
mod maxsim;
mod norms;
mod reference;
mod relative;
mod rows;
mod tolerance;
mod topk;
