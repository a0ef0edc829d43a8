//! Which instruction set the kernels use: chosen once, at run time.

use super::kernels::Kernels;

/// An instruction set that has kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust: runs everywhere, and is what the other kernels are tested against.
    Portable,
    /// x86-64 AVX2 with FMA.
    Avx2,
    /// x86-64 AVX-512F.
    Avx512,
    /// aarch64.
    Neon,
}

impl Isa {
    const FASTEST_FIRST: [Self; 4] = [Self::Avx512, Self::Avx2, Self::Neon, Self::Portable];

    /// The fastest one this machine has.
    pub fn detect() -> Self {
        Self::available().next().unwrap_or(Self::Portable)
    }

    /// All that this machine has, fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::FASTEST_FIRST.into_iter().filter(|isa| isa.kernels().is_some())
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    /// The kernels, if this machine can run them.
    pub(super) fn kernels(self) -> Option<&'static Kernels> {
        match self {
            Self::Portable => Some(&super::portable::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"))
                .then_some(&super::avx2::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f").then_some(&super::avx512::KERNELS),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => {
                std::arch::is_aarch64_feature_detected!("neon").then_some(&super::neon::KERNELS)
            }
            #[allow(unreachable_patterns, reason = "the sets of the other architectures")]
            _ => None,
        }
    }
}
