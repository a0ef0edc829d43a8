"""The reference for GTE's encoders: their own code is fetched from the hub with a checkpoint, so what it computes is
written anew here, in plain torch, from what its authors publish (embeddings without positions, heads turned by rotary
ones with fixed NTK scaling, norms after each part, gated feed-forward, a pooler of the first token)."""
import json
import math
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch import nn


class Config(SimpleNamespace):
    def __init__(self, **sizes):
        super().__init__(**{
            "model_type": "new", "hidden_act": "gelu", "layer_norm_eps": 1e-12, "layer_norm_type": "layer_norm",
            "logn_attention_scale": False, "pack_qkv": True, "pad_token_id": 1, "position_embedding_type": "rope",
            "rope_theta": 20000, "rope_scaling": {"factor": 8.0, "type": "ntk"}, "type_vocab_size": 1,
            "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, **sizes})

    def to_diff_dict(self):
        return {**vars(self), "auto_map": {"AutoModelForSequenceClassification": "modeling.NewForSequenceClassification"}}


def turned(x, positions, config):
    """x is [tokens, heads, head_dim]."""
    dim = x.shape[-1]
    factor = config.rope_scaling["factor"]
    frequencies = (config.rope_theta * factor) ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = positions[:, None].double() * frequencies / factor ** (2 / dim)
    cos, sin = (torch.cat([f(angles)] * 2, -1)[:, None].to(x.dtype) for f in (torch.cos, torch.sin))
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat([-high, low], -1) * sin


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden, self.config = config.hidden_size, config
        self.attention = nn.ModuleDict({"qkv_proj": nn.Linear(hidden, 3 * hidden), "o_proj": nn.Linear(hidden, hidden)})
        self.mlp = nn.ModuleDict({
            "up_gate_proj": nn.Linear(hidden, 2 * config.intermediate_size, bias=False),
            "down_proj": nn.Linear(config.intermediate_size, hidden)})
        self.attn_ln = nn.LayerNorm(hidden, config.layer_norm_eps)
        self.mlp_ln = nn.LayerNorm(hidden, config.layer_norm_eps)

    def forward(self, x):
        heads, positions = self.config.num_attention_heads, torch.arange(len(x))
        query, key, value = (part.unflatten(-1, (heads, -1)) for part in self.attention["qkv_proj"](x).chunk(3, -1))
        query, key = turned(query, positions, self.config), turned(key, positions, self.config)
        scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1])
        context = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1)
        x = self.attn_ln(x + self.attention["o_proj"](context))
        up, gate = self.mlp["up_gate_proj"](x).chunk(2, -1)
        return self.mlp_ln(x + self.mlp["down_proj"](nn.functional.gelu(gate) * up))


class ForSequenceClassification(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden, self.config = config.hidden_size, config
        self.new = nn.ModuleDict({
            "embeddings": nn.ModuleDict({
                "word_embeddings": nn.Embedding(config.vocab_size, hidden),
                "token_type_embeddings": nn.Embedding(config.type_vocab_size, hidden),
                "LayerNorm": nn.LayerNorm(hidden, config.layer_norm_eps)}),
            "encoder": nn.ModuleDict({"layer": nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))}),
            "pooler": nn.ModuleDict({"dense": nn.Linear(hidden, hidden)})})
        self.classifier = nn.Linear(hidden, 1)

    def forward(self, input_ids):
        table = self.new["embeddings"]
        x = table["LayerNorm"](table["word_embeddings"](input_ids[0]) + table["token_type_embeddings"].weight[0])
        for layer in self.new["encoder"]["layer"]:
            x = layer(x)
        return SimpleNamespace(logits=self.classifier(self.new["pooler"]["dense"](x[:1]).tanh()))


# As config.json has to name it.
ForSequenceClassification.__name__ = "NewForSequenceClassification"


def is_one(folder):
    return json.loads((folder / "config.json").read_text())["model_type"] == "new"


def load(folder):
    config = json.loads((folder / "config.json").read_text())
    model = ForSequenceClassification(Config(**config))
    model.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    return model.eval()
