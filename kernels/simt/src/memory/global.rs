//! Global memory: a table of allocations, each checked for bounds, alignment and life.

use super::POISON;
use super::address::{self, DevicePtr, MAX_ALLOCATIONS, Place};
use crate::fault::MemoryFault;

#[derive(Debug)]
enum Allocation {
    Live(Box<[u8]>),
    Freed,
}

/// All allocations ever made; the index, counted from `first_id`, is the id in the address.
#[derive(Debug)]
pub struct GlobalMemory {
    allocations: Vec<Allocation>,
    first_id: usize,
    num_ids: usize,
    capacity_bytes: u64,
    used_bytes: u64,
}

impl GlobalMemory {
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        GlobalMemory::with_ids(capacity_bytes, 0, MAX_ALLOCATIONS)
    }

    /// Memory whose addresses have `num_ids` ids from `first_id` on.
    #[must_use]
    pub fn with_ids(capacity_bytes: u64, first_id: usize, num_ids: usize) -> Self {
        GlobalMemory { allocations: Vec::new(), first_id, num_ids, capacity_bytes, used_bytes: 0 }
    }

    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.capacity_bytes - self.used_bytes
    }

    /// Poisoned memory of exactly `bytes`: a real allocator's rounding up would hide overruns.
    ///
    /// # Errors
    /// The configured memory or the table is full.
    pub fn alloc(&mut self, bytes: u64) -> Result<DevicePtr, MemoryFault> {
        let free = self.free_bytes();
        if bytes > free || self.allocations.len() >= self.num_ids {
            return Err(MemoryFault::OutOfMemory { wanted: bytes, free });
        }
        self.used_bytes += bytes;
        let data = vec![POISON; bytes as usize].into_boxed_slice();
        self.allocations.push(Allocation::Live(data));
        Ok(address::global(self.first_id + self.allocations.len() - 1))
    }

    /// # Errors
    /// `ptr` is not the start of a living allocation.
    pub fn free(&mut self, ptr: DevicePtr) -> Result<(), MemoryFault> {
        let address = ptr.0;
        let Place::Global { id, offset: 0 } = address::place(address)? else {
            return Err(MemoryFault::NotAnAllocation { address });
        };
        // An id below the first wraps to one that no table reaches.
        match self.allocations.get_mut(id.wrapping_sub(self.first_id)) {
            Some(slot @ Allocation::Live(_)) => {
                if let Allocation::Live(data) = std::mem::replace(slot, Allocation::Freed) {
                    self.used_bytes -= data.len() as u64;
                }
                Ok(())
            }
            Some(Allocation::Freed) => Err(MemoryFault::UseAfterFree { address }),
            None => Err(MemoryFault::NoSuchAddress { address }),
        }
    }

    /// The bytes at `address`, if all of them may be read.
    ///
    /// # Errors
    /// Out of bounds, freed, misaligned or no global address at all.
    pub fn read(&self, address: u64, bytes: u64, align: u64) -> Result<&[u8], MemoryFault> {
        let (id, offset) = locate(address, align)?;
        let data = match self.allocations.get(id.wrapping_sub(self.first_id)) {
            Some(Allocation::Live(data)) => data,
            Some(Allocation::Freed) => return Err(MemoryFault::UseAfterFree { address }),
            None => return Err(MemoryFault::NoSuchAddress { address }),
        };
        let size = data.len() as u64;
        let end = offset.checked_add(bytes).filter(|&end| end <= size);
        let Some(end) = end else { return Err(MemoryFault::OutOfBounds { offset, bytes, size }) };
        Ok(&data[offset as usize..end as usize])
    }

    /// The bytes at `address`, if all of them may be written.
    ///
    /// # Errors
    /// As `read`.
    pub fn write(
        &mut self,
        address: u64,
        bytes: u64,
        align: u64,
    ) -> Result<&mut [u8], MemoryFault> {
        let (id, offset) = locate(address, align)?;
        let data = match self.allocations.get_mut(id.wrapping_sub(self.first_id)) {
            Some(Allocation::Live(data)) => data,
            Some(Allocation::Freed) => return Err(MemoryFault::UseAfterFree { address }),
            None => return Err(MemoryFault::NoSuchAddress { address }),
        };
        let size = data.len() as u64;
        let end = offset.checked_add(bytes).filter(|&end| end <= size);
        let Some(end) = end else { return Err(MemoryFault::OutOfBounds { offset, bytes, size }) };
        Ok(&mut data[offset as usize..end as usize])
    }
}

fn locate(address: u64, align: u64) -> Result<(usize, u64), MemoryFault> {
    let Place::Global { id, offset } = address::place(address)? else {
        return Err(MemoryFault::NoSuchAddress { address });
    };
    if !offset.is_multiple_of(align) {
        return Err(MemoryFault::Misaligned { address, align });
    }
    Ok((id, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_memory_is_nan() {
        let mut memory = GlobalMemory::new(64);
        let ptr = memory.alloc(4).unwrap();
        let bytes = memory.read(ptr.0, 4, 4).unwrap();
        assert!(f32::from_le_bytes(bytes.try_into().unwrap()).is_nan());
    }

    #[test]
    fn every_misuse_has_its_own_fault() {
        let mut memory = GlobalMemory::new(64);
        let ptr = memory.alloc(10).unwrap();
        assert!(memory.write(ptr.0, 8, 8).is_ok());
        let past = memory.read(ptr.0 + 8, 4, 4).unwrap_err();
        assert_eq!(past, MemoryFault::OutOfBounds { offset: 8, bytes: 4, size: 10 });
        let odd = memory.read(ptr.0 + 2, 4, 4).unwrap_err();
        assert!(matches!(odd, MemoryFault::Misaligned { align: 4, .. }));
        assert!(memory.read(ptr.0.wrapping_sub(4), 4, 4).is_err());
        assert!(matches!(memory.free(ptr.offset(2)), Err(MemoryFault::NotAnAllocation { .. })));
        memory.free(ptr).unwrap();
        assert!(matches!(memory.read(ptr.0, 1, 1), Err(MemoryFault::UseAfterFree { .. })));
        assert!(matches!(memory.free(ptr), Err(MemoryFault::UseAfterFree { .. })));
    }

    #[test]
    fn memory_runs_out_and_comes_back() {
        let mut memory = GlobalMemory::new(100);
        let ptr = memory.alloc(60).unwrap();
        assert_eq!(memory.alloc(60), Err(MemoryFault::OutOfMemory { wanted: 60, free: 40 }));
        memory.free(ptr).unwrap();
        assert!(memory.alloc(100).is_ok());
    }
}
