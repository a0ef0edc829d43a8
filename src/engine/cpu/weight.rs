//! Parameters as the kernels want them: matrices in panels, vectors padded.

use super::buffer::Buffer;
use super::kernels::RotateArgs;
use super::narrow::Numbers;
use super::narrow::weight::Panels;
use super::paired::Paired;
use crate::engine::table::Table;
use crate::engine::{EmbeddingsInit, LinearInit, NormInit, NormKind, ROPE_HEAD_DIM, RopeInit};

/// A `[n, k]` weight with its bias, packed for one kind of kernel.
#[derive(Debug)]
pub struct Linear {
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) panel: usize,
    /// `[num_panels * panel]`
    pub(super) bias: Buffer,
    pub(super) weights: Weights,
}

#[derive(Debug)]
pub(super) enum Weights {
    /// `[num_panels][k][panel]`, columns padded with zeros to whole panels.
    F32(Buffer),
    Paired(Paired),
    Narrow(Panels),
}

impl Linear {
    /// In f32.
    pub(super) fn pack(init: &LinearInit<'_>, panel: usize) -> Self {
        Self::new(init, panel, |init| Weights::F32(pack_f32(init, panel)))
    }

    pub(super) fn narrow(init: &LinearInit<'_>, numbers: Numbers, panel: usize) -> Self {
        Self::new(init, panel, |init| Weights::Narrow(Panels::pack(init, numbers, panel)))
    }

    /// In f32, for products of pairs.
    pub(super) fn pair(init: &LinearInit<'_>) -> Self {
        Self::new(init, Paired::PANEL, |init| Weights::Paired(Paired::pack(init)))
    }

    fn new(
        init: &LinearInit<'_>,
        panel: usize,
        pack: impl FnOnce(&LinearInit<'_>) -> Weights,
    ) -> Self {
        let LinearInit { weight, bias, n, k } = *init;
        assert_eq!(weight.len(), n * k, "a weight of {n} rows and {k} columns");
        assert_eq!(bias.len(), n, "a bias of {n}");
        let mut padded = Buffer::zeroed(n.next_multiple_of(panel));
        padded[..n].copy_from_slice(bias);
        Self { n, k, panel, bias: padded, weights: pack(init) }
    }

    pub(super) fn num_panels(&self) -> usize {
        self.n.div_ceil(self.panel)
    }
}

/// `[num_panels][k][panel]`
pub(super) fn pack_f32(init: &LinearInit<'_>, panel: usize) -> Buffer {
    let LinearInit { weight, n, k, .. } = *init;
    let mut panels = Buffer::zeroed_weights(n.div_ceil(panel) * k * panel);
    for (weight, out) in weight.chunks(panel * k).zip(panels.chunks_exact_mut(k * panel)) {
        for (column, weight) in weight.chunks_exact(k).enumerate() {
            for (x, out) in weight.iter().zip(out.chunks_exact_mut(panel)) {
                out[column] = *x;
            }
        }
    }
    panels
}

#[derive(Debug)]
pub struct Norm {
    pub(super) kind: NormKind,
    pub(super) gamma: Vec<f32>,
    pub(super) beta: Vec<f32>,
    pub(super) eps: f32,
}

impl Norm {
    pub(super) fn new(init: &NormInit<'_>) -> Self {
        let NormInit { kind, gamma, beta, eps } = *init;
        let beta = if beta.is_empty() { vec![0.0; gamma.len()] } else { beta.to_vec() };
        assert_eq!(gamma.len(), beta.len(), "gamma and beta of one width");
        Self { kind, gamma: gamma.to_vec(), beta, eps }
    }

    pub(super) fn width(&self) -> usize {
        self.gamma.len()
    }
}

/// Cosines and sines, each `[max_positions, half]`.
#[derive(Debug)]
pub struct Rope {
    pub(super) cosines: Vec<f32>,
    pub(super) sines: Vec<f32>,
    pub(super) half: usize,
    pub(super) max_positions: usize,
}

impl Rope {
    pub(super) fn new(init: &RopeInit<'_>) -> Self {
        let half = init.inverse_frequencies.len();
        assert!((2 * half).is_multiple_of(ROPE_HEAD_DIM), "whole vectors to rotate");
        let (cosines, sines) = init.tables();
        Self { cosines, sines, half, max_positions: init.max_positions }
    }

    /// Of rows in either form, `(num_rows, stride)`, with a position each.
    pub(super) fn args<U>(
        &self,
        rows: *mut U,
        (num_rows, stride): (usize, usize),
        num_heads: usize,
        positions: *const u32,
    ) -> RotateArgs<U> {
        let (cosines, sines) = (self.cosines.as_ptr(), self.sines.as_ptr());
        let half = self.half;
        RotateArgs { rows, stride, num_rows, num_heads, half, positions, cosines, sines }
    }
}

/// The word, token-type and position tables.
#[derive(Debug)]
pub struct Embeddings {
    words: Table,
    types: Vec<f32>,
    positions: Vec<f32>,
    hidden_size: usize,
    /// What an empty table adds.
    nothing: Vec<f32>,
}

impl Embeddings {
    pub(super) fn new(init: EmbeddingsInit) -> Self {
        let EmbeddingsInit { words, types, positions, hidden_size } = init;
        assert_eq!(words.columns(), hidden_size, "rows of words");
        for table in [&types, &positions] {
            assert!(table.len().is_multiple_of(hidden_size), "whole rows of {hidden_size}");
        }
        Self { words, types, positions, hidden_size, nothing: vec![0.0; hidden_size] }
    }

    /// Writes the vector of a word.
    pub(super) fn word(&self, id: u32, out: &mut [f32]) {
        self.words.read(id as usize, out);
    }

    pub(super) fn token_type(&self, id: u32) -> &[f32] {
        self.row(&self.types, id)
    }

    pub(super) fn position(&self, id: u32) -> &[f32] {
        self.row(&self.positions, id)
    }

    fn row<'a>(&'a self, table: &'a [f32], id: u32) -> &'a [f32] {
        if table.is_empty() {
            return &self.nothing;
        }
        &table[id as usize * self.hidden_size..][..self.hidden_size]
    }
}
