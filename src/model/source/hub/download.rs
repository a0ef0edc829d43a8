//! One file into the cache: continued where it broke off, checked, then visible at once.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::cache::Cache;
use super::client::{Client, FileId};
use super::failure::Failure;
use crate::model::source::progress::Progress;

const BUFFER_BYTES: usize = 128 << 10;
/// A try that brought this much does not count against the limit of tries. Less could go on for
/// ever, a few bytes at a time.
const MIN_PROGRESS_BYTES: u64 = 1 << 20;

/// Puts `file` of `commit` into the cache, where it is not there yet.
pub(super) fn fetch(
    client: &Client,
    cache: &Cache,
    commit: &str,
    file: &str,
) -> Result<(), Failure> {
    if cache.has(commit, file) {
        return Ok(());
    }
    let id = client.file_id(commit, file)?;
    let blob = cache.blob(&id);
    let _lock = cache.lock(&id).map_err(Failure::disk(&blob))?;
    // Another commit may have the same bytes, or another process has just fetched them.
    if len(&blob) != Some(id.size_bytes) {
        let part = cache.part(&id);
        let job = Job { client, commit, file, id: &id, part: &part };
        job.download()?;
        fs::rename(&part, &blob).map_err(Failure::disk(&blob))?;
    }
    cache.link(commit, file, &id).map_err(Failure::disk(&cache.snapshot(commit)))
}

struct Job<'a> {
    client: &'a Client,
    commit: &'a str,
    file: &'a str,
    id: &'a FileId,
    part: &'a Path,
}

impl Job<'_> {
    fn download(&self) -> Result<(), Failure> {
        let had = len(self.part).unwrap_or(0);
        let mut progress = Progress::start(self.file, self.id.size_bytes, had);
        let mut done = self.fill(&mut progress).and_then(|()| self.verify());
        if had > 0 && matches!(done, Err(Failure::Broken(_))) {
            // The beginning was another process's; it gets one chance to be the one at fault.
            tracing::warn!("{}: the partial file was wrong; starting again", self.file);
            done = self.fill(&mut progress).and_then(|()| self.verify());
        }
        progress.finish(done.is_ok());
        let keep = done.is_ok() || self.id.sha256().is_some();
        if !keep {
            // Nobody will continue it: its name is this process's. A leftover is harmless.
            let _ = fs::remove_file(self.part);
        }
        done
    }

    /// Tries until the file has all its bytes.
    fn fill(&self, progress: &mut Progress) -> Result<(), Failure> {
        let mut retries = self.client.retries();
        let mut high_water = len(self.part).unwrap_or(0);
        loop {
            let Err(failure) = self.append(progress) else { return Ok(()) };
            let now = len(self.part).unwrap_or(0);
            if now >= high_water + MIN_PROGRESS_BYTES {
                high_water = now;
                retries.progressed();
            }
            retries.wait_after(failure)?;
        }
    }

    /// One connection's worth of bytes.
    fn append(&self, progress: &mut Progress) -> Result<(), Failure> {
        let disk = || Failure::disk(self.part);
        let mut out = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(self.part)
            .map_err(disk())?;
        let size = self.id.size_bytes;
        let had = out.metadata().map_err(disk())?.len();
        let from = if had > size { 0 } else { had };
        if from == size {
            return Ok(());
        }
        let mut answer = self.client.bytes(self.commit, self.file, from)?;
        let start = match answer.start() {
            // The server has fewer bytes than we do: start again, as one more try.
            _ if answer.status.as_u16() == 416 => {
                out.set_len(0).map_err(disk())?;
                return Err(Failure::transient(format!("{}: wrong range", self.file)));
            }
            Some(start) if start == from || start == 0 => start,
            _ => return Err(Failure::broken(format!("{}: not the range asked for", self.file))),
        };
        out.set_len(start).map_err(disk())?;
        out.seek(SeekFrom::Start(start)).map_err(disk())?;
        progress.at(start);
        let mut body = answer.body.as_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut at = start;
        loop {
            let read = body
                .read(&mut buffer)
                .map_err(|e| Failure::transient(format!("{} at byte {at}: {e}", self.file)))?;
            if read == 0 {
                break;
            }
            at += read as u64;
            if at > size {
                return Err(self.discard("has more bytes than the hub told"));
            }
            out.write_all(&buffer[..read]).map_err(disk())?;
            progress.at(at);
        }
        if at < size {
            return Err(Failure::transient(format!("{} ended at {at} of {size}", self.file)));
        }
        // The blob's name is trusted for ever after: it must not outlive its bytes in a power cut.
        out.sync_all().map_err(disk())
    }

    /// Hashes what is on the disk, beginning included, rather than what came by.
    fn verify(&self) -> Result<(), Failure> {
        let Some(expected) = self.id.sha256() else { return Ok(()) };
        let mut file = File::open(self.part).map_err(Failure::disk(self.part))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = file.read(&mut buffer).map_err(Failure::disk(self.part))?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
        }
        let got: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if got == expected {
            return Ok(());
        }
        Err(self.discard(&format!("has sha256 {got}, not {expected}: damaged on its way")))
    }

    /// Bytes known to be wrong are never left for a later process to continue.
    fn discard(&self, why: &str) -> Failure {
        if let Err(e) = fs::remove_file(self.part) {
            return Failure::broken(format!(
                "{} {why}, and cannot be removed: {e}",
                self.part.display()
            ));
        }
        Failure::broken(format!("{} {why}; it was removed", self.file))
    }
}

fn len(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len())
}
