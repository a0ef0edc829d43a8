//! The command line: one file a command.

mod eval;
mod hardware;
mod keys;
mod model;
mod models;
mod precompute;
mod pull;
mod rerank;
mod selfcheck;
mod serve;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::ConfigError;
use crate::error::{Error, ModelError};

/// A rerank server: scores how well documents answer a query.
///
/// Without any setting it serves the model embedded in this program, so
///
///   rerankd serve
///
/// is all it takes. Then ask it:
///
///   curl localhost:8080/v2/rerank -H 'content-type: application/json' \
///     -d '{"query": "capital of France", "documents": ["Berlin", "Paris"]}'
#[derive(Debug, Parser)]
#[command(name = "rerankd", version, verbatim_doc_comment, arg_required_else_help = true)]
#[command(after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  the work itself failed (a model that cannot be loaded, an address in use)
  2  the command line or a setting is wrong";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Args>),
    Rerank(rerank::Args),
    Pull(pull::Args),
    Models(models::Args),
    Eval(eval::Args),
    Selfcheck(selfcheck::Args),
    Precompute(Box<precompute::Args>),
    Keys(keys::Args),
}

/// Why a command failed: one line, with the way out.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Request(#[from] Error),
    #[error("{0}")]
    Device(String),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

impl Failure {
    fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Config(_) | Self::Model(ModelError::LongerThanBatch { .. }) => {
                ExitCode::from(2)
            }
            Self::Model(_) | Self::Request(_) | Self::Device(_) | Self::Io { .. } => {
                ExitCode::FAILURE
            }
        }
    }
}

/// Runs the command that the process was called with.
pub fn run() -> ExitCode {
    run_as(std::env::args_os())
}

/// Runs the command of these arguments, the first of which names the program. Arguments that are no command end
/// the process.
pub fn run_as(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    let result = match Cli::parse_from(arguments).command {
        Command::Serve(args) => serve::run(*args),
        Command::Rerank(args) => rerank::run(args),
        Command::Pull(args) => pull::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Selfcheck(args) => selfcheck::run(&args),
        Command::Precompute(args) => precompute::run(*args),
        Command::Keys(args) => keys::run(&args),
    };
    result.map_or_else(
        |failure| {
            eprintln!("rerankd: {failure}");
            failure.exit_code()
        },
        |()| ExitCode::SUCCESS,
    )
}
