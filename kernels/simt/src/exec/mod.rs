//! Runs lowered kernels: grid, blocks, warps, lanes.

mod access;
mod atomic;
mod block;
mod collective;
mod copy;
mod matrix;
mod warp;
mod wgmma;

use crate::counters::Counters;
use crate::fault::{Dim3, Fault, FaultKind};
use crate::memory::global::GlobalMemory;
use crate::memory::shared::{Access, SharedMemory};
use crate::program::Kernel;
use crate::random::Random;

/// How `mma` adds its products. Hardware documents no order: a kernel must be right under both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MmaOrder {
    /// All products and the accumulator are added exactly (in f64) and rounded once.
    #[default]
    Exact,
    /// One after another in f32, lowest k first.
    Sequential,
}

/// What a launch is allowed and how it is observed.
#[derive(Debug, Clone)]
pub struct Settings {
    pub seed: u64,
    pub max_instructions: u64,
    pub detect_races: bool,
    pub perturb_approximations: bool,
    pub mma_order: MmaOrder,
}

/// One launch: what runs and on what.
#[derive(Debug)]
pub struct Launch<'a> {
    pub kernel: &'a Kernel,
    pub grid: Dim3,
    pub block: Dim3,
    pub dynamic_shared_bytes: u32,
    pub params: &'a [u8],
    pub settings: &'a Settings,
}

/// A fault with the lane to blame, if there is one.
#[derive(Debug)]
struct LaneFault {
    lane: usize,
    kind: FaultKind,
}

impl From<FaultKind> for LaneFault {
    fn from(kind: FaultKind) -> Self {
        LaneFault { lane: 0, kind }
    }
}

/// A fault with the place in the block.
#[derive(Debug)]
struct WarpFault {
    warp: usize,
    pc: Option<u32>,
    fault: LaneFault,
}

/// What all warps of a block share.
#[derive(Debug)]
struct Context<'a> {
    launch: &'a Launch<'a>,
    global: &'a mut GlobalMemory,
    shared: SharedMemory,
    counters: Counters,
}

impl Context<'_> {
    /// The access of a lane, or of all of them, in the instruction that runs.
    fn access(&self, warp: u8, lane: Option<usize>) -> Access {
        Access { warp, lane: lane.map(|lane| lane as u8), step: self.counters.instructions as u32 }
    }
}

/// Runs every block of `launch`, in an order drawn from the seed.
///
/// # Errors
/// The first thing a kernel did that a GPU would not forgive.
pub fn run(launch: &Launch<'_>, global: &mut GlobalMemory) -> Result<Counters, Fault> {
    let shared_bytes = launch.kernel.shared_bytes as usize + launch.dynamic_shared_bytes as usize;
    let shared = SharedMemory::new(shared_bytes, launch.settings.detect_races);
    let mut context = Context { launch, global, shared, counters: Counters::default() };
    let template = block::template(launch);
    let mut warps = block::warps(launch);
    let mut random = Random::new(launch.settings.seed);
    let blocks = launch.grid.count();
    // A stride without common factor visits every block once: a shuffle with no list.
    let start = random.below(blocks.max(1));
    let mut stride = random.below(blocks.max(1)).max(1);
    while gcd(stride, blocks) > 1 {
        stride -= 1;
    }
    for index in 0..blocks {
        let step = (u128::from(index) * u128::from(stride)) % u128::from(blocks);
        let at = (start + step as u64) % blocks;
        let position = launch.grid.position(at);
        context.shared.reset();
        block::run(&mut context, &mut warps, &template, position, &mut random)
            .map_err(|fault| describe(launch, position, fault))?;
        context.counters.blocks += 1;
    }
    Ok(context.counters)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn describe(launch: &Launch<'_>, block: Dim3, fault: WarpFault) -> Fault {
    let inst = fault.pc.and_then(|pc| launch.kernel.code.get(pc as usize));
    let thread = fault.warp * crate::program::WARP_LANES + fault.fault.lane;
    Fault {
        kernel: launch.kernel.name.clone(),
        line: inst.map_or(0, |inst| inst.line),
        instruction: inst
            .and_then(|inst| launch.kernel.texts.get(inst.text as usize))
            .cloned()
            .unwrap_or_default(),
        block,
        thread: launch.block.position(thread as u64),
        kind: fault.fault.kind,
    }
}
