"""How a model, and the teacher, rank the collections that training selects with: nDCG@10.

For the figures of a finished model use `rerankd eval`.
"""
import numpy as np
import torch

from pairs import forward
from teacher import MIX, PARTS, Scorer, Texts


def ndcg(order_by, grades, ideal):
    ranked = grades[order_by.argsort(descending=True, stable=True)][:10]
    discount = 1 / torch.log2(torch.arange(2, 12).float())
    best = (ideal * discount).sum()
    return float((ranked * discount[: len(ranked)]).sum() / best) if best > 0 else 0.0


class Collection:
    """A test collection's queries, candidates and grades."""

    def __init__(self, file, name, device):
        self.name = name
        self.docs, self.queries = Texts(file, f"{name}.docs", device), Texts(file, f"{name}.queries", device)
        self.count = file[f"{name}.count"].tolist()
        self.query = torch.repeat_interleave(torch.arange(len(self.count)), torch.tensor(self.count)).to(device)
        self.grade = torch.from_numpy(file[f"{name}.grade"]).float().clamp(min=0)
        self.ideal = torch.from_numpy(file[f"{name}.ideal"]).float()

    def mean(self, scores):
        rows = zip(scores.cpu().split(self.count), self.grade.split(self.count), self.ideal)
        return sum(ndcg(*row) for row in rows) / len(self.count)

    @torch.inference_mode()
    def by_model(self, model):
        doc = torch.arange(len(self.docs), device=self.query.device)
        length = self.docs.at[1:] - self.docs.at[:-1]
        out = forward(model, self.queries, self.docs, self.query, doc, torch.zeros_like(length), length, slices=8)
        return self.mean(out[:, 0])

    def by_teacher(self, base, other):
        """The teacher's parts and their mix as rankings; BM25 knows the collection's own frequencies."""
        scorer = Scorer(self.queries, self.docs, base, other)
        doc = torch.arange(len(self.docs), device=self.query.device)
        parts = torch.cat([scorer.score(q, d[:, None])[:, 0] for q, d in zip(self.query.split(256), doc.split(256))])
        split = parts.split(self.count)
        spread = torch.stack([part.std(0, unbiased=False) for part in split]).mean(0)
        values = {name: self.mean(parts[:, i]) for i, name in enumerate(PARTS)}
        values["mix"] = self.mean(parts @ (MIX.to(parts.device) / spread))
        return values


def show(title, rows):
    names = list(rows[0][1])
    print(f"{title:18}" + "".join(f"{name:>9}" for name in names))
    for name, values in rows + [("mean", {n: np.mean([v[n] for _, v in rows]) for n in names})]:
        print(f"{name:18}" + "".join(f"{values[n]:9.4f}" for n in names), flush=True)
