//! The requests and responses behind every dialect: one pair for scores, one for vectors.
//!
//! `api` turns wire bodies into a [`RerankRequest`] or an [`EmbedRequest`], and a [`RerankResponse`] or an
//! [`EmbedResponse`] back into a body; no other room knows how a client spelled its fields.

use std::time::{Duration, Instant};

/// A request to score texts against each other: admitted, cancelled and answered as one unit.
#[derive(Debug, Clone, PartialEq)]
pub struct RerankRequest {
    /// The client's own id, or one made at the edge; echoed in replies and logs.
    pub id: String,
    /// The name the client asked for; `None` means the default model.
    pub model: Option<String>,
    pub inputs: Inputs,
    pub truncation: Truncation,
    /// How long the client will wait, counted from the arrival of the request.
    pub timeout: Option<Duration>,
    /// 0 to 999, 0 the most urgent, against other requests of the same tenant.
    pub priority: u16,
    /// Whether its scores may come from an earlier request, and serve a later one.
    pub may_cache: bool,
}

/// A model that an operator wants served, beside the others or in the place of the one of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadRequest {
    /// As `--model` takes it.
    pub source: String,
    /// `None`: the model's own.
    pub name: Option<String>,
    pub revision: Option<String>,
    /// `None`: those of the model it replaces.
    pub aliases: Option<Vec<String>>,
    /// As `--dtype` takes it; `None`: the server's.
    pub dtype: Option<String>,
    pub max_batch_tokens: Option<usize>,
    /// Tokens in a sequence; the model's own limit counts too. `None`: the server's.
    pub max_length: Option<usize>,
}

/// What is scored. The result has one score per document, pair or text, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Inputs {
    OneQuery {
        query: String,
        documents: Vec<String>,
    },
    Pairs(Vec<(String, String)>),
    /// Single texts, for a classifier (TEI `/predict`) or for vectors.
    Texts(Vec<String>),
    /// Single texts as ids of the model's tokenizer, for vectors.
    Tokens(Vec<Vec<u32>>),
    /// Documents whose vectors are to be kept. They get no scores.
    Documents(Vec<String>),
}

impl Inputs {
    /// The number of texts or pairs: of scores or vectors, if they get any.
    pub fn len(&self) -> usize {
        match self {
            Self::OneQuery { documents, .. } => documents.len(),
            Self::Pairs(pairs) => pairs.len(),
            Self::Texts(texts) | Self::Documents(texts) => texts.len(),
            Self::Tokens(texts) => texts.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those of these indices, in their order.
    ///
    /// # Panics
    /// An index is not below [`Self::len`].
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let of = |texts: &[String]| indices.iter().map(|&i| texts[i].clone()).collect();
        match self {
            Self::OneQuery { query, documents } => {
                Self::OneQuery { query: query.clone(), documents: of(documents) }
            }
            Self::Pairs(pairs) => Self::Pairs(indices.iter().map(|&i| pairs[i].clone()).collect()),
            Self::Texts(texts) => Self::Texts(of(texts)),
            Self::Documents(texts) => Self::Documents(of(texts)),
            Self::Tokens(texts) => {
                Self::Tokens(indices.iter().map(|&i| texts[i].clone()).collect())
            }
        }
    }

    /// What the tokens of single texts hardly exceed, in models that read `max_length` of each.
    pub fn max_tokens(&self, max_length: usize) -> usize {
        // Those that stand around a text.
        const SPECIAL: usize = 4;
        let most = |len: usize| (len + SPECIAL).min(max_length);
        match self {
            Self::Tokens(texts) => texts.iter().map(|ids| most(ids.len())).sum(),
            Self::Texts(texts) => texts.iter().map(|text| most(text.len())).sum(),
            _ => self.len() * max_length,
        }
    }

    /// Bytes of text, each query counted once.
    pub fn num_bytes(&self) -> usize {
        match self {
            Self::OneQuery { query, documents } => {
                query.len() + documents.iter().map(String::len).sum::<usize>()
            }
            Self::Pairs(pairs) => pairs.iter().map(|(a, b)| a.len() + b.len()).sum(),
            Self::Texts(texts) | Self::Documents(texts) => texts.iter().map(String::len).sum(),
            Self::Tokens(_) => 0,
        }
    }

    /// UTF-8 characters scored: a query counts once for each of its documents.
    pub fn num_chars(&self) -> usize {
        let count = |text: &String| text.chars().count();
        match self {
            Self::OneQuery { query, documents } => {
                count(query) * documents.len() + documents.iter().map(count).sum::<usize>()
            }
            Self::Pairs(pairs) => pairs.iter().map(|(a, b)| count(a) + count(b)).sum(),
            Self::Texts(texts) | Self::Documents(texts) => texts.iter().map(count).sum(),
            Self::Tokens(_) => 0,
        }
    }
}

/// A request for the vectors of texts: admitted, cancelled and answered as one unit.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedRequest {
    /// As in [`RerankRequest`], like all that is not explained here.
    pub id: String,
    pub model: Option<String>,
    /// [`Inputs::Texts`] or [`Inputs::Tokens`].
    pub inputs: Inputs,
    pub prompt: PromptChoice,
    pub truncation: Truncation,
    /// Only so many of the first components, for models trained so that these suffice.
    pub dimensions: Option<usize>,
    /// Whether vectors get length one, whatever the model's own modules do.
    pub normalize: bool,
    /// Whether each token has a vector, and not the text.
    pub of_tokens: bool,
    pub timeout: Option<Duration>,
    pub priority: u16,
    pub may_cache: bool,
}

/// Which of the model's prompts is put before each text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptChoice {
    /// The one that the model names as its default, if it does.
    Default,
    /// The one of this name, as the model's configuration has it.
    Named(String),
    /// The one for this purpose, if the model has one, else the default.
    For(Purpose),
}

/// What a vector is for, as far as clients and models tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Query,
    Document,
    Classification,
    Clustering,
}

/// What happens to texts that do not fit. Limits are in tokens of the model's tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncation {
    pub overflow: Overflow,
    pub side: Side,
    /// Of the query, special tokens not counted.
    pub max_tokens_per_query: Option<usize>,
    /// Of one document, special tokens not counted; applied before chunking.
    pub max_tokens_per_doc: Option<usize>,
    /// Of a whole pair with its special tokens; the model's own limit is the upper bound.
    pub max_tokens_per_pair: Option<usize>,
    /// A document longer than one pair can hold is scored as up to this many chunks; the best counts.
    pub max_chunks_per_doc: usize,
}

impl Default for Truncation {
    fn default() -> Self {
        Self {
            overflow: Overflow::Truncate,
            side: Side::Right,
            max_tokens_per_query: None,
            max_tokens_per_doc: None,
            max_tokens_per_pair: None,
            max_chunks_per_doc: 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    Truncate,
    /// Answer [`crate::error::Error::TooLong`] for the whole request.
    Refuse,
}

/// The end of a text that is cut away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

/// The scores of a request, in request order; ranking and cutting to `top_n` is the dialect's.
#[derive(Debug, Clone, PartialEq)]
pub struct RerankResponse {
    pub id: String,
    /// The served name of the model that scored.
    pub model: String,
    pub results: Vec<Scored>,
    /// `[results.len(), labels.len()]`, row-major: what the head gave before any activation.
    pub label_logits: Vec<f32>,
    /// Names of the head's outputs; empty for models that compare vectors.
    pub labels: Vec<String>,
    /// Tokens that went through the model, special tokens included.
    pub prompt_tokens: usize,
    /// UTF-8 characters of text that were scored, the query counted once per text.
    pub num_chars: usize,
    /// Documents whose vectors were made to be kept.
    pub num_precomputed: usize,
    /// A cascade had no time for its second model: the scores are those of the first.
    pub is_degraded: bool,
    pub stamps: Stamps,
}

/// Cohere bills a query with up to this many documents as one search.
const DOCUMENTS_PER_SEARCH_UNIT: usize = 100;

impl RerankResponse {
    /// What Cohere would bill, before it counts long documents twice.
    pub fn search_units(&self) -> usize {
        self.results.len().div_ceil(DOCUMENTS_PER_SEARCH_UNIT).max(1)
    }
}

/// The vectors of a request, in request order.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedResponse {
    pub id: String,
    /// The served name of the model.
    pub model: String,
    /// Row-major, as wide as `dimensions`: one a text, or of each text one a token.
    pub vectors: Vec<f32>,
    pub dimensions: usize,
    /// Of each text, how many of them it has.
    pub num_vectors: Vec<usize>,
    /// Of each text, tokens that were cut away.
    pub truncated_tokens: Vec<usize>,
    /// Tokens that went through the model, special tokens and prompts included.
    pub prompt_tokens: usize,
    /// UTF-8 characters of text, prompts included.
    pub num_chars: usize,
    pub stamps: Stamps,
}

impl EmbedResponse {
    /// The vectors, text by text.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.vectors.chunks_exact(self.dimensions)
    }
}

/// What books, log and headers take from an answer, whatever it holds.
#[derive(Debug, Clone, Copy)]
pub struct Tally<'a> {
    pub id: &'a str,
    pub model: &'a str,
    /// Documents, pairs or texts.
    pub num_texts: usize,
    /// Those of which tokens were cut away.
    pub num_truncated: usize,
    pub prompt_tokens: usize,
    pub num_chars: usize,
    pub search_units: usize,
    /// Numbers in the answer.
    pub num_values: usize,
    /// Whether it is less than was asked for: the cheap order of a cascade.
    pub is_degraded: bool,
    pub stamps: Stamps,
}

/// An answer of either kind.
pub trait Answer {
    fn tally(&self) -> Tally<'_>;
}

impl Answer for RerankResponse {
    fn tally(&self) -> Tally<'_> {
        let truncated = self.results.iter().filter(|result| result.truncated_tokens > 0);
        Tally {
            id: &self.id,
            model: &self.model,
            num_texts: self.results.len(),
            num_truncated: truncated.count(),
            prompt_tokens: self.prompt_tokens,
            num_chars: self.num_chars,
            search_units: self.search_units(),
            num_values: self.results.len(),
            is_degraded: self.is_degraded,
            stamps: self.stamps,
        }
    }
}

impl Answer for EmbedResponse {
    fn tally(&self) -> Tally<'_> {
        Tally {
            id: &self.id,
            model: &self.model,
            num_texts: self.truncated_tokens.len(),
            num_truncated: self.truncated_tokens.iter().filter(|cut| **cut > 0).count(),
            prompt_tokens: self.prompt_tokens,
            num_chars: self.num_chars,
            // A vector is no search.
            search_units: 0,
            num_values: self.vectors.len(),
            is_degraded: false,
            stamps: self.stamps,
        }
    }
}

/// One document's score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    pub score: Score,
    /// Tokens scored for this document over all its chunks, special tokens included.
    pub tokens: usize,
    /// Tokens of query and document that were cut away.
    pub truncated_tokens: usize,
    pub chunks: usize,
}

/// One relevance in the three forms dialects speak; all three order documents alike.
/// A dialect reports exactly one of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// The logit, or the cosine.
    pub raw: f32,
    /// After the activation the checkpoint asks for.
    pub activated: f32,
    /// In [0, 1]: the sigmoid of the logit (two labels: their softmax), or the cosine clipped.
    pub probability: f32,
}

/// When a request passed each arrow of its path. Histograms, the access log and `Server-Timing` all read these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamps {
    pub received: Instant,
    pub parsed: Instant,
    pub admitted: Instant,
    pub tokenized: Instant,
    /// The first of its pairs was handed to the device.
    pub started: Instant,
    /// The last of its pairs came back.
    pub scored: Instant,
}

impl Stamps {
    /// All arrows at one instant; each arrow then overwrites its own.
    pub fn at(now: Instant) -> Self {
        Self {
            received: now,
            parsed: now,
            admitted: now,
            tokenized: now,
            started: now,
            scored: now,
        }
    }

    /// The stages in order, with the time each took; they add up to `scored - received`.
    pub fn stages(&self) -> [(&'static str, Duration); 5] {
        [
            ("parse", self.parsed.saturating_duration_since(self.received)),
            ("admit", self.admitted.saturating_duration_since(self.parsed)),
            ("tokenize", self.tokenized.saturating_duration_since(self.admitted)),
            ("queue", self.started.saturating_duration_since(self.tokenized)),
            ("device", self.scored.saturating_duration_since(self.started)),
        ]
    }
}
