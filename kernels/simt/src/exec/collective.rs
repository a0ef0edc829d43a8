//! Lanes that look at each other: shuffles, votes, reductions.

use super::atomic::combine;
use super::warp::{Warp, lanes_of};
use crate::memory::POISON;
use crate::program::{Lanes, Reduction, Shuffle, ShuffleOp, Slot, Vote, WARP_LANES};
use crate::ptx::ast::Type;

/// `shfl.sync`, with the segments of the manual: bits 8-12 of the clamp fix the upper lane bits.
pub fn shuffle(warp: &mut Warp, op: &ShuffleOp, mask: u32) {
    let values = warp.slots[op.value as usize];
    let mut result: Lanes = [0; WARP_LANES];
    let mut in_range: Lanes = [0; WARP_LANES];
    for lane in lanes_of(mask) {
        let offset = (warp.slots[op.lane as usize][lane] & 31) as usize;
        let clamp = warp.slots[op.clamp as usize][lane];
        let (segment, bound) = ((clamp >> 8 & 31) as usize, (clamp & 31) as usize);
        let first = lane & segment;
        let last = first | (bound & !segment);
        // `up` counts its bound from below: a source under it is out of range.
        let (source, valid) = match op.mode {
            Shuffle::Up => (lane.wrapping_sub(offset), lane >= last + offset),
            Shuffle::Down => (lane + offset, lane + offset <= last),
            Shuffle::Butterfly => (lane ^ offset, (lane ^ offset) <= last),
            Shuffle::Index => {
                let source = first | (offset & !segment);
                (source, source <= last)
            }
        };
        let source = if valid { source } else { lane };
        // A lane that takes no part has no value to give.
        result[lane] =
            if mask >> source & 1 == 1 { values[source] } else { u64::from_ne_bytes([POISON; 8]) };
        in_range[lane] = u64::from(valid);
    }
    warp.set(op.dst, mask, &result);
    if let Some(dst) = op.in_range {
        warp.set(dst, mask, &in_range);
    }
}

pub fn vote(warp: &mut Warp, mode: Vote, dst: Slot, value: Slot, mask: u32) {
    let holds = warp.predicate(value) & mask;
    let result = match mode {
        Vote::All => u32::from(holds == mask),
        Vote::Any => u32::from(holds != 0),
        Vote::Uniform => u32::from(holds == mask || holds == 0),
        Vote::Ballot => holds,
    };
    warp.set(dst, mask, &[u64::from(result); WARP_LANES]);
}

pub fn reduce(warp: &mut Warp, op: Reduction, ty: Type, dst: Slot, value: Slot, mask: u32) {
    let values = warp.slots[value as usize];
    let total = lanes_of(mask).map(|lane| values[lane]).reduce(|a, b| combine(op, ty, a, b, b));
    if let Some(total) = total {
        warp.set(dst, mask, &[total; WARP_LANES]);
    }
}
