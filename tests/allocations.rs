//! Once a batch of its size has been scored, scoring takes no memory.

use rerankd::engine::Dtype;
use rerankd::engine::cpu::Isa;
use rerankd::engine::packed::Packed;
use rerankd::model::loader::{LoadOptions, load};
use rerankd::model::source::ModelFiles;
use std::alloc::{GlobalAlloc, Layout, System};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: the system's allocator, and a count.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One test alone in its program: the count is of all threads.
#[test]
fn scoring_a_second_batch_takes_no_memory() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert");
    let files = ModelFiles::open_folder(&folder).expect("the folder");
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
        let options =
            LoadOptions { threads: NonZeroUsize::new(2), dtype: Some(dtype), ..Default::default() };
        let mut model = load(&files, &options).expect("the model");
        if dtype != Dtype::F32 && !Isa::detect().fastest_dtypes(usize::MAX).contains(&dtype) {
            // Such kernels are there to be right, and may be the portable ones, which take what they need.
            continue;
        }
        let mut batch = Packed::with_capacity(0, 0);
        for len in [300, 3, 40, 512, 41, 128, 7, 64] {
            batch.push(&vec![5; len], len / 2);
        }
        let mut out = vec![0.0; batch.num_sequences() * model.width];
        // Which thread takes which group is chance, so each must have had the chance to take any.
        (0..50).for_each(|_| model.scorers[0].score(&batch, &mut out).expect("scores"));
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        (0..50).for_each(|_| model.scorers[0].score(&batch, &mut out).expect("scores"));
        let taken = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(taken, 0, "{dtype:?}");
    }
}
