"""Step 1: gather training passages and queries from the free sets into one folder.

Writes docs.jsonl (one passage per line) and queries.jsonl: labelled queries with a positive
and BM25 negatives, and unlabelled ones cut out of passages, which only the teacher will score.
"""
import argparse
import json
import random
import re
from pathlib import Path

from common import STOP_WORDS, read_corpus, read_tsv

# Queries taken per set at most. Of reviews and forum posts ("what did I buy?"), which make little sense without their
# passage, teacher.py drops those whose positive is not findable.
MOST = 10_000
# Unlabelled queries for each passage.
UNLABELLED = 0.8
NEGATIVES = 3


def keywords(text, limit=7):
    words = [w for w in re.findall(r"\w+", text) if w.lower() not in STOP_WORDS]
    return " ".join(words[:limit])


def reword(query, rng):
    """Web users type lower case, no question mark, and often only keywords."""
    roll = rng.random()
    if roll < 0.4:
        return query.lower().rstrip("?. ")
    if roll < 0.55:
        return keywords(query.lower()) or query
    return query


def pseudo_query(text, rng):
    """A query cut out of a passage: a phrase, keywords, a whole sentence, or as much as a paragraph."""
    words = text.split()
    if len(words) < 6:
        return None
    roll = rng.random()
    if roll < 0.1:
        size = rng.randint(25, 80)
        start = rng.randint(0, max(0, len(words) - size))
        return " ".join(words[start : start + size])
    sentences = [s for s in re.split(r"(?<=[.!?])\s+", text) if len(s.split()) > 3]
    if not sentences:
        return None
    sentence = rng.choice(sentences)
    words = sentence.split()
    if roll < 0.45:
        size = rng.randint(3, 9)
        start = rng.randint(0, max(0, len(words) - size))
        return " ".join(words[start : start + size]).strip(",.;:()")
    if roll < 0.75:
        return keywords(sentence.lower(), rng.randint(2, 6)) or None
    return " ".join(words[:40])


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--data", type=Path, required=True, nargs="+", help="folders that hold train-*/")
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    rng = random.Random(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)

    docs, queries = [], []
    for folder in sorted(folder for data in args.data for folder in data.glob("train-*")):
        name, corpus, index = folder.name, read_corpus(folder), {}

        def number(doc):
            if doc not in index:
                index[doc] = len(docs)
                docs.append({"set": name, "text": corpus[doc]})
            return index[doc]

        rows = list(read_tsv(folder / "train.tsv"))[1:]
        for query, positive, negatives in rng.sample(rows, min(MOST, len(rows))):
            queries.append({
                "set": name,
                "text": reword(query, rng),
                "positive": number(positive),
                "negatives": [number(n) for n in negatives.split(",")[:NEGATIVES] if n],
            })
    for doc in rng.choices(docs, k=int(UNLABELLED * len(docs))):
        if text := pseudo_query(doc["text"], rng):
            queries.append({"set": doc["set"], "text": text})
    rng.shuffle(queries)

    for name, rows in ("docs", docs), ("queries", queries):
        with (args.out / f"{name}.jsonl").open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{len(docs)} passages, {len(queries)} queries")


if __name__ == "__main__":
    main()
