//! Every arithmetic opcode against values worked out from its definition in the PTX manual.

mod common;

use common::evaluate;
use simt::Options;

fn f(value: f32) -> u64 {
    u64::from(value.to_bits())
}

fn d(value: f64) -> u64 {
    value.to_bits()
}

const MINUS_1: u64 = 0xffff_ffff;

#[track_caller]
fn check(cases: &[(&str, [u64; 3], u64)]) {
    let options = Options::default();
    let mut wrong = Vec::new();
    for &(line, inputs, expected) in cases {
        match evaluate(&options, line, inputs) {
            Ok(result) if result == expected => {}
            other => wrong.push(format!("{line} of {inputs:x?}: {other:x?}, not {expected:#x}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn integers_wrap_widen_and_divide_as_the_manual_says() {
    check(&[
        ("add.s32 d, a, b", [MINUS_1, 2, 0], 1),
        ("add.s64 rd, ra, rb", [u64::MAX, 2, 0], 1),
        ("add.u16 hd, ha, hb", [0xffff, 2, 0], 1),
        ("sub.u32 d, a, b", [1, 2, 0], MINUS_1),
        ("mul.lo.s32 d, a, b", [MINUS_1, 3, 0], 0xffff_fffd),
        ("mul.lo.s64 rd, ra, rb", [1 << 33, 3, 0], 3 << 33),
        ("mul.hi.u32 d, a, b", [MINUS_1, MINUS_1, 0], 0xffff_fffe),
        ("mul.hi.s32 d, a, b", [MINUS_1, 2, 0], MINUS_1),
        ("mul.hi.u64 rd, ra, rb", [u64::MAX, u64::MAX, 0], u64::MAX - 1),
        ("mul.wide.s32 rd, a, b", [MINUS_1, 5, 0], (-5i64) as u64),
        ("mul.wide.u32 rd, a, b", [MINUS_1, 5, 0], 0x4_ffff_fffb),
        ("mul.wide.u16 d, ha, hb", [0xffff, 0xffff, 0], 0xfffe_0001),
        ("mad.lo.s32 d, a, b, c", [3, 4, 5], 17),
        ("mad.wide.s32 rd, a, b, rc", [MINUS_1, 4, 5], 1),
        ("mad.hi.u32 d, a, b, c", [1 << 31, 4, 5], 7),
        ("div.s32 d, a, b", [0xffff_fff9, 2, 0], 0xffff_fffd),
        ("div.u32 d, a, b", [7, 2, 0], 3),
        ("rem.s32 d, a, b", [0xffff_fff9, 2, 0], MINUS_1),
        ("rem.u64 rd, ra, rb", [10, 4, 0], 2),
        ("min.s32 d, a, b", [MINUS_1, 2, 0], MINUS_1),
        ("min.u32 d, a, b", [MINUS_1, 2, 0], 2),
        ("max.s32 d, a, b", [MINUS_1, 2, 0], 2),
        ("neg.s32 d, a", [5, 0, 0], 0xffff_fffb),
        ("abs.s32 d, a", [0xffff_fffb, 0, 0], 5),
        ("sad.u32 d, a, b, c", [3, 7, 10], 14),
        ("dp4a.s32.s32 d, a, b, c", [0xff01_0203, 0x0201_0101, 10], 14),
        ("dp4a.u32.s32 d, a, b, c", [0xff00_0000, 0xff00_0000, 0], 0xffff_ff01),
    ]);
}

#[test]
fn shifts_clamp_their_amount() {
    check(&[
        ("shl.b32 d, a, b", [1, 31, 0], 1 << 31),
        ("shl.b32 d, a, b", [1, 32, 0], 0),
        ("shl.b64 rd, ra, b", [1, 63, 0], 1 << 63),
        ("shr.u32 d, a, b", [MINUS_1, 40, 0], 0),
        ("shr.s32 d, a, b", [1 << 31, 40, 0], MINUS_1),
        ("shr.s32 d, a, b", [1 << 31, 4, 0], 0xf800_0000),
        ("shr.u64 rd, ra, b", [1 << 63, 63, 0], 1),
        ("shr.s64 rd, ra, b", [1 << 63, 64, 0], u64::MAX),
        ("shf.l.wrap.b32 d, a, b, c", [0x8000_0000, 1, 33], 3),
        ("shf.r.wrap.b32 d, a, b, c", [2, 1, 1], 0x8000_0001),
        ("shf.r.clamp.b32 d, a, b, c", [2, 7, 40], 7),
        ("shf.l.clamp.b32 d, a, b, c", [2, 7, 40], 2),
    ]);
}

#[test]
fn bits_are_picked_placed_and_counted() {
    check(&[
        ("and.b32 d, a, b", [12, 10, 0], 8),
        ("or.b64 rd, ra, rb", [12, 10, 0], 14),
        ("xor.b32 d, a, b", [12, 10, 0], 6),
        ("not.b32 d, a", [1, 0, 0], 0xffff_fffe),
        ("popc.b32 d, a", [0xf0f0, 0, 0], 8),
        ("popc.b64 d, ra", [u64::MAX, 0, 0], 64),
        ("clz.b32 d, a", [1, 0, 0], 31),
        ("clz.b64 d, ra", [0, 0, 0], 64),
        ("brev.b32 d, a", [1, 0, 0], 1 << 31),
        ("bfind.u32 d, a", [0x10, 0, 0], 4),
        ("bfind.u32 d, a", [0, 0, 0], MINUS_1),
        ("bfind.s32 d, a", [0xffff_ffef, 0, 0], 4),
        ("bfe.u32 d, a, b, c", [0xabcd, 4, 8], 0xbc),
        ("bfe.s32 d, a, b, c", [0xabcd, 4, 8], 0xffff_ffbc),
        ("bfe.s32 d, a, b, c", [0x8000_0000, 28, 8], 0xffff_fff8),
        ("bfe.u32 d, a, b, c", [0xabcd, 4, 0], 0),
        ("bfe.u32 d, a, b, c", [MINUS_1, 32, 4], 0),
        ("bfe.s64 rd, ra, b, c", [0xf0, 4, 4], u64::MAX),
        ("bfi.b32 d, a, b, c, 8", [0xff, 0, 4], 0xff0),
        ("bfi.b32 d, a, b, 40, 8", [0xff, 5, 0], 5),
        ("bfi.b64 rd, ra, rb, 60, 8", [0xff, 0, 0], 0xf << 60),
        ("lop3.b32 d, a, b, c, 0x96", [1, 2, 4], 7),
        ("lop3.b32 d, a, b, c, 0xca", [0xff00, 0x1234, 0x5678], 0x1278),
        ("prmt.b32 d, a, b, c", [0x3322_1100, 0x7766_5544, 0x7410], 0x7744_1100),
        ("prmt.b32 d, a, b, c", [0x0080_7f01, 0, 0x000a], 0x0101_01ff),
        ("mov.b32 d, {ha, hb}", [0x11111, 0x2, 0], 0x0002_1111),
        ("mov.b64 rd, {a, b}", [7, 9, 0], 7 | 9 << 32),
        ("mov.b64 {d, c}, ra", [7 | 9 << 32, 0, 0], 7),
        ("mov.b64 {c, d}, ra", [7 | 9 << 32, 0, 0], 9),
    ]);
}

#[test]
fn floats_round_to_nearest_even() {
    check(&[
        ("add.f32 d, a, b", [f(1.0), f(2.5), 0], f(3.5)),
        ("add.rn.f32 d, a, b", [f(16_777_216.0), f(1.0), 0], f(16_777_216.0)),
        ("sub.f32 d, a, b", [f(1.0), f(2.5), 0], f(-1.5)),
        ("mul.f32 d, a, b", [f(3.0), f(-0.5), 0], f(-1.5)),
        ("mul.sat.f32 d, a, b", [f(3.0), f(0.5), 0], f(1.0)),
        (
            "fma.rn.f32 d, a, b, c",
            [f(1.0 + f32::EPSILON), f(1.0 - f32::EPSILON), f(-1.0)],
            f(-(f32::EPSILON * f32::EPSILON)),
        ),
        ("div.rn.f32 d, a, b", [f(1.0), f(3.0), 0], f(1.0 / 3.0)),
        ("rcp.rn.f32 d, a", [f(4.0), 0, 0], f(0.25)),
        ("sqrt.rn.f32 d, a", [f(2.0), 0, 0], f(2f32.sqrt())),
        ("rsqrt.approx.f32 d, a", [f(4.0), 0, 0], f(0.5)),
        ("ex2.approx.f32 d, a", [f(3.0), 0, 0], f(8.0)),
        ("ex2.approx.ftz.f32 d, a", [f(-140.0), 0, 0], 0),
        ("lg2.approx.f32 d, a", [f(8.0), 0, 0], f(3.0)),
        ("tanh.approx.f32 d, a", [f(0.5), 0, 0], f(0.5f32.tanh())),
        ("neg.f32 d, a", [f(f32::INFINITY), 0, 0], f(f32::NEG_INFINITY)),
        ("abs.f32 d, a", [f(-0.0), 0, 0], 0),
        ("copysign.f32 d, a, b", [f(-1.0), f(5.0), 0], f(-5.0)),
        ("max.f32 d, a, b", [f(f32::NAN), f(5.0), 0], f(5.0)),
        ("max.f32 d, a, b", [f(-0.0), f(0.0), 0], 0),
        ("min.f32 d, a, b", [f(0.0), f(-0.0), 0], f(-0.0)),
        ("add.ftz.f32 d, a, b", [1, f(0.0), 0], 0),
        ("add.f32 d, a, b", [1, f(0.0), 0], 1),
        ("add.f64 rd, ra, rb", [d(1.0), d(1e-16), 0], d(1.0)),
        ("fma.rn.f64 rd, ra, rb, rc", [d(2.0), d(3.0), d(1.0)], d(7.0)),
        ("mov.f32 d, 1.5", [0, 0, 0], f(1.5)),
        ("mov.f32 d, 0f3F800000", [0, 0, 0], f(1.0)),
    ]);
}

#[test]
fn halves_compute_in_pairs_and_alone() {
    // 0x3c00 is 1, 0x4000 is 2, 0x4200 is 3 in f16; 0x3f80, 0x4000, 0x4040 in bf16.
    check(&[
        ("add.f16 hd, ha, hb", [0x3c00, 0x4000, 0], 0x4200),
        ("add.f16x2 d, a, b", [0x3c00_4000, 0x4000_3c00, 0], 0x4200_4200),
        ("mul.f16x2 d, a, b", [0x4000_3c00, 0x3c00_4000, 0], 0x4000_4000),
        ("sub.f16x2 d, a, b", [0x4200_4000, 0x4000_3c00, 0], 0x3c00_3c00),
        ("fma.rn.f16x2 d, a, b, c", [0x3c00_3c00, 0x4000_4000, 0x3c00_3c00], 0x4200_4200),
        ("fma.rn.bf16x2 d, a, b, c", [0x3f80_3f80, 0x4000_4000, 0x3f80_3f80], 0x4040_4040),
        ("max.f16x2 d, a, b", [0x3c00_4000, 0x4000_3c00, 0], 0x4000_4000),
        ("neg.f16x2 d, a", [0x3c00_bc00, 0, 0], 0xbc00_3c00),
        ("abs.bf16x2 d, a", [0xbf80_3f80, 0, 0], 0x3f80_3f80),
    ]);
}

#[test]
fn comparisons_tell_ordered_from_unordered() {
    let nan = f(f32::NAN);
    check(&[
        ("setp.lt.s32 p, a, b", [MINUS_1, 0, 0], 1),
        ("setp.lt.u32 p, a, b", [MINUS_1, 0, 0], 0),
        ("setp.ge.s64 p, ra, rb", [1, u64::MAX, 0], 1),
        ("setp.ne.b32 p, a, b", [1 | 1 << 40, 1, 0], 0),
        ("setp.hi.u32 p, a, b", [2, 1, 0], 1),
        ("setp.eq.s16 p, ha, hb", [0x1_0001, 1, 0], 1),
        ("setp.lt.f32 p, a, b", [nan, 0, 0], 0),
        ("setp.ltu.f32 p, a, b", [nan, 0, 0], 1),
        ("setp.ne.f32 p, a, b", [nan, 0, 0], 0),
        ("setp.neu.f32 p, a, b", [nan, 0, 0], 1),
        ("setp.nan.f32 p, a, b", [nan, 0, 0], 1),
        ("setp.num.f32 p, a, b", [0, 0, 0], 1),
        ("setp.gt.ftz.f32 p, a, b", [1, 0, 0], 0),
        ("setp.gt.f16 p, ha, hb", [0x4000, 0x3c00, 0], 1),
        ("setp.eq.u32 q, a, b; setp.lt.and.u32 p, a, b, q", [1, 1, 0], 0),
        ("setp.eq.u32 q, a, b; setp.le.and.u32 p, a, b, !q", [1, 1, 0], 0),
        ("setp.eq.u32 p|q, a, b; not.pred p, q", [1, 2, 0], 0),
        ("set.lt.u32.f32 d, a, b", [f(1.0), f(2.0), 0], MINUS_1),
        ("setp.eq.u32 p, a, a; selp.b32 d, a, b, p", [3, 4, 0], 3),
        ("testp.infinite.f32 p, a", [f(f32::INFINITY), 0, 0], 1),
    ]);
}

#[test]
fn conversions_round_clamp_and_extend() {
    check(&[
        ("cvt.s64.s32 rd, a", [MINUS_1, 0, 0], u64::MAX),
        ("cvt.u64.u32 rd, a", [MINUS_1, 0, 0], 0xffff_ffff),
        ("cvt.s32.s8 d, a", [0x80, 0, 0], 0xffff_ff80),
        ("cvt.sat.s8.s32 d, a", [300, 0, 0], 127),
        ("cvt.sat.u8.s32 d, a", [MINUS_1, 0, 0], 0),
        ("cvt.rn.f32.s32 d, a", [MINUS_1, 0, 0], f(-1.0)),
        ("cvt.rn.f32.u32 d, a", [16_777_217, 0, 0], f(16_777_216.0)),
        ("cvt.rn.f16.s32 hd, a", [2, 0, 0], 0x4000),
        ("cvt.rzi.s32.f32 d, a", [f(-1.7), 0, 0], MINUS_1),
        ("cvt.rni.s32.f32 d, a", [f(2.5), 0, 0], 2),
        ("cvt.rmi.s32.f32 d, a", [f(-1.2), 0, 0], 0xffff_fffe),
        ("cvt.rpi.u32.f32 d, a", [f(1.2), 0, 0], 2),
        ("cvt.rzi.u32.f32 d, a", [f(-5.0), 0, 0], 0),
        ("cvt.rzi.s32.f32 d, a", [f(3e9), 0, 0], 0x7fff_ffff),
        ("cvt.rzi.s32.f32 d, a", [f(f32::NAN), 0, 0], 0),
        ("cvt.rni.f32.f32 d, a", [f(3.5), 0, 0], f(4.0)),
        ("cvt.f32.f16 d, ha", [0x3c00, 0, 0], f(1.0)),
        ("cvt.f32.bf16 d, ha", [0xbf80, 0, 0], f(-1.0)),
        ("cvt.rn.f16.f32 hd, a", [f(1.0 + 3.0 / 2048.0), 0, 0], 0x3c02),
        ("cvt.rz.f16.f32 hd, a", [f(1.0 + 3.0 / 2048.0), 0, 0], 0x3c01),
        ("cvt.rn.f16.f32 hd, a", [f(70_000.0), 0, 0], 0x7c00),
        ("cvt.rz.f16.f32 hd, a", [f(70_000.0), 0, 0], 0x7bff),
        ("cvt.rn.bf16.f32 hd, a", [f(1.0 + 3.0 / 256.0), 0, 0], 0x3f82),
        ("cvt.rn.f16x2.f32 d, a, b", [f(1.0), f(2.0), 0], 0x3c00_4000),
        ("cvt.rn.bf16x2.f32 d, a, b", [f(1.0), f(2.0), 0], 0x3f80_4000),
        ("cvt.rn.relu.f16x2.f32 d, a, b", [f(-1.0), f(2.0), 0], 0x0000_4000),
        ("cvt.rna.tf32.f32 d, a", [0x3f80_1000, 0, 0], 0x3f80_2000),
        ("cvt.f64.f32 rd, a", [f(1.5), 0, 0], d(1.5)),
        ("cvt.rn.f32.f64 d, ra", [d(1.5), 0, 0], f(1.5)),
        ("cvt.sat.f32.f32 d, a", [f(1.5), 0, 0], f(1.0)),
    ]);
}

#[test]
fn approximations_stay_within_their_documented_error_when_perturbed() {
    let mut moved = 0;
    for seed in 0..8 {
        let options = Options { seed, perturb_approximations: true, ..Options::default() };
        for step in 1..40u16 {
            let x = f32::from(step) * 0.173;
            let wide = f64::from(x);
            for (line, exact, relative) in [
                ("ex2.approx.f32 d, a", wide.exp2(), 3e-7),
                ("rcp.approx.f32 d, a", 1.0 / wide, 1.8e-7),
                ("rsqrt.approx.f32 d, a", 1.0 / wide.sqrt(), 1.8e-7),
                ("tanh.approx.f32 d, a", wide.tanh(), 1.0 / 2048.0),
            ] {
                let got = f32::from_bits(evaluate(&options, line, [f(x), 0, 0]).unwrap() as u32);
                let again = f32::from_bits(evaluate(&options, line, [f(x), 0, 0]).unwrap() as u32);
                assert_eq!(got.to_bits(), again.to_bits(), "one input, one result");
                let error = (f64::from(got) - exact).abs() / exact;
                assert!(error <= relative, "{line} of {x}: {got}");
                moved += u32::from(got.to_bits() != (exact as f32).to_bits());
            }
        }
    }
    assert!(moved > 600, "the perturbation does something: {moved}");
}

#[test]
fn what_is_not_emulated_says_so() {
    let options = Options::default();
    for line in
        ["add.rz.f32 d, a, b", "sin.approx.f16 hd, ha", "max.NaN.f32 d, a, b", "foo.b32 d, a"]
    {
        let fault = evaluate(&options, line, [0; 3]).unwrap_err();
        assert!(fault.to_string().contains("not emulated"), "{line}: {fault}");
    }
}
