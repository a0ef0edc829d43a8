//! Graphs: what one captured stream queued, replayed.

use std::ffi::{c_int, c_ulonglong};

use super::queue::DEFAULT_STREAM;
use super::{CuResult, Handle, Status, give, with};

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamBeginCapture_v2(stream: Handle, _mode: c_int) -> CuResult {
    with("cuStreamBeginCapture_v2", |driver| {
        // The legacy default stream cannot be captured.
        if stream == DEFAULT_STREAM || driver.captures.contains_key(&stream) {
            return Err(Status::CaptureUnsupported);
        }
        if !driver.queues.is_open(stream) {
            return Err(Status::InvalidHandle);
        }
        driver.captures.insert(stream, Vec::new());
        Ok(())
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: Handle, out: *mut Handle) -> CuResult {
    with("cuStreamEndCapture", |driver| {
        let graph = driver.captures.remove(&stream).ok_or(Status::CaptureUnmatched)?;
        let handle = driver.fresh_handle();
        driver.graphs.insert(handle, graph);
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(out, handle) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: Handle, status: *mut c_int) -> CuResult {
    with("cuStreamIsCapturing", |driver| {
        let capturing = c_int::from(driver.captures.contains_key(&stream));
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(status, capturing) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    out: *mut Handle,
    graph: Handle,
    _flags: c_ulonglong,
) -> CuResult {
    with("cuGraphInstantiateWithFlags", |driver| {
        let commands = driver.graphs.get(&graph).ok_or(Status::InvalidHandle)?.clone();
        let handle = driver.fresh_handle();
        driver.graphs.insert(handle, commands);
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(out, handle) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphUpload(graph: Handle, _stream: Handle) -> CuResult {
    with("cuGraphUpload", |driver| driver.graphs.get(&graph).map(drop).ok_or(Status::InvalidHandle))
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(graph: Handle, stream: Handle) -> CuResult {
    with("cuGraphLaunch", |driver| {
        let commands = driver.graphs.get(&graph).ok_or(Status::InvalidHandle)?.clone();
        for command in commands {
            driver.enqueue(stream, command)?;
        }
        Ok(())
    })
}

fn destroy(graph: Handle, name: &str) -> CuResult {
    with(name, |driver| driver.graphs.remove(&graph).map(drop).ok_or(Status::InvalidHandle))
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(graph: Handle) -> CuResult {
    destroy(graph, "cuGraphExecDestroy")
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroy(graph: Handle) -> CuResult {
    destroy(graph, "cuGraphDestroy")
}
