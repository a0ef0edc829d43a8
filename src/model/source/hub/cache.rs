//! The hub's cache on disk, in the layout that its Python client and every tool over it shares:
//!
//! ```text
//! models--org--name/blobs/<etag>                     the bytes, named by their hash
//!                  /snapshots/<commit>/<file>        a link to a blob
//!                  /refs/<branch or tag>             the commit it was at when last asked
//!                  /.no_exist/<commit>/<file>        known not to be in that commit
//! .locks/models--org--name/<etag>.lock               held while a blob is written
//! ```
//!
//! Every change becomes visible by one rename, so a reader without a lock sees all of it or nothing.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::client::{FileId, is_commit};

pub(super) struct Cache {
    repo: PathBuf,
    locks: PathBuf,
}

impl Cache {
    pub(super) fn new(cache_dir: &Path, repo_id: &str) -> Self {
        let folder = format!("models--{}", repo_id.replace('/', "--"));
        Self { locks: cache_dir.join(".locks").join(&folder), repo: cache_dir.join(&folder) }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.join("snapshots").join(commit)
    }

    pub(super) fn has(&self, commit: &str, file: &str) -> bool {
        // Follows the link: one whose blob was removed does not count.
        self.snapshot(commit).join(file).is_file()
    }

    /// The commit that a branch or tag was at when it was last asked for.
    pub(super) fn read_ref(&self, revision: &str) -> Option<String> {
        let text = fs::read_to_string(self.repo.join("refs").join(revision)).ok()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// Remembers where a branch or tag is. A cache that cannot be written to (a read-only mount)
    /// still serves the files it has, so this is told to the log only.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) {
        if self.read_ref(revision).as_deref() == Some(commit) {
            return;
        }
        let path = self.repo.join("refs").join(revision);
        if let Err(e) = replace(&path, |part| fs::write(part, commit)) {
            tracing::debug!("cannot write {}: {e}", path.display());
        }
    }

    pub(super) fn is_known_absent(&self, commit: &str, file: &str) -> bool {
        self.repo.join(".no_exist").join(commit).join(file).is_file()
    }

    /// Remembers that a commit has no such file. A commit never changes, so neither does this.
    pub(super) fn mark_absent(&self, commit: &str, file: &str) {
        let path = self.repo.join(".no_exist").join(commit).join(file);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        if let Err(e) = made.and_then(|()| fs::write(&path, b"")) {
            tracing::debug!("cannot write {}: {e}", path.display());
        }
    }

    pub(super) fn blob(&self, id: &FileId) -> PathBuf {
        self.repo.join("blobs").join(&id.etag)
    }

    /// Where a blob grows. Only one with a hash to check at the end may be continued by a later
    /// process: on some network file systems every process gets the lock, and two would then append
    /// to one file. The others are small and start again under a name of their own.
    pub(super) fn part(&self, id: &FileId) -> PathBuf {
        let name = match id.sha256() {
            Some(sha256) => format!("{sha256}.incomplete"),
            None => format!("{}.{:016x}.incomplete", id.etag, unique()),
        };
        self.repo.join("blobs").join(name)
    }

    /// Held until the file is dropped, and let go by the system if the process dies. The wait has
    /// no limit of its own: the holder's download has, in tries and in seconds of silence.
    pub(super) fn lock(&self, id: &FileId) -> io::Result<File> {
        fs::create_dir_all(&self.locks)?;
        fs::create_dir_all(self.repo.join("blobs"))?;
        let path = self.locks.join(format!("{}.lock", id.etag));
        let file = File::options().create(true).write(true).truncate(false).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                tracing::info!("another process fetches the same file; waiting for it");
                file.lock()?;
            }
            // A file system without locks: the rename at the end still keeps the cache whole.
            Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {
                tracing::debug!("{} cannot be locked: {e}", path.display());
            }
            Err(TryLockError::Error(e)) => return Err(e),
        }
        Ok(file)
    }

    /// Makes a blob appear under its name in a commit.
    pub(super) fn link(&self, commit: &str, file: &str, id: &FileId) -> io::Result<()> {
        let pointer = self.snapshot(commit).join(file);
        if pointer.is_file() {
            return Ok(());
        }
        // Relative, so that the cache can be moved or mounted elsewhere.
        let up = "../".repeat(2 + file.matches('/').count());
        let target = format!("{up}blobs/{}", id.etag);
        replace(&pointer, |part| link_or_copy(&target, &self.blob(id), part))
    }
}

#[cfg(unix)]
fn link_or_copy(target: &str, _blob: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

/// Links need a privilege on Windows; the Python client reads a plain file as well.
#[cfg(not(unix))]
fn link_or_copy(_target: &str, blob: &Path, pointer: &Path) -> io::Result<()> {
    fs::copy(blob, pointer).map(|_| ())
}

/// Writes beside the path and renames over it.
fn replace(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let no_name = || io::Error::from(ErrorKind::InvalidInput);
    let folder = path.parent().ok_or_else(no_name)?;
    let name = path.file_name().ok_or_else(no_name)?.to_string_lossy();
    fs::create_dir_all(folder)?;
    let part = folder.join(format!(".{name}.{:016x}", unique()));
    let done = write(&part).and_then(|()| fs::rename(&part, path));
    if done.is_err() {
        // The first error is the one to tell; the leftover is a few bytes.
        let _ = fs::remove_file(&part);
    }
    done
}

/// A number no other writer has. Not the process id: in containers that share a cache all are 1.
pub(super) fn unique() -> u64 {
    // The standard library's own source of randomness: a new state has new keys.
    RandomState::new().build_hasher().finish()
}
