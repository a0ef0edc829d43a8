//! Settings of late interaction: what runs so, and how the vectors of documents are kept.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;

use super::{ConfigError, at_least};
use crate::matrix_format::Format;
use crate::score::MatrixOptions;

/// What may be set of the store of document vectors.
#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(default)]
pub struct LateSettings {
    /// Late interaction: how document vectors are kept: f32, f16, int8, or bits2 (2 bits a number) [default: f16]
    #[arg(long, env = "RERANKD_MATRIX_FORMAT")]
    pub matrix_format: Option<MatrixFormat>,
    /// Late interaction: memory for document vectors, in bytes [default: 268435456]
    #[arg(long, env = "RERANKD_MATRIX_MEMORY_BYTES", value_name = "BYTES")]
    pub matrix_memory_bytes: Option<usize>,
    /// Late interaction: a file that keeps document vectors over a restart, and those that memory has no room for
    /// [default: none]
    #[arg(long, env = "RERANKD_MATRIX_FILE", value_name = "FILE")]
    pub matrix_file: Option<PathBuf>,
    /// Late interaction: bytes of document vectors in that file; the least recently used make room
    /// [default: 8589934592]
    #[arg(long, env = "RERANKD_MATRIX_FILE_BYTES", value_name = "BYTES")]
    pub matrix_file_bytes: Option<u64>,
    /// Late interaction: let tenants find document vectors that others had made. The time of an answer then tells
    /// whether anybody had a document scored [default: false]
    #[arg(long, env = "RERANKD_SHARE_MATRICES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub share_matrices: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum MatrixFormat {
    F32,
    F16,
    Int8,
    Bits2,
}

impl From<MatrixFormat> for Format {
    fn from(format: MatrixFormat) -> Self {
        match format {
            MatrixFormat::F32 => Self::F32,
            MatrixFormat::F16 => Self::F16,
            MatrixFormat::Int8 => Self::Int8,
            MatrixFormat::Bits2 => Self::Bits2,
        }
    }
}

impl LateSettings {
    /// These, and the file's where they leave something open.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        let flags = self;
        fill!(flags, file: matrix_format, matrix_memory_bytes, matrix_file, matrix_file_bytes, share_matrices)
    }

    /// # Errors
    /// A setting out of range, or at odds with another, by its name.
    pub fn check(self) -> Result<MatrixOptions, ConfigError> {
        let default = MatrixOptions::default();
        if self.matrix_file_bytes.is_some() && self.matrix_file.is_none() {
            return Err(ConfigError::new("matrix-file-bytes", "bounds a matrix-file: name one"));
        }
        let file_bytes = self.matrix_file_bytes.unwrap_or(default.file_bytes);
        Ok(MatrixOptions {
            format: self.matrix_format.map_or(default.format, Format::from),
            memory_bytes: self.matrix_memory_bytes.unwrap_or(default.memory_bytes),
            file: self.matrix_file,
            file_bytes: at_least(1 << 20, "matrix-file-bytes", file_bytes as usize)? as u64,
            is_shared: self.share_matrices.unwrap_or(default.is_shared),
        })
    }
}
