//! The default model, inside the binary: `rerankd serve` needs no folder and no network.

/// The model's name on the wire and in the logs.
pub(super) const NAME: &str = "rerankd-default";

/// Starts the bytes at a cache line. `include_bytes!` alone promises no alignment, and tensors
/// read in place would then be loaded across two lines each.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

macro_rules! aligned {
    ($path:expr) => {{
        static BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        &BYTES.0
    }};
}

/// Name and content, from `build.rs`.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The file's bytes where the loader mapped them: nothing is copied.
pub(super) fn get(file: &str) -> Option<&'static [u8]> {
    FILES.iter().find(|(name, _)| *name == file).map(|(_, bytes)| *bytes)
}

pub(super) fn names() -> Vec<String> {
    FILES.iter().map(|(name, _)| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_start_at_a_cache_line() {
        for (name, bytes) in FILES {
            assert_eq!(bytes.as_ptr() as usize % 64, 0, "{name}");
        }
    }
}
