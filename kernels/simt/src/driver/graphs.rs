//! Graphs: what captured streams queued, replayed.

use std::ffi::{c_int, c_ulonglong};
use std::sync::Arc;

use super::capture::Replay;
use super::queue::{Command, DEFAULT_STREAM};
use super::{CuResult, Handle, Status, fresh_handle, give, with};

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamBeginCapture_v2(stream: Handle, _mode: c_int) -> CuResult {
    with("cuStreamBeginCapture_v2", |device| {
        // The legacy default stream cannot be captured.
        if stream == DEFAULT_STREAM {
            return Err(Status::CaptureUnsupported);
        }
        device.check_waitable(stream)?;
        device.captures.begin(stream)
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: Handle, out: *mut Handle) -> CuResult {
    with("cuStreamEndCapture", |device| {
        let graph = device.captures.end(stream)?;
        let handle = fresh_handle();
        device.graphs.insert(handle, graph);
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(out, handle) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: Handle, status: *mut c_int) -> CuResult {
    with("cuStreamIsCapturing", |device| {
        let answer = match device.captures.is_invalid(stream) {
            true => 2,
            false => c_int::from(device.captures.is_capturing(stream)),
        };
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(status, answer) }
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
    with("cuGraphInstantiateWithFlags", |device| {
        let graph = Arc::clone(device.graphs.get(&graph).ok_or(Status::InvalidHandle)?);
        let handle = fresh_handle();
        device.graphs.insert(handle, graph);
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(out, handle) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphUpload(graph: Handle, _stream: Handle) -> CuResult {
    with("cuGraphUpload", |device| device.graphs.get(&graph).map(drop).ok_or(Status::InvalidHandle))
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(graph: Handle, stream: Handle) -> CuResult {
    with("cuGraphLaunch", |device| {
        let graph = Arc::clone(device.graphs.get(&graph).ok_or(Status::InvalidHandle)?);
        device.enqueue_launch(stream, Command::Graph(Replay::new(graph)))
    })
}

fn destroy(graph: Handle, name: &str) -> CuResult {
    // A launch that is queued keeps the nodes alive.
    with(name, |device| device.graphs.remove(&graph).map(drop).ok_or(Status::InvalidHandle))
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
