//! A report as text: a table and what has to be known about it.

use std::io::{Result, Write};

use super::metrics::Figures;
use super::report::{Report, Row};

pub(super) fn print(out: &mut impl Write, report: &Report) -> Result<()> {
    for ranking in &report.rankings {
        let at = ranking.revision.as_ref().map(|revision| format!(" at {revision}"));
        writeln!(out, "{:<6}  {}{}", ranking.label, ranking.model, at.unwrap_or_default())?;
    }
    writeln!(out)?;
    let mut lines = head(report);
    lines.extend(report.collections.iter().map(line));
    if report.collections.len() > 1 {
        lines.push(line(&report.mean));
    }
    print_aligned(out, &lines)?;
    writeln!(out)?;
    notes(out, report)
}

fn head(report: &Report) -> Vec<Vec<String>> {
    let num_rankings = report.rankings.len();
    let labels = || report.rankings.iter().map(|ranking| ranking.label);
    let blank = |n| std::iter::repeat_n("", n);
    let over = ["", "", "nDCG@10"].into_iter().chain(blank(num_rankings + 1));
    let over = over.chain(["MRR@10"]).chain(blank(num_rankings - 1));
    let over = over.chain(["P@1"]).chain(blank(num_rankings - 1)).chain(["pairs/s"]);
    let over = over.chain(blank(num_rankings - 2));
    let under = ["collection", "queries"].into_iter().chain(labels()).chain(["change", "p"]);
    let under = under.chain(labels()).chain(labels()).chain(labels().skip(1));
    vec![over.map(str::to_owned).collect(), under.map(str::to_owned).collect()]
}

fn line(row: &Row) -> Vec<String> {
    let all = |of: fn(&Figures) -> f64| {
        row.cells.iter().map(move |cell| format!("{:.4}", of(&cell.figures)))
    };
    let p = if row.p_value < 1e-4 { "<0.0001".into() } else { format!("{:.4}", row.p_value) };
    let rates = row.cells.iter().skip(1);
    let rates = rates.map(|cell| format!("{:.0}", cell.pairs_per_second.unwrap_or(0.0)));
    [row.name.clone(), row.queries.to_string()]
        .into_iter()
        .chain(all(|figures| figures.ndcg))
        .chain([format!("{:+.4}", row.change.ndcg), p])
        .chain(all(|figures| figures.mrr))
        .chain(all(|figures| figures.p1))
        .chain(rates)
        .collect()
}

/// The first column to the left, the others to the right.
fn print_aligned(out: &mut impl Write, lines: &[Vec<String>]) -> Result<()> {
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    for line in lines {
        let mut text = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = width(column).unwrap_or(0);
            text += &match column {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            };
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

fn notes(out: &mut impl Write, report: &Report) -> Result<()> {
    if let Some(n) = report.max_queries {
        writeln!(out, "Only the first {n} queries of a collection were measured.")?;
    }
    for row in &report.collections {
        let name = &row.name;
        if let Some(grade @ 2..) = row.min_relevant {
            writeln!(out, "{name}: MRR@10 and P@1 count grades from {grade} on.")?;
        }
        if row.queries_without_candidates > 0 {
            let n = row.queries_without_candidates;
            writeln!(out, "{name}: {n} queries have no candidates and count 0.")?;
        }
    }
    let [.., old, new] = &report.rankings[..] else { return Ok(()) };
    writeln!(
        out,
        "change: nDCG@10 '{}' less '{}'; p: paired randomisation test, two-sided.",
        new.label, old.label
    )
}
