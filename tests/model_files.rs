//! Damaged or foreign model files give an error that names the file and the part; nothing panics.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

#[path = "published/mod.rs"]
mod published;

use proptest::prelude::*;
use rerankd::engine::Dtype;
use rerankd::error::ModelError;
use rerankd::model::loader::{LoadOptions, check_config, load};
use rerankd::model::source::ModelFiles;
use rerankd::model::weights::Weights;
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::path::Path;
use tempfile::TempDir;

const FILE: &str = "model.safetensors";

fn safetensors(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("a file");
    }
    folder
}

fn open(folder: &Path) -> Result<Weights, ModelError> {
    Weights::open(&ModelFiles::open_folder(folder)?)
}

/// Opens a file and reads the tensor `w` of shape `[2, 2]`.
fn read(bytes: &[u8]) -> Result<Vec<f32>, ModelError> {
    let folder = folder(&[(FILE, bytes)]);
    open(folder.path())?.tensor("w", &[2, 2])
}

fn assert_names(error: &ModelError, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "'{text}' does not name '{part}'");
    }
}

#[test]
fn every_type_is_read_as_f32() {
    let f16 = [0x3C00u16, 0xC000, 0x3800, 0].map(u16::to_le_bytes).concat();
    let bf16 = [0x3F80u16, 0xC000, 0x3F00, 0].map(u16::to_le_bytes).concat();
    let f32s = [1f32, -2.0, 0.5, 0.0].map(f32::to_le_bytes).concat();
    for (dtype, data) in [("F32", f32s), ("F16", f16), ("BF16", bf16)] {
        let header =
            json!({"w": {"dtype": dtype, "shape": [2, 2], "data_offsets": [0, data.len()]}});
        assert_eq!(read(&safetensors(&header, &data)).unwrap(), [1.0, -2.0, 0.5, 0.0], "{dtype}");
    }
    let header = json!({
        "w": {"dtype": "I8", "shape": [2, 2], "data_offsets": [0, 4]},
        "w.scale": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
    });
    let data = [&[2u8, 0xFC, 1, 0][..], &[0.5f32, 0.25].map(f32::to_le_bytes).concat()].concat();
    assert_eq!(read(&safetensors(&header, &data)).unwrap(), [1.0, -2.0, 0.25, 0.0]);
}

#[test]
fn a_damaged_file_is_named_with_its_tensor() {
    let entry = |dtype: &str, shape: Value, begin: usize, end: usize| json!({"w": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}});
    let data = [0u8; 16];
    let good = safetensors(&entry("F32", json!([2, 2]), 0, 16), &data);
    assert!(read(&good).is_ok());
    let mut huge = good.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let overlapping = json!({
        "w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "v": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
    });
    let overflow = json!([u32::MAX, u32::MAX, u32::MAX]);
    let nan = [1.0f32, f32::NAN, 0.0, 0.0].map(f32::to_le_bytes).concat();
    let two_by_two = json!([2, 2]);
    let cases: [(&str, Vec<u8>, &[&str]); 12] = [
        ("empty", Vec::new(), &["header"]),
        ("truncated", good[..good.len() - 1].to_vec(), &["'w'", "bytes"]),
        ("huge header", huge, &["header"]),
        ("no JSON", [&2u64.to_le_bytes()[..], b"??"].concat(), &["header"]),
        ("past the end", safetensors(&entry("F32", two_by_two.clone(), 4, 20), &data), &["20"]),
        ("backwards", safetensors(&entry("F32", two_by_two.clone(), 16, 0), &data), &["16 to 0"]),
        ("product", safetensors(&entry("F32", json!([2, 3]), 0, 16), &data), &["[2, 3]"]),
        ("overflow", safetensors(&entry("F32", overflow, 0, 16), &data), &["shape"]),
        ("overlap", safetensors(&overlapping, &data), &["overlap"]),
        ("shape", safetensors(&entry("F32", json!([4]), 0, 16), &data), &["[4]", "[2, 2]"]),
        ("nan", safetensors(&entry("F32", two_by_two, 0, 16), &nan), &["element 1", "NaN"]),
        ("type", safetensors(&entry("I64", json!([2]), 0, 16), &data), &["[2]"]),
    ];
    for (what, bytes, parts) in cases {
        let error = read(&bytes).expect_err(what);
        let parts: Vec<&str> = parts.iter().map(|part| part.trim_matches('\'')).collect();
        assert_names(&error, &[&[FILE], &parts[..]].concat());
    }
}

#[test]
fn a_missing_tensor_or_scale_is_named() {
    let header = json!({"w": {"dtype": "I8", "shape": [2, 2], "data_offsets": [0, 4]}});
    let folder = folder(&[(FILE, &safetensors(&header, &[0; 4]))]);
    let weights = open(folder.path()).unwrap();
    assert_names(&weights.tensor("absent", &[1]).unwrap_err(), &[FILE, "absent"]);
    assert_names(&weights.tensor("w", &[2, 2]).unwrap_err(), &[FILE, "w.scale"]);
}

#[test]
fn an_index_that_names_a_missing_shard_is_refused() {
    let index = json!({"weight_map": {"w": "model-00001-of-00002.safetensors"}}).to_string();
    let folder = folder(&[("model.safetensors.index.json", index.as_bytes())]);
    let error = open(folder.path()).unwrap_err();
    assert_names(&error, &["model.safetensors.index.json", "model-00001-of-00002.safetensors"]);
}

#[test]
fn a_config_without_code_for_it_names_the_field() {
    let good = json!({
        "architectures": ["BertForSequenceClassification"], "model_type": "bert",
        "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
        "intermediate_size": 128, "vocab_size": 10, "max_position_embeddings": 16,
    });
    assert!(check_config(good.to_string().as_bytes()).is_ok());
    for (field, value) in [
        ("architectures", json!([])),
        ("model_type", json!("gpt2")),
        ("hidden_size", json!(0)),
        ("hidden_size", json!(1u64 << 40)),
        ("hidden_size", json!(null)),
        ("num_hidden_layers", json!(100_000)),
        ("num_attention_heads", json!(5)),
        ("intermediate_size", json!(0)),
        ("vocab_size", json!(0)),
        ("max_position_embeddings", json!(0)),
        ("type_vocab_size", json!(0)),
        ("layer_norm_eps", json!(-1.0)),
        ("hidden_act", json!("swiglu")),
        ("position_embedding_type", json!("relative_key")),
        ("num_labels", json!(0)),
        ("id2label", json!({"0": "a", "2": "b"})),
        ("sbert_ce_default_activation_function", json!("os.system")),
    ] {
        let mut config = good.clone();
        config[field] = value.clone();
        match check_config(config.to_string().as_bytes()) {
            Ok(config) => panic!("{field} {value} was taken: {config:?}"),
            Err(error) => assert_names(&error, &["config.json", field]),
        }
    }
}

/// The sizes and fields of models on the hub, written from knowledge of them.
#[test]
fn published_configs_are_read() {
    let configs: Value = serde_json::from_str(include_str!("published_configs.json")).unwrap();
    let configs = configs.as_object().unwrap();
    assert!(configs.len() >= 10);
    for (name, config) in configs {
        let read = check_config(config.to_string().as_bytes());
        let read = read.unwrap_or_else(|error| panic!("{name}: {error}"));
        // A language model has no labels but those that its prompt asks for.
        let is_prompted = read.architecture.ends_with("ForCausalLM");
        assert!(is_prompted || read.labels.len() == 1, "{name}");
        // Without its sizes no family may take it.
        for field in ["vocab_size", "max_position_embeddings"] {
            let mut broken = config.clone();
            broken[field] = json!("many");
            let error = check_config(broken.to_string().as_bytes()).unwrap_err();
            assert_names(&error, &["config.json", field]);
        }
    }
}

#[test]
fn a_config_of_each_family_names_the_field_without_code() {
    let configs: Value = serde_json::from_str(include_str!("published_configs.json")).unwrap();
    for (name, field, value) in [
        ("BAAI/bge-reranker-base", "max_position_embeddings", json!(2)),
        ("BAAI/bge-reranker-base", "pad_token_id", json!(-1)),
        ("BAAI/bge-reranker-base", "model_type", json!("roberta")),
        ("BAAI/bge-reranker-base", "quantization_config", json!({"quant_method": "gptq"})),
        ("BAAI/bge-reranker-base", "quantization_config", json!({"quant_method": "awq"})),
        ("BAAI/bge-reranker-base", "quantization_config", json!({"quant_method": "bitsandbytes"})),
        (
            "BAAI/bge-reranker-base",
            "quantization_config",
            json!({"quant_method": "compressed-tensors"}),
        ),
        ("mixedbread-ai/mxbai-rerank-base-v1", "relative_attention", json!(false)),
        ("mixedbread-ai/mxbai-rerank-base-v1", "share_att_key", json!(false)),
        ("mixedbread-ai/mxbai-rerank-base-v1", "position_biased_input", json!(true)),
        ("mixedbread-ai/mxbai-rerank-base-v1", "pos_att_type", json!("c2p")),
        ("mixedbread-ai/mxbai-rerank-base-v1", "conv_kernel_size", json!(3)),
        ("mixedbread-ai/mxbai-rerank-base-v1", "embedding_size", json!(128)),
        ("mixedbread-ai/mxbai-rerank-base-v1", "norm_rel_ebd", json!("batch_norm")),
        ("mixedbread-ai/mxbai-rerank-base-v1", "position_buckets", json!(1u64 << 40)),
        ("Alibaba-NLP/gte-multilingual-reranker-base", "position_embedding_type", json!("alibi")),
        ("Alibaba-NLP/gte-multilingual-reranker-base", "pack_qkv", json!(false)),
        ("Alibaba-NLP/gte-multilingual-reranker-base", "logn_attention_scale", json!(true)),
        ("Alibaba-NLP/gte-multilingual-reranker-base", "layer_norm_type", json!("rms_norm")),
        (
            "Alibaba-NLP/gte-multilingual-reranker-base",
            "rope_scaling",
            json!({"type": "dynamic", "factor": 2}),
        ),
        ("google/gemma-2-2b", "sliding_window", json!(0)),
        ("google/gemma-2-2b", "attn_logit_softcapping", json!(-1.0)),
        ("google/gemma-2-2b", "query_pre_attn_scalar", json!("many")),
        ("google/gemma-2-2b", "layer_types", json!(["full_attention"])),
        ("cross-encoder/ms-marco-electra-base", "embedding_size", json!(0)),
        ("distilbert-base-uncased with one label", "n_heads", json!(7)),
        ("Qwen/Qwen3-Reranker-0.6B", "num_key_value_heads", json!(5)),
        ("Qwen/Qwen3-Reranker-0.6B", "head_dim", json!(100)),
        ("Qwen/Qwen3-Reranker-0.6B", "hidden_act", json!("tanh")),
        ("Qwen/Qwen3-Reranker-0.6B", "rope_theta", json!(0.5)),
        ("Qwen/Qwen3-Reranker-0.6B", "use_sliding_window", json!(true)),
        ("Qwen/Qwen3-Reranker-0.6B", "rope_scaling", json!({"rope_type": "yarn"})),
        ("Alibaba-NLP/gte-reranker-modernbert-base", "num_attention_heads", json!(16)),
        ("Alibaba-NLP/gte-reranker-modernbert-base", "classifier_pooling", json!("max")),
        ("Alibaba-NLP/gte-reranker-modernbert-base", "hidden_activation", json!("mish")),
        ("Alibaba-NLP/gte-reranker-modernbert-base", "layer_types", json!(["full_attention"])),
        ("Alibaba-NLP/gte-reranker-modernbert-base", "global_rope_theta", json!("large")),
        ("Alibaba-NLP/gte-reranker-modernbert-base", "norm_bias", json!(1)),
        (
            "Alibaba-NLP/gte-reranker-modernbert-base",
            "architectures",
            json!(["ModernBertForMaskedLM"]),
        ),
    ] {
        let mut config = configs[name].clone();
        config[field] = value.clone();
        match check_config(config.to_string().as_bytes()) {
            Ok(_) => panic!("{name}: {field} {value} was taken"),
            Err(error) => assert_names(&error, &["config.json", field]),
        }
    }
}

/// A copy of a golden model under another name, with another recipe if one is given.
fn copy(model: &str, name: &str, recipe: Option<&str>) -> TempDir {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(model);
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join(name);
    std::fs::create_dir(&folder).expect("a folder");
    for file in ["config.json", FILE, "tokenizer.json"] {
        std::fs::copy(source.join(file), folder.join(file)).expect("a copy");
    }
    if let Some(recipe) = recipe {
        std::fs::write(folder.join("model.toml"), recipe).expect("a file");
    }
    parent
}

#[test]
fn a_language_model_without_its_prompt_is_refused() {
    let options = LoadOptions { threads: NonZeroUsize::new(1), ..LoadOptions::default() };
    let load_as = |name: &str, recipe: Option<&str>| {
        let parent = copy("tiny-qwen3-reranker", name, recipe);
        load(&ModelFiles::open_folder(&parent.path().join(name)).unwrap(), &options)
    };
    let prompt = |rest: &str| format!("[prompt]\n{rest}");
    let known = prompt("query = 'q: {query} d:'\ndocument = ' {document}'\n");
    let loaded = load_as("some-chat-model", Some(&known)).unwrap();
    assert_eq!(loaded.head.labels(), ["no", "yes"]);
    assert!(load_as("My-Qwen3-Reranker-0.6B", None).is_ok());

    let refused = |recipe: Option<&str>, parts: &[&str]| {
        assert_names(&load_as("some-chat-model", recipe).unwrap_err(), parts);
    };
    refused(None, &["model.toml", "prompt", "missing"]);
    refused(Some("[tolerance]\nf32 = 1e-3\n"), &["model.toml", "prompt", "missing"]);
    refused(Some(&prompt("query = '{query}'\n")), &["model.toml", "document"]);
    refused(Some(&known.replace("q: {query}", "q:")), &["prompt.query", "{query}"]);
    refused(Some(&known.replace("{document}", "{document}{document}")), &["prompt.document"]);
    refused(Some(&format!("{known}answer = 'x'\n")), &["model.toml", "answer"]);
    let perhaps = format!("{known}yes = 'perhaps not'\n");
    refused(Some(&perhaps), &["tokenizer.json", "perhaps not"]);
}

/// The smallest ones; `published_models` runs them all.
#[test]
fn the_smallest_published_models_run() {
    let configs: Value = serde_json::from_str(include_str!("published_configs.json")).unwrap();
    for name in ["cross-encoder/ms-marco-MiniLM-L6-v2", "mixedbread-ai/mxbai-rerank-xsmall-v1"] {
        let (logits, _) = published::run(name, &configs[name], Dtype::Bf16);
        assert!(logits.iter().all(|logit| logit.is_finite()), "{name}: {logits:?}");
    }
}

#[test]
fn code_that_comes_with_a_checkpoint_is_not_run() {
    let config = json!({
        "architectures": ["JinaForRanking"], "model_type": "qwen3",
        "auto_map": {"AutoModel": "modeling.JinaForRanking"},
    });
    let error = check_config(config.to_string().as_bytes()).unwrap_err();
    assert_names(&error, &["config.json", "JinaForRanking", "auto_map"]);
}

#[test]
fn weights_of_another_format_are_named() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert");
    let config = std::fs::read(source.join("config.json")).unwrap();
    for (file, format) in [
        ("model-Q4_K_M.gguf", "GGUF"),
        ("onnx/model.onnx", "ONNX"),
        ("pytorch_model.bin", "pickle"),
    ] {
        let folder = folder(&[("config.json", &config)]);
        std::fs::create_dir(folder.path().join("onnx")).unwrap();
        std::fs::write(folder.path().join(file), b"x").unwrap();
        let files = ModelFiles::open_folder(folder.path()).unwrap();
        let error = load(&files, &LoadOptions::default()).unwrap_err();
        assert_names(&error, &[file, format, "safetensors"]);
    }
}

/// A copy of the model whose head is modules, changed by `change`.
fn modular(change: impl Fn(&Path)) -> ModelError {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-ettin");
    let folder = tempfile::tempdir().expect("a folder");
    let copy_all = |from: &Path, to: &Path| {
        for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            if file.path().is_file() {
                std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
    };
    copy_all(&source, folder.path());
    for module in ["1_Pooling", "2_Dense", "3_LayerNorm", "4_Dense"] {
        std::fs::create_dir(folder.path().join(module)).unwrap();
        copy_all(&source.join(module), &folder.path().join(module));
    }
    change(folder.path());
    let options = LoadOptions { threads: NonZeroUsize::new(1), ..LoadOptions::default() };
    load(&ModelFiles::open_folder(folder.path()).unwrap(), &options).expect_err("a broken head")
}

#[test]
fn a_head_of_modules_names_what_has_no_code() {
    let edit = |file: &str, from: &str, to: &str| {
        modular(|folder| {
            let path = folder.join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{file} has {from}");
            std::fs::write(path, text.replace(from, to)).unwrap();
        })
    };
    let refused = |file: &str, from: &str, to: &str, part: &str| {
        assert_names(&edit(file, from, to), &[file, part]);
    };
    let dense = "2_Dense/config.json";
    refused(dense, "activation.GELU", "activation.Mish", "Mish");
    refused(dense, "\"in_features\": 64", "\"in_features\": 0", "in_features");
    refused(dense, "{", "{\"use_residual\": true,", "use_residual");
    refused("4_Dense/config.json", "linear.Identity", "activation.Tanh", "activation_function");
    refused("1_Pooling/config.json", "\"cls\"", "\"max\"", "pooling_mode");
    refused("modules.json", "layer_norm.LayerNorm", "lstm.LSTM", "LSTM");
    refused("config_sentence_transformers.json", "linear.Identity", "activation.ELU", "ELU");
    let narrow = edit(dense, "\"in_features\": 64", "\"in_features\": 32");
    assert_names(&narrow, &["modules.json", "2_Dense", "32", "64"]);
    let missing = modular(|folder| {
        std::fs::remove_file(folder.join("3_LayerNorm/model.safetensors")).unwrap();
    });
    assert_names(&missing, &["3_LayerNorm/model.safetensors"]);
}

#[test]
fn more_labels_than_two_rank_by_the_one_that_is_named() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert");
    let load_with = |recipe: Option<&str>| {
        let config = std::fs::read_to_string(source.join("config.json")).unwrap();
        let config =
            config.replace("\"1\": \"relevant\"", "\"1\": \"relevant\", \"2\": \"neutral\"");
        let folder = folder(&[("config.json", config.as_bytes())]);
        std::fs::copy(source.join("vocab.txt"), folder.path().join("vocab.txt")).unwrap();
        if let Some(recipe) = recipe {
            std::fs::write(folder.path().join("model.toml"), recipe).unwrap();
        }
        let files = ModelFiles::open_folder(folder.path()).unwrap();
        rerankd::model::loader::load_with(&files, &Weights::made_up(), &LoadOptions::default())
    };
    assert!(!load_with(None).unwrap().head.can_rank());
    let head = load_with(Some("rank_by = 'relevant'\n")).unwrap().head;
    assert!(head.can_rank());
    let score = head.score(&[1.0, 3.0, 2.0]).unwrap();
    assert!((score.probability - 0.665_241).abs() < 1e-5, "{score:?}");
    let error = load_with(Some("rank_by = 'irrelevance'\n")).unwrap_err();
    assert_names(&error, &["model.toml", "rank_by", "irrelevance", "neutral"]);
}

#[test]
fn an_adapter_names_the_model_that_it_needs() {
    let adapter = json!({"peft_type": "LORA", "base_model_name_or_path": "BAAI/bge-reranker-base"});
    let folder = folder(&[("adapter_config.json", adapter.to_string().as_bytes())]);
    let files = ModelFiles::open_folder(folder.path()).unwrap();
    let error = load(&files, &LoadOptions::default()).unwrap_err();
    assert_names(&error, &["adapter_config.json", "LORA", "BAAI/bge-reranker-base", "merge"]);
}

#[test]
fn a_checkpoint_without_a_head_names_the_tensor() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-xlm-roberta");
    let config = std::fs::read(source.join("config.json")).unwrap();
    let mut weights = std::fs::read(source.join(FILE)).unwrap();
    let name = b"classifier.out_proj.weight";
    let at = weights.windows(name.len()).position(|bytes| bytes == name).unwrap();
    weights[at..at + 10].copy_from_slice(b"clXssifier");
    let folder = folder(&[("config.json", &config), (FILE, &weights)]);
    let files = ModelFiles::open_folder(folder.path()).unwrap();
    let options = LoadOptions { threads: NonZeroUsize::new(1), ..LoadOptions::default() };
    assert_names(&load(&files, &options).unwrap_err(), &[FILE, "classifier.out_proj.weight"]);
}

#[test]
fn a_shape_that_is_not_the_configs_names_both() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert");
    let config = std::fs::read_to_string(source.join("config.json")).unwrap();
    let config = config.replace("\"intermediate_size\": 160", "\"intermediate_size\": 96");
    let weights = std::fs::read(source.join(FILE)).unwrap();
    let folder = folder(&[("config.json", config.as_bytes()), (FILE, &weights)]);
    let files = ModelFiles::open_folder(folder.path()).unwrap();
    let options = LoadOptions { threads: NonZeroUsize::new(1), ..LoadOptions::default() };
    let error = load(&files, &options).unwrap_err();
    assert_names(&error, &[FILE, "intermediate.dense.weight", "160", "96"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_damage_to_a_weights_file_panics(
        damage in prop::collection::vec((0usize..200, any::<u8>()), 1..8),
        length in 0usize..200,
    ) {
        let header = json!({
            "w": {"dtype": "I8", "shape": [2, 2], "data_offsets": [0, 4]},
            "w.scale": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        });
        let mut bytes = safetensors(&header, &[1; 12]);
        for (at, value) in damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(length.max(bytes.len().saturating_sub(length)));
        let _ = read(&bytes);
    }

    #[test]
    fn no_bytes_as_a_config_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = check_config(&bytes);
    }
}
