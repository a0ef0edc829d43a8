//! The same cache, shared with the hub's Python client.

use crate::hub::bench::{Bench, to_storage, weights};
use crate::hub::server::{COMMIT, REPO};

/// Runs a script with the client's `cache` and `repo` set, in an environment that knows one hub.
fn python(bench: &Bench, offline: bool, script: &str) {
    let python = std::env::var("RERANKD_PYTHON").expect("RERANKD_PYTHON names a Python");
    let before = "import sys; from huggingface_hub import *; cache, repo = sys.argv[1:3]\n";
    let output = std::process::Command::new(python)
        .args(["-c", &format!("{before}{script}")])
        .args([bench.cache.path().to_str().unwrap(), REPO])
        .env("HF_ENDPOINT", &bench.hub.endpoint)
        .env("HF_HUB_OFFLINE", if offline { "1" } else { "0" })
        .env("HF_HOME", bench.cache.path().join("home"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_python_client_reads_our_cache() {
    let bench = Bench::new();
    bench.open().unwrap();
    bench.hub.take_seen();
    let script = r#"
for file in ["config.json", "tokenizer.json", "model.safetensors"]:
    path = hf_hub_download(repo, file, cache_dir=cache, local_files_only=True)
    assert "/snapshots/" in path and open(path, "rb").read()
assert try_to_load_from_cache(repo, "golden.json", cache_dir=cache) is _CACHED_NO_EXIST
found = scan_cache_dir(cache)
assert not found.warnings, found.warnings
[repo_info] = found.repos
assert repo_info.repo_id == repo and set(repo_info.refs) == {"main"}, repo_info
assert snapshot_download(repo, cache_dir=cache, local_files_only=True)
"#;
    python(&bench, true, &format!("from huggingface_hub import _CACHED_NO_EXIST\n{script}"));
    assert!(bench.hub.take_seen().is_empty());
    // Online it asks for the files' names, and fetches none of them again.
    python(&bench, false, "hf_hub_download(repo, 'model.safetensors', cache_dir=cache)");
    assert!(to_storage(&bench.hub.take_seen()).is_empty());
}

#[test]
fn we_read_the_python_clients_cache() {
    let mut bench = Bench::new();
    let script = r#"
for file in ["config.json", "tokenizer.json", "model.safetensors"]:
    hf_hub_download(repo, file, cache_dir=cache)
"#;
    python(&bench, false, script);
    assert!(!to_storage(&bench.hub.take_seen()).is_empty());
    bench.open().unwrap();
    let seen = bench.hub.take_seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    bench.options.offline = true;
    let files = bench.open().unwrap();
    assert_eq!(files.revision(), Some(COMMIT));
    assert_eq!(&files.require("model.safetensors").unwrap()[..], weights());
}
