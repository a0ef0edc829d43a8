//! Shared memory of one block, with a shadow that finds races between warps.
//!
//! Each byte remembers who wrote and who read it since the last barrier. Two warps that meet at a byte
//! with no barrier between, one of them writing, are a race whatever order this run gave them.
//! Lanes of one warp have marks of their own (`lanes`).
//!
//! wgmma reads on its own time: from its issue to its wait nobody may write what it reads.

use super::POISON;
use super::lanes::LaneMarks;
use super::proxy::Proxy;
use crate::fault::{FaultKind, MemoryFault, RaceKind};

/// `writer` of a byte that only atomics wrote: they may meet each other, plain accesses may not.
const BY_ATOMIC: u8 = 0xfe;
/// `writer` of a byte that a cp.async will fill: nobody may touch it before its wait.
const IN_FLIGHT: u8 = 0xfd;
const NOBODY: u8 = 0xff;

/// Who touches shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    pub warp: u8,
    /// None is all lanes at once, as ldmatrix reads.
    pub lane: Option<u8>,
    /// A number of the instruction's own.
    pub step: u32,
}

#[derive(Debug, Clone, Copy)]
struct Shadow {
    /// The barrier interval of the marks; older marks count for nothing.
    epoch: u32,
    /// Warps (at most 32 in a block) that read in this epoch.
    readers: u32,
    /// Warps with a wgmma under way that reads this byte.
    async_readers: u32,
    /// The last write by an ordinary access: when, for the async proxy, and by which warp.
    written_at: u32,
    written_by: u8,
    writer: u8,
}

const UNTOUCHED: Shadow = Shadow {
    epoch: 0,
    readers: 0,
    async_readers: 0,
    written_at: 0,
    written_by: NOBODY,
    writer: NOBODY,
};

#[derive(Debug)]
pub struct SharedMemory {
    data: Vec<u8>,
    shadow: Vec<Shadow>,
    epoch: u32,
    proxy: Proxy,
    lanes: LaneMarks,
    detect_races: bool,
}

impl SharedMemory {
    #[must_use]
    pub fn new(bytes: usize, detect_races: bool) -> Self {
        let watched = if detect_races { bytes } else { 0 };
        SharedMemory {
            data: vec![POISON; bytes],
            shadow: vec![UNTOUCHED; watched],
            epoch: 1,
            proxy: Proxy::default(),
            lanes: LaneMarks::new(watched),
            detect_races,
        }
    }

    /// As `new`, keeping the allocation: one block follows another.
    pub fn reset(&mut self) {
        self.data.fill(POISON);
        self.shadow.fill(UNTOUCHED);
        self.epoch = 1;
        self.proxy = Proxy::default();
        self.lanes.reset();
    }

    /// A barrier completed: accesses before and after it are ordered.
    pub fn barrier(&mut self) {
        self.epoch += 1;
        self.proxy.barrier();
        self.lanes.sync_all();
    }

    /// `bar.warp.sync`.
    pub fn sync_warp(&mut self, warp: u8) {
        self.lanes.sync(warp);
    }

    /// `fence.proxy.async` of a warp.
    pub fn fence_proxy(&mut self, warp: u8) {
        self.proxy.fence(warp);
    }

    fn range(
        &self,
        offset: u32,
        bytes: u32,
        align: u32,
    ) -> Result<std::ops::Range<usize>, MemoryFault> {
        if !offset.is_multiple_of(align) {
            let (address, align) = (u64::from(offset), u64::from(align));
            return Err(MemoryFault::Misaligned { address, align });
        }
        let (from, size) = (offset as usize, self.data.len());
        match from.checked_add(bytes as usize) {
            Some(end) if end <= size => Ok(from..end),
            _ => Err(MemoryFault::OutOfBounds {
                offset: u64::from(offset),
                bytes: u64::from(bytes),
                size: size as u64,
            }),
        }
    }

    /// # Errors
    /// Out of bounds, misaligned, a race, or a copy still in flight.
    pub fn read(
        &mut self,
        access: Access,
        offset: u32,
        bytes: u32,
        align: u32,
    ) -> Result<&[u8], FaultKind> {
        let range = self.range(offset, bytes, align)?;
        if self.detect_races {
            let epoch = self.epoch;
            for at in range.clone() {
                self.shadow[at].read(access.warp, at, epoch)?;
            }
            self.lanes.read(access, range.clone())?;
        }
        Ok(&self.data[range])
    }

    /// The wgmma of a warp begins to read 16 bytes.
    ///
    /// # Errors
    /// As `read`; a write that no `fence.proxy.async` shows to it.
    pub fn start_async_read(&mut self, access: Access, offset: u32) -> Result<(), FaultKind> {
        let range = self.range(offset, 16, 16)?;
        if self.detect_races {
            self.lanes.read(Access { lane: None, ..access }, range.clone())?;
            let (epoch, warp) = (self.epoch, access.warp);
            for at in range {
                let shadow = &mut self.shadow[at];
                shadow.read(warp, at, epoch)?;
                shadow.async_readers |= 1 << (warp & 31);
                if !self.proxy.sees(warp, shadow.written_by, shadow.written_at) {
                    return Err(FaultKind::MissingProxyFence { offset: at as u32 });
                }
            }
        }
        Ok(())
    }

    /// What a wgmma reads; bounds were checked by `start_async_read`.
    #[must_use]
    pub fn async_data(&self, offset: u32) -> &[u8] {
        &self.data[offset as usize..offset as usize + 16]
    }

    /// The wait for a wgmma: the read counts from now, others need a barrier before they write.
    pub fn finish_async_read(&mut self, warp: u8, offset: u32) {
        if self.detect_races {
            let epoch = self.epoch;
            for shadow in &mut self.shadow[offset as usize..offset as usize + 16] {
                if shadow.epoch != epoch {
                    (shadow.epoch, shadow.readers, shadow.writer) = (epoch, 0, NOBODY);
                }
                shadow.readers |= 1 << (warp & 31);
                shadow.async_readers &= !(1 << (warp & 31));
            }
        }
    }

    /// As `start_async_read` once more, for a read that another's end has unmarked.
    pub fn keep_async_read(&mut self, warp: u8, offset: u32) {
        if self.detect_races {
            for shadow in &mut self.shadow[offset as usize..offset as usize + 16] {
                shadow.async_readers |= 1 << (warp & 31);
            }
        }
    }

    /// # Errors
    /// As `read`.
    pub fn write(
        &mut self,
        access: Access,
        offset: u32,
        bytes: u32,
        align: u32,
    ) -> Result<&mut [u8], FaultKind> {
        let range = self.range(offset, bytes, align)?;
        self.mark_written(range.clone(), access, access.warp)?;
        Ok(&mut self.data[range])
    }

    /// For a read-modify-write that no other warp can split.
    ///
    /// # Errors
    /// As `read`.
    pub fn atomic(
        &mut self,
        access: Access,
        offset: u32,
        bytes: u32,
    ) -> Result<&mut [u8], FaultKind> {
        let range = self.range(offset, bytes, bytes)?;
        self.mark_written(range.clone(), access, BY_ATOMIC)?;
        Ok(&mut self.data[range])
    }

    fn mark_written(
        &mut self,
        range: std::ops::Range<usize>,
        access: Access,
        mark: u8,
    ) -> Result<(), FaultKind> {
        if !self.detect_races {
            return Ok(());
        }
        let Access { warp, .. } = access;
        let all = range.clone();
        let (epoch, now) = (self.epoch, self.proxy.now());
        for at in range {
            let shadow = &mut self.shadow[at];
            if shadow.writer == IN_FLIGHT {
                return Err(FaultKind::MissingWait { offset: at as u32 });
            }
            if shadow.async_readers != 0 {
                return Err(FaultKind::OverwrittenOperand { offset: at as u32 });
            }
            (shadow.written_at, shadow.written_by) = (now, warp);
            if shadow.epoch == epoch {
                let others = shadow.readers & !(1 << (warp & 31));
                if others != 0 {
                    return Err(race(RaceKind::WriteAfterRead, at, others.trailing_zeros() as u8));
                }
                if shadow.writer != NOBODY && shadow.writer != warp && shadow.writer != mark {
                    return Err(race(RaceKind::WriteAfterWrite, at, shadow.writer));
                }
                shadow.writer = mark;
            } else {
                (shadow.epoch, shadow.readers, shadow.writer) = (epoch, 0, mark);
            }
        }
        self.lanes.write(access, all, mark == BY_ATOMIC)
    }

    /// A cp.async begins: its target is poisoned until `finish_copy`.
    ///
    /// # Errors
    /// As `write`.
    pub fn start_copy(&mut self, access: Access, offset: u32, bytes: u32) -> Result<(), FaultKind> {
        self.write(access, offset, bytes, bytes)?.fill(POISON);
        if self.detect_races {
            for shadow in &mut self.shadow[offset as usize..(offset + bytes) as usize] {
                shadow.writer = IN_FLIGHT;
            }
        }
        Ok(())
    }

    /// The wait of the issuing thread lets the data arrive. Bounds were checked by `start_copy`.
    pub fn finish_copy(&mut self, access: Access, offset: u32, bytes: &[u8]) {
        let range = offset as usize..offset as usize + bytes.len();
        self.data[range.clone()].copy_from_slice(bytes);
        if self.detect_races {
            let warp = access.warp;
            self.lanes.finish_write(access, range.clone());
            // The write counts from now: others still need a barrier behind the wait.
            self.shadow[range].fill(Shadow {
                epoch: self.epoch,
                writer: warp,
                written_at: self.proxy.now(),
                written_by: warp,
                ..UNTOUCHED
            });
        }
    }
}

impl Shadow {
    fn read(&mut self, warp: u8, at: usize, epoch: u32) -> Result<(), FaultKind> {
        if self.writer == IN_FLIGHT {
            return Err(FaultKind::MissingWait { offset: at as u32 });
        }
        if self.epoch != epoch {
            (self.epoch, self.readers, self.writer) = (epoch, 0, NOBODY);
        } else if self.writer != NOBODY && self.writer != warp {
            return Err(race(RaceKind::ReadAfterWrite, at, self.writer));
        }
        self.readers |= 1 << (warp & 31);
        Ok(())
    }
}

fn race(kind: RaceKind, at: usize, other: u8) -> FaultKind {
    FaultKind::Race { kind, offset: at as u32, other_warp: u32::from(other) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lane 0 of a warp.
    fn by(warp: u8) -> Access {
        Access { warp, lane: Some(0), step: 1 }
    }

    #[test]
    fn a_barrier_orders_two_warps_and_nothing_else_does() {
        let mut shared = SharedMemory::new(16, true);
        shared.write(by(0), 0, 4, 4).unwrap().copy_from_slice(&[1, 2, 3, 4]);
        assert!(matches!(
            shared.read(by(1), 2, 2, 2),
            Err(FaultKind::Race { kind: RaceKind::ReadAfterWrite, offset: 2, other_warp: 0 })
        ));
        assert!(shared.write(by(1), 4, 4, 4).is_ok(), "neighbours do not race");
        shared.barrier();
        assert_eq!(shared.read(by(1), 0, 4, 4).unwrap(), [1, 2, 3, 4]);
        let late = shared.write(by(2), 0, 4, 4).unwrap_err();
        assert!(matches!(late, FaultKind::Race { kind: RaceKind::WriteAfterRead, .. }));
    }

    #[test]
    fn atomics_may_meet_but_no_plain_access_may_join() {
        let mut shared = SharedMemory::new(8, true);
        assert!(shared.atomic(by(0), 0, 4).is_ok() && shared.atomic(by(1), 0, 4).is_ok());
        assert!(shared.read(by(1), 0, 4, 4).is_err());
    }

    #[test]
    fn a_copy_in_flight_is_nobodys_to_touch() {
        let mut shared = SharedMemory::new(32, true);
        shared.start_copy(by(0), 16, 16).unwrap();
        assert_eq!(shared.read(by(0), 16, 4, 4), Err(FaultKind::MissingWait { offset: 16 }));
        shared.finish_copy(by(0), 16, &[7; 16]);
        assert!(shared.read(by(0), 16, 4, 4).is_ok());
        assert!(shared.read(by(1), 20, 4, 4).is_err(), "the wait alone is no barrier");
    }

    #[test]
    fn what_a_wgmma_reads_is_nobodys_to_write_before_its_wait_and_a_barrier() {
        let mut shared = SharedMemory::new(32, true);
        shared.write(by(0), 0, 16, 16).unwrap();
        shared.fence_proxy(0);
        shared.sync_warp(0);
        shared.start_async_read(by(0), 0).unwrap();
        shared.start_async_read(by(0), 16).unwrap();
        let early = shared.write(by(0), 4, 4, 4).unwrap_err();
        assert_eq!(early, FaultKind::OverwrittenOperand { offset: 4 });
        shared.finish_async_read(0, 0);
        assert!(shared.write(by(0), 4, 4, 4).is_ok() && shared.start_copy(by(0), 16, 16).is_err());
        shared.barrier();
        assert!(shared.write(by(1), 20, 4, 4).is_err(), "a barrier is no wait");
        shared.finish_async_read(0, 16);
        assert!(shared.write(by(1), 20, 4, 4).is_err(), "the wait is no barrier");
        shared.barrier();
        assert!(shared.write(by(1), 20, 4, 4).is_ok());
        shared.sync_warp(1);
        let unfenced = shared.start_async_read(by(1), 16).unwrap_err();
        assert_eq!(unfenced, FaultKind::MissingProxyFence { offset: 20 });
    }
}
