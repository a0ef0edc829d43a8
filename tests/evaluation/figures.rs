//! The figures, against those that ir-measures gave for the same files.

use std::collections::HashMap;

use serde_json::Value;

use crate::fake::Fake;
use crate::{assert_close, eval, here, report};

/// The key in reports, and in what `make.py` wrote.
const METRICS: [(&str, &str); 3] = [("ndcg@10", "ndcg"), ("mrr@10", "mrr"), ("p@1", "p1")];
/// Ours are sampled: three standard errors of 20,000 draws, and a bit.
const P_TOLERANCE: f64 = 0.012;

fn expected() -> Value {
    let text = std::fs::read_to_string(here().join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn figures_are_those_of_ir_measures() {
    let expected = expected();
    let report = report(&here(), &["--server", &Fake::honest().url]);
    for wanted in expected["collections"].as_array().unwrap() {
        let found = report["collections"].as_array().unwrap().iter();
        let found = found.clone().find(|row| row["name"] == wanted["name"]).unwrap();
        for ranking in ["before", "after"] {
            for (ours, theirs) in METRICS {
                assert_close(&found[ranking][ours], &wanted[ranking]["mean"][theirs], 1e-12);
            }
        }
        assert_close(&found["p_value"], &wanted["p_value"], P_TOLERANCE);
        assert_eq!(found["queries_without_candidates"], 2);
    }
    assert_eq!(report["collections"].as_array().unwrap().len(), 2);
    assert_close(&report["mean"]["p_value"], &expected["p_value"], P_TOLERANCE);
}

#[test]
fn the_mean_counts_each_collection_once() {
    let report = report(&here(), &["--server", &Fake::honest().url]);
    let mean_of = |ranking: &str| {
        let rows = report["collections"].as_array().unwrap().iter();
        rows.map(|row| row[ranking]["ndcg@10"].as_f64().unwrap()).sum::<f64>() / 2.0
    };
    let mean = &report["mean"];
    assert_close(&mean["before"]["ndcg@10"], &mean_of("before").into(), 1e-12);
    assert_close(&mean["after"]["ndcg@10"], &mean_of("after").into(), 1e-12);
    let change = mean_of("after") - mean_of("before");
    assert_close(&mean["change"]["ndcg@10"], &change.into(), 1e-12);
}

#[test]
fn the_figures_of_every_query_are_those_of_ir_measures() {
    let expected = expected();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("queries.tsv");
    report(&here(), &["--server", &Fake::honest().url, "--per-query", file.to_str().unwrap()]);
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let head = lines.next().unwrap();
    let rows: HashMap<_, _> = lines.map(|cells| ((cells[0], cells[1]), cells)).collect();
    let mut num_queries = 0;
    for collection in expected["collections"].as_array().unwrap() {
        for ranking in ["before", "after"] {
            for (qid, figures) in collection[ranking]["queries"].as_object().unwrap() {
                let cells = &rows[&(collection["name"].as_str().unwrap(), qid.as_str())];
                for (_, metric) in METRICS {
                    let column = format!("{metric}_{ranking}");
                    let column = head.iter().position(|name| *name == column).unwrap();
                    let found: f64 = cells[column].parse().unwrap();
                    assert_close(&found.into(), &figures[metric], 1e-6);
                }
                num_queries += 1;
            }
        }
    }
    assert_eq!(num_queries, 2 * rows.len());
}

#[test]
fn candidates_and_queries_can_be_cut_and_the_table_says_so() {
    let server = Fake::honest();
    let args = ["--server", &server.url, "--top-k", "3", "--max-queries", "4"];
    let output = eval(&here(), &args);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("first 3 of each query"), "{table}");
    assert!(table.contains("first 4 queries"), "{table}");
    assert!(table.lines().any(|line| line.starts_with("mean")), "{table}");
    let requests = server.requests.lock().unwrap();
    assert_eq!(requests.len(), 8);
    assert!(requests.iter().all(|(_, body)| body["documents"].as_array().unwrap().len() == 3));
    drop(requests);
    // Cutting changes what is found, not what could have been.
    let cut = report(&here().join("graded"), &args);
    let first: Vec<_> = expected()["collections"][0]["before"]["queries"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(qid, _)| ["q0", "q1", "q2", "q3"].contains(&qid.as_str()))
        .map(|(_, figures)| figures["p1"].as_f64().unwrap())
        .collect();
    let p1 = first.iter().sum::<f64>() / 4.0;
    assert_close(&cut["collections"][0]["before"]["p@1"], &p1.into(), 1e-12);
}

#[test]
fn the_plot_has_a_bar_for_every_ranking_of_every_collection() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plot.svg");
    report(&here(), &["--server", &Fake::honest().url, "--plot", file.to_str().unwrap()]);
    let svg = std::fs::read_to_string(file).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    // The background, the legend, and two bars for two collections and their mean.
    assert_eq!(svg.matches("<rect ").count(), 1 + 2 + 6);
    assert!(svg.contains(">graded<") && svg.contains(">mean<"));
}
