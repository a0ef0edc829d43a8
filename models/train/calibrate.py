"""Step 5: fit the scale and offset with which the sigmoid of a logit is the share of relevant passages.

    python calibrate.py --data DIR --server URL

Asks a running rerankd for the raw logits. Fitted on the collections that training selected with, told of the others:
the reliability table shows, for each tenth of the score, the mean score and the share that was relevant. export.py bakes
scale and offset into the classifier, so serving knows nothing of them.
"""
import argparse
import json
import math
import urllib.request
from pathlib import Path

from common import read_collection
from tokens import SELECTION

OTHERS = ["cisi", "vaswani-npl", "trecqa-test", "liveqa-med", "noveleval"]


def logits(server, query, documents):
    body = json.dumps({"query": query, "documents": documents, "raw_scores": True}).encode()
    request = urllib.request.Request(f"{server}/rerank", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as reply:
        results = json.load(reply)["results"]
    return [result["relevance_score"] for result in sorted(results, key=lambda result: result["index"])]


def labelled(server, folder, queries, depth):
    """[(logit, is relevant)] of a collection's candidates, each weighted so that collections count alike."""
    rows, minrel = read_collection(folder, queries, depth)
    pairs = [(logit, grade >= minrel) for query, documents, grades, _ in rows
             for logit, grade in zip(logits(server, query, documents), grades)]
    return [(logit, relevant, 1 / len(pairs)) for logit, relevant in pairs]


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def fit(rows, steps=50):
    """Logistic regression by Newton's method: relevant ~ sigmoid(scale * logit + offset)."""
    # From zero: steps from farther out overshoot.
    scale, offset = 0.0, 0.0
    for _ in range(steps):
        gradient, hessian = [0.0, 0.0], [0.0, 0.0, 0.0]
        for logit, relevant, weight in rows:
            p = sigmoid(scale * logit + offset)
            error, curve = weight * (p - relevant), weight * p * (1 - p)
            gradient = [gradient[0] + error * logit, gradient[1] + error]
            hessian = [hessian[0] + curve * logit * logit, hessian[1] + curve * logit, hessian[2] + curve]
        determinant = hessian[0] * hessian[2] - hessian[1] ** 2
        scale -= (hessian[2] * gradient[0] - hessian[1] * gradient[1]) / determinant
        offset -= (hessian[0] * gradient[1] - hessian[1] * gradient[0]) / determinant
    return scale, offset


def reliability(rows, scale, offset, bins=10):
    """Prints mean score and share of relevant passages by tenth; returns the expected calibration error."""
    total, off = sum(weight for *_, weight in rows), 0.0
    print("| score | share of pairs | mean score | relevant |\n|---|---|---|---|")
    scored = [(sigmoid(scale * logit + offset), relevant, weight) for logit, relevant, weight in rows]
    for i in range(bins):
        inside = [row for row in scored if i / bins <= row[0] < (i + 1) / bins or row[0] == 1.0 and i == bins - 1]
        weight = sum(row[2] for row in inside)
        if not weight:
            continue
        score = sum(row[0] * row[2] for row in inside) / weight
        share = sum(row[1] * row[2] for row in inside) / weight
        off += weight / total * abs(score - share)
        print(f"| {i / bins:.1f}-{(i + 1) / bins:.1f} | {weight / total:.1%} | {score:.2f} | {share:.2f} |")
    return off


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--data", type=Path, required=True)
    args.add_argument("--server", default="http://127.0.0.1:8080")
    args.add_argument("--queries", type=int, default=40)
    args.add_argument("--depth", type=int, default=30)
    args = args.parse_args()
    read = lambda names: [row for name in names for row in labelled(args.server, args.data / name, args.queries, args.depth)]
    rows = read(SELECTION)
    scale, offset = fit(rows)
    print(f"--scale {scale:.4f} --offset {offset:.4f}")
    for name, part in [("selection", rows), ("others", read(OTHERS))]:
        print(f"\n{name}: expected calibration error before {reliability(part, 1.0, 0.0):.3f}")
        print(f"{name}: expected calibration error after {reliability(part, scale, offset):.3f}")


if __name__ == "__main__":
    main()
