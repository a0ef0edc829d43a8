//! `rerankd eval`: how much better a model, or a server, orders the candidates of test collections.

mod collection;
mod formats;
mod lines;
mod measure;
mod metrics;
mod per_query;
mod plot;
mod read;
mod report;
mod scorer;
mod server;
mod significance;
mod table;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::Failure;
use super::hardware::Hardware;
use crate::config::{Device, Dtype, ModelConfig, ModelSettings};
use collection::Collection;
use measure::{Measured, bar, measure};
use report::{Ranking, Report, Run};
use scorer::Scorer;
use server::Server;

/// Measure how well a model reranks test collections
///
/// Each FOLDER is one collection, or holds collections. The files of one, each plain or with .gz:
///   queries.tsv     query id, tab, text; or BEIR's queries.jsonl
///   corpus.jsonl    one document a line: "id" or "_id", "title", "text"; the title is read too
///   qrels.tsv       query id, document id, grade; or BEIR's qrels/test.tsv, or TREC's four
///                   columns in qrels.txt; qrels.full.tsv is preferred where it exists
///   candidates.tsv  the first stage's list: query id, document id, rank, score; or a TREC run
///                   in run.trec, which is ordered by score
///   meta.json       optional: "minrel", the grade from which MRR@10 and P@1 count a document
///                   as relevant [default: 1]
///
/// nDCG@10, MRR@10 and P@1 are trec_eval's and agree with ir-measures: the gain is the grade, the
/// ideal is over all judgements, a judged query without candidates counts 0, and one without
/// judgements is left out. "before" is the candidates' own order. p is a paired randomisation
/// test on nDCG@10 by query (20,000 draws of signs, fixed seed, two-sided). The mean over
/// collections counts each collection once.
///
/// With --model or --server given twice, or one of each, the second is compared to the first; a
/// model comes before a server.
///
/// Examples:
///   rerankd eval data/cranfield
///   rerankd eval data --model ./mine --model cross-encoder/ms-marco-MiniLM-L6-v2
///   rerankd eval data --max-queries 50 --top-k 20 --json
///   rerankd eval data --server http://localhost:8080 --server-model bge-reranker-v2-m3
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Collections, or folders of collections
    #[arg(required = true, value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    #[command(flatten)]
    subjects: Subjects,
    /// Rerank only the first K candidates of a query and drop the rest
    #[arg(long, value_name = "K", default_value = "100")]
    top_k: NonZeroUsize,
    /// Measure only the first N queries of each collection
    #[arg(long, value_name = "N")]
    max_queries: Option<NonZeroUsize>,
    /// Queries in flight at a time [default: 8 for a model, 4 for a server]
    #[arg(long, value_name = "N")]
    concurrency: Option<NonZeroUsize>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Write the figures of every query to a tab-separated FILE
    #[arg(long, value_name = "FILE")]
    per_query: Option<PathBuf>,
    /// Draw nDCG@10 to an SVG FILE
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// What is measured. RERANKD_MODEL is not read here: the command line alone says whose figures these are.
#[derive(Debug, clap::Args)]
struct Subjects {
    /// 'default' (embedded in this program), a folder, or a Hugging Face name; twice to compare
    #[arg(long = "model", short, value_name = "NAME|FOLDER")]
    models: Vec<String>,
    /// Branch, tag or commit of a Hugging Face model; once for all models or once for each [default: main]
    #[arg(long = "revision")]
    revisions: Vec<String>,
    /// Run an encoder by late interaction; once for all models or once for each [default: false]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    late_interaction: Vec<bool>,
    /// A server to ask instead, in Cohere's words, on its /v1/rerank unless URL names a rerank path
    #[arg(long = "server", value_name = "URL")]
    servers: Vec<String>,
    /// The model to ask servers for; once for all servers or once for each [default: their own]
    #[arg(long = "server-model", value_name = "NAME", requires = "servers")]
    server_models: Vec<String>,
    /// The key to show to servers
    #[arg(long, env = "RERANKD_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// Score a long document in up to this many pieces and count the best
    #[arg(long, value_name = "N", default_value = "1")]
    max_chunks_per_doc: NonZeroUsize,
    /// Where to compute: auto or cpu [default: auto]
    #[arg(long, env = "RERANKD_DEVICE")]
    device: Option<Device>,
    /// Precision: auto, f32, bf16 or int8 [default: auto]
    #[arg(long, env = "RERANKD_DTYPE")]
    dtype: Option<Dtype>,
    /// Cores the engine computes on [default: all this process may use]
    #[arg(long, env = "RERANKD_THREADS", value_name = "N")]
    threads: Option<usize>,
    /// Tokens in one batch; at least the longest sequence of the model
    #[arg(long, env = "RERANKD_MAX_BATCH_TOKENS", value_name = "TOKENS")]
    max_batch_tokens: Option<usize>,
    /// Tokens in a sequence; longer ones are cut, or read in chunks [default: the model's own]
    #[arg(long, env = "RERANKD_MAX_LENGTH", value_name = "TOKENS")]
    max_length: Option<usize>,
}

/// Enough to fill batches behind the one that is computed.
const MODEL_CONCURRENCY: usize = 8;
/// A server may have other clients, and a hosted one counts requests.
const SERVER_CONCURRENCY: usize = 4;

/// One of the at most two that are measured.
enum Subject {
    Model(ModelConfig, Hardware),
    Server(Server),
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let subjects = args.subjects.check()?;
    let part = read::Part {
        top_k: args.top_k.get(),
        max_queries: args.max_queries.map_or(usize::MAX, NonZeroUsize::get),
    };
    let folders = read::folders(&args.folders)?;
    let loaded = folders.iter().map(|folder| read::load(folder, part));
    let collections: Vec<Collection> = loaded.collect::<Result<_, _>>()?;
    // Before the long work: a file that cannot be written must not cost its result.
    let per_query = args.per_query.as_ref().map(create).transpose()?;
    let plot = args.plot.as_ref().map(create).transpose()?;

    let labels: &[&str] = if subjects.len() == 1 { &["after"] } else { &["first", "second"] };
    let mut runs = vec![first_stage(&collections, part.top_k)];
    for (label, subject) in labels.iter().zip(subjects) {
        runs.push(subject.run(label, &collections, args)?);
    }
    let report =
        Report::new(&collections, &runs, part.top_k, args.max_queries.map(NonZeroUsize::get));
    if let Some((name, file)) = per_query {
        let mut file = BufWriter::new(file);
        per_query::write(&mut file, &collections, &runs).map_err(|e| Failure::io(name, e))?;
    }
    if let Some((name, mut file)) = plot {
        file.write_all(plot::svg(&report).as_bytes()).map_err(|e| Failure::io(name, e))?;
    }
    print(&report, args.json)
}

impl Subjects {
    fn check(&self) -> Result<Vec<Subject>, Failure> {
        let Self { models, servers, .. } = self;
        let default = ["default".to_owned()];
        let models = if models.is_empty() && servers.is_empty() { &default[..] } else { models };
        if models.len() + servers.len() > 2 {
            let what = "at most two can be compared; give --model and --server twice in all";
            return Err(Failure::Usage(what.into()));
        }
        let mut subjects = Vec::new();
        for (i, model) in models.iter().enumerate() {
            let settings = ModelSettings {
                model: Some(vec![model.clone()]),
                revision: one_for_each("--revision", &self.revisions, i, models.len())?,
                device: self.device,
                dtype: self.dtype,
                threads: self.threads,
                max_batch_tokens: self.max_batch_tokens,
                max_length: self.max_length,
                device_timeout_ms: None,
                batch_invariant: None,
                late_interaction: one_for_each(
                    "--late-interaction",
                    &self.late_interaction,
                    i,
                    models.len(),
                )?,
            };
            let hardware = Hardware::find(self.device)?;
            let config = ModelConfig::new(settings, hardware.machine())?;
            subjects.push(Subject::Model(config, hardware));
        }
        for (i, url) in servers.iter().enumerate() {
            let model = one_for_each("--server-model", &self.server_models, i, servers.len())?;
            subjects.push(Subject::Server(Server::new(url, model, self.api_key.clone())?));
        }
        Ok(subjects)
    }
}

/// What option `name` says of the `i`-th of `num` subjects: given once, it holds for all.
fn one_for_each<T: Clone>(
    name: &str,
    values: &[T],
    i: usize,
    num: usize,
) -> Result<Option<T>, Failure> {
    match values {
        [] => Ok(None),
        [all] => Ok(Some(all.clone())),
        each if each.len() == num => Ok(Some(each[i].clone())),
        _ => Err(Failure::Usage(format!("{name}: give it once, or once for each of the {num}"))),
    }
}

impl Subject {
    /// A model is in memory only while it is measured.
    fn run(
        self,
        label: &'static str,
        collections: &[Collection],
        args: &Args,
    ) -> Result<Run, Failure> {
        let in_flight = |default| args.concurrency.map_or(default, NonZeroUsize::get);
        match self {
            Self::Model(config, hardware) => {
                let in_flight = in_flight(MODEL_CONCURRENCY);
                let chunks = args.subjects.max_chunks_per_doc.get();
                let loaded = scorer::load(&config, &hardware, in_flight, chunks)?;
                let (model, revision) = (loaded.name, loaded.revision);
                let ranking = Ranking { label, model, revision };
                measure_all(ranking, &loaded.scorer, collections, in_flight)
            }
            Self::Server(server) => {
                let ranking = Ranking { label, model: server.name(), revision: None };
                measure_all(ranking, &server, collections, in_flight(SERVER_CONCURRENCY))
            }
        }
    }
}

fn measure_all(
    ranking: Ranking,
    scorer: &dyn Scorer,
    collections: &[Collection],
    in_flight: usize,
) -> Result<Run, Failure> {
    let bar = bar(collections.iter().map(Collection::num_pairs).sum(), &ranking.model);
    let mut measured = Vec::new();
    for collection in collections {
        bar.set_message(collection.name.clone());
        measured.push(measure(scorer, collection, in_flight, &bar)?);
    }
    bar.finish_and_clear();
    Ok(Run { ranking, measured })
}

/// The candidates' own order, which took no time here.
fn first_stage(collections: &[Collection], top_k: usize) -> Run {
    let figures = |from: &Collection| from.queries.iter().map(collection::Query::before).collect();
    let model = format!("the candidates in their own order, the first {top_k} of each query");
    Run {
        ranking: Ranking { label: "before", model, revision: None },
        measured: collections
            .iter()
            .map(|from| Measured { figures: figures(from), seconds: 0.0 })
            .collect(),
    }
}

fn create(path: &PathBuf) -> Result<(String, File), Failure> {
    let name = path.display().to_string();
    let file = File::create(path).map_err(|e| Failure::io(&name, e))?;
    Ok((name, file))
}

fn print(report: &Report, json: bool) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let printed = if json {
        serde_json::to_writer_pretty(&mut out, report)
            .map_err(Into::into)
            .and_then(|()| writeln!(out))
    } else {
        table::print(&mut out, report)
    };
    match printed {
        // `| head` has seen enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(|e| Failure::io("cannot write the report", e)),
    }
}
