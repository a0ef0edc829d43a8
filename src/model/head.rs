//! From what the forward pass gives to a relevance: logits of a classifier, or the cosine of two vectors.

use super::config::Config;
use super::late::Late;
use super::source::ModelFiles;
use crate::engine::Pooling;
use crate::error::ModelError;
use crate::request::Score;
use serde::Deserialize;

const RECIPE: &str = "model.toml";
const SENTENCE_TRANSFORMERS: &str = "config_sentence_transformers.json";

/// What a checkpoint applies to its logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Identity,
    Sigmoid,
    Softmax,
}

impl Activation {
    /// The function that a checkpoint names by its path in torch.
    ///
    /// # Errors
    /// One without code.
    pub(super) fn named(file: &str, field: &str, path: &str) -> Result<Self, ModelError> {
        match path.rsplit('.').next() {
            Some("Sigmoid") => Ok(Self::Sigmoid),
            Some("Identity") => Ok(Self::Identity),
            Some("Softmax") => Ok(Self::Softmax),
            _ => {
                let message =
                    format!("'{path}' is not supported; Sigmoid, Softmax and Identity are");
                Err(ModelError::unsupported(file, field, message))
            }
        }
    }
}

/// The end of a model.
#[derive(Debug, Clone, PartialEq)]
pub enum Head {
    /// One logit a label, from the pair.
    Classifier {
        labels: Vec<String>,
        activation: Activation,
        /// The label that is the relevance, where the model's folder names one.
        ranked: Option<usize>,
    },
    /// One vector a text; relevance is the cosine of query and document.
    Embedding { pooling: Pooling, normalize: bool },
    /// One vector a token; relevance is the sum of the best similarities.
    Late(Late),
}

/// A classifier's head: the label that ranks is named by `rank_by` in `model.toml`; the activation, as
/// sentence-transformers reads it, is the one that the folder names, else a sigmoid for one label and none for more.
///
/// # Errors
/// A file that is broken, a label that is none of these, or an activation without code.
pub(super) fn classifier(
    files: &ModelFiles,
    config: &Config,
    labels: Vec<String>,
) -> Result<Head, ModelError> {
    #[derive(Deserialize)]
    struct Recipe {
        rank_by: Option<String>,
    }
    #[derive(Deserialize)]
    struct SentenceTransformers {
        activation_fn: Option<String>,
    }
    let mut ranked = None;
    if let Some(bytes) = files.read(RECIPE)? {
        let recipe: Recipe = toml::from_slice(&bytes)
            .map_err(|e| ModelError::invalid(RECIPE, "toml", e.message().to_owned()))?;
        if let Some(name) = recipe.rank_by {
            ranked = Some(labels.iter().position(|label| *label == name).ok_or_else(|| {
                let message = format!("'{name}' is none of the labels {}", labels.join(", "));
                ModelError::invalid(RECIPE, "rank_by", message)
            })?);
        }
    }
    let mut activation = config.activation;
    if let Some(bytes) = files.read(SENTENCE_TRANSFORMERS)? {
        let own: SentenceTransformers = serde_json::from_slice(&bytes)
            .map_err(|e| ModelError::invalid(SENTENCE_TRANSFORMERS, "json", e.to_string()))?;
        let named = own
            .activation_fn
            .map(|path| Activation::named(SENTENCE_TRANSFORMERS, "activation_fn", &path));
        activation = named.transpose()?.or(activation);
    }
    let default = if labels.len() == 1 { Activation::Sigmoid } else { Activation::Identity };
    Ok(Head::Classifier { labels, activation: activation.unwrap_or(default), ranked })
}

impl Head {
    /// Names of the logits, in order; none for vectors.
    pub fn labels(&self) -> &[String] {
        match self {
            Self::Classifier { labels, .. } => labels,
            Self::Embedding { .. } | Self::Late(_) => &[],
        }
    }

    /// The name of how vectors are made of tokens, of a head that gives vectors.
    pub fn pooling(&self) -> Option<&'static str> {
        match self {
            Self::Classifier { .. } | Self::Late(_) => None,
            Self::Embedding { pooling: Pooling::Cls, .. } => Some("cls"),
            Self::Embedding { pooling: Pooling::Mean, .. } => Some("mean"),
            Self::Embedding { pooling: Pooling::Last, .. } => Some("last-token"),
        }
    }

    /// Whether documents can be ranked: one label is the relevance, of two the second is, of more the one that is
    /// named.
    pub fn can_rank(&self) -> bool {
        match self {
            Self::Classifier { labels, ranked, .. } => labels.len() <= 2 || ranked.is_some(),
            Self::Embedding { .. } | Self::Late(_) => true,
        }
    }

    /// The relevance in the logits of one pair; `None` if the head cannot rank.
    pub fn score(&self, logits: &[f32]) -> Option<Score> {
        let Self::Classifier { activation, ranked, .. } = self else { return None };
        let raw = match (logits, *ranked) {
            ([logit], _) => *logit,
            (_, Some(label)) => log_odds(logits, label),
            ([against, for_it], None) => for_it - against,
            _ => return None,
        };
        let probability = sigmoid(raw);
        let activated = match (activation, logits.len()) {
            (Activation::Identity, 1) => raw,
            // The softmax of one logit is one for every document and ranks nothing.
            (Activation::Softmax, 1) => raw,
            _ => probability,
        };
        Some(Score { raw, activated, probability })
    }
}

/// The relevance of two vectors: their cosine. A vector of zeros is relevant to nothing.
pub fn cosine(query: &[f32], document: &[f32]) -> Score {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let lengths = (dot(query, query) * dot(document, document)).sqrt();
    let cosine = if lengths > 0.0 { dot(query, document) / lengths } else { 0.0 };
    Score { raw: cosine, activated: cosine, probability: cosine.clamp(0.0, 1.0) }
}

/// What the softmax gives to a label over what it gives to all others, as a logarithm: of two labels the difference.
fn log_odds(logits: &[f32], label: usize) -> f32 {
    let others = || logits.iter().enumerate().filter(|(i, _)| *i != label).map(|(_, logit)| *logit);
    let max = others().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = others().map(|logit| (logit - max).exp()).sum();
    logits[label] - max - sum.ln()
}

/// The relevance of a sum of `num_vectors` best similarities: their mean is the probability.
pub fn late_interaction(sum: f32, num_vectors: usize) -> Score {
    let mean = sum / num_vectors.max(1) as f32;
    Score { raw: sum, activated: sum, probability: mean.clamp(0.0, 1.0) }
}

/// Without overflow for any logit.
fn sigmoid(x: f32) -> f32 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classifier(num_labels: usize, activation: Activation) -> Head {
        Head::Classifier { labels: vec![String::new(); num_labels], activation, ranked: None }
    }

    #[test]
    fn one_label_is_the_relevance() {
        let score = classifier(1, Activation::Sigmoid).score(&[2.0]).unwrap();
        assert_eq!(score.raw, 2.0);
        assert!((score.activated - 0.880_797).abs() < 1e-6);
        assert_eq!(score.activated, score.probability);
        let score = classifier(1, Activation::Identity).score(&[2.0]).unwrap();
        assert_eq!(score.activated, 2.0);
    }

    #[test]
    fn of_two_labels_the_second_is_the_relevance() {
        let score = classifier(2, Activation::Identity).score(&[0.5, 2.5]).unwrap();
        assert_eq!(score.raw, 2.0);
        assert!((score.probability - 0.880_797).abs() < 1e-6);
        assert_eq!(score.activated, score.probability);
    }

    #[test]
    fn three_labels_rank_nothing() {
        let head = classifier(3, Activation::Identity);
        assert!(!head.can_rank());
        assert_eq!(head.score(&[1.0, 2.0, 3.0]), None);
    }

    #[test]
    fn of_many_labels_the_named_one_is_the_relevance() {
        let ranked = |label| Head::Classifier {
            labels: vec![String::new(); 3],
            activation: Activation::Identity,
            ranked: Some(label),
        };
        let logits = [0.5f32, -1.0, 2.0];
        let total: f32 = logits.iter().map(|logit| logit.exp()).sum();
        for (label, logit) in logits.iter().enumerate() {
            assert!(ranked(label).can_rank());
            let score = ranked(label).score(&logits).unwrap();
            assert!((score.probability - logit.exp() / total).abs() < 1e-6, "{label}: {score:?}");
        }
        let score = ranked(1).score(&[1e30, -1e30, 0.0]).unwrap();
        assert_eq!(score.probability, 0.0);
    }

    #[test]
    fn extreme_logits_stay_in_the_unit_interval() {
        for logit in [-1e30, -200.0, 200.0, 1e30] {
            let score = classifier(1, Activation::Sigmoid).score(&[logit]).unwrap();
            assert!((0.0..=1.0).contains(&score.probability));
        }
    }

    #[test]
    fn cosine_is_clipped_to_a_probability() {
        let score = cosine(&[1.0, 0.0], &[-2.0, 0.0]);
        assert_eq!((score.raw, score.probability), (-1.0, 0.0));
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]).raw, 0.0);
    }
}
