//! cp.async: copies that arrive when their thread waits for them, and no sooner.
//!
//! The target is poisoned at issue. Hardware may deliver at any time in between; a kernel that is
//! right under the latest delivery has its waits where they belong.

use super::access::{Target, Touched, resolve};
use super::warp::{Warp, lanes_of};
use super::{Context, LaneFault};
use crate::counters::bank_conflicts;
use crate::fault::FaultKind;
use crate::program::{CopyAsync, WARP_LANES};

#[derive(Debug)]
struct Copy {
    lane: usize,
    /// The group of its thread that it will belong to, counted from the kernel's start.
    group: u32,
    offset: u32,
    bytes: u32,
    data: [u8; 16],
}

/// The copies of a warp that are under way.
#[derive(Debug, Default)]
pub struct Copies {
    pending: Vec<Copy>,
    committed: [u32; WARP_LANES],
}

impl Copies {
    pub fn commit(&mut self, mask: u32) {
        for lane in lanes_of(mask) {
            self.committed[lane] += 1;
        }
    }
}

pub fn issue(
    warp: &mut Warp,
    context: &mut Context<'_>,
    copy: &CopyAsync,
    mask: u32,
) -> Result<(), LaneFault> {
    context.counters.async_copies += 1;
    let mut touched = Touched::new();
    for lane in lanes_of(mask) {
        let blame = |kind: FaultKind| LaneFault { lane, kind };
        let resolved = |address| resolve(warp, address, lane).map_err(|fault| blame(fault.into()));
        let (Target::Shared(offset), global) = (resolved(copy.shared)?, resolved(copy.global)?)
        else {
            return Err(blame(FaultKind::Unsupported { what: "cp.async beside shared".into() }));
        };
        let wanted = copy
            .source_bytes
            .map_or(copy.bytes, |slot| (warp.slots[slot as usize][lane] as u32).min(copy.bytes));
        let ignored =
            copy.ignore_source.is_some_and(|slot| warp.slots[slot as usize][lane] & 1 == 1);
        let wanted = if ignored { 0 } else { wanted };
        let mut data = [0; 16];
        // An address of which nothing is read need not be valid: guards at the edge rely on it.
        if let (Target::Global(at), true) = (global, wanted > 0) {
            let source = context
                .global
                .read(at, u64::from(wanted), u64::from(copy.bytes))
                .map_err(|fault| blame(fault.into()))?;
            data[..wanted as usize].copy_from_slice(source);
            touched.add(lane, global);
        }
        let access = context.access(warp.id, Some(lane));
        context.shared.start_copy(access, offset, copy.bytes).map_err(blame)?;
        let group = warp.copies.committed[lane];
        let bytes = copy.bytes;
        warp.copies.pending.push(Copy { lane, group, offset, bytes, data });
    }
    touched.count(context, copy.bytes, true);
    let offsets: Vec<(usize, u32)> = warp.copies.pending
        [warp.copies.pending.len() - mask.count_ones() as usize..]
        .iter()
        .map(|copy| (copy.lane, copy.offset))
        .collect();
    context.counters.shared_bank_conflicts += bank_conflicts(&offsets, copy.bytes);
    Ok(())
}

/// Delivers all but the last `pending_groups` groups of each active thread; None delivers all.
pub fn wait(warp: &mut Warp, context: &mut Context<'_>, pending_groups: Option<u32>, mask: u32) {
    let id = warp.id;
    let committed = warp.copies.committed;
    warp.copies.pending.retain(|copy| {
        let done = mask >> copy.lane & 1 == 1
            && pending_groups
                .is_none_or(|pending| copy.group.saturating_add(pending) < committed[copy.lane]);
        if done {
            let access = context.access(id, Some(copy.lane));
            context.shared.finish_copy(access, copy.offset, &copy.data[..copy.bytes as usize]);
        }
        !done
    });
}
