//! DeBERTa v2 and v3 (mxbai-rerank-v1): BERT without a table of positions. Each score is a sum of three products: of
//! query and key, of the query with a vector for its distance from the key, and of the key with another.
//!
//! He, Liu, Gao, Chen: DeBERTa: Decoding-enhanced BERT with Disentangled Attention, 2021.

use super::bert::{BERT, FeedForward, Kind, Layout, Positions, Qkv, Sizes};
use super::config::{Fields, MAX_LAYERS, MAX_SIZE, MAX_VOCAB};
use super::parameters::{Bias, Meets, Parameters, Part};
use crate::engine::cpu::{Cpu, Rows};
use crate::engine::{Backend, Dtype, Epilogue, RelativeInit};
use crate::error::ModelError;
use serde_json::Value;

const FILE: &str = "config.json";
/// No distance is asked for beyond these; a table has a row for each in both directions.
const MAX_LENGTH: usize = 1 << 14;

#[derive(Debug)]
pub(super) enum DebertaV2 {}

impl Kind for DebertaV2 {
    const LAYOUT: Layout = Layout {
        prefix: "deberta.",
        qkv: Qkv::Apart([
            "attention.self.query_proj",
            "attention.self.key_proj",
            "attention.self.value_proj",
        ]),
        head_dense: "pooler.dense",
        head_act: Epilogue::BiasGelu,
        ..BERT
    };

    fn sizes(fields: &Fields) -> Result<Sizes, ModelError> {
        check_supported(fields)?;
        let hidden_size = fields.size("hidden_size", MAX_SIZE)?;
        let max_length = fields.size("max_position_embeddings", MAX_LENGTH)?;
        Ok(Sizes {
            hidden_size,
            embedding_size: hidden_size,
            num_layers: fields.size("num_hidden_layers", MAX_LAYERS)?,
            num_heads: fields.heads("num_attention_heads", hidden_size)?,
            intermediate_size: fields.size("intermediate_size", MAX_SIZE)?,
            vocab_size: fields.size("vocab_size", MAX_VOCAB)?,
            max_length,
            positions: Positions::Relative(Distances::read(fields, max_length)?),
            num_types: fields.count("type_vocab_size", MAX_SIZE)?,
            eps: fields.eps("layer_norm_eps", 1e-7)?,
            activation: FeedForward::Plain(fields.epilogue("hidden_act", "gelu")?),
        })
    }
}

/// What the published v3 encoders have in common, and no code here does otherwise.
fn check_supported(fields: &Fields) -> Result<(), ModelError> {
    for (field, default, only) in [
        ("relative_attention", false, true),
        ("share_att_key", false, true),
        ("position_biased_input", true, false),
    ] {
        if fields.flag(field, default)? != only {
            let message = format!("only {only} is supported");
            return Err(ModelError::unsupported(FILE, field, message));
        }
    }
    let parts = match fields.get("pos_att_type") {
        Some(Value::String(parts)) => parts.split('|').map(str::trim).collect(),
        Some(Value::Array(parts)) => parts.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if parts.len() != 2 || !parts.contains(&"c2p") || !parts.contains(&"p2c") {
        let message = "both of c2p and p2c are needed, and no other is supported";
        return Err(ModelError::unsupported(FILE, "pos_att_type", message));
    }
    let same = |field, other| {
        let (value, expected) =
            (fields.optional_size(field, MAX_SIZE)?, fields.size(other, MAX_SIZE)?);
        if value.is_none_or(|value| value == expected) {
            return Ok(());
        }
        let message = format!("anything but {other} ({expected}) is not supported");
        Err(ModelError::unsupported(FILE, field, message))
    };
    same("embedding_size", "hidden_size")?;
    same("pooler_hidden_size", "hidden_size")?;
    fields.check_is("pooler_hidden_act", "gelu")?;
    if fields.count("conv_kernel_size", MAX_SIZE)?.is_some() {
        let message = "a convolution after the first layer is not supported";
        return Err(ModelError::unsupported(FILE, "conv_kernel_size", message));
    }
    Ok(())
}

/// How distances are told apart.
#[derive(Debug, Clone)]
pub(super) struct Distances {
    /// Rows of the table, half of them for each direction.
    num_buckets: usize,
    /// The row of each distance from `1 - max_length` to `max_length - 1`.
    buckets: Vec<u32>,
    /// Whether the table passes through a layer norm.
    is_normed: bool,
}

impl Distances {
    fn read(fields: &Fields, max_length: usize) -> Result<Self, ModelError> {
        let positive = |field| fields.get(field).and_then(Value::as_i64).filter(|size| *size > 0);
        let max_distance = match positive("max_relative_positions") {
            Some(_) => fields.size("max_relative_positions", MAX_LENGTH)?,
            None => max_length,
        };
        let num_near = match positive("position_buckets") {
            Some(_) => Some(fields.size("position_buckets", MAX_LENGTH)?),
            None => None,
        };
        let span = num_near.unwrap_or(max_distance);
        let bucket = |distance: i64| {
            let bucket = match num_near {
                Some(num_buckets) => log_bucket(distance, num_buckets, max_distance),
                None => distance,
            };
            (bucket + span as i64).clamp(0, 2 * span as i64 - 1) as u32
        };
        let farthest = max_length as i64 - 1;
        Ok(Self {
            num_buckets: 2 * span,
            buckets: (-farthest..=farthest).map(bucket).collect(),
            is_normed: match fields.text("norm_rel_ebd")?.unwrap_or("none") {
                "none" => false,
                "layer_norm" => true,
                other => {
                    let message = format!("'{other}' is not supported; none and layer_norm are");
                    return Err(ModelError::unsupported(FILE, "norm_rel_ebd", message));
                }
            },
        })
    }

    /// What queries are multiplied by: three products make a score.
    pub(super) fn query_scale(head_dim: usize) -> f32 {
        crate::engine::query_scale(3 * head_dim)
    }

    /// # Errors
    /// As for [`Parameters::linear`].
    pub(super) fn table<B: Backend>(
        &self,
        parameters: &Parameters<'_, B>,
        encoder: &str,
        sizes: &Sizes,
    ) -> Result<Table, ModelError> {
        let width = sizes.hidden_size;
        let name = format!("{encoder}.rel_embeddings.weight");
        let weight = parameters.weights.tensor(&name, &[self.num_buckets, width])?;
        let cpu = Cpu::new(Dtype::F32);
        let mut rows = cpu.rows(self.num_buckets, width).map_err(ModelError::Device)?;
        rows.set_rows(self.num_buckets);
        for (i, row) in weight.chunks_exact(width).enumerate() {
            rows.row_mut(i).copy_from_slice(row);
        }
        if self.is_normed {
            let norm = parameters.over(&cpu).layer_norm(
                &format!("{encoder}.LayerNorm"),
                width,
                sizes.eps,
                Bias::Stored,
            )?;
            let mut normed = cpu.rows(self.num_buckets, width).map_err(ModelError::Device)?;
            cpu.norm(&rows, &norm, &mut normed);
            rows = normed;
        }
        Ok(Table { rows, buckets: self.buckets.clone() })
    }
}

/// Distances up to half of the buckets have one each; those beyond share the other half by their logarithm, up to
/// `max_distance`. In f32, as the reference computes it: a rounding would move the edge of a bucket.
fn log_bucket(distance: i64, num_buckets: usize, max_distance: usize) -> i64 {
    let mid = (num_buckets / 2) as i64;
    if distance.abs() <= mid {
        return distance;
    }
    let ratio = (distance.abs() as f32 / mid as f32).ln();
    let whole = (((max_distance as f64 - 1.0) / mid as f64) as f32).ln();
    let steps = (ratio / whole * (mid - 1) as f32).ceil() as i64;
    distance.signum() * (steps + mid)
}

/// The vectors of distances, which each layer projects as it projects words.
#[derive(Debug)]
pub(super) struct Table {
    /// `[num_buckets, hidden_size]`
    rows: Rows,
    buckets: Vec<u32>,
}

impl Table {
    /// A layer's vectors, projected by its queries' and its keys' matrix.
    ///
    /// # Errors
    /// As for [`Parameters::linear`]; or the backend has no kernel for them.
    pub(super) fn relative<B: Backend>(
        &self,
        parameters: &Parameters<'_, B>,
        (query, key): (&str, &str),
        sizes: &Sizes,
    ) -> Result<B::Relative, ModelError> {
        let (width, num_heads) = (sizes.hidden_size, sizes.num_heads);
        let cpu = Cpu::new(Dtype::F32);
        let project = |name: &str, factor| {
            let part = Part { name: name.to_owned(), n: width, factor };
            let own = parameters.over(&cpu);
            let weight = own.stacked(&[part], width, Bias::Stored)?;
            let weight = own.prepare(&weight.init(), Meets::Tokens)?;
            let mut out = cpu.rows(self.rows.num_rows(), width).map_err(ModelError::Device)?;
            cpu.linear(&self.rows, &weight, Epilogue::Bias, &mut out);
            Ok::<_, ModelError>(by_head(&out, num_heads))
        };
        let scale = Distances::query_scale(width / num_heads);
        let (keys, queries) = (project(key, 1.0)?, project(query, scale)?);
        let (keys, queries, buckets) = (&keys[..], &queries[..], &self.buckets[..]);
        let init = RelativeInit { keys, queries, num_heads, head_dim: width / num_heads, buckets };
        parameters.backend.prepare_relative(&init).map_err(ModelError::Device)
    }
}

/// `[num_heads, num_rows, head_dim]` of `[num_rows, num_heads * head_dim]`.
fn by_head(rows: &Rows, num_heads: usize) -> Vec<f32> {
    let head_dim = rows.width() / num_heads;
    let of_head =
        |head| (0..rows.num_rows()).flat_map(move |i| &rows.row(i)[head * head_dim..][..head_dim]);
    (0..num_heads).flat_map(of_head).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the published encoders: 256 buckets up to distance 512. What transformers 5.24 gives.
    const EXPECTED: [(i64, i64); 12] = [
        (0, 0),
        (1, 1),
        (127, 127),
        (128, 128),
        (130, 130),
        (135, 133),
        (200, 169),
        (256, 192),
        (300, 207),
        (400, 233),
        (500, 254),
        (511, 255),
    ];

    #[test]
    fn far_distances_share_buckets_as_in_the_reference() {
        for (distance, bucket) in EXPECTED {
            assert_eq!(log_bucket(distance, 256, 512), bucket, "{distance}");
            assert_eq!(log_bucket(-distance, 256, 512), -bucket, "{distance}");
        }
        let sum: i64 =
            (-511..512).zip(1..).map(|(d, weight)| weight * log_bucket(d, 256, 512)).sum();
        assert_eq!(sum, 54_914_426);
    }
}
