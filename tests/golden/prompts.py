"""Language models asked in words whether a document answers a query, as Qwen3-Reranker's card does it."""
import torch

# Texts of the card, but that it makes a Python list of strings of them.
QWEN3_RERANKER = {
    "instruction": "Given a web search query, retrieve relevant passages that answer the query",
    "prefix": "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
              "Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n",
    "query": "<Instruct>: {instruction}\n<Query>: {query}\n<Document>:",
    "document": " {document}",
    "suffix": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "yes": "yes",
    "no": "no",
}
GRADED = {
    "instruction": "",
    "prefix": "<|im_start|>user\n",
    "query": "query: {query}\ndocument:",
    "document": " {document}",
    "suffix": "\nRelevance:<|im_end|>\n<|im_start|>assistant\n",
    "yes": "1",
    "no": "0",
}
# As its card joins the pieces: each line is tokenised by itself, and the logit of yes alone counts.
BGE_GEMMA = {
    "instruction": "",
    "prefix": "<bos>",
    "query": "A: {query}",
    "document": "\nB: {document}",
    "suffix": "\nGiven a query A and a passage B, determine whether the passage contains an answer to the query by "
              "providing a prediction of either 'Yes' or 'No'.",
    "yes": "Yes",
    "no": "",
}
PLAIN = {**GRADED, "prefix": "", "suffix": "<|im_end|>"}


def body(prompt, query, document):
    text = prompt["query"].replace("{instruction}", prompt["instruction"]).replace("{query}", query)
    return text + prompt["document"].replace("{document}", document)


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def input_ids(tokenizer, prompt, query, document, limit):
    """Prefix, as much of query and document as there is room for, suffix; None where the card would cut away
    what comes after the query."""
    prefix, suffix = ids(tokenizer, prompt["prefix"]), ids(tokenizer, prompt["suffix"])
    room = limit - len(prefix) - len(suffix)
    if prompt is BGE_GEMMA:
        inner = ids(tokenizer, body(prompt, query, "")[:-len("\nB: ")]) + ids(tokenizer, f"\nB: {document}")
    else:
        inner = ids(tokenizer, body(prompt, query, document))
    if len(inner) > room and len(ids(tokenizer, body(prompt, query, ""))) > room // 2:
        return None
    return prefix + inner[:room] + suffix


@torch.inference_mode()
def logits(model, tokenizer, prompt, tokens):
    row = model(input_ids=torch.tensor([tokens])).logits[0]
    if row.ndim == 1:
        return row.tolist()
    answers = [tokenizer.token_to_id(prompt[answer]) for answer in ("no", "yes") if prompt[answer]]
    return row[-1, answers].tolist()


def toml(prompt):
    lines = [f"{key} = {quoted(prompt[key])}" for key in prompt if prompt[key]]
    return "# How this model is asked.\n[prompt]\n" + "\n".join(lines) + "\n"


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
