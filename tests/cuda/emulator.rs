//! The emulated driver in this process: opened by its path, then found by the name it bears.

use std::sync::LazyLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use rerankd::engine::cuda::probe::{Device, probe};

use crate::fixtures::library;

/// The GPUs of the emulated driver. No other may be found: results of a card are not those of a test.
pub fn gpus() -> Vec<Device> {
    static DRIVER: LazyLock<Library> = LazyLock::new(|| {
        let path = library();
        // SAFETY: the library of the emulator; it runs nothing on loading.
        unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    });
    LazyLock::force(&DRIVER);
    let gpus = probe().expect("the emulated driver has a GPU");
    assert!(gpus.iter().all(|gpu| gpu.name.contains("simt")), "not the emulator: {gpus:?}");
    gpus
}
