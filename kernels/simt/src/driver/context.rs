//! Contexts: one primary context a device, current to each thread by itself.

use std::cell::Cell;
use std::ffi::{c_int, c_uint};

use super::device::ordinal;
use super::state::Device;
use super::{CuResult, Handle, SWITCHES, Status, give, initialized, wait, wait_on, with};

/// The primary context of device 0; the others follow in steps of `STEP`.
const FIRST: Handle = 0xc00;
const STEP: Handle = 0x10;

thread_local! {
    /// CUDA's current context belongs to the thread; 0 is none.
    static CURRENT: Cell<Handle> = const { Cell::new(0) };
}

/// The device of a context.
fn device_of(context: Handle) -> Result<usize, Status> {
    let index = context.checked_sub(FIRST).ok_or(Status::InvalidContext)?;
    if index % STEP != 0 || index / STEP >= SWITCHES.devices {
        return Err(Status::InvalidContext);
    }
    Ok(index / STEP)
}

/// The device of the thread's current context.
pub fn current() -> Result<usize, Status> {
    device_of(CURRENT.get())
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(out: *mut Handle, device: c_int) -> CuResult {
    // SAFETY: the caller's pointer, by the API's contract.
    initialized("cuDevicePrimaryCtxRetain", || unsafe {
        give(out, FIRST + STEP * ordinal(device)?)
    })
}

/// Lets the device finish. The context stays as it is: the emulator counts no owners, and what a
/// program forgets to free is its memory until it ends.
///
/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> CuResult {
    initialized("cuDevicePrimaryCtxRelease_v2", || {
        wait_on(ordinal(device)?, |queues| queues.num_pending() == 0)
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetCurrent(context: Handle) -> CuResult {
    initialized("cuCtxSetCurrent", || {
        if context != 0 {
            device_of(context)?;
        }
        CURRENT.set(context);
        Ok(())
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(out: *mut Handle) -> CuResult {
    // SAFETY: the caller's pointer, by the API's contract.
    initialized("cuCtxGetCurrent", || unsafe { give(out, CURRENT.get()) })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(out: *mut c_int) -> CuResult {
    // SAFETY: the caller's pointer, by the API's contract.
    initialized("cuCtxGetDevice", || unsafe { give(out, current()? as c_int) })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSynchronize() -> CuResult {
    let begin = |device: &mut Device| device.check_no_capture();
    wait("cuCtxSynchronize", begin, |queues, ()| queues.num_pending() == 0)
}

/// How a waiting thread waits is the host's business: taken, without effect.
///
/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetFlags(_flags: c_uint) -> CuResult {
    with("cuCtxSetFlags", |_| Ok(()))
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(
    least: *mut c_int,
    greatest: *mut c_int,
) -> CuResult {
    with("cuCtxGetStreamPriorityRange", |_| {
        // The order of streams is drawn: all have one priority.
        for out in [least, greatest].into_iter().filter(|out| !out.is_null()) {
            // SAFETY: the caller's pointers; either may be null and is then skipped, as in CUDA.
            unsafe { give(out, 0) }?;
        }
        Ok(())
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CuResult {
    with("cuMemGetInfo_v2", |device| {
        // SAFETY: the caller's pointers, by the API's contract.
        unsafe {
            give(free, device.machine.free_bytes() as usize)?;
            give(total, device.machine.options().memory_bytes as usize)
        }
    })
}
