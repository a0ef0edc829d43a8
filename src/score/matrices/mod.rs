//! The vectors of documents, kept: in memory, and behind it on disk.
//!
//! A matrix is named by the model that made it, by the tokens it was made of and, unless the operator shares the
//! store, by its tenant: nobody learns from the time of an answer what another tenant's documents are.

mod claim;
mod disk;

use std::path::PathBuf;
use std::sync::Arc;

use moka::sync::Cache;

use super::Key;
use super::flight::Flights;
use crate::matrix_format::Format;
use crate::metrics::MatrixCounts;
use disk::Disk;

pub use claim::{Claim, Followed};

/// The vectors of a document as they are kept.
pub type Matrix = Arc<[u8]>;

/// What a matrix costs in memory beside its bytes: its key, and moka's own books.
const ENTRY_BYTES: usize = 368;

/// How document matrices are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatrixOptions {
    pub format: Format,
    pub memory_bytes: usize,
    /// A file for those that memory has no room for, and for the time after a restart.
    pub file: Option<PathBuf>,
    pub file_bytes: u64,
    /// Whether tenants find one another's.
    pub is_shared: bool,
}

impl Default for MatrixOptions {
    fn default() -> Self {
        Self {
            format: Format::F16,
            memory_bytes: 256 << 20,
            file: None,
            file_bytes: 8 << 30,
            is_shared: false,
        }
    }
}

/// The matrices of one model.
#[derive(Debug)]
pub struct Matrices {
    format: Format,
    dim: usize,
    memory: Cache<Key, Matrix>,
    flights: Arc<Flights<Vec<Matrix>>>,
    /// Shared by the models of a server.
    disk: Option<Arc<Disk>>,
}

/// Where the matrices of a request were found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lookup {
    pub in_memory: usize,
    pub on_disk: usize,
    pub missed: usize,
}

impl Matrices {
    /// # Errors
    /// The file cannot be opened, in words that name it.
    pub fn open(options: &MatrixOptions, dim: usize) -> std::io::Result<Self> {
        let weigh =
            |_: &Key, bytes: &Matrix| u32::try_from(ENTRY_BYTES + bytes.len()).unwrap_or(u32::MAX);
        let memory = Cache::builder().max_capacity(options.memory_bytes as u64).weigher(weigh);
        let open = |file: &PathBuf| {
            Disk::share(file, options.file_bytes).map_err(|error| {
                let message = format!("the matrix store {}: {error}", file.display());
                std::io::Error::other(message)
            })
        };
        Ok(Self {
            format: options.format,
            dim,
            memory: memory.build(),
            flights: Arc::default(),
            disk: options.file.as_ref().map(open).transpose()?,
        })
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Whether looking up may wait for a disk.
    pub fn is_on_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// What is kept under these keys.
    pub fn get(&self, keys: &[Key]) -> (Vec<Option<Matrix>>, Lookup) {
        let mut found: Vec<_> = keys.iter().map(|key| self.memory.get(key)).collect();
        let mut lookup = Lookup { in_memory: found.iter().flatten().count(), ..Lookup::default() };
        if let Some(disk) = self.disk.as_ref().filter(|_| lookup.in_memory < keys.len()) {
            let missing: Vec<usize> = (0..keys.len()).filter(|i| found[*i].is_none()).collect();
            let names: Vec<Key> = missing.iter().map(|i| keys[*i]).collect();
            for ((i, key), bytes) in missing.iter().zip(&names).zip(disk.get(&names)) {
                let Some(bytes) = bytes else { continue };
                self.memory.insert(*key, Arc::clone(&bytes));
                found[*i] = Some(bytes);
                lookup.on_disk += 1;
            }
        }
        lookup.missed = keys.len() - lookup.in_memory - lookup.on_disk;
        (found, lookup)
    }

    /// Keeps matrices; on disk soon.
    pub fn put(&self, matrices: &[(Key, Matrix)]) {
        for (key, bytes) in matrices {
            self.memory.insert(*key, Arc::clone(bytes));
            if let Some(disk) = &self.disk {
                disk.put(*key, bytes);
            }
        }
    }

    /// Keeps matrices, and returns when they are where they will last: whether that went well.
    pub fn put_durably(&self, matrices: &[(Key, Matrix)]) -> bool {
        for (key, bytes) in matrices {
            self.memory.insert(*key, Arc::clone(bytes));
        }
        self.disk.as_ref().is_none_or(|disk| disk.put_all(matrices))
    }

    pub fn counts(&self) -> MatrixCounts {
        MatrixCounts {
            memory_bytes: self.memory.weighted_size(),
            file_bytes: self.disk.as_ref().map_or(0, |disk| disk.num_bytes()),
            evicted: self.disk.as_ref().map_or(0, |disk| disk.evicted()),
            dropped: self.disk.as_ref().map_or(0, |disk| disk.dropped()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::Scope;

    const DIM: usize = 4;

    fn key(id: u32) -> Key {
        Scope::new(&["model"], 0).key(&[id], 1)
    }

    fn matrix(id: u32) -> (Key, Matrix) {
        (key(id), Format::F16.encode(&[id as f32; 2 * DIM], DIM).into())
    }

    fn open(folder: &tempfile::TempDir, memory_bytes: usize, file_bytes: u64) -> Matrices {
        let file = Some(folder.path().join("matrices"));
        let options = MatrixOptions { memory_bytes, file, file_bytes, ..MatrixOptions::default() };
        Matrices::open(&options, DIM).unwrap()
    }

    #[test]
    fn what_memory_has_no_room_for_comes_from_disk() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, 0, 1 << 20);
        let all: Vec<_> = (0..20).map(matrix).collect();
        assert!(store.put_durably(&all));
        store.memory.run_pending_tasks();
        let keys: Vec<_> = (0..21).map(key).collect();
        let (found, lookup) = store.get(&keys);
        assert_eq!(lookup, Lookup { in_memory: 0, on_disk: 20, missed: 1 });
        assert!(found[20].is_none());
        for (found, (_, bytes)) in found.iter().zip(&all) {
            assert_eq!(found.as_ref(), Some(bytes));
        }
    }

    #[test]
    fn a_store_that_is_opened_again_has_what_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, 1 << 20, 1 << 20);
        store.put(&[matrix(1), matrix(2)]);
        let bytes = {
            drop(store);
            let store = open(&folder, 1 << 20, 1 << 20);
            assert_eq!(store.get(&[key(1), key(2), key(3)]).1.on_disk, 2);
            assert_eq!(store.get(&[key(1), key(2), key(3)]).1.in_memory, 2, "kept when found");
            store.counts().file_bytes
        };
        assert_eq!(bytes, 2 * (160 + 16));
    }

    #[test]
    fn the_least_recently_used_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, 0, 10 * (160 + 16));
        assert!(store.put_durably(&(0..10).map(matrix).collect::<Vec<_>>()));
        store.memory.run_pending_tasks();
        assert_eq!(store.get(&[key(0)]).1.on_disk, 1, "of use once more");
        assert!(store.put_durably(&(10..14).map(matrix).collect::<Vec<_>>()));
        store.memory.run_pending_tasks();
        assert_eq!(store.counts().evicted, 4);
        assert_eq!(store.counts().file_bytes, 10 * (160 + 16));
        let keys: Vec<_> = (0..14).map(key).collect();
        let (found, _) = store.get(&keys);
        let gone: Vec<_> = (0..14).filter(|i| found[*i].is_none()).collect();
        assert_eq!(gone, [1, 2, 3, 4]);
    }

    #[test]
    fn a_file_that_is_no_store_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("matrices");
        std::fs::write(&file, "something else").unwrap();
        let options = MatrixOptions { file: Some(file), ..MatrixOptions::default() };
        let error = Matrices::open(&options, DIM).unwrap_err().to_string();
        assert!(error.contains("matrices"), "{error}");
        assert_eq!(std::fs::read(options.file.unwrap()).unwrap(), b"something else");
    }
}
