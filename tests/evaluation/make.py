"""Makes two small collections and what ir-measures says of them: `python make.py` in this folder.

Needs ir-measures (0.4.3 made the committed files) and numpy. No text is anybody's: queries and documents
are numbers, and the reranker is arithmetic that the tests' server repeats: worth * weight mod 1009.
"""

import json
import random
from pathlib import Path

import ir_measures
import numpy
from ir_measures import P, RR, nDCG

HERE = Path(__file__).parent
PRIME = 1009  # Worths below it are distinct, so no two scores of a query are equal.


def make(name, num_queries, grades, min_relevant, seed):
    rng = random.Random(seed)
    worths = rng.sample(range(1, PRIME), 40)
    docids = [f"{name}-{i}" for i in range(len(worths))]
    weights = {f"q{i}": rng.randrange(2, PRIME) for i in range(num_queries)}
    candidates = {qid: rng.sample(docids, rng.choice([5, 12, 20])) for qid in weights}
    qrels = {}
    for qid in weights:
        judged = set(rng.sample(candidates[qid], 5)) | set(rng.sample(docids, 5))
        qrels[qid] = {docid: rng.choice(grades) for docid in sorted(judged)}
        # Found by no first stage, and in no corpus: it counts in the ideal all the same.
        qrels[qid][f"{name}-elsewhere"] = max(grades)
    edge_cases(qrels, candidates, docids)
    weights |= {"empty": 3, "unjudged": 4, "worthless": 5}
    write(name, weights, dict(zip(docids, worths)), qrels, candidates, min_relevant)

    before = {qid: run(docids, range(len(docids))) for qid, docids in candidates.items()}
    worth = dict(zip(docids, worths))
    score = lambda qid, docid: worth[docid] * weights[qid] % PRIME
    after = {
        qid: {docid: float(score(qid, docid)) for docid in docids} for qid, docids in candidates.items()
    }
    return {"name": name, "before": measure(qrels, before, min_relevant),
            "after": measure(qrels, after, min_relevant)}


def edge_cases(qrels, candidates, docids):
    qrels["empty"] = {docids[0]: 1}  # No candidates: counts 0.
    qrels["absent"] = {docids[1]: 1}  # Not even in queries.tsv: counts 0.
    qrels["worthless"] = {docids[2]: 0, docids[3]: -1}  # Nothing relevant: counts 0.
    candidates["worthless"] = docids[:6]
    candidates["unjudged"] = docids[6:12]  # Not in the judgements: left out.


def run(docids, ranks):
    return {docid: -float(rank) for docid, rank in zip(docids, ranks)}


def measure(qrels, ranking, min_relevant):
    measures = {"ndcg": nDCG @ 10, "mrr": RR(rel=min_relevant) @ 10, "p1": P(rel=min_relevant) @ 1}
    names = {measure: name for name, measure in measures.items()}
    queries = {qid: dict.fromkeys(measures, 0.0) for qid in qrels}
    for value in ir_measures.iter_calc(list(names), qrels, ranking):
        queries[value.query_id][names[value.measure]] = value.value
    means = ir_measures.calc_aggregate(list(names), qrels, ranking)
    return {"mean": {names[measure]: value for measure, value in means.items()}, "queries": queries}


def write(name, weights, worths, qrels, candidates, min_relevant):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    lines = lambda file, rows: (folder / file).write_text("".join(f"{row}\n" for row in rows))
    lines("queries.tsv", (f"{qid}\tweight {weight}" for qid, weight in weights.items()))
    # Half of the documents have the worth in the title.
    texts = lambda i, worth: (f"worth {worth}", "") if i % 2 else ("", f"worth {worth}")
    documents = (dict(zip(("id", "title", "text"), (docid, *texts(i, worth))))
                 for i, (docid, worth) in enumerate(worths.items()))
    lines("corpus.jsonl", map(json.dumps, documents))
    lines("qrels.tsv", (f"{q}\t{d}\t{g}" for q, judged in qrels.items() for d, g in judged.items()))
    lines("candidates.tsv", (f"{qid}\t{docid}\t{rank}\t{100 - rank}" for qid, docids in candidates.items()
                             for rank, docid in enumerate(docids, 1)))
    lines("meta.json", [json.dumps({"minrel": min_relevant})])


def exact_p_value(strata):
    """The paired randomisation test with every assignment of signs; each stratum counts once."""
    weighted = numpy.concatenate([numpy.array(stratum) / len(stratum) for stratum in strata])
    weighted = weighted[weighted != 0]
    sums = numpy.zeros(1)
    for value in weighted:
        sums = numpy.concatenate([sums + value, sums - value])
    return float(numpy.mean(numpy.abs(sums) >= abs(weighted.sum()) - 1e-12))


def main():
    collections = [
        make("graded", 10, [-1, 0, 0, 1, 2, 3], 2, seed=1),
        make("binary", 8, [0, 0, 1], 1, seed=2),
    ]
    differences = [
        [one["after"]["queries"][qid]["ndcg"] - before["ndcg"]
         for qid, before in one["before"]["queries"].items()]
        for one in collections
    ]
    for one, changes in zip(collections, differences):
        one["p_value"] = exact_p_value([changes])
    expected = {"collections": collections, "p_value": exact_p_value(differences)}
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
