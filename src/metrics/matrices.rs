//! The metrics of document matrices, of models of late interaction.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a store of document matrices holds and has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MatrixCounts {
    pub memory_bytes: u64,
    pub file_bytes: u64,
    /// Matrices that made room for others in the file.
    pub evicted: u64,
    /// Matrices that were not written because the disk was too slow.
    pub dropped: u64,
}

impl MatrixCounts {
    /// Of two models of a server, which have a memory each and one file.
    pub(super) fn beside(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes + other.memory_bytes,
            file_bytes: self.file_bytes.max(other.file_bytes),
            evicted: self.evicted.max(other.evicted),
            dropped: self.dropped.max(other.dropped),
        }
    }
}

/// Where the documents of requests were found, since the server started.
#[derive(Debug, Default)]
pub struct Found {
    in_memory: AtomicU64,
    on_disk: AtomicU64,
    missed: AtomicU64,
}

impl Found {
    pub(crate) fn add(&self, in_memory: usize, on_disk: usize, missed: usize) {
        self.in_memory.fetch_add(in_memory as u64, Ordering::Relaxed);
        self.on_disk.fetch_add(on_disk as u64, Ordering::Relaxed);
        self.missed.fetch_add(missed as u64, Ordering::Relaxed);
    }

    /// The page's lines: the hit rate is what was found over all that was looked for.
    pub(super) fn page(&self, counts: &MatrixCounts) -> String {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let lines = [
            (
                "rerank_matrices_in_memory_total",
                "counter",
                "Documents whose vectors were found in memory.",
                get(&self.in_memory),
            ),
            (
                "rerank_matrices_on_disk_total",
                "counter",
                "Documents whose vectors were found on disk.",
                get(&self.on_disk),
            ),
            (
                "rerank_matrices_missed_total",
                "counter",
                "Documents whose vectors the model had to make.",
                get(&self.missed),
            ),
            (
                "rerank_matrices_evicted_total",
                "counter",
                "Document matrices that made room for others on disk.",
                counts.evicted,
            ),
            (
                "rerank_matrices_dropped_total",
                "counter",
                "Document matrices not written because the disk was too slow.",
                counts.dropped,
            ),
            (
                "rerank_matrices_memory_bytes",
                "gauge",
                "Memory of the document matrices that are kept.",
                counts.memory_bytes,
            ),
            (
                "rerank_matrices_file_bytes",
                "gauge",
                "Bytes of the document matrices on disk.",
                counts.file_bytes,
            ),
        ];
        let mut page = String::new();
        for (name, kind, help, value) in lines {
            // Writing to a string cannot fail.
            let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
        page
    }
}
