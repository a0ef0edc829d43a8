//! A report as a bar chart: nDCG@10 of each collection, one bar a ranking.

use std::fmt::Write;

use super::report::{Report, Row};

const WIDTH: usize = 720;
const MARGIN: usize = 20;
const NAMES_WIDTH: usize = 150;
/// Room for the figure behind the longest bar.
const FIGURE_WIDTH: usize = 46;
const BAR: usize = 14;
const GAP: usize = 12;
/// Title, legend.
const HEAD: usize = 40;
/// The first stage, then models: the last one is what the chart is about.
const COLOURS: [&str; 3] = ["#c9ced6", "#8fb8de", "#2b6cb0"];
/// Characters of a name that fit.
const NAME_CHARS: usize = 22;

/// Millionths of a pixel help nobody.
fn x(ndcg: f64) -> f64 {
    let length = WIDTH - 2 * MARGIN - NAMES_WIDTH - FIGURE_WIDTH;
    (ndcg * length as f64 * 10.0).round() / 10.0
}

pub(super) fn svg(report: &Report) -> String {
    let mut rows: Vec<&Row> = report.collections.iter().collect();
    if rows.len() > 1 {
        rows.push(&report.mean);
    }
    let num_bars = report.rankings.len();
    let group = num_bars * BAR + GAP;
    let top = MARGIN + HEAD + num_bars * 18;
    let bottom = top + rows.len() * group;
    let height = bottom + MARGIN + 16;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\" \
         fill=\"#333\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    legend(&mut svg, report);
    grid(&mut svg, top, bottom);
    for (i, row) in rows.iter().enumerate() {
        bars(&mut svg, row, colours(num_bars), top + i * group + GAP / 2);
    }
    svg + "</svg>\n"
}

/// With one model, its bar has the strong colour.
fn colours(num_bars: usize) -> [&'static str; 3] {
    if num_bars == 2 { [COLOURS[0], COLOURS[2], COLOURS[2]] } else { COLOURS }
}

fn legend(svg: &mut String, report: &Report) {
    line(svg, MARGIN, MARGIN + 14, "start", "nDCG@10", " font-size=\"16\" font-weight=\"600\"");
    let y = MARGIN + 30;
    let colours = colours(report.rankings.len());
    for (i, (ranking, colour)) in report.rankings.iter().zip(colours).enumerate() {
        let y = y + i * 18;
        put(
            svg,
            format_args!(
                "<rect x=\"{MARGIN}\" y=\"{y}\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{colour}\"/>"
            ),
        );
        let text = format!("{}: {}", ranking.label, ranking.model);
        line(svg, MARGIN + 18, y + 10, "start", &text, "");
    }
}

fn grid(svg: &mut String, top: usize, bottom: usize) {
    for tenth in (0..=10).step_by(2) {
        let x = (MARGIN + NAMES_WIDTH) as f64 + x(f64::from(tenth) / 10.0);
        put(
            svg,
            format_args!(
                "<line x1=\"{x}\" x2=\"{x}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#e6e8eb\"/>"
            ),
        );
        let label = format!("{:.1}", f64::from(tenth) / 10.0);
        line(svg, x, bottom + 16, "middle", &label, " fill=\"#888\"");
    }
}

fn bars(svg: &mut String, row: &Row, colours: [&str; 3], top: usize) {
    let left = MARGIN + NAMES_WIDTH;
    let middle = top + row.cells.len() * BAR / 2 + 4;
    let mut name: String = row.name.chars().take(NAME_CHARS).collect();
    if row.name.chars().nth(NAME_CHARS).is_some() {
        name.push('…');
    }
    let weight = if row.min_relevant.is_none() { " font-weight=\"600\"" } else { "" };
    line(svg, left - 8, middle, "end", &name, weight);
    for (i, (cell, colour)) in row.cells.iter().zip(colours).enumerate() {
        let (y, length) = (top + i * BAR, x(cell.figures.ndcg));
        let thick = BAR - 2;
        put(
            svg,
            format_args!(
                "<rect x=\"{left}\" y=\"{y}\" width=\"{length}\" height=\"{thick}\" fill=\"{colour}\"/>"
            ),
        );
        let figure = format!("{:.3}", cell.figures.ndcg);
        line(svg, left as f64 + length + 5.0, y + 10, "start", &figure, " font-size=\"11\"");
    }
}

fn line(
    svg: &mut String,
    x: impl std::fmt::Display,
    y: usize,
    anchor: &str,
    text: &str,
    more: &str,
) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    put(
        svg,
        format_args!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\"{more}>{text}</text>"),
    );
}

fn put(svg: &mut String, element: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(svg, "{element}");
}
