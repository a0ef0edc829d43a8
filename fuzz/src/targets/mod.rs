//! A function for every parser of bytes that come from outside. Each promises the same of all bytes: no panic, no
//! hang, no memory beyond reason; and what else it says.

mod edge;
mod files;
mod served;

/// Reads the bytes, and panics when a promise is broken.
pub type Target = fn(&[u8]);

/// By name, which is also that of the folder in `corpus/`.
pub const TARGETS: [(&str, Target); 16] = [
    ("dialects", edge::dialects),
    ("http", served::http),
    ("gzip_body", served::gzip_body),
    ("config_file", files::config_file),
    ("keys_file", files::keys_file),
    ("config_json", files::config_json),
    ("modules_json", files::modules_json),
    ("golden_json", files::golden_json),
    ("tokenizer_json", files::tokenizer_json),
    ("vocab_txt", files::vocab_txt),
    ("safetensors", files::safetensors),
    ("safetensors_index", files::safetensors_index),
    ("queries", files::queries),
    ("corpus", files::corpus),
    ("qrels", files::qrels),
    ("candidates", files::candidates),
];
