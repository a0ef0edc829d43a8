//! Finds the collections in folders and reads them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Failure;
use super::collection::{Collection, Judged, Query};
use super::formats::{self, Order};
use super::lines::{Lines, find, wrong_line};
use super::metrics::Ideal;

const QUERIES: &[&str] = &["queries.tsv", "queries.jsonl"];
const CORPUS: &[&str] = &["corpus.jsonl"];
/// A pool that was cut for training ranks below the full judgements.
const QRELS: &[&str] = &["qrels.full.tsv", "qrels.tsv", "qrels.txt", "qrels/test.tsv"];
const CANDIDATES: &[&str] = &["candidates.tsv", "candidates.trec", "run.tsv", "run.trec"];

/// Which part of the collections is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Candidates of a query.
    pub(super) top_k: usize,
    pub(super) max_queries: usize,
}

/// The folders that hold a collection: each of `folders` itself, or else those right below it.
pub(super) fn folders(folders: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let is_collection = |folder: &PathBuf| find(folder, QRELS).is_some();
    let mut found = Vec::new();
    for folder in folders {
        if is_collection(folder) {
            found.push(folder.clone());
            continue;
        }
        let told = |e| Failure::io(folder.display().to_string(), e);
        let entries = std::fs::read_dir(folder).map_err(told)?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut below: Vec<PathBuf> = paths.collect::<Result<_, _>>().map_err(told)?;
        below.retain(is_collection);
        if below.is_empty() {
            return Err(Failure::Usage(format!(
                "{}: neither the folder nor one in it has judgements ({})",
                folder.display(),
                QRELS.join(", ")
            )));
        }
        below.sort();
        found.append(&mut below);
    }
    Ok(found)
}

/// Reads the part of a collection that is measured.
pub(super) fn load(folder: &Path, part: Part) -> Result<Collection, Failure> {
    let min_relevant = min_relevant(folder)?;
    let judgements = judgements(&require(folder, QRELS)?)?;
    let mut queries = queries(&require(folder, QUERIES)?, judgements, min_relevant)?;
    queries.truncate(part.max_queries);
    let found = candidates(&require(folder, CANDIDATES)?, &mut queries, part.top_k)?;
    let documents = documents(&require(folder, CORPUS)?, &found)?;
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let name = absolute.file_name().unwrap_or(absolute.as_os_str()).to_string_lossy().into_owned();
    let queries = queries.into_iter().map(|open| open.query).collect();
    Ok(Collection { name, min_relevant, queries, documents })
}

fn require(folder: &Path, names: &[&str]) -> Result<PathBuf, Failure> {
    find(folder, names).ok_or_else(|| {
        let (folder, names) = (folder.display(), names.join(" or "));
        Failure::Usage(format!("{folder}: has no {names} (each may end in .gz)"))
    })
}

/// `minrel` of `meta.json`, which may have more in it.
fn min_relevant(folder: &Path) -> Result<i32, Failure> {
    #[derive(Deserialize)]
    struct Meta {
        #[serde(default = "one")]
        minrel: i32,
    }
    fn one() -> i32 {
        1
    }
    let path = folder.join("meta.json");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(one()),
        Err(e) => return Err(Failure::io(path.display().to_string(), e)),
    };
    let wrong = |what: String| Failure::Usage(format!("{}: {what}", path.display()));
    let meta: Meta = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    if meta.minrel < 1 {
        // Documents without a judgement have grade 0.
        return Err(wrong(format!(
            "minrel is {}, but only grades from 1 on are relevant",
            meta.minrel
        )));
    }
    Ok(meta.minrel)
}

/// All judgements of one query.
type Grades = HashMap<String, i32>;

/// Query ids in the order in which the judgements name them, and what they say.
struct Judgements {
    qids: Vec<String>,
    grades: HashMap<String, Grades>,
}

/// A document judged twice has the grade of the last line, as in `ir-measures`.
fn judgements(path: &Path) -> Result<Judgements, Failure> {
    let mut lines = Lines::open(path)?;
    let mut found = Judgements { qids: Vec::new(), grades: HashMap::new() };
    while let Some(judgement) = formats::judgement(&mut lines)? {
        if !found.grades.contains_key(&judgement.qid) {
            found.qids.push(judgement.qid.clone());
        }
        found.grades.entry(judgement.qid).or_default().insert(judgement.docid, judgement.grade);
    }
    Ok(found)
}

/// A query while its collection is read.
struct Open {
    query: Query,
    grades: Grades,
    has_text: bool,
}

/// The queries that have judgements: those of the file in its order, then those it lacks. The latter can
/// have no candidates and count 0.
fn queries(path: &Path, judged: Judgements, min_relevant: i32) -> Result<Vec<Open>, Failure> {
    let Judgements { qids, mut grades } = judged;
    let mut open = |qid: String, text: Option<String>| {
        let grades = grades.remove(&qid)?;
        let ideal = Ideal::new(grades.values().copied().collect(), min_relevant);
        let has_text = text.is_some();
        let text = text.unwrap_or_default();
        Some(Open { query: Query { qid, text, candidates: Vec::new(), ideal }, grades, has_text })
    };
    let mut lines = Lines::open(path)?;
    let mut seen = HashMap::new();
    let mut found = Vec::new();
    while let Some(query) = formats::query(&mut lines, path)? {
        if let Some(first) = seen.insert(query.id.clone(), lines.number()) {
            return Err(lines.wrong(&format!("query '{}' is on line {first} already", query.id)));
        }
        found.extend(open(query.id, Some(query.text)));
    }
    if found.is_empty() {
        return Err(Failure::Usage(format!("{}: no query has judgements", lines.name())));
    }
    found.extend(qids.into_iter().filter_map(|qid| open(qid, None)));
    Ok(found)
}

/// Where the documents that are candidates go, and the line that names each first.
struct Wanted {
    file: String,
    places: HashMap<String, usize>,
    lines: Vec<usize>,
}

/// Gives each query the best `top_k` of its candidates.
fn candidates(path: &Path, queries: &mut [Open], top_k: usize) -> Result<Wanted, Failure> {
    let mut lines = Lines::open(path)?;
    let index: HashMap<String, usize> =
        (0..).zip(queries.iter()).map(|(i, open)| (open.query.qid.clone(), i)).collect();
    let mut lists: Vec<Vec<formats::Candidate>> = queries.iter().map(|_| Vec::new()).collect();
    while let Some(candidate) = formats::candidate(&mut lines)? {
        let Some(&query) = index.get(&candidate.qid) else { continue };
        if !queries[query].has_text {
            return Err(lines.wrong(&format!("there is no query '{}'", candidate.qid)));
        }
        lists[query].push(candidate);
    }
    let file = lines.name().to_owned();
    let mut wanted = Wanted { file, places: HashMap::new(), lines: Vec::new() };
    for (open, mut list) in queries.iter_mut().zip(lists) {
        sort(&wanted.file, &mut list)?;
        list.truncate(top_k);
        for candidate in list {
            let grade = open.grades.get(&candidate.docid).copied().unwrap_or(0);
            let document = *wanted.places.entry(candidate.docid).or_insert_with(|| {
                wanted.lines.push(candidate.line);
                wanted.lines.len() - 1
            });
            open.query.candidates.push(Judged { document, grade });
        }
    }
    Ok(wanted)
}

/// Puts a query's candidates in their order, and refuses a document that is there twice.
fn sort(file: &str, list: &mut [formats::Candidate]) -> Result<(), Failure> {
    list.sort_by(|a, b| a.docid.cmp(&b.docid).then(a.line.cmp(&b.line)));
    if let Some(twice) = list.windows(2).find(|two| two[0].docid == two[1].docid) {
        let what = format!("document '{}' is on line {} already", twice[1].docid, twice[0].line);
        return Err(wrong_line(file, twice[1].line, &what));
    }
    list.sort_by(|a, b| match (a.order, b.order) {
        (Order::Rank(first), Order::Rank(second)) => first.cmp(&second).then(a.line.cmp(&b.line)),
        // Equal scores: the greater id first, which is trec_eval's rule.
        (Order::Score(first), Order::Score(second)) => {
            second.total_cmp(&first).then_with(|| b.docid.cmp(&a.docid))
        }
        // Lines of both forms in one file: any order that is one.
        (Order::Rank(_), Order::Score(_)) => std::cmp::Ordering::Less,
        (Order::Score(_), Order::Rank(_)) => std::cmp::Ordering::Greater,
    });
    Ok(())
}

/// Reads the texts of the wanted documents and skips the rest: a corpus may be larger than the memory.
fn documents(path: &Path, wanted: &Wanted) -> Result<Vec<String>, Failure> {
    let mut lines = Lines::open(path)?;
    let mut texts: Vec<Option<String>> = vec![None; wanted.lines.len()];
    while let Some(document) = formats::document(&mut lines)? {
        let Some(&place) = wanted.places.get(&document.id) else { continue };
        if texts[place].replace(document.text).is_some() {
            return Err(lines.wrong(&format!("document '{}' is there already", document.id)));
        }
    }
    if let Some(missing) = texts.iter().position(Option::is_none) {
        let docid = wanted.places.iter().find(|&(_, &place)| place == missing);
        let docid = docid.map_or("", |(docid, _)| docid);
        let what = format!("document '{docid}' is not in {}", lines.name());
        return Err(wrong_line(&wanted.file, wanted.lines[missing], &what));
    }
    Ok(texts.into_iter().flatten().collect())
}
