//! A model of BERT's kind out of its tensors.

use super::{Attention, Bert, FeedForward, Layer, Layout, Positions, Qkv, Sizes};
use crate::engine::{Backend, EmbeddingsInit, FirstInit, Pooling, RopeInit, query_scale};
use crate::error::ModelError;
use crate::model::config::Config;
use crate::model::deberta::{Distances, Table};
use crate::model::end::{End, Layers, Stage};
use crate::model::head::Head;
use crate::model::parameters::{Bias, Matrix, Meets, Parameters, Part, Shape};

pub(super) struct Loader<'a, B: Backend> {
    pub(super) parameters: &'a Parameters<'a, B>,
    pub(super) layout: &'a Layout,
    pub(super) prefix: &'static str,
    pub(super) sizes: &'a Sizes,
}

impl<B: Backend> Loader<'_, B> {
    pub(super) fn bert(&self, config: &Config, head: &Head) -> Result<Bert<B>, ModelError> {
        let sizes = self.sizes;
        let end = End::load(self.parameters, (config, head), sizes.hidden_size, |num_labels| {
            self.classifier(num_labels)
        })?;
        let only_cls = end.pooling == Some(Pooling::Cls);
        let distances = match &sizes.positions {
            Positions::Relative(distances) => {
                let encoder = format!("{}encoder", self.prefix);
                Some(distances.table(self.parameters, &encoder, sizes)?)
            }
            Positions::Table { .. } | Positions::Rotary { .. } => None,
        };
        let layers = (0..sizes.num_layers).map(|i| {
            let few_rows = only_cls && i + 1 == sizes.num_layers;
            let meets = if few_rows { Meets::Sequences } else { Meets::Tokens };
            self.layer(i, meets, distances.as_ref())
        });
        let projects = sizes.embedding_size != sizes.hidden_size;
        let project = || {
            let shape = Shape::new(sizes.hidden_size, sizes.embedding_size, Bias::Stored);
            let name = format!("{}embeddings_project", self.prefix);
            self.parameters.linear(&name, shape, Meets::Sequences)
        };
        let norm = format!("{}{}", self.prefix, self.layout.embeddings_norm);
        Ok(Bert {
            embeddings: self.embeddings()?,
            embeddings_norm: self.norm(&norm, sizes.embedding_size)?,
            projection: projects.then(project).transpose()?,
            rope: self.rope()?,
            layers: layers.collect::<Result<_, _>>()?,
            end,
            sizes: sizes.clone(),
        })
    }

    fn classifier(&self, num_labels: usize) -> Result<Layers<B>, ModelError> {
        let hidden = self.sizes.hidden_size;
        let of = |name: &str, n| {
            // The pooler is a part of the encoder, whose names may go without their prefix.
            let bare = name.strip_prefix(self.layout.prefix).filter(|_| self.prefix.is_empty());
            let shape = Shape::new(n, hidden, Bias::Stored);
            self.parameters.linear(bare.unwrap_or(name), shape, Meets::Sequences)
        };
        let weight = of(self.layout.head_dense, hidden)?;
        let dense = Stage::Dense { weight, act: self.layout.head_act, width: hidden };
        let out = of(self.layout.head_out, num_labels)?;
        Ok(Layers { pooling: Pooling::Cls, stages: vec![dense], out })
    }

    fn embeddings(&self) -> Result<B::Embeddings, ModelError> {
        let Sizes { embedding_size, max_length, .. } = *self.sizes;
        let table = |name: &str, rows: usize| {
            let name = format!("{}embeddings.{name}_embeddings.weight", self.prefix);
            self.parameters.weights.tensor(&name, &[rows, embedding_size])
        };
        let mut types = match self.sizes.num_types {
            Some(num_types) => table("token_type", num_types)?,
            None => Vec::new(),
        };
        if self.sizes.num_types == Some(1) {
            types.extend_from_within(..);
        }
        let positions = match self.sizes.positions {
            Positions::Table { offset } => {
                let mut rows = table("position", offset + max_length)?;
                rows.drain(..offset * embedding_size);
                rows
            }
            Positions::Rotary { .. } | Positions::Relative(_) => Vec::new(),
        };
        let name = format!("{}embeddings.word_embeddings.weight", self.prefix);
        let shape = [self.sizes.vocab_size, embedding_size];
        let words = self.parameters.weights.table(&name, shape)?;
        let init = EmbeddingsInit { words, types, positions, hidden_size: embedding_size };
        self.parameters.backend.prepare_embeddings(init).map_err(ModelError::Device)
    }

    fn rope(&self) -> Result<Option<B::Rope>, ModelError> {
        let Positions::Rotary { inverse_frequencies } = &self.sizes.positions else {
            return Ok(None);
        };
        let init = RopeInit { inverse_frequencies, max_positions: self.sizes.max_length };
        self.parameters.backend.prepare_rope(&init).map(Some).map_err(ModelError::Device)
    }

    fn layer(
        &self,
        i: usize,
        meets: Meets,
        distances: Option<&Table>,
    ) -> Result<Layer<B>, ModelError> {
        let Sizes { hidden_size: hidden, intermediate_size, .. } = *self.sizes;
        let name = |part: &str| format!("{}{}.{i}.{part}", self.prefix, self.layout.layer);
        let linear = |part: &str, n, k| {
            self.parameters.linear(&name(part), Shape::new(n, k, Bias::Stored), meets)
        };
        let norm = |part: &str| self.norm(&name(part), hidden);
        let scale = match distances {
            Some(_) => Distances::query_scale(self.sizes.head_dim()),
            None => query_scale(self.sizes.head_dim()),
        };
        let qkv = match &self.layout.qkv {
            Qkv::Apart(names) => {
                let parts = names.iter().zip([scale, 1.0, 1.0]);
                let parts =
                    parts.map(|(part, factor)| Part { name: name(part), n: hidden, factor });
                let parts: Vec<_> = parts.collect();
                self.parameters.stacked(&parts, hidden, Bias::Stored)?
            }
            Qkv::Stacked(part) => {
                let shape = Shape::new(3 * hidden, hidden, Bias::Stored);
                self.parameters.scaled(&name(part), shape, hidden, scale)?
            }
        };
        let intermediate = match self.sizes.activation {
            FeedForward::Plain(_) => linear(self.layout.intermediate, intermediate_size, hidden)?,
            FeedForward::Gated(_) => {
                let shape = Shape::new(2 * intermediate_size, hidden, Bias::None);
                self.parameters.swapped(&name(self.layout.intermediate), shape, meets)?
            }
        };
        Ok(Layer {
            attention: self.attention(&name, &qkv, meets, distances)?,
            attention_output: linear(self.layout.attention_output, hidden, hidden)?,
            attention_norm: norm(self.layout.attention_norm)?,
            intermediate,
            output: linear(self.layout.output, hidden, intermediate_size)?,
            output_norm: norm(self.layout.output_norm)?,
        })
    }

    /// Of the last layer, if few of its rows are wanted, the one that spares keys and values, where the backend has it
    /// and positions do not turn keys.
    fn attention(
        &self,
        name: &dyn Fn(&str) -> String,
        qkv: &Matrix,
        meets: Meets,
        distances: Option<&Table>,
    ) -> Result<Attention<B>, ModelError> {
        let Sizes { hidden_size: hidden, num_heads, .. } = *self.sizes;
        let is_table = matches!(self.sizes.positions, Positions::Table { .. });
        if is_table && meets == Meets::Sequences {
            let [query, key, value] = [0, 1, 2].map(|i| qkv.part(i * hidden, hidden));
            let init = FirstInit { query, key, value, num_heads };
            let first = self.parameters.backend.prepare_first(&init).map_err(ModelError::Device)?;
            if let Some(first) = first {
                return Ok(Attention::First(first));
            }
        }
        let relative = match (distances, &self.layout.qkv) {
            (Some(table), Qkv::Apart([query, key, _])) => {
                Some(table.relative(self.parameters, (&name(query), &name(key)), self.sizes)?)
            }
            _ => None,
        };
        let qkv = self.parameters.prepare(&qkv.init(), Meets::Tokens)?;
        Ok(Attention::Rows { qkv, relative })
    }

    fn norm(&self, name: &str, width: usize) -> Result<B::Norm, ModelError> {
        self.parameters.layer_norm(name, width, self.sizes.eps, Bias::Stored)
    }
}
