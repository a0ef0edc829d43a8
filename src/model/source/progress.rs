//! How far a download is: a bar where somebody watches, a few log lines where nobody does.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// Smaller files are there before a bar could be read.
const MIN_SHOWN_BYTES: u64 = 1 << 20;
/// Large files get a log line at each of these steps, so that a start in a container does not look
/// stuck; ten lines are no flood.
const LOG_STEP_PERCENT: u64 = 10;
const MIN_STEPPED_BYTES: u64 = 256 << 20;

pub(super) struct Progress {
    file: String,
    size_bytes: u64,
    bar: Option<ProgressBar>,
    next_log_percent: u64,
}

impl Progress {
    pub(super) fn start(file: &str, size_bytes: u64, had_bytes: u64) -> Self {
        let shown = size_bytes >= MIN_SHOWN_BYTES;
        let bar = (shown && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(size_bytes).with_message(file.to_owned());
            let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            // The template is ours; a wrong one leaves the plain bar.
            bar.set_style(
                ProgressStyle::with_template(style)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        });
        if bar.is_none() && shown {
            tracing::info!(file, size_bytes, had_bytes, "downloading");
        }
        let next_log_percent = (had_bytes * 100).checked_div(size_bytes).unwrap_or(0);
        let next_log_percent = next_log_percent + LOG_STEP_PERCENT;
        Self { file: file.to_owned(), size_bytes, bar, next_log_percent }
    }

    /// Where in the file the download is. It goes back when a connection starts again from zero.
    pub(super) fn at(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        } else if self.size_bytes >= MIN_STEPPED_BYTES {
            let percent = bytes * 100 / self.size_bytes;
            if percent >= self.next_log_percent {
                self.next_log_percent = percent + LOG_STEP_PERCENT;
                tracing::info!(file = self.file, percent, "downloading");
            }
        }
    }

    pub(super) fn finish(&self, whole: bool) {
        match &self.bar {
            Some(bar) if whole => bar.finish(),
            // The error that follows gets the line to itself.
            Some(bar) => bar.finish_and_clear(),
            None if whole && self.size_bytes >= MIN_SHOWN_BYTES => {
                tracing::info!(file = self.file, size_bytes = self.size_bytes, "downloaded");
            }
            None => {}
        }
    }
}
