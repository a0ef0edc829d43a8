//! What was measured, as one value that is printed, drawn or written.

use serde::{Serialize, Serializer};

use super::collection::Collection;
use super::measure::Measured;
use super::metrics::Figures;
use super::significance::p_value;

/// How the candidates were ordered: by the first stage, or by a model.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Ranking {
    /// In columns and keys: "before", "after", or "first" and "second" of two models.
    pub(super) label: &'static str,
    pub(super) model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) revision: Option<String>,
}

/// A ranking with what it gave, collection by collection.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) ranking: Ranking,
    pub(super) measured: Vec<Measured>,
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) rerankd: &'static str,
    pub(super) top_k: usize,
    /// Set if some collection has more.
    pub(super) max_queries: Option<usize>,
    pub(super) rankings: Vec<Ranking>,
    pub(super) collections: Vec<Row>,
    /// Of the collections, each counting once.
    pub(super) mean: Row,
}

#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) queries: usize,
    /// Of these; they count 0.
    pub(super) queries_without_candidates: usize,
    pub(super) pairs: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) min_relevant: Option<i32>,
    /// In the order of [`Report::rankings`].
    #[serde(flatten, serialize_with = "by_label")]
    pub(super) cells: Vec<Cell>,
    /// Of the last ranking against the one before it.
    pub(super) change: Figures,
    /// Of the change of nDCG@10.
    pub(super) p_value: f64,
}

/// One ranking of one collection.
#[derive(Debug, Serialize)]
pub(super) struct Cell {
    #[serde(skip)]
    pub(super) label: &'static str,
    #[serde(flatten)]
    pub(super) figures: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pairs_per_second: Option<f64>,
}

fn by_label<S: Serializer>(cells: &[Cell], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(cells.iter().map(|cell| (cell.label, cell)))
}

impl Row {
    fn new(name: String, cells: Vec<Cell>, p_value: f64) -> Self {
        let change = match &cells[..] {
            [.., old, new] => new.figures.minus(&old.figures),
            _ => Figures::default(),
        };
        Self {
            name,
            queries: 0,
            queries_without_candidates: 0,
            pairs: 0,
            min_relevant: None,
            cells,
            change,
            p_value,
        }
    }
}

impl Report {
    /// `runs` begins with the first stage's order.
    pub(super) fn new(
        collections: &[Collection],
        runs: &[Run],
        top_k: usize,
        max_queries: Option<usize>,
    ) -> Self {
        let rows: Vec<Row> = (0..).zip(collections).map(|(i, from)| row(i, from, runs)).collect();
        let mean = mean(&rows, runs);
        Self {
            rerankd: env!("CARGO_PKG_VERSION"),
            top_k,
            max_queries,
            rankings: runs.iter().map(|run| run.ranking.clone()).collect(),
            collections: rows,
            mean,
        }
    }
}

fn row(i: usize, from: &Collection, runs: &[Run]) -> Row {
    let pairs = from.num_pairs();
    let cell = |run: &Run| Cell {
        label: run.ranking.label,
        figures: Figures::mean(run.measured[i].figures.iter()),
        pairs_per_second: rate(pairs, run.measured[i].seconds),
    };
    Row {
        queries: from.queries.len(),
        queries_without_candidates: from
            .queries
            .iter()
            .filter(|query| query.candidates.is_empty())
            .count(),
        pairs,
        min_relevant: Some(from.min_relevant),
        ..Row::new(
            from.name.clone(),
            runs.iter().map(cell).collect(),
            p_value(&[differences(i, runs)]),
        )
    }
}

fn mean(rows: &[Row], runs: &[Run]) -> Row {
    let pairs = rows.iter().map(|row| row.pairs).sum();
    let cell = |(i, run): (usize, &Run)| {
        let figures: Vec<Figures> = rows.iter().map(|row| row.cells[i].figures).collect();
        Cell {
            label: run.ranking.label,
            figures: Figures::mean(figures.iter()),
            pairs_per_second: rate(pairs, run.measured.iter().map(|one| one.seconds).sum()),
        }
    };
    let strata: Vec<_> = (0..rows.len()).map(|i| differences(i, runs)).collect();
    Row {
        queries: rows.iter().map(|row| row.queries).sum(),
        queries_without_candidates: rows.iter().map(|row| row.queries_without_candidates).sum(),
        pairs,
        ..Row::new("mean".into(), (0..).zip(runs).map(cell).collect(), p_value(&strata))
    }
}

/// Of nDCG@10 by query, between the last two rankings of a collection.
fn differences(collection: usize, runs: &[Run]) -> Vec<f64> {
    let [.., old, new] = runs else { return Vec::new() };
    let (old, new) = (&old.measured[collection].figures, &new.measured[collection].figures);
    old.iter().zip(new).map(|(old, new)| new.ndcg - old.ndcg).collect()
}

/// `None` for the first stage, which took no time here.
fn rate(pairs: usize, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| pairs as f64 / seconds)
}
