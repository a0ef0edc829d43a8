//! A model's parameters, by name out of its weights and prepared for a backend.

use super::source::ModelFiles;
use super::weights::Weights;
use crate::engine::{Backend, LinearInit, NormInit, NormKind, RopeInit};
use crate::error::ModelError;

/// Whether a layer has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    Stored,
    None,
}

impl Bias {
    pub fn if_stored(stored: bool) -> Self {
        if stored { Self::Stored } else { Self::None }
    }
}

/// A linear layer of a checkpoint: `[n, k]`.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub n: usize,
    pub k: usize,
    pub bias: Bias,
}

impl Shape {
    pub fn new(n: usize, k: usize, bias: Bias) -> Self {
        Self { n, k, bias }
    }
}

/// A matrix among those that are computed as one, and the factor folded into it.
#[derive(Debug)]
pub struct Part {
    pub name: String,
    pub n: usize,
    pub factor: f32,
}

/// A linear layer read from a checkpoint.
#[derive(Debug)]
pub struct Matrix {
    /// `[n, k]`
    pub weight: Vec<f32>,
    /// `[n]`
    pub bias: Vec<f32>,
    pub k: usize,
}

impl Matrix {
    pub fn init(&self) -> LinearInit<'_> {
        self.part(0, self.bias.len())
    }

    /// The layer of `n` rows from `first` on.
    pub fn part(&self, first: usize, n: usize) -> LinearInit<'_> {
        let k = self.k;
        LinearInit {
            weight: &self.weight[first * k..][..n * k],
            bias: &self.bias[first..][..n],
            n,
            k,
        }
    }
}

/// How many rows a layer will meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meets {
    Tokens,
    /// One row a sequence, in f32: precision costs nothing there.
    Sequences,
}

/// Where parameters come from and what they are prepared for.
#[derive(Debug)]
pub struct Parameters<'a, B: Backend> {
    pub backend: &'a B,
    pub weights: &'a Weights,
    pub files: &'a ModelFiles,
}

impl<'a, B: Backend> Parameters<'a, B> {
    /// The same parameters for another backend.
    pub fn over<'b, C: Backend>(&self, backend: &'b C) -> Parameters<'b, C>
    where
        'a: 'b,
    {
        Parameters { backend, weights: self.weights, files: self.files }
    }

    /// # Errors
    /// As for all here: a tensor is missing or damaged, or its shape is not what config.json asks for; or the
    /// device has no memory.
    pub fn linear(&self, name: &str, shape: Shape, meets: Meets) -> Result<B::Linear, ModelError> {
        let Shape { n, k, bias } = shape;
        let weight = self.weights.tensor(&format!("{name}.weight"), &[n, k])?;
        let bias = self.bias(name, n, bias)?;
        self.prepare(&LinearInit { weight: &weight, bias: &bias, n, k }, meets)
    }

    /// A matrix whose first `rows` rows are multiplied by `factor`: queries, keys and values as one.
    ///
    /// # Errors
    /// As for [`Self::linear`].
    pub fn scaled(
        &self,
        name: &str,
        shape: Shape,
        rows: usize,
        factor: f32,
    ) -> Result<Matrix, ModelError> {
        let Shape { n, k, bias } = shape;
        let mut weight = self.weights.tensor(&format!("{name}.weight"), &[n, k])?;
        let mut bias = self.bias(name, n, bias)?;
        weight[..rows * k].iter_mut().chain(&mut bias[..rows]).for_each(|x| *x *= factor);
        Ok(Matrix { weight, bias, k })
    }

    /// A matrix whose lower half comes first: a gated layer that stores what is gated before what is activated.
    ///
    /// # Errors
    /// As for [`Self::linear`].
    pub fn swapped(&self, name: &str, shape: Shape, meets: Meets) -> Result<B::Linear, ModelError> {
        let Shape { n, k, bias } = shape;
        let mut weight = self.weights.tensor(&format!("{name}.weight"), &[n, k])?;
        let mut bias = self.bias(name, n, bias)?;
        weight.rotate_left(n / 2 * k);
        bias.rotate_left(n / 2);
        self.prepare(&LinearInit { weight: &weight, bias: &bias, n, k }, meets)
    }

    fn bias(&self, name: &str, n: usize, bias: Bias) -> Result<Vec<f32>, ModelError> {
        match bias {
            Bias::Stored => self.weights.tensor(&format!("{name}.bias"), &[n]),
            Bias::None => Ok(vec![0.0; n]),
        }
    }

    /// Matrices of one input, one under the other.
    ///
    /// # Errors
    /// As for [`Self::linear`].
    pub fn stacked(&self, parts: &[Part], k: usize, bias: Bias) -> Result<Matrix, ModelError> {
        let (mut weight, mut biases) = (Vec::new(), Vec::new());
        for Part { name, n, factor } in parts {
            let scaled = |values: Vec<f32>| values.into_iter().map(|x| x * factor);
            weight.extend(scaled(self.weights.tensor(&format!("{name}.weight"), &[*n, k])?));
            biases.extend(scaled(self.bias(name, *n, bias)?));
        }
        Ok(Matrix { weight, bias: biases, k })
    }

    /// # Errors
    /// As for [`Self::linear`].
    pub fn prepare(&self, init: &LinearInit<'_>, meets: Meets) -> Result<B::Linear, ModelError> {
        let prepared = match meets {
            Meets::Tokens => self.backend.prepare_linear(init),
            Meets::Sequences => self.backend.prepare_precise(init),
        };
        prepared.map_err(ModelError::Device)
    }

    /// A layer norm of `width` columns.
    ///
    /// # Errors
    /// As for [`Self::linear`].
    pub fn layer_norm(
        &self,
        name: &str,
        width: usize,
        eps: f32,
        bias: Bias,
    ) -> Result<B::Norm, ModelError> {
        // Old checkpoints call weight and bias by the paper's names.
        let vector = |new: &str, old: &str| {
            let old = format!("{name}.{old}");
            let tensor = if self.weights.contains(&old) { old } else { format!("{name}.{new}") };
            self.weights.tensor(&tensor, &[width])
        };
        let gamma = vector("weight", "gamma")?;
        let beta = if bias == Bias::Stored { vector("bias", "beta")? } else { Vec::new() };
        let init = NormInit { kind: NormKind::Layer, gamma: &gamma, beta: &beta, eps };
        self.backend.prepare_norm(&init).map_err(ModelError::Device)
    }

    /// An RMS norm of `width` columns, which are multiplied by `factor * (offset + weight)`.
    ///
    /// # Errors
    /// As for [`Self::linear`].
    pub fn rms_norm(
        &self,
        name: &str,
        width: usize,
        eps: f32,
        (offset, factor): (f32, f32),
    ) -> Result<B::Norm, ModelError> {
        let mut gamma = self.weights.tensor(&format!("{name}.weight"), &[width])?;
        gamma.iter_mut().for_each(|x| *x = factor * (offset + *x));
        let init = NormInit { kind: NormKind::Rms, gamma: &gamma, beta: &[], eps };
        self.backend.prepare_norm(&init).map_err(ModelError::Device)
    }

    /// Rotary positions of plain frequencies, `theta^(-2i / head_dim)`.
    ///
    /// # Errors
    /// The device has no memory.
    pub fn rope(
        &self,
        theta: f64,
        head_dim: usize,
        max_positions: usize,
    ) -> Result<B::Rope, ModelError> {
        let frequency = |i| theta.powf(-2.0 * f64::from(i) / head_dim as f64);
        let frequencies: Vec<f64> = (0..head_dim as u32 / 2).map(frequency).collect();
        let init = RopeInit { inverse_frequencies: &frequencies, max_positions };
        self.backend.prepare_rope(&init).map_err(ModelError::Device)
    }
}
