//! Finds for a request's sequences the rows that are known or on their way.

use std::collections::HashMap;
use std::sync::Arc;

use moka::sync::Cache;

use super::Key;
use super::flight::{Awaited, Flight, Flights};
use crate::metrics::Found;

/// What a row costs beside its floats: its key, and moka's own books. Measured: 254,000 rows of two floats took
/// 90 MiB.
const ENTRY_BYTES: usize = 368;

/// The rows of one loaded model: they begin and end with it, so that no score outlives its weights.
#[derive(Debug)]
pub struct Scores {
    known: Cache<Key, Arc<[f32]>>,
    flights: Arc<Flights<Vec<f32>>>,
    width: usize,
    /// What a request of any size may wait for: the tokens of a batch.
    patience_tokens: usize,
}

/// Where the row of one sequence comes from.
#[derive(Debug)]
enum Source {
    Known(Arc<[f32]>),
    Awaited(Key, Awaited<Vec<f32>>),
    /// This request has it scored; its place among those.
    Mine(usize),
}

/// A request's rows: those it found, and those it has to have scored.
#[derive(Debug)]
pub struct Claim<'a> {
    scores: &'a Scores,
    sources: Vec<Source>,
    /// The keys and the places of the sequences to score.
    mine: Vec<(Key, usize)>,
    flight: Option<Flight<Vec<f32>>>,
}

impl Scores {
    /// Keeps rows of `width` floats in about `max_bytes`.
    pub fn new(max_bytes: usize, width: usize, patience_tokens: usize) -> Self {
        let bytes = u32::try_from(ENTRY_BYTES + width * size_of::<f32>()).unwrap_or(u32::MAX);
        let known = Cache::builder().max_capacity(max_bytes as u64).weigher(move |_, _| bytes);
        Self { known: known.build(), flights: Arc::default(), width, patience_tokens }
    }

    /// Bytes of the rows that are kept.
    pub fn num_bytes(&self) -> usize {
        self.known.weighted_size() as usize
    }

    /// Looks up the sequences of a request, of `seqlens` tokens each. The less its `urgency`, the sooner it comes
    /// in the queue.
    ///
    /// A request follows another only if that has no more to score than itself, or than a batch, and comes no
    /// later: 20 documents never wait for the end of 5,000, nor what is urgent for what is not.
    pub fn claim(&self, keys: &[Key], seqlens: &[usize], urgency: u32) -> Claim<'_> {
        let known: Vec<_> = keys.iter().map(|key| self.known.get(key)).collect();
        let unknown = seqlens.iter().zip(&known).filter(|(_, known)| known.is_none());
        let patience = unknown.map(|(seqlen, _)| seqlen).sum::<usize>().max(self.patience_tokens);
        let mut mine: Vec<(Key, usize)> = Vec::new();
        let mut places = HashMap::new();
        let mut tokens = 0;
        let sources = known.into_iter().enumerate().map(|(i, known)| {
            let key = keys[i];
            if let Some(row) = known {
                return Source::Known(row);
            }
            if let Some(place) = places.get(&key) {
                return Source::Mine(*place);
            }
            match self.flights.find(&key, patience, urgency) {
                Some(awaited) => Source::Awaited(key, awaited),
                None => {
                    let place = mine.len();
                    places.insert(key, place);
                    mine.push((key, i));
                    tokens += seqlens[i];
                    Source::Mine(place)
                }
            }
        });
        let sources = sources.collect();
        let own_keys = mine.iter().map(|(key, _)| *key).collect();
        let flight = (!mine.is_empty()).then(|| self.flights.begin(own_keys, tokens, urgency));
        Claim { scores: self, sources, mine, flight }
    }
}

impl Claim<'_> {
    pub fn found(&self) -> Found {
        let cached = self.sources.iter().filter(|source| matches!(source, Source::Known(_)));
        let (cached, missed) = (cached.count(), self.mine.len());
        Found { cached, joined: self.sources.len() - cached - missed, missed }
    }

    /// Whether rows of other requests are waited for.
    pub fn is_following(&self) -> bool {
        self.sources.iter().any(|source| matches!(source, Source::Awaited(..)))
    }

    /// The sequences to have scored, by their places in the request.
    pub fn missing(&self) -> Vec<usize> {
        self.mine.iter().map(|(_, i)| *i).collect()
    }

    /// Takes the rows of the missing, in their order: for this request, its followers and those to come.
    pub fn land(&mut self, rows: &[f32]) {
        let width = self.scores.width;
        for source in &mut self.sources {
            if let Source::Mine(place) = source {
                *source = Source::Known(rows[*place * width..][..width].into());
            }
        }
        for ((key, _), row) in self.mine.drain(..).zip(rows.chunks_exact(width)) {
            self.scores.known.insert(key, row.into());
        }
        if let Some(flight) = self.flight.take() {
            flight.land(rows.to_vec());
        }
    }

    /// Waits for the rows of other requests. Those that will not come are missing then, and to be landed.
    pub async fn follow(&mut self) {
        let width = self.scores.width;
        for (i, source) in self.sources.iter_mut().enumerate() {
            let Source::Awaited(key, awaited) = source else { continue };
            *source = match awaited.landed().await {
                Some((rows, place)) => Source::Known(rows[place * width..][..width].into()),
                None => {
                    self.mine.push((*key, i));
                    Source::Mine(self.mine.len() - 1)
                }
            };
        }
    }

    /// All rows in the request's order, once nothing is missing.
    pub fn rows(self) -> Vec<f32> {
        let mut rows = Vec::with_capacity(self.sources.len() * self.scores.width);
        for source in &self.sources {
            match source {
                Source::Known(row) => rows.extend_from_slice(row),
                Source::Awaited(..) | Source::Mine(_) => {
                    unreachable!("every row was landed or followed")
                }
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::Scope;

    const WIDTH: usize = 2;
    const BATCH_TOKENS: usize = 100;

    fn scores() -> Scores {
        Scores::new(1 << 20, WIDTH, BATCH_TOKENS)
    }

    fn keys(ids: &[u32]) -> Vec<Key> {
        let scope = Scope::new(&["model"], 0);
        ids.iter().map(|id| scope.key(&[*id], 1)).collect()
    }

    /// The row of a key by which it can be told.
    fn row(id: u32) -> [f32; WIDTH] {
        [id as f32, -(id as f32)]
    }

    fn rows(ids: &[u32]) -> Vec<f32> {
        ids.iter().flat_map(|id| row(*id)).collect()
    }

    fn claim<'a>(scores: &'a Scores, ids: &[u32]) -> Claim<'a> {
        claim_with(scores, ids, 0)
    }

    fn claim_with<'a>(scores: &'a Scores, ids: &[u32], urgency: u32) -> Claim<'a> {
        scores.claim(&keys(ids), &vec![10; ids.len()], urgency)
    }

    #[test]
    fn only_what_is_not_known_is_to_be_scored() {
        let scores = scores();
        let mut first = claim(&scores, &[1, 2, 3]);
        assert_eq!(first.missing(), [0, 1, 2]);
        first.land(&rows(&[1, 2, 3]));
        assert_eq!(first.rows(), rows(&[1, 2, 3]));

        let mut second = claim(&scores, &[4, 2, 5, 4, 1]);
        assert_eq!(second.found(), Found { cached: 2, joined: 1, missed: 2 });
        assert_eq!(second.missing(), [0, 2]);
        second.land(&rows(&[4, 5]));
        assert_eq!(second.rows(), rows(&[4, 2, 5, 4, 1]));
    }

    #[tokio::test]
    async fn who_asks_for_the_same_meanwhile_follows() {
        let scores = scores();
        let mut leader = claim(&scores, &[1, 2, 3]);
        let mut follower = claim(&scores, &[3, 9, 1]);
        assert_eq!(follower.found(), Found { cached: 0, joined: 2, missed: 1 });
        assert_eq!(follower.missing(), [1]);
        follower.land(&rows(&[9]));
        leader.land(&rows(&[1, 2, 3]));
        follower.follow().await;
        assert!(follower.missing().is_empty());
        assert_eq!(follower.rows(), rows(&[3, 9, 1]));
    }

    #[tokio::test]
    async fn a_leader_that_leaves_takes_nobody_with_it() {
        let scores = scores();
        let leader = claim(&scores, &[1, 2]);
        let mut follower = claim(&scores, &[5, 2, 1]);
        follower.land(&rows(&[5]));
        drop(leader);
        follower.follow().await;
        assert_eq!(follower.missing(), [1, 2]);
        follower.land(&rows(&[2, 1]));
        assert_eq!(follower.rows(), rows(&[5, 2, 1]));
        assert_eq!(claim(&scores, &[1, 2, 5]).found().cached, 3);
    }

    #[test]
    fn a_small_request_does_not_wait_for_a_large_one() {
        let scores = scores();
        let many: Vec<u32> = (0..11).collect();
        let _large = claim(&scores, &many);
        assert_eq!(claim(&scores, &[1, 2]).found().missed, 2, "110 tokens are over a batch");
        let mut larger = many.clone();
        larger.push(99);
        assert_eq!(claim(&scores, &larger).found().joined, 11, "but no more than its own");
    }

    #[test]
    fn an_urgent_request_does_not_wait_for_a_patient_one() {
        let scores = scores();
        let _patient = claim_with(&scores, &[1, 2], 7);
        assert_eq!(claim_with(&scores, &[1, 2], 7).found().joined, 2);
        assert_eq!(claim_with(&scores, &[1, 2], 8).found().joined, 2);
        assert_eq!(claim_with(&scores, &[1, 2], 6).found().missed, 2);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let scores = Scores::new(100 * (ENTRY_BYTES + WIDTH * 4), WIDTH, BATCH_TOKENS);
        let ids: Vec<u32> = (0..1000).collect();
        claim(&scores, &ids).land(&rows(&ids));
        scores.known.run_pending_tasks();
        assert_eq!(scores.known.entry_count(), 100);
        assert_eq!(scores.num_bytes(), 100 * (ENTRY_BYTES + WIDTH * 4));
    }
}
