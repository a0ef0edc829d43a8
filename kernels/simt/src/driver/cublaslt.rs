//! A libcublasLt.so over the emulator: the thirteen functions that cudarc's layer calls, and the version.
//!
//! It multiplies f16 matrices with f32 sums, in the order of its stream, with the bias epilogue or none.
//! All else is refused as not supported: what a program does then is what this is for.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use super::product::{Element, Matrix, Product};
use super::queue::Command;
use super::{Handle, INITIALIZED, SWITCHES, Status, context, device, fresh_handle};
use crate::memory::address::DevicePtr;

/// `cublasStatus_t`.
type BlasResult = c_int;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BlasStatus {
    NotInitialized = 1,
    InvalidValue = 7,
    ExecutionFailed = 13,
    NotSupported = 15,
}

/// CUDA 12.0's.
const VERSION: usize = 120_001;

// Values of the C enumerations.
const COMPUTE_32F: c_int = 68;
const REAL_32F: c_int = 0;
const REAL_16F: c_int = 2;
const EPILOGUE_NONE: c_int = 1;
const EPILOGUE_BIAS: c_int = 4;

#[derive(Debug, Clone, Copy)]
struct Description {
    compute: c_int,
    scale: c_int,
    pointer_mode: c_int,
    transposed: [bool; 2],
    epilogue: c_int,
    bias: u64,
    /// None is D's.
    bias_type: Option<c_int>,
}

#[derive(Debug, Clone, Copy)]
struct Layout {
    ty: c_int,
    rows: u64,
    columns: u64,
    stride: i64,
    order: c_int,
    batches: c_int,
}

#[derive(Debug, Clone, Copy)]
enum Object {
    /// Of a device.
    Library(usize),
    Description(Description),
    Layout(Layout),
    /// The most bytes of workspace.
    Preference(usize),
}

static OBJECTS: LazyLock<Mutex<HashMap<Handle, Object>>> = LazyLock::new(Mutex::default);

fn objects() -> MutexGuard<'static, HashMap<Handle, Object>> {
    OBJECTS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(name: &str, call: impl FnOnce() -> Result<(), BlasStatus>) -> BlasResult {
    let failed = Err(BlasStatus::ExecutionFailed);
    let result = catch_unwind(AssertUnwindSafe(call)).unwrap_or(failed);
    if SWITCHES.log >= 2 {
        eprintln!("simt: {name}: {result:?}");
    }
    result.map_or_else(|status| status as BlasResult, |()| 0)
}

/// Stores a result where the caller wants it.
///
/// # Safety
/// `out` is null or valid for a write of `T`.
unsafe fn give<T>(out: *mut T, value: T) -> Result<(), BlasStatus> {
    // SAFETY: the same contract.
    unsafe { super::give(out, value) }.map_err(|_| BlasStatus::InvalidValue)
}

/// # Safety
/// `out` is null or valid for a write.
unsafe fn create(name: &str, out: *mut Handle, object: Object) -> BlasResult {
    answer(name, || {
        let handle = fresh_handle();
        objects().insert(handle, object);
        // SAFETY: the same contract.
        unsafe { give(out, handle) }
    })
}

fn destroy(name: &str, handle: Handle, is_one: fn(&Object) -> bool) -> BlasResult {
    answer(name, || match objects().remove(&handle) {
        Some(object) if is_one(&object) => Ok(()),
        _ => Err(BlasStatus::InvalidValue),
    })
}

/// An attribute's value, which has to be of exactly its size.
///
/// # Safety
/// `value` is null or has `bytes` readable bytes; every pattern of them is a `T`.
unsafe fn read<T>(value: *const c_void, bytes: usize) -> Result<T, BlasStatus> {
    if value.is_null() || bytes != size_of::<T>() {
        return Err(BlasStatus::InvalidValue);
    }
    // SAFETY: as many bytes as `T` has, by the contract; the pointer need not be aligned.
    Ok(unsafe { value.cast::<T>().read_unaligned() })
}

/// # Safety
/// As the cuBLASLt API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtGetVersion() -> usize {
    VERSION
}

/// # Safety
/// As the cuBLASLt API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtCreate(out: *mut Handle) -> BlasResult {
    let current = context::current().ok().filter(|_| INITIALIZED.load(Ordering::Acquire));
    let Some(ordinal) = current else { return BlasStatus::NotInitialized as BlasResult };
    // SAFETY: the caller's pointer, by the API's contract.
    unsafe { create("cublasLtCreate", out, Object::Library(ordinal)) }
}

/// # Safety
/// As the cuBLASLt API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtDestroy(library: Handle) -> BlasResult {
    destroy("cublasLtDestroy", library, |object| matches!(object, Object::Library(_)))
}

/// # Safety
/// As the cuBLASLt API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescCreate(
    out: *mut Handle,
    compute: c_int,
    scale: c_int,
) -> BlasResult {
    let description = Description {
        compute,
        scale,
        pointer_mode: 0,
        transposed: [false; 2],
        epilogue: EPILOGUE_NONE,
        bias: 0,
        bias_type: None,
    };
    // SAFETY: the caller's pointer, by the API's contract.
    unsafe { create("cublasLtMatmulDescCreate", out, Object::Description(description)) }
}

/// # Safety
/// As the cuBLASLt API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescDestroy(description: Handle) -> BlasResult {
    let is_one = |object: &Object| matches!(object, Object::Description(_));
    destroy("cublasLtMatmulDescDestroy", description, is_one)
}

/// # Safety
/// As the cuBLASLt API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    description: Handle,
    attribute: c_int,
    value: *const c_void,
    bytes: usize,
) -> BlasResult {
    answer("cublasLtMatmulDescSetAttribute", || {
        let mut objects = objects();
        let Some(Object::Description(description)) = objects.get_mut(&description) else {
            return Err(BlasStatus::InvalidValue);
        };
        // SAFETY: the caller's value; all attributes are integers.
        let number = || unsafe { read::<c_int>(value, bytes) };
        match attribute {
            2 => description.pointer_mode = number()?,
            3 | 4 => {
                description.transposed[attribute as usize - 3] = match number()? {
                    0 => false,
                    1 => true,
                    _ => return Err(BlasStatus::NotSupported),
                }
            }
            5 if number()? == 0 => {}
            7 => description.epilogue = number()?,
            // SAFETY: as above.
            8 => description.bias = unsafe { read::<u64>(value, bytes) }?,
            26 => description.bias_type = Some(number()?).filter(|&ty| ty >= 0),
            _ => return Err(BlasStatus::NotSupported),
        }
        Ok(())
    })
}

/// # Safety
/// As the cuBLASLt API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    out: *mut Handle,
    ty: c_int,
    rows: u64,
    columns: u64,
    stride: i64,
) -> BlasResult {
    let layout = Layout { ty, rows, columns, stride, order: 0, batches: 1 };
    // SAFETY: the caller's pointer, by the API's contract.
    unsafe { create("cublasLtMatrixLayoutCreate", out, Object::Layout(layout)) }
}

/// # Safety
/// As the cuBLASLt API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutDestroy(layout: Handle) -> BlasResult {
    destroy("cublasLtMatrixLayoutDestroy", layout, |object| matches!(object, Object::Layout(_)))
}

/// # Safety
/// As the cuBLASLt API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutSetAttribute(
    layout: Handle,
    attribute: c_int,
    value: *const c_void,
    bytes: usize,
) -> BlasResult {
    answer("cublasLtMatrixLayoutSetAttribute", || {
        let mut objects = objects();
        let Some(Object::Layout(layout)) = objects.get_mut(&layout) else {
            return Err(BlasStatus::InvalidValue);
        };
        // SAFETY: the caller's value; all attributes are integers.
        unsafe {
            match attribute {
                0 => layout.ty = read(value, bytes)?,
                1 => layout.order = read(value, bytes)?,
                2 => layout.rows = read(value, bytes)?,
                3 => layout.columns = read(value, bytes)?,
                4 => layout.stride = read(value, bytes)?,
                5 => layout.batches = read(value, bytes)?,
                // Of a single matrix the distance to the next means nothing.
                6 => drop(read::<i64>(value, bytes)?),
                _ => return Err(BlasStatus::NotSupported),
            }
        }
        Ok(())
    })
}

/// # Safety
/// As the cuBLASLt API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceCreate(out: *mut Handle) -> BlasResult {
    // SAFETY: the caller's pointer, by the API's contract.
    unsafe { create("cublasLtMatmulPreferenceCreate", out, Object::Preference(0)) }
}

/// # Safety
/// As the cuBLASLt API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceDestroy(preference: Handle) -> BlasResult {
    let is_one = |object: &Object| matches!(object, Object::Preference(_));
    destroy("cublasLtMatmulPreferenceDestroy", preference, is_one)
}

/// # Safety
/// As the cuBLASLt API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: Handle,
    attribute: c_int,
    value: *const c_void,
    bytes: usize,
) -> BlasResult {
    answer("cublasLtMatmulPreferenceSetAttribute", || {
        let mut objects = objects();
        let Some(Object::Preference(most)) = objects.get_mut(&preference) else {
            return Err(BlasStatus::InvalidValue);
        };
        match attribute {
            // SAFETY: the caller's value; the attribute is a size.
            1 => *most = unsafe { read(value, bytes) }?,
            // Wishes about algorithms, of which there is one.
            0 | 3 | 5..=9 | 12 => {}
            _ => return Err(BlasStatus::NotSupported),
        }
        Ok(())
    })
}

/// `cublasLtMatmulAlgo_t`: opaque to the program.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Algorithm {
    magic: u64,
    workspace_bytes: u64,
    rest: [u64; 6],
}

const MAGIC: u64 = 0x7369_6d74_626c_6173;
/// What the algorithm asks for if it may: used, so that a workspace that is something else too shows.
const WORKSPACE_BYTES: usize = 4096;

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Debug)]
pub struct Heuristic {
    algorithm: Algorithm,
    workspace_bytes: usize,
    state: BlasResult,
    waves: f32,
    reserved: [c_int; 4],
}

/// The problem as the descriptions pose it, without addresses.
fn pose(description: Handle, layouts: [Handle; 4]) -> Result<Product, BlasStatus> {
    let objects = objects();
    let Some(Object::Description(description)) = objects.get(&description).copied() else {
        return Err(BlasStatus::InvalidValue);
    };
    let matrix = |handle: Handle| match objects.get(&handle) {
        Some(Object::Layout(layout)) => {
            let element = match layout.ty {
                REAL_16F => Element::Half,
                REAL_32F => Element::Float,
                _ => return Err(BlasStatus::NotSupported),
            };
            if layout.order != 0 || layout.batches != 1 {
                return Err(BlasStatus::NotSupported);
            }
            let (rows, columns) = (layout.rows as usize, layout.columns as usize);
            let stride = usize::try_from(layout.stride).map_err(|_| BlasStatus::InvalidValue)?;
            if stride < rows || rows == 0 || columns == 0 {
                return Err(BlasStatus::InvalidValue);
            }
            Ok(Matrix { element, rows, columns, stride, ptr: DevicePtr(0) })
        }
        _ => Err(BlasStatus::InvalidValue),
    };
    let [a, b, c, d] = layouts.map(matrix);
    let product = Product {
        a: a?,
        b: b?,
        c: c?,
        d: d?,
        transposed: description.transposed,
        alpha: 1.0,
        beta: 0.0,
        bias: (description.epilogue == EPILOGUE_BIAS).then_some(DevicePtr(description.bias)),
        workspace: None,
        wrong: SWITCHES.cublaslt_wrong,
    };
    let out = if product.d.element == Element::Half { REAL_16F } else { REAL_32F };
    let supported = description.compute == COMPUTE_32F
        && description.scale == REAL_32F
        && description.pointer_mode == 0
        && matches!(description.epilogue, EPILOGUE_NONE | EPILOGUE_BIAS)
        && description.bias_type.is_none_or(|ty| ty == out)
        && product.is_of_halves();
    match (product.fits(), supported) {
        (false, _) => Err(BlasStatus::InvalidValue),
        (true, false) => Err(BlasStatus::NotSupported),
        (true, true) => Ok(product),
    }
}

/// # Safety
/// As the cuBLASLt API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    library: Handle,
    description: Handle,
    a: Handle,
    b: Handle,
    c: Handle,
    d: Handle,
    preference: Handle,
    wanted: c_int,
    results: *mut Heuristic,
    found: *mut c_int,
) -> BlasResult {
    answer("cublasLtMatmulAlgoGetHeuristic", || {
        let most = {
            let objects = objects();
            let (Some(Object::Library(_)), Some(Object::Preference(most))) =
                (objects.get(&library), objects.get(&preference))
            else {
                return Err(BlasStatus::InvalidValue);
            };
            *most
        };
        // SAFETY: the caller's pointers here and below, by the API's contract.
        unsafe { give(found, 0) }?;
        if wanted < 1 {
            return Err(BlasStatus::InvalidValue);
        }
        pose(description, [a, b, c, d])?;
        let bytes = if most >= WORKSPACE_BYTES { WORKSPACE_BYTES } else { 0 };
        let algorithm = Algorithm { magic: MAGIC, workspace_bytes: bytes as u64, rest: [0; 6] };
        let heuristic =
            Heuristic { algorithm, workspace_bytes: bytes, state: 0, waves: 1.0, reserved: [0; 4] };
        // SAFETY: as above.
        unsafe {
            give(results, heuristic)?;
            give(found, 1)
        }
    })
}

/// # Safety
/// As the cuBLASLt API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmul(
    library: Handle,
    description: Handle,
    alpha: *const f32,
    a: u64,
    a_layout: Handle,
    b: u64,
    b_layout: Handle,
    beta: *const f32,
    c: u64,
    c_layout: Handle,
    d: u64,
    d_layout: Handle,
    algorithm: *const Algorithm,
    workspace: u64,
    workspace_bytes: usize,
    stream: Handle,
) -> BlasResult {
    answer("cublasLtMatmul", || {
        let ordinal = match objects().get(&library) {
            Some(Object::Library(ordinal)) => *ordinal,
            _ => return Err(BlasStatus::NotInitialized),
        };
        let mut product = pose(description, [a_layout, b_layout, c_layout, d_layout])?;
        if alpha.is_null() || beta.is_null() || context::current() != Ok(ordinal) {
            return Err(BlasStatus::InvalidValue);
        }
        // SAFETY: not null, and numbers in host memory, as the pointer mode is the host's.
        (product.alpha, product.beta) = unsafe { (*alpha, *beta) };
        let matrices = [&mut product.a, &mut product.b, &mut product.c, &mut product.d];
        for (matrix, address) in matrices.into_iter().zip([a, b, c, d]) {
            matrix.ptr = DevicePtr(address);
        }
        if !algorithm.is_null() {
            // SAFETY: not null: an algorithm of a heuristic, by the API's contract.
            let algorithm = unsafe { *algorithm };
            let bytes = algorithm.workspace_bytes;
            if algorithm.magic != MAGIC || bytes > workspace_bytes as u64 {
                return Err(BlasStatus::InvalidValue);
            }
            product.workspace = (bytes > 0).then_some((DevicePtr(workspace), bytes));
        }
        let failed = |_: Status| BlasStatus::ExecutionFailed;
        let mut device = device(ordinal).map_err(failed)?;
        device.check_alive().map_err(failed)?;
        device.enqueue_launch(stream, Command::Product(Arc::new(product))).map_err(failed)
    })
}
