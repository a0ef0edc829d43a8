//! A program's ordinary calls: memory of every kind, copies, events, modules, functions.

use std::ffi::c_void;
use std::sync::mpsc::{Sender, channel};

use cudarc::driver::result::{self, stream::launch_host_function};
use cudarc::driver::sys::{
    CUdevice_attribute_enum as Attribute, CUfunction_attribute_enum as FunctionAttribute,
    CUmemPool_attribute_enum as PoolAttribute, CUresult,
};
use cudarc::driver::{CudaContext, CudaFunction, LaunchConfig};
use cudarc::nvrtc::Ptx;

use crate::child::with_driver;
use crate::program::{COUNT, Program, SCALE, fails, scaled, timed};

#[test]
fn a_program_computes_on_stream_ordered_and_on_plain_memory() {
    for pools in ["1", "0"] {
        let name = "calls::a_program_computes_on_stream_ordered_and_on_plain_memory";
        with_driver(name, &[("SIMT_POOLS", pools)], || {
            let program = Program::start(0).unwrap();
            let pooled = std::env::var("SIMT_POOLS").unwrap() == "1";
            assert_eq!(program.context.has_async_alloc(), pooled);
            let mut values = program.numbers().unwrap();
            program.scale(&program.stream, &mut values, 3).unwrap();
            assert_eq!(program.read(&values).unwrap(), scaled(&[3]));
            let copy = program.stream.clone_dtod(&values).unwrap();
            program.stream.memset_zeros(&mut values).unwrap();
            assert_eq!(program.read(&values).unwrap(), [0; COUNT]);
            assert_eq!(program.read(&copy).unwrap(), scaled(&[3]));
            let part = copy.slice(3..5);
            assert_eq!(program.stream.clone_dtoh(&part).unwrap(), scaled(&[3])[3..5]);
        });
    }
}

#[test]
fn memory_is_counted_and_comes_back() {
    let name = "calls::memory_is_counted_and_comes_back";
    with_driver(name, &[("SIMT_MEMORY", "65536")], || {
        let program = Program::start(0).unwrap();
        let (free, total) = program.context.mem_get_info().unwrap();
        assert_eq!((free, total, program.context.total_mem().unwrap()), (65536, 65536, 65536));
        let values = program.numbers().unwrap();
        assert_eq!(program.context.mem_get_info().unwrap().0, 65536 - 4 * COUNT);
        // SAFETY: never read.
        fails(unsafe { program.stream.alloc::<u8>(65536) }, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        drop(values);
        program.context.synchronize().unwrap();
        assert_eq!(program.context.mem_get_info().unwrap().0, 65536);
    });
}

#[test]
fn pinned_memory_is_read_and_written_when_the_copy_runs() {
    let name = "calls::pinned_memory_is_read_and_written_when_the_copy_runs";
    with_driver(name, &[], || {
        let program = Program::start(0).unwrap();
        // SAFETY: written before it is read.
        let mut pinned = unsafe { program.context.alloc_pinned::<u32>(COUNT) }.unwrap();
        pinned.as_mut_slice().unwrap().fill(1);
        // SAFETY: written by the copy.
        let mut values = unsafe { program.stream.alloc::<u32>(COUNT) }.unwrap();
        // SAFETY: plain numbers; the pointer lives as long as the pinned slice.
        let host = unsafe { std::slice::from_raw_parts_mut(pinned.as_mut_ptr().unwrap(), COUNT) };
        program.stream.memcpy_htod(host, &mut values).unwrap();
        // Too early: the copy has not been waited for, and carries what it finds.
        host.fill(2);
        program.stream.synchronize().unwrap();
        assert_eq!(program.read(&values).unwrap(), [2; COUNT]);

        program.scale(&program.stream, &mut values, 5).unwrap();
        program.stream.memcpy_dtoh(&values, host).unwrap();
        assert_eq!(host, [2; COUNT], "nobody has waited for the copy");
        program.stream.synchronize().unwrap();
        assert_eq!(host, [11; COUNT]);
    });
}

#[test]
fn events_order_streams_and_answer_polls() {
    let name = "calls::events_order_streams_and_answer_polls";
    with_driver(name, &[], || {
        let program = Program::start(0).unwrap();
        let other = program.context.new_stream().unwrap();
        let mut values = program.numbers().unwrap();
        let start = program.stream.record_event(timed()).unwrap();
        program.scale(&program.stream, &mut values, 2).unwrap();
        other.join(&program.stream).unwrap();
        program.scale(&other, &mut values, 7).unwrap();
        let end = other.record_event(timed()).unwrap();
        assert!(!end.try_is_complete().unwrap(), "queued work is not done yet");
        assert!(end.try_is_complete().unwrap(), "polling is progress");
        assert!(start.elapsed_ms(&end).unwrap() > 0.0);
        program.stream.wait(&end).unwrap();
        assert_eq!(program.read(&values).unwrap(), scaled(&[2, 7]));
    });
}

unsafe extern "C" fn tell(sender: *mut c_void) {
    // SAFETY: the box that the test leaked for this call.
    let sender = unsafe { Box::from_raw(sender.cast::<Sender<u32>>()) };
    sender.send(17).expect("the test waits");
}

#[test]
fn a_host_function_runs_behind_its_stream_without_a_wait() {
    let name = "calls::a_host_function_runs_behind_its_stream_without_a_wait";
    with_driver(name, &[], || {
        let program = Program::start(0).unwrap();
        let (sender, receiver) = channel::<u32>();
        let sender = Box::into_raw(Box::new(sender)).cast();
        // SAFETY: `tell` takes the box and calls no CUDA.
        unsafe { launch_host_function(program.stream.cu_stream(), tell, sender) }.unwrap();
        assert_eq!(receiver.recv(), Ok(17));
    });
}

#[test]
fn a_kernel_gets_the_shared_memory_it_asked_for_and_no_more() {
    let name = "calls::a_kernel_gets_the_shared_memory_it_asked_for_and_no_more";
    with_driver(name, &[], || {
        let program = Program::start(0).unwrap();
        let mut values = program.numbers().unwrap();
        let shape = LaunchConfig {
            grid_dim: (1, 1, 1),
            block_dim: (64, 1, 1),
            shared_mem_bytes: 96 * 1024,
        };
        let mut launch = |scale: &CudaFunction| {
            use cudarc::driver::PushKernelArg;
            let count = COUNT as u32;
            // SAFETY: the kernel's parameters, all within the slice.
            unsafe {
                let mut builder = program.stream.launch_builder(scale);
                builder.arg(&mut values).arg(&count).arg(&count).launch(shape).map(drop)
            }
        };
        fails(launch(&program.scale), CUresult::CUDA_ERROR_INVALID_VALUE);
        let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        program.scale.set_attribute(attribute, 96 * 1024).unwrap();
        launch(&program.scale).unwrap();
        let limit = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let limit = program.context.attribute(limit).unwrap();
        let beyond = program.scale.set_attribute(attribute, limit + 1);
        fails(beyond, CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(program.scale.max_threads_per_block().unwrap(), 1024);
        program.stream.synchronize().unwrap();
    });
}

#[test]
fn the_device_tells_what_it_is() {
    let name = "calls::the_device_tells_what_it_is";
    with_driver(name, &[("SIMT_CC", "90")], || {
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.name().unwrap(), "simt PTX emulator");
        assert_eq!(context.compute_capability().unwrap(), (9, 0));
        let warp = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE).unwrap();
        assert_eq!(warp, 32);
        // SAFETY: device 0 exists; the attribute is a 64-bit number.
        let kept = unsafe {
            let pool = result::device::get_default_mem_pool(context.cu_device()).unwrap();
            let attribute = PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            let mut bytes = 1u64 << 40;
            let value = (&raw mut bytes).cast();
            result::mem_pool::set_attribute(pool, attribute, value).unwrap();
            bytes = 0;
            let value = (&raw mut bytes).cast();
            result::mem_pool::get_attribute(pool, attribute, value).unwrap();
            bytes
        };
        assert_eq!(kept, 1 << 40);
    });
}

#[test]
fn what_is_no_program_has_its_own_error() {
    let name = "calls::what_is_no_program_has_its_own_error";
    with_driver(name, &[], || {
        let context = CudaContext::new(0).unwrap();
        let load = |text: &str| context.load_module(Ptx::from_src(text));
        fails(load("nonsense"), CUresult::CUDA_ERROR_INVALID_PTX);
        let newer = SCALE.replace("7.0", "9.1");
        fails(load(&newer), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
        let other_card = SCALE.replace("sm_80", "sm_90a");
        fails(load(&other_card), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        let module = load(SCALE).unwrap();
        fails(module.load_function("scales"), CUresult::CUDA_ERROR_NOT_FOUND);
        let error = module.load_function("scales").unwrap_err();
        assert_eq!(error.error_name().unwrap(), c"CUDA_ERROR_NOT_FOUND");
        assert_eq!(error.error_string().unwrap(), c"named symbol not found");
    });
}
