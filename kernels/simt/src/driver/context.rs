//! Initialisation, the one device, its primary context, error names.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint};

use super::errors::describe;
use super::{CuResult, Handle, Status, give, with};

/// The one device's primary context.
const CONTEXT: Handle = 0xc0;
const DEVICE: c_int = 0;
/// CUDA 13.0: the driver of the newest PTX the emulator is tried with.
const DRIVER_VERSION: c_int = 13_000;
const NAME: &[u8] = b"simt PTX emulator\0";

thread_local! {
    /// CUDA's current context belongs to the thread.
    static CURRENT: Cell<Handle> = const { Cell::new(0) };
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(flags: c_uint) -> CuResult {
    with("cuInit", |driver| {
        if flags != 0 {
            return Err(Status::InvalidValue);
        }
        driver.initialized = true;
        Ok(())
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CuResult {
    // SAFETY: the caller's pointer, by the API's contract.
    unsafe { give(version, DRIVER_VERSION) }.map_or_else(Status::code, |()| 0)
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CuResult {
    // SAFETY: the caller's pointer, by the API's contract.
    with("cuDeviceGetCount", |_| unsafe { give(count, 1) })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> CuResult {
    with("cuDeviceGet", |_| {
        if ordinal != 0 {
            return Err(Status::InvalidDevice);
        }
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(device, DEVICE) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, _dev: c_int) -> CuResult {
    with("cuDeviceGetName", |_| {
        let room = usize::try_from(len).unwrap_or(0);
        if name.is_null() || room < NAME.len() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: the caller's buffer has `len` bytes, which are enough.
        unsafe { std::ptr::copy_nonoverlapping(NAME.as_ptr().cast(), name, NAME.len()) };
        Ok(())
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    _device: c_int,
) -> CuResult {
    with("cuDeviceGetAttribute", |driver| {
        let options = &driver.switches.options;
        let answer = match attribute {
            // Threads, warps and block and grid shapes of every card since sm_20.
            1..=3 => [1024, 1024, 64][attribute as usize - 1],
            5 => i32::MAX,
            6 | 7 => 65_535,
            // Static shared memory a block may have.
            8 => 48 * 1024,
            10 => 32,
            12 => 65_536,
            // One multiprocessor: no test may depend on parallel blocks.
            16 => 1,
            39 => 2048,
            75 => options.compute_capability.0 as c_int,
            76 => options.compute_capability.1 as c_int,
            // Shared memory of a multiprocessor, and what a block may opt into.
            81 | 97 => options.max_shared_bytes as c_int,
            82 => 65_536,
            115 => c_int::from(driver.switches.pools),
            _ => 0,
        };
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(value, answer) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> CuResult {
    with("cuDeviceTotalMem_v2", |driver| {
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(bytes, driver.switches.options.memory_bytes as usize) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CuResult {
    with("cuMemGetInfo_v2", |driver| {
        // SAFETY: the caller's pointers, by the API's contract.
        unsafe {
            give(free, driver.machine.free_bytes() as usize)?;
            give(total, driver.switches.options.memory_bytes as usize)
        }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(ctx: *mut Handle, _device: c_int) -> CuResult {
    // SAFETY: the caller's pointer, by the API's contract.
    with("cuDevicePrimaryCtxRetain", |_| unsafe { give(ctx, CONTEXT) })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> CuResult {
    with("cuDevicePrimaryCtxRelease_v2", super::state::Driver::synchronize_all)
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetCurrent(ctx: Handle) -> CuResult {
    with("cuCtxSetCurrent", |_| {
        if ctx != CONTEXT && ctx != 0 {
            return Err(Status::InvalidContext);
        }
        CURRENT.set(ctx);
        Ok(())
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(ctx: *mut Handle) -> CuResult {
    // SAFETY: the caller's pointer, by the API's contract.
    with("cuCtxGetCurrent", |_| unsafe { give(ctx, CURRENT.get()) })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSynchronize() -> CuResult {
    with("cuCtxSynchronize", super::state::Driver::synchronize_all)
}

fn text(
    code: CuResult,
    out: *mut *const c_char,
    pick: fn((&'static str, &'static str)) -> &'static str,
) -> CuResult {
    let Some(found) = describe(code) else { return Status::InvalidValue.code() };
    // SAFETY: the caller's pointer, by the API's contract; the text is static and ends in NUL.
    unsafe { give(out, pick(found).as_ptr().cast()) }.map_or_else(Status::code, |()| 0)
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: CuResult, out: *mut *const c_char) -> CuResult {
    text(code, out, |(name, _)| name)
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(code: CuResult, out: *mut *const c_char) -> CuResult {
    text(code, out, |(_, sentence)| sentence)
}
