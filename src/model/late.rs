//! Late interaction: a vector for each token of a text, as ColBERT makes them.
//!
//! Omar Khattab and Matei Zaharia, "ColBERT: Efficient and Effective Passage Search via Contextualized Late
//! Interaction over BERT" (2020). Two layouts are published: Stanford's, told by `artifact.metadata`, and
//! PyLate's, told by `modules.json` and `config_sentence_transformers.json`.

use super::config::{Config, MAX_SIZE};
use super::head::Head;
use super::modules::{MODULES, Module, parse};
use super::parameters::{Bias, Meets, Parameters, Shape};
use super::source::ModelFiles;
use super::weights::Weights;
use crate::engine::{Backend, Epilogue};
use crate::error::{DeviceError, ModelError};
use serde::Deserialize;
use sha2::{Digest, Sha256};

const STANFORD: &str = "artifact.metadata";
const PYLATE: &str = "config_sentence_transformers.json";
/// The projection's tensor in both layouts.
const LINEAR: &str = "linear";
/// `string.punctuation` of Python: what Stanford's documents go without.
const PUNCTUATION: &str = r##"!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~"##;

/// What decides a token's vector beside the weights.
const DECIDING: [&str; 8] = [
    "config.json",
    "tokenizer.json",
    "vocab.txt",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    STANFORD,
    MODULES,
    PYLATE,
];

/// How a model of token vectors reads its texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late {
    pub projection: Projection,
    pub query: Reading,
    pub document: Reading,
    pub expansion: Expansion,
    /// Tokens whose vectors a document goes without.
    pub skiplist: Vec<String>,
}

/// What makes a token's vector out of its hidden state. It has length one in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    /// The hidden state itself.
    None,
    /// A linear layer without bias, in the model's own weights or in a file beside them.
    Linear { dim: usize, file: Option<String> },
}

/// How one kind of text is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The token after the first that says which kind of text this is.
    pub marker: Option<String>,
    /// Tokens in all; the model's own limit counts too.
    pub max_length: usize,
}

/// Whether a query is filled up to its length with `[MASK]`, whose vectors count as any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expansion {
    None,
    /// The tokens of the query do not attend to the masks.
    Unattended,
    Attended,
}

impl Late {
    /// A plain encoder's hidden states as they are.
    pub(super) fn plain() -> Self {
        let reading = Reading { marker: None, max_length: usize::MAX };
        Self {
            projection: Projection::None,
            query: reading.clone(),
            document: reading,
            expansion: Expansion::None,
            skiplist: Vec::new(),
        }
    }

    /// The hash of all files that decide a token's vector, in hexadecimal.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn fingerprint(&self, files: &ModelFiles) -> Result<String, ModelError> {
        let mut names = files.weight_files()?;
        names.extend(DECIDING.iter().map(ToString::to_string));
        if let Projection::Linear { file, .. } = &self.projection {
            names.extend(file.clone());
        }
        let mut hash = Sha256::new();
        for name in names {
            let Some(bytes) = files.read(&name)? else { continue };
            // Lengths keep apart what would read alike side by side.
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(&name);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(&bytes[..]);
        }
        let hash = hash.finalize();
        Ok(hash.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}")))
    }

    /// Floats of a token's vector.
    pub fn dim(&self, hidden_size: usize) -> usize {
        match self.projection {
            Projection::None => hidden_size,
            Projection::Linear { dim, .. } => dim,
        }
    }
}

/// The head of a folder in one of the layouts; else none.
///
/// # Errors
/// What a file says wrongly, or what there is no code for.
pub(super) fn head(files: &ModelFiles) -> Result<Option<Head>, ModelError> {
    if let Some(metadata) = parse::<Metadata>(files, STANFORD)? {
        return metadata.late().map(|late| Some(Head::Late(late)));
    }
    Ok(pylate(files)?.map(Head::Late))
}

/// Whether a folder is in one of the layouts.
///
/// # Errors
/// What a file says wrongly.
pub(super) fn is_told(files: &ModelFiles) -> Result<bool, ModelError> {
    head(files).map(|head| head.is_some())
}

/// The head of an architecture that says nothing but "ColBERT".
///
/// # Errors
/// The files that say the rest are missing.
pub(super) fn required_head(files: &ModelFiles, _config: &Config) -> Result<Head, ModelError> {
    files.require(STANFORD)?;
    head(files)?.ok_or_else(|| ModelError::invalid(STANFORD, "file", "it went while loading"))
}

fn check_length(file: &str, field: &str, length: usize) -> Result<usize, ModelError> {
    // Room for the special tokens, the marker, and a word.
    if (5..=MAX_SIZE).contains(&length) {
        return Ok(length);
    }
    Err(ModelError::invalid(file, field, format!("{length} is not between 5 and {MAX_SIZE}")))
}

/// `artifact.metadata`, of which only what changes a score is read.
#[derive(Deserialize)]
#[serde(default)]
struct Metadata {
    query_token_id: String,
    doc_token_id: String,
    dim: usize,
    similarity: String,
    query_maxlen: usize,
    doc_maxlen: usize,
    attend_to_mask_tokens: bool,
    mask_punctuation: bool,
}

impl Default for Metadata {
    fn default() -> Self {
        Self {
            query_token_id: "[unused0]".into(),
            doc_token_id: "[unused1]".into(),
            dim: 128,
            similarity: "cosine".into(),
            query_maxlen: 32,
            doc_maxlen: 220,
            attend_to_mask_tokens: false,
            mask_punctuation: true,
        }
    }
}

impl Metadata {
    fn late(self) -> Result<Late, ModelError> {
        if self.similarity != "cosine" {
            let message = format!("'{}' is not supported; 'cosine' is", self.similarity);
            return Err(ModelError::unsupported(STANFORD, "similarity", message));
        }
        let dim = self.dim;
        if !(1..=MAX_SIZE).contains(&dim) {
            let message = format!("{dim} is not between 1 and {MAX_SIZE}");
            return Err(ModelError::invalid(STANFORD, "dim", message));
        }
        let reading = |marker, field: &str, length| {
            let max_length = check_length(STANFORD, field, length)?;
            Ok(Reading { marker: Some(marker), max_length })
        };
        let skips = PUNCTUATION.chars().filter(|_| self.mask_punctuation);
        Ok(Late {
            projection: Projection::Linear { dim, file: None },
            query: reading(self.query_token_id, "query_maxlen", self.query_maxlen)?,
            document: reading(self.doc_token_id, "doc_maxlen", self.doc_maxlen)?,
            expansion: match self.attend_to_mask_tokens {
                true => Expansion::Attended,
                false => Expansion::Unattended,
            },
            skiplist: skips.map(String::from).collect(),
        })
    }
}

/// `config.json` of a PyLate projection.
#[derive(Deserialize)]
struct Dense {
    out_features: usize,
    #[serde(default)]
    bias: bool,
    #[serde(default)]
    activation_function: Option<String>,
    #[serde(default)]
    use_residual: bool,
}

/// What PyLate adds to `config_sentence_transformers.json`.
#[derive(Deserialize)]
#[serde(default)]
struct Settings {
    query_prefix: Option<String>,
    document_prefix: Option<String>,
    query_length: usize,
    document_length: usize,
    attend_to_expansion_tokens: bool,
    do_query_expansion: bool,
    skiplist_words: Option<Vec<String>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            query_prefix: None,
            document_prefix: None,
            query_length: 32,
            document_length: 180,
            attend_to_expansion_tokens: false,
            do_query_expansion: true,
            skiplist_words: None,
        }
    }
}

fn pylate(files: &ModelFiles) -> Result<Option<Late>, ModelError> {
    let Some(modules) = parse::<Vec<Module>>(files, MODULES)? else { return Ok(None) };
    let kinds = modules.iter().map(|module| module.kind.rsplit('.').next().unwrap_or_default());
    // With pooling it gives a vector a text.
    let [transformer, dense] = modules.as_slice() else { return Ok(None) };
    if !kinds.eq(["Transformer", "Dense"]) || !transformer.path.is_empty() {
        return Ok(None);
    }
    let dim = read_dense(files, &format!("{}/config.json", dense.path))?;
    let settings = parse::<Settings>(files, PYLATE)?.unwrap_or_default();
    let reading = |marker: &Option<String>, default: &str, field: &str, length| {
        let marker = marker.clone().unwrap_or_else(|| default.to_owned());
        let max_length = check_length(PYLATE, field, length)?;
        Ok(Reading { marker: (!marker.is_empty()).then_some(marker), max_length })
    };
    let words = || PUNCTUATION.chars().map(String::from).collect();
    Ok(Some(Late {
        projection: Projection::Linear {
            dim,
            file: Some(format!("{}/model.safetensors", dense.path)),
        },
        query: reading(&settings.query_prefix, "[Q] ", "query_length", settings.query_length)?,
        document: reading(
            &settings.document_prefix,
            "[D] ",
            "document_length",
            settings.document_length,
        )?,
        expansion: match (settings.do_query_expansion, settings.attend_to_expansion_tokens) {
            (false, _) => Expansion::None,
            (true, true) => Expansion::Attended,
            (true, false) => Expansion::Unattended,
        },
        skiplist: settings.skiplist_words.unwrap_or_else(words),
    }))
}

/// The width of the projection's result.
fn read_dense(files: &ModelFiles, file: &str) -> Result<usize, ModelError> {
    files.require(file)?;
    let dense: Option<Dense> = parse(files, file)?;
    let dense = dense.ok_or_else(|| ModelError::invalid(file, "file", "it went while loading"))?;
    let activation = dense.activation_function.as_deref().unwrap_or("Identity");
    let unsupported = match activation.rsplit('.').next() {
        _ if dense.bias => Some(("bias", "a projection with a bias")),
        _ if dense.use_residual => Some(("use_residual", "a residual projection")),
        Some("Identity") => None,
        _ => Some(("activation_function", "a projection with an activation")),
    };
    if let Some((field, what)) = unsupported {
        let message = format!("{what} is not supported for late interaction");
        return Err(ModelError::unsupported(file, field, message));
    }
    if !(1..=MAX_SIZE).contains(&dense.out_features) {
        let message = format!("{} is not between 1 and {MAX_SIZE}", dense.out_features);
        return Err(ModelError::invalid(file, "out_features", message));
    }
    Ok(dense.out_features)
}

/// The end of a model that gives a vector a token.
#[derive(Debug)]
pub(super) struct TokenVectors<B: Backend> {
    projection: Option<B::Linear>,
    dim: usize,
}

impl<B: Backend> TokenVectors<B> {
    /// # Errors
    /// The projection's tensor is missing or has another shape; no memory on the device.
    pub(super) fn load(
        parameters: &Parameters<'_, B>,
        late: &Late,
        hidden_size: usize,
    ) -> Result<Self, ModelError> {
        let dim = late.dim(hidden_size);
        let Projection::Linear { file, .. } = &late.projection else {
            return Ok(Self { projection: None, dim });
        };
        let shape = Shape::new(dim, hidden_size, Bias::None);
        // In f32 in any precision: it makes what is compared, and costs less than a percent of a layer.
        let linear = match file {
            None => parameters.linear(LINEAR, shape, Meets::Sequences)?,
            Some(file) => {
                let weights = Weights::open_file(parameters.files, file)?;
                let beside = Parameters { weights: &weights, ..*parameters };
                beside.linear(LINEAR, shape, Meets::Sequences)?
            }
        };
        Ok(Self { projection: Some(linear), dim })
    }

    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Room for the vectors of so many tokens, where they are not the hidden states.
    ///
    /// # Errors
    /// No memory on the device.
    pub(super) fn rows(&self, b: &B, max_tokens: usize) -> Result<Option<B::Rows>, DeviceError> {
        self.projection.as_ref().map(|_| b.rows(max_tokens, self.dim)).transpose()
    }

    /// The vectors of the tokens whose hidden states these are; `rows` as [`Self::rows`] made them.
    pub(super) fn of<'a>(
        &self,
        b: &B,
        hidden: &'a mut B::Rows,
        rows: Option<&'a mut B::Rows>,
    ) -> &'a B::Rows {
        let vectors = match (&self.projection, rows) {
            (Some(projection), Some(rows)) => {
                b.linear(hidden, projection, Epilogue::Bias, rows);
                rows
            }
            _ => hidden,
        };
        b.normalize(vectors);
        vectors
    }
}
