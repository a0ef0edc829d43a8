//! Documents that several requests want at a time: one of them has the vectors made.

use std::sync::Arc;

use super::{Matrices, Matrix};
use crate::score::Key;
use crate::score::flight::{Awaited, Flight};

/// A request's documents that nobody keeps yet: those it has made itself, and those that another does.
#[derive(Debug)]
pub struct Claim {
    mine: Vec<usize>,
    awaited: Vec<(usize, Awaited<Vec<Matrix>>)>,
    flight: Option<Flight<Vec<Matrix>>>,
}

/// What came of waiting, by places among the documents claimed.
#[derive(Debug, Default)]
pub struct Followed {
    pub found: Vec<(usize, Matrix)>,
    /// Whoever had these made failed or left.
    pub missing: Vec<usize>,
}

impl Matrices {
    /// Claims documents, each once, of `seqlens` tokens. A request follows another under the terms of
    /// [`crate::score::Scores::claim`], `patience_tokens` being those of a batch.
    pub fn claim(
        &self,
        keys: &[Key],
        seqlens: &[usize],
        urgency: u32,
        patience_tokens: usize,
    ) -> Claim {
        let patience = seqlens.iter().sum::<usize>().max(patience_tokens);
        let mut claim = Claim { mine: Vec::new(), awaited: Vec::new(), flight: None };
        for (i, key) in keys.iter().enumerate() {
            match self.flights.find(key, patience, urgency) {
                Some(awaited) => claim.awaited.push((i, awaited)),
                None => claim.mine.push(i),
            }
        }
        if !claim.mine.is_empty() {
            let own = claim.mine.iter().map(|i| keys[*i]).collect();
            let tokens = claim.mine.iter().map(|i| seqlens[*i]).sum();
            claim.flight = Some(self.flights.begin(own, tokens, urgency));
        }
        claim
    }
}

impl Claim {
    /// Places of the documents to make.
    pub fn mine(&self) -> &[usize] {
        &self.mine
    }

    /// Hands the matrices of [`Self::mine`], in that order and put into the store before, to whoever waits.
    pub fn land(&mut self, matrices: Vec<Matrix>) {
        if let Some(flight) = self.flight.take() {
            flight.land(matrices);
        }
    }

    /// Waits for the documents of other requests.
    pub async fn follow(self) -> Followed {
        let mut followed = Followed::default();
        for (i, mut awaited) in self.awaited {
            match awaited.landed().await {
                Some((all, place)) => followed.found.push((i, Arc::clone(&all[place]))),
                None => followed.missing.push(i),
            }
        }
        followed
    }
}

#[cfg(test)]
mod tests {
    use super::super::MatrixOptions;
    use super::*;
    use crate::score::Scope;

    const BATCH_TOKENS: usize = 100;

    fn store() -> Matrices {
        Matrices::open(&MatrixOptions::default(), 4).unwrap()
    }

    fn claim(store: &Matrices, ids: &[u32]) -> Claim {
        let scope = Scope::new(&["model"], 0);
        let keys: Vec<Key> = ids.iter().map(|id| scope.key(&[*id], 1)).collect();
        store.claim(&keys, &vec![10; ids.len()], 0, BATCH_TOKENS)
    }

    fn matrix(id: u8) -> Matrix {
        vec![id; 8].into()
    }

    #[tokio::test]
    async fn who_asks_for_the_same_document_meanwhile_follows() {
        let store = store();
        let mut leader = claim(&store, &[1, 2, 3]);
        assert_eq!(leader.mine(), [0, 1, 2]);
        let mut follower = claim(&store, &[3, 9, 1]);
        assert_eq!(follower.mine(), [1], "of three one is new");
        follower.land(vec![matrix(9)]);
        leader.land([1, 2, 3].map(matrix).into());
        drop(leader);
        let Followed { found, missing } = follower.follow().await;
        assert_eq!(found, [(0, matrix(3)), (2, matrix(1))]);
        assert!(missing.is_empty());
        assert_eq!(claim(&store, &[1]).mine(), [0], "what has landed is the store's to keep");
    }

    #[tokio::test]
    async fn a_leader_that_leaves_takes_nobody_with_it() {
        let store = store();
        let leader = claim(&store, &[1, 2]);
        let follower = claim(&store, &[2, 1]);
        assert!(follower.mine().is_empty());
        drop(leader);
        assert_eq!(follower.follow().await.missing, [0, 1]);
    }

    #[test]
    fn a_small_request_does_not_wait_for_a_large_one() {
        let store = store();
        let many: Vec<u32> = (0..11).collect();
        let _large = claim(&store, &many);
        assert_eq!(claim(&store, &[1, 2]).mine(), [0, 1], "110 tokens are over a batch");
    }
}
