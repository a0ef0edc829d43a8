//! What a kernel did wrong, and exactly where.

use std::fmt;

/// Three sizes or positions, x fastest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dim3 {
    pub x: u32,
    pub y: u32,
    pub z: u32,
}

impl Dim3 {
    #[must_use]
    pub fn count(self) -> u64 {
        u64::from(self.x) * u64::from(self.y) * u64::from(self.z)
    }

    /// The position of the `index`-th element, x fastest.
    #[must_use]
    pub fn position(self, index: u64) -> Dim3 {
        let (x, y) = (u64::from(self.x.max(1)), u64::from(self.y.max(1)));
        Dim3 { x: (index % x) as u32, y: (index / x % y) as u32, z: (index / (x * y)) as u32 }
    }
}

impl From<u32> for Dim3 {
    fn from(x: u32) -> Dim3 {
        Dim3 { x, y: 1, z: 1 }
    }
}

impl From<(u32, u32)> for Dim3 {
    fn from((x, y): (u32, u32)) -> Dim3 {
        Dim3 { x, y, z: 1 }
    }
}

impl From<(u32, u32, u32)> for Dim3 {
    fn from((x, y, z): (u32, u32, u32)) -> Dim3 {
        Dim3 { x, y, z }
    }
}

impl fmt::Display for Dim3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {}, {})", self.x, self.y, self.z)
    }
}

/// A device address misused. Raised by kernels and by copies of the host alike.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryFault {
    #[error("out of memory: {wanted} bytes wanted, {free} free")]
    OutOfMemory { wanted: u64, free: u64 },
    #[error("{address:#x} is no device address")]
    NoSuchAddress { address: u64 },
    #[error("use after free: {address:#x} was freed")]
    UseAfterFree { address: u64 },
    #[error("out of bounds: {bytes} bytes at offset {offset} of an allocation of {size} bytes")]
    OutOfBounds { offset: u64, bytes: u64, size: u64 },
    #[error("misaligned: {address:#x} is no multiple of {align}")]
    Misaligned { address: u64, align: u64 },
    #[error("{address:#x} is not the start of an allocation")]
    NotAnAllocation { address: u64 },
}

/// How two warps met at one byte of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaceKind {
    WriteAfterWrite,
    ReadAfterWrite,
    WriteAfterRead,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    #[error(transparent)]
    Memory(#[from] MemoryFault),
    #[error("shared memory race ({kind:?}) at offset {offset} with warp {other_warp}")]
    Race { kind: RaceKind, offset: u32, other_warp: u32 },
    #[error(
        "shared memory race ({kind:?}) at offset {offset} of lanes of one warp, not synchronised"
    )]
    LaneRace { kind: RaceKind, offset: u32 },
    #[error("shared offset {offset} is the target of a cp.async that nobody waited for")]
    MissingWait { offset: u32 },
    #[error("shared offset {offset} is written while a wgmma reads it: its wait comes later")]
    OverwrittenOperand { offset: u32 },
    #[error("a wgmma reads shared offset {offset}, written behind the last fence.proxy.async")]
    MissingProxyFence { offset: u32 },
    #[error("a register of a wgmma is touched before its wait_group")]
    MissingWgmmaWait,
    #[error("a register of this wgmma was touched behind the last wgmma.fence")]
    MissingWgmmaFence,
    #[error("wgmma: {what}")]
    Wgmma { what: String },
    #[error("divergent: lanes {active:#010x} are here, {expected:#010x} are needed")]
    Divergent { active: u32, expected: u32 },
    #[error("divergent barrier: {reason}")]
    DivergentBarrier { reason: String },
    #[error("deadlock: {waiting} warps wait at barriers that nobody will complete")]
    Deadlock { waiting: u32 },
    #[error("still running after {instructions} warp instructions")]
    Timeout { instructions: u64 },
    #[error("trap")]
    Trap,
    #[error("not emulated: {what}")]
    Unsupported { what: String },
    #[error("bad launch: {what}")]
    Launch { what: String },
}

/// A kernel stopped by something a GPU would corrupt, hang or crash on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kernel}, line {line} ({instruction}), block {block}, thread {thread}: {kind}")]
pub struct Fault {
    pub kernel: String,
    /// Line of the PTX text; 0 when no instruction is to blame.
    pub line: u32,
    pub instruction: String,
    pub block: Dim3,
    pub thread: Dim3,
    pub kind: FaultKind,
}
