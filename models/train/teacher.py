"""Picks the lists to learn from and scores them with the teacher; train.py calls it.

The teacher needs no cross-encoder: it mixes, for two bi-encoders, the cosine and MaxSim over the same token vectors
(each query token's best match in the passage, averaged), and BM25 over word pieces. Everything lies on the device.
"""
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

LIST = 8
NEAR = 400
PARTS = ["cos", "max", "e5cos", "e5max", "bm25"]
# Of eight tried on the selection collections as good as the best (.657); the worst was MiniLM and BM25 alone (.631).
MIX = torch.tensor([0.15, 0.2, 0.3, 0.2, 0.15])


class Texts:
    """Ids of many texts, one after another, on the device."""

    def __init__(self, file, name, device):
        load = lambda key: torch.from_numpy(file[f"{name}.{key}"].astype(np.int32)).to(device)
        self.ids, self.at = load("ids"), load("at").long()
        self.e5_ids, self.e5_at = load("e5.ids"), load("e5.at").long()

    def __len__(self):
        return len(self.at) - 1


def padded(flat, first, length, width):
    """Rows `first .. first + length` of `flat`, zeros behind, and the mask."""
    at = torch.arange(width, device=flat.device)
    mask = at < length[:, None]
    index = (first[:, None] + at).clamp_(max=len(flat) - 1)
    return flat[index], mask


@dataclass
class Vectors:
    tokens: torch.Tensor  # f16 [total, width]: unit vectors, specials left out
    at: torch.Tensor
    means: torch.Tensor  # f16 [texts, width]: unit


@torch.inference_mode()
def encode(model, ids, at, open_close, batch_tokens=200_000):
    """Vectors of all texts, in batches of similar length."""
    length = at[1:] - at[:-1]
    order = length.argsort(descending=True)
    width = model.config.hidden_size
    tokens = torch.empty(len(ids), width, dtype=torch.float16, device=ids.device)
    means = torch.empty(len(length), width, dtype=torch.float16, device=ids.device)
    start = 0
    while start < len(order):
        longest = int(length[order[start]]) + 2
        rows = order[start : start + max(1, batch_tokens // longest)]
        start += len(rows)
        inner, mask = padded(ids, at[rows], length[rows], longest - 2)
        inputs = torch.zeros(len(rows), longest, dtype=torch.long, device=ids.device)
        inputs[:, 1:-1] = inner.long() * mask
        inputs[:, 0] = open_close[0]
        inputs.scatter_(1, (length[rows] + 1)[:, None], open_close[1])
        whole = torch.arange(longest, device=ids.device) < (length[rows] + 2)[:, None]
        hidden = model(input_ids=inputs, attention_mask=whole.long()).last_hidden_state.float()
        means[rows] = F.normalize((hidden * whole[..., None]).sum(1), dim=-1).half()
        unit = F.normalize(hidden[:, 1:-1], dim=-1).half()
        index = at[rows][:, None] + torch.arange(longest - 2, device=ids.device)
        tokens[index[mask]] = unit[mask]
    return Vectors(tokens, at, means)


class Scorer:
    """The five parts of the teacher for pairs of queries and windows of documents."""

    def __init__(self, queries, docs, base, other):
        self.queries, self.docs = queries, docs
        self.q, self.d = encode(base, queries.ids, queries.at, (101, 102)), encode(base, docs.ids, docs.at, (101, 102))
        self.q5 = encode(other, queries.e5_ids, queries.e5_at, (0, 2))
        self.d5 = encode(other, docs.e5_ids, docs.e5_at, (0, 2))
        length = (docs.at[1:] - docs.at[:-1]).float()
        self.mean_length = length.mean()
        doc_of = torch.repeat_interleave(torch.arange(len(docs), device=docs.ids.device), length.long())
        seen = torch.unique(doc_of * 65536 + docs.ids.long())
        frequency = torch.bincount(seen % 65536, minlength=65536).float()
        self.idf = torch.log(1 + (len(docs) - frequency + 0.5) / (frequency + 0.5))

    def score(self, query, doc, first=None, length=None):
        """Parts [lists, docs a list, 5]. `query` [lists]; `doc`, and windows in base tokens, [lists, docs]."""
        lists, size = doc.shape
        flat = doc.reshape(-1)
        whole = self.docs.at[flat + 1] - self.docs.at[flat]
        cut = first is not None
        first = torch.zeros_like(whole) if first is None else first.reshape(-1)
        length = whole if length is None else length.reshape(-1)
        cos, top = self.compare(self.q, self.d, query, flat, first, length, cut, lists, size)
        # The same window in the other vocabulary, by proportion.
        whole5 = self.docs.e5_at[flat + 1] - self.docs.e5_at[flat]
        scale = whole5 / whole.clamp(min=1)
        first5 = (first * scale).long()
        length5 = torch.minimum((length * scale).long().clamp(min=1), whole5 - first5) if cut else whole5
        cos5, top5 = self.compare(self.q5, self.d5, query, flat, first5, length5, cut, lists, size)
        return torch.stack([cos, top, cos5, top5, self.bm25(query, flat, first, length, lists, size)], -1)

    @staticmethod
    def compare(q, d, query, doc, first, length, cut, lists, size):
        q_length = q.at[query + 1] - q.at[query]
        qt, q_mask = padded(q.tokens, q.at[query], q_length, int(q_length.max()))
        dt, d_mask = padded(d.tokens, d.at[doc] + first, length, int(length.max()))
        dt = dt * d_mask[..., None]
        centre = F.normalize(dt.float().sum(1), dim=-1) if cut else d.means[doc].float()
        cos = torch.einsum("lh,lsh->ls", q.means[query].float(), centre.view(lists, size, -1))
        each = torch.einsum("lqh,lsdh->lsqd", qt, dt.view(lists, size, *dt.shape[1:])).float()
        each.masked_fill_(~d_mask.view(lists, size, 1, -1), -1)
        best = each.amax(-1) * q_mask[:, None]
        return cos, best.sum(-1) / q_length.clamp(min=1)[:, None]

    def bm25(self, query, doc, first, length, lists, size, k1=0.9, b=0.4):
        q_length = self.queries.at[query + 1] - self.queries.at[query]
        qt, q_mask = padded(self.queries.ids, self.queries.at[query], q_length, int(q_length.max()))
        dt, d_mask = padded(self.docs.ids, self.docs.at[doc] + first, length, int(length.max()))
        dt = torch.where(d_mask, dt, -1).view(lists, size, -1)
        count = (qt[:, None, :, None] == dt[:, :, None, :]).sum(-1).float()
        idf = self.idf[qt.long()] * q_mask
        norm = k1 * (1 - b + b * length.view(lists, size).float() / self.mean_length)
        return (idf[:, None] * count / (count + norm[..., None])).sum(-1) / idf.sum(-1).clamp(min=1e-6)[:, None]


@torch.inference_mode()
def nearest(scorer, queries, count=NEAR):
    """The documents nearest to each query by both encoders' cosines."""
    score = scorer.q.means[queries] @ scorer.d.means.T
    score += scorer.q5.means[queries] @ scorer.d5.means.T
    return score.topk(min(count, score.shape[1])).indices


@dataclass
class Lists:
    query: torch.Tensor  # [lists]
    doc: torch.Tensor  # [lists, LIST], a labelled list's positive first
    first: torch.Tensor  # windows, in tokens
    length: torch.Tensor
    parts: torch.Tensor  # f32 [lists, LIST, 5]
    trust: torch.Tensor  # 0: no label


def choose(near, positive, given, trust, uniform, num_docs):
    """Documents [queries, LIST] of one list a query, and how far its label is trusted.

    Labelled: the positive, two given negatives, two of the nearest 40, the rest spread over the ranks.
    """
    label = positive >= 0
    # Many questions make no sense without their passage: those that nobody finds teach nothing.
    found = (near[:, :100] == positive[:, None]).any(1)
    trust = trust * (found | (trust == 1))
    label &= trust > 0
    # Ranks spread evenly on a log scale: as many from 0-3 as from 100-400.
    ranks = (uniform(len(near), LIST) * math.log(near.shape[1])).exp().long().sub(1).clamp(0, near.shape[1] - 1)
    hard = (torch.arange(LIST, device=near.device) < 5) & label[:, None]
    ranks = torch.where(hard, (uniform(len(near), LIST) * 40).long(), ranks)
    doc = near.gather(1, ranks)
    doc[:, 1:3] = torch.where(label[:, None] & (given[:, :2] >= 0), given[:, :2], doc[:, 1:3])
    doc[:, 0] = torch.where(label, positive, doc[:, 0])
    # A document twice in a list gives way to any other.
    order = doc.sort(1)
    same = F.pad(order.values[:, 1:] == order.values[:, :-1], (1, 0))
    twice = torch.zeros_like(same).scatter(1, order.indices, same)
    twice[:, 0] = False
    return torch.where(twice, (uniform(len(near), LIST) * num_docs).long(), doc), trust, label


@torch.inference_mode()
def make_lists(scorer, positive, negatives, trust, generator, chunk=1024):
    """One list a query, with the teacher's parts."""
    device, out = positive.device, []
    uniform = lambda *shape: torch.rand(*shape, generator=generator, device=device)
    doc_length = scorer.docs.at[1:] - scorer.docs.at[:-1]
    for query in torch.arange(len(positive), device=device).split(chunk):
        near = nearest(scorer, query)
        given = positive[query], negatives[query], trust[query]
        doc, trusted, label = choose(near, *given, uniform, len(doc_length))
        whole = doc_length[doc]
        # Most unlabelled lists see a short piece of each passage: lengths vary, and it is cheap.
        cut = ~label & (uniform(len(query)) < 0.6)
        want = torch.where(cut[:, None], (20 + 60 * uniform(*doc.shape)).long(), whole)
        length = torch.minimum(want, whole)
        first = (uniform(*doc.shape) * (whole - length + 1)).long()
        for is_cut in (True, False):
            rows = (cut == is_cut).nonzero()[:, 0]
            if len(rows):
                windows = (first[rows], length[rows]) if is_cut else (None, None)
                parts = scorer.score(query[rows], doc[rows], *windows)
                out.append(Lists(query[rows], doc[rows], first[rows], length[rows], parts, trusted[rows]))
    return Lists(*(torch.cat([getattr(each, name) for each in out]) for name in Lists.__dataclass_fields__))


def mix(parts):
    """The parts brought to the cosine's spread within a list, and mixed."""
    spread = parts.std(1).mean(0)
    return parts @ (MIX.to(parts.device) * spread[0] / spread), spread
