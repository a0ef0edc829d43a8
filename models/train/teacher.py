"""Step 2: pick the lists to learn from and score them with the teacher, once, ahead of training.

The teacher needs no cross-encoder: it mixes the bi-encoder's cosine, MaxSim over the same token
vectors (each query token's best match in the passage, averaged) and BM25. Writes lists.jsonl:
    {"q": text, "d": [text], "t": [mix], "cos": [...], "max": [...], "label": bool}
A labelled list has its positive first.
"""
import argparse
import json
import math
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import Stemmer
import torch
from transformers import AutoModel, AutoTokenizer

from common import STOP_WORDS, base_model

LIST = 6
MIX = {"cos": 0.35, "max": 0.45, "bm25": 0.20}
DOC_TOKENS = 144  # what a pair capped at 160 tokens leaves for the passage
STEM = Stemmer.Stemmer("english")


def encode(texts, tokenizer, model, limit, name):
    """Unit token vectors of every text (f16, specials left out), their offsets, unit mean vectors."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    tokens, spans, means = [None] * len(texts), [None] * len(texts), [None] * len(texts)
    start = time.time()

    def work(at):
        ids = order[at : at + 32]
        batch = tokenizer([texts[i] for i in ids], truncation=True, max_length=limit)
        offsets = [encoding.offsets for encoding in batch.encodings]
        batch = tokenizer.pad(batch, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"]
            mean = torch.nn.functional.normalize((hidden * mask[..., None]).sum(1), dim=-1)
            hidden = torch.nn.functional.normalize(hidden, dim=-1).half()
        for row, i in enumerate(ids):
            size = int(mask[row].sum())
            tokens[i] = hidden[row, 1 : size - 1].numpy().copy()
            spans[i] = offsets[row][1 : size - 1]
            means[i] = mean[row].numpy()
        if at % 3200 == 0:
            print(f"{name} {at}/{len(texts)} {time.time() - start:.0f}s", flush=True)

    # One thread per batch: with a shared machine, threads inside an operator wait for each other.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(0, len(order), 32)))
    return tokens, spans, np.stack(means)


class Bm25:
    """BM25 (k1 0.9, b 0.4) as a share of the best score the query could reach, so 0 to 1."""

    def __init__(self, texts, k1=0.9, b=0.4):
        self.k1, self.b = k1, b
        self.frequency, total = Counter(), 0
        for text in texts:
            terms = self.terms(text)
            total += len(terms)
            self.frequency.update(set(terms))
        self.mean, self.count = total / len(texts), len(texts)

    @staticmethod
    def terms(text):
        return STEM.stemWords([w for w in re.findall(r"\w+", text.lower()) if w not in STOP_WORDS])

    def idf(self, term):
        seen = self.frequency[term]
        return math.log(1 + (self.count - seen + 0.5) / (seen + 0.5))

    def scores(self, query, docs):
        terms = self.terms(query)
        best = sum(self.idf(t) for t in terms) or 1.0
        out = []
        for doc in docs:
            words = self.terms(doc)
            counts = Counter(words)
            norm = self.k1 * (1 - self.b + self.b * len(words) / self.mean)
            out.append(sum(self.idf(t) * counts[t] / (counts[t] + norm) for t in terms) / best)
        return out


def choose(query, ranked, rng):
    """Passages of one list: the positive and hard to easy others, or a spread over the ranks."""
    if "positive" in query:
        hard = list(rng.permutation(query["negatives"])[:2])
        near = list(rng.permutation(ranked[:40])[:3])
        far = [int(rng.choice(ranked[40:]))]
        picked = [query["positive"]] + hard + near + far + list(ranked[:LIST])
    else:
        # Ranks spread evenly on a log scale: as many from 0-3 as from 100-400.
        ranks = np.exp(rng.uniform(0, math.log(len(ranked)), 4 * LIST)).astype(int) - 1
        picked = [int(ranked[r]) for r in ranks]
    return list(dict.fromkeys(int(p) for p in picked))[:LIST]


def window(size, rng):
    """Most unlabelled lists see a short piece of each passage: lengths vary, and it is cheap."""
    want = int(rng.integers(20, 80))
    start = int(rng.integers(0, max(1, size - want)))
    return start, min(size, start + want)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--work", type=Path, required=True, help="what prepare.py wrote")
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    rng = np.random.default_rng(args.seed)
    torch.set_num_threads(1)
    load = lambda name: [json.loads(line) for line in (args.work / name).open(encoding="utf-8")]
    docs, queries = load("docs.jsonl"), load("queries.jsonl")
    texts = [d["text"] for d in docs]

    tokenizer = AutoTokenizer.from_pretrained(base_model())
    model = AutoModel.from_pretrained(base_model()).eval()
    query_tokens, _, query_means = encode([q["text"] for q in queries], tokenizer, model, 64, "queries")
    tokens, spans, means = encode(texts, tokenizer, model, DOC_TOKENS, "passages")
    bm25 = Bm25(texts)

    lists = []
    for at in range(0, len(queries), 500):
        near = torch.from_numpy(query_means[at : at + 500] @ means.T).topk(400).indices.numpy()
        for query, ranked, vectors, mean in zip(
            queries[at:], near, query_tokens[at:], query_means[at:]
        ):
            label = "positive" in query
            if not len(vectors):
                continue
            if label and ("amazon" in query["set"] or "reddit" in query["set"]):
                if query["positive"] not in ranked[:30]:
                    continue
            cut = not label and rng.random() < 0.7
            row = {"q": query["text"], "d": [], "cos": [], "max": [], "label": label}
            for doc in choose(query, ranked, rng):
                vecs, text = tokens[doc].astype(np.float32), texts[doc]
                if not len(vecs):
                    continue
                centre = means[doc]
                if cut:
                    first, last = window(len(vecs), rng)
                    text = text[spans[doc][first][0] : spans[doc][last - 1][1]]
                    vecs = vecs[first:last]
                    centre = vecs.mean(0) / np.linalg.norm(vecs.mean(0))
                row["d"].append(text)
                row["cos"].append(float(mean @ centre))
                row["max"].append(float((vectors.astype(np.float32) @ vecs.T).max(1).mean()))
            row["bm25"] = bm25.scores(row["q"], row["d"])
            if len(row["d"]) == LIST:
                lists.append(row)
        if at % 5000 == 0:
            print(f"lists {len(lists)}", flush=True)

    # Bring the three to one spread within a list before they are mixed.
    spread = {k: np.mean([np.std(row[k]) for row in lists]) for k in MIX}
    first = {k: 0 for k in [*MIX, "t"]}
    for row in lists:
        parts = [w * np.array(row[k]) * spread["cos"] / spread[k] for k, w in MIX.items()]
        row["t"] = sum(parts).tolist()
        for k in first:
            first[k] += row["label"] and int(np.argmax(row[k])) == 0
    labelled = sum(row["label"] for row in lists)
    print("spread", spread, "positive first", {k: round(v / labelled, 3) for k, v in first.items()})
    with (args.work / "lists.jsonl").open("w", encoding="utf-8") as out:
        for row in lists:
            for key in ("cos", "max", "bm25", "t"):
                row[key] = [round(v, 5) for v in row[key]]
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{len(lists)} lists, {labelled} labelled")


if __name__ == "__main__":
    main()
