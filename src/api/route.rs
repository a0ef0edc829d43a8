//! Which dialect a request speaks: its own paths first, then its body.

use http::HeaderMap;

use super::fields::Fields;
use super::{
    Form, Limits, embed, mixedbread, nim, pinecone, precompute, predict, score, tei, unified,
    voyage, weaviate, zeroentropy,
};

/// What a path asks for, however its client was told to spell the base URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Rerank {
        version: Version,
    },
    /// vLLM's `/score`.
    Score,
    /// TEI's `/predict`.
    Predict,
    /// NIM's `/v1/ranking` and `/v1/retrieval/{vendor}/{model}/reranking`.
    Ranking,
    /// ZeroEntropy's `/v1/models/rerank`.
    ModelsRerank,
    /// OpenAI's `/v1/embeddings`.
    Embeddings,
    /// Cohere's `/v1/embed` and `/v2/embed`, TEI's `/embed`.
    Embed {
        /// `None`: the path names none.
        version: Option<Version>,
    },
    /// TEI's `/embed_all`.
    EmbedAll,
    /// This server's `/v1/precompute`.
    Precompute,
    /// SageMaker's `/invocations`, and POST `/`: only the body tells.
    Invocations,
}

/// Cohere's API version, which its clients find again in `meta.api_version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// What stands before `/rerank` in base URLs that people configure, alone or doubled.
const PREFIXES: [&str; 7] = ["v1", "v2", "v3", "api", "openai", "cohere", "providers"];

/// `/providers/cohere/v2` and some room; an endless path is no base URL.
const MAX_PREFIXES: usize = 5;

/// The route of a path. Empty segments are skipped, so slashes may be doubled or trail.
pub fn route(path: &str) -> Option<Route> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let segments: Vec<&str> =
        path.split('/').filter(|segment| !segment.is_empty()).take(MAX_PREFIXES + 2).collect();
    let Some((&last, before)) = segments.split_last() else { return Some(Route::Invocations) };
    match before {
        ["v1", "retrieval", .., _] if last == "reranking" => return Some(Route::Ranking),
        ["v1", "models"] if last == "rerank" => return Some(Route::ModelsRerank),
        _ => {}
    }
    if before.len() > MAX_PREFIXES || !before.iter().all(|segment| PREFIXES.contains(segment)) {
        return None;
    }
    let version = if before.last() == Some(&"v2") { Version::V2 } else { Version::V1 };
    match last {
        "rerank" | "reranking" => Some(Route::Rerank { version }),
        "score" => Some(Route::Score),
        "predict" => Some(Route::Predict),
        "precompute" => Some(Route::Precompute),
        "ranking" => Some(Route::Ranking),
        "embeddings" => Some(Route::Embeddings),
        "embed" => Some(Route::Embed { version: (!before.is_empty()).then_some(version) }),
        "embed_all" => Some(Route::EmbedAll),
        "invocations" => Some(Route::Invocations),
        _ => None,
    }
}

/// The version to name in `meta`: the path's, or `api_version` where Bedrock and SageMaker put it in the body.
pub(super) fn version_of(route: Route, fields: &Fields<'_>) -> Version {
    match route {
        Route::Rerank { version } | Route::Embed { version: Some(version) } => version,
        _ if fields.integer("api_version").ok().flatten() == Some(2) => Version::V2,
        _ => Version::V1,
    }
}

/// The dialect of a request, by its path where that leaves no doubt, else by its body.
pub(super) fn form_of(
    route: Route,
    headers: &HeaderMap,
    fields: &Fields<'_>,
    limits: &Limits,
) -> Form {
    match route {
        Route::Rerank { .. } => form_of_body(headers, fields),
        Route::Invocations if fields.has("api_version") => unified::FORM,
        Route::Invocations if fields.has("query") => form_of_body(headers, fields),
        Route::Invocations if fields.has("inputs") && !limits.prefers_vectors => predict::FORM,
        Route::Invocations if is_for_vectors(fields) => {
            form_of_texts(fields).unwrap_or(embed::openai::FORM)
        }
        Route::Invocations => form_of_body(headers, fields),
        Route::Embed { .. } => form_of_texts(fields).unwrap_or(form_of_path(route, headers)),
        Route::Score
        | Route::Predict
        | Route::Ranking
        | Route::ModelsRerank
        | Route::Embeddings
        | Route::EmbedAll
        | Route::Precompute => form_of_path(route, headers),
    }
}

/// The table: the first line that holds decides. A path never overrides it, since every server took every path.
fn form_of_body(headers: &HeaderMap, body: &Fields<'_>) -> Form {
    let has = |key: &str| body.has(key);
    let any = |keys: &[&str]| keys.iter().any(|key| has(key));
    match () {
        () if is_pinecone(headers) => pinecone::FORM,
        () if headers.contains_key("api-key") && any(&["rank_fields", "parameters"]) => {
            pinecone::FORM
        }
        () if body.is_list("passages") => nim::FORM,
        // A list: llama.cpp's users send `"texts": true` beside their documents.
        () if body.is_list("texts") && !has("documents") => tei::FORM,
        // Weaviate sends the key always, mostly as "".
        () if has("property") => weaviate::FORM,
        () if has("documents") && (has("top_k") || body.is_boolean("truncation")) => voyage::FORM,
        () if has("input") && has("query") => mixedbread::FORM,
        // Posted to the wrong path, but there is no doubt what it asks.
        () if any(&["queries", "data_1", "text_1"]) => score::FORM,
        // Cohere, Jina, vLLM, Infinity, Xinference, llama.cpp; and the errors of bodies that fit nothing.
        () => unified::FORM,
    }
}

/// Whose `/embed` a body asks for, whatever the path: base URLs go astray here as they do for reranking.
fn form_of_texts(body: &Fields<'_>) -> Option<Form> {
    let any = |keys: &[&str]| keys.iter().any(|key| body.get(key).is_some());
    match body.get("inputs") {
        _ if any(&["texts", "images", "embedding_types", "input_type"]) => {
            Some(embed::cohere::FORM)
        }
        // Cohere's are objects with `content`.
        Some(inputs) if inputs.get()[1..].trim_start().starts_with('{') => {
            Some(embed::cohere::FORM)
        }
        Some(_) => Some(embed::tei::FORM),
        None if any(&["input"]) => Some(embed::openai::FORM),
        None => None,
    }
}

/// Whether a body that could be anybody's holds texts, and no query for them.
fn is_for_vectors(body: &Fields<'_>) -> bool {
    ["input", "inputs", "input_type"].iter().any(|key| body.get(key).is_some())
}

/// The dialect of errors that precede the body.
pub(super) fn form_of_path(route: Route, headers: &HeaderMap) -> Form {
    match route {
        Route::Score => score::FORM,
        Route::Predict => predict::FORM,
        Route::Precompute => precompute::FORM,
        Route::Ranking => nim::FORM,
        Route::ModelsRerank => zeroentropy::FORM,
        Route::Embeddings => embed::openai::FORM,
        Route::EmbedAll => embed::tei::ALL_FORM,
        Route::Embed { version: Some(_) } => embed::cohere::FORM,
        Route::Embed { version: None } => embed::tei::FORM,
        Route::Rerank { .. } | Route::Invocations if is_pinecone(headers) => pinecone::FORM,
        Route::Rerank { .. } | Route::Invocations => unified::FORM,
    }
}

fn is_pinecone(headers: &HeaderMap) -> bool {
    headers.contains_key("x-pinecone-api-version")
}
