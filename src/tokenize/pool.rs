//! Tokenizer threads: texts in, ids out, off the async runtime and off the device's threads.

use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::sync::oneshot;

use super::Encoder;
use super::assemble::{TextIds, Tokenized, num_texts, text_at};
use crate::error::Error;
use crate::request::{Inputs, Truncation};

/// Text given to one thread at a time: about 2 ms of work, so that a large request is spread over all
/// threads and a small one waits little behind it.
const CHUNK_BYTES: usize = 8 * 1024;

/// A run of texts of one request.
struct Job {
    inputs: Arc<Inputs>,
    range: Range<usize>,
    ids: oneshot::Sender<Result<TextIds, Error>>,
}

/// The threads of one model's tokenizer. They end when the pool is dropped.
#[derive(Debug)]
pub struct Pool {
    encoder: Arc<Encoder>,
    /// Not bounded here: admission bounds the text that is being worked on.
    jobs: Sender<Job>,
}

impl Pool {
    /// Starts `num_threads` threads.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub fn spawn(encoder: Encoder, num_threads: usize) -> std::io::Result<Self> {
        let encoder = Arc::new(encoder);
        let (jobs, inbox) = unbounded::<Job>();
        for i in 0..num_threads {
            let (encoder, inbox) = (Arc::clone(&encoder), inbox.clone());
            let name = format!("rerankd-tok-{i}");
            std::thread::Builder::new().name(name).spawn(move || work(&encoder, &inbox))?;
        }
        Ok(Self { encoder, jobs })
    }

    /// Tokenises the texts of a request, each once, and builds its sequences.
    ///
    /// # Errors
    /// [`Error::TooLong`] by the request's own wish, or a failure of the tokenizer.
    pub async fn tokenize(
        &self,
        inputs: &Arc<Inputs>,
        truncation: &Truncation,
    ) -> Result<Tokenized, Error> {
        let chunks = chunk_ranges(inputs);
        let mut replies = Vec::with_capacity(chunks.len());
        for range in chunks {
            let (ids, reply) = oneshot::channel();
            let job = Job { inputs: Arc::clone(inputs), range, ids };
            self.jobs.send(job).map_err(|_| no_answer())?;
            replies.push(reply);
        }
        let mut ids = TextIds::with_capacity(num_texts(inputs));
        for reply in replies {
            ids.append(&mut reply.await.map_err(|_| no_answer())??);
        }
        self.encoder.assemble(inputs, &ids, truncation)
    }
}

fn no_answer() -> Error {
    Error::Internal("a tokenizer thread ended without an answer".into())
}

/// Cuts the texts into runs of about [`CHUNK_BYTES`].
fn chunk_ranges(inputs: &Inputs) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for i in 0..num_texts(inputs) {
        bytes += text_at(inputs, i).len();
        if bytes >= CHUNK_BYTES {
            ranges.push(begin..i + 1);
            (begin, bytes) = (i + 1, 0);
        }
    }
    if begin < num_texts(inputs) {
        ranges.push(begin..num_texts(inputs));
    }
    ranges
}

fn work(encoder: &Encoder, inbox: &Receiver<Job>) {
    for Job { inputs, range, ids } in inbox {
        // The client left: its texts need no tokens.
        if ids.is_closed() {
            continue;
        }
        let encode = || range.map(|i| encoder.ids_at(&inputs, i)).collect();
        let encoded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(encode));
        let encoded = encoded.unwrap_or_else(|_| {
            Err(Error::Internal("the tokenizer panicked on a text of this request".into()))
        });
        let _ = ids.send(encoded);
    }
}
