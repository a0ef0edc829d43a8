//! What follows an encoder in a sentence-transformers folder, as its `modules.json` lists it: pooling and
//! normalisation of vectors, or pooling and the layers of a cross-encoder.

use super::config::{Config, MAX_SIZE};
use super::end::{Layers, Stage};
use super::head::{self, Head};
use super::parameters::{Bias, Meets, Parameters, Shape};
use super::prompts::Prompts;
use super::source::ModelFiles;
use super::weights::Weights;
use crate::engine::{Backend, Epilogue, Pooling};
use crate::error::ModelError;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub(super) const MODULES: &str = "modules.json";
/// The folder of the pooling module where `modules.json` does not say otherwise.
const POOLING_FOLDER: &str = "1_Pooling";
/// Of a norm's module, which says none.
const NORM_EPS: f32 = 1e-5;

/// An entry of `modules.json`.
#[derive(Deserialize)]
pub(super) struct Module {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) path: String,
}

/// `pooling_mode` by name, and its older form of one flag a mode.
#[derive(Deserialize)]
struct RawPooling {
    pooling_mode: Option<serde_json::Value>,
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
    #[serde(default)]
    pooling_mode_weightedmean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
    /// Whether the tokens of a prompt count in the mean.
    #[serde(default = "yes")]
    include_prompt: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct RawDense {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    activation_function: Option<String>,
    #[serde(default)]
    use_residual: bool,
}

#[derive(Deserialize)]
struct RawNorm {
    dimension: usize,
}

/// A layer over pooled rows.
#[derive(Debug)]
enum Layer {
    Dense { folder: String, shape: Shape, act: Epilogue },
    Norm { folder: String, width: usize },
}

/// What `modules.json` lists after the encoder.
#[derive(Debug)]
struct Modules {
    pooling: Pooling,
    normalize: bool,
    layers: Vec<Layer>,
}

/// Pooling as the folder says, the mean if it says nothing; vectors have length one where a `Normalize` module asks
/// for it. A folder whose last layer gives scores is a cross-encoder's.
///
/// # Errors
/// A module, a pooling mode or an activation without code here.
pub(super) fn head(files: &ModelFiles, config: &Config) -> Result<Head, ModelError> {
    let modules = Modules::read(files)?;
    match modules.layers.last() {
        None => Ok(Head::Embedding { pooling: modules.pooling, normalize: modules.normalize }),
        Some(Layer::Dense { shape, .. }) => {
            let labels = (0..shape.n).map(|id| format!("LABEL_{id}")).collect();
            head::classifier(files, config, labels)
        }
        Some(Layer::Norm { .. }) => {
            let message =
                "ends with a LayerNorm; vectors end with Pooling or Normalize, scores with Dense";
            Err(ModelError::unsupported(MODULES, "type", message))
        }
    }
}

/// The pooling, the layers and the last layer of a cross-encoder whose encoder gives rows of `hidden_size`.
///
/// # Errors
/// As for [`Parameters::linear`]; layers whose widths do not fit together.
pub(super) fn classifier<B: Backend>(
    parameters: &Parameters<'_, B>,
    hidden_size: usize,
) -> Result<Layers<B>, ModelError> {
    let modules = Modules::read(parameters.files)?;
    let (mut stages, mut width) = (Vec::new(), hidden_size);
    let mut layers = modules.layers.into_iter().peekable();
    while let Some(layer) = layers.next() {
        let file = format!("{}/model.safetensors", layer.folder());
        let weights = Weights::open_file(parameters.files, &file)?;
        let own = Parameters { weights: &weights, ..*parameters };
        if layer.input() != width {
            let message = format!("takes rows of {}, but is given {width}", layer.input());
            return Err(ModelError::invalid(MODULES, layer.folder(), message));
        }
        match layer {
            Layer::Dense { shape, act, .. } => {
                let weight = own.linear("linear", shape, Meets::Sequences)?;
                if layers.peek().is_none() {
                    return Ok(Layers { pooling: modules.pooling, stages, out: weight });
                }
                width = shape.n;
                stages.push(Stage::Dense { weight, act, width });
            }
            Layer::Norm { width, .. } => {
                let norm = own.layer_norm("norm", width, NORM_EPS, Bias::Stored)?;
                stages.push(Stage::Norm { norm, width });
            }
        }
    }
    Err(ModelError::invalid(MODULES, "type", "has no Dense module that gives scores"))
}

impl Layer {
    fn folder(&self) -> &str {
        match self {
            Self::Dense { folder, .. } | Self::Norm { folder, .. } => folder,
        }
    }

    fn input(&self) -> usize {
        match self {
            Self::Dense { shape, .. } => shape.k,
            Self::Norm { width, .. } => *width,
        }
    }
}

impl Modules {
    fn read(files: &ModelFiles) -> Result<Self, ModelError> {
        let (mut folder, mut normalize, mut layers) =
            (POOLING_FOLDER.to_owned(), false, Vec::new());
        for module in parse::<Vec<Module>>(files, MODULES)?.unwrap_or_default() {
            match module.kind.rsplit('.').next() {
                Some("Transformer") => {}
                Some("Pooling") if layers.is_empty() => folder = module.path,
                Some("Normalize") if layers.is_empty() => normalize = true,
                Some("Dense") if !normalize => layers.push(dense(files, module.path)?),
                Some("LayerNorm") if !normalize => layers.push(norm(files, module.path)?),
                _ => {
                    let message = "is not supported here; vectors are made by Transformer, Pooling and Normalize, \
                                   scores by Transformer, Pooling, Dense and LayerNorm, in this order";
                    return Err(ModelError::unsupported(MODULES, module.kind, message));
                }
            }
        }
        // The last layer's activation would be the score's, which the folder names elsewhere.
        if let Some(Layer::Dense { folder, act, .. }) = layers.last()
            && *act != Epilogue::Bias
        {
            let message = "the layer that gives scores has an activation; Identity is supported";
            let file = format!("{folder}/config.json");
            return Err(ModelError::unsupported(file, "activation_function", message));
        }
        let pooling = read_pooling(files, &format!("{folder}/config.json"))?;
        Ok(Self { pooling, normalize, layers })
    }
}

fn dense(files: &ModelFiles, folder: String) -> Result<Layer, ModelError> {
    let file = format!("{folder}/config.json");
    let raw: RawDense = require(files, &file)?;
    for (field, size) in [("in_features", raw.in_features), ("out_features", raw.out_features)] {
        check_size(&file, field, size)?;
    }
    if raw.use_residual {
        let message = "a residual beside a layer is not supported";
        return Err(ModelError::unsupported(file, "use_residual", message));
    }
    let path = raw.activation_function.as_deref().unwrap_or("torch.nn.Identity");
    let act = match path.rsplit('.').next() {
        Some("Identity") => Epilogue::Bias,
        Some("GELU") => Epilogue::BiasGelu,
        Some("ReLU") => Epilogue::BiasRelu,
        Some("Tanh") => Epilogue::BiasTanh,
        _ => {
            let message = format!("'{path}' is not supported; Identity, GELU, ReLU and Tanh are");
            return Err(ModelError::unsupported(file, "activation_function", message));
        }
    };
    let shape = Shape::new(raw.out_features, raw.in_features, Bias::if_stored(raw.bias));
    Ok(Layer::Dense { folder, shape, act })
}

fn norm(files: &ModelFiles, folder: String) -> Result<Layer, ModelError> {
    let file = format!("{folder}/config.json");
    let raw: RawNorm = require(files, &file)?;
    check_size(&file, "dimension", raw.dimension)?;
    Ok(Layer::Norm { folder, width: raw.dimension })
}

fn check_size(file: &str, field: &str, size: usize) -> Result<(), ModelError> {
    if (1..=MAX_SIZE).contains(&size) {
        return Ok(());
    }
    Err(ModelError::invalid(file, field, format!("{size} is not between 1 and {MAX_SIZE}")))
}

fn read_pooling(files: &ModelFiles, file: &str) -> Result<Pooling, ModelError> {
    let Some(raw) = parse::<RawPooling>(files, file)? else { return Ok(Pooling::Mean) };
    if !raw.include_prompt && !Prompts::read(files)?.is_empty() {
        let message =
            "is false: prompts are pooled with their texts here, and this model's are not to be";
        return Err(ModelError::unsupported(file, "include_prompt", message));
    }
    let flags = [
        (raw.pooling_mode_cls_token, "cls"),
        (raw.pooling_mode_mean_tokens, "mean"),
        (raw.pooling_mode_lasttoken, "lasttoken"),
        (raw.pooling_mode_max_tokens, "max"),
        (raw.pooling_mode_mean_sqrt_len_tokens, "mean_sqrt_len_tokens"),
        (raw.pooling_mode_weightedmean_tokens, "weightedmean"),
    ];
    let flagged: Vec<_> =
        flags.into_iter().filter(|(is_on, _)| *is_on).map(|(_, name)| name).collect();
    let named = raw.pooling_mode.as_ref();
    let modes = match named {
        Some(serde_json::Value::String(mode)) => vec![mode.as_str()],
        // Several, or no name at all.
        Some(_) => Vec::new(),
        None => flagged,
    };
    match modes[..] {
        ["cls"] => Ok(Pooling::Cls),
        ["mean"] => Ok(Pooling::Mean),
        ["lasttoken"] => Ok(Pooling::Last),
        _ => {
            let message = "only one of cls, mean and lasttoken is supported";
            Err(ModelError::unsupported(file, "pooling_mode", message))
        }
    }
}

/// A JSON file; `None` if there is none.
///
/// # Errors
/// It is no JSON, or not of the fields that are read.
pub(super) fn parse<T: DeserializeOwned>(
    files: &ModelFiles,
    file: &str,
) -> Result<Option<T>, ModelError> {
    let Some(json) = files.read(file)? else { return Ok(None) };
    let parsed = serde_json::from_slice(&json);
    parsed.map(Some).map_err(|error| ModelError::invalid(file, "json", error.to_string()))
}

fn require<T: DeserializeOwned>(files: &ModelFiles, file: &str) -> Result<T, ModelError> {
    parse(files, file)?.ok_or_else(|| ModelError::invalid(file, "file", "missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_that_the_mean_should_leave_out_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |file: &str, json: &str| std::fs::write(folder.path().join(file), json).unwrap();
        std::fs::create_dir(folder.path().join(POOLING_FOLDER)).unwrap();
        write(
            "1_Pooling/config.json",
            r#"{"pooling_mode_mean_tokens": true, "include_prompt": false}"#,
        );
        let read = || {
            let files = ModelFiles::open_folder(folder.path()).unwrap();
            read_pooling(&files, "1_Pooling/config.json")
        };
        assert_eq!(read().unwrap(), Pooling::Mean, "there is none to leave out");
        write("config_sentence_transformers.json", r#"{"prompts": {"query": ""}}"#);
        assert_eq!(read().unwrap(), Pooling::Mean);
        write("config_sentence_transformers.json", r#"{"prompts": {"query": "q: "}}"#);
        let error = read().unwrap_err().to_string();
        assert!(error.contains("include_prompt"), "{error}");
    }
}
