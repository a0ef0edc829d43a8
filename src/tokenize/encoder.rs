//! A tokenizer with the rules of its model: the synchronous core of the pool.

use tokenizers::Tokenizer;

use super::assemble::{Form, Rules, TextIds, Tokenized, assemble, num_texts, text_at};
use super::load::Loaded;
use super::template::Template;
use crate::error::{Error, ModelError};
use crate::request::{Inputs, Truncation};

/// Turns texts into the sequences of one model.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    rules: Rules,
}

impl Encoder {
    /// An encoder for a model that reads its texts as `form` says, in sequences of up to `max_length`
    /// tokens; the tokenizer's own limit counts too.
    ///
    /// # Errors
    /// The tokenizer places special tokens in a way that no known encoder reads.
    pub fn new(loaded: Loaded, form: Form, max_length: usize) -> Result<Self, ModelError> {
        let Loaded { tokenizer, max_length: own } = loaded;
        let max_length = own.map_or(max_length, |own| own.min(max_length));
        let rules = Rules { template: Template::of(&tokenizer)?, form, max_length };
        Ok(Self { tokenizer, rules })
    }

    /// Tokens in a sequence, special tokens included.
    pub fn max_length(&self) -> usize {
        self.rules.max_length
    }

    pub fn form(&self) -> Form {
        self.rules.form
    }

    /// Ids of one text without special tokens.
    ///
    /// # Errors
    /// A failure of the tokenizer.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|e| Error::Internal(format!("the tokenizer failed: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Builds the sequences of a request from the ids of its texts.
    ///
    /// # Errors
    /// [`Error::TooLong`] by the request's own wish.
    pub fn assemble(
        &self,
        inputs: &Inputs,
        ids: &TextIds,
        truncation: &Truncation,
    ) -> Result<Tokenized, Error> {
        assemble(inputs, ids, &self.rules, truncation)
    }

    /// Both steps on the calling thread.
    ///
    /// # Errors
    /// As [`ids`](Self::ids) and [`assemble`](Self::assemble).
    pub fn tokenize(&self, inputs: &Inputs, truncation: &Truncation) -> Result<Tokenized, Error> {
        let ids = (0..num_texts(inputs)).map(|i| self.ids(text_at(inputs, i)));
        self.assemble(inputs, &ids.collect::<Result<_, _>>()?, truncation)
    }
}
