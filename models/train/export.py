"""Step 4: package a trained transformers folder as the compact model, or expand it again.

    python export.py --model RUN/out --out models/default [--scale A --offset B]
    python export.py --package models/default --expand OUT

Compact weights are a safetensors file in which every 2-D tensor X of at least 64 columns is I8,
with one F32 scale per row in `X.scale`: value = i8 * scale[row]. All else is F32. The expanded
folder holds those very values as plain f32 under the ordinary names, for transformers.
"""
import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from common import base_model

MIN_COLUMNS = 64
METADATA = {"format": "pt", "quantization": "int8-per-row"}
TOKENIZER_CONFIG = {
    "tokenizer_class": "BertTokenizer",
    "do_lower_case": True,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "model_max_length": 512,
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
}


def quantise(tensors):
    out = {}
    for name, value in tensors.items():
        value = value.float()
        if value.dim() != 2 or value.shape[1] < MIN_COLUMNS:
            out[name] = value.contiguous()
            continue
        scale = value.abs().amax(1).clamp_min(1e-12) / 127
        out[name] = (value / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
        out[f"{name}.scale"] = scale
    return out


def dequantise(tensors):
    return {
        name: value.float() * tensors[f"{name}.scale"][:, None] if value.dtype == torch.int8 else value
        for name, value in tensors.items()
        if not name.endswith(".scale")
    }


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save(tensors, folder, metadata):
    path = folder / "model.safetensors"
    save_file(tensors, path, metadata=metadata)
    path.chmod(0o644)  # safetensors writes it for the owner alone


def package(models, out, scale, offset):
    """The mean of the trained folders `models`, of one run, as the compact package `out`.

    Its logits are the trained ones times `scale` plus `offset`, as calibrate.py found them.
    """
    out.mkdir(parents=True, exist_ok=True)
    runs = [load_file(model / "model.safetensors") for model in models]
    tensors = {
        name: sum(run[name] for run in runs) / len(runs)
        for name in runs[0]
        if not name.endswith("position_ids")
    }
    tensors["classifier.weight"] = tensors["classifier.weight"] * scale
    tensors["classifier.bias"] = tensors["classifier.bias"] * scale + offset
    save(quantise(tensors), out, METADATA)

    trained = json.loads((models[0] / "config.json").read_text())
    keep = (
        "hidden_act hidden_size initializer_range intermediate_size layer_norm_eps "
        "max_position_embeddings num_attention_heads num_hidden_layers pad_token_id "
        "type_vocab_size vocab_size"
    ).split()
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        **{key: trained[key] for key in keep},
        "attention_probs_dropout_prob": 0.1,
        "hidden_dropout_prob": 0.1,
        "position_embedding_type": "absolute",
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"},
    }
    write_json(out / "config.json", config)

    # Training leaves the tokenizer as it was, so take the original file.
    source = Path(base_model()) / "tokenizer.json"
    tokenizer = json.loads(source.read_text(encoding="utf-8"))
    # How much to cut and pad is the caller's business, not the vocabulary's.
    tokenizer["truncation"] = tokenizer["padding"] = None
    # One line: 30,000 vocabulary entries need no line each.
    text = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
    (out / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    write_json(out / "tokenizer_config.json", TOKENIZER_CONFIG)


def expand(package, out):
    """The compact package as a plain f32 folder that transformers loads."""
    out.mkdir(parents=True, exist_ok=True)
    with safe_open(package / "model.safetensors", "pt") as file:
        if file.metadata() != METADATA:
            raise SystemExit(f"{package} is not in the compact format")
    save(dequantise(load_file(package / "model.safetensors")), out, {"format": "pt"})
    for name in "config.json", "tokenizer.json", "tokenizer_config.json":
        shutil.copyfile(package / name, out / name)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    args.add_argument("--model", type=Path, nargs="+", help="trained folders, averaged into --out")
    args.add_argument("--out", type=Path)
    args.add_argument("--scale", type=float, default=1.0)
    args.add_argument("--offset", type=float, default=0.0)
    args.add_argument("--package", type=Path, help="compact package to expand")
    args.add_argument("--expand", type=Path)
    args = args.parse_args()
    if args.model:
        package(args.model, args.out, args.scale, args.offset)
    if args.expand:
        expand(args.package or args.out, args.expand)


if __name__ == "__main__":
    main()
