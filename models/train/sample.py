"""Second round, step 1: fewer queries, and the passages their lists are picked from.

    python sample.py --data DIR FREE --out RUN2

Writes pool.json. Beside labelled queries there are such as the first round had few of: whole stretches of a passage,
whose own passage is mostly hidden, so that relatedness is learned and not copying.
"""
import argparse
import json
import random
from pathlib import Path

from common import read_corpus, read_tsv
from prepare import pseudo_query, reword
from tokens import FREE_TRUST, TRUST

# Labelled queries of each set; of the free ones, FREE each.
QUERIES = {"train-squad-dev": 1700, "train-squadshifts-wiki": 1700, "train-squadshifts-amazon": 350,
           "train-squadshifts-reddit": 500, "train-medquad": 1700, "train-tldr": 600, "train-nq-open": 1551}
FREE = 500
UNLABELLED, LONG = 6000, 0.45
# How often an unlabelled query's own passage stays out of its list.
HIDE, HIDE_LONG = 0.3, 0.7


def long_query(text, rng):
    """20 to 90 words in a row."""
    words = text.split()
    if len(words) < 30:
        return None
    size = rng.randint(20, 90)
    start = rng.randint(0, max(0, len(words) - size))
    return " ".join(words[start : start + size])


def labelled(folder, number, rng):
    corpus, rows = read_corpus(folder), list(read_tsv(folder / "train.tsv"))[1:]
    name = folder.name
    for query, positive, negatives in rng.sample(rows, min(QUERIES.get(name, FREE), len(rows))):
        yield {"set": name, "text": reword(query, rng), "pos": number(corpus[positive], name),
               "neg": [number(corpus[doc], name) for doc in negatives.split(",")[:1] if doc],
               "trust": TRUST.get(name, FREE_TRUST)}


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--data", type=Path, required=True, nargs="+", help="folders that hold train-*/")
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--seed", type=int, default=11)
    args = args.parse_args()
    rng, docs, queries, index = random.Random(args.seed), [], [], {}

    def number(text, name):
        if text not in index:
            index[text] = len(docs)
            docs.append({"set": name, "text": text})
        return index[text]

    for data in args.data:
        for folder in sorted(data.glob("train-*")):
            queries += labelled(folder, number, rng)
    num_labelled = len(queries)
    while len(queries) < num_labelled + UNLABELLED:
        source = rng.randrange(len(docs))
        is_long = rng.random() < LONG
        text = docs[source]["text"]
        if query := long_query(text, rng) if is_long else pseudo_query(text, rng):
            queries.append({"set": docs[source]["set"], "text": query, "pos": -1, "neg": [], "trust": 0.0,
                            "src": source, "hide": rng.random() < (HIDE_LONG if is_long else HIDE)})
    rng.shuffle(queries)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "pool.json").write_text(json.dumps({"docs": docs, "queries": queries}), encoding="utf-8")
    print(f"{len(docs)} passages, {len(queries)} queries")


if __name__ == "__main__":
    main()
