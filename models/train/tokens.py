"""Step 2: every text as token ids in one compact file, so that teacher and training need no text.

Writes tokens.npz: for `docs` and `queries`, the ids of both vocabularies one after another (u16, no special tokens)
with offsets; for queries the positive (-1: none), three negatives (-1: none) and the weight of the label. Eval
collections, if asked for, lie in it in the same way, under their names.
"""
import argparse
import json
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

import e5
from common import base_model, read_collection

# What a pair of at most 256 tokens leaves; long queries are rare.
DOC_TOKENS, QUERY_TOKENS = 192, 96
# How far a set's labels are trusted: questions by people, questions by rule, headings.
TRUST = {"train-squad-dev": 1.0, "train-squadshifts-wiki": 1.0, "train-nq-open": 1.0, "train-medquad": 0.7,
         "train-squadshifts-amazon": 0.7, "train-squadshifts-reddit": 0.7}
FREE_TRUST = 0.4
# To select with; the other collections are left to judge.
SELECTION = ["trec-dl-2021", "cranfield", "cacm", "covidqa", "hotpotqa-mini", "musique-mini", "wikiqa-test"]


def flat(lists, limit):
    lists = [ids[:limit] for ids in lists]
    offsets = np.zeros(len(lists) + 1, np.uint32)
    np.cumsum([len(ids) for ids in lists], out=offsets[1:])
    return np.concatenate([np.array(ids, np.uint16) for ids in lists]), offsets


class Vocabularies:
    def __init__(self):
        self.base = AutoTokenizer.from_pretrained(base_model())
        self.e5 = e5.read(e5.package_file())[1]

    def of(self, name, texts, prefix, limit, out):
        base = self.base(texts, add_special_tokens=False, truncation=True, max_length=limit)["input_ids"]
        other = [e.ids for e in self.e5.encode_batch([prefix + text for text in texts])]
        out[f"{name}.ids"], out[f"{name}.at"] = flat(base, limit)
        out[f"{name}.e5.ids"], out[f"{name}.e5.at"] = flat(other, limit + 8)


def training(work, vocabularies, out):
    load = lambda name: [json.loads(line) for line in (work / name).open(encoding="utf-8")]
    docs, queries = load("docs.jsonl"), load("queries.jsonl")
    vocabularies.of("docs", [doc["text"] for doc in docs], "passage: ", DOC_TOKENS, out)
    vocabularies.of("queries", [query["text"] for query in queries], "query: ", QUERY_TOKENS, out)
    out["queries.positive"] = np.array([query.get("positive", -1) for query in queries], np.int32)
    pad = lambda ids: (ids + [-1] * 3)[:3]
    out["queries.negatives"] = np.array([pad(query.get("negatives", [])) for query in queries], np.int32)
    trust = lambda query: TRUST.get(query["set"], FREE_TRUST) if "positive" in query else 0.0
    out["queries.trust"] = np.array([trust(query) for query in queries], np.float32)
    print(f"{len(docs)} passages, {len(queries)} queries")


def collections(data, names, num_queries, depth, vocabularies, out):
    for name in names:
        rows, minrel = read_collection(data / name, num_queries, depth)
        texts = [text for _, documents, _, _ in rows for text in documents]
        vocabularies.of(f"{name}.docs", texts, "passage: ", DOC_TOKENS + 64, out)
        vocabularies.of(f"{name}.queries", [row[0] for row in rows], "query: ", QUERY_TOKENS, out)
        out[f"{name}.count"] = np.array([len(row[1]) for row in rows])
        out[f"{name}.grade"] = np.array([grade for row in rows for grade in row[2]])
        judged = [sorted((g for g in row[3] if g > 0), reverse=True)[:10] for row in rows]
        out[f"{name}.ideal"] = np.array([grades + [0] * (10 - len(grades)) for grades in judged])
        out[f"{name}.minrel"] = np.array(minrel)
    out["collections"] = np.array(names)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--work", type=Path, required=True, help="what prepare.py wrote")
    args.add_argument("--data", type=Path, required=True, help="folder with the test collections")
    args.add_argument("--queries", type=int, default=40)
    args.add_argument("--depth", type=int, default=30)
    args = args.parse_args()
    out, vocabularies = {}, Vocabularies()
    training(args.work, vocabularies, out)
    collections(args.data, SELECTION, args.queries, args.depth, vocabularies, out)
    np.savez(args.work / "tokens.npz", **out)


if __name__ == "__main__":
    main()
