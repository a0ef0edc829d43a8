//! TEI `/predict`: texts, pairs and batches of them.

use serde_json::json;

use super::{answer, fake, json as body_of, refusal, request, send};
use crate::request::{Inputs, Stamps};
use std::time::Duration;

#[test]
fn predict_reads_texts_and_pairs() {
    let one = Inputs::Texts(vec!["a".into()]);
    let pair = Inputs::Pairs(vec![("a".into(), "b".into())]);
    let cases = [
        (r#""a""#, one.clone()),
        (r#"["a"]"#, one.clone()),
        (r#"["a","b"]"#, pair.clone()),
        (r#"[["a"]]"#, one),
        (r#"[["a","b"]]"#, pair),
        (r#"[["a"],["b"]]"#, Inputs::Texts(vec!["a".into(), "b".into()])),
    ];
    for (value, expected) in cases {
        let body = format!(r#"{{"inputs":{value}}}"#);
        assert_eq!(request("/predict", &body).inputs, expected, "{value}");
    }
}

#[test]
fn predict_names_what_it_cannot_read() {
    for (value, words) in [
        (r#"["a","b","c"]"#, "one text or two"),
        (r#"[["a"],["a","b"]]"#, "cannot be mixed"),
        (r#"[["a"],"b"]"#, "inputs[1]"),
        (r#"[["a"],[]]"#, "inputs[1]"),
        (r#"[["a"],[3]]"#, "inputs[1][0]"),
        ("3", "inputs: expected a string"),
    ] {
        let (status, body) = refusal("/predict", &format!(r#"{{"inputs":{value}}}"#));
        assert_eq!((status, &body["error_type"]), (422, &json!("Validation")), "{value}");
        assert!(body["error"].as_str().unwrap().contains(words), "{value}: {body}");
    }
}

#[test]
fn predict_answers_a_batch_with_lists_and_one_entry_with_one() {
    let row = json!([{"score": 0.9, "label": "LABEL_0"}]);
    assert_eq!(answer("/predict", r#"{"inputs":["a","b"]}"#), row);
    assert_eq!(answer("/predict", r#"{"inputs":[["a","b"]]}"#), json!([row]));
    let raw = r#"{"inputs":[["q","a"],["q","b"]],"raw_scores":true}"#;
    assert_eq!(
        answer("/predict", raw),
        json!([[{"score": -2.5, "label": "LABEL_0"}], [{"score": 2.5, "label": "LABEL_0"}]])
    );
}

#[test]
fn predict_gives_all_labels_best_first() {
    for (raw_scores, expected) in
        [(true, [3.0, 1.0, -1000.0]), (false, [0.880_797, 0.119_203, 0.0])]
    {
        let body = format!(r#"{{"inputs":"a","raw_scores":{raw_scores}}}"#);
        let parsed = send("/predict", &body).unwrap();
        let mut response = fake(&parsed.request);
        response.labels = ["neg", "pos", "none"].map(String::from).to_vec();
        response.label_logits = vec![1.0, 3.0, -1000.0];
        let reply = body_of(&parsed.dialect.reply(&response));
        let names: Vec<_> = reply.as_array().unwrap().iter().map(|l| l["label"].clone()).collect();
        assert_eq!(names, [json!("pos"), json!("neg"), json!("none")]);
        for (label, expected) in reply.as_array().unwrap().iter().zip(expected) {
            assert!((label["score"].as_f64().unwrap() - expected).abs() < 1e-6, "{reply}");
        }
    }
}

#[test]
fn tei_ties_show_the_higher_index_first() {
    let reply = answer("/rerank", r#"{"query":"q","texts":["x","b","y"]}"#);
    assert_eq!(super::indexes(&reply), [1, 2, 0]);
}

#[test]
fn tei_tells_times_and_counts_in_headers() {
    let parsed = send("/rerank", r#"{"query":"q","texts":["a","b"]}"#).unwrap();
    let mut response = fake(&parsed.request);
    let start = super::now();
    let after = |ms| start + Duration::from_millis(ms);
    response.stamps = Stamps {
        received: start,
        parsed: start,
        admitted: start,
        tokenized: after(3),
        started: after(10),
        scored: after(50),
    };
    let headers = parsed.dialect.reply(&response).headers;
    for (name, value) in [
        ("x-compute-type", "gpu+optimized"),
        ("x-compute-time", "50"),
        ("x-total-time", "50"),
        ("x-tokenization-time", "3"),
        ("x-queue-time", "7"),
        ("x-inference-time", "40"),
        ("x-compute-characters", "8"),
        ("x-compute-tokens", "30"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
}

#[test]
fn a_score_that_is_no_number_never_reaches_a_client() {
    for (path, body) in [
        ("/rerank", r#"{"query":"q","documents":["a","b"]}"#),
        ("/rerank", r#"{"query":"q","documents":["a","b"],"raw_scores":true}"#),
        ("/rerank", r#"{"query":"q","texts":["a","b"]}"#),
        ("/score", r#"{"text_1":"q","text_2":["a","b"]}"#),
        ("/predict", r#"{"inputs":[["a"],["b"]]}"#),
    ] {
        let parsed = send(path, body).unwrap();
        let mut response = fake(&parsed.request);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let score = &mut response.results[0].score;
            (score.raw, score.activated, score.probability) = (bad, bad, bad);
            let text = String::from_utf8(parsed.dialect.reply(&response).body).unwrap();
            assert!(!text.contains("null"), "{body} {bad}: {text}");
        }
    }
}
