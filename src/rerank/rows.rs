//! The rows of a request's sequences: those that are known, those on their way, and the rest from the device.

use std::sync::Arc;
use std::time::Instant;

use super::{Service, UNAVAILABLE_RETRY_AFTER, by};
use crate::admit::Permit;
use crate::batch::{Answer, Entry, Rows, Sequences, Share};
use crate::clock;
use crate::error::Error;
use crate::score::{Claim, Key, Scope};

/// A tokenised request on its way to its rows.
pub(super) struct Visit<'a> {
    pub(super) service: &'a Service,
    pub(super) share: Share,
    pub(super) tenant_name: &'a str,
    pub(super) priority: u16,
    pub(super) sequences: &'a Arc<Sequences>,
    pub(super) arrived: Instant,
    pub(super) deadline: Instant,
}

impl Visit<'_> {
    /// All rows, in order. `permit` is corrected to the tokens that the device has to score.
    pub(super) async fn rows(&self, permit: &mut Permit, may_cache: bool) -> Result<Rows, Error> {
        let sequences = self.sequences;
        let scores = self.service.scores.as_ref().filter(|_| may_cache);
        let Some(scores) = scores else {
            permit.correct(sequences.num_tokens());
            return self.score(Arc::clone(sequences)).await;
        };
        let scope = Scope::new(&self.service.identity(), self.share.tenant.0);
        let key = |i| {
            let (input_ids, first_segment_len) = sequences.get(i);
            scope.key(input_ids, first_segment_len)
        };
        let keys: Vec<Key> = (0..sequences.len()).map(key).collect();
        let seqlens: Vec<_> = (0..sequences.len()).map(|i| sequences.seqlen(i)).collect();
        let mut claim = scores.claim(&keys, &seqlens, self.urgency());
        self.service.host.metrics.looked_up(claim.found());
        let now = clock::now();
        let (mut started, mut scored) = (None, now);
        permit.correct(0);
        if let Some(rows) = self.score_missing(&mut claim, permit).await? {
            (started, scored) = (Some(rows.started), rows.scored);
        }
        if claim.is_following() {
            by(self.deadline, claim.follow()).await?;
            scored = clock::now();
            // Whoever had them scored failed or left: then it is this request's turn.
            if let Some(rows) = self.score_missing(&mut claim, permit).await? {
                started = started.or(Some(rows.started));
                scored = rows.scored;
            }
        }
        Ok(Rows { values: claim.rows(), started: started.unwrap_or(now), scored })
    }

    /// Less for what the queue puts first, among the requests of one tenant.
    pub(super) fn urgency(&self) -> u32 {
        (self.share.class as u32) << u16::BITS | u32::from(self.priority)
    }

    async fn score_missing(
        &self,
        claim: &mut Claim<'_>,
        permit: &mut Permit,
    ) -> Result<Option<Rows>, Error> {
        let missing = claim.missing();
        if missing.is_empty() {
            return Ok(None);
        }
        let sequences = if missing.len() == self.sequences.len() {
            Arc::clone(self.sequences)
        } else {
            Arc::new(self.sequences.select(&missing))
        };
        permit.correct(sequences.num_tokens());
        let rows = self.score(sequences).await?;
        claim.land(&rows.values);
        Ok(Some(rows))
    }

    /// Rows from the device.
    pub(super) async fn score(&self, sequences: Arc<Sequences>) -> Result<Rows, Error> {
        let width = self.service.width;
        let (answer, rows) = match self.service.late {
            None => Answer::new(sequences.len(), width),
            Some(_) => Answer::of_tokens(&sequences, width),
        };
        self.service.batcher.submit(Entry {
            share: self.share,
            priority: self.priority,
            sequences,
            answer: Arc::new(answer),
            arrived: self.arrived,
            deadline: Some(self.deadline),
        })?;
        by(self.deadline, rows).await?.map_err(|_| Error::Unavailable {
            reason: "the server is stopping".into(),
            retry_after: UNAVAILABLE_RETRY_AFTER,
        })?
    }
}
