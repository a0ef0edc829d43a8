//! `rerankd pull`: fetches a model of the hub before it is needed.

use super::Failure;
use super::model::hub;
use crate::model::known;
use crate::model::loader::check_config;
use crate::model::memory::mib;
use crate::model::source::Source;

/// Fetch a model from the Hugging Face hub
///
/// Only what is missing is fetched, a download that broke off goes on where it
/// was, and every file is checked by its hash. The model lies where other tools
/// look for it (HF_HOME), so that 'serve --model NAME' starts without a network.
///
/// Examples:
///   rerankd pull cross-encoder/ms-marco-MiniLM-L6-v2
///   rerankd pull BAAI/bge-reranker-v2-m3 --revision main
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Name on the hub, such as BAAI/bge-reranker-v2-m3
    model: String,
    /// Branch, tag or commit [default: main]
    #[arg(long)]
    revision: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let source = Source::parse(&args.model, args.revision.as_deref())?;
    if !matches!(source, Source::Hub { .. }) {
        let message = format!("'{}' is on this machine already", args.model);
        return Err(Failure::Usage(message));
    }
    let files = source.open(&hub())?;
    let size: u64 = files.sizes().iter().map(|(_, bytes)| bytes).sum();
    let folder = files.folder().map(|folder| folder.display().to_string()).unwrap_or_default();
    println!("{} {}", files.name(), files.revision().unwrap_or_default());
    println!("{} files, {} in {folder}", files.sizes().len(), mib(size));
    if let Some(known) = known::find(files.name()) {
        println!("licence {}", known.licence);
    }
    // The download is of use to other tools, too, so it stays whatever comes of this.
    check_config(&files.require("config.json")?)?;
    Ok(())
}
