//! The default memory pool of a device: its settings are kept, nothing is reserved.

use std::ffi::{c_int, c_void};

use super::device::ordinal;
use super::state::Device;
use super::{CuResult, Handle, SWITCHES, Status, device, give, initialized};

/// The pool of device 0; the others follow in steps of `STEP`.
const FIRST: Handle = 0x500;
const STEP: Handle = 0x10;

const RELEASE_THRESHOLD: c_int = 4;
/// Bytes reserved and used, each now and at most.
const USAGE: std::ops::RangeInclusive<c_int> = 5..=8;

fn pool_of(number: c_int) -> Result<Handle, Status> {
    if SWITCHES.pools { Ok(FIRST + STEP * ordinal(number)?) } else { Err(Status::NotSupported) }
}

/// Runs `call` on the device of a pool.
fn with_pool(
    name: &str,
    pool: Handle,
    call: impl FnOnce(&mut Device) -> Result<(), Status>,
) -> CuResult {
    initialized(name, || {
        let index = pool.checked_sub(FIRST).filter(|index| index % STEP == 0);
        let index = index.ok_or(Status::InvalidValue)? / STEP;
        call(&mut *device(index).map_err(|_| Status::InvalidValue)?)
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetDefaultMemPool(out: *mut Handle, number: c_int) -> CuResult {
    // SAFETY: the caller's pointer, by the API's contract.
    initialized("cuDeviceGetDefaultMemPool", || unsafe { give(out, pool_of(number)?) })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetMemPool(out: *mut Handle, number: c_int) -> CuResult {
    // SAFETY: the same contract; no other pool can be made.
    unsafe { cuDeviceGetDefaultMemPool(out, number) }
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolSetAttribute(
    pool: Handle,
    attribute: c_int,
    value: *const c_void,
) -> CuResult {
    with_pool("cuMemPoolSetAttribute", pool, |device| {
        if value.is_null() {
            return Err(Status::InvalidValue);
        }
        match attribute {
            // SAFETY: this attribute is a 64-bit number, by the API's contract.
            RELEASE_THRESHOLD => device.release_threshold = unsafe { value.cast::<u64>().read() },
            // Which memory may be reused when: reuse is not emulated.
            1..=3 => {}
            _ => return Err(Status::InvalidValue),
        }
        Ok(())
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolGetAttribute(
    pool: Handle,
    attribute: c_int,
    value: *mut c_void,
) -> CuResult {
    with_pool("cuMemPoolGetAttribute", pool, |device| {
        let used = device.machine.options().memory_bytes - device.machine.free_bytes();
        // SAFETY: the type of each attribute, by the API's contract.
        unsafe {
            match attribute {
                RELEASE_THRESHOLD => give(value.cast::<u64>(), device.release_threshold),
                1..=3 => give(value.cast::<c_int>(), 0),
                attribute if USAGE.contains(&attribute) => give(value.cast::<u64>(), used),
                _ => Err(Status::InvalidValue),
            }
        }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolTrimTo(pool: Handle, _keep_bytes: usize) -> CuResult {
    with_pool("cuMemPoolTrimTo", pool, |_| Ok(()))
}
