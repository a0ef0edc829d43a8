//! The `rerankd` program.

use std::process::ExitCode;

/// Many threads allocate and free request-sized pieces; the system allocator serialises them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    rerankd::cli::run()
}
