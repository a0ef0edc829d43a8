"""LlamaIndex: the Cohere postprocessor asks /v2/rerank, the TEI one /rerank."""

import cohere
import pytest
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
from plain import DOCUMENTS, EMPTY_QUERY, QUERY, URL, check_ranking


@pytest.fixture
def nodes():
    return [NodeWithScore(node=TextNode(text=text), score=0.5) for text in DOCUMENTS]


def pairs(nodes):
    return ((DOCUMENTS.index(node.node.text), node.score) for node in nodes)


@pytest.mark.parametrize("top_n", [2, 3])
def test_cohere(nodes, top_n):
    reranker = CohereRerank(top_n=top_n, model="rerank-v3.5", api_key="any", base_url=URL)
    check_ranking(pairs(reranker.postprocess_nodes(nodes, QueryBundle(QUERY))), count=top_n)


def test_cohere_empty_query_is_a_bad_request(nodes):
    # An empty list of nodes never leaves this client.
    reranker = CohereRerank(model="rerank-v3.5", api_key="any", base_url=URL)
    with pytest.raises(cohere.BadRequestError, match=EMPTY_QUERY):
        reranker.postprocess_nodes(nodes, QueryBundle(" "))


@pytest.mark.parametrize("top_n", [2, 3])
def test_tei(nodes, top_n):
    # It asserts one result per text and cuts to top_n itself.
    reranker = TextEmbeddingInference(top_n=top_n, base_url=URL, auth_token="any")
    check_ranking(pairs(reranker.postprocess_nodes(nodes, QueryBundle(QUERY))), count=top_n)
