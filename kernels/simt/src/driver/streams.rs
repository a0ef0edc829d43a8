//! Streams and events.

use std::ffi::{c_float, c_int, c_uint};

use super::queue::{Command, DEFAULT_STREAM};
use super::state::Event;
use super::{CuResult, Handle, Status, give, with};

const NON_BLOCKING: c_uint = 1;

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(out: *mut Handle, flags: c_uint) -> CuResult {
    with("cuStreamCreate", |driver| {
        let handle = driver.fresh_handle();
        driver.queues.open(handle, flags & NON_BLOCKING == 0);
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(out, handle) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(
    out: *mut Handle,
    flags: c_uint,
    _priority: c_int,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe { cuStreamCreate(out, flags) }
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(stream: Handle) -> CuResult {
    with("cuStreamDestroy_v2", |driver| {
        if stream == DEFAULT_STREAM {
            return Err(Status::InvalidHandle);
        }
        driver.synchronize(stream)?;
        driver.queues.close(stream);
        Ok(())
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(stream: Handle) -> CuResult {
    with("cuStreamSynchronize", |driver| driver.synchronize(stream))
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamQuery(stream: Handle) -> CuResult {
    with("cuStreamQuery", |driver| {
        let idle = driver.queues.is_idle(stream);
        // A program that polls must see progress: what it asks about is done before it asks again.
        driver.synchronize(stream)?;
        if idle { Ok(()) } else { Err(Status::NotReady) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWaitEvent(
    stream: Handle,
    event: Handle,
    _flags: c_uint,
) -> CuResult {
    with("cuStreamWaitEvent", |driver| {
        let event = *driver.events.get(&event).ok_or(Status::InvalidHandle)?;
        match (event.captured, driver.captures.contains_key(&stream)) {
            // Inside one captured stream the order is the calls' already.
            (true, true) => Ok(()),
            // Forking a capture into other streams is not emulated.
            (true, false) | (false, true) => Err(Status::CaptureUnsupported),
            (false, false) => match event.ticket {
                Some(ticket) => driver.enqueue(stream, Command::Wait { ticket }).map(drop),
                None => Ok(()),
            },
        }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(out: *mut Handle, _flags: c_uint) -> CuResult {
    with("cuEventCreate", |driver| {
        let handle = driver.fresh_handle();
        driver.events.insert(handle, Event::default());
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(out, handle) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(event: Handle) -> CuResult {
    with("cuEventDestroy_v2", |driver| {
        // Waits that were queued hold the ticket, not the event.
        driver.events.remove(&event).map(drop).ok_or(Status::InvalidHandle)
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> CuResult {
    with("cuEventRecord", |driver| {
        if !driver.events.contains_key(&event) {
            return Err(Status::InvalidHandle);
        }
        let recorded = if driver.captures.contains_key(&stream) {
            Event { ticket: None, captured: true }
        } else {
            let ticket = driver.enqueue(stream, Command::Record)?;
            Event { ticket: Some(ticket), captured: false }
        };
        driver.events.insert(event, recorded);
        Ok(())
    })
}

fn wait(event: Handle, name: &str) -> CuResult {
    with(name, |driver| {
        let event = *driver.events.get(&event).ok_or(Status::InvalidHandle)?;
        if event.captured {
            return Err(Status::CaptureUnsupported);
        }
        let Some(ticket) = event.ticket else { return Ok(()) };
        let done = driver.queues.is_recorded(ticket);
        driver.run_until(|queues| queues.is_recorded(ticket))?;
        if done || name == "cuEventSynchronize" { Ok(()) } else { Err(Status::NotReady) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventSynchronize(event: Handle) -> CuResult {
    wait(event, "cuEventSynchronize")
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventQuery(event: Handle) -> CuResult {
    wait(event, "cuEventQuery")
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(
    milliseconds: *mut c_float,
    start: Handle,
    end: Handle,
) -> CuResult {
    with("cuEventElapsedTime", |driver| {
        for event in [start, end] {
            let event = driver.events.get(&event).ok_or(Status::InvalidHandle)?;
            match event.ticket {
                None => return Err(Status::InvalidHandle),
                Some(ticket) if !driver.queues.is_recorded(ticket) => return Err(Status::NotReady),
                Some(_) => {}
            }
        }
        // No time passes on this device.
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(milliseconds, 0.0) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut c_float,
    start: Handle,
    end: Handle,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe { cuEventElapsedTime(milliseconds, start, end) }
}
