//! Streams and events.

use std::ffi::{c_float, c_int, c_uint, c_void};

use super::queue::{Command, DEFAULT_STREAM, HostPtr};
use super::state::{Device, Event};
use super::{CuResult, Handle, Status, context, fresh_handle, give, wait, wait_on, with};

const NON_BLOCKING: c_uint = 1;

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(out: *mut Handle, flags: c_uint) -> CuResult {
    with("cuStreamCreate", |device| {
        let handle = fresh_handle();
        device.queues.open(handle, flags & NON_BLOCKING == 0);
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

/// Returns at once, as the real call: the stream's work still runs.
///
/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(stream: Handle) -> CuResult {
    with("cuStreamDestroy_v2", |device| {
        if stream == DEFAULT_STREAM {
            return Err(Status::InvalidHandle);
        }
        device.check_waitable(stream)?;
        device.queues.close(stream);
        Ok(())
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(stream: Handle) -> CuResult {
    let begin = |device: &mut Device| device.check_waitable(stream);
    wait("cuStreamSynchronize", begin, |queues, ()| queues.is_idle(stream))
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamQuery(stream: Handle) -> CuResult {
    with("cuStreamQuery", |device| {
        device.check_waitable(stream)?;
        let idle = device.queues.is_idle(stream);
        // A program that polls must see progress: what it asks about is done before it asks again.
        while !device.queues.is_idle(stream) && device.run_one()? {}
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
    with("cuStreamWaitEvent", |device| {
        let event = device.events.get(&event).ok_or(Status::InvalidHandle)?;
        if let Some(mark) = &event.captured {
            if stream == DEFAULT_STREAM || !device.queues.is_open(stream) {
                return Err(Status::InvalidHandle);
            }
            return device.captures.join(stream, mark);
        }
        let Some(ticket) = event.ticket else { return Ok(()) };
        if device.captures.is_capturing(stream) {
            return Err(device.captures.invalidate(stream, Status::CaptureIsolation));
        }
        device.enqueue(stream, Command::Wait { ticket }).map(drop)
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(out: *mut Handle, _flags: c_uint) -> CuResult {
    with("cuEventCreate", |device| {
        let handle = fresh_handle();
        device.events.insert(handle, Event::default());
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(out, handle) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(event: Handle) -> CuResult {
    with("cuEventDestroy_v2", |device| {
        // Waits that were queued hold the ticket, not the event.
        device.events.remove(&event).map(drop).ok_or(Status::InvalidHandle)
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> CuResult {
    with("cuEventRecord", |device| {
        if !device.events.contains_key(&event) {
            return Err(Status::InvalidHandle);
        }
        let captured = device.captures.mark(stream);
        let ticket = match captured {
            Some(_) => None,
            None => Some(device.enqueue(stream, Command::Record { event })?),
        };
        device.events.insert(event, Event { ticket, captured, at_ns: 0 });
        Ok(())
    })
}

/// The record of an event that may be waited for; None if it was never recorded.
fn ticket(device: &Device, event: Handle) -> Result<Option<u64>, Status> {
    let event = device.events.get(&event).ok_or(Status::InvalidHandle)?;
    if event.captured.is_some() { Err(Status::CapturedEvent) } else { Ok(event.ticket) }
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventSynchronize(event: Handle) -> CuResult {
    let begin = |device: &mut Device| ticket(device, event);
    wait("cuEventSynchronize", begin, |queues, ticket| {
        ticket.is_none_or(|ticket| queues.is_recorded(ticket))
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventQuery(event: Handle) -> CuResult {
    with("cuEventQuery", |device| {
        let Some(ticket) = ticket(device, event)? else { return Ok(()) };
        let done = device.queues.is_recorded(ticket);
        // As in cuStreamQuery.
        while !device.queues.is_recorded(ticket) && device.run_one()? {}
        if done { Ok(()) } else { Err(Status::NotReady) }
    })
}

/// Warp instructions and copies between the two, as nanoseconds: no time passes on this device.
///
/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(
    milliseconds: *mut c_float,
    start: Handle,
    end: Handle,
) -> CuResult {
    with("cuEventElapsedTime", |device| {
        let at = |event: Handle| match ticket(device, event)? {
            None => Err(Status::InvalidHandle),
            Some(ticket) if !device.queues.is_recorded(ticket) => Err(Status::NotReady),
            Some(_) => Ok(device.events[&event].at_ns),
        };
        let (start, end) = (at(start)?, at(end)?);
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(milliseconds, (end as f32 - start as f32) * 1e-6) }
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

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchHostFunc(
    stream: Handle,
    function: unsafe extern "C" fn(*mut c_void),
    data: *mut c_void,
) -> CuResult {
    with("cuLaunchHostFunc", |device| {
        let data = HostPtr(data.cast());
        let ticket = device.enqueue(stream, Command::Host { function, data })?;
        if ticket != 0 {
            // The program may wait for its function alone, so somebody else has to run the queue.
            let ordinal = context::current()?;
            let before = move |queues: &super::Queues| queues.is_past(stream, ticket);
            std::thread::spawn(move || wait_on(ordinal, before));
        }
        Ok(())
    })
}
