"""Scores the sets of a workload with ONNX Runtime in f32: the peer that `run` times.

Protocol: after "ready" each line "SET BATCH_SIZE" on stdin is answered with milliseconds, tokenisation
included, and the scores as JSON. Pairs are sorted by length and padded to the longest of their batch.
"""
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification

MAX_LENGTH = 512
INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


def export(folder, path):
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = torch.randint(0, 100, (2, 16))
    inputs = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    axes = {name: {0: "batch", 1: "sequence"} for name in INPUTS}
    axes["logits"] = {0: "batch"}
    with torch.inference_mode():
        torch.onnx.export(model, inputs, path, input_names=INPUTS, output_names=["logits"],
                          dynamic_axes=axes, opset_version=17, dynamo=False)


def session_of(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def score(session, tokenizer, query, documents, batch_size):
    encodings = tokenizer.encode_batch([(query, document) for document in documents])
    order = sorted(range(len(documents)), key=lambda i: -len(encodings[i].ids))
    scores = [0.0] * len(documents)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        shape = (len(batch), len(encodings[batch[0]].ids))
        arrays = {name: np.zeros(shape, np.int64) for name in INPUTS}
        for row, i in enumerate(batch):
            encoding = encodings[i]
            length = len(encoding.ids)
            arrays["input_ids"][row, :length] = encoding.ids
            arrays["attention_mask"][row, :length] = 1
            arrays["token_type_ids"][row, :length] = encoding.type_ids
        for i, logits in zip(batch, session.run(["logits"], arrays)[0]):
            scores[i] = float(logits[0])
    return scores


def main():
    folder, workload, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    sets = json.loads(workload.read_text())["sets"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH, strategy="longest_first")
    tokenizer.no_padding()
    with tempfile.TemporaryDirectory() as scratch:
        path = f"{scratch}/model.onnx"
        export(folder, path)
        session = session_of(path, threads)
    print("ready", flush=True)
    for line in sys.stdin:
        name, batch_size = line.split()
        pairs = sets[name]
        start = time.perf_counter()
        scores = score(session, tokenizer, pairs["query"], pairs["documents"], int(batch_size))
        milliseconds = (time.perf_counter() - start) * 1e3
        print(json.dumps({"milliseconds": milliseconds, "scores": scores}), flush=True)


if __name__ == "__main__":
    main()
