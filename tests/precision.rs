//! `auto` takes the fastest precision of this machine that keeps a model's golden pairs, and never one that
//! nobody has judged.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

use rerankd::engine::Dtype;
use rerankd::engine::cpu::Isa;
use rerankd::error::ModelError;
use rerankd::model::loader::LoadOptions;
use rerankd::model::source::ModelFiles;
use rerankd::rerank::prepare;
use std::num::NonZeroUsize;
use std::path::Path;
use tempfile::TempDir;

/// Of the small model.
const HIDDEN_SIZE: usize = 64;

/// The small model with the first of its golden pairs and a tolerance, each if given.
fn folder(pairs: usize, tolerance: Option<&str>) -> TempDir {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(golden.join("tiny-bert")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    if pairs > 0 {
        let all = std::fs::read(golden.join("tiny-bert.json")).unwrap();
        let all: Vec<serde_json::Value> = serde_json::from_slice(&all).unwrap();
        let json = serde_json::to_vec(&all[..pairs]).unwrap();
        std::fs::write(folder.path().join("golden.json"), json).unwrap();
    }
    if let Some(tolerance) = tolerance {
        let toml = format!("[tolerance]\n{tolerance}\n");
        std::fs::write(folder.path().join("model.toml"), toml).unwrap();
    }
    folder
}

fn dtype(folder: &TempDir, asked: Option<Dtype>) -> Result<Dtype, ModelError> {
    let files = ModelFiles::open_folder(folder.path()).unwrap();
    let options =
        LoadOptions { threads: NonZeroUsize::new(1), dtype: asked, ..LoadOptions::default() };
    prepare(&files, &options).map(|model| model.dtype)
}

#[test]
fn auto_is_f32_where_nothing_judges_the_others() {
    assert_eq!(dtype(&folder(0, Some("int8 = 1.0\nbf16 = 1.0")), None).unwrap(), Dtype::F32);
    assert_eq!(dtype(&folder(3, None), None).unwrap(), Dtype::F32);
    assert_eq!(dtype(&folder(3, Some("f32 = 1e-3")), None).unwrap(), Dtype::F32);
}

#[test]
fn auto_takes_the_fastest_that_is_precise_enough() {
    let fastest = Isa::detect().fastest_dtypes(HIDDEN_SIZE);
    let generous = folder(3, Some("int8 = 1.0\nbf16 = 1.0"));
    assert_eq!(dtype(&generous, None).unwrap(), fastest[0]);

    for (missed, tolerances) in
        [(Dtype::Int8, "int8 = 1e-6\nbf16 = 1.0"), (Dtype::Bf16, "int8 = 1.0\nbf16 = 1e-6")]
    {
        let next = fastest.iter().find(|dtype| **dtype != missed).unwrap();
        assert_eq!(dtype(&folder(3, Some(tolerances)), None).unwrap(), *next);
    }
}

#[test]
fn a_precision_asked_for_by_name_must_keep_the_pairs() {
    let strict = folder(3, Some("int8 = 1e-6\nbf16 = 1e-6"));
    for asked in [Dtype::Bf16, Dtype::Int8] {
        let refused = dtype(&strict, Some(asked)).unwrap_err();
        assert!(matches!(refused, ModelError::Golden { .. }), "{refused}");
    }
    assert_eq!(dtype(&strict, Some(Dtype::F32)).unwrap(), Dtype::F32);
    assert_eq!(dtype(&folder(0, None), Some(Dtype::Bf16)).unwrap(), Dtype::Bf16);
}
