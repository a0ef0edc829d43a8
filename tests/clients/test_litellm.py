"""litellm.rerank(): one call, and five providers that each make their own path and body of it."""

import os

# Before the import, which would fetch a price list from the network and wait for it.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
import pytest
from plain import DOCUMENTS, EMPTY_DOCUMENTS, QUERY, URL, check_ranking

ECHOING = ["cohere", "hosted_vllm", "jina_ai", "huggingface"]
PROVIDERS = [*ECHOING, "infinity"]


def rerank(provider, documents=DOCUMENTS, **options):
    place = {"model": f"{provider}/any", "api_base": URL, "api_key": "any"}
    return litellm.rerank(**place, query=QUERY, documents=documents, **options).results


def pairs(results):
    return ((result["index"], result["relevance_score"]) for result in results)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_ranks_all_documents(provider):
    results = rerank(provider, return_documents=False)
    check_ranking(pairs(results))
    assert not any("document" in result for result in results)


# huggingface is TEI, whose replies always hold every text.
@pytest.mark.parametrize("provider", ["cohere", "hosted_vllm", "jina_ai", "infinity"])
def test_top_n(provider):
    check_ranking(pairs(rerank(provider, top_n=2, return_documents=False)), count=2)


@pytest.mark.parametrize("provider", ECHOING)
def test_documents_come_back_by_default(provider):
    for result in rerank(provider):
        assert result["document"]["text"] == DOCUMENTS[result["index"]]


@pytest.mark.xfail(strict=True, reason="its body equals hosted_vllm's, which needs an object here")
def test_infinity_wants_documents_as_strings():
    rerank("infinity", return_documents=True)


@pytest.mark.parametrize("provider", ["cohere", "hosted_vllm", "jina_ai", "infinity"])
def test_empty_documents_are_a_bad_request(provider):
    with pytest.raises(litellm.BadRequestError, match=EMPTY_DOCUMENTS):
        rerank(provider, documents=[])


def test_empty_texts_are_a_bad_request():
    with pytest.raises(litellm.BadRequestError, match="`texts` cannot be empty"):
        rerank("huggingface", documents=[])
