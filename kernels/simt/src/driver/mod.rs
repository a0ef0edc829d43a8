//! A libcuda.so over the emulator: what a CUDA program calls, so that it runs unmodified.
//!
//! Handles are numbers, never host pointers: a stale one is refused, not dereferenced. Work is queued
//! and runs only when somebody waits, in an order drawn from the seed among all that the program's
//! streams and events allow. A missing wait therefore shows as a wrong result.

mod context;
mod env;
mod errors;
mod graphs;
mod memory;
mod modules;
mod queue;
mod state;
mod streams;

pub use errors::Status;
use state::Driver;

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, Mutex, PoisonError};

/// CUDA's `CUresult`.
pub type CuResult = c_int;
/// Contexts, modules, functions, streams, events, graphs: ids in the disguise of pointers.
pub type Handle = usize;

static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(|| Mutex::new(Driver::from_env()));

/// Runs `call` on the driver; a panic stays inside, as no C program could catch it.
fn with(name: &str, call: impl FnOnce(&mut Driver) -> Result<(), Status>) -> CuResult {
    let status = catch_unwind(AssertUnwindSafe(|| {
        let mut driver = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
        let result = driver.check_alive(name).and_then(|()| call(&mut driver));
        driver.log_call(name, &result);
        result
    }));
    match status {
        Ok(Ok(())) => 0,
        Ok(Err(status)) => status.code(),
        Err(_) => Status::Unknown.code(),
    }
}

/// Stores a result where the caller wants it.
///
/// # Safety
/// `out` is null or valid for a write of `T`.
unsafe fn give<T>(out: *mut T, value: T) -> Result<(), Status> {
    if out.is_null() {
        return Err(Status::InvalidValue);
    }
    // SAFETY: not null, and valid by the contract of the function the program called.
    unsafe { out.write(value) };
    Ok(())
}
