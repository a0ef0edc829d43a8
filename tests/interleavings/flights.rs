//! Equal pairs of several requests, of which one is scored.

use interleavings::score::{Claim, Key, Scope, Scores};
use interleavings::sync::Arc;
use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use crate::under_all_schedules;

const PAIRS: u32 = 4;

fn keys(ids: &[u32]) -> Vec<Key> {
    let scope = Scope::new(&["model"], 0);
    ids.iter().map(|id| scope.key(&[*id], 1)).collect()
}

fn claim<'a>(scores: &'a Scores, ids: &[u32]) -> Claim<'a> {
    scores.claim(&keys(ids), &vec![10; ids.len()], thread_rng().gen_range(0..2))
}

/// The device's rows of what a claim lacks.
fn land(claim: &mut Claim<'_>, ids: &[u32]) {
    let rows: Vec<f32> = claim.missing().iter().map(|i| ids[*i] as f32).collect();
    claim.land(&rows);
}

/// A request for some pairs in some order. Some leave before they have what they came for.
fn ask(scores: &Scores) {
    let first = thread_rng().gen_range(0..PAIRS);
    let ids: Vec<u32> =
        (0..thread_rng().gen_range(1..=PAIRS)).map(|i| (first + i) % PAIRS).collect();
    let mut claim = claim(scores, &ids);
    if thread_rng().gen_ratio(1, 4) {
        return;
    }
    if !claim.missing().is_empty() {
        land(&mut claim, &ids);
    }
    if claim.is_following() {
        block_on(claim.follow());
        if !claim.missing().is_empty() {
            land(&mut claim, &ids);
        }
    }
    let expected: Vec<f32> = ids.iter().map(|id| *id as f32).collect();
    assert_eq!(claim.rows(), expected);
}

#[test]
fn no_follower_is_left_waiting_and_all_have_their_rows() {
    under_all_schedules(|| {
        let scores = Arc::new(Scores::new(1 << 20, 1, 100));
        let requests = (0..4).map(|_| {
            let scores = Arc::clone(&scores);
            thread::spawn(move || ask(&scores))
        });
        let requests: Vec<_> = requests.collect();
        for request in requests {
            request.join().unwrap();
        }
        let all: Vec<u32> = (0..PAIRS).collect();
        let mut last = claim(&scores, &all);
        assert_eq!(last.found().joined, 0, "a request that ended is still in the air");
        land(&mut last, &all);
    });
}
