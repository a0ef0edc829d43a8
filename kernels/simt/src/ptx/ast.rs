//! What a PTX file says, before names are resolved.

use std::fmt;

/// The fundamental types; `.b` types carry bits without meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
    Pred,
}

impl Type {
    /// `word` without its dot.
    #[must_use]
    pub fn parse(word: &str) -> Option<Type> {
        Some(match word {
            "b8" => Type::B8,
            "b16" => Type::B16,
            "b32" => Type::B32,
            "b64" => Type::B64,
            "b128" => Type::B128,
            "u8" => Type::U8,
            "u16" => Type::U16,
            "u32" => Type::U32,
            "u64" => Type::U64,
            "s8" => Type::S8,
            "s16" => Type::S16,
            "s32" => Type::S32,
            "s64" => Type::S64,
            "f16" => Type::F16,
            "f16x2" => Type::F16x2,
            "bf16" => Type::Bf16,
            "bf16x2" => Type::Bf16x2,
            "tf32" => Type::Tf32,
            "f32" => Type::F32,
            "f64" => Type::F64,
            "pred" => Type::Pred,
            _ => return None,
        })
    }

    #[must_use]
    pub fn bytes(self) -> u32 {
        match self {
            Type::B8 | Type::U8 | Type::S8 | Type::Pred => 1,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 2,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 8,
            Type::B128 => 16,
            _ => 4,
        }
    }

    #[must_use]
    pub fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(
            self,
            Type::F16
                | Type::F16x2
                | Type::Bf16
                | Type::Bf16x2
                | Type::Tf32
                | Type::F32
                | Type::F64
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// `.shared .align 16 .b8 tile[4096]`, and parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    pub name: String,
    pub space: Space,
    pub ty: Type,
    pub align: u32,
    /// 0 for `name[]`, the dynamic shared memory.
    pub size_bytes: u32,
    /// `.extern`: the size comes with the launch.
    pub external: bool,
    pub init: Vec<u8>,
    pub line: u32,
}

/// `.reg .b32 %r<8>`: `count` is None for a single name.
#[derive(Debug, Clone, PartialEq)]
pub struct RegisterDecl {
    pub name: String,
    pub ty: Type,
    pub count: Option<u32>,
    pub line: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// Register, special register, variable or label; which, the resolver knows.
    Name(String),
    /// `!%p`.
    Not(String),
    /// `%p|%q`, the two results of setp and shfl.
    Pair(String, String),
    Int(i64),
    /// Bits of a 0f literal.
    F32(u32),
    /// Bits of a 0d or decimal literal.
    F64(u64),
    /// `[base + offset]`.
    Address {
        base: AddressBase,
        offset: i64,
    },
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `_`: the result is dropped.
    Sink,
}

#[derive(Debug, Clone, PartialEq)]
pub enum AddressBase {
    Name(String),
    Absolute,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Guard {
    pub register: String,
    pub negated: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    pub guard: Option<Guard>,
    /// `ld.global.nc.v4.u32` cut at the dots.
    pub opcode: Vec<String>,
    pub operands: Vec<Operand>,
    pub line: u32,
}

impl Instruction {
    /// Whether a modifier stands anywhere behind the opcode.
    #[must_use]
    pub fn has(&self, modifier: &str) -> bool {
        self.opcode.iter().skip(1).any(|part| part == modifier)
    }

    /// The types among the modifiers, in order.
    pub fn types(&self) -> impl Iterator<Item = Type> + '_ {
        self.opcode.iter().skip(1).filter_map(|part| Type::parse(part))
    }
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.opcode.join("."))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    Label(String),
    Instruction(Instruction),
    Registers(RegisterDecl),
    Variable(Variable),
    Scope(Vec<Statement>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub name: String,
    pub params: Vec<Variable>,
    /// `.reqntid`: the only block shape that may launch.
    pub required_threads: Option<[u32; 3]>,
    /// `.maxntid`: the most threads a block may have, as a product.
    pub max_threads: Option<u32>,
    pub body: Vec<Statement>,
    pub line: u32,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ptx {
    pub version: (u32, u32),
    /// `sm_80`, `sm_90a`.
    pub target: String,
    pub entries: Vec<Entry>,
    pub variables: Vec<Variable>,
}
