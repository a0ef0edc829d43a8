//! What becomes of texts that do not fit: cut by one known rule, or in chunks, and always told.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use proptest::prelude::*;
use rerankd::error::Error;
use rerankd::model::prompt::Prompt;
use rerankd::model::source::ModelFiles;
use rerankd::request::{Inputs, Overflow, Side, Truncation};
use rerankd::tokenize::{Encoder, Form, Tokenized, load};
use tokenizers::{Tokenizer, TruncationParams, TruncationStrategy};

/// Short, so that small texts overflow it.
const MAX_LENGTH: usize = 32;
const SPECIAL: usize = 3;

fn tokenizer() -> Tokenizer {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert");
    load(&ModelFiles::open_folder(&folder).unwrap(), usize::MAX).unwrap().tokenizer
}

fn encoder(form: Form) -> Encoder {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert");
    let loaded = load(&ModelFiles::open_folder(&folder).unwrap(), usize::MAX).unwrap();
    Encoder::new(loaded, form, MAX_LENGTH).unwrap()
}

/// `n` words of one token each, all different from their neighbours.
fn words(n: usize) -> String {
    (0..n).map(|i| ["a", "b", "c", "d", "e"][i % 5]).collect::<Vec<_>>().join(" ")
}

fn rerank(query: &str, documents: &[String], truncation: &Truncation) -> Result<Tokenized, Error> {
    let inputs = Inputs::OneQuery { query: query.into(), documents: documents.to_vec() };
    encoder(Form::Pair).tokenize(&inputs, truncation)
}

/// An encoder whose model is asked in words, one token each.
fn asking(max_length: usize) -> Encoder {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert");
    let loaded = load(&ModelFiles::open_folder(&folder).unwrap(), usize::MAX).unwrap();
    let around = |before: &str, after: &str| [before.to_owned(), after.to_owned()];
    let prompt = Prompt {
        prefix: "[CLS] i".to_owned(),
        query: around("q q ", " r"),
        document: around("s ", ""),
        suffix: "t [SEP]".to_owned(),
        answers: around("n", "y").to_vec(),
    };
    Encoder::prompting(loaded, &prompt, max_length).unwrap()
}

#[test]
fn a_prompt_stays_whole_when_its_texts_are_cut() {
    let encoder = asking(MAX_LENGTH);
    let ids = |text: &str| encoder.ids(text).unwrap();
    let sequence = |query: usize, document: usize, truncation: &Truncation| {
        let pair = Inputs::Pairs(vec![(words(query), words(document))]);
        let tokenized = encoder.tokenize(&pair, truncation).unwrap();
        (tokenized.sequences.get(0).0.to_vec(), tokenized.items[0].truncated_tokens)
    };
    let whole = Truncation::default();
    let expected = format!("[CLS] i q q {} r s {} t [SEP]", words(3), words(4));
    assert_eq!(sequence(3, 4, &whole), (ids(&expected), 0));
    // Eight tokens are the prompt's; the longer text gives way.
    let expected = format!("[CLS] i q q {} r s {} t [SEP]", words(3), words(21));
    assert_eq!(sequence(3, 40, &whole), (ids(&expected), 19));
    // Of two that are too long each keeps half of what the prompt leaves, its words included.
    let expected = format!("[CLS] i q q {} r s {} t [SEP]", words(11), words(13));
    assert_eq!(sequence(30, 30, &whole), (ids(&expected), 36));
    // What a request lets a query have is of its own tokens.
    let short = Truncation { max_tokens_per_query: Some(2), ..Truncation::default() };
    let expected = format!("[CLS] i q q {} r s {} t [SEP]", words(2), words(4));
    assert_eq!(sequence(5, 4, &short), (ids(&expected), 3));
}

#[test]
fn a_model_that_is_asked_in_words_takes_no_single_text() {
    let refused =
        asking(MAX_LENGTH).tokenize(&Inputs::Texts(vec!["a".into()]), &Truncation::default());
    assert!(matches!(refused, Err(Error::NotSupported(_))), "{refused:?}");
}

proptest! {
    #[test]
    fn pairs_are_cut_as_hugging_face_cuts_them(query in 0usize..60, document in 0usize..60) {
        let mut reference = tokenizer();
        let params = TruncationParams {
            max_length: MAX_LENGTH,
            strategy: TruncationStrategy::LongestFirst,
            ..TruncationParams::default()
        };
        reference.with_truncation(Some(params)).unwrap();
        let (query, document) = (words(query), words(document));
        let expected = reference.encode((query.as_str(), document.as_str()), true).unwrap();
        let tokenized = rerank(&query, &[document], &Truncation::default()).unwrap();
        let (input_ids, first_segment_len) = tokenized.sequences.get(0);
        prop_assert_eq!(input_ids, expected.get_ids());
        let first_types = expected.get_type_ids().iter().filter(|&&t| t == 0).count();
        prop_assert_eq!(first_segment_len, first_types);
    }

    #[test]
    fn no_token_is_lost_without_being_told(
        query in 0usize..40,
        documents in prop::collection::vec(0usize..200, 1..5),
        max_chunks_per_doc in 1usize..6,
        per_doc in prop::option::of(1usize..100),
        side in prop_oneof![Just(Side::Left), Just(Side::Right)],
    ) {
        let truncation = Truncation {
            max_chunks_per_doc,
            max_tokens_per_doc: per_doc,
            side,
            ..Truncation::default()
        };
        let texts: Vec<_> = documents.iter().map(|&n| words(n)).collect();
        let tokenized = rerank(&words(query), &texts, &truncation).unwrap();
        prop_assert_eq!(tokenized.items.len(), documents.len());
        for (item, document) in tokenized.items.iter().zip(documents) {
            prop_assert!((1..=max_chunks_per_doc).contains(&item.sequences.len()));
            let lens: Vec<_> =
                item.sequences.clone().map(|i| tokenized.sequences.seqlen(i)).collect();
            prop_assert!(lens.iter().all(|&len| len <= MAX_LENGTH));
            // Every chunk repeats what was kept of the query.
            let kept_query = tokenized.sequences.get(item.sequences.start).1 - 2;
            let kept: usize = lens.iter().map(|len| len - SPECIAL - kept_query).sum();
            prop_assert_eq!(kept + kept_query + item.truncated_tokens, query + document);
        }
    }
}

#[test]
fn cutting_on_the_left_keeps_the_end() {
    let truncation =
        Truncation { max_tokens_per_doc: Some(2), side: Side::Left, ..Truncation::default() };
    let tokenized = rerank("a", &["b c d e".into()], &truncation).unwrap();
    let expected = rerank("a", &["d e".into()], &Truncation::default()).unwrap();
    assert_eq!(tokenized.sequences.get(0), expected.sequences.get(0));
    assert_eq!(tokenized.items[0].truncated_tokens, 2);
}

#[test]
fn a_request_that_wants_no_cutting_is_told_which_document_is_too_long() {
    let truncation = Truncation { overflow: Overflow::Refuse, ..Truncation::default() };
    let error = rerank("a", &["b".into(), words(100)], &truncation).unwrap_err();
    assert_eq!(error.field(), Some("documents[1]"));
    assert!(error.to_string().contains("maximum context length is 32 tokens"), "{error}");
    assert!(rerank("a", &[words(MAX_LENGTH - SPECIAL - 1)], &truncation).is_ok());
}

#[test]
fn a_limit_that_leaves_no_room_for_text_is_an_error() {
    let truncation = Truncation { max_tokens_per_pair: Some(4), ..Truncation::default() };
    let error = rerank("a", &["b".into()], &truncation).unwrap_err();
    assert_eq!(error.verdict().status, 400);
}

#[test]
fn empty_texts_are_sequences_too() {
    let tokenized = rerank("", &[String::new(), "a".into()], &Truncation::default()).unwrap();
    assert_eq!(tokenized.sequences.seqlen(0), SPECIAL);
    assert_eq!(tokenized.sequences.seqlen(1), SPECIAL + 1);
}

#[test]
fn an_encoder_gets_each_text_alone_and_the_query_once() {
    let inputs = Inputs::OneQuery { query: "a b".into(), documents: vec!["c".into(), words(70)] };
    let chunked = Truncation { max_chunks_per_doc: 2, ..Truncation::default() };
    let tokenized = encoder(Form::Single).tokenize(&inputs, &chunked).unwrap();
    assert_eq!(tokenized.sequences.len(), 4, "one query, one document, two chunks");
    assert!(tokenized.items.iter().all(|item| item.query_sequence == Some(0)));
    assert_eq!(tokenized.items[1].sequences, 2..4);
    assert_eq!(tokenized.items[1].truncated_tokens, 70 - 2 * (MAX_LENGTH - 2));
}
