//! From the driver's error numbers to what they mean for a batch.

use std::fmt::Display;

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use crate::error::DeviceError;

/// The driver's name and sentence for an error.
pub(super) fn describe(error: DriverError) -> String {
    let text = |text: Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
    };
    format!("{} ({})", text(error.error_string()), text(error.error_name()))
}

/// `what` failed. After most errors the context is gone for good, as CUDA calls it: sticky.
pub(super) fn fault<W: Display>(what: W) -> impl Fn(DriverError) -> DeviceError {
    move |error| DeviceError {
        message: format!("{what}: {}", describe(error)),
        lost: is_sticky(error.0),
    }
}

/// Whether the context survives the error. What is not listed counts as lost: a needless restart costs
/// seconds, a dead device that attracts requests costs all of them.
fn is_sticky(error: CUresult) -> bool {
    use CUresult as E;
    !matches!(
        error,
        E::CUDA_ERROR_OUT_OF_MEMORY
            | E::CUDA_ERROR_INVALID_VALUE
            | E::CUDA_ERROR_INVALID_HANDLE
            | E::CUDA_ERROR_NOT_FOUND
            | E::CUDA_ERROR_NOT_READY
            | E::CUDA_ERROR_NOT_SUPPORTED
            | E::CUDA_ERROR_INVALID_IMAGE
            | E::CUDA_ERROR_INVALID_PTX
            | E::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | E::CUDA_ERROR_NO_BINARY_FOR_GPU
            | E::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
            | E::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
            | E::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
            | E::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED
    )
}
