//! Files of a folder on disk: small ones are read, large ones mapped.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use memmap2::Mmap;

use super::files::Blob;

/// From here on a file is mapped: several servers on one machine then share its pages, and a model
/// starts before the last page was read. Below, a copy is cheaper than a mapping.
const MIN_MAPPED_BYTES: u64 = 1 << 20;

/// The file's content, or `None` where there is no such file.
///
/// A link is followed (the hub's cache and Kubernetes volumes are made of links), but what it leads
/// to has to be a regular file: a pipe would block the start for ever, a device never ends.
pub(super) fn read(path: &Path) -> io::Result<Option<Blob>> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut file = File::open(path)?;
    if metadata.len() < MIN_MAPPED_BYTES {
        // One byte more than the bound tells a file that grew since from one that is whole.
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        let read = file.by_ref().take(MIN_MAPPED_BYTES).read_to_end(&mut bytes)?;
        if read as u64 >= MIN_MAPPED_BYTES {
            return Err(io::Error::other("the file grew while it was read"));
        }
        return Ok(Some(Blob::Owned(bytes)));
    }
    // SAFETY: nothing in this process writes to a model file. Another process still could: if it
    // truncates the file, touching a page past the new end kills this process (SIGBUS); if it
    // writes in place, the weights change under us. Both are faults of no request, and neither can
    // be ruled out from here. Blobs of the hub's cache are named by their content and replaced by
    // rename, which leaves a mapping as it was; a folder has to be updated in the same way.
    let map = unsafe { Mmap::map(&file)? };
    Ok(Some(Blob::Mapped(map)))
}

/// The names of the files in the folder and one level below, sorted: for messages.
pub(super) fn names(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let Ok(entries) = std::fs::read_dir(root) else { return names };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_file() {
            names.push(name);
        } else if let Ok(inner) = std::fs::read_dir(entry.path()) {
            names.extend(
                inner
                    .flatten()
                    .filter(|file| file.path().is_file())
                    .map(|file| format!("{name}/{}", file.file_name().to_string_lossy())),
            );
        }
    }
    names.sort();
    names
}
