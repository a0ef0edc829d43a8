//! Promises of the parser: what compilers write is read, what they do not is told by line, and no
//! text at all makes it panic.

use proptest::prelude::*;
use simt::ptx::ast::{Operand, Space, Statement, Type};
use simt::ptx::parse;

const SAMPLE: &str = r#"
.version 7.8
.target sm_80, debug
.address_size 64
.file 1 "a kernel.cu"
.extern .shared .align 16 .b8 smem[];
.const .align 4 .f32 table[2] = {0f3f800000, 0fbf800000};
.extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);
.visible .entry scale(
    .param .u64 .ptr .global .align 4 scale_param_0,
    .param .f32 scale_param_1
)
.maxntid 128, 1, 1
.minnctapersm 2
{
    .reg .pred %p<2>;
    .reg .b32 %r<4>;
    .reg .f32 x, y;
    .shared .align 16 .b8 tile[64];
    .loc 1 3 5, function_name $info, inlined_at 1 2 3
    mov.u32 %r1, %tid.x;
$L_1:
    { .reg .b32 t; mov.b32 t, -7; $L_1: @!%p1 bra $L_1; }
    @%p1 ld.shared::cta.v2.f32 {x, _}, [tile+-8];
    setp.lt.s32 %p1|%p0, %r1, 0x10;
    .pragma "nounroll";
    ret;
}
.section .debug_str { info: .b8 95 }
"#;

#[test]
fn a_compilers_file_is_read() {
    let ptx = parse(SAMPLE).unwrap();
    assert_eq!((ptx.version, ptx.target.as_str()), ((7, 8), "sm_80"));
    assert!(ptx.variables[0].external && ptx.variables[0].size_bytes == 0);
    assert_eq!(ptx.variables[1].init, [0, 0, 0x80, 0x3f, 0, 0, 0x80, 0xbf]);
    let entry = &ptx.entries[0];
    assert_eq!((entry.params.len(), entry.max_threads), (2, Some(128)));
    assert_eq!((entry.params[0].space, entry.params[0].ty), (Space::Param, Type::U64));
}

#[test]
fn operands_keep_their_form() {
    let ptx = parse(SAMPLE).unwrap();
    let instructions: Vec<_> = ptx.entries[0]
        .body
        .iter()
        .filter_map(|statement| match statement {
            Statement::Instruction(instruction) => Some(instruction),
            _ => None,
        })
        .collect();
    let load = instructions[1];
    assert_eq!(load.opcode, ["ld", "shared::cta", "v2", "f32"]);
    assert_eq!(load.operands[0], Operand::Vector(vec![Operand::Name("x".into()), Operand::Sink]));
    assert!(matches!(&load.operands[1], Operand::Address { offset: -8, .. }));
    assert_eq!(instructions[2].operands[0], Operand::Pair("%p1".into(), "%p0".into()));
}

#[test]
fn an_error_names_line_and_token() {
    for (text, line, token) in [
        (".version 7.8\n.entry k() { add.s32 %r1 %r2; }", 2, "%r2"),
        (".version 7.8\n.entry k() {\n .reg .b33 x; }", 3, ".b33"),
        (".version 7.8\n.entry k() { ld.u32 %r1, [%r2*4]; }", 2, "*"),
        (".version 7.8\n.entry k() {", 2, "end of file"),
        (".target sm_80", 1, "end of file"),
        (".version 7.8 .address_size 32", 1, "32"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!((error.line, error.token.as_str()), (line, token), "{text}");
    }
}

proptest! {
    #[test]
    fn a_mutated_file_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..24),
    ) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, b"{}[](),;.:@!<%\"-0"[byte as usize % 17]),
                2 => { bytes.remove(at); }
                _ => bytes.truncate(bytes.len().max(2) - 1),
            }
            if bytes.is_empty() { break; }
        }
        // Lossy: the parser takes text; other bytes never reach it.
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn nesting_without_end_is_refused() {
    let deep = format!(".version 7.8 .entry k() {{ {}", "{".repeat(100_000));
    assert!(parse(&deep).is_err());
    let vectors = format!(".version 7.8 .entry k() {{ mov.b32 {}", "{".repeat(100_000));
    assert!(parse(&vectors).is_err());
}
