//! Which writes to shared memory the async proxy may see.
//!
//! wgmma reads shared memory by another path than ordinary accesses. What they wrote is visible there
//! only behind a `fence.proxy.async` that stands between the two: executed by the writer before the
//! barrier, or by the reader, or by anybody who is ordered between them.

/// Warps of a block.
const WARPS: usize = 32;

/// When fences and barriers happened, in steps of one for each of them.
#[derive(Debug, Default)]
pub struct Proxy {
    clock: u32,
    last_barrier: u32,
    /// Writes of anybody up to here are covered by the warp's own last fence,
    covered: [u32; WARPS],
    /// and its own writes up to here.
    fenced: [u32; WARPS],
    /// The same as of the last barrier, when everybody learnt of it.
    published: u32,
    published_fences: [u32; WARPS],
}

impl Proxy {
    /// The stamp of a write that happens now. 0 is no write at all.
    pub fn now(&self) -> u32 {
        self.clock + 1
    }

    pub fn fence(&mut self, warp: u8) {
        let warp = usize::from(warp) % WARPS;
        self.fenced[warp] = self.now();
        self.covered[warp] = self.last_barrier;
        self.clock += 1;
    }

    pub fn barrier(&mut self) {
        self.published = self.covered.into_iter().fold(self.published, u32::max);
        self.published_fences = self.fenced;
        self.last_barrier = self.now();
        self.clock += 1;
    }

    /// Whether `reader` sees, through the async proxy, a write of `writer` stamped `at`.
    pub fn sees(&self, reader: u8, writer: u8, at: u32) -> bool {
        let (reader, writer) = (usize::from(reader) % WARPS, usize::from(writer) % WARPS);
        at <= self.published
            || at <= self.covered[reader]
            || at <= self.published_fences[writer]
            || (reader == writer && at <= self.fenced[reader])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_of_the_reader_behind_the_barrier_covers_what_was_before_it() {
        let mut proxy = Proxy::default();
        let early = proxy.now();
        proxy.barrier();
        let late = proxy.now();
        assert!(!proxy.sees(1, 0, early), "a barrier alone is not enough");
        proxy.fence(1);
        assert!(proxy.sees(1, 0, early) && !proxy.sees(1, 0, late));
        assert!(!proxy.sees(2, 0, early), "another warp has to learn of the fence");
        proxy.barrier();
        assert!(proxy.sees(2, 0, early));
    }

    #[test]
    fn a_fence_of_the_writer_counts_for_others_behind_the_barrier() {
        let mut proxy = Proxy::default();
        let before = proxy.now();
        proxy.fence(0);
        let after = proxy.now();
        assert!(proxy.sees(0, 0, before) && !proxy.sees(0, 0, after));
        assert!(!proxy.sees(1, 0, before));
        proxy.barrier();
        assert!(proxy.sees(1, 0, before) && !proxy.sees(1, 0, after));
    }
}
