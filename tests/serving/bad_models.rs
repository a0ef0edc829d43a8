//! A model that cannot be served: one line that names the file and what is wrong in it, exit code 1.

use std::path::Path;

use tempfile::TempDir;

use crate::support::*;

/// A copy of the tiny model, changed by `change`.
fn changed(change: impl FnOnce(&Path)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(tiny_bert()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    change(folder.path());
    folder
}

/// What `rerankd rerank` says about the model in `folder`.
fn complaint(folder: &Path) -> String {
    let output = rerankd()
        .args(["rerank", "query", "/dev/null", "--model"])
        .arg(folder)
        .output()
        .expect("the binary runs");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "more than one line: {text}");
    text
}

fn edit(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn weights(folder: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let path = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[track_caller]
fn names(folder: &TempDir, parts: &[&str]) {
    let complaint = complaint(folder.path());
    for part in parts {
        assert!(complaint.contains(part), "'{part}' is not in: {complaint}");
    }
}

#[test]
fn truncated_weights_are_named() {
    let folder = changed(|f| weights(f, |bytes| bytes.truncate(bytes.len() / 2)));
    names(&folder, &["model.safetensors"]);
}

#[test]
fn a_header_that_claims_to_be_huge_is_named() {
    let folder =
        changed(|f| weights(f, |bytes| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes())));
    names(&folder, &["model.safetensors"]);
}

#[test]
fn an_empty_weights_file_is_named() {
    names(&changed(|f| weights(f, Vec::clear)), &["model.safetensors"]);
}

#[test]
fn a_config_that_does_not_fit_the_weights_names_the_tensor_and_both_shapes() {
    let folder = changed(|f| {
        edit(f, "config.json", "\"intermediate_size\": 160", "\"intermediate_size\": 144");
    });
    names(&folder, &["intermediate.dense.weight", "160", "144"]);
}

#[test]
fn a_tokenizer_of_another_model_is_named() {
    let folder = changed(|f| {
        let path = f.join("vocab.txt");
        let mut vocab = std::fs::read_to_string(&path).unwrap();
        for i in 0..5000 {
            vocab.push_str(&format!("\nstranger{i}"));
        }
        std::fs::write(path, vocab).unwrap();
    });
    names(&folder, &["vocab.txt", "vocab_size"]);
}

#[test]
fn an_unknown_architecture_is_named_with_what_is_supported() {
    let folder =
        changed(|f| edit(f, "config.json", "BertForSequenceClassification", "MambaForFun"));
    names(&folder, &["config.json", "MambaForFun", "BertForSequenceClassification"]);
}

#[test]
fn a_config_that_is_no_json_is_named() {
    let folder = changed(|f| std::fs::write(f.join("config.json"), "{").unwrap());
    names(&folder, &["config.json"]);
}

#[test]
fn a_missing_file_is_named() {
    let folder = changed(|f| std::fs::remove_file(f.join("model.safetensors")).unwrap());
    names(&folder, &["model.safetensors"]);
    let folder = changed(|f| std::fs::remove_file(f.join("vocab.txt")).unwrap());
    names(&folder, &["tokenizer.json"]);
}

#[test]
fn golden_scores_that_do_not_come_out_keep_the_model_from_serving() {
    let folder = changed(|f| {
        let golden = r#"[{"query": "a", "document": "b", "logits": [17.0, -17.0]}]"#;
        std::fs::write(f.join("golden.json"), golden).unwrap();
    });
    names(&folder, &["golden pair 0", "17"]);
}
