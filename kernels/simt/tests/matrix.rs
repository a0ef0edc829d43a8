//! ldmatrix and mma against a plain matrix product, through shared memory as real kernels use them.

use half::{bf16, f16};
use simt::{Arg, Machine, MmaOrder, Options};

/// Values small enough that every sum below is exact in f32.
fn element(row: usize, column: usize, salt: usize) -> i32 {
    ((row * 7 + column * 3 + salt * 5) % 11) as i32 - 5
}

/// One warp: A (row major, 16 x k) and B (row major, k x 8) go to shared memory, A comes back by
/// ldmatrix, B by ldmatrix.trans, and D = A B + C is stored by the documented accumulator layout.
const LDMATRIX_KERNEL: &str = r"
.version 7.8 .target sm_80 .address_size 64
.visible .entry product(.param .u64 pa, .param .u64 pb, .param .u64 pd) {
    .reg .b64 a, b, d, x; .reg .b32 lane, o, s, t, a0, a1, a2, a3, b0, b1, v0, v1, v2, v3;
    .reg .f32 c;
    .shared .align 128 .b8 tile[768];
    ld.param.u64 a, [pa]; ld.param.u64 b, [pb]; ld.param.u64 d, [pd];
    mov.u32 lane, %tid.x;
    shl.b32 o, lane, 4; cvt.u64.u32 x, o;
    add.s64 a, a, x;
    mov.u32 s, tile; add.s32 s, s, o;
    cp.async.cg.shared.global [s], [a], 16;
    shl.b32 t, lane, 3; cvt.u64.u32 x, t; add.s64 b, b, x;
    mov.u32 s, tile; add.s32 s, s, t;
    cp.async.ca.shared.global [s+512], [b], 8;
    cp.async.commit_group;
    cp.async.wait_group 0;
    bar.sync 0;
    // Matrix i of A: rows 8 * (i % 2), columns 8 * (i / 2); a row is 32 bytes.
    and.b32 o, lane, 15; shl.b32 o, o, 5;
    shr.u32 t, lane, 4; shl.b32 t, t, 4;
    mov.u32 s, tile; add.s32 s, s, o; add.s32 s, s, t;
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {a0, a1, a2, a3}, [s];
    and.b32 o, lane, 15; shl.b32 o, o, 4;
    mov.u32 s, tile; add.s32 s, s, o;
    ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {b0, b1}, [s+512];
    mov.f32 c, 0f3F000000;
    mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
        {v0, v1, v2, v3}, {a0, a1, a2, a3}, {b0, b1}, {c, c, c, c};
    shr.u32 o, lane, 2; shl.b32 o, o, 5;
    and.b32 t, lane, 3; shl.b32 t, t, 3; add.s32 o, o, t;
    cvt.u64.u32 x, o; add.s64 d, d, x;
    st.global.v2.b32 [d], {v0, v1};
    st.global.v2.b32 [d+256], {v2, v3};
    ret;
}";

#[test]
fn ldmatrix_feeds_mma_with_the_rows_and_columns_it_means() {
    let mut machine = Machine::new(Options::default());
    let module = machine.load(LDMATRIX_KERNEL).unwrap();
    let bytes = |rows: usize, columns: usize, salt: usize| -> Vec<u8> {
        (0..rows * columns)
            .flat_map(|at| {
                let value = element(at / columns, at % columns, salt);
                f16::from_f32(value as f32).to_le_bytes()
            })
            .collect()
    };
    let (a, b) = (machine.alloc(512).unwrap(), machine.alloc(256).unwrap());
    let d = machine.alloc(512).unwrap();
    machine.copy_in(a, &bytes(16, 16, 1)).unwrap();
    machine.copy_in(b, &bytes(16, 8, 2)).unwrap();
    let args = [Arg::Ptr(a), Arg::Ptr(b), Arg::Ptr(d)];
    let counters = machine.launch(&module, "product", 1, 32, 0, &args).unwrap();
    let mut out = [0; 512];
    machine.copy_out(d, &mut out).unwrap();
    for (at, value) in out.chunks(4).enumerate() {
        let (row, column) = (at / 8, at % 8);
        let exact: i32 = (0..16).map(|k| element(row, k, 1) * element(k, column, 2)).sum();
        let got = f32::from_le_bytes(value.try_into().unwrap());
        assert_eq!(got, exact as f32 + 0.5, "row {row}, column {column}");
    }
    assert_eq!((counters.mma, counters.ldmatrix_requests), (1, 2));
    // Rows 32 bytes apart: eight of them wrap the 128 bytes of banks twice.
    assert_eq!(counters.ldmatrix_bank_conflicts, 4);
}

/// Loads every fragment register straight from memory: `[lane][register]`.
fn fragment_kernel(shape: &str, a: usize, b: usize, acc: usize, c_type: &str) -> String {
    let list = |name: &str, count: usize| {
        (0..count).map(|i| format!("{name}{i}")).collect::<Vec<_>>().join(", ")
    };
    let load = |name: &str, ptr: &str, count: usize| {
        (0..count)
            .map(|i| format!("ld.global.{c_type} {name}{i}, [{ptr}+{}];", 4 * i))
            .collect::<String>()
    };
    let offset = |ptr: &str, count: usize| {
        format!("mul.wide.u32 x, lane, {}; add.s64 {ptr}, {ptr}, x;", 4 * count)
    };
    let store: String =
        (0..acc).map(|i| format!("st.global.{c_type} [pd+{}], d{i};", 4 * i)).collect();
    format!(
        ".version 7.8 .target sm_80 .address_size 64
         .entry product(.param .u64 qa, .param .u64 qb, .param .u64 qc, .param .u64 qd) {{
         .reg .b64 pa, pb, pc, pd, x; .reg .b32 lane; .reg .b32 a<4>, b<2>, c<4>, d<4>;
         ld.param.u64 pa, [qa]; ld.param.u64 pb, [qb]; ld.param.u64 pc, [qc]; ld.param.u64 pd, [qd];
         mov.u32 lane, %laneid;
         {}{}{}{}{}{}{}
         mma.sync.aligned.{shape} {{{}}}, {{{}}}, {{{}}}, {{{}}};
         {store} ret; }}",
        offset("pa", a),
        offset("pb", b),
        offset("pc", acc),
        offset("pd", acc),
        load("a", "pa", a),
        load("b", "pb", b),
        load("c", "pc", acc),
        list("d", acc),
        list("a", a),
        list("b", b),
        list("c", acc),
    )
}

struct Format {
    shape: &'static str,
    k: usize,
    element_bytes: usize,
    encode: fn(i32) -> u32,
    /// The accumulators are integers.
    integer: bool,
}

fn run_fragments(format: &Format, order: MmaOrder) {
    let e = 4 / format.element_bytes;
    let (num_a, num_b) =
        (format.k * format.element_bytes / 8, format.k * format.element_bytes / 16);
    let word = |values: &dyn Fn(usize) -> i32| -> u32 {
        let bits = 8 * format.element_bytes as u32;
        (0..e).fold(0, |word, i| {
            let keep = u32::MAX >> (32 - bits);
            word | ((format.encode)(values(i)) & keep) << (bits * i as u32)
        })
    };
    let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
    for lane in 0..32 {
        // The tables of the manual, section "Matrix Fragments for mma.m16n8k*".
        let (group, t) = (lane / 4, lane % 4);
        for i in 0..num_a {
            let (row, column) = (group + 8 * (i % 2), e * t + 4 * e * (i / 2));
            a.extend(word(&|j| element(row, column + j, 1)).to_le_bytes());
        }
        for i in 0..num_b {
            let row = e * t + 4 * e * i;
            b.extend(word(&|j| element(row + j, group, 2)).to_le_bytes());
        }
        c.extend((0..4).flat_map(|i: u32| {
            if format.integer { i.to_le_bytes() } else { (i as f32).to_le_bytes() }
        }));
    }
    let mut machine = Machine::new(Options { mma_order: order, ..Options::default() });
    let module = machine
        .load(&fragment_kernel(format.shape, num_a, num_b, 4, "b32"))
        .expect("the machine is large enough");
    let args: Vec<Arg> = [&a, &b, &c, &c]
        .into_iter()
        .map(|bytes| {
            let ptr = machine.alloc(bytes.len() as u64).expect("the machine is large enough");
            machine.copy_in(ptr, bytes).expect("the machine is large enough");
            Arg::Ptr(ptr)
        })
        .collect();
    machine.launch(&module, "product", 1, 32, 0, &args).expect("the machine is large enough");
    let Arg::Ptr(d) = args[3] else { panic!("an address") };
    let mut out = [0; 512];
    machine.copy_out(d, &mut out).expect("the machine is large enough");
    for (at, value) in out.chunks(4).enumerate() {
        let (lane, i) = (at / 4, at % 4);
        let (row, column) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
        let exact: i32 = (0..format.k).map(|k| element(row, k, 1) * element(k, column, 2)).sum();
        let value: [u8; 4] = value.try_into().expect("the machine is large enough");
        let got = if format.integer {
            i32::from_le_bytes(value) as f32
        } else {
            f32::from_le_bytes(value)
        };
        assert_eq!(got, (exact + i as i32) as f32, "{} lane {lane} register {i}", format.shape);
    }
}

#[test]
fn every_mma_shape_has_the_fragments_of_the_manual() {
    let f16_bits = |value: i32| u32::from(f16::from_f32(value as f32).to_bits());
    let bf16_bits = |value: i32| u32::from(bf16::from_f32(value as f32).to_bits());
    let f32_bits = |value: i32| (value as f32).to_bits();
    let formats = [
        Format {
            shape: "m16n8k16.row.col.f32.f16.f16.f32",
            k: 16,
            element_bytes: 2,
            encode: f16_bits,
            integer: false,
        },
        Format {
            shape: "m16n8k8.row.col.f32.f16.f16.f32",
            k: 8,
            element_bytes: 2,
            encode: f16_bits,
            integer: false,
        },
        Format {
            shape: "m16n8k16.row.col.f32.bf16.bf16.f32",
            k: 16,
            element_bytes: 2,
            encode: bf16_bits,
            integer: false,
        },
        Format {
            shape: "m16n8k8.row.col.f32.tf32.tf32.f32",
            k: 8,
            element_bytes: 4,
            encode: f32_bits,
            integer: false,
        },
        Format {
            shape: "m16n8k32.row.col.s32.s8.s8.s32",
            k: 32,
            element_bytes: 1,
            encode: |value| value as u32,
            integer: true,
        },
        Format {
            shape: "m16n8k16.row.col.s32.s8.s8.s32",
            k: 16,
            element_bytes: 1,
            encode: |value| value as u32,
            integer: true,
        },
    ];
    for format in &formats {
        run_fragments(format, MmaOrder::Exact);
        run_fragments(format, MmaOrder::Sequential);
    }
}
