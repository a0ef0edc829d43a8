"""Makes the models that all sides run: BERT cross-encoders of four sizes with random weights.

    python models.py TOKENIZER_FOLDER OUT_FOLDER
"""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

# Layers, hidden size, intermediate size, heads.
SIZES = {
    "tinybert-l2": (2, 128, 512, 2),
    "minilm-l6": (6, 384, 1536, 12),
    "minilm-l12": (12, 384, 1536, 12),
    "bert-base": (12, 768, 3072, 12),
}
VOCAB_SIZE = 30522
MAX_LENGTH = 512


def make(folder, layers, hidden, intermediate, heads):
    random = np.random.default_rng(20261126)
    tensors = {}

    def matrix(name, rows, columns):
        scale = 1.0 / np.sqrt(columns)
        tensors[name] = (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    def linear(name, rows, columns):
        matrix(f"{name}.weight", rows, columns)
        tensors[f"{name}.bias"] = (random.standard_normal(rows) * 0.1).astype(np.float32)

    def norm(name):
        tensors[f"{name}.weight"] = np.ones(hidden, np.float32)
        tensors[f"{name}.bias"] = np.zeros(hidden, np.float32)

    for table, rows in [("word", VOCAB_SIZE), ("position", MAX_LENGTH), ("token_type", 2)]:
        matrix(f"bert.embeddings.{table}_embeddings.weight", rows, hidden)
    norm("bert.embeddings.LayerNorm")
    for i in range(layers):
        layer = f"bert.encoder.layer.{i}"
        for part in ["query", "key", "value"]:
            linear(f"{layer}.attention.self.{part}", hidden, hidden)
        linear(f"{layer}.attention.output.dense", hidden, hidden)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", intermediate, hidden)
        linear(f"{layer}.output.dense", hidden, intermediate)
        norm(f"{layer}.output.LayerNorm")
    linear("bert.pooler.dense", hidden, hidden)
    linear("classifier", 1, hidden)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["BertForSequenceClassification"], "model_type": "bert",
        "hidden_act": "gelu", "hidden_size": hidden, "intermediate_size": intermediate,
        "layer_norm_eps": 1e-12, "max_position_embeddings": MAX_LENGTH,
        "num_attention_heads": heads, "num_hidden_layers": layers, "type_vocab_size": 2,
        "vocab_size": VOCAB_SIZE, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0},
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def main():
    tokenizer, out = Path(sys.argv[1]), Path(sys.argv[2])
    for name, size in SIZES.items():
        folder = out / name
        if (folder / "config.json").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for file in ["tokenizer.json", "tokenizer_config.json"]:
            shutil.copy(tokenizer / file, folder / file)
        make(folder, *size)


if __name__ == "__main__":
    main()
