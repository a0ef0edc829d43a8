//! Which instruction set the kernels use: chosen once, at run time.

use super::kernels::Kernels;
use super::narrow;
use crate::engine::Dtype;
#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

/// A level of instruction sets that has kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust: runs everywhere, and is what the other kernels are tested against.
    Portable,
    /// x86-64 AVX2 with FMA and F16C.
    Avx2,
    /// And AVX-VNNI, an instruction for products of bytes.
    AvxVnni,
    /// x86-64 AVX-512F and BW.
    Avx512,
    /// And AVX512-VNNI, the same.
    Avx512Vnni,
    /// And AVX512-BF16, an instruction for products of bf16, DQ and VBMI. Its f32 products, and those of bf16 rows as
    /// 16-bit integers, are by pairs, which AMD's cores gain by.
    Avx512Bf16,
    /// And AMX, instructions for products of whole tiles of bytes or bf16.
    Amx,
    /// aarch64 NEON.
    Neon,
    /// And DotProd, an instruction for products of bytes of one sign.
    NeonDot,
    /// And I8MM and BF16, instructions for products of bytes of either sign and of bf16.
    NeonBf16,
}

/// Rows from which on int8 is faster than bf16 on AMX: at 128 bf16 took three quarters of int8's time, at 384 a tenth more.
const CODED_WIDTH: usize = 256;

impl Isa {
    const FASTEST_FIRST: [Self; 10] = [
        Self::Amx,
        Self::Avx512Bf16,
        Self::Avx512Vnni,
        Self::Avx512,
        Self::AvxVnni,
        Self::Avx2,
        Self::NeonBf16,
        Self::NeonDot,
        Self::Neon,
        Self::Portable,
    ];

    /// The fastest one this machine has. Intel issues `vdpbf16ps` at a quarter of the rate of its f32 products, AMD at
    /// the full one.
    pub fn detect() -> Self {
        let is_fast = |isa: &Self| *isa != Self::Avx512Bf16 || is_amd();
        Self::available().find(is_fast).unwrap_or(Self::Portable)
    }

    /// All that this machine has, fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::FASTEST_FIRST.into_iter().filter(|isa| isa.kernels().is_some())
    }

    /// Those this machine has whose kernels for a precision are not a slower set's too: what a test must run
    /// to have run them all.
    pub fn distinct(dtype: Dtype) -> impl Iterator<Item = Self> {
        Self::available().filter(move |isa| match isa {
            Self::Portable | Self::Avx2 | Self::Avx512 | Self::Avx512Bf16 | Self::Neon => true,
            Self::AvxVnni | Self::Avx512Vnni | Self::NeonDot => dtype == Dtype::Int8,
            Self::Amx | Self::NeonBf16 => dtype != Dtype::F32,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx-vnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Amx => "amx",
            Self::Neon => "neon",
            Self::NeonDot => "neon-dot",
            Self::NeonBf16 => "neon-bf16",
        }
    }

    /// The precisions in the order of their speed for rows of `hidden_size`, none that is slower than f32.
    pub fn fastest_dtypes(self, hidden_size: usize) -> &'static [Dtype] {
        match self {
            // Products are so fast that coding rows as bytes outweighs what narrow ones gain by it.
            Self::Amx if hidden_size < CODED_WIDTH => &[Dtype::Bf16, Dtype::Int8, Dtype::F32],
            Self::Amx => &[Dtype::Int8, Dtype::Bf16, Dtype::F32],
            // Those of NEON by their products an instruction: no machine has been timed.
            Self::Avx512Bf16 | Self::NeonBf16 => &[Dtype::Int8, Dtype::Bf16, Dtype::F32],
            Self::Avx512Vnni | Self::AvxVnni | Self::NeonDot => &[Dtype::Int8, Dtype::F32],
            Self::Avx512 | Self::Avx2 | Self::Neon | Self::Portable => &[Dtype::F32],
        }
    }

    /// The f32 and the narrow kernels, if this machine can run them.
    pub(super) fn kernels(self) -> Option<(&'static Kernels, &'static narrow::Kernels)> {
        #[cfg(target_arch = "aarch64")]
        use super::neon;
        #[cfg(target_arch = "x86_64")]
        use super::{avx2, avx512};
        match self {
            Self::Portable => Some((&super::portable::KERNELS, &narrow::portable::KERNELS)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => has_avx2().then_some((&avx2::KERNELS, &narrow::avx2::AVX2)),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => (has_avx2() && is_x86_feature_detected!("avxvnni"))
                .then_some((&avx2::KERNELS, &narrow::avx2::VNNI)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => has_avx512().then_some((&avx512::KERNELS, &narrow::avx512::AVX512)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                has_avx512_vnni().then_some((&avx512::KERNELS, &narrow::avx512::VNNI))
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                has_avx512_bf16().then_some((&avx512::PAIRED, &narrow::avx512::BF16))
            }
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => (has_avx512_bf16() && narrow::amx::is_available())
                .then_some((&avx512::KERNELS, &narrow::amx::KERNELS)),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => has_neon().then_some((&neon::KERNELS, &narrow::neon::NEON)),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => (has_neon() && is_aarch64_feature_detected!("dotprod"))
                .then_some((&neon::KERNELS, &narrow::neon::DOT)),
            #[cfg(target_arch = "aarch64")]
            Self::NeonBf16 => (has_neon()
                && is_aarch64_feature_detected!("i8mm")
                && is_aarch64_feature_detected!("bf16"))
            .then_some((&neon::KERNELS, &narrow::neon::BF16)),
            #[allow(unreachable_patterns, reason = "the sets of the other architectures")]
            _ => None,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_vnni() -> bool {
    has_avx512() && is_x86_feature_detected!("avx512vnni")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_bf16() -> bool {
    has_avx512_vnni()
        && is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(target_arch = "aarch64")]
fn has_neon() -> bool {
    is_aarch64_feature_detected!("neon")
}

/// Whether CPUID names AMD as the maker.
#[cfg(target_arch = "x86_64")]
fn is_amd() -> bool {
    // Asked once: in a virtual machine it is the host that answers.
    static IS_AMD: LazyLock<bool> = LazyLock::new(|| {
        let maker = std::arch::x86_64::__cpuid(0);
        [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
    });
    *IS_AMD
}

#[cfg(not(target_arch = "x86_64"))]
fn is_amd() -> bool {
    false
}
