"""Make the test models and the reference scores, with transformers in f32.

    pip install -r models/train/requirements.txt
    python tests/golden/make.py            writes everything
    python tests/golden/make.py NAME...    writes the families and encoders of these folders alone
    python tests/golden/make.py --check    only compares the scores with the files, within 1e-4

Over-long pairs lose the end of the longer text first (`longest_first`).
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer, Tokenizer
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

HERE = Path(__file__).resolve().parent
DEFAULT = HERE.parents[1] / "models" / "default"
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "models" / "train")]

import encoders
import families
import fixtures
import gte
import jina
import late
import modules
import prompts
import texts
from export import expand

SELF_TEST = 8  # pairs the server scores each time it loads the default model


def tokenizer_of(folder):
    if (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    lower = json.loads((folder / "tokenizer_config.json").read_text())["do_lower_case"]
    return BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=lower, strip_accents=None)


def pair_inputs(tokenizer, query, document, limit, types):
    """As sentence-transformers' CrossEncoder encodes a pair: the longer text is cut first."""
    tokenizer.enable_truncation(limit, strategy="longest_first")
    encoding = tokenizer.encode(query, document)
    inputs = {"input_ids": torch.tensor([encoding.ids])}
    if types:
        inputs["token_type_ids"] = torch.tensor([encoding.type_ids])
    return inputs


def both_exceed(tokenizer, query, document, limit):
    """Which of two such texts keeps one token more differs between releases of tokenizers."""
    tokenizer.no_truncation()
    return all(len(tokenizer.encode(text, add_special_tokens=False).ids) > limit
               for text in (query, document))


@torch.inference_mode()
def cross_golden(folder, pairs, limit=512):
    tokenizer = tokenizer_of(folder)
    model = load(folder)
    rows = []
    for query, document in pairs:
        if both_exceed(tokenizer, query, document, limit):
            continue
        inputs = pair_inputs(tokenizer, query, document, limit, families.takes_types(folder))
        logits = [round(v, 6) for v in model(**inputs).logits[0].tolist()]
        tokens = inputs["input_ids"].shape[1]
        rows.append({"query": query, "document": document, "logits": logits, "num_tokens": tokens})
    return rows


def load(folder):
    for family in (gte, jina):
        if family.is_one(folder):
            return family.load(folder)
    if (folder / "modules.json").exists():
        return modules.load(folder)
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()


def prompt_golden(folder, pairs, limit, prompt):
    tokenizer = tokenizer_of(folder)
    causal = "CausalLM" in json.loads((folder / "config.json").read_text())["architectures"][0]
    kind = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for query, document in pairs:
        tokens = prompts.input_ids(tokenizer, prompt, query, document, limit)
        if tokens is None:
            continue
        logits = [round(v, 6) for v in prompts.logits(model, tokenizer, prompt, tokens)]
        rows.append({"query": query, "document": document, "logits": logits, "num_tokens": len(tokens)})
    return rows


@torch.inference_mode()
def cosine_golden(folder, pairs):
    tokenizer = tokenizer_of(folder)
    limit = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer.enable_truncation(limit)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def embed(text):
        ids = torch.tensor([tokenizer.encode(text).ids])
        mean = model(input_ids=ids).last_hidden_state[0].mean(0)
        return torch.nn.functional.normalize(mean, dim=0), ids.shape[1]

    rows = []
    for query, document in pairs:
        (first, n), (second, m) = embed(query), embed(document)
        rows.append({"query": query, "document": document, "cosine": round(float(first @ second), 6),
                     "num_tokens": [n, m]})
    return rows


def self_test(rows):
    """Short pairs, one really relevant, whose scores lie far apart: a wrong kernel shows at load."""
    plain = next(r for r in rows if r["query"] == "what is the boiling point of water")
    short = sorted((r for r in rows if 8 <= r["num_tokens"] <= 48), key=lambda r: r["logits"][0])
    step = (len(short) - 1) / (SELF_TEST - 2)
    return [plain] + [short[round(i * step)] for i in range(SELF_TEST - 1)]


def dump(rows):
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


def write(path, rows):
    path.write_text(dump(rows), encoding="utf-8")
    print(f"{path.name}: {len(rows)} rows")


def family_golden(name, make):
    folder = HERE / name
    make_family, longest = families.FAMILIES[name]
    if make:
        make_family(folder)
    seed = 10 + list(families.FAMILIES).index(name)
    pairs = texts.pairs(seed, count=70, longest=longest)
    if prompt := families.PROMPTS.get(name):
        return prompt_golden(folder, pairs, longest, prompt)
    return cross_golden(folder, pairs, longest)


def late_golden(name, make):
    folder = HERE / name
    if make:
        late.FOLDERS[name](folder)
    seed = 40 + list(late.FOLDERS).index(name)
    return late.golden(folder, texts.pairs(seed, count=50, longest=60))


def vectors_golden(name, make):
    folder = HERE / name
    if make and name in encoders.ENCODERS:
        encoders.ENCODERS[name](folder)
    return encoders.golden(folder, tokenizer_of(folder), seed=50 + list(VECTORS).index(name))


VECTORS = ["tiny-encoder", *encoders.ENCODERS]


def differences(rows, path):
    stored = json.loads(path.read_text(encoding="utf-8"))
    asked = lambda rows: [[r.get(key) for key in ("query", "document", "text", "prompt")] for r in rows]
    if asked(rows) != asked(stored):
        raise SystemExit(f"{path}: other texts")
    values = lambda r: r.get("logits") or r.get("vector") or [r.get("cosine", r.get("max_sim"))]
    return max(abs(a - b) for r, s in zip(rows, stored) for a, b in zip(values(r), values(s)))


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    args.add_argument("names", nargs="*", metavar="NAME")
    args.add_argument("--check", action="store_true", help="compare, write nothing")
    args = args.parse_args()
    torch.manual_seed(0)
    if args.names:
        for name in args.names:
            if name in VECTORS:
                write(HERE / f"{name}-vectors.json", vectors_golden(name, make=True))
                continue
            golden = late_golden if name in late.FOLDERS else family_golden
            write(HERE / f"{name}.json", golden(name, make=True))
        return
    if not args.check:
        fixtures.tiny_bert(HERE / "tiny-bert")
        fixtures.tiny_encoder(HERE / "tiny-encoder")
    with tempfile.TemporaryDirectory() as plain:
        expand(DEFAULT, Path(plain))
        default = cross_golden(Path(plain), texts.pairs(seed=1, count=220, longest=512))
    golden = {
        HERE / "default.json": default,
        HERE / "tiny-bert.json": cross_golden(HERE / "tiny-bert", texts.pairs(seed=2, count=210, longest=512)),
        HERE / "tiny-encoder.json": cosine_golden(HERE / "tiny-encoder", texts.pairs(seed=3, count=80, longest=100)),
        DEFAULT / "golden.json": self_test(default),
    }
    for name in families.FAMILIES:
        golden[HERE / f"{name}.json"] = family_golden(name, make=not args.check)
    for name in VECTORS:
        golden[HERE / f"{name}-vectors.json"] = vectors_golden(name, make=not args.check)
    for name in late.FOLDERS:
        golden[HERE / f"{name}.json"] = late_golden(name, make=not args.check)
    worst = 0
    for path, rows in golden.items():
        if args.check:
            worst = max(worst, off := differences(rows, path))
            print(f"{path.name}: largest difference {off:.2g}")
        else:
            write(path, rows)
    if worst > 1e-4:
        raise SystemExit("scores differ")


if __name__ == "__main__":
    main()
