//! Probe and single operations.

use crate::emulator;

#[test]
fn the_probe_finds_the_emulated_gpu() {
    let gpus = emulator::gpus();
    assert_eq!(gpus[0].compute_capability, (8, 0));
    assert!(gpus[0].memory_bytes > 0);
}
