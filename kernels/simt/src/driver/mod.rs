//! A libcuda.so over the emulator: what a CUDA program calls, so that it runs unmodified.
//!
//! Handles are numbers, never host pointers: a stale one is refused, not dereferenced. Work is queued
//! and runs only when somebody waits, in an order drawn from the seed among all that the program's
//! streams and events allow. A missing wait therefore shows as a wrong result.
//!
//! Each device has its own lock, memory, streams and fate. A wait holds the lock for one command at a
//! time, so that other threads may queue work, poll or watch over a launch that hangs.

mod capture;
mod context;
mod cublaslt;
mod device;
mod env;
mod errors;
mod graphs;
mod host;
mod memory;
mod modules;
mod pools;
mod product;
mod queue;
mod refused;
mod state;
mod streams;

pub use errors::Status;
use state::Device;

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use queue::Queues;

/// CUDA's `CUresult`.
pub type CuResult = c_int;
/// Contexts, modules, functions, streams, events, graphs: ids in the disguise of pointers.
pub type Handle = usize;

static SWITCHES: LazyLock<env::Switches> =
    LazyLock::new(|| env::Switches::read(|name| std::env::var(name).ok()));
static DEVICES: LazyLock<Vec<Mutex<Device>>> = LazyLock::new(|| {
    (0..SWITCHES.devices).map(|ordinal| Mutex::new(Device::new(&SWITCHES, ordinal))).collect()
});
static INITIALIZED: AtomicBool = AtomicBool::new(false);
static NEXT_HANDLE: AtomicUsize = AtomicUsize::new(0x1000);

/// How long a wait that nothing can end sleeps before it looks again.
const STUCK_PAUSE: Duration = Duration::from_millis(1);

/// A handle never given before, on any device: a stale or foreign one is always unknown.
fn fresh_handle() -> Handle {
    NEXT_HANDLE.fetch_add(16, Ordering::Relaxed)
}

/// The device of that ordinal, locked.
fn device(ordinal: usize) -> Result<MutexGuard<'static, Device>, Status> {
    let device = DEVICES.get(ordinal).ok_or(Status::InvalidDevice)?;
    Ok(device.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs `call` and tells its result as C does; a panic stays inside, as no C program could catch it.
fn answer(name: &str, call: impl FnOnce() -> Result<(), Status>) -> CuResult {
    let result = catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(Status::Unknown));
    if SWITCHES.log >= 2 {
        eprintln!("simt: {name}: {result:?}");
    }
    result.map_or_else(Status::code, |()| 0)
}

/// As `answer`, for calls that need cuInit and nothing else.
fn initialized(name: &str, call: impl FnOnce() -> Result<(), Status>) -> CuResult {
    answer(name, || {
        if INITIALIZED.load(Ordering::Acquire) { call() } else { Err(Status::NotInitialized) }
    })
}

/// Runs `call` on the device of the thread's current context, unless a fault has ended it.
fn with(name: &str, call: impl FnOnce(&mut Device) -> Result<(), Status>) -> CuResult {
    initialized(name, || {
        let mut device = device(context::current()?)?;
        device.check_alive()?;
        call(&mut device)
    })
}

/// Runs `begin` on the current device, then queued work until `done` holds for what it answered.
fn wait<T>(
    name: &str,
    begin: impl FnOnce(&mut Device) -> Result<T, Status>,
    done: impl Fn(&Queues, &T) -> bool,
) -> CuResult {
    initialized(name, || {
        let ordinal = context::current()?;
        let target = {
            let mut device = device(ordinal)?;
            device.check_alive()?;
            begin(&mut device)?
        };
        wait_on(ordinal, |queues| done(queues, &target))
    })
}

/// Runs a device's work, one command a lock, until `done` holds.
///
/// Work that cannot go on waits for a launch that hangs. The wait ends after `SIMT_HANG_MS` as if a
/// watchdog had killed the launch: a test must end even if the program would not.
fn wait_on(ordinal: usize, done: impl Fn(&Queues) -> bool) -> Result<(), Status> {
    let mut left = Duration::from_millis(SWITCHES.hang_ms);
    loop {
        let mut device = device(ordinal)?;
        device.check_alive()?;
        if done(&device.queues) {
            return Ok(());
        }
        if device.run_one()? {
            continue;
        }
        if left.is_zero() {
            return Err(device.end(Status::LaunchTimeout));
        }
        drop(device);
        std::thread::sleep(STUCK_PAUSE);
        left = left.saturating_sub(STUCK_PAUSE);
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
