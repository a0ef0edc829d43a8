//! Several models in one server: each by its name, swapped while it serves, refused where memory is short.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::*;
use crate::tenants::Keys;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn model(name: &str, folder: &str) -> String {
    format!("{name}={}", golden(folder).display())
}

fn serve(args: &[&str]) -> Server {
    let mut command = rerankd();
    command.args(["serve", "--port", "0", "--threads", "1"]).args(args);
    Server::spawn(command).when_ready()
}

fn body(model: &str) -> Value {
    json!({"model": model, "query": "a b", "documents": ["a b c", "d e", "a"]})
}

/// Scores in the order of the documents.
fn scores(answer: &Answer) -> Vec<f64> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answer = answer.json();
    let mut results = answer["results"].as_array().unwrap().clone();
    results.sort_by_key(|result| result["index"].as_u64());
    results.iter().map(|result| result["relevance_score"].as_f64().unwrap()).collect()
}

struct Admin {
    server: Server,
    admin: String,
    user: String,
    _keys: Keys,
}

impl Admin {
    fn serve(args: &[&str]) -> Self {
        let keys = Keys::new();
        let admin = keys.tenant("operator", "admin = true");
        let user = keys.tenant("user", "");
        let path = keys.path();
        let server = serve(&[&["--keys-file", path.to_str().unwrap()], args].concat());
        Self { server, admin, user, _keys: keys }
    }

    fn post_as(&self, key: &str, path: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {key}");
        let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
        self.server.post_with(path, body.to_string().as_bytes(), &headers)
    }

    fn unload(&self, name: &str) -> Answer {
        self.post_as(&self.admin, "/v1/models/unload", &json!({"name": name}))
    }

    fn load(&self, body: &Value) -> Answer {
        self.post_as(&self.admin, "/v1/models/load", body)
    }

    fn rerank(&self, model: &str) -> Answer {
        self.post_as(&self.user, "/v2/rerank", &body(model))
    }
}

#[test]
fn each_model_answers_to_its_name_and_the_first_to_all_others() {
    let models = [model("small", "tiny-bert"), model("large", "tiny-roberta")];
    let server = serve(&["--model", &models[0], "--model", &models[1]]);
    let of = |name: &str| scores(&server.post("/v2/rerank", &body(name)));
    assert_ne!(of("small"), of("large"));
    assert_eq!(of("small"), of("rerank-v3.5"), "the first is the default");
    let list = server.get("/v1/models").json();
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["small", "large"]);
    assert_eq!(server.get("/info").json()["model_id"], "small");
    assert_eq!(server.metric("rerank_model_requests_total{model=\"small\"}"), 3.0);
    assert_eq!(server.metric("rerank_model_requests_total{model=\"large\"}"), 1.0);
    assert!(server.metric("rerank_model_memory_bytes{model=\"large\"}") > 0.0);
}

#[test]
fn a_swap_under_load_loses_no_request_and_mixes_no_answer() {
    let first = model("m", "tiny-bert");
    let admin = Admin::serve(&["--model", &first, "--score-cache-bytes", "0"]);
    let of_bert = scores(&admin.rerank("m"));
    let swap = |folder: &str| {
        let answer = admin.load(&json!({"name": "m", "source": golden(folder)}));
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.json()["has_replaced"], true);
    };
    swap("tiny-roberta");
    let of_roberta = scores(&admin.rerank("m"));
    assert_ne!(of_bert, of_roberta);
    let is_over = AtomicBool::new(false);
    let (num_answers, has_seen) = std::thread::scope(|scope| {
        let client = || {
            let (mut num_answers, mut has_seen) = (0, [false; 2]);
            while !is_over.load(Ordering::Relaxed) {
                let answer = scores(&admin.rerank("m"));
                assert!(answer == of_bert || answer == of_roberta, "of both: {answer:?}");
                has_seen[usize::from(answer == of_roberta)] = true;
                num_answers += 1;
            }
            (num_answers, has_seen)
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        for folder in ["tiny-bert", "tiny-roberta", "tiny-bert", "tiny-roberta"] {
            let answered = || admin.server.metric("rerank_answered_requests_total");
            let before = answered();
            eventually("requests go on", || answered() >= before + 8.0);
            swap(folder);
        }
        is_over.store(true, Ordering::Relaxed);
        let of_all = clients.into_iter().map(|client| client.join().unwrap());
        of_all.fold((0, [false; 2]), |all, one| {
            (all.0 + one.0, [all.1[0] | one.1[0], all.1[1] | one.1[1]])
        })
    });
    assert_eq!(has_seen, [true; 2], "both models were asked");
    let metric = |name: &str| admin.server.metric(name);
    assert_eq!(metric("rerank_answered_requests_total"), f64::from(num_answers + 2));
    assert_eq!(metric("rerank_received_requests_total"), f64::from(num_answers + 2));
    admin.server.logs("freed");
    eventually("the backlog is empty", || metric("rerank_backlog_tokens") == 0.0);
}

/// The tiny model with a golden pair that it cannot give.
fn with_wrong_golden_pair(folder: &Path) {
    for file in ["config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"] {
        std::fs::copy(golden("tiny-bert").join(file), folder.join(file)).unwrap();
    }
    let pair = json!([{"query": "a", "document": "b", "logits": [99.0, 99.0]}]);
    std::fs::write(folder.join("golden.json"), pair.to_string()).unwrap();
}

#[test]
fn a_model_that_cannot_be_had_leaves_the_old_one_serving() {
    let (first, limit) = (model("m", "tiny-bert"), "12000000");
    let admin = Admin::serve(&["--model", &first, "--max-model-memory-bytes", limit]);
    let before = scores(&admin.rerank("m"));
    let broken = tempfile::tempdir().unwrap();
    with_wrong_golden_pair(broken.path());
    let large = json!({"name": "m", "source": "default"});
    for (load, parts) in [
        (json!({"name": "m", "source": "/no/such/folder"}), &["/no/such/folder"][..]),
        (json!({"name": "m", "source": broken.path(), "dtype": "f32"}), &["golden pair 0"]),
        (json!({"name": "m", "source": golden("tiny-bert"), "dtype": "f16"}), &["f16"]),
        (
            large,
            &["not enough memory", "'m' needs", "weights", "activations", "'m' holds", "11.4 MiB"],
        ),
    ] {
        let answer = admin.load(&load);
        assert_eq!(answer.status, 422, "{load}: {}", answer.text);
        for part in parts {
            assert!(answer.text.contains(part), "{} lacks {part}", answer.text);
        }
        assert_eq!(scores(&admin.rerank("m")), before, "after {load}");
    }
}

#[test]
fn a_server_whose_model_does_not_fit_ends_with_the_sum() {
    let mut command = rerankd();
    command.args(["serve", "--port", "0", "--max-model-memory-bytes", "1000000"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8(output.stderr).unwrap();
    for part in ["not enough memory: 'rerankd-default' needs", "million numbers", "1.0 MiB"] {
        assert!(complaint.contains(part), "{complaint} lacks {part}");
    }
}

#[test]
fn models_come_and_go_by_an_admins_key_alone() {
    let first = model("m", "tiny-bert");
    let admin = Admin::serve(&["--model", &first, "--strict-model-names"]);
    let load = json!({"name": "other", "source": golden("tiny-roberta"), "aliases": ["alias"]});
    let refused = admin.post_as(&admin.user, "/v1/models/load", &load);
    assert_eq!(refused.status, 403, "{}", refused.text);
    assert_eq!(admin.post_as("no-such-key", "/v1/models/load", &load).status, 401);
    assert_eq!(admin.rerank("other").status, 404);
    let loaded = admin.load(&load);
    assert_eq!(loaded.status, 200, "{}", loaded.text);
    assert_eq!(loaded.json()["name"], "other");
    assert_eq!(scores(&admin.rerank("alias")), scores(&admin.rerank("other")));

    let taken =
        admin.load(&json!({"name": "third", "source": golden("tiny-bert"), "aliases": ["alias"]}));
    assert_eq!(taken.status, 422, "{}", taken.text);
    assert!(taken.text.contains("has the name 'alias'"), "{}", taken.text);
    assert_eq!(admin.load(&json!({"name": "x"})).status, 400);
    for field in ["max_batch_tokens", "max_length"] {
        let short = admin.load(&json!({"source": golden("tiny-bert"), field: 3}));
        assert_eq!(short.status, 400);
        assert!(short.text.contains(field), "{}", short.text);
    }
    let cut = admin.load(&json!({"name": "cut", "source": golden("tiny-bert"), "max_length": 24}));
    assert_eq!(cut.json()["max_length"], 24, "{}", cut.text);
    assert_eq!(admin.unload("cut").status, 200);
    assert_eq!(admin.unload("m").status, 409, "the default stays");
    assert_eq!(admin.unload("other").status, 200);
    assert_eq!(admin.unload("other").status, 404);
    assert_eq!(admin.rerank("other").status, 404);

    let open = serve(&["--model", &first]);
    assert_eq!(open.post("/v1/models/load", &load).status, 403, "nobody is an admin without keys");
}

#[test]
fn a_cascade_is_a_model_and_charges_for_both_passes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rerankd.toml");
    let entry = |name: &str, folder: &str| {
        format!("[[models]]\nname = '{name}'\nsource = '{}'\n", golden(folder).display())
    };
    let cascade =
        "[[models]]\nname = 'both'\ncascade = {first = 'cheap', second = 'strong', k = 2}\n";
    let text = cascade.to_owned() + &entry("cheap", "tiny-bert") + &entry("strong", "tiny-roberta");
    std::fs::write(&file, text).unwrap();
    let server = serve(&["--config", file.to_str().unwrap()]);
    let of = |model: &str| server.post("/v2/rerank", &body(model));
    let (cheap, strong) = (scores(&of("cheap")), scores(&of("strong")));
    let answer = of("both");
    let both = scores(&answer);
    assert!(answer.headers.get("x-rerank-degraded").is_none());
    let last = (0..3).min_by(|&a, &b| cheap[a].total_cmp(&cheap[b])).unwrap();
    for i in (0..3).filter(|&i| i != last) {
        assert_eq!(both[i], strong[i], "the best have the strong scores");
        assert!(both[last] <= both[i], "{both:?}");
    }
    let tokens = |model: &str| {
        server.metric(&format!("rerank_model_scored_tokens_total{{model=\"{model}\"}}"))
    };
    assert!(tokens("both") > tokens("cheap"), "two passes");
    let predict = server.post("/predict", &json!({"model": "both", "inputs": "a b"}));
    assert_eq!(predict.status, 424, "{}", predict.text);
}

/// A copy of a model that takes longer sequences than its batch would by default.
fn of_positions(name: &str, positions: usize) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap().flatten() {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    for (file, field) in
        [("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")]
    {
        let file = copy.path().join(file);
        let mut json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        json[field] = positions.into();
        std::fs::write(&file, json.to_string()).unwrap();
    }
    copy
}

#[test]
fn a_model_of_long_sequences_needs_no_word_about_batches() {
    let folder = of_positions("tiny-llama", 3000);
    let source = folder.path().to_str().unwrap();
    let longest = |server: &Server| server.get("/info").json()["max_input_length"].clone();
    let server = serve(&["--model", source]);
    server.logs("a batch holds one sequence of the longest");
    assert_eq!(longest(&server), 3000);
    let body = json!({"query": "a b", "documents": ["a b c ".repeat(2000), "d"]});
    let answer = server.post("/v1/rerank", &body);
    assert_eq!(scores(&answer).len(), 2);
    assert_eq!(longest(&serve(&["--model", source, "--max-length", "200"])), 200);

    let mut command = rerankd();
    command.args(["serve", "--port", "0", "--max-batch-tokens", "2000", "--model", source]);
    let output = command.output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && complaint.contains("(3000); max-length"), "{complaint}");
}
