//! wgmma: every layout of shared memory against a plain product, and each rule it has, broken once.

use half::{bf16, f16};
use simt::{Arg, Counters, Fault, FaultKind, Machine, MmaOrder, Options};

const M: usize = 64;
const K: usize = 16;
const THREADS: u32 = 128;

/// Values small enough that every sum below is exact in f32.
fn element(row: usize, column: usize, salt: usize) -> i32 {
    ((row * 7 + column * 3 + salt * 5) % 11) as i32 - 5
}

/// A swizzle of the descriptor: its code, and the bytes of a line.
#[derive(Debug, Clone, Copy)]
struct Swizzle {
    code: u64,
    line: usize,
}

const SWIZZLES: [Swizzle; 4] = [
    Swizzle { code: 0, line: 16 },
    Swizzle { code: 1, line: 128 },
    Swizzle { code: 2, line: 64 },
    Swizzle { code: 3, line: 32 },
];

/// A tile as the PTX ISA draws it: core matrices of 8 lines, a line being `line` bytes along the major
/// dimension; then the swizzle, an exclusive or of the bits above each 128 bytes into those above 16.
struct Tile {
    image: Vec<u8>,
    descriptor: u64,
}

impl Tile {
    /// `count` rows (or columns) of depth 16 from `start` on; `major_k` has k contiguous.
    fn new(count: usize, major_k: bool, swizzle: Swizzle, start: usize, salt: usize) -> Tile {
        let line = swizzle.line;
        let (contiguous, other) = if major_k { (K, count) } else { (count, K) };
        // Atoms of 8 lines stand behind each other, first along the strided dimension. A line of a
        // K-major tile may be longer than the 32 bytes of one product: the rest stays empty.
        let atoms_along = (contiguous * 2).div_ceil(line);
        let atoms_across = other / 8;
        let atom = 8 * line;
        let mut image = vec![0xff; atoms_along * atoms_across * atom];
        for along in 0..contiguous {
            for across in 0..other {
                let (mn, k) = if major_k { (across, along) } else { (along, across) };
                let at = along * 2 / line * (atoms_across * atom)
                    + across / 8 * atom
                    + across % 8 * line
                    + along * 2 % line;
                let address = start + at;
                let phase = (address / 128) & (line / 16 - 1);
                let mixed = address ^ (phase * 16);
                let value = f16::from_f32(element(mn, k, salt) as f32).to_le_bytes();
                image[mixed - start..][..2].copy_from_slice(&value);
            }
        }
        let (along, across) = (atoms_across * atom, atom);
        // Without swizzle, K-major's leading offset goes along k and MN-major's along k too.
        let flat_mn = line == 16 && !major_k;
        let (leading, stride) = if flat_mn { (across, along) } else { (along, across) };
        let field = |bytes: usize| (bytes / 16) as u64;
        let descriptor =
            swizzle.code << 62 | field(stride) << 32 | field(leading) << 16 | field(start);
        Tile { image, descriptor }
    }
}

/// A kernel's parts, each of which a test may replace.
#[derive(Clone)]
struct Program {
    n: usize,
    a: &'static str,
    /// Behind the copy into shared memory.
    publish: &'static str,
    before: &'static str,
    fence: &'static str,
    kind: &'static str,
    /// scale-d, imm-scale-a, imm-scale-b and the transpositions.
    flags: String,
    between: &'static str,
    wait: &'static str,
    after: &'static str,
}

impl Program {
    fn new(n: usize, trans_a: bool, trans_b: bool) -> Program {
        Program {
            n,
            a: "da",
            publish: "fence.proxy.async; bar.sync 0;",
            before: "",
            fence: "wgmma.fence.sync.aligned;",
            kind: "f32.f16.f16",
            flags: format!("1, 1, 1, {}, {}", u8::from(trans_a), u8::from(trans_b)),
            between: "",
            wait: "wgmma.wait_group.sync.aligned 0;",
            after: "",
        }
    }

    fn text(&self) -> String {
        let Program { n, a, publish, before, fence, kind, flags, between, wait, after } = self;
        let sums: Vec<String> = (0..n / 2).map(|i| format!("d{i}")).collect();
        let init: String = sums.iter().map(|d| format!("mov.f32 {d}, 0f3F800000;")).collect();
        let store: String = sums
            .iter()
            .enumerate()
            .map(|(i, d)| format!("st.global.f32 [out+{}], {d};", 4 * i))
            .collect();
        let sums = sums.join(", ");
        format!(
            ".version 8.0 .target sm_90a .address_size 64
             .extern .shared .align 1024 .b8 smem[];
             .entry k(.param .u64 pi, .param .u32 pb, .param .u64 pda, .param .u64 pdb,
                      .param .u64 po) {{
             .reg .b64 image, da, db, out, x; .reg .b32 tid, warp, i, bytes, r<8>;
             .reg .f32 d<{count}>, f; .reg .pred p, q;
             ld.param.u64 image, [pi]; ld.param.u32 bytes, [pb]; ld.param.u64 da, [pda];
             ld.param.u64 db, [pdb]; ld.param.u64 out, [po];
             mov.u32 tid, %tid.x; shr.u32 warp, tid, 5;
             mul.wide.u32 x, tid, {row}; add.s64 out, out, x;
             shl.b32 i, tid, 4;
             copy: setp.ge.u32 p, i, bytes; @p bra copied;
             cvt.u64.u32 x, i; add.s64 x, image, x;
             ld.global.v4.b32 {{r0, r1, r2, r3}}, [x]; st.shared.v4.b32 [i], {{r0, r1, r2, r3}};
             add.s32 i, i, 2048; bra copy;
             copied: {publish} {init} mov.b32 r0, 0x40003C00; mov.b32 r1, r0; mov.b32 r2, r0;
             mov.b32 r3, r0;
             {before} {fence}
             wgmma.mma_async.sync.aligned.m64n{n}k16.{kind} {{{sums}}}, {a}, db, {flags};
             wgmma.commit_group.sync.aligned; {between} {wait} {after} {store} ret; }}",
            count = n / 2,
            row = 2 * n,
        )
    }

    /// D as a matrix, put together from each thread's registers.
    fn run(&self, a: &Tile, b: &Tile, options: &Options) -> Result<(Vec<f32>, Counters), Fault> {
        let options = Options { compute_capability: (9, 0), ..options.clone() };
        let mut machine = Machine::new(options);
        let module = machine.load(&self.text()).expect("the kernel is PTX");
        let image = [a.image.as_slice(), &b.image].concat();
        let source = machine.alloc(image.len() as u64).expect("memory");
        machine.copy_in(source, &image).expect("the allocation is as long");
        let out = machine.alloc((THREADS as usize * self.n * 2) as u64).expect("memory");
        let args = [
            Arg::Ptr(source),
            Arg::U32(image.len() as u32),
            Arg::U64(a.descriptor),
            Arg::U64(b.descriptor),
            Arg::Ptr(out),
        ];
        let counters = machine.launch(&module, "k", 1, THREADS, image.len() as u32, &args)?;
        let mut bytes = vec![0; THREADS as usize * self.n * 2];
        machine.copy_out(out, &mut bytes).expect("the result is there");
        let mut d = vec![0.0; M * self.n];
        for (at, value) in bytes.chunks(4).enumerate() {
            let (thread, register) = (at / (self.n / 2), at % (self.n / 2));
            let (warp, lane) = (thread / 32, thread % 32);
            let row = 16 * warp + lane / 4 + register / 2 % 2 * 8;
            let column = register / 4 * 8 + lane % 4 * 2 + register % 2;
            let value: [u8; 4] = value.try_into().expect("four bytes");
            d[row * self.n + column] = f32::from_le_bytes(value);
        }
        Ok((d, counters))
    }
}

/// Both tiles, B behind A at the next multiple of 1024 bytes, where swizzle patterns begin.
fn tiles(n: usize, major_k: [bool; 2], swizzles: [Swizzle; 2]) -> (Tile, Tile) {
    let mut a = Tile::new(M, major_k[0], swizzles[0], 0, 1);
    a.image.resize(a.image.len().next_multiple_of(1024), 0xff);
    let b = Tile::new(n, major_k[1], swizzles[1], a.image.len(), 2);
    (a, b)
}

/// `start + sign * sum`, exact.
fn assert_product(d: &[f32], n: usize, start: i32, sign: i32, what: &str) {
    for (at, &got) in d.iter().enumerate() {
        let (row, column) = (at / n, at % n);
        let sum: i32 = (0..K).map(|k| element(row, k, 1) * element(column, k, 2)).sum();
        assert_eq!(got, (start + sign * sum) as f32, "{what}: row {row}, column {column}");
    }
}

#[test]
fn every_swizzle_and_major_of_either_factor_gives_the_product() {
    for swizzle_a in SWIZZLES {
        for swizzle_b in SWIZZLES {
            for (major_a, major_b) in [(true, true), (true, false), (false, true), (false, false)] {
                let n = if major_a { 64 } else { 128 };
                let (a, b) = tiles(n, [major_a, major_b], [swizzle_a, swizzle_b]);
                let program = Program::new(n, !major_a, !major_b);
                let (d, counters) = program.run(&a, &b, &Options::default()).expect("no fault");
                let what = format!("{swizzle_a:?}, {swizzle_b:?}, K-major {major_a}, {major_b}");
                assert_product(&d, n, 1, 1, &what);
                assert_eq!(counters.wgmma, 4);
            }
        }
    }
}

#[test]
fn every_width_gives_the_product_in_either_order_of_sums() {
    for n in [8, 16, 24, 96, 192, 256] {
        for mma_order in [MmaOrder::Exact, MmaOrder::Sequential] {
            let (a, b) = tiles(n, [true, true], [SWIZZLES[1], SWIZZLES[1]]);
            let options = Options { mma_order, ..Options::default() };
            let (d, _) = Program::new(n, false, false).run(&a, &b, &options).expect("no fault");
            assert_product(&d, n, 1, 1, &format!("n {n}"));
        }
    }
}

fn plain() -> (Program, Tile, Tile) {
    let (a, b) = tiles(16, [true, true], [SWIZZLES[1], SWIZZLES[1]]);
    (Program::new(16, false, false), a, b)
}

#[test]
fn scales_start_and_sign_the_sums() {
    for (flags, start, sign) in
        [("0, 1, 1, 0, 0", 0, 1), ("1, -1, 1, 0, 0", 1, -1), ("1, -1, -1, 0, 0", 1, 1)]
    {
        let (program, a, b) = plain();
        let program = Program { flags: flags.into(), ..program };
        let (d, _) = program.run(&a, &b, &Options::default()).expect("no fault");
        assert_product(&d, 16, start, sign, flags);
    }
}

#[test]
fn a_of_registers_has_the_fragments_of_mma() {
    let (program, a, b) = plain();
    // Every pair of A is (1, 2): each row is 1, 2, 1, 2, ...
    let program = Program { a: "{r0, r1, r2, r3}", flags: "0, 1, 1, 0".into(), ..program };
    let (d, _) = program.run(&a, &b, &Options::default()).expect("no fault");
    for (at, &got) in d.iter().enumerate() {
        let sum: i32 = (0..K).map(|k| (1 + k as i32 % 2) * element(at % 16, k, 2)).sum();
        assert_eq!(got, sum as f32, "column {}", at % 16);
    }
}

#[test]
fn bf16_is_read_as_bf16() {
    let (program, mut a, mut b) = plain();
    let program = Program { kind: "f32.bf16.bf16", ..program };
    for image in [&mut a.image, &mut b.image] {
        for pair in image.chunks_mut(2) {
            let value = f16::from_le_bytes([pair[0], pair[1]]).to_f32();
            pair.copy_from_slice(&bf16::from_f32(value).to_le_bytes());
        }
    }
    let (d, _) = program.run(&a, &b, &Options::default()).expect("no fault");
    assert_product(&d, 16, 1, 1, "bf16");
}

/// The fault of a program that differs from a right one by `change`.
fn fault(change: impl FnOnce(&mut Program)) -> FaultKind {
    let (mut program, a, b) = plain();
    change(&mut program);
    program.run(&a, &b, &Options::default()).expect_err("the kernel has a bug").kind
}

fn passes(change: impl FnOnce(&mut Program)) {
    let (mut program, a, b) = plain();
    change(&mut program);
    let (d, _) = program.run(&a, &b, &Options::default()).expect("the kernel is right");
    assert_product(&d, 16, 1, 1, "twin");
}

#[test]
fn a_sum_is_nobodys_to_touch_before_the_wait() {
    assert_eq!(fault(|p| p.wait = ""), FaultKind::MissingWgmmaWait);
    let one_group_left = fault(|p| p.wait = "wgmma.wait_group.sync.aligned 1;");
    assert_eq!(one_group_left, FaultKind::MissingWgmmaWait);
    assert_eq!(fault(|p| p.between = "add.f32 f, d3, d3;"), FaultKind::MissingWgmmaWait);
    assert_eq!(fault(|p| p.between = "mov.f32 d3, 0f00000000;"), FaultKind::MissingWgmmaWait);
    passes(|p| p.between = "mov.f32 f, 0f00000000;");
    passes(|p| p.after = "add.f32 f, d3, d3;");
}

#[test]
fn registers_of_a_are_nobodys_to_touch_before_the_wait() {
    let from_registers = |p: &mut Program| {
        p.a = "{r0, r1, r2, r3}";
        p.flags = "1, 1, 1, 0".into();
        p.between = "mov.b32 r2, 0;";
    };
    assert_eq!(fault(from_registers), FaultKind::MissingWgmmaWait);
}

#[test]
fn a_register_touched_before_the_product_needs_a_fence() {
    assert_eq!(fault(|p| p.fence = ""), FaultKind::MissingWgmmaFence);
    let late = "wgmma.fence.sync.aligned; mov.f32 d1, 0f3F800000;";
    assert_eq!(fault(|p| p.fence = late), FaultKind::MissingWgmmaFence);
    passes(|p| p.fence = "wgmma.fence.sync.aligned; mov.f32 f, 0f3F800000;");
}

#[test]
fn a_tile_is_nobodys_to_overwrite_before_the_wait_and_a_barrier() {
    // Row 0 of A is the first warp's alone: no race, and still too early.
    let early = fault(|p| {
        p.between = "setp.eq.u32 p, tid, 0; @p st.shared.b32 [0], tid;";
    });
    assert!(matches!(early, FaultKind::OverwrittenOperand { .. }), "{early}");
    let copied = fault(|p| {
        p.between = "setp.eq.u32 p, tid, 0; @p cp.async.cg.shared.global [0], [image], 16;";
    });
    assert!(matches!(copied, FaultKind::OverwrittenOperand { .. }), "{copied}");
    // B, at 8192, is read by all.
    let unordered = fault(|p| {
        p.after = "setp.eq.u32 p, tid, 0; @p st.shared.b32 [8192], tid;";
    });
    let found = matches!(unordered, FaultKind::Race { .. } | FaultKind::OverwrittenOperand { .. });
    assert!(found, "{unordered}");
    passes(|p| {
        p.after = "bar.sync 0; setp.eq.u32 p, tid, 0; @p st.shared.b32 [8192], tid;";
    });
}

#[test]
fn a_tile_written_by_ordinary_stores_needs_a_proxy_fence() {
    let missing = |kind: &FaultKind| matches!(kind, FaultKind::MissingProxyFence { .. });
    assert!(missing(&fault(|p| p.publish = "bar.sync 0;")));
    assert!(missing(&fault(|p| p.publish = "fence.proxy.async.global; bar.sync 0;")));
    // By the readers behind the barrier, or by the writers before it.
    passes(|p| p.publish = "bar.sync 0; fence.proxy.async.shared::cta;");
    passes(|p| p.publish = "fence.proxy.async; bar.sync 0;");
}

#[test]
fn a_tile_still_under_way_is_not_there() {
    let kind = fault(|p| p.before = "bar.sync 0; cp.async.cg.shared.global [8192], [image], 16;");
    let found = matches!(kind, FaultKind::MissingWait { .. } | FaultKind::Race { .. });
    assert!(found, "{kind}");
}

#[test]
fn the_four_warps_execute_the_same_products() {
    let kind = fault(|p| {
        p.before = "setp.eq.u32 p, warp, 3; @p bra end;";
        p.after = "end:";
    });
    assert!(matches!(kind, FaultKind::Wgmma { .. }), "{kind}");
    let some_lanes = fault(|p| {
        p.before = "setp.eq.u32 p, tid, 3; @p bra end;";
        p.after = "end:";
    });
    assert!(matches!(some_lanes, FaultKind::Divergent { .. }), "{some_lanes}");
    let descriptors = fault(|p| p.before = "cvt.u64.u32 x, tid; add.s64 da, da, x;");
    assert!(matches!(descriptors, FaultKind::Wgmma { .. }), "{descriptors}");
}

#[test]
fn a_tile_beyond_the_shared_memory_is_out_of_bounds() {
    let kind = fault(|p| p.before = "add.s64 da, da, 1024;");
    assert!(matches!(kind, FaultKind::Memory(_)), "{kind}");
}

#[test]
fn without_checks_the_product_still_comes_at_the_wait() {
    let (program, a, b) = plain();
    let options = Options { detect_races: false, ..Options::default() };
    let (d, _) = program.run(&a, &b, &options).expect("no fault");
    assert_product(&d, 16, 1, 1, "unchecked");
    let early = Program { wait: "", ..program };
    let (d, _) = early.run(&a, &b, &options).expect("nobody looks");
    assert!(d.iter().all(|&value| value == 1.0), "the sums are still what they were");
}
