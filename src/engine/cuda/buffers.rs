//! Weights and activations in device memory, f16 unless said otherwise.

use cudarc::driver::CudaSlice;
use half::f16;

use crate::engine::{LinearInit, NormInit, NormKind, ROPE_HEAD_DIM, RopeInit};
use crate::error::DeviceError;

/// Halves in the 16 bytes that kernels read at once: rows begin at multiples of it.
pub(super) const VECTOR: usize = 8;

/// A `[n, k]` weight, its rows `stride` halves apart, and its bias in f32.
#[derive(Debug)]
pub struct Linear {
    pub(super) weight: CudaSlice<f16>,
    pub(super) bias: CudaSlice<f32>,
    /// For cuBLASLt, which takes the type of its output.
    pub(super) bias_f16: Option<CudaSlice<f16>>,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) stride: usize,
}

/// Gamma and beta in f32; an RMS norm has no beta.
#[derive(Debug)]
pub struct Norm {
    pub(super) kind: NormKind,
    pub(super) gamma: CudaSlice<f32>,
    pub(super) beta: Option<CudaSlice<f32>>,
    pub(super) eps: f32,
    pub(super) width: usize,
}

/// Cosines and sines, each `[max_positions, half]` in f32.
#[derive(Debug)]
pub struct Rope {
    pub(super) cosines: CudaSlice<f32>,
    pub(super) sines: CudaSlice<f32>,
    pub(super) half: usize,
}

/// The word, token-type and position tables, each `[rows, hidden_size]`.
#[derive(Debug)]
pub struct Embeddings {
    pub(super) words: CudaSlice<f16>,
    pub(super) types: Option<CudaSlice<f16>>,
    pub(super) positions: Option<CudaSlice<f16>>,
    pub(super) hidden_size: usize,
}

/// `[num_rows, width]`, dense.
#[derive(Debug)]
pub struct Rows {
    pub(super) data: Elements,
    pub(super) width: usize,
    pub(super) num_rows: usize,
    pub(super) max_rows: usize,
}

#[derive(Debug)]
pub(super) enum Elements {
    F16(CudaSlice<f16>),
    /// Of logits alone.
    F32(CudaSlice<f32>),
}

impl Rows {
    /// # Panics
    /// If the arena has no room for so many rows.
    pub(super) fn set_rows(&mut self, num_rows: usize) {
        assert!(num_rows <= self.max_rows, "{num_rows} rows exceed the arena of {}", self.max_rows);
        self.num_rows = num_rows;
    }

    /// # Panics
    /// If these are logits.
    pub(super) fn halves(&self) -> &CudaSlice<f16> {
        let Elements::F16(data) = &self.data else { panic!("logits are no activations") };
        data
    }

    /// # Panics
    /// If these are logits.
    pub(super) fn halves_mut(&mut self) -> &mut CudaSlice<f16> {
        let Elements::F16(data) = &mut self.data else { panic!("logits are no activations") };
        data
    }
}

/// The weight's rows as halves, padded with zeros to whole vectors, and their stride.
pub(super) fn padded_rows(init: &LinearInit<'_>) -> (Vec<f16>, usize) {
    let stride = init.k.next_multiple_of(VECTOR);
    let mut rows = vec![f16::ZERO; init.n * stride];
    for (row, weights) in rows.chunks_exact_mut(stride).zip(init.weight.chunks_exact(init.k)) {
        row.iter_mut().zip(weights).for_each(|(to, from)| *to = f16::from_f32(*from));
    }
    (rows, stride)
}

pub(super) fn to_halves(values: &[f32]) -> Vec<f16> {
    values.iter().map(|x| f16::from_f32(*x)).collect()
}

/// # Errors
/// The width is one that the row kernels do not take.
pub(super) fn check_width(what: &str, width: usize, max: usize) -> Result<(), DeviceError> {
    if width.is_multiple_of(VECTOR) && width <= max {
        return Ok(());
    }
    Err(DeviceError::new(format!(
        "{what} is {width} wide; a multiple of {VECTOR} up to {max} is needed"
    )))
}

pub(super) fn check_rope(init: &RopeInit<'_>) {
    let head_dim = 2 * init.inverse_frequencies.len();
    assert!(head_dim.is_multiple_of(ROPE_HEAD_DIM), "whole vectors to rotate");
}

pub(super) fn check_norm(init: &NormInit<'_>) -> Result<(), DeviceError> {
    let of_one_width = init.beta.is_empty() || init.gamma.len() == init.beta.len();
    assert!(of_one_width, "gamma and beta of one width");
    assert!(init.kind == NormKind::Layer || init.beta.is_empty(), "an RMS norm without beta");
    check_width("a norm", init.gamma.len(), super::MAX_NORM_WIDTH)
}
