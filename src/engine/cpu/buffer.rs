//! Zeroed, aligned memory for weights and activations.

use super::chunk::Chunk;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

/// Buffers from this size on are aligned to it and ask for huge pages: 40 MiB of weights are ten thousand
/// 4 KiB pages, five times what a core's second-level TLB holds.
pub(super) const HUGE_PAGE_BYTES: usize = 2 << 20;
/// A cache line, and the widest SIMD register.
pub(super) const LINE_BYTES: usize = 64;

/// A number whose bytes may all be zero.
///
/// # Safety
/// All zeros are a valid value, and dropping one does nothing.
pub(super) unsafe trait Number: Copy + Send + Sync {}
// SAFETY: zero is a valid value of each.
unsafe impl Number for f32 {}
// SAFETY: as above.
unsafe impl Number for i32 {}
// SAFETY: as above.
unsafe impl Number for u16 {}
// SAFETY: as above.
unsafe impl Number for u8 {}

/// A fixed block of numbers, zeroed, aligned to a cache line.
#[derive(Debug)]
pub(super) struct Buffer<T: Number = f32> {
    start: NonNull<T>,
    len: usize,
    /// What it is a part of, if it has no memory of its own.
    chunk: Option<Arc<Chunk>>,
}

// SAFETY: a `Buffer` owns its block alone, like a `Vec`.
unsafe impl<T: Number> Send for Buffer<T> {}
// SAFETY: shared access only reads.
unsafe impl<T: Number> Sync for Buffer<T> {}

impl<T: Number> Buffer<T> {
    pub(super) fn zeroed(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: `layout` is never of size zero.
        let block = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(block.cast::<T>()) else { handle_alloc_error(layout) };
        if layout.align() == HUGE_PAGE_BYTES {
            ask_for_huge_pages(start.cast(), layout.size());
        }
        // SAFETY: the block has `layout.size()` bytes; all zeros are valid numbers.
        unsafe { block.write_bytes(0, layout.size()) };
        Self { start, len, chunk: None }
    }

    /// [`Self::zeroed`], for what lives as long as a model: it shares huge pages with others.
    pub(super) fn zeroed_weights(len: usize) -> Self {
        let Some((chunk, start)) = Chunk::part(len * size_of::<T>()) else {
            return Self::zeroed(len);
        };
        let start = start.cast::<T>();
        // SAFETY: a part of so many bytes; all zeros are valid numbers.
        unsafe { start.write_bytes(0, len) };
        Self { start, len, chunk: Some(chunk) }
    }

    fn layout(len: usize) -> Layout {
        let bytes = (len * size_of::<T>()).max(LINE_BYTES);
        let align = if bytes >= HUGE_PAGE_BYTES { HUGE_PAGE_BYTES } else { LINE_BYTES };
        Layout::from_size_align(bytes, align).expect("a buffer is smaller than the address space")
    }
}

impl<T: Number> std::ops::Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `zeroed` allocated and initialised `len` numbers, owned until `drop`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Number> std::ops::DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Number> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.chunk.is_none() {
            // SAFETY: allocated in `zeroed` with the layout of the same length.
            unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) };
        }
    }
}

/// For so many bytes from a page on. A kernel that refuses leaves them as they are.
pub(super) fn ask_for_huge_pages(start: NonNull<u8>, bytes: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: the advice changes no contents, wherever it is for.
    unsafe {
        libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}
