//! Allocations, copies, fills.

use std::ffi::{c_uchar, c_uint, c_void};

use super::queue::{Command, DEFAULT_STREAM, HostPtr, Queues};
use super::state::{Device, host_bytes};
use super::{
    CuResult, Handle, Status, context, device, give, host, initialized, wait, wait_on, with,
};
use crate::memory::address::DevicePtr;

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(out: *mut u64, bytes: usize) -> CuResult {
    with("cuMemAlloc_v2", |device| {
        let ptr = device.allocate(bytes as u64)?;
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(out, ptr.0) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(ptr: u64) -> CuResult {
    initialized("cuMemFree_v2", || {
        let ordinal = context::current()?;
        device(ordinal)?.check_no_capture()?;
        // The synchronous free waits for the device.
        wait_on(ordinal, |queues| queues.num_pending() == 0)?;
        device(ordinal)?.machine.free(DevicePtr(ptr)).map_err(|_| Status::InvalidValue)
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(out: *mut u64, bytes: usize, stream: Handle) -> CuResult {
    with("cuMemAllocAsync", |device| {
        if !device.switches.pools {
            return Err(Status::NotSupported);
        }
        if device.captures.is_capturing(stream) {
            return Err(Status::CaptureUnsupported);
        }
        let ptr = device.allocate(bytes as u64)?;
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(out, ptr.0) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeAsync(ptr: u64, stream: Handle) -> CuResult {
    with("cuMemFreeAsync", |device| {
        device.enqueue(stream, Command::Free { ptr: DevicePtr(ptr) }).map(drop)
    })
}

fn copy_in(
    device: &mut Device,
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
    } else if device.captures.is_capturing(stream) || host::is_pinned(src.0 as usize, bytes) {
        // A graph holds the address, not what stood there when it was captured.
        Command::CopyInPinned { dst, src, bytes }
    } else {
        // A card stages pageable memory before the call returns.
        Command::CopyIn { dst, data: host_bytes(src, bytes).to_vec() }
    };
    device.enqueue(stream, command).map(drop)
}

/// Queues the copy. Answers the stream to wait for, as a call into pageable memory returns with the
/// data there.
fn copy_out(
    device: &mut Device,
    dst: HostPtr,
    src: u64,
    bytes: usize,
    stream: Handle,
) -> Result<Option<Handle>, Status> {
    if dst.0.is_null() && bytes > 0 {
        return Err(Status::InvalidValue);
    }
    if bytes == 0 {
        return Ok(None);
    }
    device.enqueue(stream, Command::CopyOut { dst, src: DevicePtr(src), bytes })?;
    let returns_at_once =
        device.captures.is_capturing(stream) || host::is_pinned(dst.0 as usize, bytes);
    Ok((!returns_at_once).then_some(stream))
}

fn is_idle(queues: &Queues, stream: &Option<Handle>) -> bool {
    stream.is_none_or(|stream| queues.is_idle(stream))
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
    with("cuMemcpyHtoDAsync_v2", |device| copy_in(device, dst, src, bytes, stream))
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(dst: u64, src: *const c_void, bytes: usize) -> CuResult {
    let src = HostPtr(src.cast_mut().cast());
    let begin = |device: &mut Device| {
        device.check_no_capture()?;
        copy_in(device, dst, src, bytes, DEFAULT_STREAM)
    };
    wait("cuMemcpyHtoD_v2", begin, |queues, ()| queues.is_idle(DEFAULT_STREAM))
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
    let begin = |device: &mut Device| copy_out(device, dst, src, bytes, stream);
    wait("cuMemcpyDtoHAsync_v2", begin, is_idle)
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(dst: *mut c_void, src: u64, bytes: usize) -> CuResult {
    let dst = HostPtr(dst.cast());
    let begin = |device: &mut Device| {
        device.check_no_capture()?;
        copy_out(device, dst, src, bytes, DEFAULT_STREAM)?;
        Ok(Some(DEFAULT_STREAM))
    };
    wait("cuMemcpyDtoH_v2", begin, is_idle)
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
    with("cuMemcpyDtoDAsync_v2", |device| {
        let (dst, src) = (DevicePtr(dst), DevicePtr(src));
        device.enqueue(stream, Command::Copy { dst, src, bytes: bytes as u64 }).map(drop)
    })
}

/// Between device allocations the call queues and returns, as the real one may.
///
/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoD_v2(dst: u64, src: u64, bytes: usize) -> CuResult {
    // SAFETY: the same contract.
    unsafe { cuMemcpyDtoDAsync_v2(dst, src, bytes, DEFAULT_STREAM) }
}

/// As `cuMemcpyDtoD_v2`.
///
/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD8_v2(dst: u64, value: c_uchar, count: usize) -> CuResult {
    // SAFETY: the same contract.
    unsafe { cuMemsetD8Async(dst, value, count, DEFAULT_STREAM) }
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
    with("cuMemsetD8Async", |device| {
        let (dst, count) = (DevicePtr(dst), count as u64);
        device.enqueue(stream, Command::Fill { dst, element: vec![value], count }).map(drop)
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
    with("cuMemsetD32Async", |device| {
        let element = value.to_le_bytes().to_vec();
        let (dst, count) = (DevicePtr(dst), count as u64);
        device.enqueue(stream, Command::Fill { dst, element, count }).map(drop)
    })
}
