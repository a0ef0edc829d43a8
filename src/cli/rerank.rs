//! `rerankd rerank`: documents from files or standard input, ranked on this machine.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Failure;
use super::hardware::Hardware;
use super::model::{Opened, open, start_alone};
use crate::clock;
use crate::config::{ModelConfig, ModelSettings};
use crate::request::{Inputs, RerankRequest, RerankResponse, Stamps, Truncation};
use crate::score::MatrixOptions;
use crate::tenant::Tenant;

/// Rank documents by how well they answer a query
///
/// Each FILE is one document; a .jsonl file has one a line, in its field "text"
/// or as the line itself, if that is a string. Without files, each line of
/// standard input is a document. Prints a table on a terminal, and otherwise
/// JSON lines, the best first.
///
/// Examples:
///   rerankd rerank "how do I undo a commit" docs/*.md
///   grep -rn retry src | rerankd rerank "when to try again" --top-n 5
///   rerankd rerank "capital of France" passages.jsonl --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// What the documents should answer
    query: String,
    /// Documents; '-' is standard input
    files: Vec<PathBuf>,
    /// Print only the best N
    #[arg(long, short = 'n', value_name = "N")]
    top_n: Option<usize>,
    /// Print JSON lines, also on a terminal
    #[arg(long)]
    json: bool,
    /// Score a long document in up to this many pieces and count the best
    #[arg(long, value_name = "N", default_value_t = 1)]
    max_chunks_per_doc: usize,
    #[command(flatten)]
    model: ModelSettings,
}

/// A document and where it came from.
#[derive(Debug)]
pub(super) struct Document {
    source: String,
    pub(super) text: String,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    if args.query.trim().is_empty() {
        return Err(Failure::Usage(
            "the query is empty; say what the documents should answer".into(),
        ));
    }
    let documents = read_all(&args.files)?;
    if documents.is_empty() {
        return Err(Failure::Usage("no documents; name files or pipe lines in".into()));
    }
    let hardware = Hardware::find(args.model.device)?;
    let config = ModelConfig::new(args.model, hardware.machine())?;
    let opened = open(&config, &hardware)?;
    let response = score(&config, opened, args.query, &documents, args.max_chunks_per_doc)?;
    let mut order: Vec<usize> = (0..documents.len()).collect();
    let raw = |i: usize| response.results[i].score.raw;
    order.sort_by(|&a, &b| raw(b).total_cmp(&raw(a)));
    order.truncate(args.top_n.unwrap_or(usize::MAX));
    let mut out = std::io::stdout().lock();
    let printed = if args.json || !out.is_terminal() {
        print_json(&mut out, &documents, &response, &order)
    } else {
        print_table(&mut out, &documents, &response, &order)
    };
    match printed {
        // `| head` has seen enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(|e| Failure::io("cannot write the result", e)),
    }
}

fn score(
    config: &ModelConfig,
    opened: Opened,
    query: String,
    documents: &[Document],
    max_chunks_per_doc: usize,
) -> Result<RerankResponse, Failure> {
    let service = start_alone(config, opened, MatrixOptions::default(), 1)?;
    let texts = documents.iter().map(|document| document.text.clone()).collect();
    let request = RerankRequest {
        id: String::new(),
        model: None,
        inputs: Inputs::OneQuery { query, documents: texts },
        truncation: Truncation {
            max_chunks_per_doc: max_chunks_per_doc.max(1),
            ..Truncation::default()
        },
        timeout: None,
        priority: 0,
        may_cache: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|e| Failure::io("cannot start the async runtime", e))?;
    let stamps = Stamps::at(clock::now());
    Ok(runtime.block_on(service.rerank(request, stamps, &Tenant::anonymous()))?)
}

pub(super) fn read_all(files: &[PathBuf]) -> Result<Vec<Document>, Failure> {
    if files.is_empty() {
        return read_lines();
    }
    let mut documents = Vec::new();
    for file in files {
        if file.as_os_str() == "-" {
            documents.append(&mut read_lines()?);
        } else if file.extension().is_some_and(|extension| extension == "jsonl") {
            documents.append(&mut read_jsonl(file)?);
        } else {
            documents.push(read_text(file)?);
        }
    }
    Ok(documents)
}

fn read_lines() -> Result<Vec<Document>, Failure> {
    if std::io::stdin().is_terminal() {
        eprintln!("rerankd: reading documents from the terminal, one a line; end with Ctrl-D");
    }
    let mut documents = Vec::new();
    for (number, line) in (1..).zip(std::io::stdin().lock().lines()) {
        let text = line.map_err(|e| Failure::io(format!("standard input, line {number}"), e))?;
        if !text.trim().is_empty() {
            documents.push(Document { source: number.to_string(), text });
        }
    }
    Ok(documents)
}

fn read_text(file: &Path) -> Result<Document, Failure> {
    let source = file.display().to_string();
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|mut opened| opened.read_to_end(&mut bytes))
        .map_err(|e| Failure::io(&source, e))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        Failure::Usage(format!("{source}: not UTF-8 text at byte {}", e.utf8_error().valid_up_to()))
    })?;
    Ok(Document { source, text })
}

fn read_jsonl(file: &Path) -> Result<Vec<Document>, Failure> {
    /// A line of the file: the text itself, or an object that has it.
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Line {
        Text(String),
        Object { text: String },
    }
    let Document { source, text } = read_text(file)?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let parse = |(number, line): (usize, &str)| match serde_json::from_str(line) {
        Ok(Line::Text(text) | Line::Object { text }) => {
            Ok(Document { source: format!("{source}:{number}"), text })
        }
        Err(e) if e.is_data() => Err(Failure::Usage(format!(
            "{source}, line {number}: needs a string or an object with a string \"text\""
        ))),
        Err(e) => Err(Failure::Usage(format!("{source}, line {number}: not JSON: {e}"))),
    };
    lines.map(parse).collect()
}

#[derive(Serialize)]
struct JsonLine<'a> {
    index: usize,
    relevance_score: f32,
    source: &'a str,
    text: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    truncated_tokens: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

fn print_json(
    out: &mut impl Write,
    documents: &[Document],
    response: &RerankResponse,
    order: &[usize],
) -> std::io::Result<()> {
    for &index in order {
        let (document, scored) = (&documents[index], &response.results[index]);
        let line = JsonLine {
            index,
            relevance_score: scored.score.probability,
            source: &document.source,
            text: &document.text,
            truncated_tokens: scored.truncated_tokens,
        };
        serde_json::to_writer(&mut *out, &line)?;
        writeln!(out)?;
    }
    Ok(())
}

fn print_table(
    out: &mut impl Write,
    documents: &[Document],
    response: &RerankResponse,
    order: &[usize],
) -> std::io::Result<()> {
    /// Characters of a document that are shown.
    const SHOWN: usize = 72;
    let width =
        order.iter().map(|&i| documents[i].source.chars().count()).max().unwrap_or(0).max(6);
    writeln!(out, "{:>4}  {:>6}  {:<width$}  text", "rank", "score", "source")?;
    for (rank, &index) in (1..).zip(order) {
        let (document, scored) = (&documents[index], &response.results[index]);
        let words = document.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let text: String = words.chars().take(SHOWN).collect();
        let more = if words.chars().nth(SHOWN).is_some() { "…" } else { "" };
        let cut = match scored.truncated_tokens {
            0 => String::new(),
            n => format!("  ({n} tokens not read)"),
        };
        let (score, source) = (scored.score.probability, &document.source);
        writeln!(out, "{rank:>4}  {score:>6.4}  {source:<width$}  {text}{more}{cut}")?;
    }
    Ok(())
}
