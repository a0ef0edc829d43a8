"""voyageai: replies hold `data` instead of `results`, and documents as plain strings."""

import pytest
import voyageai
from plain import DOCUMENTS, EMPTY_DOCUMENTS, QUERY, URL, check_ranking


@pytest.fixture
def client():
    return voyageai.Client(api_key="any", base_url=f"{URL}/v1")


@pytest.mark.parametrize("top_k", [None, 2])
def test_ranks_documents(client, top_k):
    reply = client.rerank(QUERY, DOCUMENTS, model="rerank-2.5", top_k=top_k)
    pairs = ((result.index, result.relevance_score) for result in reply.results)
    check_ranking(pairs, count=top_k or len(DOCUMENTS))
    assert all(result.document == DOCUMENTS[result.index] for result in reply.results)
    assert reply.total_tokens > 0


def test_empty_documents_are_an_invalid_request(client):
    with pytest.raises(voyageai.error.InvalidRequestError, match=EMPTY_DOCUMENTS):
        client.rerank(QUERY, [], model="rerank-2.5")
