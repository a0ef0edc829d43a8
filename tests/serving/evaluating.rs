//! A server and the model it serves, measured side by side.

use std::path::Path;

use serde_json::Value;

use crate::support::*;

#[test]
fn a_model_and_a_server_of_it_are_compared_and_do_not_differ() {
    let server = Server::start(&[]);
    let url = format!("http://{}", server.address());
    let model = tiny_bert();
    let args = ["--model", model.to_str().unwrap(), "--server", &url];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evaluation/graded");
    let output = rerankd().arg("eval").arg(folder).args(args).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let labels: Vec<_> =
        report["rankings"].as_array().unwrap().iter().map(|r| &r["label"]).collect();
    assert_eq!(labels, ["before", "first", "second"]);
    let row = &report["collections"][0];
    assert_eq!(row["first"]["ndcg@10"], row["second"]["ndcg@10"]);
    assert_eq!((&row["change"]["ndcg@10"], &row["p_value"]), (&0.0.into(), &1.0.into()));
    assert!(row["first"]["pairs_per_second"].as_f64().unwrap() > 0.0);
}
