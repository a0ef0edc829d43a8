"""What sentence-transformers 6 writes beside the encoder of a cross-encoder made of modules (the ettin rerankers), and
the reference for it."""
import json
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from fixtures import randomise, write_json

PREFIX = "sentence_transformers"
KINDS = ["base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling",
         "base.modules.dense.Dense", "sentence_transformer.modules.layer_norm.LayerNorm", "base.modules.dense.Dense"]


def layers(width):
    return nn.ModuleDict({
        "2_Dense": nn.ModuleDict({"linear": nn.Linear(width, width, bias=False)}),
        "3_LayerNorm": nn.ModuleDict({"norm": nn.LayerNorm(width)}),
        "4_Dense": nn.ModuleDict({"linear": nn.Linear(width, 1)})})


def save(folder, width, seed):
    paths = ["", "1_Pooling", "2_Dense", "3_LayerNorm", "4_Dense"]
    write_json(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": f"{PREFIX}.{kind}"}
        for i, (path, kind) in enumerate(zip(paths, KINDS))])
    write_json(folder / "config_sentence_transformers.json", {
        "activation_fn": "torch.nn.modules.linear.Identity", "model_type": "CrossEncoder", "prompts": {}})
    dense = {"in_features": width, "module_input_name": "sentence_embedding"}
    configs = {
        "1_Pooling": {"embedding_dimension": width, "pooling_mode": "cls", "include_prompt": True},
        "2_Dense": {**dense, "out_features": width, "bias": False, "module_output_name": "sentence_embedding",
                    "activation_function": "torch.nn.modules.activation.GELU"},
        "3_LayerNorm": {"dimension": width},
        "4_Dense": {**dense, "out_features": 1, "bias": True, "module_output_name": "scores",
                    "activation_function": "torch.nn.modules.linear.Identity"}}
    tensors = randomise(layers(width), seed, 0.1)
    for path, config in configs.items():
        (folder / path).mkdir(exist_ok=True)
        write_json(folder / path / "config.json", config)
        own = {k.removeprefix(f"{path}."): v for k, v in tensors.items() if k.startswith(path)}
        if own:
            save_file(own, folder / path / "model.safetensors", metadata={"format": "pt"})
            (folder / path / "model.safetensors").chmod(0o644)


def load(folder):
    encoder = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    width = json.loads((folder / "3_LayerNorm" / "config.json").read_text())["dimension"]
    end = layers(width)
    for path, layer in end.items():
        layer.load_state_dict(load_file(folder / path / "model.safetensors"))

    def model(input_ids):
        x = encoder(input_ids=input_ids).last_hidden_state[:, 0]
        x = end["3_LayerNorm"]["norm"](nn.functional.gelu(end["2_Dense"]["linear"](x)))
        return SimpleNamespace(logits=end["4_Dense"]["linear"](x))

    return model
