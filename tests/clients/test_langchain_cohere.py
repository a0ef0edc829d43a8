"""langchain-cohere always sends `max_tokens_per_doc: null`, and `top_n: null` to ask for all."""

import cohere
import pytest
from langchain_cohere import CohereRerank
from langchain_core.documents import Document
from plain import DOCUMENTS, EMPTY_QUERY, QUERY, URL, check_ranking


@pytest.fixture
def reranker():
    return CohereRerank(model="rerank-v3.5", cohere_api_key="any", base_url=URL, top_n=2)


def test_ranks_all_documents(reranker):
    results = reranker.rerank(DOCUMENTS, QUERY, top_n=None)
    check_ranking((result["index"], result["relevance_score"]) for result in results)


def test_compresses_to_top_n(reranker):
    documents = [Document(text, metadata={"index": i}) for i, text in enumerate(DOCUMENTS)]
    kept = reranker.compress_documents(documents, QUERY)
    assert all(document.page_content == DOCUMENTS[document.metadata["index"]] for document in kept)
    pairs = ((d.metadata["index"], d.metadata["relevance_score"]) for d in kept)
    check_ranking(pairs, count=2)


def test_an_empty_query_is_a_bad_request(reranker):
    # An empty list of documents never leaves this client.
    with pytest.raises(cohere.BadRequestError, match=EMPTY_QUERY):
        reranker.rerank(DOCUMENTS, " ")
