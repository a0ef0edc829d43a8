"""Plain HTTP and the shared example, for tests that must not depend on any client."""

import http.client
import json
import math
import os
import urllib.parse

URL = os.environ["RERANKD_URL"]

QUERY = "What is the capital of France?"
DOCUMENTS = [
    "Berlin is the capital of Germany.",
    "Paris is the capital of France.",
    "Bananas are rich in potassium.",
]

# Scores are f32, printed in full; batch mates may change the order of a sum: the last digits.
TOLERANCE = 1e-5

EMPTY_DOCUMENTS = "list of documents must not be empty"
EMPTY_QUERY = "query must not be empty or be only whitespace"


def call(method, path, body=None, headers=None):
    """Returns status, headers and the parsed body. Sends no Content-Type unless told."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(URL).netloc, timeout=60)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    is_json = response.getheader("content-type", "").startswith("application/json")
    return response.status, response.headers, json.loads(text) if is_json else text


def post(path, body, headers=None):
    """Posts JSON the usual way and demands 200."""
    headers = {"Content-Type": "application/json"} | (headers or {})
    status, _, reply = call("POST", path, body, headers)
    assert status == 200, f"{path} answered {status}: {reply}"
    return reply


def scores(query=QUERY, documents=DOCUMENTS):
    """The scores as Cohere v2 gives them, by index: what every other way to ask must agree with."""
    reply = post("/v2/rerank", {"model": "m", "query": query, "documents": documents})
    return {result["index"]: result["relevance_score"] for result in reply["results"]}


def check_ranking(pairs, count=len(DOCUMENTS)):
    """`pairs` is what a client made of the reply to the example: (index, score), best first."""
    pairs = list(pairs)
    expected = scores()
    best = sorted(expected, key=expected.get, reverse=True)[:count]
    assert [index for index, _ in pairs] == best, f"{pairs} does not rank like {expected}"
    for index, score in pairs:
        assert 0 <= score <= 1, f"score {score} is no probability"
        assert math.isclose(score, expected[index], abs_tol=TOLERANCE), f"{pairs} vs {expected}"
