//! From the ids of texts to the sequences a model reads: truncation, chunks, special tokens. Pure.

use std::borrow::Cow;
use std::ops::Range;

use super::template::Template;
use crate::batch::Sequences;
use crate::error::Error;
use crate::request::{Inputs, Overflow, Side, Truncation};

/// How a model wants its texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Query and document in one sequence: a cross-encoder.
    Pair,
    /// Each text in a sequence of its own: an encoder.
    Single,
}

/// A request as sequences, and which of them belong to which document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenized {
    pub sequences: Sequences,
    /// One per score of the response.
    pub items: Vec<Item>,
}

/// The sequences of one document, pair or text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where texts have sequences of their own: that of the query.
    pub query_sequence: Option<usize>,
    /// One per chunk.
    pub sequences: Range<usize>,
    pub truncated_tokens: usize,
}

/// The rules of one model.
#[derive(Debug, Clone)]
pub struct Rules {
    pub template: Template,
    pub form: Form,
    /// Tokens in a sequence, special tokens included.
    pub max_length: usize,
    pub wrapping: Wrapping,
    /// Of a model of token vectors: how it tells queries from documents.
    pub roles: Option<Roles>,
}

/// How a model of token vectors reads queries and documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    pub query: Marked,
    pub document: Marked,
    pub expansion: Option<Mask>,
}

/// A kind of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// The token that follows those before the text.
    pub marker: Option<u32>,
    /// Tokens in a sequence, special tokens included.
    pub max_length: usize,
}

/// What fills a query up to its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask {
    pub token: u32,
    /// Whether the tokens of the query attend to it.
    pub is_attended: bool,
}

/// What a text that stands alone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Query,
    Document,
}

/// What the ids of a query have around it, of a model that is asked in words. It stays when a query is cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wrapping {
    pub num_before_query: usize,
    /// Ids of the words after it, by themselves.
    pub after_query: Vec<u32>,
}

/// Ids of each text of the inputs without special tokens, in the order of [`text_at`].
pub type TextIds = Vec<Vec<u32>>;

/// The number of texts in a request, every query counted once.
pub(super) fn num_texts(inputs: &Inputs) -> usize {
    match inputs {
        Inputs::OneQuery { documents, .. } => 1 + documents.len(),
        Inputs::Pairs(pairs) => 2 * pairs.len(),
        Inputs::Texts(texts) | Inputs::Documents(texts) => texts.len(),
        // They are no texts any more.
        Inputs::Tokens(_) => 0,
    }
}

/// Text `i` of a request: queries stand before their documents.
pub(super) fn text_at(inputs: &Inputs, i: usize) -> &str {
    match inputs {
        Inputs::OneQuery { query, .. } if i == 0 => query,
        Inputs::OneQuery { documents, .. } => &documents[i - 1],
        Inputs::Pairs(pairs) if i.is_multiple_of(2) => &pairs[i / 2].0,
        Inputs::Pairs(pairs) => &pairs[i / 2].1,
        Inputs::Texts(texts) | Inputs::Documents(texts) => &texts[i],
        Inputs::Tokens(_) => unreachable!("text {i} of a request that has none"),
    }
}

/// Whether text `i` of a request is a query.
pub(super) fn is_query(inputs: &Inputs, i: usize) -> bool {
    match inputs {
        Inputs::OneQuery { .. } => i == 0,
        Inputs::Pairs(_) => i.is_multiple_of(2),
        Inputs::Texts(_) | Inputs::Tokens(_) | Inputs::Documents(_) => false,
    }
}

/// Builds the sequences of a request.
///
/// # Errors
/// [`Error::TooLong`] when a text does not fit and the request refuses truncation.
pub fn assemble(
    inputs: &Inputs,
    ids: &TextIds,
    rules: &Rules,
    truncation: &Truncation,
) -> Result<Tokenized, Error> {
    let ids = if let Inputs::Tokens(texts) = inputs { texts } else { ids };
    let num_tokens: usize = ids.iter().map(Vec::len).sum();
    let query_tokens = match inputs {
        Inputs::OneQuery { .. } if rules.form == Form::Pair => ids[0].len() * inputs.len(),
        _ => 0,
    };
    let capacity = num_tokens + query_tokens + inputs.len() * rules.template.num_special_in_pair();
    let mut assembly = Assembly {
        rules,
        truncation,
        max_length: truncation
            .max_tokens_per_pair
            .map_or(rules.max_length, |limit| limit.min(rules.max_length)),
        field: match inputs {
            Inputs::OneQuery { .. } | Inputs::Pairs(_) | Inputs::Documents(_) => "documents",
            Inputs::Texts(_) | Inputs::Tokens(_) => "input",
        },
        sequences: Sequences::with_capacity(capacity, inputs.len() + 1),
        items: Vec::with_capacity(inputs.len()),
    };
    match inputs {
        Inputs::OneQuery { .. } => assembly.one_query(&ids[0], &ids[1..])?,
        Inputs::Pairs(_) => {
            for (i, pair) in ids.chunks_exact(2).enumerate() {
                assembly.pair_of(i, &pair[0], &pair[1])?;
            }
        }
        Inputs::Texts(_) | Inputs::Documents(_) => {
            for (i, text) in ids.iter().enumerate() {
                assembly.text(i, text, truncation.max_tokens_per_doc, None)?;
            }
        }
        Inputs::Tokens(_) => {
            for (i, ids) in ids.iter().enumerate() {
                let text = rules.template.inside_single(ids);
                assembly.text(i, text, truncation.max_tokens_per_doc, None)?;
            }
        }
    }
    Ok(Tokenized { sequences: assembly.sequences, items: assembly.items })
}

struct Assembly<'a> {
    rules: &'a Rules,
    truncation: &'a Truncation,
    max_length: usize,
    /// What errors call the texts.
    field: &'static str,
    sequences: Sequences,
    items: Vec<Item>,
}

impl Assembly<'_> {
    fn one_query(&mut self, query: &[u32], documents: &[Vec<u32>]) -> Result<(), Error> {
        match self.rules.form {
            Form::Pair => {
                for (i, document) in documents.iter().enumerate() {
                    self.pair(i, query, document)?;
                }
            }
            Form::Single => {
                let query_sequence = self.query(query)?;
                for (i, document) in documents.iter().enumerate() {
                    let limit = self.truncation.max_tokens_per_doc;
                    self.text(i, document, limit, Some(query_sequence))?;
                }
            }
        }
        Ok(())
    }

    fn pair_of(&mut self, i: usize, query: &[u32], document: &[u32]) -> Result<(), Error> {
        match self.rules.form {
            Form::Pair => self.pair(i, query, document),
            Form::Single => {
                let query_sequence = self.query(query)?;
                let limit = self.truncation.max_tokens_per_doc;
                self.text(i, document, limit, Some(query_sequence))
            }
        }
    }

    /// A cross-encoder's sequences for one query and one document.
    fn pair(&mut self, i: usize, query: &[u32], document: &[u32]) -> Result<(), Error> {
        let whole = query.len() + document.len();
        let words = self.rules.wrapping.num_before_query + self.rules.wrapping.after_query.len();
        let limit = self.truncation.max_tokens_per_query.map(|limit| limit + words);
        let query = self.cut_query(query, limit);
        let document = self.cut(document, self.truncation.max_tokens_per_doc);
        let room =
            self.room(self.rules.template.num_special_in_pair(), "truncate_prompt_tokens")?;
        let fits = query.len() + document.len() <= room;
        if !fits && self.truncation.overflow == Overflow::Refuse {
            return Err(self.too_long(i, query.len() + document.len(), room));
        }
        let begin = self.sequences.len();
        let chunk_len = room - query.len().min(room / 2);
        let kept = if self.truncation.max_chunks_per_doc <= 1 || document.len() <= chunk_len {
            let (query_len, document_len) =
                longest_first(query.len(), document.len(), room, self.max_length);
            let query = self.cut_query(&query, Some(query_len));
            let document = self.cut(document, Some(document_len));
            self.push_pair(&query, document);
            query.len() + document.len()
        } else {
            let query = self.cut_query(&query, Some(room / 2));
            let most = chunk_len * self.truncation.max_chunks_per_doc;
            let document = self.cut(document, Some(most));
            for chunk in document.chunks(chunk_len) {
                self.push_pair(&query, chunk);
            }
            query.len() + document.len()
        };
        let sequences = begin..self.sequences.len();
        self.items.push(Item { query_sequence: None, sequences, truncated_tokens: whole - kept });
        Ok(())
    }

    fn query(&mut self, query: &[u32]) -> Result<usize, Error> {
        let room = self.room_alone(Role::Query)?;
        let query = self.cut(query, self.truncation.max_tokens_per_query);
        if query.len() > room && self.truncation.overflow == Overflow::Refuse {
            let message = length_message(room, query.len());
            return Err(Error::TooLong { field: "query".into(), message });
        }
        self.push_single(self.cut(query, Some(room)), Role::Query);
        Ok(self.sequences.len() - 1)
    }

    /// The sequences of a text that stands alone.
    fn text(
        &mut self,
        i: usize,
        text: &[u32],
        limit: Option<usize>,
        query_sequence: Option<usize>,
    ) -> Result<(), Error> {
        let room = self.room_alone(Role::Document)?;
        let cut = self.cut(text, limit);
        if cut.len() > room && self.truncation.overflow == Overflow::Refuse {
            return Err(self.too_long(i, cut.len(), room));
        }
        let kept = self.cut(cut, Some(room * self.truncation.max_chunks_per_doc.max(1)));
        let begin = self.sequences.len();
        if kept.is_empty() {
            self.push_single(&[], Role::Document);
        }
        for chunk in kept.chunks(room) {
            self.push_single(chunk, Role::Document);
        }
        let truncated_tokens = text.len() - kept.len();
        let sequences = begin..self.sequences.len();
        self.items.push(Item { query_sequence, sequences, truncated_tokens });
        Ok(())
    }

    fn push_pair(&mut self, query: &[u32], document: &[u32]) {
        let Template { prefix, middle, suffix, first_segment_of_middle, .. } = &self.rules.template;
        let whole = query.len() + document.len() + self.rules.template.num_special_in_pair();
        let first_segment_len = first_segment_of_middle
            .map_or(whole, |in_middle| prefix.len() + query.len() + in_middle);
        self.sequences.push(&[prefix, query, middle, document, suffix], first_segment_len);
    }

    fn push_single(&mut self, text: &[u32], role: Role) {
        let Template { single_prefix, single_suffix, .. } = &self.rules.template;
        let marker = self.marker(role);
        let parts: [&[u32]; 4] = [single_prefix, marker.as_slice(), text, single_suffix];
        let len: usize = parts.iter().map(|part| part.len()).sum();
        match self.rules.roles.as_ref().and_then(|roles| roles.expansion) {
            Some(Mask { token, is_attended }) if role == Role::Query => {
                let num_more = self.max_length_alone(role).saturating_sub(len);
                if is_attended {
                    let masks = vec![token; num_more];
                    let parts = [&parts[..], &[masks.as_slice()]].concat();
                    self.sequences.push(&parts, len + num_more);
                } else {
                    self.sequences.push_expanded(&parts, token, num_more);
                }
            }
            _ => self.sequences.push(&parts, len),
        }
    }

    fn marked(&self, role: Role) -> Option<&Marked> {
        let roles = self.rules.roles.as_ref()?;
        Some(if role == Role::Query { &roles.query } else { &roles.document })
    }

    fn marker(&self, role: Role) -> Option<u32> {
        self.marked(role)?.marker
    }

    fn max_length_alone(&self, role: Role) -> usize {
        self.marked(role).map_or(self.max_length, |marked| marked.max_length.min(self.max_length))
    }

    /// Tokens left for a text that stands alone.
    fn room_alone(&self, role: Role) -> Result<usize, Error> {
        let num_special =
            self.rules.template.num_special_in_single() + usize::from(self.marker(role).is_some());
        self.room_in(self.max_length_alone(role), num_special, "truncate_prompt_tokens")
    }

    /// Tokens left for text beside `num_special` special tokens; at least one for each of two texts.
    fn room(&self, num_special: usize, field: &str) -> Result<usize, Error> {
        self.room_in(self.max_length, num_special, field)
    }

    fn room_in(&self, max_length: usize, num_special: usize, field: &str) -> Result<usize, Error> {
        let room = max_length.saturating_sub(num_special);
        if room < 2 {
            let message = format!(
                "{max_length} tokens leave no room for text beside {num_special} special tokens"
            );
            return Err(Error::invalid(field, message));
        }
        Ok(room)
    }

    /// Keeps at most `limit` ids, from the side the request asks for.
    fn cut<'t>(&self, text: &'t [u32], limit: Option<usize>) -> &'t [u32] {
        let keep = limit.map_or(text.len(), |limit| limit.min(text.len()));
        match self.truncation.side {
            Side::Right => &text[..keep],
            Side::Left => &text[text.len() - keep..],
        }
    }

    /// Of a query with words around it, those stay and its end goes.
    fn cut_query<'t>(&self, query: &'t [u32], limit: Option<usize>) -> Cow<'t, [u32]> {
        let Wrapping { num_before_query, after_query } = &self.rules.wrapping;
        let limit = limit.unwrap_or(query.len());
        if query.len() <= limit || (after_query.is_empty() && *num_before_query == 0) {
            return Cow::Borrowed(self.cut(query, Some(limit)));
        }
        let after = &after_query[..limit.min(after_query.len())];
        Cow::Owned([&query[..limit - after.len()], after].concat())
    }

    fn too_long(&self, i: usize, num_tokens: usize, room: usize) -> Error {
        let num_special = self.max_length - room;
        let message = length_message(self.max_length, num_tokens + num_special);
        Error::TooLong { field: format!("{}[{i}]", self.field), message }
    }
}

/// vLLM's words, which clients match on.
fn length_message(max_length: usize, num_tokens: usize) -> String {
    format!(
        "This model's maximum context length is {max_length} tokens. However, your prompt contains at \
         least {num_tokens} input tokens, which exceeds this limit even without any output tokens. \
         Please reduce the length of the input prompt. (parameter=input_tokens, value={num_tokens})"
    )
}

/// Lengths to which a pair is cut: the longer text gives way first, both end at half of `room`. The rule of
/// Hugging Face's `longest_first`, which sentence-transformers applies to pairs. Each text is first cut to
/// `max_length` by itself, which decides who is the longer of two that both exceed it.
fn longest_first(query: usize, document: usize, room: usize, max_length: usize) -> (usize, usize) {
    let (query, document) = (query.min(max_length), document.min(max_length));
    if query + document <= room {
        return (query, document);
    }
    let short = query.min(document);
    let mut cut = (short, room.saturating_sub(short).max(short));
    if cut.0 + cut.1 > room {
        cut = (room / 2, room / 2 + room % 2);
    }
    if query > document { (cut.1, cut.0) } else { cut }
}
