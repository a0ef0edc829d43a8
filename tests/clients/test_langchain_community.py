"""langchain-community: JinaRerank (`top_n: null` for all, errors in `detail`), InfinityRerank."""

import pytest
from infinity_client.client import Client
from langchain_community.document_compressors import InfinityRerank, jina_rerank
from plain import DOCUMENTS, EMPTY_QUERY, QUERY, URL, check_ranking


def pairs(results):
    return ((result["index"], result["relevance_score"]) for result in results)


@pytest.fixture
def jina(monkeypatch):
    # Its URL is a constant of the module: patching it is how its users reach another host.
    monkeypatch.setattr(jina_rerank, "JINA_API_URL", f"{URL}/v1/rerank")
    return jina_rerank.JinaRerank(jina_api_key="any")


@pytest.mark.parametrize("top_n", [None, 2])
def test_jina(jina, top_n):
    check_ranking(pairs(jina.rerank(DOCUMENTS, QUERY, top_n=top_n)), count=top_n or len(DOCUMENTS))


def test_jina_raises_the_detail(jina):
    with pytest.raises(RuntimeError, match=EMPTY_QUERY):
        jina.rerank(DOCUMENTS, " ")


@pytest.mark.parametrize("top_n", [None, 2])
def test_infinity(top_n):
    reranker = InfinityRerank(client=Client(base_url=URL), model="any")
    results = reranker.rerank(DOCUMENTS, QUERY, top_n=top_n)
    check_ranking(pairs(results), count=top_n or len(DOCUMENTS))
