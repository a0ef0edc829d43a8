//! Pinned host memory: what copies read and write when they run, not when they are queued.

use std::collections::BTreeMap;
use std::ffi::{c_uint, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{CuResult, SWITCHES, Status, context, device, give, initialized, wait_on};

/// Pinned memory by address; it belongs to no device.
static PINNED: Mutex<BTreeMap<usize, Box<[u64]>>> = Mutex::new(BTreeMap::new());

/// NaN in every float format, as fresh device memory: what nobody wrote must not look like data.
const POISON: u64 = u64::MAX;

fn pinned() -> MutexGuard<'static, BTreeMap<usize, Box<[u64]>>> {
    PINNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether all of the host range is pinned.
pub fn is_pinned(address: usize, bytes: usize) -> bool {
    pinned()
        .range(..=address)
        .next_back()
        .is_some_and(|(start, data)| address + bytes <= start + data.len() * 8)
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(
    out: *mut *mut c_void,
    bytes: usize,
    _flags: c_uint,
) -> CuResult {
    initialized("cuMemHostAlloc", || {
        device(context::current()?)?.check_alive()?;
        // Words, so that the memory is aligned for what programs put there.
        let mut data = vec![POISON; bytes.div_ceil(8).max(1)].into_boxed_slice();
        let address = data.as_mut_ptr();
        pinned().insert(address as usize, data);
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(out, address.cast()) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(ptr: *mut c_void) -> CuResult {
    initialized("cuMemFreeHost", || {
        // Copies that still need the memory come first, as the real call waits. A context that is
        // lost has no copies left.
        for ordinal in 0..SWITCHES.devices {
            let alive = device(ordinal)?.check_alive();
            if alive.is_ok() {
                wait_on(ordinal, |queues| queues.num_pending() == 0)?;
            }
        }
        let alive = device(context::current()?)?.check_alive();
        pinned().remove(&(ptr as usize)).map(drop).ok_or(Status::InvalidValue)?;
        alive
    })
}
