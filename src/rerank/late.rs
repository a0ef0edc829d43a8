//! The path of a model of late interaction: vectors of the query's tokens from the device, those of documents from
//! the store or from the device, and how well they match.
//!
//! Documents are compared as they are kept, whether they were just made or found, so that what a store forgot
//! changes no score.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::by;
use super::rows::Visit;
use crate::admit::Permit;
use crate::batch::Sequences;
use crate::clock;
use crate::engine::{MaxSim, MaxSimError};
use crate::error::Error;
use crate::metrics::MatrixCounts;
use crate::score::{Followed, Key, Matrices, Matrix, Scope};
use crate::tokenize::Item;

/// What a model of late interaction has beside others.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) matrices: Matrices,
    pub(super) max_sim: Arc<dyn MaxSim>,
    /// Tokens whose vectors a document goes without.
    pub(super) skiplist: HashSet<u32>,
    /// All that decides the bytes of a matrix beside its tokens.
    pub(super) identity: [String; 3],
    /// Whether tenants find one another's matrices.
    pub(super) is_shared: bool,
    /// What a request of any size may wait for that another is having made: the tokens of a batch.
    pub(super) patience_tokens: usize,
}

/// How near each document sequence of a request is to its query.
#[derive(Debug)]
pub(super) struct Matches {
    /// `[num_sequences]`: the sum of a document's best similarities; of a query nothing.
    pub(super) sums: Vec<f32>,
    /// `[num_sequences]`: the vectors of a query; of a document nothing.
    pub(super) num_vectors: Vec<usize>,
    pub(super) started: Instant,
    pub(super) scored: Instant,
}

/// The documents of a request, each text once.
#[derive(Debug, Default)]
struct Documents {
    keys: Vec<Key>,
    /// The first sequence of each key.
    sequences: Vec<usize>,
    /// By sequence.
    places: HashMap<usize, usize>,
    bytes: Vec<Option<Matrix>>,
}

/// What the device made.
#[derive(Debug, Default)]
struct Made {
    /// The vectors of each query.
    queries: Vec<Vec<f32>>,
    /// Documents as they are kept, in the order they were asked for.
    documents: Vec<Matrix>,
}

/// Tokens whose vectors are in memory at a time, in f32: 32 MiB of 128 columns.
const MAX_TOKENS: usize = 64 << 10;

impl Late {
    pub(super) fn counts(&self) -> MatrixCounts {
        self.matrices.counts()
    }

    /// The matches of all documents with their queries. `permit` is corrected to what the device has to do.
    pub(super) async fn matches(
        self: &Arc<Self>,
        visit: &Visit<'_>,
        permit: &mut Permit,
        may_cache: bool,
        items: &[Item],
    ) -> Result<Matches, Error> {
        let queries: Option<Vec<usize>> = items.iter().map(|item| item.query_sequence).collect();
        let mut queries = queries.ok_or_else(|| {
            Error::NotSupported("this model compares two texts and classifies none".into())
        })?;
        queries.dedup();
        let mut documents = self.documents(visit, items, may_cache).await?;
        let (queries, started) = if may_cache {
            self.fill(visit, permit, queries, &mut documents).await?
        } else {
            let missing = documents.missing();
            let (made, started) = self.make(visit, permit, queries, missing.clone()).await?;
            documents.take(&missing, made.documents);
            (made.queries, started)
        };
        let (late, items) = (Arc::clone(self), items.to_vec());
        let compare = move || late.compare(&queries, &documents, &items);
        let (sums, num_vectors) = blocking(visit.deadline, compare).await??;
        Ok(Matches { sums, num_vectors, started, scored: clock::now() })
    }

    /// Makes the matrices of all documents that are not kept yet and returns, once they are where they last, how
    /// many that were.
    pub(super) async fn precompute(
        self: &Arc<Self>,
        visit: &Visit<'_>,
        permit: &mut Permit,
        items: &[Item],
    ) -> Result<usize, Error> {
        let mut documents = self.documents(visit, items, true).await?;
        let missing = documents.missing();
        self.fill(visit, permit, Vec::new(), &mut documents).await?;
        let num_made = missing.len();
        let late = Arc::clone(self);
        // Also what another request had made: whether that one is on disk yet is not known.
        let keep = move || late.matrices.put_durably(&documents.kept(&missing));
        match blocking(visit.deadline, keep).await? {
            true => Ok(num_made),
            false => Err(Error::Internal("the matrix store cannot be written".into())),
        }
    }

    /// Finds or makes what is missing of the documents, each once however many requests ask for it, and keeps it. The
    /// vectors of the queries too, and when the device began.
    async fn fill(
        self: &Arc<Self>,
        visit: &Visit<'_>,
        permit: &mut Permit,
        queries: Vec<usize>,
        documents: &mut Documents,
    ) -> Result<(Vec<Vec<f32>>, Instant), Error> {
        let missing = documents.missing();
        let keys: Vec<Key> = missing.iter().map(|i| documents.key(*i)).collect();
        let seqlens: Vec<usize> = missing.iter().map(|i| visit.sequences.seqlen(*i)).collect();
        let mut claim = self.matrices.claim(&keys, &seqlens, visit.urgency(), self.patience_tokens);
        let mine: Vec<usize> = claim.mine().iter().map(|place| missing[*place]).collect();
        let (made, started) = self.make(visit, permit, queries, mine.clone()).await?;
        documents.take(&mine, made.documents);
        self.matrices.put(&documents.kept(&mine));
        claim.land(mine.iter().filter_map(|i| documents.matrix(*i).cloned()).collect());
        let Followed { found, missing: lost } = by(visit.deadline, claim.follow()).await?;
        for (place, matrix) in found {
            documents.take(&[missing[place]], vec![matrix]);
        }
        let lost: Vec<usize> = lost.into_iter().map(|place| missing[place]).collect();
        if !lost.is_empty() {
            let (made, _) = self.make(visit, permit, Vec::new(), lost.clone()).await?;
            documents.take(&lost, made.documents);
            self.matrices.put(&documents.kept(&lost));
        }
        Ok((made.queries, started))
    }

    /// The documents of a request and what is kept of them.
    async fn documents(
        self: &Arc<Self>,
        visit: &Visit<'_>,
        items: &[Item],
        may_cache: bool,
    ) -> Result<Documents, Error> {
        let [weights, dtype, format] = self.identity.each_ref().map(String::as_str);
        // By name: numbers are given anew by each process, and a file outlives it.
        let owner = if self.is_shared { "all" } else { "one" };
        let tenant = if self.is_shared { "" } else { visit.tenant_name };
        let scope = Scope::new(&[weights, dtype, format, owner, tenant], 0);
        let mut documents = Documents::default();
        let mut known = HashMap::new();
        for sequence in items.iter().flat_map(|item| item.sequences.clone()) {
            let (input_ids, first_segment_len) = visit.sequences.get(sequence);
            let key = scope.key(input_ids, first_segment_len);
            let place = *known.entry(key).or_insert_with(|| {
                documents.keys.push(key);
                documents.sequences.push(sequence);
                documents.keys.len() - 1
            });
            documents.places.insert(sequence, place);
        }
        if !may_cache {
            documents.bytes = vec![None; documents.keys.len()];
            return Ok(documents);
        }
        let (late, keys) = (Arc::clone(self), documents.keys.clone());
        let (bytes, lookup) = if self.matrices.is_on_disk() {
            blocking(visit.deadline, move || late.matrices.get(&keys)).await?
        } else {
            self.matrices.get(&keys)
        };
        visit.service.host.metrics.matrices.add(lookup.in_memory, lookup.on_disk, lookup.missed);
        documents.bytes = bytes;
        Ok(documents)
    }

    /// Has the device make the vectors of these sequences, a part at a time. `permit` is corrected to all of them.
    async fn make(
        self: &Arc<Self>,
        visit: &Visit<'_>,
        permit: &mut Permit,
        queries: Vec<usize>,
        missing: Vec<usize>,
    ) -> Result<(Made, Instant), Error> {
        let num_queries = queries.len();
        let indices = [queries, missing].concat();
        permit.correct(indices.iter().map(|i| visit.sequences.seqlen(*i)).sum());
        let (mut made, mut started) = (Made::default(), None);
        let mut rest = indices.as_slice();
        while !rest.is_empty() {
            let part;
            (part, rest) = rest.split_at(part_len(rest, |i| visit.sequences.seqlen(i)));
            let sequences = Arc::new(visit.sequences.select(part));
            let rows = visit.score(Arc::clone(&sequences)).await?;
            started = started.or(Some(rows.started));
            let late = Arc::clone(self);
            let num_queries = num_queries - made.queries.len();
            let encode = move || late.encode(&sequences, &rows.values, num_queries);
            let part = blocking(visit.deadline, encode).await?;
            made.queries.extend(part.queries);
            made.documents.extend(part.documents);
        }
        Ok((made, started.unwrap_or_else(clock::now)))
    }

    /// Of sequences, of which the first `num_queries` are queries, what the device gave for them.
    fn encode(&self, sequences: &Sequences, values: &[f32], num_queries: usize) -> Made {
        let dim = self.matrices.dim();
        let vectors = |i: usize| {
            let (begin, end) = (sequences.first_token(i), sequences.first_token(i + 1));
            &values[begin * dim..end * dim]
        };
        let document = |i: usize| {
            let (input_ids, _) = sequences.get(i);
            let rows = vectors(i).chunks_exact(dim).zip(input_ids);
            let kept = rows.filter(|(_, id)| !self.skiplist.contains(id));
            let kept = kept.map(|(row, _)| row).collect::<Vec<_>>().concat();
            self.matrices.format().encode(&kept, dim).into()
        };
        let num_queries = num_queries.min(sequences.len());
        Made {
            queries: (0..num_queries).map(|i| vectors(i).to_vec()).collect(),
            documents: (num_queries..sequences.len()).map(document).collect(),
        }
    }

    /// Sums and numbers of vectors, by sequence of the request.
    fn compare(
        &self,
        queries: &[Vec<f32>],
        documents: &Documents,
        items: &[Item],
    ) -> Result<(Vec<f32>, Vec<usize>), Error> {
        let dim = self.matrices.dim();
        let num_sequences = items.last().map_or(0, |item| item.sequences.end);
        let mut sums = vec![0.0; num_sequences];
        let mut num_vectors = vec![0; num_sequences];
        let by_query = items.chunk_by(|a, b| a.query_sequence == b.query_sequence);
        for (items, vectors) in by_query.zip(queries) {
            let Some(query) = items[0].query_sequence else { continue };
            num_vectors[query] = vectors.len() / dim;
            let sequences: Vec<usize> =
                items.iter().flat_map(|item| item.sequences.clone()).collect();
            let kept = sequences.iter().map(|i| documents.matrix(*i).map(|bytes| &**bytes));
            let kept: Option<Vec<&[u8]>> = kept.collect();
            let matched = kept
                .ok_or(MaxSimError::NotKept)
                .and_then(|kept| self.max_sim.max_sim(vectors, dim, self.matrices.format(), &kept));
            let matched = matched.map_err(|fault| Error::Internal(fault.to_string()))?;
            for (sequence, sum) in sequences.iter().zip(matched) {
                sums[*sequence] = sum;
            }
        }
        Ok((sums, num_vectors))
    }
}

impl Documents {
    /// A sequence of each document that is not there.
    fn missing(&self) -> Vec<usize> {
        let missing = self.sequences.iter().zip(&self.bytes).filter(|(_, bytes)| bytes.is_none());
        missing.map(|(sequence, _)| *sequence).collect()
    }

    fn key(&self, sequence: usize) -> Key {
        self.keys[self.places[&sequence]]
    }

    fn matrix(&self, sequence: usize) -> Option<&Matrix> {
        self.bytes[self.places[&sequence]].as_ref()
    }

    /// Those of these sequences that are there, as a store takes them.
    fn kept(&self, sequences: &[usize]) -> Vec<(Key, Matrix)> {
        let matrix = |i: &usize| Some((self.key(*i), self.matrix(*i)?.clone()));
        sequences.iter().filter_map(matrix).collect()
    }

    fn take(&mut self, sequences: &[usize], matrices: Vec<Matrix>) {
        for (sequence, matrix) in sequences.iter().zip(matrices) {
            self.bytes[self.places[sequence]] = Some(matrix);
        }
    }
}

/// How many of these sequences are made at a time: one at least.
fn part_len(indices: &[usize], seqlen: impl Fn(usize) -> usize) -> usize {
    let mut tokens = 0;
    let fits = indices.iter().take_while(|i| {
        tokens += seqlen(**i);
        tokens <= MAX_TOKENS
    });
    fits.count().max(1)
}

/// Work that takes a thread for milliseconds, or waits for a disk: off the async runtime.
async fn blocking<T: Send + 'static>(
    deadline: Instant,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let ended = |_| Error::Internal("the comparison of vectors broke off".into());
    by(deadline, tokio::task::spawn_blocking(work)).await?.map_err(ended)
}
