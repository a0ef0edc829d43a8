//! Scores a collection, several queries at a time, and times it.

use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use super::collection::{Collection, Query};
use super::metrics::Figures;
use super::scorer::Scorer;
use crate::clock;

/// The figures of a collection's queries, in their order, and the time it took to score them.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) figures: Vec<Figures>,
    pub(super) seconds: f64,
}

/// Reranks the candidates of every query with `in_flight` of them being scored at any time: enough to
/// fill batches, and what a server sees of its clients.
pub(super) fn measure(
    scorer: &dyn Scorer,
    collection: &Collection,
    in_flight: usize,
    bar: &ProgressBar,
) -> Result<Measured, Failure> {
    let queries = &collection.queries;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let i = next.fetch_add(1, Ordering::Relaxed)
            && let Some(query) = queries.get(i)
        {
            let figures = score(scorer, collection, query);
            if figures.is_err() {
                // The others need not go on.
                next.store(queries.len(), Ordering::Relaxed);
            }
            done.push((i, figures?));
            bar.inc(query.candidates.len() as u64);
        }
        Ok(done)
    };
    let begin = clock::now();
    let parts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..in_flight).map(|_| scope.spawn(work)).collect();
        let ended = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(part) => part,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().map(ended).collect::<Result<_, Failure>>()
    })?;
    let seconds = clock::now().saturating_duration_since(begin).as_secs_f64();
    let mut figures = vec![Figures::default(); queries.len()];
    for (i, found) in parts.into_iter().flatten() {
        figures[i] = found;
    }
    Ok(Measured { figures, seconds })
}

fn score(scorer: &dyn Scorer, from: &Collection, query: &Query) -> Result<Figures, Failure> {
    if query.candidates.is_empty() {
        return Ok(query.after(&[]));
    }
    let text = |candidate: &super::collection::Judged| from.documents[candidate.document].clone();
    let scores = scorer.score(&query.text, query.candidates.iter().map(text).collect())?;
    Ok(query.after(&scores))
}

/// A bar over pairs, where somebody watches.
pub(super) fn bar(num_pairs: usize, model: &str) -> ProgressBar {
    // Draws nothing unless standard error is a terminal.
    let bar = ProgressBar::new(num_pairs as u64).with_prefix(model.to_owned());
    let style = "{prefix}: {msg} {wide_bar} {human_pos}/{human_len} pairs, {per_sec}, {eta} left";
    // The template is ours; a wrong one leaves the plain bar.
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}
