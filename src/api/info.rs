//! The bodies of the side calls: what the server and its models say of themselves.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Reply;
use crate::error::Error;

/// What a loaded model says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFacts {
    pub name: String,
    pub aliases: Vec<String>,
    /// The checkpoint's class, such as `BertForSequenceClassification`.
    pub architecture: String,
    /// Names of the head's outputs, in order; empty for models that compare vectors.
    pub labels: Vec<String>,
    /// Of an encoder.
    pub vectors: Option<VectorFacts>,
    /// Tokens a pair may have, special tokens included.
    pub max_length: usize,
    pub dtype: String,
    /// The commit of the checkpoint, where the source has one.
    pub revision: Option<String>,
    pub created_unix_seconds: u64,
}

/// What an encoder says of its vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VectorFacts {
    /// How they are made of the rows of tokens: cls, mean, last-token.
    pub pooling: &'static str,
    pub dimensions: usize,
}

/// What the server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    pub version: String,
    pub max_documents: usize,
    pub max_body_bytes: usize,
    pub max_batch_tokens: usize,
    pub max_concurrent_requests: usize,
    pub tokenization_workers: usize,
    pub started_unix_seconds: u64,
}

/// TEI's GET `/info`. Dify takes a server for a reranker or an embedder by the one key of `model_type`.
pub fn info(model: &ModelFacts, server: &ServerFacts) -> Reply {
    let names: Vec<&str> = match model.labels.as_slice() {
        [] => vec!["LABEL_0"],
        labels => labels.iter().map(String::as_str).collect(),
    };
    let labels = Labels {
        id2label: names.iter().enumerate().map(|(id, name)| (id, *name)).collect(),
        label2id: names.iter().enumerate().map(|(id, name)| (*name, id)).collect(),
    };
    let model_type = match model.vectors {
        Some(VectorFacts { pooling, .. }) => ModelType::Embedding { pooling },
        None if names.len() > 1 => ModelType::Classifier(labels),
        None => ModelType::Reranker(labels),
    };
    Reply::ok(&Info {
        model_id: &model.name,
        model_sha: model.revision.as_deref(),
        model_dtype: &model.dtype,
        served_model_name: &model.name,
        model_type,
        max_concurrent_requests: server.max_concurrent_requests,
        max_input_length: model.max_length,
        max_batch_tokens: server.max_batch_tokens,
        max_batch_requests: None,
        max_client_batch_size: server.max_documents,
        payload_limit: server.max_body_bytes,
        auto_truncate: true,
        tokenization_workers: server.tokenization_workers,
        version: &server.version,
        sha: None,
        docker_label: None,
    })
}

/// GET `/v1/models`: OpenAI's `data` and Cohere's `models` in one object, one entry a name.
pub fn models(models: &[&ModelFacts]) -> Reply {
    let named = || models.iter().flat_map(|&model| names(model).map(move |name| (model, name)));
    Reply::ok(&ModelList {
        object: "list",
        data: named().map(|(model, name)| Card::of(model, name)).collect(),
        models: named().map(|(model, name)| CohereModel::of(model, name)).collect(),
    })
}

/// GET `/v1/models/{name}`: OpenAI's, Cohere's and Xinference's object at once. `None` if no model has the name.
pub fn model(models: &[&ModelFacts], name: &str) -> Option<Reply> {
    let facts = models.iter().find(|model| names(model).any(|own| own == name))?;
    Some(Reply::ok(&OneModel {
        card: Card::of(facts, name),
        cohere: CohereModel::of(facts, name),
        model_type: if facts.vectors.is_some() { "embedding" } else { "rerank" },
        model_uid: name,
        model_name: &facts.name,
        architecture: &facts.architecture,
    }))
}

/// vLLM's GET `/version`.
pub fn version(server: &ServerFacts) -> Reply {
    Reply::ok(&BTreeMap::from([("version", server.version.as_str())]))
}

/// GET `/health` of a server that can serve. Every peer answers 200; llama.cpp's clients read the status.
pub fn healthy() -> Reply {
    Reply::ok(&BTreeMap::from([("status", "ok")]))
}

/// The health calls of a server that cannot: TEI's body, whose `error` Go and Python clients read alike.
pub fn unhealthy(error: &Error) -> Reply {
    let reason = super::reply::public_message(error);
    let body = BTreeMap::from([("error", reason.as_str()), ("error_type", "Unhealthy")]);
    Reply::refusal(503, error, &body)
}

/// Cohere's POST `/v1/check-api-key`.
pub fn api_key(is_valid: bool) -> Reply {
    Reply::ok(&BTreeMap::from([("valid", is_valid)]))
}

/// The model's name and its aliases.
pub fn names(model: &ModelFacts) -> impl Iterator<Item = &str> {
    std::iter::once(model.name.as_str()).chain(model.aliases.iter().map(String::as_str))
}

#[derive(Serialize)]
struct Info<'a> {
    model_id: &'a str,
    model_sha: Option<&'a str>,
    model_dtype: &'a str,
    served_model_name: &'a str,
    model_type: ModelType<'a>,
    max_concurrent_requests: usize,
    max_input_length: usize,
    max_batch_tokens: usize,
    max_batch_requests: Option<usize>,
    max_client_batch_size: usize,
    payload_limit: usize,
    auto_truncate: bool,
    tokenization_workers: usize,
    version: &'a str,
    sha: Option<&'a str>,
    docker_label: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum ModelType<'a> {
    Classifier(Labels<'a>),
    Reranker(Labels<'a>),
    Embedding { pooling: &'a str },
}

#[derive(Serialize)]
struct Labels<'a> {
    id2label: BTreeMap<usize, &'a str>,
    label2id: BTreeMap<&'a str, usize>,
}

#[derive(Serialize)]
struct ModelList<'a> {
    object: &'static str,
    data: Vec<Card<'a>>,
    models: Vec<CohereModel<'a>>,
}

#[derive(Serialize)]
struct OneModel<'a> {
    #[serde(flatten)]
    card: Card<'a>,
    #[serde(flatten)]
    cohere: CohereModel<'a>,
    model_type: &'static str,
    model_uid: &'a str,
    model_name: &'a str,
    architecture: &'a str,
}

/// An entry of OpenAI's list, with vLLM's keys.
#[derive(Serialize)]
struct Card<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: &'a str,
    parent: Option<&'a str>,
    max_model_len: usize,
    permission: [(); 0],
}

impl<'a> Card<'a> {
    fn of(model: &'a ModelFacts, name: &'a str) -> Self {
        Self {
            id: name,
            object: "model",
            created: model.created_unix_seconds,
            owned_by: "rerankd",
            root: &model.name,
            parent: None,
            max_model_len: model.max_length,
            permission: [],
        }
    }
}

#[derive(Serialize)]
struct CohereModel<'a> {
    name: &'a str,
    endpoints: &'static [&'static str],
    finetuned: bool,
    context_length: usize,
    /// Null sends the SDK's offline tokenizer to POST `/v1/tokenize`.
    tokenizer_url: Option<&'a str>,
    default_endpoints: [(); 0],
    features: [(); 0],
    is_deprecated: bool,
}

impl<'a> CohereModel<'a> {
    fn of(model: &'a ModelFacts, name: &'a str) -> Self {
        Self {
            name,
            // Vectors rank too, by their cosine.
            endpoints: if model.vectors.is_some() { &["embed", "rerank"] } else { &["rerank"] },
            finetuned: false,
            context_length: model.max_length,
            tokenizer_url: None,
            default_endpoints: [],
            features: [],
            is_deprecated: false,
        }
    }
}
