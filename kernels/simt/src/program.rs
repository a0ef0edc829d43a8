//! Lowered kernels: names are slots, opcodes are functions, labels are indices.
//!
//! A warp's whole state is one array of slots, each holding a value for all 32 lanes. Registers,
//! immediates, addresses of variables and special registers are all slots, so an instruction fetches
//! every operand in the same way.

use crate::alu::AluFn;
use crate::ptx::ast::{Space, Type};

pub const WARP_LANES: usize = 32;
pub const FULL_MASK: u32 = u32::MAX;

/// A value for each lane. Bits above an operand's type are arbitrary: every reader truncates.
pub type Lanes = [u64; WARP_LANES];

/// Index of a slot.
pub type Slot = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Special {
    TidX,
    TidY,
    TidZ,
    NtidX,
    NtidY,
    NtidZ,
    CtaidX,
    CtaidY,
    CtaidZ,
    NctaidX,
    NctaidY,
    NctaidZ,
    LaneId,
    WarpId,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    /// Clocks and SM numbers: constant, as no time passes here.
    Zero,
}

/// `[slot + offset]` in a space.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    pub space: Space,
    pub base: Slot,
    pub offset: i64,
}

#[derive(Debug, Clone, Copy)]
pub struct Alu {
    pub f: AluFn,
    pub dst: Slot,
    pub src: [Slot; 4],
    /// `.ftz` on f32: subnormal inputs become zero,
    pub flush_inputs: bool,
    /// and so does a subnormal result, where the result is f32.
    pub flush_result: bool,
    /// `.sat` on f32: the result is clamped to [0, 1].
    pub saturate: bool,
    /// Documented error of an approximate instruction, in units of the last place; 0 is exact.
    pub error_ulps: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Inc,
    Dec,
    Exchange,
    CompareExchange,
}

/// `mma.sync`: m16n8 with `k` from the number of registers.
#[derive(Debug)]
pub struct Mma {
    pub k: usize,
    pub a_type: Type,
    pub b_type: Type,
    /// F32, F16 or S32.
    pub acc_type: Type,
    pub saturate: bool,
    pub d: Box<[Slot]>,
    pub a: Box<[Slot]>,
    pub b: Box<[Slot]>,
    pub c: Box<[Slot]>,
}

/// Where `wgmma` has its A from.
#[derive(Debug)]
pub enum WgmmaA {
    /// Four registers of each lane, as `mma.m16n8k16` has them.
    Registers(Box<[Slot]>),
    /// A descriptor; transposed is M-major.
    Shared { descriptor: Slot, transposed: bool },
}

/// `wgmma.mma_async.m64nNk16` with f32 sums. Each of the four warps makes 16 rows.
#[derive(Debug)]
pub struct Wgmma {
    pub n: usize,
    /// F16 or Bf16.
    pub ty: Type,
    pub a: WgmmaA,
    pub b: Slot,
    /// B is N-major.
    pub b_transposed: bool,
    /// False in every lane: D is not an input.
    pub accumulate: Slot,
    pub negate_a: bool,
    pub negate_b: bool,
    pub d: Box<[Slot]>,
}

#[derive(Debug)]
pub struct Load {
    pub address: Address,
    pub element_bytes: u32,
    pub signed: bool,
    pub dst: Box<[Slot]>,
}

#[derive(Debug)]
pub struct Store {
    pub address: Address,
    pub element_bytes: u32,
    pub src: Box<[Slot]>,
}

#[derive(Debug)]
pub struct Atomic {
    pub address: Address,
    pub ty: Type,
    pub op: Reduction,
    /// None for `red`.
    pub dst: Option<Slot>,
    pub b: Slot,
    pub c: Slot,
}

#[derive(Debug)]
pub struct CopyAsync {
    pub shared: Address,
    pub global: Address,
    pub bytes: u32,
    /// Fewer source bytes: the rest of the target becomes zero.
    pub source_bytes: Option<Slot>,
    /// A predicate that makes the whole target zero.
    pub ignore_source: Option<Slot>,
}

#[derive(Debug)]
pub struct ShuffleOp {
    pub mode: Shuffle,
    pub dst: Slot,
    pub in_range: Option<Slot>,
    pub value: Slot,
    pub lane: Slot,
    pub clamp: Slot,
    pub members: Slot,
}

/// What an instruction does. The hot ones are inline, the wide ones boxed: 64 bytes in all.
#[derive(Debug)]
pub enum Op {
    Alu(Alu),
    Branch {
        target: u32,
    },
    Exit,
    Trap,
    /// Orders memory, which this emulator never reorders.
    Fence,
    /// Shows ordinary writes of shared memory to wgmma.
    ProxyFence,
    WarpSync {
        members: Slot,
    },
    Barrier {
        id: Slot,
        threads: Option<Slot>,
        arrive_only: bool,
    },
    Load(Load),
    Store(Store),
    Atomic(Box<Atomic>),
    CopyAsync(Box<CopyAsync>),
    CopyCommit,
    /// None waits for everything, committed or not.
    CopyWait {
        pending_groups: Option<u32>,
    },
    LoadMatrix {
        address: Address,
        transposed: bool,
        dst: Box<[Slot]>,
    },
    StoreMatrix {
        address: Address,
        transposed: bool,
        src: Box<[Slot]>,
    },
    Mma(Box<Mma>),
    Wgmma(Box<Wgmma>),
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        pending_groups: u32,
    },
    Shuffle(Box<ShuffleOp>),
    Vote {
        mode: Vote,
        dst: Slot,
        value: Slot,
        members: Slot,
    },
    ActiveMask {
        dst: Slot,
    },
    Elect {
        dst: Slot,
        elected: Slot,
        members: Slot,
    },
    Reduce {
        op: Reduction,
        ty: Type,
        dst: Slot,
        value: Slot,
        members: Slot,
    },
}

impl Op {
    /// Every register the instruction reads or writes, and immediates as well. Not those of wgmma,
    /// which have rules of their own.
    pub fn registers(&self, visit: &mut impl FnMut(Slot)) {
        let mut all = |slots: &[Slot]| slots.iter().for_each(|&slot| visit(slot));
        match self {
            Op::Alu(alu) => {
                all(&alu.src);
                all(&[alu.dst]);
            }
            Op::Load(load) => {
                all(&load.dst);
                all(&[load.address.base]);
            }
            Op::Store(store) => {
                all(&store.src);
                all(&[store.address.base]);
            }
            Op::Atomic(atomic) => {
                all(&[atomic.address.base, atomic.b, atomic.c]);
                all(atomic.dst.as_slice());
            }
            Op::CopyAsync(copy) => {
                all(&[copy.shared.base, copy.global.base]);
                all(copy.source_bytes.as_slice());
            }
            Op::LoadMatrix { address, dst: registers, .. }
            | Op::StoreMatrix { address, src: registers, .. } => {
                all(registers);
                all(&[address.base]);
            }
            Op::Mma(mma) => [&mma.a, &mma.b, &mma.c, &mma.d].into_iter().for_each(|r| all(r)),
            Op::Shuffle(shuffle) => {
                all(&[shuffle.dst, shuffle.value, shuffle.lane, shuffle.clamp]);
            }
            Op::Vote { dst, value, .. } | Op::Reduce { dst, value, .. } => all(&[*dst, *value]),
            Op::ActiveMask { dst } | Op::Elect { dst, .. } => all(&[*dst]),
            Op::Barrier { .. }
            | Op::WarpSync { .. }
            | Op::Branch { .. }
            | Op::Exit
            | Op::Trap
            | Op::Fence
            | Op::ProxyFence
            | Op::CopyCommit
            | Op::CopyWait { .. }
            | Op::Wgmma(_)
            | Op::WgmmaFence
            | Op::WgmmaCommit
            | Op::WgmmaWait { .. } => {}
        }
    }
}

#[derive(Debug)]
pub struct Inst {
    /// Slot of the predicate, and whether it is negated.
    pub guard: Option<(Slot, bool)>,
    pub op: Op,
    /// Index into `Kernel::texts` and the line of the PTX it came from.
    pub text: u32,
    pub line: u32,
}

#[derive(Debug, Clone, Copy)]
pub struct Param {
    pub offset: u32,
    pub bytes: u32,
}

#[derive(Debug, Default)]
pub struct Kernel {
    pub name: String,
    pub code: Vec<Inst>,
    /// Opcodes as written, for faults.
    pub texts: Vec<String>,
    pub num_slots: u32,
    pub constants: Vec<(Slot, u64)>,
    pub specials: Vec<(Slot, Special)>,
    pub params: Vec<Param>,
    pub param_bytes: u32,
    pub shared_bytes: u32,
    pub local_bytes: u32,
    /// Whether any instruction is a wgmma: only then are registers watched.
    pub has_wgmma: bool,
    pub required_threads: Option<[u32; 3]>,
    pub max_threads: Option<u32>,
}

impl Kernel {
    /// The wgmma at `pc`, if there is one.
    #[must_use]
    pub fn wgmma(&self, pc: u32) -> Option<&Wgmma> {
        match &self.code.get(pc as usize)?.op {
            Op::Wgmma(wgmma) => Some(wgmma),
            _ => None,
        }
    }
}
