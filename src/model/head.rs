//! From what the forward pass gives to a relevance: logits of a classifier, or the cosine of two vectors.

use super::late::Late;
use crate::engine::Pooling;
use crate::request::Score;

/// What a checkpoint applies to its logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Identity,
    Sigmoid,
    Softmax,
}

/// The end of a model.
#[derive(Debug, Clone, PartialEq)]
pub enum Head {
    /// One logit a label, from the pair.
    Classifier { labels: Vec<String>, activation: Activation },
    /// One vector a text; relevance is the cosine of query and document.
    Embedding { pooling: Pooling, normalize: bool },
    /// One vector a token; relevance is the sum of the best similarities.
    Late(Late),
}

impl Head {
    /// Names of the logits, in order; none for vectors.
    pub fn labels(&self) -> &[String] {
        match self {
            Self::Classifier { labels, .. } => labels,
            Self::Embedding { .. } | Self::Late(_) => &[],
        }
    }

    /// Whether documents can be ranked: one label is the relevance, of two the second is.
    pub fn can_rank(&self) -> bool {
        match self {
            Self::Classifier { labels, .. } => labels.len() <= 2,
            Self::Embedding { .. } | Self::Late(_) => true,
        }
    }

    /// The relevance in the logits of one pair; `None` if the head cannot rank.
    pub fn score(&self, logits: &[f32]) -> Option<Score> {
        let Self::Classifier { activation, .. } = self else { return None };
        let raw = match *logits {
            [logit] => logit,
            [against, for_it] => for_it - against,
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
        Head::Classifier { labels: vec![String::new(); num_labels], activation }
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
