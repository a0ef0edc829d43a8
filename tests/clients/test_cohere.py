"""cohere (Python): `Client` speaks v1, `ClientV2` v2.

Releases up to 5.6 post to /rerank, later ones to /v1/rerank and /v2/rerank.
"""

import os
import subprocess
import sys

import cohere
import pytest
from cohere.core.api_error import ApiError
from plain import DOCUMENTS, EMPTY_DOCUMENTS, QUERY, URL, check_ranking

# ClientV2 came after 5.5.
CLIENTS = [name for name in ("Client", "ClientV2") if hasattr(cohere, name)]
# Nor had 5.5 a class of its own for 400 on this call.
BadRequest = cohere.BadRequestError if "ClientV2" in CLIENTS else ApiError
CALL = f"model='rerank-v3.5', query={QUERY!r}, documents={DOCUMENTS!r}"


@pytest.fixture(params=CLIENTS)
def client(request):
    return getattr(cohere, request.param)(api_key="any", base_url=URL)


def rerank(client, documents=DOCUMENTS, **options):
    return client.rerank(model="rerank-v3.5", query=QUERY, documents=documents, **options)


def test_ranks_all_documents(client):
    reply = rerank(client)
    check_ranking((result.index, result.relevance_score) for result in reply.results)
    assert reply.id
    assert reply.meta.billed_units.search_units == 1
    expected = "2" if isinstance(client, getattr(cohere, "ClientV2", ())) else "1"
    assert reply.meta.api_version.version == expected


def test_top_n(client):
    results = rerank(client, top_n=2).results
    check_ranking(((result.index, result.relevance_score) for result in results), count=2)


def test_explicit_none_is_absent(client):
    assert len(rerank(client, top_n=None).results) == len(DOCUMENTS)


def test_empty_documents_are_a_bad_request(client):
    with pytest.raises(BadRequest) as raised:
        rerank(client, documents=[])
    assert raised.value.status_code == 400
    assert EMPTY_DOCUMENTS in raised.value.body["message"]


def test_v1_returns_documents():
    client = cohere.Client(api_key="any", base_url=URL)
    for result in rerank(client, return_documents=True).results:
        assert result.document.text == DOCUMENTS[result.index]


def test_v1_needs_no_model():
    client = cohere.Client(api_key="any", base_url=URL)
    assert len(client.rerank(query=QUERY, documents=DOCUMENTS).results) == len(DOCUMENTS)


def test_v1_reads_rank_fields_of_objects():
    client = cohere.Client(api_key="any", base_url=URL)
    documents = [{"title": text, "year": str(2000 + i)} for i, text in enumerate(DOCUMENTS)]
    options = {"rank_fields": ["title"], "return_documents": True}
    results = rerank(client, documents=documents, **options).results
    check_ranking((result.index, result.relevance_score) for result in results)
    for result in results:
        assert result.document.dict()["year"] == documents[result.index]["year"]


@pytest.mark.skipif(not hasattr(cohere, "AsyncClientV2"), reason="this release has none")
def test_async():
    import asyncio

    reply = asyncio.run(rerank(cohere.AsyncClientV2(api_key="any", base_url=URL)))
    check_ranking((result.index, result.relevance_score) for result in reply.results)


@pytest.mark.parametrize("name", CLIENTS)
def test_url_from_the_environment(name):
    # In a process of its own: some releases read CO_API_URL while they are imported.
    program = f"import cohere; print(len(cohere.{name}().rerank({CALL}).results))"
    environment = os.environ | {"CO_API_URL": URL, "CO_API_KEY": "any"}
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert printed.stdout.strip() == str(len(DOCUMENTS))
