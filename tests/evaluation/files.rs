//! The forms that collections come in, and what is said of files that are none.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::fake::Fake;
use crate::{complaint, here, report};

/// A copy of a collection of `make.py` that may be changed.
fn copy(name: &str, to: &Path) {
    for file in ["queries.tsv", "corpus.jsonl", "qrels.tsv", "candidates.tsv", "meta.json"] {
        std::fs::copy(here().join(name).join(file), to.join(file)).unwrap();
    }
}

fn rows(name: &str, file: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(here().join(name).join(file)).unwrap();
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// Everything but the name and the speed, which are no figures.
fn figures(folder: &Path) -> Value {
    let mut report = report(folder, &["--server", &Fake::honest().url]);
    let row = report["collections"][0].as_object_mut().unwrap();
    row.remove("name");
    row["after"].as_object_mut().unwrap().remove("pairs_per_second");
    Value::Object(row.clone())
}

/// In two members, as tools that compress in blocks write.
fn gzip(path: &Path, text: &str) {
    let middle = text.len() / 2;
    let mut file = std::fs::File::create(path).unwrap();
    for part in [&text[..middle], &text[middle..]] {
        let mut member = flate2::write::GzEncoder::new(&file, flate2::Compression::fast());
        member.write_all(part.as_bytes()).unwrap();
        member.finish().unwrap();
    }
    file.flush().unwrap();
}

#[test]
fn beirs_folders_with_a_trec_run_give_the_same_figures() {
    let folder = tempfile::tempdir().unwrap();
    let at = |file: &str| folder.path().join(file);
    let queries = rows("binary", "queries.tsv");
    let queries = queries.iter().map(|row| json!({"_id": row[0], "text": row[1]}).to_string());
    std::fs::write(at("queries.jsonl"), queries.collect::<Vec<_>>().join("\n")).unwrap();
    let corpus = std::fs::read_to_string(here().join("binary/corpus.jsonl")).unwrap();
    gzip(&at("corpus.jsonl.gz"), &corpus.replace("\"id\"", "\"_id\""));
    std::fs::create_dir(at("qrels")).unwrap();
    let qrels = std::fs::read_to_string(here().join("binary/qrels.tsv")).unwrap();
    std::fs::write(at("qrels/test.tsv"), "query-id\tcorpus-id\tscore\n".to_owned() + &qrels)
        .unwrap();
    // The scores order the lines; the ranks are as wrong as those of merged runs are.
    let run = rows("binary", "candidates.tsv");
    let run = run.iter().rev().map(|row| format!("{} Q0 {} 7 {} tag\n", row[0], row[1], row[3]));
    std::fs::write(at("run.trec"), run.collect::<String>()).unwrap();
    assert_eq!(figures(folder.path()), figures(&here().join("binary")));
}

#[test]
fn trecs_judgements_and_gzipped_tables_give_the_same_figures() {
    let folder = tempfile::tempdir().unwrap();
    copy("graded", folder.path());
    let at = |file: &str| folder.path().join(file);
    for file in ["queries.tsv", "candidates.tsv"] {
        gzip(&at(&format!("{file}.gz")), &std::fs::read_to_string(at(file)).unwrap());
        std::fs::remove_file(at(file)).unwrap();
    }
    let qrels = rows("graded", "qrels.tsv");
    let qrels = qrels.iter().map(|row| format!("{} 0 {} {}\r\n", row[0], row[1], row[2]));
    std::fs::write(at("qrels.txt"), qrels.collect::<String>()).unwrap();
    std::fs::remove_file(at("qrels.tsv")).unwrap();
    assert_eq!(figures(folder.path()), figures(&here().join("graded")));
}

#[test]
fn full_judgements_win_over_those_of_a_pool() {
    let folder = tempfile::tempdir().unwrap();
    copy("graded", folder.path());
    std::fs::rename(folder.path().join("qrels.tsv"), folder.path().join("qrels.full.tsv")).unwrap();
    std::fs::write(folder.path().join("qrels.tsv"), "q0\tgraded-0\t1\n").unwrap();
    assert_eq!(figures(folder.path()), figures(&here().join("graded")));
}

#[test]
fn a_wrong_line_is_told_with_its_file_and_number() {
    let cases = [
        ("qrels.tsv", "q0\tgraded-1", "grade"),
        ("qrels.tsv", "q0\tgraded-1\tvery", "whole number"),
        ("candidates.tsv", "q0\tgraded-1", "rank"),
        ("candidates.tsv", "q0\tgraded-1\tfirst\t1.0", "rank"),
        ("candidates.tsv", "q0 Q0 graded-1 1 NaN tag", "score"),
        ("candidates.tsv", "q0\tno-such-document\t1\t1.0", "'no-such-document' is not in"),
        ("candidates.tsv", "q0\tgraded-39\t998\t1\nq0\tgraded-39\t999\t1", "already"),
        ("candidates.tsv", "absent\tgraded-1\t1\t1.0", "no query 'absent'"),
        ("queries.tsv", "q99 and no tab", "tab"),
        ("queries.tsv", "q0\tagain", "line 1 already"),
        ("corpus.jsonl", "{\"title\": \"no id\"}", "_id"),
        ("corpus.jsonl", "{\"id\": ", "not JSON"),
        ("corpus.jsonl", "{\"id\": \"graded-0\"}", ""),
    ];
    for (file, line, part) in cases {
        let folder = tempfile::tempdir().unwrap();
        copy("graded", folder.path());
        let path = folder.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap() + line + "\n";
        std::fs::write(&path, &text).unwrap();
        let complaint = complaint(folder.path(), &["--server", "http://127.0.0.1:9"], 2);
        let number = text.lines().count();
        let place = format!("{file}, line {number}: ");
        assert!(complaint.contains(&place) && complaint.contains(part), "{line}: {complaint}");
    }
}

#[test]
fn bytes_that_are_no_text_are_told_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    copy("graded", folder.path());
    std::fs::write(folder.path().join("queries.tsv"), b"q0\tweight 2\nq1\t\xff\n").unwrap();
    let told = complaint(folder.path(), &["--server", "http://127.0.0.1:9"], 1);
    assert!(told.contains("queries.tsv, line 2"), "{told}");
}

#[test]
fn a_folder_that_is_no_collection_is_told_with_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    assert!(complaint(folder.path(), &[], 2).contains("qrels.tsv"));
    copy("graded", folder.path());
    for file in ["queries.tsv", "corpus.jsonl", "candidates.tsv"] {
        std::fs::rename(folder.path().join(file), folder.path().join("away")).unwrap();
        assert!(complaint(folder.path(), &[], 2).contains(file));
        std::fs::rename(folder.path().join("away"), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("meta.json"), "{\"minrel\": 0}").unwrap();
    assert!(complaint(folder.path(), &[], 2).contains("minrel"));
    assert!(complaint(&folder.path().join("nowhere"), &[], 1).contains("nowhere"));
}
