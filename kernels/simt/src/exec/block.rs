//! One block: its warps in seeded order, its barriers.

use super::warp::{Stop, Warp};
use super::{Context, LaneFault, Launch, WarpFault, wgmma};
use crate::fault::{Dim3, FaultKind};
use crate::program::{Lanes, Special, WARP_LANES};
use crate::random::Random;

/// Instructions a warp runs before another may go on: short enough that a spinning warp does not
/// starve the one it waits for, long enough that switching costs nothing.
const QUANTUM: u64 = 10_000;

/// Hardware barriers of a block.
const BARRIERS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Ready => Waiting at a barrier => Ready when it completes; Ready => Done on exit.
    Ready,
    Waiting {
        barrier: usize,
    },
    Done,
}

#[derive(Debug, Default)]
struct Barrier {
    arrived_threads: u64,
    /// The thread count all arrivals must agree on; None is the whole block.
    expected: Option<u64>,
    /// The instruction of the first arrival: a barrier of the whole block is one instruction.
    pc: Option<u32>,
}

/// The slots of a warp before its own special registers are set.
pub fn template(launch: &Launch<'_>) -> Vec<Lanes> {
    // Garbage as bad as it gets: NaN as a float, out of every bound as an index.
    let mut slots = vec![[u64::MAX; WARP_LANES]; launch.kernel.num_slots as usize];
    for &(slot, value) in &launch.kernel.constants {
        slots[slot as usize] = [value; WARP_LANES];
    }
    slots
}

fn special(launch: &Launch<'_>, block: Dim3, warp: usize, lane: usize, which: Special) -> u64 {
    let thread = launch.block.position((warp * WARP_LANES + lane) as u64);
    let lane_bit = 1u32 << lane;
    u64::from(match which {
        Special::TidX => thread.x,
        Special::TidY => thread.y,
        Special::TidZ => thread.z,
        Special::NtidX => launch.block.x,
        Special::NtidY => launch.block.y,
        Special::NtidZ => launch.block.z,
        Special::CtaidX => block.x,
        Special::CtaidY => block.y,
        Special::CtaidZ => block.z,
        Special::NctaidX => launch.grid.x,
        Special::NctaidY => launch.grid.y,
        Special::NctaidZ => launch.grid.z,
        Special::LaneId => lane as u32,
        Special::WarpId => warp as u32,
        Special::LaneMaskEq => lane_bit,
        Special::LaneMaskLt => lane_bit - 1,
        Special::LaneMaskLe => lane_bit | (lane_bit - 1),
        Special::LaneMaskGt => !(lane_bit | (lane_bit - 1)),
        Special::LaneMaskGe => !(lane_bit - 1),
        Special::Zero => 0,
    })
}

/// A block's warps. Their memory serves one block after another: a megabyte of slots for each is not
/// rare, and the pages of a fresh one would cost more than most kernels.
pub fn warps(launch: &Launch<'_>) -> Vec<Warp> {
    let threads = launch.block.count() as usize;
    let (num_slots, local_bytes) = (launch.kernel.num_slots, launch.kernel.local_bytes);
    (0..threads.div_ceil(WARP_LANES))
        .map(|id| {
            let lanes = (threads - id * WARP_LANES).min(WARP_LANES) as u32;
            Warp::new(id as u8, num_slots, u32::MAX >> (32 - lanes), local_bytes)
        })
        .collect()
}

/// Makes the warps those of the block at `position`, at its beginning.
fn reset(warps: &mut [Warp], launch: &Launch<'_>, template: &[Lanes], position: Dim3) {
    for (id, warp) in warps.iter_mut().enumerate() {
        warp.reset(template);
        for &(slot, which) in &launch.kernel.specials {
            warp.slots[slot as usize] =
                std::array::from_fn(|lane| special(launch, position, id, lane, which));
        }
    }
}

struct Block<'w> {
    warps: &'w mut [Warp],
    states: Vec<State>,
    barriers: [Barrier; BARRIERS],
}

/// Runs the block at `position` to its end.
pub fn run(
    context: &mut Context<'_>,
    warps: &mut [Warp],
    template: &[Lanes],
    position: Dim3,
    random: &mut Random,
) -> Result<(), WarpFault> {
    reset(warps, context.launch, template, position);
    let states = vec![State::Ready; warps.len()];
    let mut block = Block { warps, states, barriers: Default::default() };
    let mut order: Vec<usize> = (0..block.warps.len()).collect();
    loop {
        random.shuffle(&mut order);
        let mut progress = false;
        for &id in &order {
            if block.states[id] == State::Ready {
                progress = true;
                block.turn(context, id)?;
            }
        }
        if block.states.iter().all(|&state| state == State::Done) {
            return wgmma::check_warpgroups(block.warps).map_err(|(warp, kind)| WarpFault {
                warp,
                pc: None,
                fault: kind.into(),
            });
        }
        if !progress {
            return Err(block.stuck());
        }
    }
}

impl Block<'_> {
    fn turn(&mut self, context: &mut Context<'_>, id: usize) -> Result<(), WarpFault> {
        let warp = &mut self.warps[id];
        let stop = warp.run(context, QUANTUM).map_err(|fault| WarpFault {
            warp: id,
            pc: Some(warp.pc()),
            fault,
        })?;
        let executed = context.counters.instructions;
        if executed > context.launch.settings.max_instructions {
            let kind = FaultKind::Timeout { instructions: executed };
            return Err(WarpFault { warp: id, pc: Some(warp.pc()), fault: kind.into() });
        }
        match stop {
            Stop::Quantum => Ok(()),
            Stop::Exited => {
                self.states[id] = State::Done;
                Ok(())
            }
            Stop::Barrier { id: barrier, threads, arrive_only, pc } => {
                if !arrive_only {
                    self.states[id] = State::Waiting { barrier: barrier as usize };
                }
                self.arrive(barrier, threads, pc).map_err(|kind| WarpFault {
                    warp: id,
                    pc: Some(pc),
                    fault: kind.into(),
                })?;
                if self.completes(barrier as usize) {
                    context.shared.barrier();
                    context.counters.barriers += 1;
                }
                Ok(())
            }
        }
    }

    fn arrive(&mut self, id: u64, threads: Option<u64>, pc: u32) -> Result<(), FaultKind> {
        let misuse = |reason: String| Err(FaultKind::DivergentBarrier { reason });
        if id as usize >= BARRIERS {
            return misuse(format!("there is no barrier {id}"));
        }
        let barrier = &mut self.barriers[id as usize];
        if barrier.arrived_threads > 0 && barrier.expected != threads {
            return misuse(format!("barrier {id} is awaited with different thread counts"));
        }
        if threads.is_none() && barrier.pc.is_some_and(|first| first != pc) {
            return misuse(format!("warps meet barrier {id} at different instructions"));
        }
        barrier.expected = threads;
        barrier.pc = Some(pc);
        // A warp counts as 32 threads even when its last lanes do not exist.
        barrier.arrived_threads += WARP_LANES as u64;
        Ok(())
    }

    /// Frees the warps at barrier `id` if the last has come.
    fn completes(&mut self, id: usize) -> bool {
        let barrier = &mut self.barriers[id];
        let expected = barrier.expected.unwrap_or((self.warps.len() * WARP_LANES) as u64);
        if barrier.arrived_threads < expected {
            return false;
        }
        *barrier = Barrier::default();
        for state in &mut self.states {
            if *state == (State::Waiting { barrier: id }) {
                *state = State::Ready;
            }
        }
        true
    }

    /// No warp can go on: says why.
    fn stuck(&self) -> WarpFault {
        let done = self.states.iter().filter(|&&state| state == State::Done).count();
        let waiting = self.states.len() - done;
        let first = self.states.iter().position(|state| *state != State::Done).unwrap_or(0);
        let kind = if done > 0 {
            let reason = format!("{done} warps exited while {waiting} wait");
            FaultKind::DivergentBarrier { reason }
        } else {
            FaultKind::Deadlock { waiting: waiting as u32 }
        };
        let pc = match self.states[first] {
            State::Waiting { barrier } => self.barriers[barrier].pc,
            _ => None,
        };
        WarpFault { warp: first, pc, fault: LaneFault { lane: 0, kind } }
    }
}
