//! The emulated driver as programs meet it: through cudarc, unmodified, found by its library's name.

mod calls;
mod child;
mod cublaslt;
mod devices;
mod faults;
mod graphs;
mod program;
mod symbols;
