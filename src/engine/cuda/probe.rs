//! Which GPUs this process can use, asked without a panic: the driver may be missing, old, or without a card.

use std::panic::catch_unwind;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute};

use super::error::describe;

/// The oldest driver with every call the engine makes (CUDA 11.4), as `cuDriverGetVersion` counts.
const OLDEST_DRIVER: i32 = 11_040;
/// cp.async and the mma.sync shapes of the kernels begin with Ampere.
const OLDEST_CAPABILITY: (i32, i32) = (8, 0);

/// A GPU that the kernels run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// As the driver counts; `CUDA_VISIBLE_DEVICES` chooses which there are.
    pub ordinal: usize,
    pub name: String,
    pub compute_capability: (i32, i32),
    pub memory_bytes: usize,
}

/// Why there is no GPU to use, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("no NVIDIA driver: libcuda.so is not on the library path")]
    NoLibrary,
    #[error(
        "the NVIDIA driver is too old: it knows CUDA {major}.{minor}, 11.4 is needed; update it"
    )]
    OldDriver { major: i32, minor: i32 },
    #[error("the NVIDIA driver finds no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES")]
    NoDevice,
    #[error("{name} has compute capability {major}.{minor}; 8.0 (Ampere) or newer is needed")]
    Capability { name: String, major: i32, minor: i32 },
    #[error("the NVIDIA driver fails in {call}: {message}")]
    Driver { call: &'static str, message: String },
}

/// All usable GPUs, at least one.
///
/// # Errors
/// There is none: why.
pub fn probe() -> Result<Vec<Device>, Unavailable> {
    // SAFETY: opens the driver's library; whatever its constructors do is what every CUDA program asks for.
    if !unsafe { sys::is_culib_present() } {
        return Err(Unavailable::NoLibrary);
    }
    // The bindings panic on a symbol that a driver older than their own header does not have.
    catch_unwind(ask).unwrap_or_else(|_| {
        let message = "a function of CUDA 11.4 is missing in libcuda.so; update the driver".into();
        Err(Unavailable::Driver { call: "loading", message })
    })
}

fn ask() -> Result<Vec<Device>, Unavailable> {
    match result::init() {
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Err(Unavailable::NoDevice),
        other => other.map_err(failed("cuInit"))?,
    }
    let mut version = 0;
    // SAFETY: the pointer is that of a local.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }
        .result()
        .map_err(failed("cuDriverGetVersion"))?;
    if version < OLDEST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(Unavailable::OldDriver { major, minor });
    }
    let count = result::device::get_count().map_err(failed("cuDeviceGetCount"))?;
    let devices = (0..count).map(device).collect::<Result<Vec<_>, _>>()?;
    let (usable, refused): (Vec<_>, Vec<_>) =
        devices.into_iter().partition(|device| device.compute_capability >= OLDEST_CAPABILITY);
    match refused.into_iter().next() {
        _ if !usable.is_empty() => Ok(usable),
        None => Err(Unavailable::NoDevice),
        Some(Device { name, compute_capability: (major, minor), .. }) => {
            Err(Unavailable::Capability { name, major, minor })
        }
    }
}

fn device(ordinal: i32) -> Result<Device, Unavailable> {
    let device = result::device::get(ordinal).map_err(failed("cuDeviceGet"))?;
    let attribute = |attribute| {
        // SAFETY: `device` is the driver's own answer.
        unsafe { result::device::get_attribute(device, attribute) }
            .map_err(failed("cuDeviceGetAttribute"))
    };
    // SAFETY: as above.
    let memory_bytes = unsafe { result::device::total_mem(device) };
    Ok(Device {
        ordinal: ordinal as usize,
        name: result::device::get_name(device).map_err(failed("cuDeviceGetName"))?,
        compute_capability: (
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        memory_bytes: memory_bytes.map_err(failed("cuDeviceTotalMem"))?,
    })
}

fn failed(call: &'static str) -> impl Fn(DriverError) -> Unavailable {
    move |error| Unavailable::Driver { call, message: describe(error) }
}
