//! The probe, and single operations.

use rerankd::engine::cuda::Cuda;
use rerankd::engine::selfcheck::{Comparison, check, compare};

use crate::emulator;

#[test]
fn the_probe_finds_the_emulated_gpu() {
    let gpus = emulator::gpus();
    assert_eq!(gpus[0].compute_capability, (8, 0));
    assert!(gpus[0].memory_bytes > 0);
}

#[test]
fn every_operation_gives_what_the_cpu_gives() {
    let cuda = Cuda::new(&emulator::gpus()[0], true).unwrap();
    let comparisons = compare(&cuda).unwrap();
    for comparison in &comparisons {
        assert!(comparison.holds(), "{comparison:?}");
    }
    assert!(
        comparisons.len() > 46,
        "four head sizes, a dozen operations each, six attentions more"
    );
    let shares = |comparison: &Comparison| comparison.operation.contains("shared prefix");
    assert!(comparisons.iter().any(shares), "an attention whose sequences share rows");
    check(&cuda).unwrap();
}
