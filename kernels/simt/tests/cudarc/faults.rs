//! Drivers and devices that fail: each switch, as a program sees it.

use cudarc::driver::sys::{CUresult, cuDriverGetVersion, cuStreamQuery};
use cudarc::driver::{CudaContext, DriverError};
use cudarc::nvrtc::Ptx;

use crate::child::with_driver;
use crate::program::{Program, SCALE, fails, scaled};

#[test]
fn a_driver_without_devices_says_so_at_once() {
    let name = "faults::a_driver_without_devices_says_so_at_once";
    with_driver(name, &[("SIMT_DEVICES", "0")], || {
        fails(CudaContext::new(0), CUresult::CUDA_ERROR_NO_DEVICE);
        let error = DriverError(CUresult::CUDA_ERROR_NO_DEVICE);
        assert_eq!(error.error_name().unwrap(), c"CUDA_ERROR_NO_DEVICE");
    });
}

#[test]
fn an_old_driver_tells_its_version_and_refuses_newer_programs() {
    let name = "faults::an_old_driver_tells_its_version_and_refuses_newer_programs";
    with_driver(name, &[("SIMT_DRIVER", "11020")], || {
        let mut version = 0;
        // SAFETY: a number to write to.
        unsafe { cuDriverGetVersion(&raw mut version) }.result().unwrap();
        assert_eq!(version, 11_020);
        let context = CudaContext::new(0).unwrap();
        let load = |version| context.load_module(Ptx::from_src(SCALE.replace("7.0", version)));
        assert!(load("7.2").is_ok());
        fails(load("7.3"), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    });
}

#[test]
fn a_driver_reads_no_newer_programs_than_it_is_told() {
    let name = "faults::a_driver_reads_no_newer_programs_than_it_is_told";
    with_driver(name, &[("SIMT_PTX", "7.1")], || {
        let context = CudaContext::new(0).unwrap();
        let newer = context.load_module(Ptx::from_src(SCALE.replace("7.0", "7.2")));
        fails(newer, CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    });
}

#[test]
fn the_chosen_allocation_fails_and_the_next_succeeds() {
    let name = "faults::the_chosen_allocation_fails_and_the_next_succeeds";
    with_driver(name, &[("SIMT_FAIL_ALLOC", "2")], || {
        let program = Program::start(0).unwrap();
        let _first = program.numbers().unwrap();
        fails(program.numbers(), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let third = program.numbers().unwrap();
        assert_eq!(program.read(&third).unwrap(), scaled(&[]));
    });
}

#[test]
fn the_chosen_launch_is_refused_and_the_context_lives() {
    let name = "faults::the_chosen_launch_is_refused_and_the_context_lives";
    with_driver(name, &[("SIMT_FAIL_LAUNCH", "2")], || {
        let program = Program::start(0).unwrap();
        let mut values = program.numbers().unwrap();
        program.scale(&program.stream, &mut values, 2).unwrap();
        let refused = program.scale(&program.stream, &mut values, 2);
        fails(refused, CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
        program.scale(&program.stream, &mut values, 3).unwrap();
        assert_eq!(program.read(&values).unwrap(), scaled(&[2, 3]));
    });
}

#[test]
fn a_fault_is_told_at_the_next_wait_and_ever_after() {
    let name = "faults::a_fault_is_told_at_the_next_wait_and_ever_after";
    with_driver(name, &[("SIMT_FAULT_LAUNCH", "2")], || {
        let program = Program::start(0).unwrap();
        let mut values = program.numbers().unwrap();
        for _ in 0..3 {
            program.scale(&program.stream, &mut values, 2).unwrap();
        }
        let failed = CUresult::CUDA_ERROR_LAUNCH_FAILED;
        fails(program.stream.synchronize(), failed);
        fails(program.stream.synchronize(), failed);
        fails(program.scale(&program.stream, &mut values, 2), failed);
        fails(program.numbers(), failed);
        fails(program.context.mem_get_info(), failed);
        // What the device is, it still tells.
        assert_eq!(program.context.compute_capability().unwrap(), (8, 0));
    });
}

#[test]
fn a_wild_index_is_an_illegal_address_for_good() {
    let name = "faults::a_wild_index_is_an_illegal_address_for_good";
    with_driver(name, &[], || {
        let program = Program::start(0).unwrap();
        let mut values = program.numbers().unwrap();
        let count = values.len() as u32 + 1;
        program.scale_counted(&program.stream, &mut values, count, 2).unwrap();
        let illegal = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
        fails(program.read(&values), illegal);
        fails(program.context.synchronize(), illegal);
    });
}

#[test]
fn a_launch_that_hangs_holds_its_stream_alone_and_no_other_thread() {
    let name = "faults::a_launch_that_hangs_holds_its_stream_alone_and_no_other_thread";
    with_driver(name, &[("SIMT_HANG_LAUNCH", "1")], || {
        let program = Program::start(0).unwrap();
        let other = program.context.new_stream().unwrap();
        let (mut lost, mut values) = (program.numbers().unwrap(), program.numbers().unwrap());
        program.stream.synchronize().unwrap();
        program.scale(&program.stream, &mut lost, 2).unwrap();
        let event = program.stream.record_event(None).unwrap();
        for _ in 0..3 {
            assert!(!event.try_is_complete().unwrap());
            // SAFETY: the program's own stream.
            let query = unsafe { cuStreamQuery(program.stream.cu_stream()) };
            assert_eq!(query, CUresult::CUDA_ERROR_NOT_READY);
        }
        let stream = program.stream.clone();
        // Blocks until the process ends: SIMT_HANG_MS is ten minutes.
        std::thread::spawn(move || stream.synchronize());
        program.scale(&other, &mut values, 3).unwrap();
        assert_eq!(other.clone_dtoh(&values).unwrap(), scaled(&[3]));
        assert!(!event.try_is_complete().unwrap());
        // Freeing would wait for the device.
        std::mem::forget((lost, values, program));
    });
}

#[test]
fn the_wait_for_a_hanging_launch_has_an_end() {
    let name = "faults::the_wait_for_a_hanging_launch_has_an_end";
    with_driver(name, &[("SIMT_HANG_LAUNCH", "2"), ("SIMT_HANG_MS", "20")], || {
        let program = Program::start(0).unwrap();
        let mut values = program.numbers().unwrap();
        program.scale(&program.stream, &mut values, 2).unwrap();
        program.stream.synchronize().unwrap();
        program.scale(&program.stream, &mut values, 2).unwrap();
        let event = program.stream.record_event(None).unwrap();
        fails(event.synchronize(), CUresult::CUDA_ERROR_LAUNCH_TIMEOUT);
        fails(program.stream.synchronize(), CUresult::CUDA_ERROR_LAUNCH_TIMEOUT);
    });
}

/// A program that only replays graphs must be met by the switches too.
#[test]
fn a_replay_counts_as_one_launch() {
    use cudarc::driver::sys::{CUgraphInstantiate_flags as Flags, CUstreamCaptureMode as Mode};
    let name = "faults::a_replay_counts_as_one_launch";
    with_driver(name, &[("SIMT_FAIL_LAUNCH", "3")], || {
        let program = Program::start(0).unwrap();
        let mut values = program.numbers().unwrap();
        program.stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        for factor in [2, 3] {
            program.scale(&program.stream, &mut values, factor).unwrap();
        }
        let graph = program.stream.end_capture(Flags(0)).unwrap().unwrap();
        graph.launch().unwrap();
        graph.launch().unwrap();
        fails(graph.launch(), CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
        assert_eq!(program.read(&values).unwrap(), scaled(&[2, 3, 2, 3]));
    });
}
