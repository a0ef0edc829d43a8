"""Step 3: teach a plain cross-encoder, `[CLS] query [SEP] passage [SEP]`, to rank like the teacher.

The learning rate follows the clock, so a run always ends at --minutes with its decay complete,
however fast the machine. It resumes from OUT/last.pt when started again. OUT/best is the model that
scored best on the quick set, OUT/last the one at the end, both as transformers folders.
"""
import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, BertForSequenceClassification

from common import base_model
from evaluate import quick_score

LISTS = 6  # per step
MICRO = 6  # pairs padded together, and worked on by one thread
PAIR_TOKENS = 160
SHARPNESS = 24  # of the teacher's softmax
RATE, HEAD_RATE = 1e-4, 5e-4


def build():
    """The bi-encoder's weights under a head that starts by passing [CLS] through.

    Its pooler was never trained, so an identity says more than what the file holds.
    No dropout: a short distillation has no time to overfit.
    """
    model = BertForSequenceClassification.from_pretrained(
        base_model(), num_labels=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    with torch.no_grad():
        torch.nn.init.eye_(model.bert.pooler.dense.weight)
        model.bert.pooler.dense.bias.zero_()
    # Two extra outputs, dropped after training, predict the teacher's cosine and MaxSim: a
    # target for every single pair, which a list-wise loss does not give.
    model.extra = torch.nn.Linear(model.config.hidden_size, 2)
    # 11.7M of the 22.7M parameters, and the few lists would only move the frequent words.
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    return model


def optimizer_for(model):
    head = [p for n, p in model.named_parameters() if n.startswith(("bert.pooler", "classifier", "extra"))]
    ids = {id(p) for p in head}
    body = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
    return torch.optim.AdamW(
        [{"params": body, "peak": RATE}, {"params": head, "peak": HEAD_RATE}], weight_decay=0.01
    )


def schedule(optimizer, progress, warmup=0.05):
    factor = min(progress / warmup, (1 - progress) / (1 - warmup))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * max(factor, 1e-3)


class Slices:
    """Forward and backward over length-sorted slices of a batch, two slices at a time.

    Whole slices per thread, one core each, beat threads inside every operator: those wait for
    each other whenever something else runs on the machine.
    """

    def __init__(self, model, tokenizer, workers=2):
        self.model, self.tokenizer = model, tokenizer
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.pool = ThreadPoolExecutor(workers)

    def forward(self, pairs):
        """Logit and extra outputs of every pair; the graphs stay until backward."""
        encoded = self.tokenizer(*zip(*pairs), truncation="only_second", max_length=PAIR_TOKENS)
        order = sorted(range(len(pairs)), key=lambda i: -len(encoded["input_ids"][i]))
        groups = [order[at : at + MICRO] for at in range(0, len(order), MICRO)]
        inputs = [
            self.tokenizer.pad({k: [v[i] for i in ids] for k, v in encoded.items()}, return_tensors="pt")
            for ids in groups
        ]

        def run(batch):
            pooled = self.model.bert(**batch).pooler_output
            return torch.cat([self.model.classifier(pooled), self.model.extra(pooled)], 1)

        self.outputs = list(self.pool.map(run, inputs))
        leaf = torch.cat([out.detach() for out in self.outputs]).requires_grad_()
        self.leaf = leaf
        back = torch.tensor(order).argsort()
        return leaf[back, 0], leaf[back, 1:]

    def backward(self, loss):
        loss.backward()
        grads = self.leaf.grad.split([len(out) for out in self.outputs])

        def run(job):
            out, grad = job
            return torch.autograd.grad(out, self.parameters, grad)

        for parameter in self.parameters:
            parameter.grad = None
        for result in self.pool.map(run, zip(self.outputs, grads)):
            for parameter, grad in zip(self.parameters, result):
                parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)


def loss_of(logits, extras, rows, scale):
    size = len(rows[0]["d"])
    logits = logits.view(-1, size)
    teacher = torch.tensor([row["t"] for row in rows]) * SHARPNESS
    label = torch.tensor([row["label"] for row in rows])
    log_probs = logits.log_softmax(1)
    kl = F.kl_div(log_probs, teacher.softmax(1), reduction="none").sum(1)
    # A "negative" above the positive by the teacher is most likely an unlabelled positive.
    doubtful = teacher > teacher[:, :1]
    ce = -logits.masked_fill(doubtful, -1e4).log_softmax(1)[:, 0]
    ranking = torch.where(label, ce + 0.5 * kl, 1.5 * kl).mean()
    # Absolute level: a logit of 0 where the teacher sits halfway, so that scores compare across
    # queries and a sigmoid means something.
    level = F.mse_loss(logits, teacher - SHARPNESS * scale["middle"])
    target = torch.tensor([list(zip(row["cos"], row["max"])) for row in rows]).view(-1, 2)
    extra = F.mse_loss(extras, (target - scale["mean"]) / scale["std"])
    return ranking + 0.03 * level + 0.3 * extra, ranking


def scales(lists):
    """Where the teacher's middle lies, and mean and spread of its parts."""
    labelled = [row for row in lists if row["label"]]
    best = sum(row["t"][0] for row in labelled) / len(labelled)
    rest = sum(sum(row["t"][1:]) / len(row["t"][1:]) for row in labelled) / len(labelled)
    parts = torch.tensor([pair for row in lists for pair in zip(row["cos"], row["max"])])
    return {"middle": (best + rest) / 2, "mean": parts.mean(0), "std": parts.std(0)}


def batches(lists, seed, skip):
    """Endless shuffled batches; `skip` of them are passed over when a run resumes."""
    generator, count = torch.Generator().manual_seed(seed), 0
    while True:
        order = torch.randperm(len(lists), generator=generator).tolist()
        for at in range(0, len(order) - LISTS + 1, LISTS):
            if count >= skip:
                yield [lists[i] for i in order[at : at + LISTS]]
            count += 1


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--work", type=Path, required=True, help="folder with lists.jsonl")
    args.add_argument("--data", type=Path, required=True, help="folder with the test collections")
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--minutes", type=float, default=70, help="training time, evaluation not counted")
    args.add_argument("--evaluate-every", type=float, default=12, metavar="MINUTES")
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)

    lists = [json.loads(line) for line in (args.work / "lists.jsonl").open(encoding="utf-8")]
    tokenizer = AutoTokenizer.from_pretrained(base_model())
    model = build()
    optimizer, scale = optimizer_for(model), scales(lists)
    slices = Slices(model, tokenizer)
    state = {"step": 0, "seconds": 0.0, "evaluated": 0.0, "best": -1.0}
    last = args.out / "last.pt"
    if last.exists():
        saved = torch.load(last)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
    print(f"{len(lists)} lists, from step {state['step']}", flush=True)

    def checkpoint():
        temporary = last.with_suffix(".tmp")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state}, temporary)
        temporary.replace(last)

    def save(name):
        plain = {k: v for k, v in model.state_dict().items() if not k.startswith("extra")}
        model.save_pretrained(args.out / name, state_dict=plain)
        tokenizer.save_pretrained(args.out / name)

    def evaluate():
        model.eval()
        scores = quick_score(model, tokenizer, args.data)
        mean = scores.pop("mean")
        print(f"quick {mean:.4f}", {k: round(v, 3) for k, v in scores.items()}, flush=True)
        if mean > state["best"]:
            state["best"] = mean
            save("best")
        state["evaluated"] = state["seconds"]
        model.train()

    budget, sums, shown = args.minutes * 60, [], 0
    for rows in batches(lists, args.seed, state["step"]):
        start = time.time()
        schedule(optimizer, state["seconds"] / budget)
        pairs = [(row["q"], doc) for row in rows for doc in row["d"]]
        loss, ranking = loss_of(*slices.forward(pairs), rows, scale)
        slices.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        state["step"] += 1
        state["seconds"] += time.time() - start
        sums.append((loss.item(), ranking.item(), len(pairs), time.time() - start))
        if state["step"] % 50 == 0:
            total, rank, count, took = (sum(column) for column in zip(*sums))
            print(f"step {state['step']} {state['seconds'] / 60:.1f} min loss {total / len(sums):.3f} "
                  f"ranking {rank / len(sums):.3f} {count / took:.1f} pairs/s", flush=True)
            sums = []
        if state["step"] % 200 == 0:
            checkpoint()
        if state["seconds"] - state["evaluated"] > 60 * args.evaluate_every:
            evaluate()
            checkpoint()
        if state["seconds"] >= budget:
            break
    evaluate()
    checkpoint()
    save("last")


if __name__ == "__main__":
    main()
