"""Second round, step 2: lists of eight passages a query, and what each judge says of them.

    python judge.py --work RUN2 --server http://127.0.0.1:8080

Judges are three bi-encoders, each by cosine and by MaxSim, BM25 over word pieces, and the model of the first round,
which a running server answers for. Writes judged.npz.
"""
import argparse
import json
import math
import random
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

import bi_encoders
from common import base_model

LIST = 8
# Of each list as many are near its query; the others are spread over the first FAR ranks, on a log scale.
NUM_NEAR, NEAR, FAR = 6, 30, 400
DOC_TOKENS, QUERY_TOKENS = 160, 96
VOCABULARY = 30522
# Columns of the parts; MaxSim of the first encoder weighs a token by its rarity.
PARTS = ("minilm.cosine", "minilm.max_sim", "e5.cosine", "e5.max_sim", "mpnet.cosine", "mpnet.max_sim", "bm25", "model")


def vectors(name, work, queries, docs):
    """Of queries and passages, from a file if there is one."""
    path = work / f"{name}.pt"
    if not path.exists():
        encoder, of_query, of_doc = bi_encoders.load(name, work)
        both = encoder.vectors(queries, QUERY_TOKENS, of_query), encoder.vectors(docs, DOC_TOKENS, of_doc)
        torch.save(both, path)
    return torch.load(path, mmap=True)


def pick(queries, num_docs, nearest, rng):
    """The passages of each list: a labelled query's positive stands first."""
    for query, near in zip(queries, nearest):
        chosen = [query["pos"], *query["neg"]] if query["pos"] >= 0 else [] if query["hide"] else [query["src"]]
        chosen = list(dict.fromkeys(chosen))
        taboo = {query.get("src")}
        while len(chosen) < LIST:
            is_near = len(chosen) < NUM_NEAR
            rank = rng.randrange(NEAR) if is_near else int(math.exp(rng.random() * math.log(FAR))) - 1
            doc = near[rank] if near[rank] not in taboo else rng.randrange(num_docs)
            if doc not in chosen and doc not in taboo:
                chosen.append(doc)
        yield chosen


def similarities(both, lists, weights=None):
    """Cosine and MaxSim of each list's passages with its query, `[lists, LIST, 2]`."""
    (q, q_at, q_mean), (d, d_at, d_mean) = both
    out = torch.zeros(len(lists), LIST, 2)
    for i, row in enumerate(lists):
        out[i, :, 0] = d_mean[row].float() @ q_mean[i].float()
        docs = [d[d_at[j] : d_at[j + 1]] for j in row.tolist()]
        each = (q[q_at[i] : q_at[i + 1]].bfloat16() @ torch.cat(docs).bfloat16().T).float()
        best = torch.stack([part.amax(1) for part in each.split([len(doc) for doc in docs], 1)])
        weight = torch.ones(best.shape[1]) if weights is None else weights[i][: best.shape[1]]
        out[i, :, 1] = (best * weight).sum(1) / weight.sum()
    return out


class Words:
    """Word pieces, how rare each is among the passages, and BM25 by that."""

    def __init__(self, queries, docs):
        tokenizer = AutoTokenizer.from_pretrained(base_model())
        ids = lambda texts, limit: [torch.tensor(row) for row in tokenizer(
            texts, add_special_tokens=False, truncation=True, max_length=limit)["input_ids"]]
        self.queries, self.docs = ids(queries, QUERY_TOKENS), ids(docs, DOC_TOKENS)
        df = torch.zeros(VOCABULARY)
        for row in self.docs:
            df[row.unique()] += 1
        self.idf = torch.log(1 + (len(docs) - df + 0.5) / (df + 0.5))
        self.mean_length = sum(map(len, self.docs)) / len(docs)

    def rarities(self):
        """The weight of each token of each query, special ones included."""
        special = torch.tensor([1e-3])
        return [torch.cat([special, self.idf[row[: QUERY_TOKENS - 2]], special]) for row in self.queries]

    def bm25(self, lists, k1=0.9, b=0.4):
        out = torch.zeros(len(lists), LIST, 1)
        for i, row in enumerate(lists.tolist()):
            query = self.queries[i]
            weight = self.idf[query]
            for k, doc in enumerate(self.docs[j] for j in row):
                count = (doc[None] == query[:, None]).sum(1).float()
                norm = k1 * (1 - b + b * len(doc) / self.mean_length)
                out[i, k, 0] = (weight * count / (count + norm)).sum() / weight.sum().clamp(min=1e-6)
        return out


def by_server(server, queries, docs, lists):
    """The logit of the model that `server` has, `[lists, LIST, 1]`."""
    def rerank(row):
        i, chosen = row
        body = {"query": queries[i], "documents": [docs[j] for j in chosen]}
        request = urllib.request.Request(f"{server}/v1/rerank", json.dumps(body).encode(), {"content-type": "application/json"})
        score = torch.zeros(LIST)
        for result in json.load(urllib.request.urlopen(request, timeout=100))["results"]:
            score[result["index"]] = result["relevance_score"]
        return torch.logit(score, eps=1e-7)

    with ThreadPoolExecutor(8) as pool:
        return torch.stack(list(pool.map(rerank, enumerate(lists.tolist()))))[..., None]


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--work", type=Path, required=True, help="folder with pool.json")
    args.add_argument("--server", required=True, help="URL of a server with the model of the first round")
    args.add_argument("--seed", type=int, default=3)
    args = args.parse_args()
    pool = json.loads((args.work / "pool.json").read_text(encoding="utf-8"))
    queries, docs = ([row["text"] for row in pool[name]] for name in ("queries", "docs"))
    of = {name: vectors(name, args.work, queries, docs) for name in bi_encoders.NAMES}
    first = [of["minilm"], of["e5"]]
    rows = range(len(queries))
    near = lambda i: sum(q[2][i].float() @ d[2].float().T for q, d in first).topk(min(FAR, len(docs))).indices.tolist()
    lists = torch.tensor(list(pick(pool["queries"], len(docs), map(near, rows), random.Random(args.seed))))
    words = Words(queries, docs)
    parts = [similarities(of[name], lists, words.rarities() if name == "minilm" else None) for name in bi_encoders.NAMES]
    parts += [words.bm25(lists), by_server(args.server, queries, docs, lists)]
    np.savez(args.work / "judged.npz", lists=lists.numpy(), parts=torch.cat(parts, 2).numpy())
    print(f"{len(lists)} lists")


if __name__ == "__main__":
    main()
