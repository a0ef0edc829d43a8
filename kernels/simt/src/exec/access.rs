//! Loads and stores of all spaces.

use super::warp::{Warp, lanes_of};
use super::{Context, LaneFault};
use crate::counters::{bank_conflicts, sectors};
use crate::fault::{FaultKind, MemoryFault};
use crate::memory::address::{Place, place};
use crate::program::{Address, Load, Store, WARP_LANES};
use crate::ptx::ast::Space;

/// Where one lane's access goes.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    Global(u64),
    Shared(u32),
    Local(u32),
    Param(u32),
}

/// The access of `lane` at `address`, in its own space.
pub fn resolve(warp: &Warp, address: Address, lane: usize) -> Result<Target, MemoryFault> {
    let at = warp.slots[address.base as usize][lane].wrapping_add(address.offset as u64);
    // The small spaces have 32-bit addresses; registers of that width have arbitrary upper bits.
    Ok(match address.space {
        Space::Global | Space::Const => Target::Global(at),
        Space::Shared => Target::Shared(at as u32),
        Space::Local => Target::Local(at as u32),
        Space::Param => Target::Param(at as u32),
        Space::Generic => match place(at)? {
            Place::Global { .. } => Target::Global(at),
            Place::Shared { offset } => Target::Shared(offset),
            Place::Local { offset } => Target::Local(offset),
        },
    })
}

/// What the active lanes of a request touched, for the counters.
#[derive(Debug)]
pub struct Touched {
    shared: [(usize, u32); WARP_LANES],
    num_shared: usize,
    global: [u64; WARP_LANES],
    num_global: usize,
}

impl Touched {
    pub fn new() -> Self {
        Touched {
            shared: [(0, 0); WARP_LANES],
            num_shared: 0,
            global: [0; WARP_LANES],
            num_global: 0,
        }
    }

    pub fn add(&mut self, lane: usize, target: Target) {
        match target {
            Target::Global(address) => {
                self.global[self.num_global] = address;
                self.num_global += 1;
            }
            Target::Shared(offset) => {
                self.shared[self.num_shared] = (lane, offset);
                self.num_shared += 1;
            }
            Target::Local(_) | Target::Param(_) => {}
        }
    }

    pub fn count(&self, context: &mut Context<'_>, bytes: u32, is_load: bool) {
        let counters = &mut context.counters;
        if self.num_shared > 0 {
            counters.shared_requests += 1;
            counters.shared_bank_conflicts +=
                bank_conflicts(&self.shared[..self.num_shared], bytes);
        }
        if self.num_global > 0 {
            let (touched, ideal) = sectors(&self.global[..self.num_global], u64::from(bytes));
            if is_load {
                counters.global_load_requests += 1;
                counters.global_load_sectors += touched;
                counters.global_load_sectors_ideal += ideal;
            } else {
                counters.global_store_requests += 1;
                counters.global_store_sectors += touched;
                counters.global_store_sectors_ideal += ideal;
            }
        }
    }
}

/// The part of a small memory that an access covers.
fn small(size: usize, offset: u32, bytes: u32) -> Result<std::ops::Range<usize>, MemoryFault> {
    if !offset.is_multiple_of(bytes) {
        let (address, align) = (u64::from(offset), u64::from(bytes));
        return Err(MemoryFault::Misaligned { address, align });
    }
    let end = u64::from(offset) + u64::from(bytes);
    if end > size as u64 {
        let (offset, bytes) = (u64::from(offset), u64::from(bytes));
        return Err(MemoryFault::OutOfBounds { offset, bytes, size: size as u64 });
    }
    Ok(offset as usize..end as usize)
}

/// The bytes `lane` reads. An access is aligned to its whole width, vectors included.
fn read<'m>(
    warp: &'m Warp,
    context: &'m mut Context<'_>,
    target: Target,
    lane: usize,
    bytes: u32,
) -> Result<&'m [u8], FaultKind> {
    Ok(match target {
        Target::Global(at) => context.global.read(at, u64::from(bytes), u64::from(bytes))?,
        Target::Shared(offset) => {
            let access = context.access(warp.id, Some(lane));
            context.shared.read(access, offset, bytes, bytes)?
        }
        Target::Local(offset) => {
            let size = warp.local_bytes as usize;
            let range = small(size, offset, bytes)?;
            &warp.local[lane * size..(lane + 1) * size][range]
        }
        Target::Param(offset) => {
            let params = context.launch.params;
            &params[small(params.len(), offset, bytes)?]
        }
    })
}

fn write<'m>(
    warp: &'m mut Warp,
    context: &'m mut Context<'_>,
    target: Target,
    lane: usize,
    bytes: u32,
) -> Result<&'m mut [u8], FaultKind> {
    Ok(match target {
        Target::Global(at) => context.global.write(at, u64::from(bytes), u64::from(bytes))?,
        Target::Shared(offset) => {
            let access = context.access(warp.id, Some(lane));
            context.shared.write(access, offset, bytes, bytes)?
        }
        Target::Local(offset) => {
            let size = warp.local_bytes as usize;
            let range = small(size, offset, bytes)?;
            &mut warp.local[lane * size..(lane + 1) * size][range]
        }
        Target::Param(_) => return Err(FaultKind::Unsupported { what: "store to .param".into() }),
    })
}

/// Little-endian bits of one element, extended by its sign if it has one.
fn element(bytes: &[u8], signed: bool) -> u64 {
    let mut all = [0; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    let value = u64::from_le_bytes(all);
    let unused = 64 - 8 * bytes.len() as u32;
    if signed { ((value << unused) as i64 >> unused) as u64 } else { value }
}

pub fn load(
    warp: &mut Warp,
    context: &mut Context<'_>,
    load: &Load,
    mask: u32,
) -> Result<(), LaneFault> {
    let bytes = load.element_bytes * load.dst.len() as u32;
    let mut touched = Touched::new();
    let mut values = [0u64; 16];
    for lane in lanes_of(mask) {
        let blame = |kind: FaultKind| LaneFault { lane, kind };
        let target = resolve(warp, load.address, lane).map_err(|fault| blame(fault.into()))?;
        touched.add(lane, target);
        let data = read(warp, context, target, lane, bytes).map_err(blame)?;
        for (value, part) in values.iter_mut().zip(data.chunks(load.element_bytes as usize)) {
            *value = element(part, load.signed);
        }
        for (&dst, value) in load.dst.iter().zip(values) {
            warp.slots[dst as usize][lane] = value;
        }
    }
    touched.count(context, bytes, true);
    Ok(())
}

pub fn store(
    warp: &mut Warp,
    context: &mut Context<'_>,
    store: &Store,
    mask: u32,
) -> Result<(), LaneFault> {
    let width = store.element_bytes as usize;
    let bytes = store.element_bytes * store.src.len() as u32;
    let mut touched = Touched::new();
    let mut data = [0u8; 16];
    for lane in lanes_of(mask) {
        let blame = |kind: FaultKind| LaneFault { lane, kind };
        let target = resolve(warp, store.address, lane).map_err(|fault| blame(fault.into()))?;
        touched.add(lane, target);
        for (part, &src) in data.chunks_mut(width).zip(&store.src) {
            part.copy_from_slice(&warp.slots[src as usize][lane].to_le_bytes()[..width]);
        }
        write(warp, context, target, lane, bytes)
            .map_err(blame)?
            .copy_from_slice(&data[..bytes as usize]);
    }
    touched.count(context, bytes, false);
    Ok(())
}
