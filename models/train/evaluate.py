"""Rerank test collections and compare with their first-stage order and the bi-encoder's cosine.

    python evaluate.py --data DIR --model FOLDER [--queries 100] [--depth 50] [--sets a,b]
"""
import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from common import MAX_LENGTH, base_model, metrics, read_collection

# The checkpoint is chosen on these, so what they say of the final model is a little flattered.
QUICK = ["cranfield", "cacm", "covidqa", "musique-mini", "trec-dl-2021", "wikiqa-test"]
FULL = QUICK + ["cisi", "hotpotqa-mini", "noveleval", "liveqa-med"]


def batched(texts, tokenizer, run, size=16, **options):
    """`run` over length-sorted batches of texts or pairs, results in the original order."""
    cut = "only_second" if len(texts) == 2 else True
    encoded = tokenizer(*texts, truncation=cut, **options)
    ids = encoded["input_ids"]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    out = [None] * len(ids)

    def work(at):
        rows = order[at : at + size]
        batch = tokenizer.pad({k: [v[i] for i in rows] for k, v in encoded.items()}, return_tensors="pt")
        with torch.inference_mode():
            result = run(batch)
        for row, value in zip(rows, result):
            out[row] = value

    # A batch per thread: see Slices in train.py.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(0, len(order), size)))
    return out


def cross_scores(model, tokenizer, collection, max_length):
    pairs = [(query, doc) for query, docs, *_ in collection for doc in docs]
    run = lambda batch: model(**batch).logits[:, 0]
    return [v.item() for v in batched(list(zip(*pairs)), tokenizer, run, max_length=max_length)]


def cosine_scores(model, tokenizer, collection, max_length=256):
    def run(batch):
        hidden = model(**batch).last_hidden_state * batch["attention_mask"][..., None]
        return torch.nn.functional.normalize(hidden.sum(1), dim=-1)

    queries = batched([[query for query, *_ in collection]], tokenizer, run, max_length=max_length)
    texts = list(dict.fromkeys(doc for _, docs, *_ in collection for doc in docs))
    vectors = dict(zip(texts, batched([texts], tokenizer, run, max_length=max_length)))
    return [
        float(vector @ vectors[doc])
        for vector, (_, docs, *_) in zip(queries, collection) for doc in docs
    ]


def rank_metrics(collection, minrel, scores=None):
    """Means over queries; without scores, of the order as given."""
    at, rows = 0, []
    for _, docs, grades, judged in collection:
        ranked = grades
        if scores is not None:
            part = scores[at : at + len(docs)]
            ranked = [grades[i] for i in sorted(range(len(docs)), key=lambda i: -part[i])]
        at += len(docs)
        rows.append(metrics(ranked, judged, minrel))
    return [sum(column) / len(rows) for column in zip(*rows)]


def quick_score(model, tokenizer, data, queries=30, depth=20):
    """nDCG@10 on a small sample of each set, for watching a run."""
    out = {}
    for name in QUICK:
        collection, minrel = read_collection(Path(data) / name, queries, depth)
        scores = cross_scores(model, tokenizer, collection, 256)
        out[name] = rank_metrics(collection, minrel, scores)[0]
    out["mean"] = sum(out.values()) / len(out)
    return out


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--data", type=Path, required=True)
    args.add_argument("--model", required=True, help="transformers folder")
    args.add_argument("--queries", type=int, default=100, help="at most, per set")
    args.add_argument("--depth", type=int, default=50, help="candidates per query")
    args.add_argument("--sets", default=",".join(FULL))
    args.add_argument("--json", type=Path, help="write the numbers here too")
    args = args.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForSequenceClassification.from_pretrained(args.model).eval()
    encoder = AutoModel.from_pretrained(base_model()).eval()

    columns = ["first stage", "MiniLM cosine", "this model"]
    show = lambda row: " / ".join(f"{v:.3f}" for v in row)
    print("| set (queries) | " + " | ".join(columns) + " |\n|---|---|---|---|")
    table = {}
    for name in args.sets.split(","):
        collection, minrel = read_collection(args.data / name, args.queries, args.depth)
        rows = [
            rank_metrics(collection, minrel),
            rank_metrics(collection, minrel, cosine_scores(encoder, tokenizer, collection)),
            rank_metrics(collection, minrel, cross_scores(model, tokenizer, collection, MAX_LENGTH)),
        ]
        table[name] = dict(zip(columns, rows))
        print(f"| {name} ({len(collection)}) | " + " | ".join(map(show, rows)) + " |", flush=True)
    means = [
        [sum(t[c][i] for t in table.values()) / len(table) for i in range(3)] for c in columns
    ]
    print("| **mean** | " + " | ".join(map(show, means)) + " |")
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
