//! Allocations, copies, fills, pinned host memory.

use std::ffi::{c_uchar, c_uint, c_void};

use super::queue::{Command, DEFAULT_STREAM, HostPtr};
use super::state::{Driver, host_bytes};
use super::{CuResult, Handle, Status, give, with};
use crate::memory::address::DevicePtr;

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(out: *mut u64, bytes: usize) -> CuResult {
    with("cuMemAlloc_v2", |driver| {
        let ptr = driver.allocate(bytes as u64)?;
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(out, ptr.0) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(ptr: u64) -> CuResult {
    with("cuMemFree_v2", |driver| {
        // The synchronous free waits for the device.
        driver.synchronize_all()?;
        driver.machine.free(DevicePtr(ptr)).map_err(|_| Status::InvalidValue)
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(out: *mut u64, bytes: usize, stream: Handle) -> CuResult {
    with("cuMemAllocAsync", |driver| {
        if !driver.switches.pools {
            return Err(Status::NotSupported);
        }
        if driver.captures.contains_key(&stream) {
            return Err(Status::CaptureUnsupported);
        }
        let ptr = driver.allocate(bytes as u64)?;
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(out, ptr.0) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeAsync(ptr: u64, stream: Handle) -> CuResult {
    with("cuMemFreeAsync", |driver| {
        driver.enqueue(stream, Command::Free { ptr: DevicePtr(ptr) }).map(drop)
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(
    out: *mut *mut c_void,
    bytes: usize,
    _flags: c_uint,
) -> CuResult {
    with("cuMemHostAlloc", |driver| {
        // Words, so that the memory is aligned for what programs put there.
        let mut data = vec![0u64; bytes.div_ceil(8).max(1)].into_boxed_slice();
        let address = data.as_mut_ptr();
        driver.pinned.insert(address as usize, data);
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(out, address.cast()) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(ptr: *mut c_void) -> CuResult {
    with("cuMemFreeHost", |driver| {
        // Copies that still need the memory come first, as the real call waits.
        driver.run_until(|queues| queues.num_pending() == 0)?;
        driver.pinned.remove(&(ptr as usize)).map(drop).ok_or(Status::InvalidValue)
    })
}

fn copy_in(
    driver: &mut Driver,
    dst: u64,
    src: HostPtr,
    bytes: usize,
    stream: Handle,
) -> Result<(), Status> {
    if src.0.is_null() && bytes > 0 {
        return Err(Status::InvalidValue);
    }
    let dst = DevicePtr(dst);
    let command = if bytes == 0 {
        return Ok(());
    } else if driver.is_pinned(src.0 as usize, bytes) {
        Command::CopyInPinned { dst, src, bytes }
    } else {
        // A card stages pageable memory before the call returns.
        Command::CopyIn { dst, data: host_bytes(src, bytes).to_vec() }
    };
    driver.enqueue(stream, command).map(drop)
}

fn copy_out(
    driver: &mut Driver,
    dst: HostPtr,
    src: u64,
    bytes: usize,
    stream: Handle,
) -> Result<(), Status> {
    if dst.0.is_null() && bytes > 0 {
        return Err(Status::InvalidValue);
    }
    if bytes == 0 {
        return Ok(());
    }
    let pinned = driver.is_pinned(dst.0 as usize, bytes);
    driver.enqueue(stream, Command::CopyOut { dst, src: DevicePtr(src), bytes })?;
    // Into pageable memory the call returns with the data there.
    if pinned || driver.captures.contains_key(&stream) {
        Ok(())
    } else {
        driver.synchronize(stream)
    }
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    dst: u64,
    src: *const c_void,
    bytes: usize,
    stream: Handle,
) -> CuResult {
    let src = HostPtr(src.cast_mut().cast());
    with("cuMemcpyHtoDAsync_v2", |driver| copy_in(driver, dst, src, bytes, stream))
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(dst: u64, src: *const c_void, bytes: usize) -> CuResult {
    let src = HostPtr(src.cast_mut().cast());
    with("cuMemcpyHtoD_v2", |driver| {
        copy_in(driver, dst, src, bytes, DEFAULT_STREAM)?;
        driver.synchronize(DEFAULT_STREAM)
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    dst: *mut c_void,
    src: u64,
    bytes: usize,
    stream: Handle,
) -> CuResult {
    let dst = HostPtr(dst.cast());
    with("cuMemcpyDtoHAsync_v2", |driver| copy_out(driver, dst, src, bytes, stream))
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(dst: *mut c_void, src: u64, bytes: usize) -> CuResult {
    let dst = HostPtr(dst.cast());
    with("cuMemcpyDtoH_v2", |driver| {
        copy_out(driver, dst, src, bytes, DEFAULT_STREAM)?;
        driver.synchronize(DEFAULT_STREAM)
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoDAsync_v2(
    dst: u64,
    src: u64,
    bytes: usize,
    stream: Handle,
) -> CuResult {
    with("cuMemcpyDtoDAsync_v2", |driver| {
        let (dst, src) = (DevicePtr(dst), DevicePtr(src));
        driver.enqueue(stream, Command::Copy { dst, src, bytes: bytes as u64 }).map(drop)
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD8Async(
    dst: u64,
    value: c_uchar,
    count: usize,
    stream: Handle,
) -> CuResult {
    with("cuMemsetD8Async", |driver| {
        let (dst, count) = (DevicePtr(dst), count as u64);
        driver.enqueue(stream, Command::Fill { dst, element: vec![value], count }).map(drop)
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD32Async(
    dst: u64,
    value: c_uint,
    count: usize,
    stream: Handle,
) -> CuResult {
    with("cuMemsetD32Async", |driver| {
        let element = value.to_le_bytes().to_vec();
        let (dst, count) = (DevicePtr(dst), count as u64);
        driver.enqueue(stream, Command::Fill { dst, element, count }).map(drop)
    })
}
