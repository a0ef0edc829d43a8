//! What the emulator has no meaning for. A missing symbol ends a program; a refusal is an answer.

use super::{CuResult, Status, initialized};

/// Functions that read none of their arguments, so that the C ABI lets them declare none.
macro_rules! refused {
    ($($name:ident)*) => {$(
        /// # Safety
        /// As the CUDA driver API.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name() -> CuResult {
            initialized(stringify!($name), || Err(Status::NotSupported))
        }
    )*};
}

// Contexts beside the primary one.
refused! { cuCtxCreate_v2 cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2 }
// Caches and stacks that are not modelled.
refused! { cuCtxGetCacheConfig cuCtxSetCacheConfig cuCtxGetLimit cuCtxSetLimit cuFuncSetCacheConfig }
// Memory that host and device, processes or devices share.
refused! {
    cuMemAllocManaged cuMemAdvise cuMemAdvise_v2 cuMemPrefetchAsync cuMemPrefetchAsync_v2
    cuStreamAttachMemAsync cuImportExternalMemory cuDestroyExternalMemory
    cuExternalMemoryGetMappedBuffer cuMemHostGetDevicePointer_v2 cuMemHostRegister_v2
    cuMemHostUnregister cuMemcpyPeerAsync
}
// Pools beside the default one.
refused! { cuMemPoolCreate cuMemPoolDestroy cuMemAllocFromPoolAsync cuDeviceSetMemPool }
// Launches whose blocks meet each other, and what depends on how many run at a time.
refused! {
    cuLaunchCooperativeKernel cuLaunchKernelEx cuOccupancyAvailableDynamicSMemPerBlock
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxActiveClusters
    cuOccupancyMaxPotentialBlockSize cuOccupancyMaxPotentialBlockSizeWithFlags
    cuOccupancyMaxPotentialClusterSize
}
// Code from files and profilers.
refused! { cuModuleLoad cuProfilerStart cuProfilerStop }
