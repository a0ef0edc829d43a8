//! Files that operators bring: settings, keys, models, collections.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use rerankd::cli;
use rerankd::config::{self, Config, Machine};
use rerankd::engine::Dtype;
use rerankd::model::loader::LoadOptions;
use rerankd::model::source::ModelFiles;
use rerankd::model::weights::Weights;
use rerankd::request::{Inputs, Truncation};
use rerankd::rerank;
use rerankd::tenant::file::KeysFile;
use tempfile::TempDir;

/// The settings of `--config`.
pub fn config_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(file) = config::parse_file(text) {
        let machine =
            Machine { threads: 2, has_gpu: false, memory_bytes: 1 << 34, is_shared: false };
        // Refused or not, it is said of which setting.
        if let Err(error) = Config::new(&file.model, file.serve, file.models, machine) {
            assert!(!error.to_string().is_empty());
        }
    }
}

pub fn keys_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = KeysFile::parse(text) {
        assert!(!error.to_string().is_empty());
    }
}

/// A model's `config.json`, for the weights of the family that the first byte chooses.
pub fn config_json(bytes: &[u8]) {
    const FAMILIES: [&str; 6] = [
        "tiny-bert",
        "tiny-encoder",
        "tiny-modernbert",
        "tiny-qwen3-score",
        "tiny-roberta",
        "tiny-distilbert",
    ];
    let Some((first, rest)) = bytes.split_first() else { return };
    load(FAMILIES[usize::from(*first) % FAMILIES.len()], "config.json", rest);
}

pub fn modules_json(bytes: &[u8]) {
    load("tiny-encoder", "modules.json", bytes);
}

pub fn golden_json(bytes: &[u8]) {
    load("tiny-bert", "golden.json", bytes);
}

/// And if it is one, how it cuts a text.
pub fn tokenizer_json(bytes: &[u8]) {
    load("tiny-distilbert", "tokenizer.json", bytes);
}

pub fn vocab_txt(bytes: &[u8]) {
    load("tiny-bert", "vocab.txt", bytes);
}

/// A file of weights, and some of its tensors.
pub fn safetensors(bytes: &[u8]) {
    let folder = folder_with("model.safetensors", bytes);
    let files = ModelFiles::open_folder(folder.path()).expect("it is there");
    if let Ok(weights) = Weights::open(&files) {
        for (name, shape) in [("a", &[2, 2][..]), ("a", &[4]), ("b", &[1, 3]), ("c", &[0])] {
            if let Ok(values) = weights.tensor(name, shape) {
                assert_eq!(values.len(), shape.iter().product::<usize>());
                assert!(values.iter().all(|value| value.is_finite()));
            }
        }
    }
}

pub fn safetensors_index(bytes: &[u8]) {
    load("tiny-encoder", "model.safetensors.index.json", bytes);
}

/// Queries in either form: a file that begins as an object is read as JSON lines.
pub fn queries(bytes: &[u8]) {
    let name = if bytes.starts_with(b"{") { "queries.jsonl" } else { "queries.tsv" };
    evaluate(name, bytes);
}

pub fn corpus(bytes: &[u8]) {
    evaluate("corpus.jsonl", bytes);
}

pub fn qrels(bytes: &[u8]) {
    evaluate("qrels.tsv", bytes);
}

pub fn candidates(bytes: &[u8]) {
    evaluate("candidates.tsv", bytes);
}

/// A model of the tests.
pub fn model(name: &str) -> PathBuf {
    // Of the fuzz package or of the root: the folder is found from either.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().find(|folder| folder.join("tests/golden").is_dir());
    root.expect("the tests are part of the repository").join("tests/golden").join(name)
}

fn folder_with(file: &str, bytes: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().expect("there is room");
    std::fs::write(folder.path().join(file), bytes).expect("there is room");
    folder
}

/// Loads `base` with `file` in place of its own, and scores a pair if that worked.
fn load(base: &str, file: &str, bytes: &[u8]) {
    let folder = folder_with(file, bytes);
    for entry in std::fs::read_dir(model(base)).expect("the model is there") {
        let entry = entry.expect("the folder can be read");
        if entry.file_name() != file {
            let link = folder.path().join(entry.file_name());
            std::os::unix::fs::symlink(entry.path(), link).expect("there is room");
        }
    }
    let files = ModelFiles::open_folder(folder.path()).expect("it is there");
    let threads = NonZeroUsize::new(1);
    let options = LoadOptions { threads, dtype: Some(Dtype::F32), ..LoadOptions::default() };
    match rerank::prepare(&files, &options) {
        Ok(prepared) => {
            let documents = vec!["Ünïcode, \u{1F980} and\0 such".to_owned(), "a b".to_owned()];
            let inputs = Inputs::OneQuery { query: "what is it".to_owned(), documents };
            // What does not fit is refused.
            let _ = prepared.encoder.tokenize(&inputs, &Truncation::default());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Reads a whole collection with `file` in place of its own. The plot that cannot be written ends the command
/// before the server is asked.
fn evaluate(file: &str, bytes: &[u8]) {
    let folder = folder_with(file, bytes);
    for (name, text) in [
        ("queries.tsv", "1\twhat is it\n2\twho is it\n"),
        ("corpus.jsonl", "{\"id\": \"a\", \"text\": \"it\"}\n{\"_id\": 7, \"title\": \"t\"}\n"),
        ("qrels.tsv", "1\ta\t2\n2\t7\t1\n"),
        ("candidates.tsv", "1\ta\t1\t0.5\n1\t7\t2\t0.25\n2\t7\t1\t0.5\n"),
    ] {
        let is_replaced = name == file || (name == "queries.tsv" && file == "queries.jsonl");
        if !is_replaced {
            std::fs::write(folder.path().join(name), text).expect("there is room");
        }
    }
    let plot = folder.path().join("no/folder.svg");
    let [folder, plot] = [folder.path(), &plot].map(|path| path.display().to_string());
    let server = "http://localhost:1";
    let code = cli::run_as(["rerankd", "eval", &folder, "--server", server, "--plot", &plot]);
    assert_ne!(code, std::process::ExitCode::SUCCESS);
}
