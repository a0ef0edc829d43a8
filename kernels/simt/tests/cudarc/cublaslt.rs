//! The emulated cuBLASLt through cudarc's raw layer, as an engine calls it.

use std::ffi::c_void;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    cublasComputeType_t as Compute, cublasLtEpilogue_t as Epilogue,
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulPreferenceAttributes_t as Wish,
    cublasStatus_t as Status, cudaDataType_t as DataType,
};
use cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode, cuMemsetD8Async,
};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use half::f16;

use crate::child::with_driver;
use crate::program::{Program, fails};

/// out[m, n] = x[m, k] weight[n, k]^T + bias[n], all row-major: for a column-major library the
/// transposed product, with the weight first.
struct Linear {
    m: usize,
    n: usize,
    k: usize,
    x: CudaSlice<f16>,
    weight: CudaSlice<f16>,
    bias: CudaSlice<f16>,
    out: CudaSlice<f16>,
    workspace: CudaSlice<u8>,
    workspace_bytes: usize,
    epilogue: Epilogue,
}

/// Halves in [-1, 1), of as many bits as halves have: sums round.
fn values(count: usize, salt: usize) -> Vec<f16> {
    (0..count)
        .map(|at| f16::from_f32(((at * 7919 + salt * 31) % 2047) as f32 / 1024.0 - 1.0))
        .collect()
}

impl Linear {
    fn new(program: &Program, m: usize, n: usize, k: usize) -> Linear {
        let upload = |values: &[f16]| program.stream.clone_htod(values).expect("memory");
        Linear {
            m,
            n,
            k,
            x: upload(&values(m * k, 1)),
            weight: upload(&values(n * k, 2)),
            bias: upload(&values(n, 3)),
            out: upload(&vec![f16::ZERO; m * n]),
            workspace: program.stream.alloc_zeros(8192).expect("memory"),
            workspace_bytes: 8192,
            epilogue: Epilogue::CUBLASLT_EPILOGUE_BIAS,
        }
    }

    /// Chooses an algorithm and multiplies on `stream`.
    fn run(&self, stream: &CudaStream) -> Result<(), CublasError> {
        let address = |slice: &CudaSlice<f16>| slice.device_ptr(stream).0;
        let (f16_type, f32_type) = (DataType::CUDA_R_16F, DataType::CUDA_R_32F);
        let (m, n, k) = (self.m as u64, self.n as u64, self.k as u64);
        let library = result::create_handle()?;
        let a = result::create_matrix_layout(f16_type, k, n, k as i64)?;
        let b = result::create_matrix_layout(f16_type, k, m, k as i64)?;
        let d = result::create_matrix_layout(f16_type, n, m, n as i64)?;
        let description = result::create_matmul_desc(Compute::CUBLAS_COMPUTE_32F, f32_type)?;
        let preference = result::create_matmul_pref()?;
        let (transposed, bias) = (1i32, address(&self.bias));
        let set = |attribute, value: *const c_void, bytes| {
            // SAFETY: each attribute's own type.
            unsafe { result::set_matmul_desc_attribute(description, attribute, value, bytes) }
        };
        set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, (&raw const transposed).cast(), 4)?;
        set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, (&raw const self.epilogue).cast(), 4)?;
        set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, (&raw const bias).cast(), 8)?;
        let most = (&raw const self.workspace_bytes).cast();
        let wish = Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let (alpha, beta) = (1.0f32, 0.0f32);
        // SAFETY: layouts and pointers of the slices above, of the sizes told.
        unsafe {
            result::set_matmul_pref_attribute(preference, wish, most, 8)?;
            let heuristic =
                result::get_matmul_algo_heuristic(library, description, a, b, d, d, preference)?;
            let out = address(&self.out);
            result::matmul(
                library,
                description,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                address(&self.weight) as *const c_void,
                a,
                address(&self.x) as *const c_void,
                b,
                out as *const c_void,
                d,
                out as *mut c_void,
                d,
                &raw const heuristic.algo,
                self.workspace.device_ptr(stream).0 as *mut c_void,
                self.workspace_bytes,
                stream.cu_stream().cast(),
            )?;
            result::destroy_matmul_pref(preference)?;
            result::destroy_matmul_desc(description)?;
            for layout in [a, b, d] {
                result::destroy_matrix_layout(layout)?;
            }
            result::destroy_handle(library)
        }
    }

    /// The largest difference from sums in f64, in units of 2^-11 of the value or of 1.
    fn error(&self, stream: &std::sync::Arc<CudaStream>) -> f64 {
        let (x, weight) = (values(self.m * self.k, 1), values(self.n * self.k, 2));
        let bias = values(self.n, 3);
        let with_bias = self.epilogue == Epilogue::CUBLASLT_EPILOGUE_BIAS;
        let out = stream.clone_dtoh(&self.out).expect("the result is there");
        let mut worst = 0.0f64;
        for (at, got) in out.iter().enumerate() {
            let (row, column) = (at / self.n, at % self.n);
            let product =
                |i: usize| x[row * self.k + i].to_f64() * weight[column * self.k + i].to_f64();
            let start = if with_bias { bias[column].to_f64() } else { 0.0 };
            let exact: f64 = start + (0..self.k).map(product).sum::<f64>();
            let error = (got.to_f64() - exact).abs() / exact.abs().max(1.0) * 2048.0;
            worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
        }
        worst
    }
}

#[test]
fn a_linear_layer_is_multiplied_with_and_without_bias() {
    let name = "cublaslt::a_linear_layer_is_multiplied_with_and_without_bias";
    with_driver(name, &[], || {
        let program = Program::start(0).unwrap();
        for (m, n, k) in [(5, 24, 40), (70, 16, 96), (1, 1, 1)] {
            for epilogue in [Epilogue::CUBLASLT_EPILOGUE_BIAS, Epilogue::CUBLASLT_EPILOGUE_DEFAULT]
            {
                let linear = Linear { epilogue, ..Linear::new(&program, m, n, k) };
                linear.run(&program.stream).unwrap();
                assert!(linear.error(&program.stream) <= 1.0, "{m} {n} {k} {epilogue:?}");
            }
        }
    });
}

/// As the real library's, which picks its kernel by the size.
#[test]
fn a_row_may_depend_on_the_number_of_rows() {
    let name = "cublaslt::a_row_may_depend_on_the_number_of_rows";
    with_driver(name, &[], || {
        let program = Program::start(0).unwrap();
        let [few, many] = [8, 80].map(|m| {
            let linear = Linear::new(&program, m, 64, 4096);
            linear.run(&program.stream).unwrap();
            program.stream.clone_dtoh(&linear.out).unwrap()
        });
        let same = few.iter().zip(&many).all(|(few, many)| few == many);
        assert!(!same, "a program that wants equal bits has to avoid it");
    });
}

#[test]
fn a_product_runs_in_the_order_of_its_stream() {
    let name = "cublaslt::a_product_runs_in_the_order_of_its_stream";
    with_driver(name, &[], || {
        let program = Program::start(0).unwrap();
        let linear = Linear::new(&program, 5, 24, 40);
        let stream = &program.stream;
        let x = linear.x.device_ptr(stream).0;
        linear.run(stream).unwrap();
        // SAFETY: the slice's own bytes.
        let clear = || unsafe { cuMemsetD8Async(x, 0, linear.x.num_bytes(), stream.cu_stream()) };
        clear().result().unwrap();
        assert!(linear.error(stream) <= 1.0, "the zeros came behind the product");
        linear.run(stream).unwrap();
        assert!(linear.error(stream) > 1.0, "and before the next");
    });
}

#[test]
fn a_product_is_a_node_of_a_graph() {
    let name = "cublaslt::a_product_is_a_node_of_a_graph";
    with_driver(name, &[], || {
        let program = Program::start(0).unwrap();
        let linear = Linear::new(&program, 5, 24, 40);
        let stream = &program.stream;
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        linear.run(stream).unwrap();
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
        assert!(linear.error(stream) > 1.0, "capturing runs nothing");
        graph.launch().unwrap();
        assert!(linear.error(stream) <= 1.0);
    });
}

#[test]
fn a_wrong_library_is_wrong_by_more_than_rounding() {
    let name = "cublaslt::a_wrong_library_is_wrong_by_more_than_rounding";
    with_driver(name, &[("SIMT_CUBLASLT_WRONG", "1")], || {
        let program = Program::start(0).unwrap();
        let linear = Linear::new(&program, 5, 24, 40);
        linear.run(&program.stream).unwrap();
        let error = linear.error(&program.stream);
        assert!((4.0..64.0).contains(&error), "{error}");
    });
}

#[test]
fn what_the_library_cannot_do_it_refuses() {
    let name = "cublaslt::what_the_library_cannot_do_it_refuses";
    with_driver(name, &[], || {
        let no_context = result::create_handle().unwrap_err();
        assert_eq!(no_context.0, Status::CUBLAS_STATUS_NOT_INITIALIZED);
        let program = Program::start(0).unwrap();
        let epilogue = Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS;
        let linear = Linear { epilogue, ..Linear::new(&program, 5, 24, 40) };
        let refused = linear.run(&program.stream).unwrap_err();
        assert_eq!(refused.0, Status::CUBLAS_STATUS_NOT_SUPPORTED);
    });
}

#[test]
fn a_product_uses_the_workspace_it_asked_for() {
    let name = "cublaslt::a_product_uses_the_workspace_it_asked_for";
    with_driver(name, &[], || {
        let program = Program::start(0).unwrap();
        let mut linear = Linear::new(&program, 5, 24, 40);
        linear.run(&program.stream).unwrap();
        let workspace = program.stream.clone_dtoh(&linear.workspace).unwrap();
        assert!(workspace.iter().any(|&byte| byte != 0), "what else stood there is lost");
        linear.workspace = program.stream.alloc_zeros(16).unwrap();
        linear.workspace_bytes = 16;
        linear.run(&program.stream).unwrap();
        let workspace = program.stream.clone_dtoh(&linear.workspace).unwrap();
        assert_eq!(workspace, [0; 16], "it can do without");
        assert!(linear.error(&program.stream) <= 1.0);
    });
}

#[test]
fn a_product_beyond_an_allocation_ends_the_context() {
    let name = "cublaslt::a_product_beyond_an_allocation_ends_the_context";
    with_driver(name, &[], || {
        let program = Program::start(0).unwrap();
        let mut linear = Linear::new(&program, 5, 24, 40);
        linear.m = 6;
        linear.run(&program.stream).unwrap();
        fails(program.stream.synchronize(), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        linear.m = 5;
        let late = linear.run(&program.stream).unwrap_err();
        assert_eq!(late.0, Status::CUBLAS_STATUS_EXECUTION_FAILED);
    });
}

#[test]
fn a_product_counts_as_a_launch() {
    let name = "cublaslt::a_product_counts_as_a_launch";
    with_driver(name, &[("SIMT_FAIL_LAUNCH", "2")], || {
        let program = Program::start(0).unwrap();
        let linear = Linear::new(&program, 5, 24, 40);
        linear.run(&program.stream).unwrap();
        let refused = linear.run(&program.stream).unwrap_err();
        assert_eq!(refused.0, Status::CUBLAS_STATUS_EXECUTION_FAILED);
    });
}
