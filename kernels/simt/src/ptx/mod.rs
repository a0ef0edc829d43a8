//! The PTX language: text to a typed module.

pub mod ast;
pub mod lexer;
pub mod parser;
mod statement;

pub use parser::parse;

/// What is wrong with a PTX text, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, at '{token}': {message}")]
pub struct ParseError {
    pub line: u32,
    pub token: String,
    pub message: String,
}
