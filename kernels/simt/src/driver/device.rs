//! Initialisation and what a program asks about a device before it has a context.

use std::ffi::{c_char, c_int, c_uint};
use std::sync::atomic::Ordering;

use super::errors::describe;
use super::{CuResult, INITIALIZED, SWITCHES, Status, answer, device, give, initialized};

const NAME: &[u8] = b"simt PTX emulator\0";

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(flags: c_uint) -> CuResult {
    answer("cuInit", || {
        if flags != 0 {
            return Err(Status::InvalidValue);
        }
        if SWITCHES.devices == 0 {
            return Err(Status::NoDevice);
        }
        INITIALIZED.store(true, Ordering::Release);
        Ok(())
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CuResult {
    // SAFETY: the caller's pointer, by the API's contract.
    answer("cuDriverGetVersion", || unsafe { give(version, SWITCHES.driver_version as c_int) })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CuResult {
    // SAFETY: the caller's pointer, by the API's contract.
    initialized("cuDeviceGetCount", || unsafe { give(count, SWITCHES.devices as c_int) })
}

/// The index of a device the program names.
pub fn ordinal(device: c_int) -> Result<usize, Status> {
    let ordinal = usize::try_from(device).ok().filter(|&ordinal| ordinal < SWITCHES.devices);
    ordinal.ok_or(Status::InvalidDevice)
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(out: *mut c_int, number: c_int) -> CuResult {
    // SAFETY: the caller's pointer, by the API's contract.
    initialized("cuDeviceGet", || unsafe { give(out, ordinal(number)? as c_int) })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, number: c_int) -> CuResult {
    initialized("cuDeviceGetName", || {
        ordinal(number)?;
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
pub unsafe extern "C" fn cuDeviceGetUuid(uuid: *mut [u8; 16], number: c_int) -> CuResult {
    initialized("cuDeviceGetUuid", || {
        let mut value = *b"simt device    0";
        value[15] += ordinal(number)? as u8;
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(uuid, value) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], number: c_int) -> CuResult {
    // SAFETY: the same contract.
    unsafe { cuDeviceGetUuid(uuid, number) }
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    number: c_int,
) -> CuResult {
    initialized("cuDeviceGetAttribute", || {
        ordinal(number)?;
        let options = &SWITCHES.options;
        let answer = match attribute {
            // Threads, warps and block and grid shapes of every card since sm_20.
            1..=4 => [1024, 1024, 1024, 64][attribute as usize - 1],
            5 => i32::MAX,
            6 | 7 => 65_535,
            // Static shared memory a block may have.
            8 => 48 * 1024,
            10 => 32,
            12 => 65_536,
            // Clock and memory clock in kHz, bus width in bits, cache in bytes: an A100's, so that
            // a ceiling computed from them is finite.
            13 => 1_410_000,
            36 => 1_215_000,
            37 => 5120,
            38 => 40 << 20,
            // One multiprocessor: no test may depend on parallel blocks.
            16 => 1,
            39 => 2048,
            // Unified addressing, and one PCI bus a device.
            41 => 1,
            33 => number,
            75 => options.compute_capability.0 as c_int,
            76 => options.compute_capability.1 as c_int,
            // Shared memory of a multiprocessor, and what a block may opt into.
            81 | 97 => options.max_shared_bytes as c_int,
            82 => 65_536,
            106 => 32,
            115 => c_int::from(SWITCHES.pools),
            _ => 0,
        };
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(value, answer) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, number: c_int) -> CuResult {
    initialized("cuDeviceTotalMem_v2", || {
        let options = device(ordinal(number)?)?.machine.options().clone();
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(bytes, options.memory_bytes as usize) }
    })
}

fn text(
    name: &str,
    code: CuResult,
    out: *mut *const c_char,
    pick: fn((&'static str, &'static str)) -> &'static str,
) -> CuResult {
    answer(name, || {
        let found = describe(code).ok_or(Status::InvalidValue)?;
        // SAFETY: the caller's pointer, by the API's contract; the text is static and ends in NUL.
        unsafe { give(out, pick(found).as_ptr().cast()) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: CuResult, out: *mut *const c_char) -> CuResult {
    text("cuGetErrorName", code, out, |(name, _)| name)
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(code: CuResult, out: *mut *const c_char) -> CuResult {
    text("cuGetErrorString", code, out, |(_, sentence)| sentence)
}
