//! The compiled kernels, embedded as PTX, and their functions on one device.

use std::sync::Arc;

use cudarc::driver::sys::CUfunction_attribute;
use cudarc::driver::{CudaContext, CudaFunction};
use cudarc::nvrtc::Ptx;

use super::error::fault;
use crate::engine::AttentionKind;
use crate::error::DeviceError;

/// Dynamic shared memory that a kernel may ask for without opting in.
const SHARED_WITHOUT_OPT_IN: u32 = 48 << 10;

/// Functions by what they compute. Attention comes with the head size that a model asks for.
#[derive(Debug)]
pub(super) struct Kernels {
    pub(super) embed_norm: CudaFunction,
    pub(super) embed: CudaFunction,
    pub(super) gemm: GemmTiles,
    pub(super) residual_norm: CudaFunction,
    pub(super) rms_norm: CudaFunction,
    pub(super) head_norm: CudaFunction,
    pub(super) rope: CudaFunction,
    pub(super) gated_activation: CudaFunction,
    pub(super) pool: CudaFunction,
    pub(super) normalize: CudaFunction,
    pub(super) classify: CudaFunction,
}

/// The text of a kernel of `kernels/ptx`, and its name, which is that of the file.
macro_rules! ptx {
    ($name:literal) => {
        ($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/ptx/", $name, ".ptx")))
    };
}

/// A kernel before it is loaded: its name and text.
type Source = (&'static str, &'static str);

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self, DeviceError> {
        let load = |source| load(context, source, 0);
        Ok(Self {
            embed_norm: load(ptx!("embed_norm_f16_sm80"))?,
            embed: load(ptx!("embed_f16_sm80"))?,
            gemm: GemmTiles::load(context)?,
            residual_norm: load(ptx!("residual_norm_f16_sm80"))?,
            rms_norm: load(ptx!("rms_norm_f16_sm80"))?,
            head_norm: load(ptx!("head_norm_f16_sm80"))?,
            rope: load(ptx!("rope_f16_sm80"))?,
            gated_activation: load(ptx!("gated_activation_f16_sm80"))?,
            pool: load(ptx!("pool_f16_sm80"))?,
            normalize: load(ptx!("normalize_f16_sm80"))?,
            classify: load(ptx!("classify_f16_sm80"))?,
        })
    }
}

/// One tile of the matrix product, and what its launch needs.
#[derive(Debug)]
pub(super) struct GemmTile {
    pub(super) function: CudaFunction,
    /// Rows and columns of the output that a block makes.
    pub(super) edge: usize,
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
}

/// The tiles of a device. Both must give the same bits, since which one runs follows the number of rows; Hopper's
/// own product adds in another order, so there it runs alone.
#[derive(Debug)]
pub(super) struct GemmTiles {
    pub(super) large: GemmTile,
    /// For products too small to fill the device with large tiles.
    pub(super) small: Option<GemmTile>,
}

impl GemmTiles {
    fn load(context: &Arc<CudaContext>) -> Result<Self, DeviceError> {
        let tile = |source, edge, threads, shared_bytes| {
            let function = load(context, source, shared_bytes)?;
            Ok(GemmTile { function, edge, threads, shared_bytes })
        };
        let capability =
            context.compute_capability().map_err(fault("asking for the capability"))?;
        // sm_90a code runs on 9.0 alone.
        if capability == (9, 0) {
            let large = tile(ptx!("gemm_f16_128x128x64_sm90a"), 128, 256, 97 << 10)?;
            return Ok(Self { large, small: None });
        }
        Ok(Self {
            large: tile(ptx!("gemm_f16_128x128x32_sm80"), 128, 128, 48 << 10)?,
            small: Some(tile(ptx!("gemm_f16_64x64x64_sm80"), 64, 64, 48 << 10)?),
        })
    }
}

/// What an attention takes for the score of a query and a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scores {
    Products,
    /// Of their products, soft-capped.
    Capped,
    /// Their product and those with the vectors of their distance.
    Relative,
}

/// Attention for one head size, and what its launch needs.
#[derive(Debug)]
pub(super) struct Attention {
    pub(super) function: CudaFunction,
    pub(super) scores: Scores,
    pub(super) head_dim: usize,
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
}

impl Attention {
    /// # Errors
    /// No kernel has this head size.
    pub(super) fn load(
        context: &Arc<CudaContext>,
        scores: Scores,
        head_dim: usize,
    ) -> Result<Self, DeviceError> {
        let (source, threads, shared_bytes) = match (scores, head_dim) {
            (Scores::Products, 32) => (ptx!("attention_f16_d32_sm80"), 64, 12 << 10),
            (Scores::Products, 64) => (ptx!("attention_f16_d64_sm80"), 64, 24 << 10),
            (Scores::Products, 96) => (ptx!("attention_f16_d96_sm80"), 64, 36 << 10),
            (Scores::Products, 128) => (ptx!("attention_f16_d128_sm80"), 64, 32 << 10),
            (Scores::Products, 256) => (ptx!("attention_f16_d256_sm80"), 128, 64 << 10),
            (Scores::Capped, 32) => (ptx!("attention_softcap_f16_d32_sm80"), 64, 12 << 10),
            (Scores::Capped, 128) => (ptx!("attention_softcap_f16_d128_sm80"), 128, 32 << 10),
            (Scores::Capped, 256) => (ptx!("attention_softcap_f16_d256_sm80"), 128, 64 << 10),
            (Scores::Relative, 32) => (ptx!("relative_attention_f16_d32_sm80"), 128, 26 << 10),
            (Scores::Relative, 64) => (ptx!("relative_attention_f16_d64_sm80"), 128, 42 << 10),
            _ => return Err(DeviceError::new(scores.refusal(head_dim))),
        };
        let function = load(context, source, shared_bytes)?;
        Ok(Self { function, scores, head_dim, threads, shared_bytes })
    }
}

impl Scores {
    pub(super) fn of(kind: &AttentionKind) -> Self {
        if kind.softcap.is_some() { Self::Capped } else { Self::Products }
    }

    fn refusal(self, head_dim: usize) -> String {
        let (what, supported) = match self {
            Self::Products => ("", "32, 64, 96, 128, 256"),
            Self::Capped => (" with soft-capped scores", "32, 128, 256"),
            Self::Relative => (" that counts distances", "32, 64"),
        };
        format!("attention{what}: heads of {head_dim} are not supported on GPUs; {supported} are")
    }
}

/// Late interaction for vectors of up to `dim`, and how wide the kernel takes them; `None` if none is so wide.
pub(super) fn max_sim(
    context: &Arc<CudaContext>,
    dim: usize,
) -> Result<Option<(CudaFunction, usize)>, DeviceError> {
    let (source, columns) = match dim {
        1..=64 => (ptx!("maxsim_f16_d64_sm80"), 64),
        65..=96 => (ptx!("maxsim_f16_d96_sm80"), 96),
        97..=128 => (ptx!("maxsim_f16_d128_sm80"), 128),
        _ => return Ok(None),
    };
    Ok(Some((load(context, source, 0)?, columns)))
}

/// The driver compiles the text for its card; `shared_bytes` is what launches will ask for.
fn load(
    context: &Arc<CudaContext>,
    (name, text): Source,
    shared_bytes: u32,
) -> Result<CudaFunction, DeviceError> {
    let what = format!("loading kernel {name}");
    let module = context.load_module(Ptx::from_src(text)).map_err(fault(&what))?;
    let function = module.load_function(name).map_err(fault(&what))?;
    if shared_bytes > SHARED_WITHOUT_OPT_IN {
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, shared_bytes as i32).map_err(fault(&what))?;
    }
    Ok(function)
}
