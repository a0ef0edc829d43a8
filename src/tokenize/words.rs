//! BERT's rules for words in ASCII, without the general machinery.
//!
//! The library keeps for every byte where it came from, through each of its steps; that is nine tenths of the time
//! that English text takes. Here a word is looked up in the vocabulary as it stands, and only what is not ASCII,
//! or may be a special token, goes the long way. Both ways give the same ids (`tests/tokenizing.rs`).

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{Model, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Result, Tokenizer};

/// The rules of a tokenizer whose words are cut at whitespace and punctuation and then into word pieces.
#[derive(Debug)]
pub(super) struct Words {
    lowercase: bool,
    /// Bytes that may stand in a word that is read here: no control character, and none that begins a special token.
    is_plain: [bool; 256],
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

impl Words {
    /// `None` for a tokenizer with other rules.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let Some(NormalizerWrapper::BertNormalizer(normalizer)) = tokenizer.get_normalizer() else {
            return None;
        };
        let is_bert = matches!(
            (tokenizer.get_pre_tokenizer(), tokenizer.get_model()),
            (Some(PreTokenizerWrapper::BertPreTokenizer(_)), ModelWrapper::WordPiece(_))
        );
        let mut is_plain = [false; 256];
        (b'!'..=b'~').for_each(|byte| is_plain[usize::from(byte)] = true);
        for token in tokenizer.get_added_vocabulary().get_added_tokens_decoder().values() {
            let first = token.content.bytes().next()?;
            // Nearly every text has such a byte; and what spans words is not found word by word.
            if first.is_ascii_alphanumeric() || token.content.bytes().any(is_space) {
                return None;
            }
            is_plain[usize::from(first)] = false;
        }
        is_bert.then_some(Self { lowercase: normalizer.lowercase, is_plain })
    }

    /// The ids of `text`, as `tokenizer`, whose rules these are, would give them.
    ///
    /// # Errors
    /// A failure of the tokenizer.
    pub(super) fn ids(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        let ModelWrapper::WordPiece(pieces) = tokenizer.get_model() else {
            return Ok(tokenizer.encode_fast(text, false)?.get_ids().to_vec());
        };
        // English has 4 to 5 bytes a token.
        let mut ids = Vec::with_capacity(text.len() / 4);
        let mut word = String::new();
        let bytes = text.as_bytes();
        let mut begin = 0;
        while begin < bytes.len() {
            let is_plain = |byte: u8| self.is_plain[usize::from(byte)];
            let rest = &bytes[begin..];
            let len = rest.iter().position(|byte| is_space(*byte)).unwrap_or(rest.len());
            if rest[..len].iter().all(|byte| is_plain(*byte)) {
                self.push_word(pieces, &text[begin..begin + len], &mut word, &mut ids)?;
                begin += len + 1;
            } else {
                let end = begin + self.end_of_others(rest);
                ids.extend_from_slice(tokenizer.encode_fast(&text[begin..end], false)?.get_ids());
                begin = end;
            }
        }
        Ok(ids)
    }

    /// Where the run of words that are not read here ends, so that text in another script is taken as a whole.
    fn end_of_others(&self, bytes: &[u8]) -> usize {
        let mut end = 0;
        for word in bytes.split_inclusive(|byte| is_space(*byte)) {
            let is_other = |byte: &u8| !self.is_plain[usize::from(*byte)] && !is_space(*byte);
            if !word.iter().any(is_other) {
                break;
            }
            end += word.len();
        }
        end
    }

    /// The ids of a word between spaces, cut at its punctuation. `buffer` is only for reuse.
    fn push_word(
        &self,
        pieces: &WordPiece,
        word: &str,
        buffer: &mut String,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        buffer.clear();
        buffer.push_str(word);
        if self.lowercase {
            buffer.make_ascii_lowercase();
        }
        let mut begin = 0;
        while begin < buffer.len() {
            let rest = &buffer[begin..];
            let len = rest.bytes().position(|byte| byte.is_ascii_punctuation());
            // Punctuation is a word of one byte.
            let len = len.unwrap_or(rest.len()).max(1);
            push_pieces(pieces, &rest[..len], ids)?;
            begin += len;
        }
        Ok(())
    }
}

/// The longest piece comes first, so that a word of the vocabulary is one piece, unless it is too long to be looked
/// up at all.
fn push_pieces(pieces: &WordPiece, word: &str, ids: &mut Vec<u32>) -> Result<()> {
    match pieces.token_to_id(word) {
        Some(id) if word.len() <= pieces.max_input_chars_per_word => ids.push(id),
        _ => ids.extend(pieces.tokenize(word)?.into_iter().map(|piece| piece.id)),
    }
    Ok(())
}
