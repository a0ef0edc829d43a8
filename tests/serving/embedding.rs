//! Vectors over HTTP: those of the reference in every dialect, by the path and the books that scores go by.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::accounts::books;
use crate::support::*;
use crate::tenants::Keys;

/// As in `tests/golden_scores.rs`.
const TOLERANCE: f64 = 2e-4;

#[derive(Deserialize)]
struct Golden {
    text: String,
    prompt: Option<String>,
    vector: Vec<f64>,
    num_tokens: usize,
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The texts of a model behind one of its prompts, those that fit; and their vectors.
fn golden(name: &str, prompt: Option<&str>) -> (Vec<String>, Vec<Vec<f64>>, usize) {
    let json = std::fs::read(folder(&format!("{name}-vectors.json"))).unwrap();
    let rows: Vec<Golden> = serde_json::from_slice(&json).unwrap();
    let rows: Vec<_> = rows.into_iter().filter(|row| row.prompt.as_deref() == prompt).collect();
    let num_tokens = rows.iter().map(|row| row.num_tokens).sum();
    assert!(rows.len() > 10, "enough texts to mean something");
    let (texts, vectors) = rows.into_iter().map(|row| (row.text, row.vector)).unzip();
    (texts, vectors, num_tokens)
}

/// A server of an encoder.
fn serve(name: &str, args: &[&str]) -> Server {
    let mut command = rerankd();
    command
        .args(["serve", "--port", "0", "--dtype", "f32", "--model"])
        .arg(folder(name))
        .args(args);
    Server::spawn(command).when_ready()
}

fn ok(server: &Server, path: &str, body: &Value) -> Value {
    let answer = server.post(path, body);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    answer.json()
}

fn floats(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn lists(lists: &Value) -> Vec<Vec<f64>> {
    lists.as_array().unwrap().iter().map(floats).collect()
}

fn openai(reply: &Value) -> Vec<Vec<f64>> {
    reply["data"].as_array().unwrap().iter().map(|item| floats(&item["embedding"])).collect()
}

#[track_caller]
fn assert_close(got: &[Vec<f64>], expected: &[Vec<f64>]) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.len(), expected.len());
        let differences = got.iter().zip(expected).map(|(got, expected)| (got - expected).abs());
        let worst = differences.fold(0.0, f64::max);
        assert!(worst <= TOLERANCE, "text {i} is {worst} off");
    }
}

fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|value| value * value).sum::<f64>().sqrt()
}

#[test]
fn every_dialect_gives_the_reference_vectors_and_the_same_bits() {
    let server = serve("tiny-e5", &[]);
    let (texts, expected, num_tokens) = golden("tiny-e5", None);
    let reply = ok(&server, "/v1/embeddings", &json!({"input": texts, "model": "any"}));
    let vectors = openai(&reply);
    assert_close(&vectors, &expected);
    assert_eq!(reply["usage"]["prompt_tokens"], num_tokens);
    assert_eq!(lists(&ok(&server, "/embed", &json!({"inputs": texts}))), vectors);
    let cohere = ok(&server, "/v2/embed", &json!({"texts": texts}));
    assert_eq!(lists(&cohere["embeddings"]["float"]), vectors);
    assert_eq!(cohere["meta"]["billed_units"]["input_tokens"], num_tokens);
    let plain = ok(&server, "/v1/embed", &json!({"texts": texts}));
    assert_eq!(lists(&plain["embeddings"]), vectors);
    // Where the path says nothing, the model does.
    assert_eq!(lists(&ok(&server, "/", &json!({"inputs": texts}))), vectors);
    assert!(server.get("/info").json()["model_type"]["embedding"]["pooling"] == "mean");
}

#[test]
fn a_purpose_or_a_name_puts_the_models_prompt_before_a_text() {
    let server = serve("tiny-e5", &[]);
    for (prompt, purpose) in [("query", "search_query"), ("passage", "search_document")] {
        let (texts, expected, _) = golden("tiny-e5", Some(prompt));
        let cohere = ok(&server, "/v2/embed", &json!({"texts": texts, "input_type": purpose}));
        assert_close(&lists(&cohere["embeddings"]["float"]), &expected);
        let tei = ok(&server, "/embed", &json!({"inputs": texts, "prompt_name": prompt}));
        assert_close(&lists(&tei), &expected);
    }
    let unknown = server.post("/embed", &json!({"inputs": "a", "prompt_name": "s2p"}));
    assert_eq!(unknown.status, 422);
    assert!(unknown.text.contains("it has passage, query"), "{}", unknown.text);

    let server = serve("tiny-modernbert-embed", &[]);
    let (texts, expected, _) = golden("tiny-modernbert-embed", Some("document"));
    let reply = ok(&server, "/v1/embeddings", &json!({"input": texts}));
    assert_close(&openai(&reply), &expected);
}

#[test]
fn ranking_compares_the_vectors_that_the_prompts_give() {
    let server = serve("tiny-e5", &[]);
    let documents = ["a river in winter", "", "copper pepper"];
    let body = json!({"query": "cold water", "documents": documents, "raw_scores": true});
    let ranked = ok(&server, "/v2/rerank", &body);
    let vectors = |texts: &[&str], purpose: &str| {
        let reply = ok(&server, "/v2/embed", &json!({"texts": texts, "input_type": purpose}));
        lists(&reply["embeddings"]["float"])
    };
    let query = &vectors(&["cold water"], "search_query")[0];
    let vectors = vectors(&documents, "search_document");
    for result in ranked["results"].as_array().unwrap() {
        let document = &vectors[result["index"].as_u64().unwrap() as usize];
        let cosine: f64 = query.iter().zip(document).map(|(a, b)| a * b).sum();
        let score = result["relevance_score"].as_f64().unwrap();
        assert!((score - cosine).abs() < 1e-5, "{score}, not {cosine}");
    }
}

#[test]
fn fewer_dimensions_have_length_one_again() {
    let server = serve("tiny-modernbert-embed", &[]);
    let body = json!({"inputs": ["stone river", "letter"], "normalize": false});
    let whole = lists(&ok(&server, "/embed", &body));
    assert!((length(&whole[0]) - 1.0).abs() > 0.01, "this model does not normalise by itself");
    let cut = json!({"input": ["stone river", "letter"], "dimensions": 16});
    for (cut, whole) in openai(&ok(&server, "/v1/embeddings", &cut)).iter().zip(&whole) {
        assert!((length(cut) - 1.0).abs() < 1e-6);
        for (cut, whole_value) in cut.iter().zip(whole) {
            assert!((cut - whole_value / length(&whole[..16])).abs() < 1e-6);
        }
    }
    let wide = server.post("/v2/embed", &json!({"texts": ["a"], "output_dimension": 65}));
    assert_eq!(wide.status, 400);
    assert!(wide.text.contains("have 64, not 65"), "{}", wide.text);
}

#[test]
fn token_ids_have_the_vector_of_the_text_they_spell() {
    let server = serve("tiny-encoder", &[]);
    let tokenizer = Tokenizer::from_file(folder("tiny-encoder/tokenizer.json")).unwrap();
    let ids = |special| tokenizer.encode("stone river market", special).unwrap().get_ids().to_vec();
    let text = openai(&ok(&server, "/v1/embeddings", &json!({"input": "stone river market"})));
    for ids in [ids(true), ids(false)] {
        assert_eq!(openai(&ok(&server, "/v1/embeddings", &json!({"input": ids}))), text);
        assert_eq!(lists(&ok(&server, "/embed", &json!({"inputs": [ids]}))), text);
    }
    let foreign = server.post("/v1/embeddings", &json!({"input": [[5], [100_000]]}));
    assert_eq!(foreign.status, 400);
    assert_eq!(foreign.json()["error"]["param"], "input[1]");
}

#[test]
fn what_does_not_fit_is_cut_and_told_or_refused() {
    let server = serve("tiny-e5", &[]);
    let long = ["river"; 100].join(" ");
    let reply = ok(&server, "/v1/embeddings", &json!({"input": [long, "a"]}));
    assert_eq!(reply["usage"]["truncated_tokens"], 38, "of 100 tokens 62 have room in 64");
    let start = ok(&server, "/embed", &json!({"inputs": long, "truncation_direction": "left"}));
    assert_eq!(start.as_array().unwrap().len(), 1);
    let refused = server.post("/v2/embed", &json!({"texts": ["a", long], "truncate": "NONE"}));
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["error"]["param"], "input[1]");
    assert_eq!(server.post("/embed", &json!({"inputs": long, "truncate": false})).status, 422);
}

#[test]
fn a_model_of_token_vectors_gives_them_all() {
    #[derive(Deserialize)]
    struct Late {
        document: String,
        #[serde(default)]
        document_vectors: Vec<Vec<f64>>,
    }
    let json = std::fs::read(folder("tiny-colbert.json")).unwrap();
    let golden: Vec<Late> = serde_json::from_slice(&json).unwrap();
    // The reference tells the vectors of some pairs only.
    let golden: Vec<_> = golden.into_iter().filter(|g| !g.document_vectors.is_empty()).collect();
    assert!(golden.len() > 3);
    let server = serve("tiny-colbert", &[]);
    let texts: Vec<&str> = golden.iter().map(|golden| golden.document.as_str()).collect();
    let reply = ok(&server, "/embed_all", &json!({"inputs": texts}));
    let all: Vec<Vec<Vec<f64>>> = reply.as_array().unwrap().iter().map(lists).collect();
    assert_eq!(all.len(), golden.len());
    for (got, golden) in all.iter().zip(&golden) {
        // The reference goes without the vectors of some tokens; the others come in its order.
        let is_near = |got: &[f64], expected: &[f64]| {
            got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() <= TOLERANCE)
        };
        let mut rest = got.iter();
        for expected in &golden.document_vectors {
            assert!(rest.any(|got| is_near(got, expected)), "'{}'", golden.document);
        }
        assert!(got.iter().all(|vector| (length(vector) - 1.0).abs() < 1e-5));
    }
    let cut = ok(&server, "/embed_all", &json!({"inputs": texts[0], "dimensions": 2}));
    assert_eq!(cut[0].as_array().unwrap().len(), all[0].len());
    assert!(lists(&cut[0]).iter().all(|vector| vector.len() == 2));

    let pooled = server.post("/embed", &json!({"inputs": "a"}));
    assert!(pooled.status == 424 && pooled.text.contains("/embed_all"), "{}", pooled.text);
    let plain = serve("tiny-e5", &[]).post("/embed_all", &json!({"inputs": "a"}));
    assert!(plain.status == 424 && plain.text.contains("--late-interaction"), "{}", plain.text);
}

#[test]
fn a_model_that_scores_says_that_it_gives_no_vectors() {
    let server = Server::start(&[]);
    let message = "gives no vectors";
    let openai = server.post("/v1/embeddings", &json!({"input": "a"}));
    assert_eq!(openai.status, 501);
    assert!(openai.json()["error"]["message"].as_str().unwrap().contains(message));
    assert_eq!(openai.header("x-should-retry"), "false", "its clients repeat what is 5xx");
    let cohere = server.post("/v2/embed", &json!({"texts": ["a"]}));
    assert!(cohere.json()["message"].as_str().unwrap().contains(message));
    let tei = server.post("/embed", &json!({"inputs": "a"}));
    assert_eq!((tei.status, &tei.json()["error_type"]), (424, &json!("Backend")));
}

#[test]
fn one_server_holds_a_reranker_and_an_embedder() {
    let source = |name: &str, model: &str| format!("{name}={}", folder(model).display());
    let mut command = rerankd();
    command.args(["serve", "--port", "0", "--dtype", "f32"]);
    command.args(["--model", &source("vectors", "tiny-e5")]);
    command.args(["--model", &source("reader", "tiny-bert")]);
    let server = Server::spawn(command).when_ready();
    let query = json!({"query": "cold water", "documents": ["a river", "a stone"]});
    let ask = |model: &str, path: &str, body: &Value| {
        let mut body = body.clone();
        body["model"] = model.into();
        server.post(path, &body)
    };
    // Without a name, or with a foreign one, each gets the model that is made for it.
    let ranked = ok(&server, "/v2/rerank", &query);
    assert_eq!(ranked["model"], "reader");
    let (texts, expected, _) = golden("tiny-e5", None);
    let texts = json!({"input": texts});
    for model in ["", "text-embedding-3-small", "vectors"] {
        let reply = ask(model, "/v1/embeddings", &texts).json();
        assert_eq!(reply["model"], "vectors");
        assert_close(&openai(&reply), &expected);
    }
    assert_eq!(ask("vectors", "/v2/rerank", &query).json()["model"], "vectors", "by the cosine");
    let wrong = ask("reader", "/v1/embeddings", &texts);
    assert_eq!(wrong.status, 501);
    assert!(wrong.text.contains("'reader' scores pairs"), "{}", wrong.text);
    let labels = server.post("/", &json!({"inputs": "a"})).json();
    assert!(labels[0]["label"].is_string(), "one of the two gives labels: {labels}");
    let page = server.get("/metrics").text;
    assert!(page.contains("model=\"vectors\""), "{page}");
}

#[test]
fn vectors_are_in_the_books_like_scores() {
    let keys = Keys::new();
    let key = keys.tenant("search", "requests_per_second = 0.001");
    let path = keys.path();
    let server = serve("tiny-e5", &["--keys-file", path.to_str().unwrap()]);
    let body = json!({"input": ["a river", "a stone", "a river"]}).to_string();
    let bearer = format!("Bearer {key}");
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    let post = |path: &str| server.post_with(path, body.as_bytes(), &headers);

    assert_eq!(server.post_bytes("/v1/embeddings", body.as_bytes()).status, 401);
    let first = post("/v1/embeddings");
    assert_eq!(first.status, 200, "{}", first.text);
    let timing = first.header("server-timing");
    assert!(timing.contains("tokenize;dur=") && timing.contains("device;dur="), "{timing}");
    let second = post("/v1/embeddings");
    assert_eq!(second.status, 429);
    assert_eq!(second.json()["error"]["type"], "RateLimitError");
    assert!(second.header("retry-after").parse::<u32>().unwrap() > 0);

    let usage = server.get_with("/v1/usage", &headers).json();
    assert_eq!((&usage["requests"], &usage["documents"]), (&json!(1), &json!(3)));
    assert_eq!(usage["search_units"], 0, "a vector is no search");
    assert_eq!(usage["tokens"], first.json()["usage"]["total_tokens"]);
    assert_eq!(books(&server), (3.0, [1.0, 2.0, 0.0, 0.0]));
    assert_eq!(server.metric("rerank_scored_pairs_total"), 3.0);
    assert_eq!(server.metric("rerank_joined_sequences_total"), 1.0, "equal texts go once");
    server.logs("\"documents\":3");
}

#[test]
fn answers_have_a_bound_in_memory() {
    // 2,048 texts of 64 components are 2 MB of answer, for a body of 8 KB.
    let serve =
        |bytes| serve("tiny-e5", &["--max-total-body-bytes", bytes, "--max-body-bytes", "20000"]);
    let server = serve("6000000");
    let body = json!({"input": vec!["a"; 2048], "encoding_format": "base64"}).to_string();
    let reply = server.post_bytes("/v1/embeddings", body.as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(reply.text.len() > 500_000);
    eventually("the memory is given back", || server.metric("rerank_body_bytes") == 0.0);
    let reply = serve("4000000").post_bytes("/v1/embeddings", body.as_bytes());
    assert_eq!(reply.status, 400);
    assert!(reply.text.contains("send fewer texts"), "{}", reply.text);
}
