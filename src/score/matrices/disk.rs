//! Document matrices on disk: one file, written by one thread, whole after a crash.
//!
//! A commit is on disk before anybody is told of it. What is written between two commits is lost with the process,
//! and is made again when it is next asked for.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::super::Key;

type Name = [u8; 32];

/// The matrices by name.
const MATRICES: TableDefinition<Name, &[u8]> = TableDefinition::new("matrices-1");
/// When each was last of use, in steps of a counter.
const AGE_OF: TableDefinition<Name, u64> = TableDefinition::new("age-of-1");
/// The same the other way round: the first is the next to go.
const BY_AGE: TableDefinition<u64, Name> = TableDefinition::new("by-age-1");
/// The number of bytes under `"bytes"`, the counter under `"age"`.
const SUMS: TableDefinition<&str, u64> = TableDefinition::new("sums-1");

/// Jobs that may wait for the writer. Beyond, what was computed is not written: the disk is too slow for it.
const MAX_JOBS: usize = 256;
/// Pages that redb keeps in memory: those of its trees; matrices are kept by the cache above.
const PAGE_CACHE_BYTES: usize = 16 << 20;
/// What a matrix costs beside its bytes: three entries of keys.
const ENTRY_BYTES: u64 = 160;

#[derive(Debug)]
enum Job {
    Put(Key, Arc<[u8]>),
    /// It was of use.
    Touch(Key),
    /// Answered when all before it is on disk, with whether all of that went well.
    Flush(Sender<bool>),
}

/// The store on disk. Dropping it writes what waits.
#[derive(Debug)]
pub(super) struct Disk {
    database: Arc<Database>,
    jobs: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    evicted: AtomicU64,
    dropped: AtomicU64,
}

/// The files that this process has open: redb lets a file be opened once, and models of one server share it, also
/// while one takes the place of another.
static OPEN: Mutex<Vec<(PathBuf, Weak<Disk>)>> = Mutex::new(Vec::new());

impl Disk {
    /// The store of a file, which may be open already; then it keeps its bound.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub(super) fn share(path: &Path, max_bytes: u64) -> Result<Arc<Self>, redb::Error> {
        // Every change is complete before the lock is left.
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, disk)| disk.strong_count() > 0);
        let found = open.iter().find(|(other, _)| other == path);
        if let Some(disk) = found.and_then(|(_, disk)| disk.upgrade()) {
            return Ok(disk);
        }
        let disk = Arc::new(Self::open(path, max_bytes)?);
        open.push((path.to_owned(), Arc::downgrade(&disk)));
        Ok(disk)
    }

    /// Opens the file, or makes it, for matrices of up to `max_bytes` in all.
    ///
    /// # Errors
    /// It cannot be opened, is no such store, or another process has it.
    fn open(path: &Path, max_bytes: u64) -> Result<Self, redb::Error> {
        let mut builder = Database::builder();
        builder.set_cache_size(PAGE_CACHE_BYTES);
        let database = Arc::new(builder.create(path)?);
        // All tables are there from the first commit on, so that reading never meets a missing one.
        let begin = database.begin_write()?;
        begin.open_table(MATRICES)?;
        begin.open_table(AGE_OF)?;
        begin.open_table(BY_AGE)?;
        let bytes = begin.open_table(SUMS)?.get("bytes")?.map_or(0, |bytes| bytes.value());
        begin.commit()?;
        let counts = Arc::new(Counts::default());
        counts.bytes.store(bytes, Ordering::Relaxed);
        let (jobs, inbox) = bounded(MAX_JOBS);
        let writer =
            Writer { database: Arc::clone(&database), max_bytes, counts: Arc::clone(&counts) };
        let writer = std::thread::Builder::new()
            .name("rerankd-matrices".into())
            .spawn(move || writer.run(&inbox))
            .map_err(redb::Error::Io)?;
        Ok(Self { database, jobs: Some(jobs), writer: Some(writer), counts })
    }

    /// What is on disk under these keys. A read that fails finds nothing: the matrix is made again.
    pub(super) fn get(&self, keys: &[Key]) -> Vec<Option<Arc<[u8]>>> {
        let read = || {
            let table = self.database.begin_read()?.open_table(MATRICES)?;
            let get = |key: &Key| {
                let found = table.get(key.bytes())?;
                Ok::<_, redb::Error>(found.map(|bytes| Arc::from(bytes.value())))
            };
            keys.iter().map(get).collect::<Result<Vec<Option<Arc<[u8]>>>, redb::Error>>()
        };
        let found = read().unwrap_or_else(|error| {
            tracing::error!(%error, "document matrices cannot be read");
            vec![None; keys.len()]
        });
        for (key, _) in keys.iter().zip(&found).filter(|(_, found)| found.is_some()) {
            // Its age matters less than the request's time.
            let _ = self.send(|jobs| jobs.try_send(Job::Touch(*key)).is_ok());
        }
        found
    }

    /// Has a matrix written soon, unless too many wait already.
    pub(super) fn put(&self, key: Key, bytes: &Arc<[u8]>) {
        let job = Job::Put(key, Arc::clone(bytes));
        if !self.send(|jobs| jobs.try_send(job).is_ok()) {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has matrices written, however long that takes, and returns whether they are on disk.
    pub(super) fn put_all(&self, matrices: &[(Key, Arc<[u8]>)]) -> bool {
        self.send(|jobs| {
            let put = |(key, bytes): &(Key, Arc<[u8]>)| {
                jobs.send(Job::Put(*key, Arc::clone(bytes))).is_ok()
            };
            let (sender, flushed) = bounded(1);
            matrices.iter().all(put)
                && jobs.send(Job::Flush(sender)).is_ok()
                && flushed.recv().unwrap_or(false)
        })
    }

    fn send(&self, send: impl FnOnce(&Sender<Job>) -> bool) -> bool {
        self.jobs.as_ref().is_some_and(send)
    }

    pub(super) fn num_bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }

    /// Matrices that made room for others.
    pub(super) fn evicted(&self) -> u64 {
        self.counts.evicted.load(Ordering::Relaxed)
    }

    /// Matrices that the disk was too slow for.
    pub(super) fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

struct Writer {
    database: Arc<Database>,
    max_bytes: u64,
    counts: Arc<Counts>,
}

impl Writer {
    fn run(&self, inbox: &Receiver<Job>) {
        let mut is_well = true;
        while let Ok(first) = inbox.recv() {
            // One commit for all that came meanwhile.
            let jobs: Vec<Job> =
                std::iter::once(first).chain(inbox.try_iter().take(MAX_JOBS)).collect();
            let written = self.write(&jobs);
            if let Err(error) = &written {
                tracing::error!(%error, "document matrices cannot be written");
            }
            is_well &= written.is_ok();
            for job in jobs {
                if let Job::Flush(flushed) = job {
                    let _ = flushed.send(is_well);
                    is_well = true;
                }
            }
        }
    }

    fn write(&self, jobs: &[Job]) -> Result<(), redb::Error> {
        let mut commit = self.database.begin_write()?;
        // After a crash the file is opened at once, whatever its size.
        commit.set_quick_repair(true);
        let mut evicted = 0;
        let bytes = {
            let mut matrices = commit.open_table(MATRICES)?;
            let mut age_of = commit.open_table(AGE_OF)?;
            let mut by_age = commit.open_table(BY_AGE)?;
            let mut sums = commit.open_table(SUMS)?;
            let mut bytes = sums.get("bytes")?.map_or(0, |bytes| bytes.value());
            let mut age = sums.get("age")?.map_or(0, |age| age.value());
            let size = |len: usize| len as u64 + ENTRY_BYTES;
            for job in jobs {
                let (key, matrix) = match job {
                    Job::Put(key, matrix) => (key.bytes(), Some(matrix)),
                    Job::Touch(key) => (key.bytes(), None),
                    Job::Flush(_) => continue,
                };
                let before = age_of.get(key)?.map(|age| age.value());
                if before.is_none() && matrix.is_none() {
                    // It went meanwhile.
                    continue;
                }
                if let Some(matrix) = matrix {
                    let replaced = matrices.insert(key, &matrix[..])?;
                    bytes += size(matrix.len());
                    bytes -= replaced.map_or(0, |replaced| size(replaced.value().len()));
                }
                if let Some(before) = before {
                    by_age.remove(before)?;
                }
                age += 1;
                age_of.insert(key, age)?;
                by_age.insert(age, key)?;
            }
            while bytes > self.max_bytes {
                let Some((_, oldest)) =
                    by_age.pop_first()?.map(|(age, key)| (age.value(), key.value()))
                else {
                    break;
                };
                age_of.remove(oldest)?;
                let gone = matrices.remove(oldest)?.map_or(0, |gone| size(gone.value().len()));
                bytes = bytes.saturating_sub(gone);
                evicted += 1;
            }
            sums.insert("bytes", bytes)?;
            sums.insert("age", age)?;
            bytes
        };
        commit.commit()?;
        self.counts.bytes.store(bytes, Ordering::Relaxed);
        self.counts.evicted.fetch_add(evicted, Ordering::Relaxed);
        Ok(())
    }
}
