//! Memory that weights share: a layer's have a megabyte each, and only together do they fill huge pages.

use super::buffer::{HUGE_PAGE_BYTES, LINE_BYTES, ask_for_huge_pages};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Resident are those of its pages that weights were written to.
const CHUNK_BYTES: usize = 32 << 20;
/// What is larger has pages of its own, and the end of a chunk that is too small for the next is small.
const MAX_BYTES: usize = CHUNK_BYTES / 8;

/// Where the next weights go. Whoever has some of a chunk holds it: it ends with the last of them.
static OPEN: Mutex<Open> = Mutex::new(Open { chunk: Weak::new(), used: 0 });

#[derive(Debug)]
struct Open {
    chunk: Weak<Chunk>,
    used: usize,
}

#[derive(Debug)]
pub(super) struct Chunk {
    start: NonNull<u8>,
}

// SAFETY: a `Chunk` owns its memory alone, and never touches it; every part belongs to one buffer.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// Bytes that nobody else has, aligned to a cache line, with what keeps them; `None` if so many had better have pages
    /// of their own. What they hold is not initialised.
    pub(super) fn part(bytes: usize) -> Option<(Arc<Self>, NonNull<u8>)> {
        if bytes > MAX_BYTES {
            return None;
        }
        // No code that can panic runs under the lock but for want of memory, which ends the process.
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let chunk = match open.chunk.upgrade() {
            Some(chunk) if open.used + bytes <= CHUNK_BYTES => chunk,
            _ => {
                let chunk = Arc::new(Self::new());
                *open = Open { chunk: Arc::downgrade(&chunk), used: 0 };
                chunk
            }
        };
        // SAFETY: below the chunk's end, as compared above.
        let start = unsafe { chunk.start.add(open.used) };
        open.used += bytes.next_multiple_of(LINE_BYTES);
        Some((chunk, start))
    }

    fn new() -> Self {
        let layout = Self::layout();
        // SAFETY: `layout` is not of size zero.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        ask_for_huge_pages(start, CHUNK_BYTES);
        Self { start }
    }

    fn layout() -> Layout {
        const { assert!(CHUNK_BYTES.is_multiple_of(HUGE_PAGE_BYTES)) };
        Layout::from_size_align(CHUNK_BYTES, HUGE_PAGE_BYTES).expect("powers of two")
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; no buffer has a part of it any more.
        unsafe { dealloc(self.start.as_ptr(), Self::layout()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_chunk_are_lines_that_nobody_shares() {
        let sizes = [1, 64, 65, MAX_BYTES, 1 << 20];
        let parts: Vec<_> = (0..100)
            .map(|i| {
                let bytes = sizes[i % sizes.len()];
                let (chunk, start) = Chunk::part(bytes).expect("not too large");
                (start.as_ptr() as usize, bytes, chunk)
            })
            .collect();
        for (i, (start, bytes, chunk)) in parts.iter().enumerate() {
            assert!(start.is_multiple_of(LINE_BYTES), "part {i}");
            let offset = start - chunk.start.as_ptr() as usize;
            assert!(offset + bytes <= CHUNK_BYTES, "part {i} ends beyond its chunk");
            for (other, other_bytes, _) in &parts[..i] {
                assert!(start + bytes <= *other || other + other_bytes <= *start, "part {i}");
            }
        }
        assert!(Chunk::part(MAX_BYTES + 1).is_none());
    }
}
