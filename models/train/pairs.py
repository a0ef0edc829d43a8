"""Pairs of token ids as the inputs of a cross-encoder."""
import torch

CLS, SEP = 101, 102
QUERY_CUT = 96


def inputs_of(queries, docs, query, doc, first, length):
    """Inputs of `[CLS] query [SEP] window [SEP]` for flat rows, padded to the longest."""
    q_at, q_length = queries.at[query], (queries.at[query + 1] - queries.at[query]).clamp(max=QUERY_CUT)
    total = q_length + length + 3
    width = -(-int(total.max()) // 8) * 8
    at = torch.arange(width, device=query.device)[None]
    in_query = (at >= 1) & (at <= q_length[:, None])
    behind = at - q_length[:, None] - 2
    in_doc = (behind >= 0) & (behind < length[:, None])
    ids = torch.zeros(len(query), width, dtype=torch.long, device=query.device)
    ids = torch.where(in_query, queries.ids[(q_at[:, None] + at - 1).clamp(0, len(queries.ids) - 1)].long(), ids)
    start = docs.at[doc] + first
    ids = torch.where(in_doc, docs.ids[(start[:, None] + behind).clamp(0, len(docs.ids) - 1)].long(), ids)
    ids[:, 0] = CLS
    ids = torch.where((at == q_length[:, None] + 1) | (at == total[:, None] - 1), SEP, ids)
    mask = at < total[:, None]
    types = (at > q_length[:, None] + 1) & mask
    return {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": types.long()}


def forward(model, queries, docs, query, doc, first, length, slices):
    """Logit and extra outputs of every pair: slices of similar length, so that little is padding."""
    order = length.argsort(descending=True)
    outs = []
    for rows in order.chunk(slices):
        inputs = inputs_of(queries, docs, query[rows], doc[rows], first[rows], length[rows])
        pooled = model.bert(**inputs).pooler_output
        outs.append(torch.cat([model.classifier(pooled), model.extra(pooled)], 1).float())
    return torch.cat(outs)[order.argsort()]
