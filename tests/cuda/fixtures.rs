//! The emulated driver's library, and a model that its kernels can run.

use std::path::PathBuf;

/// cargo builds the library of a dependency beside the tests that depend on it.
pub fn library() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    test.with_file_name("libsimt.so")
}

/// A model of random weights whose heads have a size that the kernels know: the weights of another, cut into two
/// heads instead of four.
pub fn tiny_model() -> tempfile::TempDir {
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert");
    let to = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
    }
    let config = to.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let heads = "\"num_attention_heads\": ";
    assert!(text.contains(&format!("{heads}4")), "the model that this one is made from changed");
    std::fs::write(&config, text.replace(&format!("{heads}4"), &format!("{heads}2"))).unwrap();
    to
}
