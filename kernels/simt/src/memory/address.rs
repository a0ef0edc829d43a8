//! Device addresses: tag, allocation, offset.
//!
//! An address is no host pointer: its tag makes it non-canonical on x86-64 and arm64, so the host
//! cannot dereference one by mistake, and no arithmetic that stays below 64 GiB can walk from one
//! allocation into another.

use crate::fault::MemoryFault;

/// Bits of the offset: 64 GiB, so an index gone wild still names the allocation it came from.
const OFFSET_BITS: u32 = 36;
const ID_BITS: u32 = 24;
const TAG_GLOBAL: u64 = 1;
const TAG_SHARED: u64 = 2;
const TAG_LOCAL: u64 = 3;

/// The most allocations a machine can make: ids are not used twice, which finds use after free.
pub const MAX_ALLOCATIONS: usize = (1 << ID_BITS) - 1;

/// An address on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The address `bytes` further on.
    #[must_use]
    pub fn offset(self, bytes: u64) -> DevicePtr {
        DevicePtr(self.0.wrapping_add(bytes))
    }
}

/// Where a generic address points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Global { id: usize, offset: u64 },
    Shared { offset: u32 },
    Local { offset: u32 },
}

#[must_use]
pub fn global(id: usize) -> DevicePtr {
    DevicePtr(TAG_GLOBAL << (OFFSET_BITS + ID_BITS) | (id as u64) << OFFSET_BITS)
}

#[must_use]
pub fn generic_of_shared(offset: u64) -> u64 {
    TAG_SHARED << (OFFSET_BITS + ID_BITS) | (offset & 0xffff_ffff)
}

#[must_use]
pub fn generic_of_local(offset: u64) -> u64 {
    TAG_LOCAL << (OFFSET_BITS + ID_BITS) | (offset & 0xffff_ffff)
}

/// Takes an address apart.
///
/// # Errors
/// A tag nobody hands out: null, a host pointer, an uninitialised register.
pub fn place(address: u64) -> Result<Place, MemoryFault> {
    let offset = address & ((1 << OFFSET_BITS) - 1);
    match address >> (OFFSET_BITS + ID_BITS) {
        TAG_GLOBAL => {
            let id = (address >> OFFSET_BITS) as usize & MAX_ALLOCATIONS;
            Ok(Place::Global { id, offset })
        }
        tag @ (TAG_SHARED | TAG_LOCAL) => {
            let offset =
                u32::try_from(offset).map_err(|_| MemoryFault::NoSuchAddress { address })?;
            Ok(if tag == TAG_SHARED { Place::Shared { offset } } else { Place::Local { offset } })
        }
        _ => Err(MemoryFault::NoSuchAddress { address }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_apart_as_it_was_put_together() {
        assert_eq!(place(global(7).offset(12).0), Ok(Place::Global { id: 7, offset: 12 }));
        assert_eq!(place(generic_of_shared(64)), Ok(Place::Shared { offset: 64 }));
        assert_eq!(place(generic_of_local(8)), Ok(Place::Local { offset: 8 }));
    }

    #[test]
    fn null_and_host_pointers_are_no_device_addresses() {
        let host = std::ptr::from_ref(&0u8) as u64;
        for address in [0, 16, host, u64::MAX] {
            assert_eq!(place(address), Err(MemoryFault::NoSuchAddress { address }));
        }
    }
}
