"""The reference for Jina's checkpoints, whose code is fetched from the hub with them. With a table of positions they are
XLM-RoBERTa under other names, so transformers computes them after the names are put back. With heads turned by their
positions what they compute is written anew here, in plain torch."""
import json
import math
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

NAMES = [
    ("embeddings.LayerNorm", "emb_ln"), ("encoder.layer.", "encoder.layers."),
    ("attention.output.dense", "mixer.out_proj"), ("attention.output.LayerNorm", "norm1"),
    ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"), ("output.LayerNorm", "norm2"),
]
PARTS = ["query", "key", "value"]
AUTO_MAP = {"AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig"}


def is_one(folder):
    return json.loads((folder / "config.json").read_text()).get("auto_map") == AUTO_MAP


def renamed(tensors):
    """Transformers' tensors under Jina's names."""
    out = {}
    for name, value in tensors.items():
        if f"self.{PARTS[0]}" in name:
            whole = torch.cat([tensors[name.replace(PARTS[0], part)] for part in PARTS])
            name, value = name.replace("attention.self.query", "mixer.Wqkv"), whole
        elif "attention.self." in name:
            continue
        for theirs, jinas in NAMES:
            name = name.replace(theirs, jinas)
        out[name] = value.contiguous()
    return out


def restored(tensors):
    """The way back."""
    out = {}
    for name, value in tensors.items():
        for theirs, jinas in NAMES:
            name = name.replace(jinas, theirs)
        if "mixer.Wqkv" in name:
            for part, rows in zip(PARTS, value.chunk(3)):
                out[name.replace("mixer.Wqkv", f"attention.self.{part}")] = rows
        else:
            out[name] = value
    return out


def load(folder):
    config = XLMRobertaConfig.from_pretrained(folder)
    config._attn_implementation = "eager"
    model = XLMRobertaForSequenceClassification(config)
    tensors = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(restored(tensors))
    return model.eval()


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden, self.config = config.hidden_size, config
        self.mixer = nn.ModuleDict({"Wqkv": nn.Linear(hidden, 3 * hidden), "out_proj": nn.Linear(hidden, hidden)})
        self.mlp = nn.ModuleDict({
            "fc1": nn.Linear(hidden, config.intermediate_size), "fc2": nn.Linear(config.intermediate_size, hidden)})
        self.norm1, self.norm2 = (nn.LayerNorm(hidden, config.layer_norm_eps) for _ in range(2))

    def turned(self, x):
        """x is [tokens, heads, head_dim]."""
        dim = x.shape[-1]
        frequencies = self.config.rotary_emb_base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angles = torch.arange(len(x))[:, None].double() * frequencies
        cos, sin = (torch.cat([f(angles)] * 2, -1)[:, None].to(x.dtype) for f in (torch.cos, torch.sin))
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat([-high, low], -1) * sin

    def forward(self, x, attended):
        heads = self.config.num_attention_heads
        query, key, value = (part.unflatten(-1, (heads, -1)) for part in self.mixer["Wqkv"](x).chunk(3, -1))
        scores = torch.einsum("qhd,khd->hqk", self.turned(query), self.turned(key)) / math.sqrt(query.shape[-1])
        scores = scores.masked_fill(~attended, -math.inf)
        context = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1)
        x = self.norm1(x + self.mixer["out_proj"](context))
        return self.norm2(x + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](x))))


class Encoder(nn.Module):
    """With heads turned by their positions."""

    def __init__(self, config):
        super().__init__()
        hidden, self.config = config.hidden_size, config
        self.embeddings = nn.ModuleDict({
            "word_embeddings": nn.Embedding(config.vocab_size, hidden),
            "token_type_embeddings": nn.Embedding(config.type_vocab_size, hidden)})
        self.emb_ln = nn.LayerNorm(hidden, config.layer_norm_eps)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))})

    def forward(self, input_ids, attention_mask):
        table = self.embeddings
        x = self.emb_ln(table["word_embeddings"](input_ids[0]) + table["token_type_embeddings"].weight[0])
        for layer in self.encoder["layers"]:
            x = layer(x, attention_mask[0].bool())
        return SimpleNamespace(last_hidden_state=x[None])
