//! What a model takes of memory, told from its files before anything of it is loaded.

use std::fmt;

use super::config::Config;
use super::loader::check_is_whole;
use super::source::ModelFiles;
use super::weights::Weights;
use super::{families, known, late};
use crate::engine::Dtype;
use crate::engine::groups::GROUP_TOKENS;
use crate::error::ModelError;

/// Numbers that a thread holds for each token row: at most twelve of the hidden size and three of the
/// intermediate one, in the family that holds the most (decoders with grouped heads).
const HIDDEN_ROWS: u64 = 12;
const INTERMEDIATE_ROWS: u64 = 3;
/// Of the hidden size, that a GPU holds beside those for decoders: rows gathered where sequences share some.
const GATHERED_ROWS: u64 = 6;

/// A tokenizer's tables over its JSON: the vocabulary is held as strings, by text and by id.
const TOKENIZER_FACTOR: u64 = 8;

/// Bytes by what they are for. An estimate: padding of panels and the allocator's own are not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    pub num_parameters: u64,
    pub dtype: Dtype,
    pub weight_bytes: u64,
    pub activation_bytes: u64,
    pub tokenizer_bytes: u64,
    /// Of late interaction: the vectors of documents that are kept.
    pub matrix_bytes: u64,
}

/// How a model will be run, as far as it costs memory.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub dtype: Dtype,
    /// Threads that compute, each with activations of its own; 1 on a GPU.
    pub threads: usize,
    pub max_batch_tokens: usize,
    /// Of a sequence, beside the model's own.
    pub max_length: usize,
    /// Whether a model of one vector a text is to give one a token.
    pub late_interaction: bool,
    /// What a model of token vectors may keep of documents.
    pub matrix_bytes: u64,
}

impl Need {
    /// # Errors
    /// A file that is missing or broken.
    pub fn of(files: &ModelFiles, run: Run) -> Result<Self, ModelError> {
        check_is_whole(files)?;
        let config = Config::read(files)?;
        let is_causal = families::find(&config).is_ok_and(|entry| entry.is_prompted);
        let fields = config.fields;
        let size = |names: &[&str]| {
            let found = names.iter().find_map(|name| fields.get(name)?.as_u64());
            found.unwrap_or(0)
        };
        let hidden = fields.hidden_size() as u64;
        let intermediate = size(&["intermediate_size", "hidden_dim"]);
        let made_for = known::find(files.name()).map_or(usize::MAX, |known| known.max_length);
        let max_length =
            size(&["max_position_embeddings"]).min(made_for.min(run.max_length) as u64);
        let gathers = is_causal && run.dtype == Dtype::F16;
        let hidden_rows = HIDDEN_ROWS + if gathers { GATHERED_ROWS } else { 0 };
        let row = hidden_rows * hidden + INTERMEDIATE_ROWS * intermediate;
        let batch_tokens = run.max_batch_tokens as u64;
        let (bytes, tokens) = match run.dtype {
            // A GPU holds a batch whole; a thread a group of it, or the longest sequence.
            Dtype::F16 => (2, batch_tokens),
            _ => (4, max_length.min(batch_tokens).max(GROUP_TOKENS as u64 * 4 / 3)),
        };
        let is_late = run.late_interaction || late::is_told(files)?;
        let tokenizer = files.read("tokenizer.json")?.map_or(0, |bytes| bytes.len() as u64);
        let mut need = Self {
            num_parameters: 0,
            dtype: run.dtype,
            weight_bytes: 0,
            activation_bytes: run.threads as u64 * tokens * row * bytes,
            tokenizer_bytes: TOKENIZER_FACTOR * tokenizer,
            matrix_bytes: if is_late { run.matrix_bytes } else { 0 },
        };
        for (name, shape, stored) in Weights::open(files)?.shapes() {
            need.add(name, shape, stored as u64);
        }
        Ok(need)
    }

    fn add(&mut self, name: &str, shape: &[usize], stored: u64) {
        let numbers = shape.iter().fold(1u64, |all, &dim| all.saturating_mul(dim as u64));
        // Of a language model's output only the rows of the two answers are kept.
        if name.ends_with("lm_head.weight") {
            return;
        }
        let bytes = match self.dtype {
            Dtype::F16 => numbers.saturating_mul(2),
            // Tables that are looked up stay as they are stored, biases and norms as they are computed with.
            _ if name.contains("embed") && shape.len() == 2 => stored,
            _ if shape.len() < 2 => numbers.saturating_mul(4),
            Dtype::F32 => numbers.saturating_mul(4),
            Dtype::Bf16 => numbers.saturating_mul(2),
            Dtype::Int8 => numbers,
        };
        self.num_parameters = self.num_parameters.saturating_add(numbers);
        self.weight_bytes = self.weight_bytes.saturating_add(bytes);
    }

    pub fn bytes(&self) -> u64 {
        [self.weight_bytes, self.activation_bytes, self.tokenizer_bytes, self.matrix_bytes]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} = weights {} ({:.1} million numbers, {}) + activations {} + tokenizer {}",
            mib(self.bytes()),
            mib(self.weight_bytes),
            self.num_parameters as f64 / 1e6,
            self.dtype.name(),
            mib(self.activation_bytes),
            mib(self.tokenizer_bytes),
        )?;
        match self.matrix_bytes {
            0 => Ok(()),
            bytes => write!(f, " + document vectors {}", mib(bytes)),
        }
    }
}

/// Bytes as people read them.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::super::source::{HubOptions, Source};
    use super::*;
    use std::path::Path;

    const RUN: Run = Run {
        dtype: Dtype::F32,
        threads: 1,
        max_batch_tokens: 2048,
        max_length: usize::MAX,
        late_interaction: false,
        matrix_bytes: 5 << 20,
    };

    fn need_of(run: Run) -> Need {
        let nowhere = HubOptions::from_env(|_| None);
        Need::of(&Source::Embedded.open(&nowhere).unwrap(), run).unwrap()
    }

    fn need(dtype: Dtype, threads: usize) -> Need {
        need_of(Run { dtype, threads, ..RUN })
    }

    #[test]
    fn narrow_numbers_take_less_and_threads_take_more() {
        let (f32, bf16, int8) = (need(Dtype::F32, 1), need(Dtype::Bf16, 1), need(Dtype::Int8, 1));
        assert!(f32.weight_bytes > bf16.weight_bytes && bf16.weight_bytes > int8.weight_bytes);
        assert!(f32.weight_bytes < 4 * f32.num_parameters, "words stay bytes, as they are stored");
        assert_eq!(need(Dtype::F32, 3).activation_bytes, 3 * f32.activation_bytes);
    }

    #[test]
    fn what_is_kept_of_documents_counts_where_some_is() {
        let plain = need_of(RUN);
        let late = need_of(Run { late_interaction: true, ..RUN });
        assert_eq!((plain.matrix_bytes, late.bytes() - plain.bytes()), (0, 5 << 20));
        assert!(late.to_string().ends_with(" + document vectors 5.0 MiB"), "{late}");
    }

    #[test]
    fn a_gpu_holds_gathered_rows_for_a_decoder() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tiny-qwen3-reranker");
        let files = ModelFiles::open_folder(Path::new(folder)).unwrap();
        let need = Need::of(&files, Run { dtype: Dtype::F16, ..RUN }).unwrap();
        assert_eq!(need.activation_bytes, 2048 * (18 * 64 + 3 * 96) * 2);
    }

    #[test]
    fn a_bound_on_sequences_bounds_activations() {
        let (whole, short) = (need_of(RUN), need_of(Run { max_length: 64, ..RUN }));
        assert!(short.activation_bytes <= whole.activation_bytes);
        assert_eq!(short.weight_bytes, whole.weight_bytes);
    }

    #[test]
    fn the_sum_is_shown_with_its_parts() {
        let need = Need {
            num_parameters: 2_500_000,
            dtype: Dtype::F32,
            weight_bytes: 10 << 20,
            activation_bytes: 3 << 19,
            tokenizer_bytes: 1 << 20,
            matrix_bytes: 0,
        };
        let expected = "12.5 MiB = weights 10.0 MiB (2.5 million numbers, f32) + activations 1.5 MiB \
                        + tokenizer 1.0 MiB";
        assert_eq!(need.to_string(), expected);
    }
}
