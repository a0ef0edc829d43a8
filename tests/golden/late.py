"""Tiny random models of late interaction, and what ColBERT's definition gives for them: nothing in them was learned.

tiny-colbert      BERT in Stanford's layout: masks that are not attended to, punctuation left out of documents
tiny-pylate       ModernBERT in PyLate's layout, the same
tiny-pylate-xlm   XLM-RoBERTa in PyLate's layout: masks that are attended to, a skiplist of its own
tiny-jina-colbert XLM-RoBERTa with Jina's names and rotary positions in Stanford's layout: masks that are attended to
"""
import json
import string
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file
from tokenizers import BertWordPieceTokenizer, Tokenizer
from transformers import (
    AutoModel, BertConfig, BertModel, ModernBertConfig, ModernBertModel, XLMRobertaConfig, XLMRobertaModel,
)

import families
import jina
from fixtures import randomise, vocabulary, write_json

DIM = 24
QUERY_LENGTH, DOCUMENT_LENGTH = 14, 40
SHOWN = 6  # pairs of which the vectors are kept too


def projection(seed, hidden):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(DIM, hidden, generator=generator) / hidden ** 0.5).to(torch.float16)


def finish(folder, model, seed, tokenizer, architecture):
    families.save(folder, model, seed, tokenizer)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "architectures": [architecture]})


def colbert(folder):
    vocab = vocabulary(300, decompose=True)
    vocab[1:1] = ["[unused0]", "[unused1]"]
    tokenizer = BertWordPieceTokenizer({w: i for i, w in enumerate(vocab)}, lowercase=True)
    config = BertConfig(**families.SIZES, vocab_size=len(vocab), max_position_embeddings=64)
    finish(folder, BertModel(config, add_pooling_layer=False).eval(), 41, tokenizer, "HF_ColBERT")
    tensors = {f"bert.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    save_file({**tensors, "linear.weight": projection(42, 64)}, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "artifact.metadata", {
        "query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_token": "[Q]", "doc_token": "[D]",
        "attend_to_mask_tokens": False, "mask_punctuation": True, "similarity": "cosine", "dim": DIM,
        "query_maxlen": QUERY_LENGTH, "doc_maxlen": DOCUMENT_LENGTH, "nbits": 2,
    })


def pylate(folder, model, seed, tokenizer, settings):
    tokenizer.add_tokens(["[Q] ", "[D] "])
    finish(folder, model, seed, tokenizer, type(model).__name__)
    dense = folder / "1_Dense"
    dense.mkdir(exist_ok=True)
    save_file({"linear.weight": projection(seed + 1, 64)}, dense / "model.safetensors", metadata={"format": "pt"})
    write_json(dense / "config.json", {
        "in_features": 64, "out_features": DIM, "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity"})
    write_json(folder / "modules.json", [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"}])
    write_json(folder / "config_sentence_transformers.json", {
        "query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": QUERY_LENGTH,
        "document_length": DOCUMENT_LENGTH, "do_query_expansion": True, **settings})


def modernbert(folder):
    tokenizer = families.byte_level(families.BERT_SPECIAL)
    tokenizer.post_processor = families.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    config = ModernBertConfig(
        **{**families.SIZES, "num_hidden_layers": 4}, vocab_size=tokenizer.get_vocab_size() + 2,
        max_position_embeddings=64, local_attention=32, global_attn_every_n_layers=2, pad_token_id=0,
        cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3)
    pylate(folder, ModernBertModel(config).eval(), 43, tokenizer, {
        "attend_to_expansion_tokens": False, "skiplist_words": list(string.punctuation)})


def xlm_roberta(folder):
    tokenizer = families.unigram()
    tokenizer.add_special_tokens(["<mask>"])
    config = XLMRobertaConfig(
        **families.SIZES, vocab_size=tokenizer.get_vocab_size() + 2, max_position_embeddings=66, type_vocab_size=1,
        layer_norm_eps=1e-5, pad_token_id=1)
    pylate(folder, XLMRobertaModel(config, add_pooling_layer=False).eval(), 45, tokenizer, {
        "attend_to_expansion_tokens": True, "skiplist_words": ["▁", "river"]})


def jina_colbert(folder):
    tokenizer = families.unigram()
    tokenizer.add_special_tokens(["<mask>", "[QueryMarker]", "[DocumentMarker]"])
    config = XLMRobertaConfig(
        **families.SIZES, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=66, type_vocab_size=1,
        layer_norm_eps=1e-5, pad_token_id=1, position_embedding_type="rotary", rotary_emb_base=10000.0,
        auto_map=jina.AUTO_MAP)
    finish(folder, jina.Encoder(config).eval(), 47, tokenizer, "HF_ColBERT")
    tensors = {f"roberta.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    save_file({**tensors, "linear.weight": projection(48, 64)}, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "artifact.metadata", {
        "query_token_id": "[QueryMarker]", "doc_token_id": "[DocumentMarker]", "attend_to_mask_tokens": True,
        "mask_punctuation": True, "similarity": "cosine", "dim": DIM, "query_maxlen": QUERY_LENGTH,
        "doc_maxlen": DOCUMENT_LENGTH,
    })


FOLDERS = {"tiny-colbert": colbert, "tiny-pylate": modernbert, "tiny-pylate-xlm": xlm_roberta,
           "tiny-jina-colbert": jina_colbert}


class Reference:
    """By the definition alone, in f32."""

    def __init__(self, folder):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tensors = load_file(folder / "model.safetensors")
        stanford = folder / "artifact.metadata"
        if stanford.exists():
            settings = json.loads(stanford.read_text())
            if jina.is_one(folder):
                config = json.loads((folder / "config.json").read_text())
                self.model, prefix = jina.Encoder(SimpleNamespace(**config)), "roberta."
            else:
                config = BertConfig.from_pretrained(folder)
                self.model, prefix = BertModel(config, add_pooling_layer=False), "bert."
            names = {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}
            self.model.load_state_dict(names, strict=False)
            self.linear = tensors["linear.weight"].float()
            self.markers = settings["query_token_id"], settings["doc_token_id"]
            self.attends, skiplist = settings["attend_to_mask_tokens"], list(string.punctuation)
        else:
            settings = json.loads((folder / "config_sentence_transformers.json").read_text())
            self.model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
            self.linear = load_file(folder / "1_Dense" / "model.safetensors")["linear.weight"].float()
            self.markers = settings["query_prefix"], settings["document_prefix"]
            self.attends, skiplist = settings["attend_to_expansion_tokens"], settings["skiplist_words"]
        self.model.eval()
        ids = map(self.tokenizer.token_to_id, skiplist)
        self.skiplist = {i for i in ids if i is not None}
        masks = (self.tokenizer.token_to_id(token) for token in ("[MASK]", "<mask>"))
        self.mask = next(i for i in masks if i is not None)

    def ids(self, text, marker, length):
        whole = self.tokenizer.encode(text).ids
        first, text, last = whole[0], whole[1:-1], whole[-1]
        return [first, self.tokenizer.token_to_id(marker), *text[: length - 3], last]

    @torch.inference_mode()
    def vectors(self, ids, attended):
        mask = torch.tensor([[1] * attended + [0] * (len(ids) - attended)])
        hidden = self.model(input_ids=torch.tensor([ids]), attention_mask=mask).last_hidden_state[0]
        return torch.nn.functional.normalize(hidden @ self.linear.T, dim=1)

    def query(self, text):
        ids = self.ids(text, self.markers[0], QUERY_LENGTH)
        whole = ids + [self.mask] * (QUERY_LENGTH - len(ids))
        return self.vectors(whole, len(whole) if self.attends else len(ids))

    def document(self, text):
        ids = self.ids(text, self.markers[1], DOCUMENT_LENGTH)
        return self.vectors(ids, len(ids))[[i not in self.skiplist for i in ids]]


def golden(folder, pairs):
    reference = Reference(folder)
    rows = []
    for query, document in pairs:
        q, d = reference.query(query), reference.document(document)
        row = {"query": query, "document": document, "max_sim": round((q @ d.T).max(1).values.sum().item(), 6)}
        if len(rows) < SHOWN:
            show = lambda vectors: [[round(x, 6) for x in v] for v in vectors.tolist()]
            row |= {"query_vectors": show(q), "document_vectors": show(d)}
        rows.append(row)
    return rows
