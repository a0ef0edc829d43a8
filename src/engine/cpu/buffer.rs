//! Zeroed, aligned memory for weights and activations.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Buffers from this size on are aligned to it and ask for huge pages: 40 MiB of weights are ten thousand
/// 4 KiB pages, five times what a core's second-level TLB holds.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// A cache line, and the widest SIMD register.
const LINE_BYTES: usize = 64;

/// A number whose bytes may all be zero.
///
/// # Safety
/// All zeros are a valid value, and dropping one does nothing.
pub(super) unsafe trait Number: Copy + Send + Sync {}
// SAFETY: zero is a valid value of each.
unsafe impl Number for f32 {}
// SAFETY: as above.
unsafe impl Number for u16 {}
// SAFETY: as above.
unsafe impl Number for u8 {}

/// A fixed block of numbers, zeroed, aligned to a cache line.
#[derive(Debug)]
pub(super) struct Buffer<T: Number = f32> {
    start: NonNull<T>,
    len: usize,
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
        #[cfg(target_os = "linux")]
        if layout.align() == HUGE_PAGE_BYTES {
            // SAFETY: the range is the block just allocated, page-aligned; the advice changes no contents,
            // and a kernel that refuses it leaves the block usable.
            unsafe { libc::madvise(block.cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        // SAFETY: the block has `layout.size()` bytes; all zeros are valid numbers.
        unsafe { block.write_bytes(0, layout.size()) };
        Self { start, len }
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
        // SAFETY: allocated in `zeroed` with the layout of the same length.
        unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) };
    }
}
