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
use crate::engine::MaxSim;
use crate::error::Error;
use crate::metrics::MatrixCounts;
use crate::score::{Key, Matrices, Scope};
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
    bytes: Vec<Option<Arc<[u8]>>>,
}

/// What the device was asked for.
#[derive(Debug, Default)]
struct Fresh {
    /// The vectors of each query.
    queries: Vec<Vec<f32>>,
    /// Documents as they are kept, by sequence.
    documents: Vec<(usize, Arc<[u8]>)>,
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
        let documents = self.documents(visit, items, may_cache).await?;
        let missing = documents.missing().collect();
        let (fresh, started) = self.make(visit, permit, queries, missing).await?;
        let (late, items) = (Arc::clone(self), items.to_vec());
        let compare = move || late.compare(fresh, documents, &items, may_cache);
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
        let documents = self.documents(visit, items, true).await?;
        let missing: Vec<usize> = documents.missing().collect();
        let num_made = missing.len();
        let (fresh, _) = self.make(visit, permit, Vec::new(), missing).await?;
        let late = Arc::clone(self);
        let keep = move || {
            let matrices = fresh.documents.into_iter();
            let matrices = matrices.map(|(i, bytes)| (documents.keys[documents.places[&i]], bytes));
            late.matrices.put_durably(&matrices.collect::<Vec<_>>())
        };
        match blocking(visit.deadline, keep).await? {
            true => Ok(num_made),
            false => Err(Error::Internal("the matrix store cannot be written".into())),
        }
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
    ) -> Result<(Fresh, Instant), Error> {
        let num_queries = queries.len();
        let indices = [queries, missing].concat();
        permit.correct(indices.iter().map(|i| visit.sequences.seqlen(*i)).sum());
        let (mut fresh, mut started) = (Fresh::default(), None);
        let mut rest = indices.as_slice();
        while !rest.is_empty() {
            let part;
            (part, rest) = rest.split_at(part_len(rest, |i| visit.sequences.seqlen(i)));
            let sequences = Arc::new(visit.sequences.select(part));
            let rows = visit.score(Arc::clone(&sequences)).await?;
            started = started.or(Some(rows.started));
            let (late, part) = (Arc::clone(self), part.to_vec());
            let num_queries = num_queries - fresh.queries.len();
            let encode = move || late.encode(&sequences, &rows.values, &part, num_queries);
            let made = blocking(visit.deadline, encode).await?;
            fresh.queries.extend(made.queries);
            fresh.documents.extend(made.documents);
        }
        Ok((fresh, started.unwrap_or_else(clock::now)))
    }

    /// Of sequences at the places `part` of a request, of which the first `num_queries` are queries, what the device
    /// gave for them.
    fn encode(
        &self,
        sequences: &Sequences,
        values: &[f32],
        part: &[usize],
        num_queries: usize,
    ) -> Fresh {
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
            (part[i], self.matrices.format().encode(&kept, dim).into())
        };
        let num_queries = num_queries.min(part.len());
        Fresh {
            queries: (0..num_queries).map(|i| vectors(i).to_vec()).collect(),
            documents: (num_queries..part.len()).map(document).collect(),
        }
    }

    /// Sums and numbers of vectors, by sequence of the request.
    fn compare(
        &self,
        fresh: Fresh,
        mut documents: Documents,
        items: &[Item],
        may_cache: bool,
    ) -> Result<(Vec<f32>, Vec<usize>), Error> {
        let dim = self.matrices.dim();
        let Fresh { queries, documents: fresh } = fresh;
        let keep = |(sequence, bytes): (usize, Arc<[u8]>)| {
            let place = documents.places[&sequence];
            documents.bytes[place] = Some(Arc::clone(&bytes));
            (documents.keys[place], bytes)
        };
        let fresh: Vec<(Key, Arc<[u8]>)> = fresh.into_iter().map(keep).collect();
        if may_cache {
            self.matrices.put(&fresh);
        }
        let num_sequences = items.last().map_or(0, |item| item.sequences.end);
        let mut sums = vec![0.0; num_sequences];
        let mut num_vectors = vec![0; num_sequences];
        let by_query = items.chunk_by(|a, b| a.query_sequence == b.query_sequence);
        for (items, vectors) in by_query.zip(&queries) {
            let Some(query) = items[0].query_sequence else { continue };
            num_vectors[query] = vectors.len() / dim;
            let sequences: Vec<usize> =
                items.iter().flat_map(|item| item.sequences.clone()).collect();
            let mut is_whole = true;
            let mut read = |i: usize, out: &mut Vec<f32>| {
                let bytes = &documents.bytes[documents.places[&sequences[i]]];
                let decode = |bytes: &Arc<[u8]>| self.matrices.format().decode(bytes, dim, out);
                is_whole &= bytes.as_ref().is_some_and(decode);
            };
            let matched = self.max_sim.max_sim(vectors, dim, sequences.len(), &mut read);
            let matched = matched.map_err(|fault| Error::Internal(fault.to_string()))?;
            if !is_whole {
                return Err(Error::Internal("a document matrix is not what was kept".into()));
            }
            for (sequence, sum) in sequences.iter().zip(matched) {
                sums[*sequence] = sum;
            }
        }
        Ok((sums, num_vectors))
    }
}

impl Documents {
    /// A sequence of each document that is not kept.
    fn missing(&self) -> impl Iterator<Item = usize> {
        let missing = self.sequences.iter().zip(&self.bytes).filter(|(_, bytes)| bytes.is_none());
        missing.map(|(sequence, _)| *sequence)
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
