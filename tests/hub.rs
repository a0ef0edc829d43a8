//! What a hub repository promises: a cache that other tools can read, no byte fetched twice, no
//! wrong byte kept, no secret in the wrong hands, and errors that say what to do.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

#[path = "hub/bench.rs"]
pub(crate) mod bench;
#[path = "hub/server.rs"]
pub(crate) mod server;

use std::fs;
use std::path::PathBuf;

use bench::{Bench, CONFIG, Files, asked_for, model, to_storage, weights};
use rerankd::model::source::{Blob, Token};
use server::{COMMIT, Fault, Host, OLDER, REPO, etag, sha256};

// === the cache ===

#[test]
fn a_download_lies_where_other_tools_look_for_it() {
    let weights = weights();
    let mut files = model(&weights);
    files.push(("1_Pooling/config.json", b"{\"p\": 1}"));
    let bench = Bench::with(&files);
    let opened = bench.open().unwrap();
    assert_eq!(opened.name(), REPO);
    assert_eq!(opened.revision(), Some(COMMIT));

    let repo = bench.repo();
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let snapshot = repo.join("snapshots").join(COMMIT);
    for (name, bytes) in &files {
        assert_eq!(&fs::read(snapshot.join(name)).unwrap(), bytes, "{name}");
        assert!(repo.join("blobs").join(etag(name, bytes)).is_file(), "{name}");
    }
    #[cfg(unix)]
    for (name, up) in [("config.json", "../../"), ("1_Pooling/config.json", "../../../")] {
        let bytes = files.iter().find(|file| file.0 == name).unwrap().1;
        let target = fs::read_link(snapshot.join(name)).unwrap();
        assert_eq!(target, PathBuf::from(format!("{up}blobs/{}", etag(name, bytes))));
    }
    assert!(repo.join(".no_exist").join(COMMIT).join("golden.json").is_file());
    assert_eq!(bench.blobs().len(), files.len(), "leftovers: {:?}", bench.blobs());
}

#[test]
fn the_files_read_as_they_are_on_the_hub() {
    let bench = Bench::new();
    let files = bench.open().unwrap();
    assert_eq!(&files.require("config.json").unwrap()[..], CONFIG);
    let blob = files.require("model.safetensors").unwrap();
    assert!(matches!(blob, Blob::Mapped(_)));
    assert_eq!(&blob[..], weights());
    assert!(files.read("golden.json").unwrap().is_none());
}

#[test]
fn a_second_open_asks_only_where_the_branch_is() {
    let bench = Bench::new();
    bench.open().unwrap();
    bench.hub.take_seen();
    bench.open().unwrap();
    let seen = bench.hub.take_seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].path.ends_with("/revision/main"));
}

#[test]
fn a_pinned_commit_that_is_here_asks_nothing() {
    let bench = Bench::new();
    bench.open_at(COMMIT).unwrap();
    bench.hub.take_seen();
    assert_eq!(bench.open_at(COMMIT).unwrap().revision(), Some(COMMIT));
    assert!(bench.hub.take_seen().is_empty());
    assert!(!bench.repo().join("refs").exists(), "a commit is no branch");
}

#[test]
fn offline_makes_no_connection() {
    let mut bench = Bench::new();
    bench.options.offline = true;
    let error = bench.error();
    assert!(error.contains("HF_HUB_OFFLINE") && error.contains("no revision 'main'"), "{error}");

    bench.options.offline = false;
    bench.open().unwrap();
    bench.hub.take_seen();
    bench.options.offline = true;
    let files = bench.open().unwrap();
    assert_eq!(files.revision(), Some(COMMIT));
    assert_eq!(&files.require("model.safetensors").unwrap()[..], weights());

    fs::remove_file(bench.repo().join("snapshots").join(COMMIT).join("model.safetensors")).unwrap();
    assert!(bench.error().contains("model.safetensors"));
    assert!(bench.hub.take_seen().is_empty());
}

#[test]
fn a_hub_that_is_down_does_not_stop_a_model_that_is_here() {
    let bench = Bench::new();
    bench.open().unwrap();
    for (status, code) in [(503, ""), (401, "")] {
        bench.hub.fail("/api/models", Fault::Status(status, code), 1);
        bench.hub.take_seen();
        assert_eq!(bench.open().unwrap().revision(), Some(COMMIT), "{status}");
        assert_eq!(bench.hub.take_seen().len(), 1, "a start does not wait for retries");
    }
}

#[test]
fn a_revision_means_its_own_commit() {
    let bench = Bench::new();
    let older = b"older weights".to_vec();
    bench.hub.commit(OLDER, &["v1"], &model(&older));
    assert_eq!(bench.open().unwrap().revision(), Some(COMMIT));
    for revision in ["v1", OLDER] {
        let files = bench.open_at(revision).unwrap();
        assert_eq!(files.revision(), Some(OLDER));
        assert_eq!(&files.require("model.safetensors").unwrap()[..], older);
    }
    bench.open_at("refs/pr/1").unwrap();
    assert_eq!(fs::read_to_string(bench.repo().join("refs/refs/pr/1")).unwrap(), COMMIT);
    // The files that both commits have were fetched once.
    assert_eq!(bench.blobs().len(), 4);
}

#[test]
fn a_branch_that_moved_is_followed_and_equal_files_are_not_fetched_again() {
    let bench = Bench::new();
    bench.open().unwrap();
    let weights = weights();
    let mut moved = model(&weights);
    moved[0] = ("config.json", br#"{"model_type": "roberta"}"#);
    bench.hub.commit(OLDER, &["main"], &moved);
    bench.hub.take_seen();
    let files = bench.open().unwrap();
    assert_eq!(files.revision(), Some(OLDER));
    assert_eq!(&files.require("config.json").unwrap()[..], moved[0].1);
    assert!(to_storage(&bench.hub.take_seen()).is_empty());
}

#[test]
fn many_openers_fetch_a_file_once_and_all_see_it_whole() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let files = bench.open().unwrap();
                assert_eq!(&files.require("model.safetensors").unwrap()[..], weights());
            });
        }
    });
    assert_eq!(to_storage(&bench.hub.take_seen()).len(), 1);
    assert_eq!(bench.blobs().len(), 3);
}

// === broken downloads ===

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let bench = Bench::new();
    let storage = format!("/{}", sha256(&weights()));
    bench.hub.fail(&storage, Fault::Cut(1_000_000), 1);
    let files = bench.open().unwrap();
    assert_eq!(&files.require("model.safetensors").unwrap()[..], weights());
    let seen = bench.hub.take_seen();
    let ranges: Vec<_> = to_storage(&seen).iter().map(|seen| seen.range.clone()).collect();
    assert_eq!(ranges, [None, Some("bytes=1000000-".to_owned())]);
}

#[test]
fn a_later_process_goes_on_where_an_earlier_one_stopped() {
    let bench = Bench::new();
    let storage = format!("/{}", sha256(&weights()));
    bench.hub.fail(&storage, Fault::Cut(1000), 1);
    bench.hub.fail(&storage, Fault::Status(503, ""), 4);
    assert!(bench.error().contains("503"));
    assert!(!bench.repo().join("snapshots").join(COMMIT).join("model.safetensors").exists());
    bench.hub.take_seen();
    let files = bench.open().unwrap();
    assert_eq!(&files.require("model.safetensors").unwrap()[..], weights());
    let seen = bench.hub.take_seen();
    let last = to_storage(&seen).last().unwrap().range.clone();
    assert_eq!(last, Some("bytes=1000-".to_owned()));
}

#[test]
fn a_download_that_moves_on_may_break_more_often_than_the_limit_of_tries() {
    let weights: Vec<u8> = weights().into_iter().cycle().take(9 << 20).collect();
    let bench = Bench::with(&model(&weights));
    bench.hub.fail(&format!("/{}", sha256(&weights)), Fault::Cut(5 << 18), 7);
    let files = bench.open().unwrap();
    assert_eq!(files.require("model.safetensors").unwrap().len(), weights.len());
    assert_eq!(to_storage(&bench.hub.take_seen()).len(), 8);
}

#[test]
fn a_server_without_ranges_starts_the_file_again() {
    let bench = Bench::new();
    let storage = format!("/{}", sha256(&weights()));
    bench.hub.fail(&storage, Fault::Cut(1000), 1);
    bench.hub.fail(&storage, Fault::NoRange, 1);
    let files = bench.open().unwrap();
    assert_eq!(&files.require("model.safetensors").unwrap()[..], weights());
}

#[test]
fn wrong_bytes_are_refused_and_not_kept() {
    let bench = Bench::new();
    bench.hub.fail(&format!("/{}", sha256(&weights())), Fault::WrongBytes, 1);
    let error = bench.error();
    assert!(error.contains("sha256") && error.contains("removed"), "{error}");
    let large = sha256(&weights());
    assert!(!bench.blobs().iter().any(|name| name.contains(&large)), "{:?}", bench.blobs());
    assert!(!bench.repo().join("snapshots").join(COMMIT).join("model.safetensors").exists());
    assert!(!bench.repo().join("refs/main").exists(), "a model that is not whole has no ref");
    bench.open().unwrap();
}

#[test]
fn a_partial_file_with_wrong_bytes_is_started_again() {
    let bench = Bench::new();
    fs::create_dir_all(bench.repo().join("blobs")).unwrap();
    let part = bench.repo().join("blobs").join(format!("{}.incomplete", sha256(&weights())));
    for leftover in [vec![9; 5000], vec![9; weights().len()], vec![9; weights().len() + 1]] {
        fs::write(&part, &leftover).unwrap();
        let files = bench.open().unwrap();
        assert_eq!(&files.require("model.safetensors").unwrap()[..], weights());
        fs::remove_dir_all(bench.repo().join("snapshots")).unwrap();
        fs::remove_file(bench.repo().join("blobs").join(sha256(&weights()))).unwrap();
    }
}

#[test]
fn a_server_error_is_tried_again_but_not_for_ever() {
    let bench = Bench::new();
    bench.hub.fail("/api/models", Fault::Status(503, ""), 2);
    bench.hub.fail("tokenizer.json", Fault::Status(429, ""), 2);
    bench.hub.fail("tokenizer.json", Fault::Cut(1), 1);
    bench.open().unwrap();

    let bench = Bench::new();
    bench.hub.fail("/api/models", Fault::Status(500, ""), 100);
    let error = bench.error();
    assert!(error.contains("500") && error.contains("HF_HUB_OFFLINE"), "{error}");
    assert_eq!(bench.hub.take_seen().len(), 5);
}

// === secrets ===

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let mut bench = Bench::new();
    bench.options.token = Some(Token::new("hf_secret"));
    bench.open().unwrap();
    let seen = bench.hub.take_seen();
    assert!(!to_storage(&seen).is_empty());
    for seen in &seen {
        let expected = (seen.host == Host::Hub).then(|| "Bearer hf_secret".to_owned());
        assert_eq!(seen.token, expected, "{} {}", seen.method, seen.path);
    }
    assert!(!format!("{:?}", bench.options).contains("hf_secret"));
}

#[test]
fn a_token_that_is_no_header_is_refused_without_being_shown() {
    let mut bench = Bench::new();
    bench.options.token = Some(Token::new("hf_secret\nX-Evil: 1"));
    assert!(bench.error().contains("HF_TOKEN"));
    assert!(bench.hub.take_seen().is_empty());
}

#[test]
fn an_etag_cannot_choose_a_path() {
    for etag in ["../../../evil", "\"a/b\"", "..", "\"\""] {
        let bench = Bench::new();
        bench.hub.fail("/model.safetensors", Fault::ETag(etag), 9);
        assert!(bench.error().contains("is not a hash"), "{etag}");
    }
}

// === errors that say what to do ===

#[test]
fn a_refusal_says_what_to_do() {
    let cases = [
        ("/resolve/", Fault::Status(403, "GatedRepo"), vec!["licence", "HF_TOKEN", "said so"]),
        ("/resolve/", Fault::Status(401, "GatedRepo"), vec!["licence", "HF_TOKEN"]),
        ("/api/", Fault::Status(401, ""), vec!["check the name", "HF_TOKEN"]),
        ("/api/", Fault::Status(404, "RepoNotFound"), vec!["no such repository", "org/name"]),
        ("/api/", Fault::Status(404, "RevisionNotFound"), vec!["no such revision", "'main'"]),
        ("/api/", Fault::Status(418, ""), vec!["418"]),
    ];
    for (path, fault, words) in cases {
        let bench = Bench::new();
        bench.hub.fail(path, fault, 100);
        let error = bench.error();
        assert!(words.iter().all(|word| error.contains(word)), "{fault:?}: {error}");
        assert!(bench.blobs().is_empty());
    }
}

#[test]
fn no_network_says_which_endpoint_and_what_else_to_do() {
    let mut bench = Bench::new();
    // A port that was free a moment ago: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    bench.options.endpoint = format!("http://{free}");
    let error = bench.error();
    for word in [free.to_string().as_str(), "folder", "HF_HUB_OFFLINE=1"] {
        assert!(error.contains(word), "{error}");
    }
    bench.options.endpoint = "not a url".to_owned();
    bench.error();
    bench.options.cache_dir = None;
    assert!(bench.error().contains("HF_HOME"));
}

#[test]
fn a_listing_that_is_none_is_an_error() {
    let bench = Bench::new();
    bench.hub.fail("/api/", Fault::WrongBytes, 1);
    assert!(bench.error().contains("no listing"));
}

// === which files ===

#[test]
fn only_what_the_model_needs_is_fetched() {
    let weights = weights();
    let mut files = model(&weights);
    files.extend([
        ("README.md", &b"x"[..]),
        ("onnx/model.onnx", b"x"),
        ("pytorch_model.bin", b"x"),
        ("vocab.txt", b"x"),
        ("modules.json", br#"[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]"#),
        ("1_Pooling/config.json", b"{}"),
        ("2_Dense/config.json", b"{}"),
        ("2_Dense/model.safetensors", b"dense"),
        ("2_Dense/pytorch_model.bin", b"x"),
    ]);
    let bench = Bench::with(&files);
    let opened = bench.open().unwrap();
    assert_eq!(&opened.require("2_Dense/model.safetensors").unwrap()[..], b"dense");
    assert!(opened.read("1_Pooling/config.json").unwrap().is_some());
    let seen = bench.hub.take_seen();
    for unwanted in ["README", "onnx", "pytorch_model", "vocab.txt"] {
        assert_eq!(asked_for(&seen, unwanted), 0, "{unwanted}");
    }
}

#[test]
fn a_model_without_tokenizer_json_has_its_vocab_txt() {
    let files: [(&str, &[u8]); 3] =
        [("config.json", CONFIG), ("vocab.txt", b"[PAD]\n"), ("model.safetensors", b"w")];
    let files = Bench::with(&files).open().map(|files| files.require("vocab.txt").unwrap());
    assert_eq!(&files.unwrap()[..], b"[PAD]\n");
}

#[test]
fn shards_are_fetched_by_their_index() {
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let files: [(&str, &[u8]); 6] = [
        ("config.json", CONFIG),
        ("tokenizer.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("model-1.safetensors", b"one"),
        ("model-2.safetensors", b"two"),
        ("model-3.safetensors", b"not in the index"),
    ];
    let bench = Bench::with(&files);
    let files = bench.open().unwrap();
    let shards = files.weight_files().unwrap();
    assert_eq!(shards, ["model-1.safetensors", "model-2.safetensors"]);
    assert_eq!(&files.require(&shards[1]).unwrap()[..], b"two");
    assert_eq!(asked_for(&bench.hub.take_seen(), "model-3"), 0);
}

#[test]
fn a_repository_cannot_name_a_file_outside_the_cache() {
    let index = br#"{"weight_map": {"a": "../../../etc/passwd.safetensors"}}"#;
    let modules = br#"[{"path": "../../../../etc"}]"#;
    let bad: [(&str, &[u8]); 2] =
        [("model.safetensors.index.json", index), ("modules.json", modules)];
    for (name, bytes) in bad {
        let mut files: Vec<(&str, &[u8])> =
            vec![("config.json", CONFIG), ("tokenizer.json", b"{}"), (name, bytes)];
        if name == "modules.json" {
            files.push(("model.safetensors", b"w"));
        }
        let bench = Bench::with(&files);
        assert!(bench.error().contains("leads out"), "{name}");
        assert_eq!(asked_for(&bench.hub.take_seen(), "etc"), 0);
    }
}

#[test]
fn a_model_that_cannot_be_loaded_costs_no_download() {
    let cases: [(Files<'_>, &str); 3] = [
        (
            &[("config.json", CONFIG), ("tokenizer.json", b"{}"), ("pytorch_model.bin", b"x")],
            "safetensors only",
        ),
        (&[("config.json", CONFIG), ("model.safetensors", b"w")], "tokenizer.json"),
        (&[("tokenizer.json", b"{}"), ("model.safetensors", b"w")], "config.json"),
    ];
    for (files, word) in cases {
        let bench = Bench::with(files);
        let error = bench.error();
        assert!(error.contains(word), "{error}");
        assert_eq!(asked_for(&bench.hub.take_seen(), "/resolve/"), 0);
    }
}

// === the commands ===

#[test]
fn pull_fetches_a_model_once_and_models_lists_it() {
    let weights = weights();
    let mut files = model(&weights);
    files[0].1 = include_bytes!("golden/tiny-bert/config.json");
    let bench = Bench::with(&files);
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rerankd"));
        command.env_clear().env("HF_ENDPOINT", &bench.hub.endpoint);
        let output = command.env("HF_HUB_CACHE", bench.cache.path()).args(args).output().unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), complaint)
    };
    let (code, told, complaint) = run(&["pull", REPO]);
    assert_eq!(code, Some(0), "{complaint}");
    assert!(told.contains(COMMIT) && told.contains("3 files"), "{told}");
    bench.hub.take_seen();
    assert_eq!(run(&["pull", REPO]).0, Some(0));
    assert!(to_storage(&bench.hub.take_seen()).is_empty(), "nothing is fetched twice");

    let (_, list, _) = run(&["models"]);
    let line = list.lines().find(|line| line.contains(REPO)).unwrap_or_else(|| panic!("{list}"));
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let num_bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(line["cached_bytes"], num_bytes);
    assert_eq!(line["architecture"], "BertForSequenceClassification");
    assert!(list.contains("BAAI/bge-reranker-v2-m3"), "what is known is listed, too");

    let (code, _, complaint) = run(&["pull", "default"]);
    assert_eq!(code, Some(2), "{complaint}");
}
