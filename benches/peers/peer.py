"""Scores the sets of a workload with another engine: the sides that `run` times against rerankd.

    python peer.py ENGINE-PRECISION MODEL_FOLDER WORKLOAD_JSON THREADS

Protocol: the first line on stdout is a JSON list of settings; then each line "SET SETTING" on stdin is
answered with milliseconds, tokenisation included, and the scores as JSON. Pairs are sorted by length and
padded to the longest of their batch.
"""
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

MAX_LENGTH = 512
INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


def export(folder, path):
    import torch
    from transformers import AutoModelForSequenceClassification

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


class Batches:
    """The batches of a set, tokenised and padded."""

    def __init__(self, folder):
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_LENGTH, strategy="longest_first")
        self.tokenizer.no_padding()

    def of(self, query, documents, batch_size):
        encodings = self.tokenizer.encode_batch([(query, document) for document in documents])
        order = sorted(range(len(documents)), key=lambda i: -len(encodings[i].ids))
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
            yield batch, arrays


class OnnxRuntime:
    settings = ["1", "4", "8"]

    def __init__(self, precision, folder, _sets, threads, scratch):
        import onnxruntime

        path = f"{scratch}/model.onnx"
        export(folder, path)
        if precision == "int8":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(path, f"{scratch}/int8.onnx", weight_type=QuantType.QInt8)
            path = f"{scratch}/int8.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.batches = Batches(folder)

    def score(self, query, documents, setting):
        scores = [0.0] * len(documents)
        for batch, arrays in self.batches.of(query, documents, int(setting)):
            for i, logits in zip(batch, self.session.run(["logits"], arrays)[0]):
                scores[i] = float(logits[0])
        return scores


class OpenVino:
    """Latency mode runs a batch on all threads, throughput mode a batch on each."""

    settings = ["latency-1", "latency-4", "throughput-1", "throughput-4"]

    def __init__(self, precision, folder, sets, threads, scratch):
        import openvino

        path = f"{scratch}/model.onnx"
        export(folder, path)
        core = openvino.Core()
        model = core.read_model(path)
        self.batches = Batches(folder)
        if precision == "int8":
            model = self.quantize(model, sets)
        hint = "f32" if precision == "f32" else "bf16"
        self.queues = {}
        for mode in ["latency", "throughput"]:
            compiled = core.compile_model(model, "CPU", {
                "PERFORMANCE_HINT": mode.upper(), "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": hint,
            })
            self.queues[mode] = openvino.AsyncInferQueue(compiled)

    def quantize(self, model, sets):
        """Static int8 by NNCF, calibrated on the mixed set; what is left runs in bf16."""
        import nncf

        samples = self.batches.of(sets["mixed"]["query"], sets["mixed"]["documents"], 1)
        arrays = [arrays for _, arrays in samples]
        return nncf.quantize(model, nncf.Dataset(arrays), subset_size=len(arrays),
                             model_type=nncf.ModelType.TRANSFORMER)

    def score(self, query, documents, setting):
        mode, batch_size = setting.split("-")
        scores = [0.0] * len(documents)

        def keep(request, batch):
            for i, logits in zip(batch, request.get_output_tensor().data):
                scores[i] = float(logits[0])

        queue = self.queues[mode]
        queue.set_callback(keep)
        for batch, arrays in self.batches.of(query, documents, int(batch_size)):
            queue.start_async(arrays, batch)
        queue.wait_all()
        return scores


class SentenceTransformers:
    """f16 is the GPU, the others are the CPU."""

    def __init__(self, precision, folder, _sets, threads, _scratch):
        import torch
        from sentence_transformers import CrossEncoder

        torch.set_num_threads(threads)
        types = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
        device = "cuda" if precision == "f16" else "cpu"
        self.settings = ["32", "128", "512"] if precision == "f16" else ["8", "32"]
        self.model = CrossEncoder(str(folder), device=device, max_length=MAX_LENGTH,
                                  model_kwargs={"dtype": types[precision]})

    def score(self, query, documents, setting):
        pairs = [(query, document) for document in documents]
        scores = self.model.predict(pairs, batch_size=int(setting), show_progress_bar=False,
                                    activation_fn=lambda x: x)
        return [float(score) for score in scores]


ENGINES = {
    "onnxruntime": OnnxRuntime, "openvino": OpenVino, "sentence_transformers": SentenceTransformers
}


def main():
    engine, precision = sys.argv[1].split("-")
    folder, workload, threads = Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sets = json.loads(workload.read_text())["sets"]
    with tempfile.TemporaryDirectory() as scratch:
        side = ENGINES[engine](precision, folder, sets, threads, scratch)
    print(json.dumps(side.settings), file=answers, flush=True)
    for line in sys.stdin:
        name, setting = line.split()
        start = time.perf_counter()
        scores = side.score(sets[name]["query"], sets[name]["documents"], setting)
        milliseconds = (time.perf_counter() - start) * 1e3
        answer = {"milliseconds": milliseconds, "scores": scores}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
