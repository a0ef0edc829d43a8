//! `config.json` of a BERT-family model, checked: no size in it can make a later step panic or run out of memory.

use super::head::Activation;
use super::source::ModelFiles;
use crate::engine::Epilogue;
use crate::error::ModelError;
use serde::Deserialize;
use std::collections::BTreeMap;

const FILE: &str = "config.json";
/// Far above any encoder in use (the largest has 1,024 x 24 layers), far below what overflows a product.
const MAX_SIZE: usize = 1 << 16;
const MAX_VOCAB: usize = 1 << 22;
const MAX_LAYERS: usize = 256;

/// The checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub architecture: String,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f32,
    /// The epilogue of the first feed-forward layer.
    pub hidden_act: Epilogue,
    /// Names of the classifier's outputs, in order.
    pub labels: Vec<String>,
    /// What turns a logit into a score.
    pub activation: Activation,
}

#[derive(Deserialize)]
struct Raw {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    hidden_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    intermediate_size: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    type_vocab_size: Option<usize>,
    layer_norm_eps: Option<f32>,
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
    num_labels: Option<usize>,
    id2label: Option<BTreeMap<String, String>>,
    sentence_transformers: Option<RawSentenceTransformers>,
    sbert_ce_default_activation_function: Option<String>,
}

#[derive(Deserialize)]
struct RawSentenceTransformers {
    activation_fn: Option<String>,
}

impl Config {
    /// # Errors
    /// The file is missing, is no JSON, lacks a field, or has a value without code here.
    pub fn read(files: &ModelFiles) -> Result<Self, ModelError> {
        Self::parse(&files.require(FILE)?)
    }

    /// # Errors
    /// As for [`Self::read`].
    pub fn parse(json: &[u8]) -> Result<Self, ModelError> {
        let raw: Raw = serde_json::from_slice(json)
            .map_err(|error| ModelError::invalid(FILE, "json", error.to_string()))?;
        check_kind(&raw)?;
        let hidden_size = size("hidden_size", raw.hidden_size, MAX_SIZE)?;
        let num_attention_heads = size("num_attention_heads", raw.num_attention_heads, MAX_SIZE)?;
        if !hidden_size.is_multiple_of(num_attention_heads) {
            let message =
                format!("{num_attention_heads} heads do not divide hidden_size {hidden_size}");
            return Err(ModelError::invalid(FILE, "num_attention_heads", message));
        }
        let layer_norm_eps = raw.layer_norm_eps.unwrap_or(1e-12);
        if !(0.0..=1.0).contains(&layer_norm_eps) {
            let message = format!("{layer_norm_eps} is not between 0 and 1");
            return Err(ModelError::invalid(FILE, "layer_norm_eps", message));
        }
        let labels = labels(raw.num_labels, raw.id2label.as_ref())?;
        let named = raw
            .sentence_transformers
            .and_then(|st| st.activation_fn)
            .map(|name| ("sentence_transformers.activation_fn", name))
            .or(raw
                .sbert_ce_default_activation_function
                .map(|name| ("sbert_ce_default_activation_function", name)));
        Ok(Self {
            architecture: raw.architectures.unwrap_or_default().swap_remove(0),
            hidden_size,
            num_hidden_layers: size("num_hidden_layers", raw.num_hidden_layers, MAX_LAYERS)?,
            num_attention_heads,
            intermediate_size: size("intermediate_size", raw.intermediate_size, MAX_SIZE)?,
            vocab_size: size("vocab_size", raw.vocab_size, MAX_VOCAB)?,
            max_position_embeddings: size(
                "max_position_embeddings",
                raw.max_position_embeddings,
                MAX_SIZE,
            )?,
            type_vocab_size: size("type_vocab_size", raw.type_vocab_size.or(Some(2)), MAX_SIZE)?,
            layer_norm_eps,
            hidden_act: hidden_act(raw.hidden_act.as_deref())?,
            activation: activation(named, labels.len())?,
            labels,
        })
    }

    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }
}

fn size(field: &str, value: Option<usize>, max: usize) -> Result<usize, ModelError> {
    match value {
        Some(value) if (1..=max).contains(&value) => Ok(value),
        Some(value) => {
            let message = format!("{value} is not between 1 and {max}");
            Err(ModelError::invalid(FILE, field, message))
        }
        None => Err(ModelError::invalid(FILE, field, "missing")),
    }
}

/// The parts of the configuration that decide whether there is code for the model at all.
fn check_kind(raw: &Raw) -> Result<(), ModelError> {
    let architecture = raw.architectures.as_ref().and_then(|names| names.first());
    if architecture.is_none() {
        return Err(ModelError::invalid(FILE, "architectures", "missing or empty"));
    }
    if let Some(kind) = raw.model_type.as_deref().filter(|kind| *kind != "bert") {
        let message = format!("'{kind}' is not supported; 'bert' is");
        return Err(ModelError::unsupported(FILE, "model_type", message));
    }
    if let Some(kind) = raw.position_embedding_type.as_deref().filter(|kind| *kind != "absolute") {
        let message = format!("'{kind}' is not supported; 'absolute' is");
        return Err(ModelError::unsupported(FILE, "position_embedding_type", message));
    }
    Ok(())
}

fn hidden_act(name: Option<&str>) -> Result<Epilogue, ModelError> {
    match name.unwrap_or("gelu") {
        "gelu" => Ok(Epilogue::BiasGelu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Epilogue::BiasGeluTanh),
        "relu" => Ok(Epilogue::BiasRelu),
        other => {
            let message = format!(
                "'{other}' is not supported; gelu, gelu_new, gelu_pytorch_tanh and relu are"
            );
            Err(ModelError::unsupported(FILE, "hidden_act", message))
        }
    }
}

/// `id2label` names the outputs 0, 1, ...; without it there are `num_labels` of them, or two (the default of
/// the format).
fn labels(
    num_labels: Option<usize>,
    id2label: Option<&BTreeMap<String, String>>,
) -> Result<Vec<String>, ModelError> {
    let num_named = id2label.map(BTreeMap::len);
    if let (Some(count), Some(named)) = (num_labels, num_named)
        && count != named
    {
        let message = format!("{count}, but id2label names {named}");
        return Err(ModelError::invalid(FILE, "num_labels", message));
    }
    let count = size("num_labels", num_named.or(num_labels).or(Some(2)), MAX_SIZE)?;
    (0..count)
        .map(|id| match id2label {
            Some(names) => names.get(&id.to_string()).cloned().ok_or_else(|| {
                ModelError::invalid(FILE, "id2label", format!("has no name for output {id}"))
            }),
            None => Ok(format!("LABEL_{id}")),
        })
        .collect()
}

/// As sentence-transformers reads it: the named function, else a sigmoid for one label and nothing for more.
fn activation(named: Option<(&str, String)>, num_labels: usize) -> Result<Activation, ModelError> {
    let Some((field, path)) = named else {
        return Ok(if num_labels == 1 { Activation::Sigmoid } else { Activation::Identity });
    };
    match path.rsplit('.').next() {
        Some("Sigmoid") => Ok(Activation::Sigmoid),
        Some("Identity") => Ok(Activation::Identity),
        Some("Softmax") => Ok(Activation::Softmax),
        _ => {
            let message = format!("'{path}' is not supported; Sigmoid, Softmax and Identity are");
            Err(ModelError::unsupported(FILE, field, message))
        }
    }
}
