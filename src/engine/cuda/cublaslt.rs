//! cuBLASLt, where it is installed and the operator gave up batch invariance: used for a shape of product only if a
//! check at load agrees with our own kernel and a timing says that it is faster.
//!
//! It picks another kernel for another number of rows, so a score's last bits then depend on its batch.

use std::collections::{BTreeSet, HashMap};
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::{CudaSlice, DevicePtr};

use super::buffers::{Linear, Rows, VECTOR};
use super::{Bucket, Cuda};
use crate::engine::{Backend, Epilogue, LinearInit};
use crate::error::DeviceError;

/// What the library's own samples give it for cards before Hopper; more did not change its choice.
const WORKSPACE_BYTES: usize = 4 << 20;
/// Both sides round the same sum to f16 once or twice: two units in the last place of the largest value.
const TOLERANCE: f32 = 2.0 / 1024.0;

/// Rows, columns and depth of a product.
type Shape = (usize, usize, usize);

/// The library, and the shapes it was chosen for.
#[derive(Debug)]
pub(super) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    /// `(n, k)` of the layers with an epilogue that the library has, which is the bias alone: its GELU is not ours.
    layers: Mutex<BTreeSet<(usize, usize)>>,
    plans: Mutex<HashMap<Shape, Plan>>,
}

// SAFETY: the library may be called from any thread; descriptions are used under the lock of `plans`.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

/// What one shape is multiplied with. Lives as long as the process: there are a few dozen.
#[derive(Debug)]
struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl CublasLt {
    /// `None` if it is not installed or does not start.
    pub(super) fn open(workspace: impl FnOnce(usize) -> Option<CudaSlice<u8>>) -> Option<Self> {
        // SAFETY: opens a library whose constructors are NVIDIA's.
        let is_present = unsafe { sys::is_culib_present() };
        let handle = is_present.then(result::create_handle)?.ok()?;
        let workspace = workspace(WORKSPACE_BYTES)?;
        Some(Self { handle, workspace, layers: Mutex::default(), plans: Mutex::default() })
    }

    /// Remembers a layer for [`Cuda::choose_products`]. The few columns of a classifier stay ours, in f32.
    pub(super) fn add_layer(&self, w: &Linear) {
        if w.n.is_multiple_of(VECTOR) && w.k.is_multiple_of(VECTOR) {
            self.layers().insert((w.n, w.k));
        }
    }

    fn layers(&self) -> MutexGuard<'_, BTreeSet<(usize, usize)>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plans(&self) -> MutexGuard<'_, HashMap<Shape, Plan>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enqueues `out = x * w^T + bias` if the shape was chosen; whether it was.
    pub(super) fn multiply(
        &self,
        cuda: &Cuda,
        x: &Rows,
        w: &Linear,
        out: &mut Rows,
    ) -> Result<bool, CublasError> {
        match self.plans().get(&(x.num_rows, w.n, w.k)) {
            Some(plan) => plan.run(self, cuda, x, w, out).map(|()| true),
            None => Ok(false),
        }
    }
}

impl Plan {
    /// Asks the library how it would multiply the shape.
    fn ask(library: &CublasLt, (m, n, k): Shape, stride: usize) -> Result<Self, CublasError> {
        let f16 = sys::cudaDataType::CUDA_R_16F;
        // Column-major, as the library counts: out^T = weight * x^T, the weight transposed.
        let layout = |rows: usize, columns: usize, stride: usize| {
            result::create_matrix_layout(f16, rows as u64, columns as u64, stride as i64)
        };
        let (weight, x, out) = (layout(k, n, stride)?, layout(k, m, k)?, layout(n, m, n)?);
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let description = result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F)?;
        // CUBLAS_OP_T, which the bindings of this library leave out.
        let transposed = 1i32;
        let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        set(description, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &transposed)?;
        set(description, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        let preference = result::create_matmul_pref()?;
        let most =
            sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let workspace_bytes = WORKSPACE_BYTES;
        let bytes = (&raw const workspace_bytes).cast();
        // SAFETY: the objects were made above; the attribute is a `size_t`.
        let heuristic = unsafe {
            result::set_matmul_pref_attribute(preference, most, bytes, size_of::<usize>())?;
            let found = result::get_matmul_algo_heuristic(
                library.handle,
                description,
                weight,
                x,
                out,
                out,
                preference,
            );
            result::destroy_matmul_pref(preference)?;
            found?
        };
        Ok(Self { description, weight, x, out, algorithm: heuristic.algo })
    }

    fn run(
        &self,
        library: &CublasLt,
        cuda: &Cuda,
        x: &Rows,
        w: &Linear,
        out: &mut Rows,
    ) -> Result<(), CublasError> {
        let address = |slice: &CudaSlice<half::f16>| slice.device_ptr(&cuda.stream).0;
        let Some(bias) = &w.bias_f16 else {
            return Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE));
        };
        let pointer = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
        set(self.description, pointer, &address(bias))?;
        let (alpha, beta) = (1.0f32, 0.0f32);
        let to = address(out.halves());
        // SAFETY: the layouts are those of this shape, which the buffers have; all outlive the stream's work.
        unsafe {
            result::matmul(
                library.handle,
                self.description,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                address(&w.weight) as *const c_void,
                self.weight,
                address(x.halves()) as *const c_void,
                self.x,
                to as *const c_void,
                self.out,
                to as *mut c_void,
                self.out,
                &raw const self.algorithm,
                library.workspace.device_ptr(&cuda.stream).0 as *mut c_void,
                WORKSPACE_BYTES,
                cuda.stream.cu_stream().cast(),
            )
        }
    }
}

fn set<T>(
    description: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Result<(), CublasError> {
    let bytes = std::ptr::from_ref(value).cast();
    // SAFETY: the callers give each attribute its own type.
    unsafe { result::set_matmul_desc_attribute(description, attribute, bytes, size_of::<T>()) }
}

// === The choice at load ===

impl Cuda {
    /// Layers prepared so far are not the model's: the self-check's.
    pub fn forget_layers(&self) {
        if let Some(library) = &self.cublaslt {
            library.layers().clear();
        }
    }

    /// Tries the library on every size of batch and every layer, and keeps it where it agrees and is faster.
    ///
    /// # Errors
    /// The device fails.
    pub fn choose_products(&self, max_tokens: usize) -> Result<(), DeviceError> {
        let Some(library) = &self.cublaslt else { return Ok(()) };
        let layers = library.layers().clone();
        let (mut num_tried, mut num_chosen) = (0, 0);
        for (n, k) in layers {
            for m in Bucket::sizes(max_tokens) {
                num_tried += 1;
                num_chosen += usize::from(self.try_product(library, (m, n, k))?);
            }
        }
        tracing::info!(num_tried, num_chosen, "cublaslt: products by size");
        Ok(())
    }

    fn try_product(&self, library: &CublasLt, shape: Shape) -> Result<bool, DeviceError> {
        let (m, n, k) = shape;
        let wave = |i: usize| ((i * 7919) % 2047) as f32 / 1024.0 - 1.0;
        let scale = 1.0 / (k as f32).sqrt();
        let weight: Vec<f32> = (0..n * k).map(|i| wave(i) * scale).collect();
        let bias: Vec<f32> = (0..n).map(wave).collect();
        let w = self.prepare_linear(&LinearInit { weight: &weight, bias: &bias, n, k })?;
        let mut x = self.rows(m, k)?;
        x.set_rows(m);
        self.fill(&mut x, |i| wave(i + 5))?;
        let (mut ours, mut theirs) = (self.rows(m, n)?, self.rows(m, n)?);
        let our_seconds = self.best(|| {
            self.launch_gemm(&x, &w, Epilogue::Bias, &mut ours);
            Ok(())
        })?;
        ours.set_rows(m);
        theirs.set_rows(m);
        let Ok(plan) = Plan::ask(library, shape, w.stride) else { return Ok(false) };
        let their_seconds = self.best(|| {
            let multiplied = plan.run(library, self, &x, &w, &mut theirs);
            multiplied.map_err(|error| DeviceError::new(error.to_string()))
        });
        let Ok(their_seconds) = their_seconds else { return Ok(false) };
        let (mut expected, mut got) = (vec![0.0; m * n], vec![0.0; m * n]);
        self.read(&ours, &mut expected)?;
        self.read(&theirs, &mut got)?;
        let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
        let agrees = expected.iter().zip(&got).all(|(a, b)| (a - b).abs() <= largest * TOLERANCE);
        let chosen = agrees && their_seconds < our_seconds;
        if chosen {
            library.plans().insert(shape, plan);
        }
        Ok(chosen)
    }
}
