//! Driver errors: numbers, names and sentences of `CUresult`.

use crate::fault::{Fault, FaultKind, MemoryFault};
use crate::machine::LoadError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    InvalidValue,
    OutOfMemory,
    NotInitialized,
    NoDevice,
    InvalidDevice,
    InvalidImage,
    InvalidContext,
    NoBinaryForGpu,
    InvalidPtx,
    UnsupportedPtxVersion,
    InvalidHandle,
    NotFound,
    NotReady,
    IllegalAddress,
    LaunchOutOfResources,
    LaunchTimeout,
    MisalignedAddress,
    IllegalInstruction,
    LaunchFailed,
    NotSupported,
    CaptureUnsupported,
    CaptureInvalidated,
    CaptureMerge,
    CaptureUnmatched,
    CaptureUnjoined,
    CaptureIsolation,
    CapturedEvent,
    Unknown,
}

/// Number, C name, sentence.
const TABLE: [(Status, i32, &str, &str); 28] = [
    (Status::InvalidValue, 1, "CUDA_ERROR_INVALID_VALUE\0", "invalid argument\0"),
    (Status::OutOfMemory, 2, "CUDA_ERROR_OUT_OF_MEMORY\0", "out of memory\0"),
    (Status::NotInitialized, 3, "CUDA_ERROR_NOT_INITIALIZED\0", "initialization error\0"),
    (Status::NoDevice, 100, "CUDA_ERROR_NO_DEVICE\0", "no CUDA-capable device is detected\0"),
    (Status::InvalidDevice, 101, "CUDA_ERROR_INVALID_DEVICE\0", "invalid device ordinal\0"),
    (Status::InvalidImage, 200, "CUDA_ERROR_INVALID_IMAGE\0", "device kernel image is invalid\0"),
    (Status::InvalidContext, 201, "CUDA_ERROR_INVALID_CONTEXT\0", "invalid device context\0"),
    (
        Status::NoBinaryForGpu,
        209,
        "CUDA_ERROR_NO_BINARY_FOR_GPU\0",
        "no kernel image is available for execution on the device\0",
    ),
    (Status::InvalidPtx, 218, "CUDA_ERROR_INVALID_PTX\0", "a PTX JIT compilation failed\0"),
    (
        Status::UnsupportedPtxVersion,
        222,
        "CUDA_ERROR_UNSUPPORTED_PTX_VERSION\0",
        "the provided PTX was compiled with an unsupported toolchain.\0",
    ),
    (Status::InvalidHandle, 400, "CUDA_ERROR_INVALID_HANDLE\0", "invalid resource handle\0"),
    (Status::NotFound, 500, "CUDA_ERROR_NOT_FOUND\0", "named symbol not found\0"),
    (Status::NotReady, 600, "CUDA_ERROR_NOT_READY\0", "device not ready\0"),
    (
        Status::IllegalAddress,
        700,
        "CUDA_ERROR_ILLEGAL_ADDRESS\0",
        "an illegal memory access was encountered\0",
    ),
    (
        Status::LaunchOutOfResources,
        701,
        "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES\0",
        "too many resources requested for launch\0",
    ),
    (
        Status::LaunchTimeout,
        702,
        "CUDA_ERROR_LAUNCH_TIMEOUT\0",
        "the launch timed out and was terminated\0",
    ),
    (
        Status::IllegalInstruction,
        715,
        "CUDA_ERROR_ILLEGAL_INSTRUCTION\0",
        "an illegal instruction was encountered\0",
    ),
    (Status::MisalignedAddress, 716, "CUDA_ERROR_MISALIGNED_ADDRESS\0", "misaligned address\0"),
    (Status::LaunchFailed, 719, "CUDA_ERROR_LAUNCH_FAILED\0", "unspecified launch failure\0"),
    (Status::NotSupported, 801, "CUDA_ERROR_NOT_SUPPORTED\0", "operation not supported\0"),
    (
        Status::CaptureUnsupported,
        900,
        "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED\0",
        "operation not permitted when stream is capturing\0",
    ),
    (
        Status::CaptureInvalidated,
        901,
        "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED\0",
        "operation failed due to a previous error during capture\0",
    ),
    (
        Status::CaptureMerge,
        902,
        "CUDA_ERROR_STREAM_CAPTURE_MERGE\0",
        "operation would result in a merge of separate capture sequences\0",
    ),
    (
        Status::CaptureUnmatched,
        903,
        "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED\0",
        "capture was not initiated in this stream\0",
    ),
    (
        Status::CaptureUnjoined,
        904,
        "CUDA_ERROR_STREAM_CAPTURE_UNJOINED\0",
        "capturing stream has unjoined work\0",
    ),
    (
        Status::CaptureIsolation,
        905,
        "CUDA_ERROR_STREAM_CAPTURE_ISOLATION\0",
        "dependency created on uncaptured work in another stream\0",
    ),
    (
        Status::CapturedEvent,
        907,
        "CUDA_ERROR_CAPTURED_EVENT\0",
        "operation not permitted on an event last recorded in a capturing stream\0",
    ),
    (Status::Unknown, 999, "CUDA_ERROR_UNKNOWN\0", "unknown error\0"),
];

impl Status {
    #[must_use]
    pub fn code(self) -> i32 {
        TABLE.iter().find(|row| row.0 == self).map_or(999, |row| row.1)
    }

    /// What a fault of a kernel or a copy looks like to the program.
    #[must_use]
    pub fn of_fault(fault: &Fault) -> Status {
        match &fault.kind {
            FaultKind::Memory(memory) => Status::of_memory(memory),
            FaultKind::Timeout { .. } | FaultKind::Deadlock { .. } => Status::LaunchTimeout,
            FaultKind::Unsupported { .. } => Status::IllegalInstruction,
            FaultKind::Launch { .. } => Status::LaunchOutOfResources,
            _ => Status::LaunchFailed,
        }
    }

    #[must_use]
    pub fn of_memory(fault: &MemoryFault) -> Status {
        match fault {
            MemoryFault::OutOfMemory { .. } => Status::OutOfMemory,
            MemoryFault::Misaligned { .. } => Status::MisalignedAddress,
            _ => Status::IllegalAddress,
        }
    }

    #[must_use]
    pub fn of_load(error: &LoadError) -> Status {
        match error {
            LoadError::Parse(_) => Status::InvalidPtx,
            LoadError::Version { .. } => Status::UnsupportedPtxVersion,
            LoadError::Target { .. } => Status::NoBinaryForGpu,
            LoadError::Memory(fault) => Status::of_memory(fault),
        }
    }
}

/// Name and sentence of a code, both ending in NUL for C.
#[must_use]
pub fn describe(code: i32) -> Option<(&'static str, &'static str)> {
    if code == 0 {
        return Some(("CUDA_SUCCESS\0", "no error\0"));
    }
    TABLE.iter().find(|row| row.1 == code).map(|row| (row.2, row.3))
}
