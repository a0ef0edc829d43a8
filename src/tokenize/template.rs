//! Where a tokenizer puts its special tokens around one text or a pair.
//!
//! Read off the tokenizer's own post-processor once, so that a query tokenised once can be joined with
//! each of its documents by copying ids.

use tokenizers::Tokenizer;

use crate::error::ModelError;

const FILE: &str = "tokenizer.json";

/// Special tokens around a pair, `prefix first middle second suffix`, and around a single text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    pub prefix: Vec<u32>,
    pub middle: Vec<u32>,
    pub suffix: Vec<u32>,
    /// How many tokens of `middle` have token type 0; `None` if even the second text has (RoBERTa).
    pub first_segment_of_middle: Option<usize>,
    pub single_prefix: Vec<u32>,
    pub single_suffix: Vec<u32>,
}

impl Template {
    /// # Errors
    /// The tokenizer cannot encode a pair, or orders its parts in a way no known encoder reads.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self, ModelError> {
        let encode = |input: tokenizers::EncodeInput<'_>| {
            tokenizer
                .encode(input, true)
                .map_err(|e| ModelError::invalid(FILE, "post_processor", e.to_string()))
        };
        let wrong = || {
            ModelError::unsupported(
                FILE,
                "post_processor",
                "it reorders or drops the texts of a pair",
            )
        };
        let single = encode("a".into())?;
        let pair = encode(("a", "a").into())?;
        let range = |encoding: &tokenizers::Encoding, sequence: usize| {
            let ids = encoding.get_sequence_ids();
            let start = ids.iter().position(|&id| id == Some(sequence))?;
            let end = ids.iter().rposition(|&id| id == Some(sequence))? + 1;
            Some(start..end)
        };
        let only = range(&single, 0).ok_or_else(wrong)?;
        let first = range(&pair, 0).ok_or_else(wrong)?;
        let second = range(&pair, 1).ok_or_else(wrong)?;
        if first.end > second.start {
            return Err(wrong());
        }
        let (ids, types) = (pair.get_ids(), pair.get_type_ids());
        let first_segment_len = types.iter().position(|&t| t != 0);
        let first_segment_of_middle = match first_segment_len {
            None => None,
            Some(len) if (first.end..=second.start).contains(&len) => Some(len - first.end),
            Some(_) => return Err(wrong()),
        };
        Ok(Self {
            prefix: ids[..first.start].to_vec(),
            middle: ids[first.end..second.start].to_vec(),
            suffix: ids[second.end..].to_vec(),
            first_segment_of_middle,
            single_prefix: single.get_ids()[..only.start].to_vec(),
            single_suffix: single.get_ids()[only.end..].to_vec(),
        })
    }

    /// Special tokens in a pair.
    pub fn num_special_in_pair(&self) -> usize {
        self.prefix.len() + self.middle.len() + self.suffix.len()
    }

    /// A single text without the special tokens around it, where it has them.
    pub fn inside_single<'t>(&self, ids: &'t [u32]) -> &'t [u32] {
        let inside = ids.strip_prefix(&self.single_prefix[..]);
        inside.and_then(|ids| ids.strip_suffix(&self.single_suffix[..])).unwrap_or(ids)
    }

    /// Special tokens around a single text.
    pub fn num_special_in_single(&self) -> usize {
        self.single_prefix.len() + self.single_suffix.len()
    }
}
