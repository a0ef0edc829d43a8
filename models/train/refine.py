"""Second round, step 3: teach the model of the first round what all judges together say. Runs on a CPU.

    python refine.py --work RUN2 --model EXPANDED --out RUN2/out --minutes 40

EXPANDED is the first round's package as `export.py --expand` writes it; --scale and --offset take a calibration that is
in it out again. The learning rate follows the clock, so a run always ends at --minutes.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, BertForSequenceClassification

from common import base_model
from judge import DOC_TOKENS, LIST, QUERY_TOKENS
from pairs import CLS, SEP

# By judge, for parts of one spread: chosen on the selection collections among five mixes.
MIX = torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 0.7, 1.0])
LISTS, RATE, HEAD_RATE, WARMUP = 16, 6e-5, 2e-4, 0.05
FROZEN = 2  # layers above the embeddings that stay as they are: a quarter of the time
SLICE = 16  # pairs of similar length that pass together


def goal(parts, scale, offset):
    """What each logit should be, at the spread and the level that the model has: `[lists, LIST]`."""
    spread = parts.std(1).mean(0)
    mixed = (parts * (MIX / spread)).sum(2)
    mixed *= spread[-1] / scale / mixed.std(1).mean()
    return mixed - mixed.mean() + (parts[..., -1].mean() - offset) / scale


def inputs_of(pairs):
    rows = [[CLS, *query, SEP, *doc, SEP] for query, doc in pairs]
    # Few widths: for each shape oneDNN compiles its kernels anew.
    width = -(-max(map(len, rows)) // 32) * 32
    ids, mask, types = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(3))
    for i, (row, (query, _)) in enumerate(zip(rows, pairs)):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
        types[i, len(query) + 2 : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def logits(model, pairs):
    order = sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i])))
    slices = [order[i : i + SLICE] for i in range(0, len(order), SLICE)]
    out = [model(**inputs_of([pairs[i] for i in rows])).logits[:, 0].float() for rows in slices]
    return torch.cat(out)[torch.tensor(order).argsort()]


def loss_of(out, goal, trust):
    log_probs = out.log_softmax(1)
    kl = F.kl_div(log_probs, goal.softmax(1), reduction="none").sum(1)
    # A "negative" above the positive by the judges is most likely an unlabelled positive.
    ce = -out.masked_fill(goal > goal[:, :1], -1e4).log_softmax(1)[:, 0]
    ranking = torch.where(trust > 0, trust * ce + (1.2 - 0.5 * trust) * kl, 1.5 * kl).mean()
    return ranking + 0.03 * F.mse_loss(out, goal), kl.mean()


def batches(length):
    """Endless batches of lists of similar length, in any order."""
    while True:
        order = (length + torch.randint(0, 40, length.shape)).argsort()
        rows = order[: len(order) // LISTS * LISTS].view(-1, LISTS)
        yield from rows[torch.randperm(len(rows))]


def start(folder, scale, offset):
    """Without its calibration. Plain attention: torch's fused one takes three times as long for gradients on a CPU."""
    model = BertForSequenceClassification.from_pretrained(
        folder, num_labels=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager")
    with torch.no_grad():
        model.classifier.weight.div_(scale)
        model.classifier.bias.sub_(offset).div_(scale)
    for part in (model.bert.embeddings, *model.bert.encoder.layer[:FROZEN]):
        part.requires_grad_(False)
    return model.train()


class Masters:
    """The trained parameters in f32. The model itself is bf16 throughout: half as long as with autocast."""

    def __init__(self, model):
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.exact = [p.detach().clone() for _, p in named]
        is_head = lambda name: name.startswith(("bert.pooler", "classifier"))
        groups = [{"params": [exact for (name, _), exact in zip(named, self.exact) if is_head(name) == head], "peak": peak}
                  for head, peak in ((False, RATE), (True, HEAD_RATE))]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        self.rounded = [p for _, p in named]
        model.bfloat16()

    @torch.no_grad()
    def step(self, progress):
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * max(1e-3, min(progress / WARMUP, (1 - progress) / (1 - WARMUP)))
        for exact, rounded in zip(self.exact, self.rounded):
            exact.grad, rounded.grad = rounded.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self.exact, 1.0)
        self.optimizer.step()
        for exact, rounded in zip(self.exact, self.rounded):
            rounded.copy_(exact)

    @torch.no_grad()
    def finish(self, model):
        """The model in f32, as trained."""
        model.float()
        for exact, rounded in zip(self.exact, self.rounded):
            rounded.copy_(exact)


def run(model, minutes, lists, ids, target, trust):
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    masters = Masters(model)
    query_ids, doc_ids = ids
    length = torch.tensor([len(query_ids[i]) + max(len(doc_ids[j]) for j in row) for i, row in enumerate(lists)])
    seconds, seen = 0.0, []
    for step, rows in enumerate(batches(length), 1):
        begin, progress = time.time(), seconds / 60 / minutes
        if progress >= 1:
            break
        pairs = [(query_ids[i], doc_ids[j]) for i in rows.tolist() for j in lists[i]]
        loss, kl = loss_of(logits(model, pairs).view(-1, LIST), target[rows], trust[rows])
        loss.backward()
        masters.step(progress)
        seconds += time.time() - begin
        seen.append(float(kl.detach()))
        if step % 20 == 0:
            rate = step * LISTS * LIST / seconds
            print(f"step {step}, {seconds / 60:.1f} min, KL {np.mean(seen[-20:]):.3f}, {rate:.0f} pairs/s", flush=True)
    masters.finish(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name in frozen:
                p.copy_(frozen[name])


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--work", type=Path, required=True, help="folder with pool.json and judged.npz")
    args.add_argument("--model", type=Path, required=True, help="the first round's model, expanded")
    args.add_argument("--scale", type=float, default=1.0, help="of a calibration that is in it")
    args.add_argument("--offset", type=float, default=0.0)
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--minutes", type=float, default=40)
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    torch.manual_seed(args.seed)
    pool, judged = json.loads((args.work / "pool.json").read_text(encoding="utf-8")), np.load(args.work / "judged.npz")
    tokenizer = AutoTokenizer.from_pretrained(base_model())
    ids = [tokenizer([row["text"] for row in pool[name]], add_special_tokens=False, truncation=True, max_length=limit)["input_ids"]
           for name, limit in (("queries", QUERY_TOKENS), ("docs", DOC_TOKENS))]
    target = goal(torch.from_numpy(judged["parts"]), args.scale, args.offset)
    trust = torch.tensor([query["trust"] for query in pool["queries"]])
    model = start(args.model, args.scale, args.offset)
    run(model, args.minutes, judged["lists"].tolist(), ids, target, trust)
    model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
