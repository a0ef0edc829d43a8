//! The lines of a collection's files in every form they come in, parsed to one.

use std::path::Path;

use serde::Deserialize;

use super::Failure;
use super::lines::Lines;

/// One line of the judgements.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) qid: String,
    pub(super) docid: String,
    pub(super) grade: i32,
}

/// One line of the first stage's result.
#[derive(Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) qid: String,
    pub(super) docid: String,
    pub(super) order: Order,
    /// Of the file, from 1, for errors that show only later.
    pub(super) line: usize,
}

/// What a line says about its place among its query's candidates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Order {
    /// 1 is first.
    Rank(i64),
    /// The highest is first. What `trec_eval` goes by in a run file, whatever its ranks say.
    Score(f64),
}

/// A query or a document with its id.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) id: String,
    pub(super) text: String,
}

/// Tabs where a line has one, any white space otherwise: TREC's files use either.
fn fields(line: &str) -> Vec<&str> {
    if line.contains('\t') {
        line.split('\t').map(str::trim).collect()
    } else {
        line.split_whitespace().collect()
    }
}

/// `qid docid grade`, BEIR's the same under a header, TREC's `qid iteration docid grade`.
pub(super) fn judgement(lines: &mut Lines) -> Result<Option<Judgement>, Failure> {
    loop {
        let Some(line) = lines.next()? else { return Ok(None) };
        let ([qid, docid, grade] | [qid, _, docid, grade]) = fields(line)[..] else {
            return Err(lines.wrong("needs query id, document id and grade"));
        };
        if let Ok(grade) = grade.parse() {
            let (qid, docid) = (qid.to_owned(), docid.to_owned());
            return Ok(Some(Judgement { qid, docid, grade }));
        }
        let header = matches!(grade, "score" | "grade" | "relevance");
        if !header || lines.number() != 1 {
            return Err(lines.wrong("the grade is not a whole number"));
        }
    }
}

/// `qid docid rank score`, MS MARCO's `qid docid rank`, TREC's `qid Q0 docid rank score tag`.
pub(super) fn candidate(lines: &mut Lines) -> Result<Option<Candidate>, Failure> {
    let Some(line) = lines.next()? else { return Ok(None) };
    let (qid, docid, order) = match fields(line)[..] {
        [qid, docid, rank] | [qid, docid, rank, _] => {
            (qid, docid, rank.parse().map(Order::Rank).map_err(|_| "the rank is not a number"))
        }
        [qid, _, docid, _, score, _] => match score.parse() {
            Ok(score) if f64::is_finite(score) => (qid, docid, Ok(Order::Score(score))),
            _ => (qid, docid, Err("the score is not a number")),
        },
        _ => return Err(lines.wrong("needs query id, document id, rank and score")),
    };
    let (qid, docid, line) = (qid.to_owned(), docid.to_owned(), lines.number());
    let order = order.map_err(|what| lines.wrong(what))?;
    Ok(Some(Candidate { qid, docid, order, line }))
}

/// `qid TAB text`, or BEIR's JSON lines.
pub(super) fn query(lines: &mut Lines, path: &Path) -> Result<Option<Text>, Failure> {
    if is_jsonl(path) {
        return document(lines);
    }
    let Some(line) = lines.next()? else { return Ok(None) };
    let Some((qid, text)) = line.split_once('\t') else {
        return Err(lines.wrong("needs query id, a tab and the text"));
    };
    Ok(Some(Text { id: qid.trim().to_owned(), text: text.trim().to_owned() }))
}

fn is_jsonl(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(".jsonl"))
}

/// Ids are texts, but some writers leave the quotes out.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(i64),
}

#[derive(Deserialize)]
struct Document {
    #[serde(alias = "_id")]
    id: Id,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    text: Option<String>,
}

/// A JSON line with "id" or "_id", "title" and "text". Title and text are joined by a space, as BEIR's
/// own cross-encoder evaluation joins them: its published figures are then comparable.
pub(super) fn document(lines: &mut Lines) -> Result<Option<Text>, Failure> {
    let Some(line) = lines.next()? else { return Ok(None) };
    let document: Document = match serde_json::from_str(line) {
        Ok(document) => document,
        Err(e) if e.is_data() => {
            return Err(lines.wrong("needs an object with \"id\" or \"_id\" and \"text\""));
        }
        Err(e) => return Err(lines.wrong(&format!("not JSON: {e}"))),
    };
    let id = match document.id {
        Id::Text(id) => id,
        Id::Number(id) => id.to_string(),
    };
    let (title, text) = (document.title.unwrap_or_default(), document.text.unwrap_or_default());
    let text = format!("{} {}", title.trim(), text.trim()).trim().to_owned();
    Ok(Some(Text { id, text }))
}
