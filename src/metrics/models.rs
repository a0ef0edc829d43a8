//! The models' part of the metrics page.

use std::fmt::Write;

use super::MatrixCounts;

/// What waits, and how fast it goes; their quotient is the backlog in seconds that autoscalers want.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    pub backlog_tokens: usize,
    pub tokens_per_second: f64,
    pub cache_bytes: usize,
    pub body_bytes: usize,
    /// Of models of late interaction.
    pub matrices: Option<MatrixCounts>,
}

impl Load {
    /// Of two models of a server. The speed of each is what it gets beside the other, so they are done together:
    /// when the slower is.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        let backlog_tokens = self.backlog_tokens + other.backlog_tokens;
        let seconds = |load: Self| load.backlog_tokens as f64 / load.tokens_per_second.max(1.0);
        let seconds = seconds(self).max(seconds(other));
        let tokens_per_second = if seconds > 0.0 {
            backlog_tokens as f64 / seconds
        } else {
            self.tokens_per_second.max(other.tokens_per_second)
        };
        Self {
            backlog_tokens,
            tokens_per_second,
            cache_bytes: self.cache_bytes + other.cache_bytes,
            body_bytes: self.body_bytes + other.body_bytes,
            matrices: match (self.matrices, other.matrices) {
                (Some(one), Some(other)) => Some(one.beside(other)),
                (one, other) => one.or(other),
            },
        }
    }
}

/// What a model has done since it was loaded, and what it holds. There are as many as the server has models now.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelState {
    pub name: String,
    pub requests: u64,
    pub documents: u64,
    pub tokens: u64,
    pub load: Load,
    pub memory_bytes: u64,
}

/// The metrics of models, by served name.
pub fn model_page(models: &[ModelState]) -> String {
    let mut page = String::new();
    for (name, kind, help, read) in MODEL_METRICS {
        // Writing to a string cannot fail.
        let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for model in models {
            let label = model.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ");
            let _ = writeln!(page, "{name}{{model=\"{label}\"}} {}", read(model));
        }
    }
    page
}

type Read = fn(&ModelState) -> f64;

const MODEL_METRICS: [(&str, &str, &str, Read); 6] = [
    ("rerank_model_requests_total", "counter", "Requests answered with scores by a model.", |m| {
        m.requests as f64
    }),
    ("rerank_model_scored_pairs_total", "counter", "Documents scored by a model.", |m| {
        m.documents as f64
    }),
    ("rerank_model_scored_tokens_total", "counter", "Tokens scored by a model.", |m| {
        m.tokens as f64
    }),
    (
        "rerank_model_backlog_tokens",
        "gauge",
        "Tokens admitted to a model, not answered yet.",
        |m| m.load.backlog_tokens as f64,
    ),
    (
        "rerank_model_tokens_per_second",
        "gauge",
        "Tokens per second of a model over its last batches, beside the other models.",
        |m| m.load.tokens_per_second,
    ),
    ("rerank_model_memory_bytes", "gauge", "Memory set aside for a model.", |m| {
        m.memory_bytes as f64
    }),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_break_the_page() {
        let state = ModelState {
            name: "a\"b\\c\nd".into(),
            requests: 3,
            documents: 0,
            tokens: 0,
            load: Load::default(),
            memory_bytes: 0,
        };
        let page = model_page(&[state]);
        assert!(
            page.contains("rerank_model_requests_total{model=\"a\\\"b\\\\c d\"} 3\n"),
            "{page}"
        );
    }
}
