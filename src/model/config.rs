//! `config.json`, checked: no size in it can make a later step panic or run out of memory.
//!
//! What every family has is read here; each family reads the rest from [`Fields`].

use super::head::Activation;
use super::source::ModelFiles;
use crate::engine::{Epilogue, Gate};
use crate::error::ModelError;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

const FILE: &str = "config.json";
/// Far above any encoder in use, far below what overflows a product.
pub(super) const MAX_SIZE: usize = 1 << 17;
pub(super) const MAX_VOCAB: usize = 1 << 22;
pub(super) const MAX_LAYERS: usize = 256;
/// More names than any classifier has.
const MAX_LABELS: usize = 1 << 16;

/// What every family has.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub architecture: String,
    /// Names of the classifier's outputs, in order.
    pub labels: Vec<String>,
    /// What turns a logit into a score, if this file names it.
    pub activation: Option<Activation>,
    pub fields: Fields,
}

impl Config {
    /// # Errors
    /// The file is missing, is no JSON object, lacks a field, or has a value without code here.
    pub fn read(files: &ModelFiles) -> Result<Self, ModelError> {
        Self::parse(&files.require(FILE)?)
    }

    /// # Errors
    /// As for [`Self::read`].
    pub fn parse(json: &[u8]) -> Result<Self, ModelError> {
        let fields: Map<String, Value> = serde_json::from_slice(json)
            .map_err(|error| ModelError::invalid(FILE, "json", error.to_string()))?;
        let fields = Fields(fields);
        let architecture = fields.architecture()?.to_owned();
        fields.check_unquantised()?;
        let labels = fields.labels()?;
        let activation = fields.activation()?;
        Ok(Self { architecture, labels, activation, fields })
    }
}

/// The members of `config.json`; a null is as good as none.
#[derive(Debug, Clone, PartialEq)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// The value of a field, which may name a member of an object: `rope_parameters.rope_theta`.
    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        let mut names = field.split('.');
        let first = self.0.get(names.next()?)?;
        let value = names.try_fold(first, |value, name| value.get(name))?;
        (!value.is_null()).then_some(value)
    }

    /// Whether the field is there, be it null.
    pub(super) fn has(&self, field: &str) -> bool {
        self.0.contains_key(field)
    }

    /// Numbers in a row between layers; 0 if no field that this is known by says so.
    pub fn hidden_size(&self) -> usize {
        let size = ["hidden_size", "dim"].iter().find_map(|name| self.get(name)?.as_u64());
        size.map_or(0, |size| size as usize)
    }

    /// # Errors
    /// The field is missing, or not a whole number between 1 and `max`.
    pub fn size(&self, field: &str, max: usize) -> Result<usize, ModelError> {
        self.optional_size(field, max)?.ok_or_else(|| ModelError::invalid(FILE, field, "missing"))
    }

    /// # Errors
    /// The field is there, but not a whole number between 1 and `max`.
    pub(super) fn optional_size(
        &self,
        field: &str,
        max: usize,
    ) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64().and_then(|value| usize::try_from(value).ok()) {
            Some(value) if (1..=max).contains(&value) => Ok(Some(value)),
            _ => {
                let message = format!("{value} is not a whole number between 1 and {max}");
                Err(ModelError::invalid(FILE, field, message))
            }
        }
    }

    /// A size that may be none: missing, or 0.
    ///
    /// # Errors
    /// As for [`Self::size`].
    pub(super) fn count(&self, field: &str, max: usize) -> Result<Option<usize>, ModelError> {
        if self.get(field).and_then(Value::as_u64) == Some(0) {
            return Ok(None);
        }
        self.optional_size(field, max)
    }

    /// # Errors
    /// The field is there, but no number of the range.
    pub(super) fn number(
        &self,
        field: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64().filter(|value| range.contains(value)) {
            Some(value) => Ok(Some(value)),
            None => {
                let message =
                    format!("{value} is not between {} and {}", range.start(), range.end());
                Err(ModelError::invalid(FILE, field, message))
            }
        }
    }

    /// The small number that keeps a norm from dividing by nothing.
    ///
    /// # Errors
    /// The field is there, but no number between 0 and 1.
    pub(super) fn eps(&self, field: &str, default: f32) -> Result<f32, ModelError> {
        Ok(self.number(field, 0.0..=1.0)?.map_or(default, |eps| eps as f32))
    }

    /// # Errors
    /// The field is there, but neither true nor false.
    pub(super) fn flag(&self, field: &str, default: bool) -> Result<bool, ModelError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        let wrong = || ModelError::invalid(FILE, field, format!("{value} is not true or false"));
        value.as_bool().ok_or_else(wrong)
    }

    /// # Errors
    /// The field is there, but no text.
    pub(super) fn text(&self, field: &str) -> Result<Option<&str>, ModelError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let wrong = || ModelError::invalid(FILE, field, format!("{value} is no text"));
        value.as_str().ok_or_else(wrong).map(Some)
    }

    /// # Errors
    /// The field is there and says anything but `only`, for which alone there is code.
    pub(super) fn check_is(&self, field: &str, only: &str) -> Result<(), ModelError> {
        match self.text(field)? {
            Some(other) if other != only => {
                let message = format!("'{other}' is not supported; '{only}' is");
                Err(ModelError::unsupported(FILE, field, message))
            }
            _ => Ok(()),
        }
    }

    /// Attention heads and the size of each, which together are as wide as a row.
    ///
    /// # Errors
    /// A number that is missing, or that does not divide the row.
    pub(super) fn heads(&self, field: &str, hidden_size: usize) -> Result<usize, ModelError> {
        let num_heads = self.size(field, MAX_SIZE)?;
        if hidden_size.is_multiple_of(num_heads) {
            return Ok(num_heads);
        }
        let message = format!("{num_heads} heads do not divide hidden_size {hidden_size}");
        Err(ModelError::invalid(FILE, field, message))
    }

    /// Whether each of the layers sees all keys, as `layer_types` says.
    ///
    /// # Errors
    /// Another number of layers, or a kind without code.
    pub(super) fn layer_kinds(&self, num_layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        const FIELD: &str = "layer_types";
        let Some(kinds) = self.get(FIELD) else { return Ok(None) };
        let kinds: Vec<_> = kinds.as_array().into_iter().flatten().map(Value::as_str).collect();
        if kinds.len() != num_layers {
            let message = format!("{} of them, but num_hidden_layers is {num_layers}", kinds.len());
            return Err(ModelError::invalid(FILE, FIELD, message));
        }
        let is_global = |kind: Option<&str>| match kind {
            Some("full_attention") => Ok(true),
            Some("sliding_attention") => Ok(false),
            _ => {
                let message = "only full_attention and sliding_attention are supported";
                Err(ModelError::unsupported(FILE, FIELD, message))
            }
        };
        kinds.into_iter().map(is_global).collect::<Result<_, _>>().map(Some)
    }

    /// The activation between two linear layers.
    ///
    /// # Errors
    /// One without code.
    pub(super) fn epilogue(&self, field: &str, default: &str) -> Result<Epilogue, ModelError> {
        match self.text(field)?.unwrap_or(default) {
            "gelu" => Ok(Epilogue::BiasGelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Epilogue::BiasGeluTanh),
            "relu" => Ok(Epilogue::BiasRelu),
            "tanh" => Ok(Epilogue::BiasTanh),
            other => {
                let known = "gelu, gelu_new, gelu_pytorch_tanh, relu and tanh";
                let message = format!("'{other}' is not supported; {known} are");
                Err(ModelError::unsupported(FILE, field, message))
            }
        }
    }

    /// The activation of a gated layer.
    ///
    /// # Errors
    /// One without code.
    pub(super) fn gate(&self, field: &str, default: &str) -> Result<Gate, ModelError> {
        match self.text(field)?.unwrap_or(default) {
            "gelu" => Ok(Gate::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Gate::GeluTanh),
            "silu" | "swish" => Ok(Gate::Silu),
            "relu" => Ok(Gate::Relu),
            other => {
                let known = "gelu, gelu_new, gelu_pytorch_tanh, silu and relu";
                let message = format!("'{other}' is not supported; {known} are");
                Err(ModelError::unsupported(FILE, field, message))
            }
        }
    }

    fn architecture(&self) -> Result<&str, ModelError> {
        let names = self.get("architectures").and_then(Value::as_array);
        names
            .and_then(|names| names.first()?.as_str())
            .ok_or_else(|| ModelError::invalid(FILE, "architectures", "missing or empty"))
    }

    fn check_unquantised(&self) -> Result<(), ModelError> {
        let Some(quantisation) = self.get("quantization_config") else { return Ok(()) };
        let method = quantisation.get("quant_method").and_then(Value::as_str);
        let message = format!(
            "weights of '{}' are not read; f32, f16 and bf16 are, and are quantised here by --dtype",
            method.unwrap_or("an unnamed method")
        );
        Err(ModelError::unsupported(FILE, "quantization_config", message))
    }

    /// `id2label` names the outputs 0, 1, ...; without it there are `num_labels` of them, or two (the default
    /// of the format).
    fn labels(&self) -> Result<Vec<String>, ModelError> {
        let count = self.optional_size("num_labels", MAX_LABELS)?;
        let Some(names) = self.get("id2label") else {
            return Ok((0..count.unwrap_or(2)).map(|id| format!("LABEL_{id}")).collect());
        };
        let invalid = |message: String| ModelError::invalid(FILE, "id2label", message);
        let names = names.as_object().ok_or_else(|| invalid("is no object".to_owned()))?;
        if !(1..=MAX_LABELS).contains(&names.len()) {
            return Err(invalid(format!("{} labels, not 1 to {MAX_LABELS}", names.len())));
        }
        if let Some(count) = count.filter(|count| *count != names.len()) {
            let message = format!("{count}, but id2label names {}", names.len());
            return Err(ModelError::invalid(FILE, "num_labels", message));
        }
        (0..names.len())
            .map(|id| match names.get(&id.to_string()).and_then(Value::as_str) {
                Some(name) => Ok(name.to_owned()),
                None => Err(invalid(format!("has no name for output {id}"))),
            })
            .collect()
    }

    fn activation(&self) -> Result<Option<Activation>, ModelError> {
        for field in ["sentence_transformers.activation_fn", "sbert_ce_default_activation_function"]
        {
            if let Some(path) = self.text(field)? {
                return Activation::named(FILE, field, path).map(Some);
            }
        }
        Ok(None)
    }
}
