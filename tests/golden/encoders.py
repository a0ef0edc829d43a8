"""Tiny random encoders whose vectors are checked: each a layout of sentence-transformers that a family has.

tiny-e5                XLM-RoBERTa, mean of the tokens, length one, prompts for queries and passages
tiny-modernbert-embed  ModernBERT, the first token, any length, a default prompt
tiny-distilbert-embed  DistilBERT, mean of the tokens, no prompts
"""
import json

import torch
from transformers import (
    AutoModel, DistilBertConfig, DistilBertModel, ModernBertConfig, ModernBertModel, XLMRobertaConfig,
    XLMRobertaModel,
)

import families
import texts
from fixtures import write_json

LIMIT = 64
SIZES = families.SIZES


def layout(folder, width, pooling, normalize, prompts=None, default=None):
    """The files that sentence-transformers puts beside the model."""
    kinds = ["Transformer", "Pooling"] + ["Normalize"] * normalize
    write_json(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ])
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json", {
        "word_embedding_dimension": width, "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean",
    })
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": LIMIT, "do_lower_case": False})
    if prompts:
        write_json(folder / "config_sentence_transformers.json", {
            "prompts": prompts, "default_prompt_name": default, "similarity_fn_name": "cosine",
        })


def e5(folder):
    tokenizer = families.unigram()
    config = XLMRobertaConfig(
        **SIZES, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=LIMIT + 2, type_vocab_size=1,
        layer_norm_eps=1e-5, pad_token_id=1)
    families.save(folder, XLMRobertaModel(config).eval(), 41, tokenizer, limit=LIMIT)
    layout(folder, 64, "mean", True, {"query": "query: ", "passage": "passage: "})


def modernbert(folder):
    tokenizer = families.byte_level(families.BERT_SPECIAL)
    tokenizer.post_processor = families.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    config = ModernBertConfig(
        **SIZES, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=128, local_attention=32,
        global_attn_every_n_layers=2, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2,
        sep_token_id=3)
    families.save(folder, ModernBertModel(config).eval(), 42, tokenizer, limit=LIMIT)
    layout(folder, 64, "cls", False, {"search": "search_query: ", "document": "search_document: "}, "document")


def distilbert(folder):
    tokenizer = families.word_piece()
    config = DistilBertConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=LIMIT, dim=64, n_layers=2, n_heads=2,
        hidden_dim=96)
    families.save(folder, DistilBertModel(config).eval(), 43, tokenizer, limit=LIMIT)
    layout(folder, 64, "mean", False)


ENCODERS = {"tiny-e5": e5, "tiny-modernbert-embed": modernbert, "tiny-distilbert-embed": distilbert}


def read_json(folder, name, otherwise):
    path = folder / name
    return json.loads(path.read_text()) if path.exists() else otherwise


@torch.inference_mode()
def golden(folder, tokenizer, seed):
    """A vector for each text, of length one, and where the model has prompts one for each prompt."""
    limit = read_json(folder, "sentence_bert_config.json", {})["max_seq_length"]
    tokenizer.enable_truncation(limit)
    pooling = read_json(folder, "1_Pooling/config.json", {})
    prompts = read_json(folder, "config_sentence_transformers.json", {}).get("prompts", {})
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for i, (_, text) in enumerate(texts.pairs(seed, count=56, longest=limit)):
        name = [None, *prompts][i % (len(prompts) + 1)]
        ids = torch.tensor([tokenizer.encode(prompts.get(name, "") + text).ids])
        hidden = model(input_ids=ids).last_hidden_state[0]
        pooled = hidden[0] if pooling["pooling_mode_cls_token"] else hidden.mean(0)
        vector = [round(v, 6) for v in torch.nn.functional.normalize(pooled, dim=0).tolist()]
        rows.append({"text": text, "prompt": name, "vector": vector, "num_tokens": ids.shape[1]})
    return rows
