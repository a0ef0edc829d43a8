//! What a launch cost, in units a GPU counts as well.

use std::ops::AddAssign;

/// Sums over all blocks of a launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub blocks: u64,
    /// Warp instructions, those with a false guard included.
    pub instructions: u64,
    pub barriers: u64,
    pub mma: u64,
    /// `wgmma.mma_async`, counted by each of the four warps.
    pub wgmma: u64,
    pub shared_requests: u64,
    /// Passes over the banks beyond those the request's width makes necessary.
    pub shared_bank_conflicts: u64,
    pub ldmatrix_requests: u64,
    pub ldmatrix_bank_conflicts: u64,
    pub async_copies: u64,
    pub global_load_requests: u64,
    /// 32-byte pieces of memory that the loads touched,
    pub global_load_sectors: u64,
    /// and as many as the bytes they wanted would fill.
    pub global_load_sectors_ideal: u64,
    pub global_store_requests: u64,
    pub global_store_sectors: u64,
    pub global_store_sectors_ideal: u64,
    pub atomics: u64,
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        self.blocks += other.blocks;
        self.instructions += other.instructions;
        self.barriers += other.barriers;
        self.mma += other.mma;
        self.wgmma += other.wgmma;
        self.shared_requests += other.shared_requests;
        self.shared_bank_conflicts += other.shared_bank_conflicts;
        self.ldmatrix_requests += other.ldmatrix_requests;
        self.ldmatrix_bank_conflicts += other.ldmatrix_bank_conflicts;
        self.async_copies += other.async_copies;
        self.global_load_requests += other.global_load_requests;
        self.global_load_sectors += other.global_load_sectors;
        self.global_load_sectors_ideal += other.global_load_sectors_ideal;
        self.global_store_requests += other.global_store_requests;
        self.global_store_sectors += other.global_store_sectors;
        self.global_store_sectors_ideal += other.global_store_sectors_ideal;
        self.atomics += other.atomics;
    }
}

const BANKS: u32 = 32;
const SECTOR_BYTES: u64 = 32;

/// Passes over the 32 banks beyond the first of each phase: 8-byte accesses go in two phases of 16
/// lanes, 16-byte ones in four of 8. `offsets` are those of the active lanes, with their lanes.
#[must_use]
pub fn bank_conflicts(offsets: &[(usize, u32)], bytes: u32) -> u64 {
    let lanes_a_phase = match bytes {
        0..=4 => 32,
        5..=8 => 16,
        _ => 8,
    };
    let mut conflicts = 0;
    for phase in offsets.chunk_by(|a, b| a.0 / lanes_a_phase == b.0 / lanes_a_phase) {
        let (mut low, mut high) = (u32::MAX, 0);
        for &(_, offset) in phase {
            low = low.min(offset / 4);
            high = high.max((offset + bytes - 1) / 4);
        }
        // Less than 32 words apart, all words lie in banks of their own.
        if high - low >= BANKS {
            conflicts += phase_conflicts(phase, bytes);
        }
    }
    conflicts
}

fn phase_conflicts(phase: &[(usize, u32)], bytes: u32) -> u64 {
    let mut words = Vec::with_capacity(BANKS as usize);
    for &(_, offset) in phase {
        words.extend(offset / 4..=(offset + bytes - 1) / 4);
    }
    words.sort_unstable();
    words.dedup();
    let mut passes = [0u64; BANKS as usize];
    for word in words {
        passes[(word % BANKS) as usize] += 1;
    }
    passes.into_iter().max().unwrap_or(0).saturating_sub(1)
}

/// Sectors that the accesses touch, and the fewest that could hold as many bytes.
#[must_use]
pub fn sectors(addresses: &[u64], bytes: u64) -> (u64, u64) {
    let ideal = (addresses.len() as u64 * bytes).div_ceil(SECTOR_BYTES);
    let mut touched = 0;
    let mut last = None;
    if addresses.is_sorted() {
        for address in addresses {
            let sector = address / SECTOR_BYTES;
            touched += u64::from(last != Some(sector));
            last = Some(sector);
        }
    } else {
        let mut all: Vec<u64> = addresses.iter().map(|address| address / SECTOR_BYTES).collect();
        all.sort_unstable();
        all.dedup();
        touched = all.len() as u64;
    }
    (touched, ideal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(offset: impl Fn(u32) -> u32) -> Vec<(usize, u32)> {
        (0..32).map(|lane| (lane as usize, offset(lane))).collect()
    }

    #[test]
    fn conflicts_are_counted_as_the_hardware_counts_them() {
        assert_eq!(bank_conflicts(&lanes(|lane| lane * 4), 4), 0);
        assert_eq!(bank_conflicts(&lanes(|_| 64), 4), 0, "one word is broadcast");
        assert_eq!(bank_conflicts(&lanes(|lane| lane * 8), 4), 1);
        assert_eq!(bank_conflicts(&lanes(|lane| lane * 128), 4), 31);
        assert_eq!(bank_conflicts(&lanes(|lane| lane * 16), 16), 0);
        assert_eq!(bank_conflicts(&lanes(|lane| lane * 128), 16), 28, "4 phases of 8 passes");
    }

    #[test]
    fn sectors_are_counted_once_whatever_the_order() {
        let up: Vec<u64> = (0..32).map(|lane| lane * 4).collect();
        let down: Vec<u64> = up.iter().rev().copied().collect();
        assert_eq!((sectors(&up, 4), sectors(&down, 4)), ((4, 4), (4, 4)));
        let strided: Vec<u64> = (0..32).map(|lane| lane * 64).collect();
        assert_eq!(sectors(&strided, 4), (32, 4));
    }
}
