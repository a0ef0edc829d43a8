//! `rerankd` from a shell: what it prints, and exit codes that scripts can use.

use std::io::{ErrorKind, Write};
use std::process::{Output, Stdio};

use crate::support::*;

fn run(args: &[&str], input: &str) -> Output {
    let mut child = rerankd()
        .args(args)
        .arg("--model")
        .arg(tiny_bert())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let written = child.stdin.take().unwrap().write_all(input.as_bytes());
    // Who refuses the arguments ends before it reads.
    if let Err(error) = written {
        assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
    }
    child.wait_with_output().unwrap()
}

fn lines(output: &Output) -> Vec<serde_json::Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
}

#[test]
fn lines_of_standard_input_are_ranked_best_first() {
    let ranked = lines(&run(&["rerank", "a b"], "a b c\n\nx y\nd e f g\n"));
    assert_eq!(ranked.len(), 3);
    let scores: Vec<_> = ranked.iter().map(|r| r["relevance_score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    let mut indexes: Vec<_> = ranked.iter().map(|r| r["index"].as_u64().unwrap()).collect();
    indexes.sort_unstable();
    assert_eq!(indexes, [0, 1, 2]);
}

#[test]
fn files_and_jsonl_are_documents_and_top_n_cuts() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("one.txt");
    let jsonl = folder.path().join("more.jsonl");
    std::fs::write(&text, "a whole\nfile").unwrap();
    std::fs::write(&jsonl, "{\"text\": \"a b\", \"id\": 1}\n\"just a string\"\n").unwrap();
    let (text, jsonl) = (text.to_str().unwrap(), jsonl.to_str().unwrap());
    assert_eq!(lines(&run(&["rerank", "a", text, jsonl], "")).len(), 3);
    assert_eq!(lines(&run(&["rerank", "a", text, jsonl, "--top-n", "2"], "")).len(), 2);
}

#[test]
fn what_the_user_got_wrong_exits_2_with_one_line() {
    let cases: &[(&[&str], &str, &str)] = &[
        (&["rerank", " "], "x", "query"),
        (&["rerank", "q"], "", "documents"),
        (&["rerank", "q", "--threads", "0"], "x", "threads"),
        (&["serve", "--port", "0", "--max-batch-tokens", "3"], "", "max-batch-tokens"),
        (
            &["serve", "--default-timeout-ms", "9", "--max-timeout-ms", "3"],
            "",
            "default-timeout-ms",
        ),
    ];
    for (args, input, part) in cases {
        let output = run(args, input);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {complaint}");
        assert!(complaint.contains(part), "{args:?}: {complaint}");
        assert_eq!(complaint.trim_end().lines().count(), 1, "{complaint}");
    }
}

#[test]
fn what_the_machine_lacks_exits_1_with_one_line() {
    let output = run(&["rerank", "q", "/no/such/file"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/no/such/file"));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = run(&["serve", "--port", &port], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot listen on"));
}

#[test]
fn a_settings_file_is_read_and_a_wrong_key_in_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rerankd.toml");
    std::fs::write(&file, "max_documents = 3\naliases = [\"rerank-v3.5\"]\n").unwrap();
    let server = Server::start(&["--config", file.to_str().unwrap()]);
    let body = serde_json::json!({"query": "q", "documents": ["a", "b", "c", "d"]});
    assert_eq!(server.post("/v2/rerank", &body).status, 400);
    assert_eq!(server.get("/v1/models/rerank-v3.5").status, 200);

    std::fs::write(&file, "max_docments = 3\n").unwrap();
    let output = run(&["serve", "--config", file.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("max_docments"));
}

#[test]
fn help_teaches_by_example() {
    for (args, part) in [
        (&["--help"][..], "curl"),
        (&["serve", "--help"], "--alias"),
        (&["rerank", "--help"], "grep"),
    ] {
        let output = rerankd().args(args).output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains(part), "{args:?}");
    }
}
