//! `rerankd precompute`: the vectors of documents into a file, before a server is asked for their scores.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::Failure;
use super::hardware::Hardware;
use super::model::{open, start_alone};
use super::rerank::read_all;
use crate::clock;
use crate::config::{LateSettings, ModelConfig, ModelSettings};
use crate::request::{Inputs, RerankRequest, Stamps, Truncation};
use crate::rerank::Service;
use crate::tenant::Tenant;

/// Compute the vectors of documents ahead, for a model of late interaction
///
/// Each FILE is one document; a .jsonl file has one a line, in its field "text"
/// or as the line itself, if that is a string. The vectors are written to the
/// file that --matrix-file names, and `rerankd serve` finds them there by the
/// text: requests need change nothing. The file is used by one process at a
/// time; a running server takes POST /v1/precompute instead.
///
/// Examples:
///   rerankd precompute corpus.jsonl --model ./colbert --matrix-file vectors
///   rerankd serve --model ./colbert --matrix-file vectors
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Documents; '-' is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Whose documents they are, where a server has keys and tenants share nothing
    #[arg(long, value_name = "NAME", default_value = "anonymous")]
    tenant: String,
    #[command(flatten)]
    late: LateSettings,
    #[command(flatten)]
    model: ModelSettings,
}

/// Documents given to the service at a time: what is done is on disk after each.
const DOCUMENTS_AT_A_TIME: usize = 512;

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let Some(file) = args.late.matrix_file.clone() else {
        let message = "matrix-file: name the file that shall keep the vectors";
        return Err(Failure::Usage(message.into()));
    };
    let matrices = args.late.check()?;
    let documents = read_all(&args.files)?;
    let texts: Vec<String> = documents.into_iter().map(|document| document.text).collect();
    let hardware = Hardware::find(args.model.device)?;
    let config = ModelConfig::new(args.model, hardware.machine())?;
    let opened = open(&config, &hardware)?;
    let service = start_alone(&config, opened, matrices, 1)?;
    let mut tenant = Tenant::anonymous();
    tenant.name = args.tenant;
    precompute(&service, &tenant, &texts, &file)
}

fn precompute(
    service: &Service,
    tenant: &Tenant,
    texts: &[String],
    file: &Path,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|e| Failure::io("cannot start the async runtime", e))?;
    let (mut num_done, mut num_computed) = (0, 0);
    for documents in texts.chunks(DOCUMENTS_AT_A_TIME) {
        let request = RerankRequest {
            id: String::new(),
            model: None,
            inputs: Inputs::Documents(documents.to_vec()),
            truncation: Truncation::default(),
            timeout: None,
            priority: 0,
            may_cache: true,
        };
        let response = service.rerank(request, Stamps::at(clock::now()), tenant);
        num_computed += runtime.block_on(response)?.num_precomputed;
        num_done += documents.len();
        eprintln!("rerankd: {num_done} of {} documents", texts.len());
    }
    let line = format!(
        "{num_done} documents, {num_computed} of them computed, the others were there: {}",
        file.display()
    );
    writeln!(std::io::stdout(), "{line}").map_err(|e| Failure::io("cannot write the result", e))
}
