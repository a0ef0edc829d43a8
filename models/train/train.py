"""Step 3: score lists with the teacher, then teach a plain cross-encoder, `[CLS] query [SEP] passage [SEP]`.

    python train.py --work RUN --out RUN/out --minutes 8

The learning rate follows the clock, so a run always ends at --minutes with its decay complete, however fast the
machine; of a GPU like an H200 eight minutes are enough, after which the selection collections no longer move.
What it scores on them is printed; OUT holds the model at the end.
"""
import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import BertForSequenceClassification, BertModel

import e5
from common import base_model
from evaluate import Collection, show
from pairs import forward
from teacher import LIST, PARTS, Scorer, Texts, make_lists, mix

SHARPNESS = 24  # of the teacher's softmax
RATE, HEAD_RATE, WARMUP = 3e-4, 1e-3, 0.04


def build(base):
    """The bi-encoder's weights under a head that starts by passing [CLS] through.

    Its pooler was never trained, so an identity says more than what the file holds.
    No dropout: a short distillation has no time to overfit.
    """
    model = BertForSequenceClassification.from_pretrained(
        base, num_labels=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="sdpa")
    with torch.no_grad():
        torch.nn.init.eye_(model.bert.pooler.dense.weight)
        model.bert.pooler.dense.bias.zero_()
    # Extra outputs, dropped after training, predict the teacher's parts: a target for every single
    # pair, which a list-wise loss does not give.
    model.extra = torch.nn.Linear(model.config.hidden_size, len(PARTS))
    # Half of all parameters, and rare words would stay behind while frequent ones move.
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    return model


def optimizer_for(model, rate):
    head = [p for n, p in model.named_parameters() if n.startswith(("bert.pooler", "classifier", "extra"))]
    ids = {id(p) for p in head}
    body = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
    groups = [{"params": body, "peak": rate}, {"params": head, "peak": HEAD_RATE}]
    return torch.optim.AdamW(groups, lr=rate, weight_decay=0.01, fused=body[0].is_cuda)


def schedule(optimizer, progress):
    factor = min(progress / WARMUP, (1 - progress) / (1 - WARMUP))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * max(factor, 1e-3)


def loss_of(out, target, parts, trust, scale):
    logits, extras = out[:, 0].view(-1, LIST), out[:, 1:]
    goal = target * SHARPNESS
    log_probs = logits.log_softmax(1)
    kl = F.kl_div(log_probs, goal.softmax(1), reduction="none").sum(1)
    # A "negative" above the positive by the teacher is most likely an unlabelled positive.
    doubtful = goal > goal[:, :1]
    ce = -logits.masked_fill(doubtful, -1e4).log_softmax(1)[:, 0]
    label = trust > 0
    ranking = torch.where(label, trust * ce + (1.2 - 0.7 * trust) * kl, 1.5 * kl).mean()
    # Absolute level: a logit of 0 where the teacher sits halfway, so that scores compare across
    # queries and a sigmoid means something.
    level = F.mse_loss(logits, goal - SHARPNESS * scale["middle"])
    extra = F.mse_loss(extras, (parts.view(-1, len(PARTS)) - scale["mean"]) / scale["std"])
    return ranking + 0.03 * level + 0.3 * extra, ranking


def prepare(args, device, generator):
    """The lists with their teacher's scores, the texts they point into, and the collections to watch."""
    file = np.load(args.work / "tokens.npz")
    small = torch.float16 if device.type == "cuda" else torch.float32
    base = BertModel.from_pretrained(args.base, add_pooling_layer=False).to(device, small).eval()
    other = e5.read(args.e5)[0].to(device, small)
    tests = [Collection(file, name, device) for name in file["collections"].tolist()]
    show("teacher", [(test.name, test.by_teacher(base, other)) for test in tests])
    queries, docs = Texts(file, "queries", device), Texts(file, "docs", device)
    load = lambda name: torch.from_numpy(file[f"queries.{name}"]).to(device)
    scorer = Scorer(queries, docs, base, other)
    lists = make_lists(scorer, load("positive").long(), load("negatives").long(), load("trust"), generator)
    print(f"{len(lists.query)} lists of {len(docs)} passages, {int((lists.trust > 0).sum())} labelled", flush=True)
    return lists, queries, docs, tests


def batches(lists, size, generator):
    """Endless batches of lists of similar length, in any order."""
    longest, device = lists.length.amax(1), lists.length.device
    while True:
        order = (longest + torch.randint(0, 48, longest.shape, device=device, generator=generator)).argsort()
        rows = order[: len(order) // size * size].view(-1, size)
        yield from rows[torch.randperm(len(rows), device=device, generator=generator)]


def scales(lists, target):
    """Where the teacher's middle lies, and mean and spread of its parts."""
    best = target[lists.trust > 0]
    return {"middle": (best[:, 0].mean() + best[:, 1:].mean()) / 2,
            "mean": lists.parts.mean((0, 1)), "std": lists.parts.std((0, 1))}


def run(args, model, lists, queries, docs, tests, generator):
    target, _ = mix(lists.parts)
    scale, optimizer = scales(lists, target), optimizer_for(model, args.rate)
    amp = torch.autocast(args.device, torch.bfloat16)
    budget, seconds, evaluated, losses = args.minutes * 60, 0.0, 0.0, []

    def evaluate():
        model.eval()
        with amp:
            show("model", [(test.name, {"nDCG@10": test.by_model(model)}) for test in tests])
        model.train()

    for step, rows in enumerate(batches(lists, args.lists, generator), 1):
        start = time.time()
        schedule(optimizer, seconds / budget)
        flat = lambda name: getattr(lists, name)[rows].reshape(-1)
        with amp:
            query = lists.query[rows].repeat_interleave(LIST)
            out = forward(model, queries, docs, query, flat("doc"), flat("first"), flat("length"), slices=4)
        loss, ranking = loss_of(out, target[rows], lists.parts[rows], lists.trust[rows], scale)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(ranking.detach())
        if step % 50 == 0:
            mean = float(torch.stack(losses).mean())
            assert math.isfinite(mean), "the loss is no number"
            losses = []
        seconds += time.time() - start
        if step % 50 == 0:
            print(f"step {step}, {seconds / 60:.1f} min, loss {mean:.3f}, {step * args.lists * LIST / seconds:.0f} pairs/s", flush=True)
        if seconds - evaluated > 60 * args.evaluate_every:
            evaluated = seconds
            evaluate()
        if seconds >= budget:
            return evaluate()


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--work", type=Path, required=True, help="folder with tokens.npz")
    args.add_argument("--base", default=base_model(), help="folder of the base, as transformers saves it")
    args.add_argument("--e5", default=e5.package_file())
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    args.add_argument("--minutes", type=float, default=8, help="training time, evaluation not counted")
    args.add_argument("--lists", type=int, default=256, help="per step")
    args.add_argument("--rate", type=float, default=RATE)
    args.add_argument("--evaluate-every", type=float, default=2, metavar="MINUTES")
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    generator = torch.Generator(device=device).manual_seed(args.seed)
    lists, queries, docs, tests = prepare(args, device, generator)
    model = build(args.base).to(device)
    run(args, model, lists, queries, docs, tests, generator)
    args.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(args.out, state_dict={k: v for k, v in model.state_dict().items() if not k.startswith("extra")})


if __name__ == "__main__":
    main()
