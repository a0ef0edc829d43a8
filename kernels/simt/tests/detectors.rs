//! Each detector, proved by a kernel that has exactly that bug, and by its twin that has not.

use simt::{Arg, Counters, Fault, FaultKind, Machine, MemoryFault, Options, RaceKind};

/// Runs `body` on `threads` threads; `p` points at 256 bytes, `%r` registers and `smem` are there.
fn run(body: &str, threads: u32, options: &Options) -> Result<(Counters, Vec<u8>), Fault> {
    let text = format!(
        ".version 7.8 .target sm_80 .address_size 64
         .visible .entry k(.param .u64 ptr) {{
         .reg .b64 p, q, %rd<4>; .reg .b32 tid, lane, warp, s, %r<8>; .reg .pred %p<4>;
         .reg .f32 %f<4>;
         .shared .align 16 .b8 smem[1024];
         ld.param.u64 p, [ptr];
         mov.u32 tid, %tid.x; and.b32 lane, tid, 31; shr.u32 warp, tid, 5;
         shl.b32 s, tid, 2; mov.u32 %r7, smem; add.s32 s, s, %r7;
         {body} ret; }}"
    );
    let mut machine = Machine::new(options.clone());
    let module = machine.load(&text).expect("the kernel is PTX");
    let ptr = machine.alloc(256).expect("memory");
    let counters = machine.launch(&module, "k", 1, threads, 0, &[Arg::Ptr(ptr)])?;
    let mut out = vec![0; 256];
    machine.copy_out(ptr, &mut out).expect("the result is there");
    Ok((counters, out))
}

fn fault(body: &str, threads: u32) -> FaultKind {
    run(body, threads, &Options::default()).expect_err("the kernel has a bug").kind
}

fn passes(body: &str, threads: u32) -> Vec<u8> {
    run(body, threads, &Options::default()).expect("the kernel is right").1
}

const EXCHANGE: &str = "st.shared.b32 [s], tid; {barrier}
    xor.b32 %r1, tid, 32; shl.b32 %r1, %r1, 2; add.s32 %r1, %r1, %r7;
    ld.shared.b32 %r2, [%r1];";

#[test]
fn a_read_of_another_warps_write_needs_a_barrier() {
    let race = fault(&EXCHANGE.replace("{barrier}", ""), 64);
    assert!(matches!(race, FaultKind::Race { .. }), "{race}");
    passes(&EXCHANGE.replace("{barrier}", "bar.sync 0;"), 64);
}

#[test]
fn two_warps_writing_one_word_race() {
    let body = "st.shared.b32 [smem], tid;";
    let race = fault(body, 64);
    assert!(matches!(race, FaultKind::Race { kind: RaceKind::WriteAfterWrite, .. }), "{race}");
    passes(body, 32);
    passes("red.shared.add.u32 [smem], 1;", 64);
}

const NEIGHBOUR: &str = "st.shared.b32 [s], tid; {sync}
    xor.b32 %r1, tid, 1; shl.b32 %r1, %r1, 2; add.s32 %r1, %r1, %r7;
    ld.shared.b32 %r2, [%r1]; {again} st.shared.b32 [s], %r2;";

#[test]
fn lanes_of_one_warp_need_a_sync_as_warps_need_a_barrier() {
    let body =
        |sync: &str, again: &str| NEIGHBOUR.replace("{sync}", sync).replace("{again}", again);
    let early = fault(&body("", "bar.warp.sync 0xffffffff;"), 32);
    assert_eq!(early, FaultKind::LaneRace { kind: RaceKind::ReadAfterWrite, offset: 4 });
    let late = fault(&body("bar.warp.sync 0xffffffff;", ""), 32);
    assert_eq!(late, FaultKind::LaneRace { kind: RaceKind::WriteAfterRead, offset: 0 });
    // A shuffle brings the lanes together and orders no memory.
    let shuffled = "shfl.sync.bfly.b32 %r3, tid, 1, 31, 0xffffffff;";
    assert!(matches!(fault(&body(shuffled, ""), 32), FaultKind::LaneRace { .. }));
    passes(&body("bar.warp.sync 0xffffffff;", "bar.warp.sync 0xffffffff;"), 32);
    passes(&body("bar.sync 0;", "bar.sync 0;"), 32);
}

#[test]
fn ldmatrix_reads_what_no_lane_has_just_written() {
    let body = "st.shared.v4.b32 [s], {tid, tid, tid, tid}; {sync}
        ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [s];";
    let body = format!("shl.b32 s, lane, 4; add.s32 s, s, %r7; {body}");
    let race = fault(&body.replace("{sync}", ""), 32);
    assert!(matches!(race, FaultKind::LaneRace { .. }), "{race}");
    passes(&body.replace("{sync}", "bar.warp.sync 0xffffffff;"), 32);
}

#[test]
fn a_copy_that_one_lane_has_waited_for_is_not_yet_the_others() {
    let body = "cp.async.ca.shared.global [s], [p], 4; cp.async.commit_group;
        cp.async.wait_group 0; {sync}
        xor.b32 %r1, tid, 1; shl.b32 %r1, %r1, 2; add.s32 %r1, %r1, %r7;
        ld.shared.b32 %r2, [%r1];";
    let race = fault(&body.replace("{sync}", ""), 32);
    assert!(matches!(race, FaultKind::LaneRace { .. }), "{race}");
    passes(&body.replace("{sync}", "bar.warp.sync 0xffffffff;"), 32);
}

#[test]
fn a_race_is_found_whatever_the_order_of_warps() {
    for seed in 0..16 {
        let options = Options { seed, ..Options::default() };
        assert!(run(&EXCHANGE.replace("{barrier}", ""), 128, &options).is_err(), "seed {seed}");
        assert!(run(&EXCHANGE.replace("{barrier}", "bar.sync 0;"), 128, &options).is_ok());
    }
}

#[test]
fn a_barrier_in_a_branch_of_some_lanes_is_divergent() {
    let body = "setp.lt.u32 %p0, lane, 16; @!%p0 bra over; bar.sync 0; over:";
    let kind = fault(body, 32);
    assert_eq!(kind, FaultKind::Divergent { active: 0xffff, expected: u32::MAX });
    let guarded = fault("setp.lt.u32 %p0, lane, 16; @%p0 bar.sync 0;", 32);
    assert!(matches!(guarded, FaultKind::Divergent { .. }), "{guarded}");
}

#[test]
fn a_barrier_that_some_warps_miss_is_found() {
    let exited = fault("setp.eq.u32 %p0, warp, 1; @%p0 ret; bar.sync 0;", 64);
    assert!(matches!(exited, FaultKind::DivergentBarrier { .. }), "{exited}");
    let crossed = fault(
        "setp.eq.u32 %p0, warp, 1; @%p0 bra other; bar.sync 0; bra end; other: bar.sync 0; end:",
        64,
    );
    assert!(matches!(crossed, FaultKind::DivergentBarrier { .. }), "{crossed}");
    let deadlock = fault(
        "setp.eq.u32 %p0, warp, 1; @%p0 bra other; bar.sync 1; bra end; other: bar.sync 2; end:",
        64,
    );
    assert_eq!(deadlock, FaultKind::Deadlock { waiting: 2 });
}

#[test]
fn named_barriers_join_the_warps_they_count() {
    passes(
        "setp.ge.u32 %p0, warp, 2; @%p0 bra end;
         setp.eq.u32 %p1, warp, 0; @%p1 bar.arrive 1, 64; @!%p1 bar.sync 1, 64; end:",
        128,
    );
}

#[test]
fn lanes_that_took_different_ways_meet_again() {
    // A nested branch and a loop of lane-dependent length, then a shuffle that needs all.
    let out = passes(
        "mov.u32 %r1, 0; setp.lt.u32 %p0, lane, 16; @%p0 bra low;
         add.s32 %r1, %r1, 100; bra join;
         low: setp.lt.u32 %p1, lane, 8; @%p1 bra join; add.s32 %r1, %r1, 10;
         join: mov.u32 %r2, 0;
         loop: setp.gt.u32 %p2, %r2, lane; @%p2 bra done;
         add.s32 %r2, %r2, 1; bra loop;
         done: shfl.sync.bfly.b32 %r3, %r1, 31, 31, -1;
         add.s32 %r4, %r3, %r2;
         mul.wide.u32 q, tid, 4; add.s64 q, q, p; st.global.u32 [q], %r4;",
        32,
    );
    let word = |lane: usize| u32::from_le_bytes(out[4 * lane..4 * lane + 4].try_into().unwrap());
    assert_eq!((word(0), word(15), word(20), word(31)), (101, 116, 31, 32));
}

const COPY: &str = "shl.b32 %r1, tid, 4; mov.u32 %r2, smem; add.s32 %r2, %r2, %r1;
    and.b32 %r1, %r1, 240; cvt.u64.u32 q, %r1; add.s64 q, q, p;
    st.global.v4.b32 [q], {tid, tid, tid, tid};
    cp.async.cg.shared.global [%r2], [q], 16; cp.async.commit_group;
    {wait} ld.shared.b32 %r3, [%r2];";

#[test]
fn a_copy_is_not_there_before_its_wait() {
    let missing = fault(&COPY.replace("{wait}", ""), 16);
    assert!(matches!(missing, FaultKind::MissingWait { .. }), "{missing}");
    let too_many = fault(&COPY.replace("{wait}", "cp.async.wait_group 1;"), 16);
    assert!(matches!(too_many, FaultKind::MissingWait { .. }), "{too_many}");
    passes(&COPY.replace("{wait}", "cp.async.wait_group 0;"), 16);
    passes(&COPY.replace("{wait}", "cp.async.wait_all;"), 16);
}

#[test]
fn without_race_detection_a_missing_wait_shows_as_nan() {
    let options = Options { detect_races: false, ..Options::default() };
    let body = COPY.replace("{wait}", "") + "st.global.b32 [p], %r3;";
    let (_, out) = run(&body, 1, &options).unwrap();
    assert!(f32::from_le_bytes(out[..4].try_into().unwrap()).is_nan());
}

#[test]
fn the_wait_of_one_warp_is_no_barrier_for_another() {
    let body = COPY.replace(
        "{wait}",
        "cp.async.wait_group 0; {barrier}
         shl.b32 %r1, tid, 4; xor.b32 %r1, %r1, 512; mov.u32 %r2, smem; add.s32 %r2, %r2, %r1;",
    );
    let race = fault(&body.replace("{barrier}", ""), 64);
    assert!(matches!(race, FaultKind::Race { .. } | FaultKind::MissingWait { .. }), "{race}");
    passes(&body.replace("{barrier}", "bar.sync 0;"), 64);
}

#[test]
fn the_source_size_of_a_copy_fills_with_zeros() {
    let out = passes(
        "st.global.v4.b32 [p], {tid, tid, tid, tid}; mov.u32 %r1, 7; st.global.b32 [p], %r1;
         mov.u32 %r2, 4; mov.u32 %r4, smem; cp.async.ca.shared.global [%r4], [p], 8, %r2;
         cp.async.wait_all; ld.shared.v2.b32 {%r5, %r6}, [smem];
         st.global.v2.b32 [p+8], {%r5, %r6};",
        1,
    );
    assert_eq!(out[8..16], [7, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn out_of_bounds_is_told_by_thread_and_line() {
    let body = "\n mul.wide.u32 q, tid, 8; add.s64 q, q, p;\n st.global.u64 [q], q;";
    let fault = run(body, 64, &Options::default()).unwrap_err();
    assert!(matches!(
        fault.kind,
        FaultKind::Memory(MemoryFault::OutOfBounds { offset: 256, bytes: 8, size: 256 })
    ));
    assert_eq!((fault.thread.x, fault.line, fault.instruction.as_str()), (32, 11, "st.global.u64"));
    passes(body, 32);
    let shared = self::fault("ld.shared.b32 %r1, [smem+1024];", 1);
    assert!(matches!(shared, FaultKind::Memory(MemoryFault::OutOfBounds { .. })), "{shared}");
}

#[test]
fn misaligned_accesses_are_found_for_vectors_as_well() {
    for body in ["ld.global.b32 %r1, [p+2];", "ld.global.v2.b32 {%r1, %r2}, [p+4];"] {
        let kind = fault(body, 1);
        assert!(matches!(kind, FaultKind::Memory(MemoryFault::Misaligned { .. })), "{kind}");
    }
    passes("ld.global.v2.b32 {%r1, %r2}, [p+8];", 1);
}

#[test]
fn null_host_and_forgotten_pointers_are_refused() {
    for body in [
        "mov.u64 q, 0; ld.global.b32 %r1, [q];",
        "mov.u64 q, 0x7f0012345678; ld.global.b32 %r1, [q];",
        "ld.global.b32 %r1, [%rd3];",
    ] {
        let kind = fault(body, 1);
        assert!(matches!(kind, FaultKind::Memory(_)), "{body}: {kind}");
    }
}

#[test]
fn freed_memory_is_refused_to_kernels() {
    let mut machine = Machine::new(Options::default());
    let text = ".version 7.8 .target sm_80 .entry k(.param .u64 ptr) {
        .reg .b64 p; ld.param.u64 p, [ptr]; st.global.u32 [p], 1; ret; }";
    let module = machine.load(text).unwrap();
    let ptr = machine.alloc(4).unwrap();
    machine.free(ptr).unwrap();
    let fault = machine.launch(&module, "k", 1, 1, 0, &[Arg::Ptr(ptr)]).unwrap_err();
    assert!(matches!(fault.kind, FaultKind::Memory(MemoryFault::UseAfterFree { .. })), "{fault}");
}

#[test]
fn what_nobody_wrote_reads_as_nan() {
    let is_nan = |out: &[u8]| f32::from_le_bytes(out[..4].try_into().unwrap()).is_nan();
    for source in ["ld.shared.f32 %f1, [smem];", "ld.global.f32 %f1, [p+128];", "mov.f32 %f1, %f3;"]
    {
        let out =
            passes(&format!("{source} add.f32 %f1, %f1, 0f3F800000; st.global.f32 [p], %f1;"), 1);
        assert!(is_nan(&out), "{source}");
    }
}

#[test]
fn matrix_instructions_need_the_whole_warp() {
    let body = "setp.lt.u32 %p0, lane, 16; @!%p0 bra over;
        ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [smem]; over:";
    let kind = fault(body, 32);
    assert!(matches!(kind, FaultKind::Divergent { active: 0xffff, .. }), "{kind}");
    let short = fault("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [smem];", 16);
    assert!(matches!(short, FaultKind::Divergent { .. }), "{short}");
}

#[test]
fn a_kernel_that_never_ends_is_stopped() {
    let options = Options { max_instructions: 10_000, ..Options::default() };
    let fault = run("again: bra again;", 32, &options).unwrap_err();
    assert!(matches!(fault.kind, FaultKind::Timeout { .. }), "{fault}");
}

#[test]
fn a_launch_that_no_card_takes_is_refused() {
    let kind = fault("", 2048);
    assert!(matches!(kind, FaultKind::Launch { .. }), "{kind}");
}

#[test]
fn conflicts_and_sectors_are_counted() {
    let strided = "shl.b32 %r1, lane, 5; add.s32 %r1, %r1, %r7; ld.shared.b32 %r2, [%r1];
        mul.wide.u32 q, lane, 4; add.s64 q, q, p; ld.global.b32 %r3, [q];";
    let (counters, _) = run(strided, 32, &Options::default()).unwrap();
    assert_eq!(counters.shared_bank_conflicts, 7);
    assert_eq!((counters.global_load_sectors, counters.global_load_sectors_ideal), (4, 4));
}
