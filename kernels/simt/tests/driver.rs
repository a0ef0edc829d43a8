//! The cdylib as a CUDA program meets it: loaded by name, called through the C functions.

use std::ffi::{CString, c_void};
use std::path::PathBuf;

use libloading::{Library, Symbol};

const ADD_ONE: &str = ".version 7.8 .target sm_80 .address_size 64
    .visible .entry add_one(.param .u64 ptr, .param .u32 count) {
    .reg .b64 p, o; .reg .b32 i, n, v; .reg .pred out;
    ld.param.u64 p, [ptr]; ld.param.u32 n, [count]; mov.u32 i, %tid.x;
    setp.ge.u32 out, i, n; @out ret;
    mul.wide.u32 o, i, 4; add.s64 p, p, o;
    ld.global.u32 v, [p]; add.s32 v, v, 1; st.global.u32 [p], v; ret; }";

struct Cuda(Library);

impl Cuda {
    fn load() -> Cuda {
        let test = std::env::current_exe().expect("the test's own path");
        let path: PathBuf = test.with_file_name("libsimt.so");
        // SAFETY: the library of this crate; it runs nothing on loading.
        Cuda(unsafe { Library::new(&path) }.expect("cargo builds the cdylib beside the tests"))
    }

    /// Calls a function of up to eleven words, as every cu* function takes.
    fn call(&self, name: &str, args: &[usize]) -> i32 {
        type Words = unsafe extern "C" fn(
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
        ) -> i32;
        let mut all = [0; 11];
        all[..args.len()].copy_from_slice(args);
        let [a, b, c, d, e, f, g, h, i, j, k] = all;
        // SAFETY: integers and pointers are one word each in the C ABI of x86-64 and aarch64, and
        // words a function does not take are ignored by it.
        unsafe {
            let function: Symbol<'_, Words> = self.0.get(name.as_bytes()).expect(name);
            function(a, b, c, d, e, f, g, h, i, j, k)
        }
    }

    #[track_caller]
    fn ok(&self, name: &str, args: &[usize]) {
        assert_eq!(self.call(name, args), 0, "{name}");
    }

    /// Calls a function whose first argument takes its result.
    #[track_caller]
    fn get(&self, name: &str, args: &[usize]) -> usize {
        let mut out = 0usize;
        let mut all = vec![&raw mut out as usize];
        all.extend(args);
        self.ok(name, &all);
        out
    }
}

fn address<T>(value: &T) -> usize {
    std::ptr::from_ref(value) as usize
}

/// One test: the driver's state belongs to the process.
#[test]
fn a_program_runs_a_kernel_through_streams_events_and_a_graph() {
    let cuda = Cuda::load();
    assert_eq!(cuda.call("cuCtxSynchronize", &[]), 3, "cuInit comes first");
    cuda.ok("cuInit", &[0]);
    let context = cuda.get("cuDevicePrimaryCtxRetain", &[0]);
    cuda.ok("cuCtxSetCurrent", &[context]);
    let text = CString::new(ADD_ONE).unwrap();
    let module = cuda.get("cuModuleLoadData", &[text.as_ptr() as usize]);
    let name = CString::new("add_one").unwrap();
    let function = cuda.get("cuModuleGetFunction", &[module, name.as_ptr() as usize]);
    let (stream, other) = (cuda.get("cuStreamCreate", &[1]), cuda.get("cuStreamCreate", &[1]));
    let event = cuda.get("cuEventCreate", &[0]);

    let n = 40u32;
    let mut values: Vec<u32> = (0..n).collect();
    let bytes = 4 * n as usize;
    let device = cuda.get("cuMemAllocAsync", &[bytes, stream]);
    cuda.ok("cuMemcpyHtoDAsync_v2", &[device, values.as_ptr() as usize, bytes, stream]);
    let args: [*const c_void; 2] = [(&raw const device).cast(), (&raw const n).cast()];
    let launch = |stream: usize| {
        cuda.ok(
            "cuLaunchKernel",
            &[function, 1, 1, 1, 64, 1, 1, 0, stream, args.as_ptr() as usize, 0],
        );
    };
    launch(stream);
    cuda.ok("cuEventRecord", &[event, stream]);
    cuda.ok("cuStreamWaitEvent", &[other, event, 0]);
    launch(other);
    cuda.ok("cuEventRecord", &[event, other]);
    cuda.ok("cuStreamWaitEvent", &[stream, event, 0]);
    cuda.ok("cuStreamBeginCapture_v2", &[stream, 1]);
    launch(stream);
    assert_eq!(cuda.call("cuStreamSynchronize", &[stream]), 900, "not while capturing");
    let mut graph = 0usize;
    cuda.ok("cuStreamEndCapture", &[stream, &raw mut graph as usize]);
    let executable = cuda.get("cuGraphInstantiateWithFlags", &[graph, 0]);
    for _ in 0..3 {
        cuda.ok("cuGraphLaunch", &[executable, stream]);
    }
    cuda.ok("cuMemcpyDtoHAsync_v2", &[values.as_mut_ptr() as usize, device, bytes, stream]);
    assert_eq!(values, (5..n + 5).collect::<Vec<_>>(), "two launches and three of the graph");

    assert_eq!(cuda.call("cuModuleUnload", &[7]), 400, "a handle nobody gave");
    let mut sentence = 0usize;
    cuda.ok("cuGetErrorName", &[400, &raw mut sentence as usize]);
    assert_ne!(sentence, 0);

    // Beyond the allocation: the fault is told at the wait, and the context is lost for good.
    let wild = n + 1;
    let args: [*const c_void; 2] = [(&raw const device).cast(), (&raw const wild).cast()];
    let words = [function, 1, 1, 1, 64, 1, 1, 0, stream, address(&args), 0];
    cuda.ok("cuLaunchKernel", &words);
    assert_eq!(cuda.call("cuStreamSynchronize", &[stream]), 700);
    assert_eq!(cuda.call("cuStreamSynchronize", &[other]), 700);
}
