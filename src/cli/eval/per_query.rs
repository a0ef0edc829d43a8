//! The figures of every query, as a table that other programs read.

use std::io::{Result, Write};

use super::collection::Collection;
use super::metrics::Figures;
use super::report::Run;

type Of = fn(&Figures) -> f64;

const METRICS: [(&str, Of); 3] = [("ndcg", |f| f.ndcg), ("mrr", |f| f.mrr), ("p1", |f| f.p1)];

/// Tab-separated: `collection qid`, then each metric for each ranking.
pub(super) fn write(out: &mut impl Write, collections: &[Collection], runs: &[Run]) -> Result<()> {
    write!(out, "collection\tqid")?;
    for (metric, _) in METRICS {
        for run in runs {
            write!(out, "\t{metric}_{}", run.ranking.label)?;
        }
    }
    writeln!(out)?;
    for (i, collection) in collections.iter().enumerate() {
        for (j, query) in collection.queries.iter().enumerate() {
            write!(out, "{}\t{}", collection.name, query.qid)?;
            for (_, of) in METRICS {
                for run in runs {
                    write!(out, "\t{:.6}", of(&run.measured[i].figures[j]))?;
                }
            }
            writeln!(out)?;
        }
    }
    out.flush()
}
