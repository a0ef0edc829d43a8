"""Vectors by openai, cohere, huggingface_hub (TEI) and litellm: each must read what transformers computed."""

import base64
import json
import os
import pathlib
import struct

# Before the import, which would fetch a price list from the network and wait for it.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import cohere
import litellm
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from plain import URL, post

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "tiny-e5-vectors.json"
ROWS = json.loads(GOLDEN.read_text(encoding="utf-8"))
TOLERANCE = 2e-4


def golden(prompt):
    """Some texts, and their vectors behind a prompt."""
    rows = [row for row in ROWS if row["prompt"] == prompt][:8]
    return [row["text"] for row in rows], np.array([row["vector"] for row in rows], dtype="float32")


def check(vectors, expected):
    vectors = np.array(vectors, dtype="float32")
    assert vectors.shape == expected.shape
    assert np.abs(vectors - expected).max() <= TOLERANCE


@pytest.fixture
def openai_client():
    return openai.OpenAI(api_key="any", base_url=f"{URL}/v1", max_retries=0)


def openai_vectors(client, texts, **options):
    reply = client.embeddings.create(model="text-embedding-3-small", input=texts, **options)
    assert [item.index for item in reply.data] == list(range(len(reply.data)))
    assert reply.usage.prompt_tokens == reply.usage.total_tokens > 0
    return [item.embedding for item in reply.data]


def test_openai_floats_and_base64_are_the_same_bits(openai_client):
    texts, expected = golden(None)
    # Without a format the client asks for base64 and decodes it.
    decoded = openai_vectors(openai_client, texts)
    check(decoded, expected)
    floats = openai_vectors(openai_client, texts, encoding_format="float")
    assert (np.array(decoded, dtype="float32") == np.array(floats, dtype="float32")).all()


def test_openai_one_text_and_fewer_dimensions(openai_client):
    texts, expected = golden(None)
    check(openai_vectors(openai_client, texts[3]), expected[3:4])
    cut = openai_vectors(openai_client, texts, dimensions=16, encoding_format="float")
    lengths = np.linalg.norm(expected[:, :16], axis=1, keepdims=True)
    check(cut, expected[:, :16] / lengths)


def test_openai_token_ids_are_those_of_the_model(openai_client):
    # The ids of unknown tokens of this little vocabulary: whatever they spell, they are the model's own.
    vectors = openai_vectors(openai_client, [[0, 10, 11, 2], [10, 11]])
    assert vectors[0] == vectors[1], "special tokens are put around ids that lack them"
    with pytest.raises(openai.BadRequestError, match="no token of this model"):
        openai_vectors(openai_client, [[100_000]])


def test_openai_errors_are_its_own(openai_client):
    with pytest.raises(openai.BadRequestError, match="empty list") as raised:
        openai_client.embeddings.create(model="m", input=[])
    assert raised.value.param == "input"
    with pytest.raises(openai.BadRequestError, match="have 64, not 65"):
        openai_vectors(openai_client, ["a"], dimensions=65)


@pytest.mark.parametrize("kind, prompt", [("search_query", "query"), ("search_document", "passage")])
def test_cohere_v2_input_types_are_the_models_prompts(kind, prompt):
    texts, expected = golden(prompt)
    client = cohere.ClientV2(api_key="any", base_url=URL)
    reply = client.embed(model="embed-v4.0", texts=texts, input_type=kind, embedding_types=["float"])
    check(reply.embeddings.float_, expected)
    assert reply.texts == texts
    assert reply.meta.billed_units.input_tokens > 0


def test_cohere_v2_types():
    texts, expected = golden("query")
    client = cohere.ClientV2(api_key="any", base_url=URL)
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    options = {"model": "m", "input_type": "search_query", "embedding_types": kinds}
    found = client.embed(texts=texts, **options).embeddings
    floats = np.array(found.float_, dtype="float32")
    check(floats, expected)
    assert (np.array(found.int8) == np.clip(np.round(floats * 127), -127, 127)).all()
    assert (np.array(found.uint8) == np.array(found.int8) + 128).all()
    bits = np.packbits(floats > 0, axis=1)
    assert (np.array(found.ubinary) == bits).all()
    assert (np.array(found.binary) == bits.astype(int) - 128).all()
    unpacked = [struct.unpack("<64f", base64.b64decode(text)) for text in found.base64]
    assert (np.array(unpacked, dtype="float32") == floats).all()
    cut = client.embed(texts=texts, output_dimension=8, **options).embeddings
    assert {len(vector) for vector in cut.ubinary} == {1}


def test_cohere_v1_plain_and_in_several_calls():
    texts, expected = golden("passage")
    client = cohere.Client(api_key="any", base_url=URL)
    # More than the 96 texts that the client sends at a time.
    reply = client.embed(texts=texts * 15, input_type="search_document", model="m")
    check(reply.embeddings, np.tile(expected, (15, 1)))


def test_cohere_images_are_refused():
    client = cohere.ClientV2(api_key="any", base_url=URL)
    with pytest.raises(cohere.BadRequestError, match="text only"):
        client.embed(model="m", input_type="image", images=["data:image/png;base64,AA=="])


@pytest.fixture
def tei():
    return InferenceClient(model=f"{URL}/embed")


def test_tei_by_huggingface_hub(tei):
    for prompt in (None, "query", "passage"):
        texts, expected = golden(prompt)
        options = {"normalize": True, "truncate": True, "truncation_direction": "right"}
        check(tei.feature_extraction(texts, prompt_name=prompt, **options), expected)
    texts, expected = golden(None)
    check(tei.feature_extraction(texts[5]), expected[5:6])
    with pytest.raises(HfHubHTTPError) as raised:
        tei.feature_extraction("a", prompt_name="s2p")
    assert raised.value.response.status_code == 422
    assert "it has passage, query" in raised.value.response.json()["error"]


def test_tei_at_the_root_is_an_embedder():
    texts, expected = golden(None)
    check(InferenceClient(model=URL).feature_extraction(texts), expected)


# To Cohere it says of all texts that they are documents.
@pytest.mark.parametrize("provider, path, prompt", [
    ("hosted_vllm", "/v1", None), ("openai", "/v1", None), ("cohere", "/v2/embed", "passage")])
def test_litellm(provider, path, prompt):
    texts, expected = golden(prompt)
    reply = litellm.embedding(model=f"{provider}/any", input=texts, api_base=URL + path, api_key="any")
    check([item["embedding"] for item in reply.data], expected)


def test_what_was_cut_is_told():
    long = "stone " * 200
    reply = post("/v1/embeddings", {"input": [long, "a"]})
    assert reply["usage"]["truncated_tokens"] > 100
    reply = post("/v2/embed", {"texts": [long, "a"]})
    assert reply["meta"]["warnings"][0].startswith("1 of 2 texts did not fit")
