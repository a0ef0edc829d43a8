//! The end of an encoder: from the row that its pooling takes of each sequence to logits, or to a vector.

use super::Grain;
use super::config::Config;
use super::head::Head;
use super::late::TokenVectors;
use super::modules;
use super::parameters::Parameters;
use crate::engine::{Backend, Epilogue, Pooling};
use crate::error::{DeviceError, ModelError};

/// What follows an encoder's last layer.
#[derive(Debug)]
pub(super) struct End<B: Backend> {
    /// How the rows of a sequence become one, if they do.
    pub(super) pooling: Option<Pooling>,
    last: Last<B>,
}

#[derive(Debug)]
enum Last<B: Backend> {
    /// Layers over the pooled row, and the narrow one that gives the logits.
    Classifier {
        stages: Vec<Stage<B>>,
        out: B::Linear,
        num_labels: usize,
    },
    Embedding {
        normalize: bool,
        hidden_size: usize,
    },
    Late(TokenVectors<B>),
}

/// A layer of a classifier.
#[derive(Debug)]
pub(super) enum Stage<B: Backend> {
    Dense { weight: B::Linear, act: Epilogue, width: usize },
    Norm { norm: B::Norm, width: usize },
}

/// What a classifier is made of.
#[derive(Debug)]
pub(super) struct Layers<B: Backend> {
    pub(super) pooling: Pooling,
    pub(super) stages: Vec<Stage<B>>,
    pub(super) out: B::Linear,
}

/// Rows of the classifier's layers, one a sequence.
#[derive(Debug)]
pub(super) struct EndLane<B: Backend> {
    stages: Vec<B::Rows>,
    logits: B::Rows,
    /// One a token.
    vectors: Option<B::Rows>,
}

impl<B: Backend> Stage<B> {
    fn width(&self) -> usize {
        match self {
            Self::Dense { width, .. } | Self::Norm { width, .. } => *width,
        }
    }
}

impl<B: Backend> End<B> {
    /// The head's end. `classifier` gives the layers that the family stores itself; those of an encoder without a
    /// classifier of its own are modules beside it.
    ///
    /// # Errors
    /// What `classifier` says, or [`modules::classifier`].
    pub(super) fn load(
        parameters: &Parameters<'_, B>,
        (config, head): (&Config, &Head),
        hidden_size: usize,
        classifier: impl FnOnce(usize) -> Result<Layers<B>, ModelError>,
    ) -> Result<Self, ModelError> {
        match head {
            Head::Classifier { labels, .. } => {
                let num_labels = labels.len();
                let Layers { pooling, stages, out } = if config.architecture.ends_with("Model") {
                    modules::classifier(parameters, hidden_size)?
                } else {
                    classifier(num_labels)?
                };
                Ok(Self {
                    pooling: Some(pooling),
                    last: Last::Classifier { stages, out, num_labels },
                })
            }
            Head::Embedding { pooling, normalize } => {
                let last = Last::Embedding { normalize: *normalize, hidden_size };
                Ok(Self { pooling: Some(*pooling), last })
            }
            Head::Late(late) => {
                let vectors = TokenVectors::load(parameters, late, hidden_size)?;
                Ok(Self { pooling: None, last: Last::Late(vectors) })
            }
        }
    }

    /// Floats per row.
    pub(super) fn width(&self) -> usize {
        match &self.last {
            Last::Classifier { num_labels, .. } => *num_labels,
            Last::Embedding { hidden_size, .. } => *hidden_size,
            Last::Late(vectors) => vectors.dim(),
        }
    }

    pub(super) fn grain(&self) -> Grain {
        if self.pooling.is_some() { Grain::Sequence } else { Grain::Token }
    }

    /// # Errors
    /// No memory on the device.
    pub(super) fn lane(&self, backend: &B, max_rows: usize) -> Result<EndLane<B>, DeviceError> {
        let (stages, num_labels): (&[Stage<B>], _) = match &self.last {
            Last::Classifier { stages, num_labels, .. } => (stages, *num_labels),
            Last::Embedding { .. } | Last::Late(_) => (&[], 1),
        };
        let stages = stages.iter().map(|stage| backend.rows(max_rows, stage.width()));
        Ok(EndLane {
            stages: stages.collect::<Result<_, _>>()?,
            logits: backend.logits(max_rows, num_labels)?,
            vectors: match &self.last {
                Last::Late(vectors) => vectors.rows(backend, max_rows)?,
                _ => None,
            },
        })
    }

    /// `pooled` has one row a sequence, or one a token where rows are not pooled.
    pub(super) fn forward<'a>(
        &self,
        b: &B,
        pooled: &'a mut B::Rows,
        lane: &'a mut EndLane<B>,
    ) -> &'a B::Rows {
        match &self.last {
            Last::Classifier { stages, out, .. } => {
                let mut x: &B::Rows = pooled;
                for (stage, rows) in stages.iter().zip(&mut lane.stages) {
                    match stage {
                        Stage::Dense { weight, act, .. } => b.linear(x, weight, *act, rows),
                        Stage::Norm { norm, .. } => b.norm(x, norm, rows),
                    }
                    x = rows;
                }
                b.classify(x, out, &mut lane.logits);
                &lane.logits
            }
            Last::Embedding { normalize, .. } => {
                if *normalize {
                    b.normalize(pooled);
                }
                pooled
            }
            Last::Late(vectors) => vectors.of(b, pooled, lane.vectors.as_mut()),
        }
    }
}
