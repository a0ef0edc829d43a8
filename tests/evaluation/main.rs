//! `rerankd eval` measures what ir-measures measures, and tells what is wrong with a collection.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

mod fake;
mod figures;
mod files;
#[path = "../serving/program.rs"]
mod program;
mod servers;

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

/// The folder with the two collections of `make.py`.
fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evaluation")
}

fn eval(folder: &Path, args: &[&str]) -> Output {
    program::rerankd().arg("eval").arg(folder).args(args).output().unwrap()
}

fn report(folder: &Path, args: &[&str]) -> Value {
    let output = eval(folder, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The one line of a failed run.
fn complaint(folder: &Path, args: &[&str], exit_code: i32) -> String {
    let output = eval(folder, args);
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(exit_code), "{complaint}");
    assert_eq!(complaint.trim_end().lines().count(), 1, "{complaint}");
    complaint
}

#[track_caller]
fn assert_close(found: &Value, expected: &Value, tolerance: f64) {
    let both = (found.as_f64().unwrap(), expected.as_f64().unwrap());
    assert!((both.0 - both.1).abs() <= tolerance, "{both:?}");
}
