//! Tokenizer threads: texts in, ids out, off the async runtime and off the device's threads.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Encoder;
use super::assemble::{TextIds, Tokenized, num_texts, text_at};
use super::turns::Turns;
use crate::batch::TenantId;
use crate::error::Error;
use crate::request::{Inputs, Truncation};

/// Text given to one thread at a time: about 2 ms of work, so that a large request is spread over all
/// threads and a small one waits little behind it.
const CHUNK_BYTES: usize = 8 * 1024;

/// A run of texts of one request.
#[derive(Debug)]
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
    jobs: Arc<Turns<Job>>,
}

impl Pool {
    /// Starts `num_threads` threads.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub fn spawn(encoder: Encoder, num_threads: usize) -> std::io::Result<Self> {
        let encoder = Arc::new(encoder);
        let jobs = Arc::new(Turns::new());
        for i in 0..num_threads {
            let (encoder, inbox) = (Arc::clone(&encoder), Arc::clone(&jobs));
            let name = format!("rerankd-tok-{i}");
            std::thread::Builder::new().name(name).spawn(move || work(&encoder, &inbox))?;
        }
        Ok(Self { encoder, jobs })
    }

    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Tokenises the texts of a request, each once, and builds its sequences.
    ///
    /// # Errors
    /// [`Error::TooLong`] by the request's own wish, or a failure of the tokenizer.
    pub async fn tokenize(
        &self,
        tenant: TenantId,
        inputs: &Arc<Inputs>,
        truncation: &Truncation,
    ) -> Result<Tokenized, Error> {
        let mut replies = Vec::new();
        let jobs = chunk_ranges(inputs).into_iter().map(|range| {
            let (ids, reply) = oneshot::channel();
            replies.push(reply);
            Job { inputs: Arc::clone(inputs), range, ids }
        });
        let jobs: Vec<_> = jobs.collect();
        self.jobs.push(tenant, jobs);
        let mut ids = TextIds::with_capacity(num_texts(inputs));
        for reply in replies {
            ids.append(&mut reply.await.map_err(|_| no_answer())??);
        }
        self.encoder.assemble(inputs, &ids, truncation)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs.close();
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

fn work(encoder: &Encoder, inbox: &Turns<Job>) {
    while let Some(Job { inputs, range, ids }) = inbox.next() {
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
