//! One warp: lane groups, divergence and reconvergence, the instruction loop.
//!
//! Lanes at the same instruction form a group. The group with the lowest position runs first, and
//! groups that meet join: that reconverges what compilers emit. A group that needs lanes which are
//! elsewhere waits for them; when every group waits, the kernel diverged where it must not.

use super::copy::Copies;
use super::wgmma::Products;
use super::{Context, LaneFault, access, atomic, collective, copy, matrix, wgmma};
use crate::alu::flush_f32;
use crate::fault::FaultKind;
use crate::program::{Alu, Lanes, Op, Slot, WARP_LANES};
use crate::random::mix;

#[derive(Debug, Clone, Copy)]
struct Group {
    pc: u32,
    mask: u32,
    waiting: bool,
}

/// Why a warp stopped running.
#[derive(Debug)]
pub enum Stop {
    Quantum,
    Exited,
    Barrier { id: u64, threads: Option<u64>, arrive_only: bool, pc: u32 },
}

/// What an instruction asks the loop to do next.
enum Next {
    Advance,
    /// Lanes `taken` go to `target`, the others on.
    Jump {
        target: u32,
        taken: u32,
    },
    Exit {
        lanes: u32,
    },
    /// Try again when more lanes have come.
    Await {
        expected: u32,
    },
    Barrier {
        id: u64,
        threads: Option<u64>,
        arrive_only: bool,
    },
}

#[derive(Debug)]
pub struct Warp {
    pub id: u8,
    pub slots: Vec<Lanes>,
    pub local: Vec<u8>,
    pub local_bytes: u32,
    pub copies: Copies,
    pub products: Products,
    /// The lanes the warp began with: fewer than 32 in the last warp of an uneven block.
    born: u32,
    groups: Vec<Group>,
    /// Index of the group that runs.
    current: usize,
}

/// The active lanes of `mask`.
pub fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    (0..WARP_LANES).filter(move |lane| mask >> lane & 1 == 1)
}

impl Warp {
    pub fn new(id: u8, num_slots: u32, born: u32, local_bytes: u32) -> Self {
        Warp {
            id,
            slots: vec![[0; WARP_LANES]; num_slots as usize],
            local: vec![0; local_bytes as usize * WARP_LANES],
            local_bytes,
            copies: Copies::default(),
            products: Products::default(),
            born,
            groups: Vec::new(),
            current: 0,
        }
    }

    /// As at the beginning of a block, with the slots of `template`.
    pub fn reset(&mut self, template: &[Lanes]) {
        self.slots.copy_from_slice(template);
        self.local.fill(crate::memory::POISON);
        self.copies = Copies::default();
        self.products = Products::default();
        self.groups.clear();
        self.groups.push(Group { pc: 0, mask: self.born, waiting: false });
        self.current = 0;
    }

    /// The instruction that runs, or ran last.
    pub fn pc(&self) -> u32 {
        self.groups.get(self.current).map_or(0, |group| group.pc)
    }

    /// Lanes that have not exited.
    pub fn live(&self) -> u32 {
        self.groups.iter().fold(0, |live, group| live | group.mask)
    }

    /// Bits of the lanes in which a predicate holds.
    pub fn predicate(&self, slot: Slot) -> u32 {
        let mut bits = 0;
        for (lane, value) in self.slots[slot as usize].iter().enumerate() {
            bits |= ((value & 1) as u32) << lane;
        }
        bits
    }

    pub fn set(&mut self, slot: Slot, mask: u32, value: &Lanes) {
        let target = &mut self.slots[slot as usize];
        if mask == u32::MAX {
            *target = *value;
            return;
        }
        for lane in lanes_of(mask) {
            target[lane] = value[lane];
        }
    }

    pub fn run(&mut self, context: &mut Context<'_>, quantum: u64) -> Result<Stop, LaneFault> {
        let kernel = context.launch.kernel;
        for _ in 0..quantum {
            let group = self.groups[self.current];
            let inst = &kernel.code[group.pc as usize];
            context.counters.instructions += 1;
            let mask = match inst.guard {
                None => group.mask,
                Some((slot, false)) => group.mask & self.predicate(slot),
                Some((slot, true)) => group.mask & !self.predicate(slot),
            };
            if kernel.has_wgmma && context.launch.settings.detect_races {
                self.watch(&inst.op, mask)?;
            }
            let next = match &inst.op {
                _ if mask == 0 => Next::Advance,
                Op::Alu(alu) => {
                    self.alu(context, alu, mask);
                    Next::Advance
                }
                op => self
                    .step(context, op, mask, group.mask)
                    .map_err(|fault| blame_active(fault, mask))?,
            };
            match next {
                Next::Advance => self.groups[self.current].pc += 1,
                Next::Jump { target, taken } => self.jump(target, taken),
                Next::Exit { lanes } => {
                    let group = &mut self.groups[self.current];
                    group.mask &= !lanes;
                    group.pc += 1;
                    self.groups.retain(|group| group.mask != 0);
                    if self.groups.is_empty() {
                        return Ok(Stop::Exited);
                    }
                    self.current = 0;
                    // Those who waited for the exited may be complete now.
                    self.groups.iter_mut().for_each(|group| group.waiting = false);
                }
                Next::Await { expected } => self.wait(expected)?,
                Next::Barrier { id, threads, arrive_only } => {
                    let pc = group.pc;
                    self.groups[self.current].pc += 1;
                    return Ok(Stop::Barrier { id, threads, arrive_only, pc });
                }
            }
            if self.groups.len() > 1 {
                self.schedule();
            }
        }
        Ok(Stop::Quantum)
    }

    /// Registers of a wgmma are not to be touched before its wait, nor without a fence before it.
    fn watch(&mut self, op: &Op, mask: u32) -> Result<(), LaneFault> {
        let mut free = true;
        op.registers(&mut |slot| free &= self.products.touch(slot));
        if free { Ok(()) } else { Err(blame_active(FaultKind::MissingWgmmaWait.into(), mask)) }
    }

    fn jump(&mut self, target: u32, taken: u32) {
        let group = &mut self.groups[self.current];
        if taken == group.mask {
            group.pc = target;
            return;
        }
        group.mask &= !taken;
        group.pc += 1;
        self.groups.push(Group { pc: target, mask: taken, waiting: false });
    }

    /// Joins groups that met and picks the lowest that can run.
    fn schedule(&mut self) {
        self.groups.sort_unstable_by_key(|group| group.pc);
        self.groups.dedup_by(|next, kept| {
            let meet = next.pc == kept.pc;
            if meet {
                kept.mask |= next.mask;
                kept.waiting = false;
            }
            meet
        });
        // `wait` leaves one that can run; only it sets `waiting`.
        self.current = self.groups.iter().position(|group| !group.waiting).unwrap_or(0);
    }

    fn wait(&mut self, expected: u32) -> Result<(), LaneFault> {
        let group = &mut self.groups[self.current];
        group.waiting = true;
        let active = group.mask;
        if self.groups.iter().all(|group| group.waiting) {
            return Err(FaultKind::Divergent { active, expected }.into());
        }
        Ok(())
    }

    fn alu(&mut self, context: &Context<'_>, alu: &Alu, mask: u32) {
        let source = |slot: Slot| &self.slots[slot as usize];
        let [a, b, c, d] = alu.src.map(source);
        let mut result = if alu.flush_inputs {
            let flushed = [a, b, c, d].map(|lanes| lanes.map(flush_f32));
            (alu.f)([&flushed[0], &flushed[1], &flushed[2], &flushed[3]])
        } else {
            (alu.f)([a, b, c, d])
        };
        if alu.flush_result {
            result = result.map(flush_f32);
        }
        if alu.saturate {
            result = result.map(saturate);
        }
        if alu.error_ulps > 0 && context.launch.settings.perturb_approximations {
            let seed = context.launch.settings.seed;
            for (value, input) in result.iter_mut().zip(a) {
                *value = perturb(*value, alu.error_ulps, mix(seed ^ (input & 0xffff_ffff)));
            }
        }
        self.set(alu.dst, mask, &result);
    }

    /// Everything but arithmetic. `here` are the lanes at this instruction, `mask` those whose guard
    /// holds.
    fn step(
        &mut self,
        context: &mut Context<'_>,
        op: &Op,
        mask: u32,
        here: u32,
    ) -> Result<Next, LaneFault> {
        if let Some(expected) = self.expected_lanes(op, mask) {
            if mask & !expected != 0 || expected & here & !mask != 0 {
                return Err(FaultKind::Divergent { active: mask, expected }.into());
            }
            if mask != expected {
                return Ok(Next::Await { expected });
            }
        }
        match op {
            Op::Alu(alu) => self.alu(context, alu, mask),
            Op::Branch { target } => return Ok(Next::Jump { target: *target, taken: mask }),
            Op::Exit => return Ok(Next::Exit { lanes: mask }),
            Op::Trap => return Err(FaultKind::Trap.into()),
            Op::Fence => {}
            Op::WarpSync { .. } => context.shared.sync_warp(self.id),
            Op::ProxyFence => context.shared.fence_proxy(self.id),
            Op::Barrier { id, threads, arrive_only } => {
                let first = mask.trailing_zeros() as usize;
                let value = |slot: Slot| self.slots[slot as usize][first] & 0xffff_ffff;
                let (id, threads) = (value(*id), threads.map(value));
                return Ok(Next::Barrier { id, threads, arrive_only: *arrive_only });
            }
            Op::Load(load) => access::load(self, context, load, mask)?,
            Op::Store(store) => access::store(self, context, store, mask)?,
            Op::Atomic(atomic) => atomic::run(self, context, atomic, mask)?,
            Op::CopyAsync(copy) => copy::issue(self, context, copy, mask)?,
            Op::CopyCommit => self.copies.commit(mask),
            Op::CopyWait { pending_groups } => copy::wait(self, context, *pending_groups, mask),
            Op::LoadMatrix { address, transposed, dst } => {
                matrix::load(self, context, *address, *transposed, dst)?;
            }
            Op::StoreMatrix { address, transposed, src } => {
                matrix::store(self, context, *address, *transposed, src)?;
            }
            Op::Mma(mma) => {
                context.counters.mma += 1;
                matrix::multiply(self, mma, context.launch.settings.mma_order);
            }
            Op::Wgmma(_) | Op::WgmmaFence | Op::WgmmaCommit | Op::WgmmaWait { .. } => {
                self.product(context, op)?;
            }
            Op::Shuffle(shuffle) => collective::shuffle(self, shuffle, mask),
            Op::Vote { mode, dst, value, members: _ } => {
                collective::vote(self, *mode, *dst, *value, mask);
            }
            Op::ActiveMask { dst } => self.set(*dst, mask, &[u64::from(mask); WARP_LANES]),
            Op::Elect { dst, elected, members: _ } => {
                let leader = mask.trailing_zeros() as usize;
                self.set(*dst, mask, &[leader as u64; WARP_LANES]);
                let is_leader = std::array::from_fn(|lane| u64::from(lane == leader));
                self.set(*elected, mask, &is_leader);
            }
            Op::Reduce { op, ty, dst, value, members: _ } => {
                collective::reduce(self, *op, *ty, *dst, *value, mask);
            }
        }
        Ok(Next::Advance)
    }

    fn product(&mut self, context: &mut Context<'_>, op: &Op) -> Result<(), LaneFault> {
        let pc = self.pc();
        self.products.note(pc);
        match op {
            Op::Wgmma(wgmma) => wgmma::issue(self, context, wgmma, pc)?,
            Op::WgmmaCommit => self.products.commit(),
            Op::WgmmaWait { pending_groups } => wgmma::wait(self, context, *pending_groups),
            _ => self.products.fence(context.launch.kernel.num_slots),
        }
        Ok(())
    }

    /// The lanes that have to be together at `op`; None when any may come alone.
    fn expected_lanes(&self, op: &Op, mask: u32) -> Option<u32> {
        match op {
            // `.aligned`: all threads of the warp, and matrix instructions use all 32 lanes' registers.
            Op::LoadMatrix { .. }
            | Op::StoreMatrix { .. }
            | Op::Mma(_)
            | Op::Wgmma(_)
            | Op::WgmmaFence
            | Op::WgmmaCommit
            | Op::WgmmaWait { .. } => Some(u32::MAX),
            // The exited too: a barrier some lanes never meet is undefined, and hides a skipped one.
            Op::Barrier { .. } => Some(self.born),
            Op::Shuffle(shuffle) => Some(self.members(shuffle.members, mask)),
            Op::Vote { members, .. }
            | Op::Elect { members, .. }
            | Op::Reduce { members, .. }
            | Op::WarpSync { members } => Some(self.members(*members, mask)),
            _ => None,
        }
    }

    /// The living lanes of a member mask; the exited are not waited for.
    fn members(&self, slot: Slot, mask: u32) -> u32 {
        let first = mask.trailing_zeros() as usize;
        self.slots[slot as usize][first] as u32 & self.live()
    }
}

/// A fault without a lane belongs to the first active one.
fn blame_active(mut fault: LaneFault, mask: u32) -> LaneFault {
    if mask >> fault.lane & 1 == 0 {
        fault.lane = mask.trailing_zeros() as usize;
    }
    fault
}

/// `.sat`: into [0, 1], NaN to 0.
fn saturate(bits: u64) -> u64 {
    let value = f32::from_bits(bits as u32);
    u64::from((if value > 0.0 { value.min(1.0) } else { 0.0 }).to_bits())
}

/// Moves a finite, nonzero f32 by at most `ulps`: a fixed function of the input, as in hardware.
fn perturb(bits: u64, ulps: u16, noise: u64) -> u64 {
    let value = f32::from_bits(bits as u32);
    if !value.is_normal() {
        return bits;
    }
    let ulps = i64::from(ulps);
    let moved = bits as u32 as i64 + (noise % (2 * ulps as u64 + 1)) as i64 - ulps;
    let moved = f32::from_bits(moved as u32);
    // tanh, sin and cos never leave [-1, 1]; no other bound is crossed by a few ulps.
    let moved = if value.abs() <= 1.0 { moved.clamp(-1.0, 1.0) } else { moved };
    if moved.is_normal() { u64::from(moved.to_bits()) } else { bits }
}
