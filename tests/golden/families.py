"""Tiny random cross-encoders, one of each family that the engine has: nothing in them was learned.

Weights are stored in f16, which every reader widens to the same f32. Windows and limits are short, so that the pairs
overflow them; heads have 32 columns, the smallest that a GPU kernel knows, but for one of 256, the widest.
"""
import json

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import BertWordPieceTokenizer
from transformers import (
    DebertaV2Config, DebertaV2ForSequenceClassification, DistilBertConfig, DistilBertForSequenceClassification, ElectraConfig, ElectraForSequenceClassification,
    Gemma2Config, Gemma2ForCausalLM, GemmaConfig, GemmaForCausalLM, GemmaForSequenceClassification, LlamaConfig, LlamaForSequenceClassification, ModernBertConfig, ModernBertForSequenceClassification, ModernBertModel,
    Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification,
    RobertaConfig, RobertaForSequenceClassification, XLMRobertaConfig, XLMRobertaForSequenceClassification,
)

import prompts

import gte
import jina
import modules

from fixtures import randomise, vocabulary, write_json
from texts import EMOJI, ENGLISH, JAPANESE, KOREAN, OTHER

LIMIT = 128
# Of the weights: a layer passes on about as much as it gets, as layers that have learned do.
DEVIATION = 0.1
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
DEBERTA_SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
GEMMA_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def save(folder, model, seed, tokenizer, config=None, limit=LIMIT, dtype=torch.float16):
    folder.mkdir(exist_ok=True)
    # Gemma's norms add one to their weights.
    norm = 0 if model.config.model_type.startswith("gemma") else 1
    tensors = {name: value.to(dtype) for name, value in randomise(model, seed, DEVIATION, norm).items()}
    if getattr(model.config, "tie_word_embeddings", False):
        tensors.pop("lm_head.weight", None)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(str(folder / "tokenizer.json"))
    model.config.architectures = [type(model).__name__]
    plain = {k: v for k, v in model.config.to_diff_dict().items() if k not in ("transformers_version", "dtype")}
    write_json(folder / "config.json", {**plain, **(config or {})})
    write_json(folder / "tokenizer_config.json", {"model_max_length": limit})


def unigram():
    """Pieces of words with scores, as sentencepiece's unigram models have them."""
    words = [w for w in ENGLISH if w.isalpha()]
    texts = "".join(KOREAN[:6] + JAPANESE[:8] + OTHER[:4] + EMOJI[:3]) + "".join(chr(c) for c in range(33, 127))
    pieces = dict.fromkeys(["▁", *(f"▁{w}" for w in words[::2]), *(w[-3:] for w in words[1::2]), *texts])
    entries = [(piece, -3.0 - 0.01 * i) for i, piece in enumerate(pieces) if not piece.isspace()]
    specials = [(token, 0.0) for token in ROBERTA_SPECIAL]
    tokenizer = Tokenizer(models.Unigram(specials + entries, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ROBERTA_SPECIAL])
    # Type 1 for the second text, as published, although the model knows one type alone.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s>:0 $A:0 </s>:0", pair="<s>:0 $A:0 </s>:0 </s>:0 $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer


def trained_unigram():
    """As DeBERTa's tokenizer is: sentencepiece's unigram model, trained; spaces become a part of the pieces."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    words = [w for w in ENGLISH if w.isalpha()]
    texts = [" ".join(words[i:i + 5]) for i in range(len(words) - 5)] * 3 + KOREAN + JAPANESE + OTHER[:6]
    trainer = trainers.UnigramTrainer(
        vocab_size=280, special_tokens=DEBERTA_SPECIAL, unk_token="[UNK]", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    # The trainer breaks ties between pieces as its threads end: an order of the text's own makes the file repeatable.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return tokenizer


def byte_level(special, vocab_size=320, texts=()):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([" ".join(ENGLISH), *texts], trainer)
    return tokenizer


def word_piece():
    vocab = vocabulary(300, decompose=True)
    return BertWordPieceTokenizer({w: i for i, w in enumerate(vocab)}, lowercase=True)


def xlm_roberta(folder):
    tokenizer = unigram()
    config = XLMRobertaConfig(
        **SIZES, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=LIMIT + 2, type_vocab_size=1,
        num_labels=1, layer_norm_eps=1e-5, pad_token_id=1)
    save(folder, XLMRobertaForSequenceClassification(config).eval(), 21, tokenizer)


def roberta(folder):
    tokenizer = byte_level(ROBERTA_SPECIAL)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    config = RobertaConfig(
        **SIZES, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=LIMIT + 2, type_vocab_size=1,
        num_labels=2, layer_norm_eps=1e-5, pad_token_id=1)
    save(folder, RobertaForSequenceClassification(config).eval(), 22, tokenizer)


def distilbert(folder):
    tokenizer = word_piece()
    config = DistilBertConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=LIMIT, dim=64, n_layers=2, n_heads=2,
        hidden_dim=96, num_labels=1)
    save(folder, DistilBertForSequenceClassification(config).eval(), 23, tokenizer)


def electra(folder):
    tokenizer = word_piece()
    config = ElectraConfig(
        **SIZES, embedding_size=32, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=LIMIT,
        num_labels=1)
    # What a checkpoint says of its own scores.
    save(folder, ElectraForSequenceClassification(config).eval(), 24, tokenizer,
         {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}})


def modernbert(folder, pooling, num_layers, seed):
    tokenizer = byte_level(BERT_SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    config = ModernBertConfig(
        **{**SIZES, "num_hidden_layers": num_layers}, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=256,
        num_labels=1, local_attention=32, global_attn_every_n_layers=3, classifier_pooling=pooling,
        pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3)
    save(folder, ModernBertForSequenceClassification(config).eval(), seed, tokenizer, limit=256)


def deberta(folder):
    tokenizer = trained_unigram()
    # Few buckets: most distances of the pairs share theirs.
    config = DebertaV2Config(
        **SIZES, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=LIMIT, num_labels=1,
        relative_attention=True, position_buckets=16, norm_rel_ebd="layer_norm", share_att_key=True,
        pos_att_type="p2c|c2p", position_biased_input=False, type_vocab_size=0, layer_norm_eps=1e-7,
        max_relative_positions=-1, pooler_hidden_act="gelu", pooler_hidden_size=64, pad_token_id=0)
    save(folder, DebertaV2ForSequenceClassification(config).eval(), 31, tokenizer,
         {"pooler_hidden_size": 64, "type_vocab_size": 0})


def gte_new(folder):
    tokenizer = unigram()
    config = gte.Config(**SIZES, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=LIMIT)
    save(folder, gte.ForSequenceClassification(config).eval(), 32, tokenizer)


def jina_reranker(folder):
    tokenizer = unigram()
    config = XLMRobertaConfig(
        **SIZES, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=LIMIT + 2, type_vocab_size=1,
        layer_norm_eps=1e-5, pad_token_id=1, num_labels=1)
    save(folder, XLMRobertaForSequenceClassification(config).eval(), 35, tokenizer,
         {"auto_map": jina.AUTO_MAP, "position_embedding_type": "absolute"})
    file = folder / "model.safetensors"
    save_file(jina.renamed(load_file(file)), file, metadata={"format": "pt"})


def modular(folder):
    """As sentence-transformers saves a cross-encoder made of modules: the encoder, pooling, and layers beside it."""
    tokenizer = byte_level(BERT_SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    config = ModernBertConfig(
        **SIZES, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=256, local_attention=32,
        pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3)
    save(folder, ModernBertModel(config).eval(), 33, tokenizer, limit=256)
    modules.save(folder, 64, 34)


def decoder(folder, config, model, seed, prompt, num_labels=None, special=None):
    asked = [value for name in ASKED for value in PROMPTS[name].values()]
    special = special or ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    # The same words as ever: another prompt in the list would change the tokenizers of all.
    tokenizer = byte_level(special, 480, (asked + ["yes no yes no", *(["Yes"] if "<bos>" in special else [])]) * 20)
    sizes = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": tokenizer.get_vocab_size()}
    labels = {"num_labels": num_labels} if num_labels else {}
    config = config(**sizes, **labels, max_position_embeddings=512, pad_token_id=0, bos_token_id=None, eos_token_id=2)
    save(folder, model(config).eval(), seed, tokenizer, limit=ASKED_LIMIT)
    # These prompts are known by the folder's name.
    if prompt not in (prompts.QWEN3_RERANKER, prompts.BGE_GEMMA):
        (folder / "model.toml").write_text(prompts.toml(prompt))


def qwen3(**sizes):
    # Wider heads than the row has room for, as published.
    return Qwen3Config(**sizes, head_dim=32, rope_theta=1_000_000.0, tie_word_embeddings=True)


def gemma(**sizes):
    return GemmaConfig(**sizes, head_dim=32)


def gemma2(**sizes):
    # Caps low enough and a window short enough that they matter.
    return Gemma2Config(
        **{"head_dim": 32, "query_pre_attn_scalar": 24, **sizes}, sliding_window=24, attn_logit_softcapping=4.0,
        final_logit_softcapping=6.0)


def wide_gemma2(**sizes):
    # Heads as wide as the published ones.
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256, "query_pre_attn_scalar": 256}
    return gemma2(**{**sizes, **heads})


def qwen2(**sizes):
    return Qwen2Config(**{**sizes, "num_attention_heads": 2, "num_key_value_heads": 1}, tie_word_embeddings=False)


def llama(**sizes):
    return LlamaConfig(**{**sizes, "num_attention_heads": 2, "num_key_value_heads": 1}, mlp_bias=True)


ASKED_LIMIT = 320
# What language models are asked; the other families are given a pair.
PROMPTS = {
    "tiny-qwen3-reranker": prompts.QWEN3_RERANKER,
    "tiny-qwen3-score": prompts.PLAIN,
    "tiny-qwen2": prompts.GRADED,
    "tiny-llama": prompts.PLAIN,
    "tiny-bge-reranker-v2-gemma": prompts.BGE_GEMMA,
    "tiny-gemma-score": prompts.PLAIN,
    "tiny-gemma2": prompts.GRADED,
    "tiny-gemma2-wide": prompts.GRADED,
}
# Whose words the tokenizers of all are trained on.
ASKED = ["tiny-qwen3-reranker", "tiny-qwen3-score", "tiny-qwen2", "tiny-llama"]

# Name of the folder, what makes it, and the longest sequence.
FAMILIES = {
    "tiny-xlm-roberta": (xlm_roberta, LIMIT),
    "tiny-roberta": (roberta, LIMIT),
    "tiny-distilbert": (distilbert, LIMIT),
    "tiny-electra": (electra, LIMIT),
    "tiny-modernbert": (lambda folder: modernbert(folder, "mean", 4, 25), 256),
    "tiny-modernbert-cls": (lambda folder: modernbert(folder, "cls", 2, 26), 256),
    "tiny-qwen3-reranker": (
        lambda folder: decoder(folder, qwen3, Qwen3ForCausalLM, 27, prompts.QWEN3_RERANKER), ASKED_LIMIT),
    "tiny-qwen3-score": (
        lambda folder: decoder(folder, qwen3, Qwen3ForSequenceClassification, 28, prompts.PLAIN, 1), ASKED_LIMIT),
    "tiny-qwen2": (lambda folder: decoder(folder, qwen2, Qwen2ForCausalLM, 29, prompts.GRADED), ASKED_LIMIT),
    "tiny-llama": (
        lambda folder: decoder(folder, llama, LlamaForSequenceClassification, 30, prompts.PLAIN, 1), ASKED_LIMIT),
    "tiny-deberta-v3": (deberta, LIMIT),
    "tiny-gte-new": (gte_new, LIMIT),
    "tiny-jina-reranker": (jina_reranker, LIMIT),
    "tiny-ettin": (modular, 256),
    "tiny-bge-reranker-v2-gemma": (
        lambda folder: decoder(
            folder, gemma, GemmaForCausalLM, 35, prompts.BGE_GEMMA, special=GEMMA_SPECIAL), ASKED_LIMIT),
    "tiny-gemma-score": (
        lambda folder: decoder(
            folder, gemma, GemmaForSequenceClassification, 36, prompts.PLAIN, 1, GEMMA_SPECIAL), ASKED_LIMIT),
    "tiny-gemma2": (
        lambda folder: decoder(folder, gemma2, Gemma2ForCausalLM, 37, prompts.GRADED), ASKED_LIMIT),
    "tiny-gemma2-wide": (
        lambda folder: decoder(folder, wide_gemma2, Gemma2ForCausalLM, 38, prompts.GRADED), ASKED_LIMIT),
}


def takes_types(folder):
    """Whether the family's tokenizer in transformers gives its model the types of tokens."""
    return json.loads((folder / "config.json").read_text())["model_type"] in ("bert", "electra")
