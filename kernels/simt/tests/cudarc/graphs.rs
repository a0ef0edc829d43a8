//! Captured graphs over one and several streams.

use cudarc::driver::sys::{
    CUgraphInstantiate_flags as Flags, CUresult, CUstreamCaptureMode, CUstreamCaptureStatus,
};
use cudarc::driver::{CudaGraph, CudaStream, DriverError};

use crate::child::with_driver;
use crate::program::{COUNT, Program, fails, scaled};

fn begin(stream: &CudaStream) {
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).expect("no capture is open");
}

fn end(program: &Program) -> Result<CudaGraph, DriverError> {
    Ok(program.stream.end_capture(Flags(0))?.expect("a capture makes a graph"))
}

#[test]
fn a_graph_over_two_streams_replays_in_its_order() {
    for seed in ["1", "2", "3", "4"] {
        let name = "graphs::a_graph_over_two_streams_replays_in_its_order";
        with_driver(name, &[("SIMT_SEED", seed)], || {
            let program = Program::start(0).unwrap();
            let side = program.context.new_stream().unwrap();
            let (mut left, mut right) = (program.numbers().unwrap(), program.numbers().unwrap());
            begin(&program.stream);
            program.scale(&program.stream, &mut right, 2).unwrap();
            side.join(&program.stream).unwrap();
            let status = side.capture_status().unwrap();
            assert_eq!(status, CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
            program.scale(&side, &mut right, 3).unwrap();
            program.scale(&program.stream, &mut left, 5).unwrap();
            program.stream.join(&side).unwrap();
            program.scale(&program.stream, &mut right, 7).unwrap();
            let graph = end(&program).unwrap();
            assert_eq!(program.read(&right).unwrap(), scaled(&[]), "capturing runs nothing");
            graph.upload().unwrap();
            graph.launch().unwrap();
            graph.launch().unwrap();
            assert_eq!(program.read(&right).unwrap(), scaled(&[2, 3, 7, 2, 3, 7]));
            assert_eq!(program.read(&left).unwrap(), scaled(&[5, 5]));
        });
    }
}

/// The copy inside a graph belongs to each replay: what it reads then counts.
#[test]
fn a_captured_copy_reads_the_host_at_each_replay() {
    let name = "graphs::a_captured_copy_reads_the_host_at_each_replay";
    with_driver(name, &[], || {
        let program = Program::start(0).unwrap();
        let mut values = program.numbers().unwrap();
        let mut host = [4u32; COUNT];
        begin(&program.stream);
        program.stream.memcpy_htod(&host, &mut values).unwrap();
        program.scale(&program.stream, &mut values, 2).unwrap();
        let graph = end(&program).unwrap();
        for number in [4, 9] {
            // SAFETY: an array of this frame that nothing else uses while the graph is idle.
            unsafe { std::ptr::write_volatile(&raw mut host, [number; COUNT]) };
            graph.launch().unwrap();
            assert_eq!(program.read(&values).unwrap(), [2 * number + 1; COUNT]);
        }
    });
}

#[test]
fn a_capture_refuses_what_a_graph_cannot_hold() {
    let name = "graphs::a_capture_refuses_what_a_graph_cannot_hold";
    with_driver(name, &[], || {
        let program = Program::start(0).unwrap();
        let side = program.context.new_stream().unwrap();
        let mut values = program.numbers().unwrap();
        let outside = side.record_event(None).unwrap();

        begin(&program.stream);
        fails(program.stream.synchronize(), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        let isolated = CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
        fails(program.stream.wait(&outside), isolated);
        fails(end(&program), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        begin(&program.stream);
        side.join(&program.stream).unwrap();
        program.scale(&side, &mut values, 2).unwrap();
        fails(end(&program), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);

        begin(&program.stream);
        let inside = program.stream.record_event(None).unwrap();
        fails(inside.synchronize(), CUresult::CUDA_ERROR_CAPTURED_EVENT);
        end(&program).unwrap().launch().unwrap();
        assert_eq!(program.read(&values).unwrap(), scaled(&[]), "all of it was refused");
    });
}
