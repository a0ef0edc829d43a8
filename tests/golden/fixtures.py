"""Tiny random models in the layouts the engine must read: nothing in them was learned.

tiny-bert     a two-label cross-encoder, cased, known to its tokenizer only by vocab.txt
tiny-encoder  a sentence encoder with modules.json, tokenizer.json and sharded weights
"""
import json
import unicodedata

import torch
from safetensors.torch import save_file
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertForSequenceClassification, BertModel

from texts import EMOJI, ENGLISH, JAPANESE, KOREAN, OTHER

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def vocabulary(size, decompose):
    """Specials, single characters, their ## forms, then word pieces; some words stay unknown."""
    entries = dict.fromkeys(SPECIAL)
    characters = [chr(c) for c in range(33, 127)]
    texts = "".join(KOREAN[:4] + JAPANESE[:8] + OTHER[:4] + EMOJI[:3])
    if decompose:  # as the uncased tokenizer does before it looks words up
        texts = "".join(c for c in unicodedata.normalize("NFD", texts.lower()) if unicodedata.category(c) != "Mn")
    characters += [c for c in dict.fromkeys(texts) if not c.isspace()]
    entries.update(dict.fromkeys(characters))
    entries.update(dict.fromkeys(f"##{c}" for c in characters if c.isalnum()))
    entries.update(dict.fromkeys(w for w in ENGLISH if w.isalpha()))
    entries.update(dict.fromkeys(f"##{end}" for end in "er ing ion al ness es ed ly".split()))
    return list(entries)[:size]


def randomise(model, seed, deviation=0.2, norm=1):
    """Weights large enough that scores differ visibly, norms (around `norm`) and biases off their defaults."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            value.normal_(0, deviation, generator=generator)
            if ("norm" in name.lower() or "_ln." in name) and name.endswith("weight"):
                value.add_(norm)
    return {k: v.contiguous() for k, v in model.state_dict().items() if "position_ids" not in k}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_weights(tensors, path):
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)


def config_of(model, name):
    keep = (
        "hidden_act hidden_size initializer_range intermediate_size layer_norm_eps "
        "max_position_embeddings num_attention_heads num_hidden_layers pad_token_id "
        "type_vocab_size vocab_size attention_probs_dropout_prob hidden_dropout_prob"
    ).split()
    config = model.config.to_dict()
    return {"architectures": [name], "model_type": "bert", **{k: config[k] for k in keep}}


def tiny_bert(folder):
    folder.mkdir(exist_ok=True)
    vocab = vocabulary(400, decompose=False)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=160, max_position_embeddings=512, num_labels=2,
    )
    model = BertForSequenceClassification(config).eval()
    write_weights(randomise(model, seed=11), folder / "model.safetensors")
    write_json(folder / "config.json", {
        **config_of(model, "BertForSequenceClassification"),
        "id2label": {"0": "irrelevant", "1": "relevant"},
        "label2id": {"irrelevant": 0, "relevant": 1},
    })
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": None,
        "tokenize_chinese_chars": True, "model_max_length": 512,
    })


def tiny_encoder(folder):
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    vocab = vocabulary(400, decompose=True)
    tokenizer = BertWordPieceTokenizer({w: i for i, w in enumerate(vocab)}, lowercase=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=48, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=96, max_position_embeddings=128,
    )
    model = BertModel(config).eval()
    tensors = randomise(model, seed=12)
    names = sorted(tensors)
    shards = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    for file, part in shards.items():
        write_weights({k: tensors[k] for k in part}, folder / file)
    write_json(folder / "model.safetensors.index.json", {
        "metadata": {"total_size": sum(4 * t.numel() for t in tensors.values())},
        "weight_map": {k: file for file, part in shards.items() for k in part},
    })
    write_json(folder / "config.json", config_of(model, "BertModel"))
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 128,
    })
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 100, "do_lower_case": False})
    kinds = ["Transformer", "Pooling", "Normalize"]
    write_json(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ])
    write_json(folder / "1_Pooling" / "config.json", {
        "word_embedding_dimension": 48, "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    })
