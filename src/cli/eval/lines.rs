//! A text file, plain or gzipped, line by line; whatever is wrong with a line is told with its place.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::Failure;

/// A corpus has lines of some kilobytes and a gigabyte in all.
const BUFFER_BYTES: usize = 1 << 18;
/// Something without line ends is not one of our files; it must not fill the memory.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// A file that is read from its first line to its last.
pub(super) struct Lines {
    name: String,
    number: usize,
    reader: Box<dyn BufRead>,
    line: String,
}

impl Lines {
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|e| Failure::io(&name, e))?;
        let bytes: Box<dyn Read> = if path.extension().is_some_and(|extension| extension == "gz") {
            // Tools that compress in blocks write several members one after another.
            Box::new(MultiGzDecoder::new(file))
        } else {
            Box::new(file)
        };
        let reader = Box::new(BufReader::with_capacity(BUFFER_BYTES, bytes));
        Ok(Self { name, number: 0, reader, line: String::new() })
    }

    /// The next line that is not blank, without its end; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<&str>, Failure> {
        loop {
            self.line.clear();
            self.number += 1;
            let mut bounded = self.reader.by_ref().take(MAX_LINE_BYTES);
            let read = bounded
                .read_line(&mut self.line)
                .map_err(|e| Failure::io(format!("{}, line {}", self.name, self.number), e))?;
            if read as u64 == MAX_LINE_BYTES {
                return Err(self.wrong("is longer than 64 MiB"));
            }
            if read == 0 {
                return Ok(None);
            }
            if !self.line.trim().is_empty() {
                break;
            }
        }
        // A byte order mark would become a part of the first id.
        let line = self.line.trim_end_matches(['\n', '\r']);
        Ok(Some(if self.number == 1 { line.trim_start_matches('\u{feff}') } else { line }))
    }

    /// The number of the line that [`Lines::next`] gave last, from 1.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// What is wrong with the line that [`Lines::next`] gave last.
    pub(super) fn wrong(&self, what: &str) -> Failure {
        wrong_line(&self.name, self.number, what)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// What is wrong with a line, where it stands first.
pub(super) fn wrong_line(file: &str, number: usize, what: &str) -> Failure {
    Failure::Usage(format!("{file}, line {number}: {what}"))
}

/// The first of `names` in `folder` that exists, as it is or gzipped.
pub(super) fn find(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    let forms = |name: &&str| [folder.join(name), folder.join(format!("{name}.gz"))];
    names.iter().flat_map(forms).find(|path| path.is_file())
}
