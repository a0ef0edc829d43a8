//! A tokenizer with the rules of its model: the synchronous core of the pool.

use std::collections::HashSet;

use tokenizers::Tokenizer;

use super::assemble::{
    Form, Marked, Mask, Roles, Rules, TextIds, Tokenized, Wrapping, assemble, is_query, num_texts,
    text_at,
};
use super::load::Loaded;
use super::template::Template;
use crate::error::{Error, ModelError};
use crate::model::late::{Expansion, Late, Reading};
use crate::model::prompt::Prompt;
use crate::model::prompts::Prompts;
use crate::request::{Inputs, Purpose, Truncation};

/// Turns texts into the sequences of one model.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    rules: Rules,
    /// Texts around query and document, of a model that is asked in words.
    prompt: Option<Prompt>,
    /// What an encoder wants before its texts.
    prompts: Prompts,
    /// Tokens whose vectors a document goes without.
    skiplist: HashSet<u32>,
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
        let template = Template::of(&tokenizer)?;
        let rules =
            Rules { template, form, max_length, wrapping: Wrapping::default(), roles: None };
        let (prompts, skiplist) = (Prompts::default(), HashSet::new());
        Ok(Self { tokenizer, rules, prompt: None, prompts, skiplist })
    }

    /// The same with prompts before queries and documents.
    #[must_use]
    pub fn with_prompts(self, prompts: Prompts) -> Self {
        Self { prompts, ..self }
    }

    /// An encoder for a model that is asked in words: prefix, query, document and suffix are tokenised by
    /// themselves, query and document with the words around them.
    ///
    /// # Errors
    /// The tokenizer fails on the prompt.
    pub fn prompting(
        loaded: Loaded,
        prompt: &Prompt,
        max_length: usize,
    ) -> Result<Self, ModelError> {
        let Loaded { tokenizer, max_length: own } = loaded;
        let max_length = own.map_or(max_length, |own| own.min(max_length));
        let ids = |text: &str| {
            let encoding = tokenizer.encode_fast(text, false);
            let failed =
                |e: tokenizers::Error| ModelError::invalid("model.toml", "prompt", e.to_string());
            encoding.map_err(failed).map(|encoding| encoding.get_ids().to_vec())
        };
        let template = Template {
            prefix: ids(&prompt.prefix)?,
            suffix: ids(&prompt.suffix)?,
            ..Template::default()
        };
        let wrapping = Wrapping {
            num_before_query: ids(&prompt.query[0])?.len(),
            after_query: ids(&prompt.query[1])?,
        };
        let rules = Rules { template, form: Form::Pair, max_length, wrapping, roles: None };
        let (prompts, skiplist) = (Prompts::default(), HashSet::new());
        Ok(Self { tokenizer, rules, prompt: Some(prompt.clone()), prompts, skiplist })
    }

    /// An encoder for a model of token vectors.
    ///
    /// # Errors
    /// The tokenizer lacks a token that the model asks for.
    pub fn late(loaded: Loaded, late: &Late, max_length: usize) -> Result<Self, ModelError> {
        let mut encoder = Self::new(loaded, Form::Single, max_length)?;
        let id = |token: &str| {
            encoder.tokenizer.token_to_id(token).ok_or_else(|| {
                let message =
                    format!("the vocabulary lacks the token '{token}' of late interaction");
                ModelError::invalid("tokenizer.json", "vocab", message)
            })
        };
        let marked = |reading: &Reading| {
            let marker = reading.marker.as_deref().map(id).transpose()?;
            Ok(Marked { marker, max_length: reading.max_length })
        };
        let mask = |is_attended| {
            let known = ["[MASK]", "<mask>"].iter().find_map(|mask| id(mask).ok());
            let token = known.map_or_else(|| id("[MASK]"), Ok)?;
            Ok(Mask { token, is_attended })
        };
        let expansion = match late.expansion {
            Expansion::None => None,
            Expansion::Unattended => Some(mask(false)?),
            Expansion::Attended => Some(mask(true)?),
        };
        let roles =
            Roles { query: marked(&late.query)?, document: marked(&late.document)?, expansion };
        // A word that is no token of the vocabulary never comes.
        let words = late.skiplist.iter();
        encoder.skiplist = words.filter_map(|word| encoder.tokenizer.token_to_id(word)).collect();
        encoder.rules.roles = Some(roles);
        Ok(encoder)
    }

    /// Tokens whose vectors a document goes without.
    pub fn skiplist(&self) -> &HashSet<u32> {
        &self.skiplist
    }

    /// Tokens in a sequence, special tokens included.
    pub fn max_length(&self) -> usize {
        self.rules.max_length
    }

    pub fn form(&self) -> Form {
        self.rules.form
    }

    pub fn prompts(&self) -> &Prompts {
        &self.prompts
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

    /// Ids of text `i` of a request, with the words that a prompt puts around it.
    ///
    /// # Errors
    /// A failure of the tokenizer.
    pub(super) fn ids_at(&self, inputs: &Inputs, i: usize) -> Result<Vec<u32>, Error> {
        let text = text_at(inputs, i);
        match &self.prompt {
            None => match self.before(inputs, i) {
                "" => self.ids(text),
                before => self.ids(&format!("{before}{text}")),
            },
            Some(Prompt { query, document, .. }) => {
                let [before, after] = if is_query(inputs, i) { query } else { document };
                self.ids(&format!("{before}{text}{after}"))
            }
        }
    }

    /// What stands before text `i` of a request that compares texts. Before single texts nothing: who asks for
    /// vectors chooses, and has put it there.
    fn before(&self, inputs: &Inputs, i: usize) -> &str {
        match inputs {
            Inputs::Texts(_) | Inputs::Tokens(_) => "",
            _ if is_query(inputs, i) => self.prompts.of(Purpose::Query),
            _ => self.prompts.of(Purpose::Document),
        }
    }

    /// Builds the sequences of a request from the ids of its texts.
    ///
    /// # Errors
    /// [`Error::TooLong`] by the request's own wish; a single text for a model that compares two; ids that the
    /// tokenizer does not have.
    pub fn assemble(
        &self,
        inputs: &Inputs,
        ids: &TextIds,
        truncation: &Truncation,
    ) -> Result<Tokenized, Error> {
        if self.prompt.is_some() && matches!(inputs, Inputs::Texts(_) | Inputs::Documents(_)) {
            let message = "this model compares two texts and classifies none";
            return Err(Error::NotSupported(message.into()));
        }
        if let Inputs::Tokens(texts) = inputs {
            self.check_ids(texts)?;
        }
        assemble(inputs, ids, &self.rules, truncation)
    }

    fn check_ids(&self, texts: &[Vec<u32>]) -> Result<(), Error> {
        for (i, text) in texts.iter().enumerate() {
            if let Some(id) = text.iter().find(|id| self.tokenizer.id_to_token(**id).is_none()) {
                let message = format!(
                    "input[{i}]: {id} is the id of no token of this model; send text where the ids are \
                     those of another tokenizer"
                );
                return Err(Error::invalid(format!("input[{i}]"), message));
            }
        }
        Ok(())
    }

    /// Both steps on the calling thread.
    ///
    /// # Errors
    /// As [`ids`](Self::ids) and [`assemble`](Self::assemble).
    pub fn tokenize(&self, inputs: &Inputs, truncation: &Truncation) -> Result<Tokenized, Error> {
        let ids = (0..num_texts(inputs)).map(|i| self.ids_at(inputs, i));
        self.assemble(inputs, &ids.collect::<Result<_, _>>()?, truncation)
    }
}
