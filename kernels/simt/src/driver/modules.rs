//! Modules, functions and launches.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use super::queue::{Command, KernelRef};
use super::state::{DEFAULT_DYNAMIC_SHARED, Device, Function};
use super::{CuResult, Handle, Status, fresh_handle, give, with};
use crate::fault::Dim3;

const ATTRIBUTE_MAX_DYNAMIC_SHARED: c_int = 8;

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(out: *mut Handle, image: *const c_void) -> CuResult {
    with("cuModuleLoadData", |device| {
        if image.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: an image begins with its magic, or is text that ends in NUL.
        let text = unsafe { CStr::from_ptr(image.cast()) };
        // Compiled code begins with a byte and "ELF"; fat binaries are no text either.
        let text = text.to_str().map_err(|_| Status::InvalidImage)?;
        if text.starts_with("\u{7f}ELF") {
            return Err(Status::InvalidImage);
        }
        let module = device.machine.load(text).map_err(|error| {
            eprintln!("simt: {error}");
            Status::of_load(&error)
        })?;
        let handle = fresh_handle();
        device.modules.insert(handle, Arc::new(module));
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(out, handle) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(module: Handle) -> CuResult {
    with("cuModuleUnload", |device| {
        let module = device.modules.remove(&module).ok_or(Status::InvalidHandle)?;
        device.functions.retain(|_, function| !Arc::ptr_eq(&function.kernel.module, &module));
        Ok(())
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    out: *mut Handle,
    module: Handle,
    name: *const c_char,
) -> CuResult {
    with("cuModuleGetFunction", |device| {
        if name.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: a C string, by the API's contract.
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| Status::NotFound)?;
        let module = device.modules.get(&module).ok_or(Status::InvalidHandle)?.clone();
        if !module.kernel_names().contains(&name) {
            return Err(Status::NotFound);
        }
        if let Err(error) = module.kernel(name) {
            eprintln!("simt: {name}: {error}");
            return Err(Status::NotSupported);
        }
        let kernel = Arc::new(KernelRef { module, name: name.to_string() });
        let handle = fresh_handle();
        let function = Function { kernel, max_dynamic_shared: DEFAULT_DYNAMIC_SHARED };
        device.functions.insert(handle, function);
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(out, handle) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetGlobal_v2(
    ptr: *mut u64,
    bytes: *mut usize,
    module: Handle,
    name: *const c_char,
) -> CuResult {
    with("cuModuleGetGlobal_v2", |device| {
        if name.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: a C string, by the API's contract.
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| Status::NotFound)?;
        let module = device.modules.get(&module).ok_or(Status::InvalidHandle)?;
        let (address, size) = module.variable(name).ok_or(Status::NotFound)?;
        // SAFETY: the caller's pointers; either may be null and is then skipped, as in CUDA.
        unsafe {
            if !ptr.is_null() {
                give(ptr, address.0)?;
            }
            if !bytes.is_null() {
                give(bytes, size as usize)?;
            }
        }
        Ok(())
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetAttribute(
    function: Handle,
    attribute: c_int,
    value: c_int,
) -> CuResult {
    with("cuFuncSetAttribute", |device| {
        let limit = device.switches.options.max_shared_bytes;
        let function = device.functions.get_mut(&function).ok_or(Status::InvalidHandle)?;
        if attribute == ATTRIBUTE_MAX_DYNAMIC_SHARED {
            let bytes = u32::try_from(value).map_err(|_| Status::InvalidValue)?;
            if bytes > limit {
                return Err(Status::InvalidValue);
            }
            function.max_dynamic_shared = bytes;
        }
        Ok(())
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    function: Handle,
) -> CuResult {
    with("cuFuncGetAttribute", |device| {
        let function = device.functions.get(&function).ok_or(Status::InvalidHandle)?;
        let kernel = function.kernel.kernel().ok_or(Status::NotFound)?;
        let answer = match attribute {
            0 => kernel.max_threads.map_or(1024, |threads| threads.min(1024)) as c_int,
            1 => kernel.shared_bytes as c_int,
            3 => kernel.local_bytes as c_int,
            ATTRIBUTE_MAX_DYNAMIC_SHARED => function.max_dynamic_shared as c_int,
            _ => 0,
        };
        // SAFETY: the caller's pointer, by the API's contract.
        unsafe { give(value, answer) }
    })
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    _function: Handle,
    _block_size: c_int,
    _dynamic_shared: usize,
) -> CuResult {
    // One block at a time is what runs here.
    // SAFETY: the caller's pointer, by the API's contract.
    with("cuOccupancyMaxActiveBlocksPerMultiprocessor", |_| unsafe { give(blocks, 1) })
}

/// Copies each argument to its offset in the parameter block.
///
/// # Safety
/// `args` points at as many pointers as the kernel has parameters, each to a value of its size.
unsafe fn gather(
    kernel: &crate::program::Kernel,
    args: *const *const c_void,
) -> Result<Vec<u8>, Status> {
    let mut params = vec![0; kernel.param_bytes as usize];
    if args.is_null() && !kernel.params.is_empty() {
        return Err(Status::InvalidValue);
    }
    for (index, param) in kernel.params.iter().enumerate() {
        // SAFETY: one pointer for each parameter, by this function's contract.
        let arg = unsafe { args.add(index).read() };
        if arg.is_null() {
            return Err(Status::InvalidValue);
        }
        let (at, bytes) = (param.offset as usize, param.bytes as usize);
        // SAFETY: the argument has the parameter's size, by this function's contract.
        let value = unsafe { std::slice::from_raw_parts(arg.cast::<u8>(), bytes) };
        params[at..at + bytes].copy_from_slice(value);
    }
    Ok(params)
}

fn launch(
    device: &mut Device,
    function: Handle,
    (grid, block, shared): (Dim3, Dim3, u32),
    stream: Handle,
    args: *const *const c_void,
) -> Result<(), Status> {
    let function = device.functions.get(&function).ok_or(Status::InvalidHandle)?;
    if shared > function.max_dynamic_shared {
        return Err(Status::InvalidValue);
    }
    let kernel_ref = function.kernel.clone();
    let kernel = kernel_ref.kernel().ok_or(Status::NotFound)?;
    device.machine.check_launch(kernel, grid, block, shared).map_err(|what| {
        eprintln!("simt: {}: {what}", kernel.name);
        Status::InvalidValue
    })?;
    // SAFETY: the caller's arguments, by the contract of cuLaunchKernel.
    let params = unsafe { gather(kernel, args) }?;
    let command = Command::Launch { kernel: kernel_ref, grid, block, shared, params };
    device.enqueue_launch(stream, command)
}

/// # Safety
/// As the CUDA driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: Handle,
    args: *const *const c_void,
    extra: *const *const c_void,
) -> CuResult {
    with("cuLaunchKernel", |device| {
        if !extra.is_null() {
            return Err(Status::NotSupported);
        }
        let grid = Dim3 { x: grid_x, y: grid_y, z: grid_z };
        let block = Dim3 { x: block_x, y: block_y, z: block_z };
        launch(device, function, (grid, block, shared_bytes), stream, args)
    })
}
