//! Where model files come from: embedded in the binary, a folder, or the Hugging Face hub.

use crate::error::ModelError;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// The files of one model.
#[derive(Debug)]
pub struct ModelFiles {
    name: String,
    folder: PathBuf,
}

/// The bytes of one file.
#[derive(Debug)]
pub enum Blob {
    Static(&'static [u8]),
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Static(bytes) => bytes,
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl ModelFiles {
    pub fn open_folder(path: &Path) -> Result<Self, ModelError> {
        Ok(Self { name: path.display().to_string(), folder: path.to_owned() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn read(&self, file: &str) -> Result<Option<Blob>, ModelError> {
        match std::fs::read(self.folder.join(file)) {
            Ok(bytes) => Ok(Some(Blob::Owned(bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ModelError::Io { file: file.to_owned(), source }),
        }
    }

    pub fn require(&self, file: &str) -> Result<Blob, ModelError> {
        self.read(file)?.ok_or_else(|| ModelError::Missing {
            model: self.name.clone(),
            file: file.to_owned(),
            hint: "is this a model folder?".to_owned(),
        })
    }
}
