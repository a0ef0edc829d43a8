//! `rerankd models`: which models there are to serve, and which of them are on this machine.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::Failure;
use super::model::hub;
use crate::model::known::{self, Known};
use crate::model::loader::check_config;
use crate::model::memory::mib;
use crate::model::source::{Cached, cached};

/// List the models that can be served
///
/// The public models that are known to run here, then what else the Hugging
/// Face cache of this machine has. A running server lists its own at
/// /v1/models. JSON lines without a terminal.
///
/// Examples:
///   rerankd models
///   rerankd models --json | jq 'select(.cached_bytes > 0).name'
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Print JSON lines, also on a terminal
    #[arg(long)]
    json: bool,
}

/// A line of the list.
#[derive(Debug, PartialEq, Serialize)]
struct Line {
    name: String,
    /// `None` where config.json is missing.
    architecture: Option<String>,
    head: Option<&'static str>,
    max_length: Option<usize>,
    licence: Option<String>,
    /// What the cache has of it.
    cached_bytes: u64,
    /// Why it cannot be served.
    problem: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let lines = lines(&cached(&hub()));
    let mut out = std::io::stdout().lock();
    let printed = if args.json || !out.is_terminal() {
        print_json(&mut out, &lines)
    } else {
        print_table(&mut out, &lines)
    };
    match printed {
        // `| head` has seen enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(|e| Failure::io("cannot write the list", e)),
    }
}

/// The embedded model, the known ones, and the rest of the cache.
fn lines(cache: &[Cached]) -> Vec<Line> {
    let embedded = Line {
        name: "default".into(),
        architecture: Some("BertForSequenceClassification".into()),
        head: Some("classifier"),
        max_length: Some(512),
        licence: Some("Apache-2.0".into()),
        cached_bytes: 0,
        problem: None,
    };
    let bytes_of = |name: &str| {
        let of = cache.iter().find(|cached| cached.repo_id.eq_ignore_ascii_case(name));
        of.map_or(0, |cached| cached.num_bytes)
    };
    let known = known::all().iter().map(|known: &Known| Line {
        name: known.hub_id.clone(),
        architecture: Some(known.architecture.clone()),
        head: Some(known.head.name()),
        max_length: Some(known.max_length),
        licence: Some(known.licence.clone()),
        cached_bytes: bytes_of(&known.hub_id),
        problem: None,
    });
    let others = cache.iter().filter(|cached| known::find(&cached.repo_id).is_none());
    std::iter::once(embedded).chain(known).chain(others.map(Line::of_cached)).collect()
}

impl Line {
    fn of_cached(cached: &Cached) -> Self {
        let (architecture, problem) = match &cached.config {
            None => (None, Some("no config.json in the cache".to_owned())),
            Some(json) => match check_config(json) {
                Ok(config) => (Some(config.architecture), None),
                Err(error) => (None, Some(error.to_string())),
            },
        };
        Self {
            name: cached.repo_id.clone(),
            architecture,
            head: None,
            max_length: None,
            licence: None,
            cached_bytes: cached.num_bytes,
            problem,
        }
    }
}

fn print_json(out: &mut impl Write, lines: &[Line]) -> std::io::Result<()> {
    for line in lines {
        serde_json::to_writer(&mut *out, line)?;
        writeln!(out)?;
    }
    Ok(())
}

fn print_table(out: &mut impl Write, lines: &[Line]) -> std::io::Result<()> {
    let width = lines.iter().map(|line| line.name.len()).max().unwrap_or(0);
    let header = ("model", "head", "tokens", "cached", "licence");
    let (name, head, tokens, cached, licence) = header;
    writeln!(out, "{name:width$}  {head:10}  {tokens:>6}  {cached:>12}  {licence}")?;
    for line in lines {
        let cached = match line.cached_bytes {
            0 if line.name == "default" => "inside".to_owned(),
            0 => "-".to_owned(),
            bytes => mib(bytes),
        };
        let tokens = line.max_length.map_or("-".to_owned(), |tokens| tokens.to_string());
        let last = line.problem.as_deref().or(line.licence.as_deref()).unwrap_or("-");
        let head = line.head.unwrap_or("-");
        writeln!(out, "{:width$}  {head:10}  {tokens:>6}  {cached:>12}  {last}", line.name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_joins_what_is_known_with_what_is_here() {
        let cached = |repo_id: &str, config: Option<&str>| Cached {
            repo_id: repo_id.into(),
            num_bytes: 1000,
            config: config.map(|json| json.as_bytes().to_vec()),
        };
        let lines = lines(&[
            cached("BAAI/bge-reranker-base", None),
            cached("org/gpt", Some(r#"{"architectures": ["GPT2LMHeadModel"], "vocab_size": 9}"#)),
        ]);
        assert_eq!(lines[0].name, "default");
        let bge = lines.iter().find(|line| line.name == "BAAI/bge-reranker-base").unwrap();
        assert_eq!((bge.cached_bytes, bge.licence.as_deref()), (1000, Some("MIT")));
        let gpt = lines.last().unwrap();
        assert!(gpt.problem.as_deref().unwrap().contains("GPT2LMHeadModel"), "{gpt:?}");
        assert_eq!(lines.len(), known::all().len() + 2);
    }
}
