//! Several devices: each with its own memory, streams and fate.

use cudarc::driver::CudaContext;
use cudarc::driver::result::{self, ctx};
use cudarc::driver::sys::CUresult;

use crate::child::with_driver;
use crate::program::{COUNT, Program, fails, scaled};

#[test]
fn devices_compute_beside_each_other_from_threads_of_their_own() {
    let name = "devices::devices_compute_beside_each_other_from_threads_of_their_own";
    with_driver(name, &[("SIMT_DEVICES", "2"), ("SIMT_MEMORY", "4096")], || {
        assert_eq!(CudaContext::device_count().unwrap(), 2);
        fails(CudaContext::new(2), CUresult::CUDA_ERROR_INVALID_DEVICE);
        let run = |ordinal: usize| {
            let program = Program::start(ordinal).unwrap();
            let mut values = program.numbers().unwrap();
            for _ in 0..3 {
                program.scale(&program.stream, &mut values, 2 + ordinal as u32).unwrap();
            }
            assert_eq!(program.context.mem_get_info().unwrap(), (4096 - 4 * COUNT, 4096));
            program.read(&values).unwrap()
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(|| run(1));
            assert_eq!(run(0), scaled(&[2, 2, 2]));
            assert_eq!(other.join().unwrap(), scaled(&[3, 3, 3]));
        });
        let ids = [0, 1].map(|ordinal| CudaContext::new(ordinal).unwrap().uuid().unwrap().bytes);
        assert_ne!(ids[0], ids[1]);
    });
}

#[test]
fn a_device_knows_neither_the_streams_nor_the_memory_of_another() {
    let name = "devices::a_device_knows_neither_the_streams_nor_the_memory_of_another";
    with_driver(name, &[("SIMT_DEVICES", "2")], || {
        let (first, second) = (Program::start(0).unwrap(), Program::start(1).unwrap());
        let mut values = first.numbers().unwrap();
        first.stream.synchronize().unwrap();
        second.context.bind_to_thread().unwrap();
        // SAFETY: handles of another device, which is what the test is about.
        let foreign = unsafe { result::stream::synchronize(first.stream.cu_stream()) };
        fails(foreign, CUresult::CUDA_ERROR_INVALID_HANDLE);
        second.scale(&second.stream, &mut values, 2).unwrap();
        fails(second.stream.synchronize(), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        // The fault is the second device's alone.
        first.scale(&first.stream, &mut values, 2).unwrap();
        assert_eq!(first.read(&values).unwrap(), scaled(&[2]));
        // SAFETY: no context.
        unsafe { ctx::set_current(std::ptr::null_mut()) }.unwrap();
        fails(result::mem_get_info(), CUresult::CUDA_ERROR_INVALID_CONTEXT);
    });
}
