//! The models in the repository give the scores that transformers gives, on every instruction set here.

use rerankd::engine::cpu::Isa;
use rerankd::engine::packed::Packed;
use rerankd::model::head::cosine;
use rerankd::model::loader::{LoadOptions, LoadedModel, load};
use rerankd::model::source::ModelFiles;
use serde::Deserialize;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{AddedToken, Tokenizer};

/// Reference logits are written with six decimals; sums over 1,536 products in another order move the
/// sixth significant digit of logits around 10.
const TOLERANCE: f32 = 2e-4;

#[derive(Deserialize)]
struct Golden {
    query: String,
    document: String,
    logits: Option<Vec<f32>>,
    cosine: Option<f32>,
}

#[derive(Deserialize)]
struct Settings {
    do_lower_case: bool,
}

#[derive(Deserialize)]
struct EncoderSettings {
    max_seq_length: usize,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn golden(name: &str) -> Vec<Golden> {
    let path = root().join(format!("tests/golden/{name}.json"));
    serde_json::from_slice(&std::fs::read(&path).expect("the golden file")).expect("golden pairs")
}

fn tokenizer(folder: &Path) -> Tokenizer {
    let file = folder.join("tokenizer.json");
    if file.exists() {
        let mut tokenizer = Tokenizer::from_file(file).expect("a tokenizer");
        tokenizer.with_truncation(None).expect("no truncation").with_padding(None);
        return tokenizer;
    }
    let vocab = folder.join("vocab.txt");
    let model = WordPiece::from_file(vocab.to_str().expect("a UTF-8 path"))
        .unk_token("[UNK]".to_owned())
        .build()
        .expect("a vocabulary");
    let mut tokenizer = Tokenizer::new(model);
    let settings = std::fs::read(folder.join("tokenizer_config.json")).expect("its settings");
    let settings: Settings = serde_json::from_slice(&settings).expect("its settings");
    let lowercase = settings.do_lower_case;
    let normalizer = BertNormalizer::new(true, true, None, lowercase);
    tokenizer.with_normalizer(Some(normalizer)).expect("a normalizer");
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let special = special.map(|token| AddedToken::from(token, true));
    tokenizer.add_special_tokens(special).expect("special tokens");
    tokenizer
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, false).expect("token ids").get_ids().to_vec()
}

fn load_on(folder: &Path, isa: Isa) -> LoadedModel {
    let files = ModelFiles::open_folder(folder).expect("a model folder");
    let options = LoadOptions { isa: Some(isa), threads: NonZeroUsize::new(2) };
    load(&files, &options).expect("a model")
}

/// `[CLS] query [SEP] document [SEP]`; a long pair loses the end of the document, a query above half the
/// limit is cut to it.
fn pack_pairs(tokenizer: &Tokenizer, pairs: &[Golden], limit: usize) -> Packed {
    let cls = tokenizer.token_to_id("[CLS]").expect("[CLS]");
    let sep = tokenizer.token_to_id("[SEP]").expect("[SEP]");
    let mut batch = Packed::with_capacity(0, 0);
    for pair in pairs {
        let (mut query, mut document) =
            (ids(tokenizer, &pair.query), ids(tokenizer, &pair.document));
        query.truncate(limit / 2);
        document.truncate(limit - 3 - query.len());
        let sequence = [&[cls], &query[..], &[sep], &document[..], &[sep]].concat();
        batch.push(&sequence, query.len() + 2);
    }
    batch
}

fn check_logits(name: &str, folder: &str) {
    let folder = root().join(folder);
    let (tokenizer, pairs) = (tokenizer(&folder), golden(name));
    for isa in Isa::available() {
        let mut model = load_on(&folder, isa);
        // The other kernels are slower and share all but their arithmetic: a part of the pairs will do.
        let pairs = if isa == Isa::detect() { &pairs[..] } else { &pairs[..pairs.len().min(24)] };
        let batch = pack_pairs(&tokenizer, pairs, model.max_length);
        let mut logits = vec![0.0; pairs.len() * model.width];
        model.scorer.score(&batch, &mut logits).expect("scores");
        let mut worst = 0f32;
        for (i, (pair, got)) in pairs.iter().zip(logits.chunks(model.width)).enumerate() {
            let expected = pair.logits.as_ref().expect("logits");
            assert_eq!(expected.len(), got.len());
            for (expected, got) in expected.iter().zip(got) {
                let difference = (expected - got).abs();
                assert!(difference <= TOLERANCE, "{isa:?} pair {i}: {got}, not {expected}");
                worst = worst.max(difference);
            }
        }
        println!("{name} on {isa:?}: largest difference {worst:e}");
    }
}

#[test]
fn the_default_model_gives_the_reference_logits() {
    check_logits("default", "models/default");
}

#[test]
fn a_model_with_two_labels_gives_the_reference_logits() {
    check_logits("tiny-bert", "tests/golden/tiny-bert");
}

#[test]
fn an_encoder_gives_the_reference_cosines() {
    let folder = root().join("tests/golden/tiny-encoder");
    let (tokenizer, pairs) = (tokenizer(&folder), golden("tiny-encoder"));
    let settings = std::fs::read(folder.join("sentence_bert_config.json")).expect("its settings");
    let settings: EncoderSettings = serde_json::from_slice(&settings).expect("its settings");
    let limit = settings.max_seq_length;
    for isa in Isa::available() {
        let mut model = load_on(&folder, isa);
        let mut batch = Packed::with_capacity(0, 0);
        for text in pairs.iter().flat_map(|pair| [&pair.query, &pair.document]) {
            let mut tokens = ids(&tokenizer, text);
            tokens.truncate(limit - 2);
            let cls = tokenizer.token_to_id("[CLS]").expect("[CLS]");
            let sep = tokenizer.token_to_id("[SEP]").expect("[SEP]");
            let sequence = [&[cls], &tokens[..], &[sep]].concat();
            batch.push(&sequence, sequence.len());
        }
        let mut vectors = vec![0.0; batch.num_sequences() * model.width];
        model.scorer.score(&batch, &mut vectors).expect("vectors");
        for (i, (pair, both)) in pairs.iter().zip(vectors.chunks(2 * model.width)).enumerate() {
            let (query, document) = both.split_at(model.width);
            let (got, expected) = (cosine(query, document).raw, pair.cosine.expect("a cosine"));
            assert!((got - expected).abs() <= TOLERANCE, "{isa:?} pair {i}: {got}, not {expected}");
        }
    }
}
