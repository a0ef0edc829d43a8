"""Conformance vectors over plain HTTP: one small request for each promise of each dialect.

They hold for any model: indexes are compared as sets, order by the scores themselves, and the same
pair must have the same score in every dialect, a raw score being the logit of a probability.
"""

import math
import unittest

from plain import TOLERANCE, call, post, scores

PAIR = {"query": "q", "documents": ["a", "b"]}
TEXTS = {"query": "q", "texts": ["a", "b"]}


def sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


class Case(unittest.TestCase):
    def check_scores(self, found, expected=None):
        """`found` holds a score per index; the reference is Cohere v2's answer for q, a, b."""
        expected = scores("q", ["a", "b"]) if expected is None else expected
        self.assertEqual(found.keys(), expected.keys())
        for index, score in found.items():
            self.assertAlmostEqual(score, expected[index], delta=TOLERANCE)

    def check_ranked(self, items, key, count):
        """Complete, sorted, each index once; returns the score of each index."""
        found = {item["index"]: item[key] for item in items}
        self.assertEqual(len(items), count)
        self.assertEqual(len(found), count)
        values = [item[key] for item in items]
        self.assertEqual(values, sorted(values, reverse=True))
        return found


class Cohere(Case):
    def unified(self, path, body, count=2):
        reply = post(path, body)
        found = self.check_ranked(reply["results"], "relevance_score", count)
        self.assertTrue(all(0 <= score <= 1 for score in found.values()), found)
        self.assertTrue(reply["id"])
        return reply, found

    def test_01_v2(self):
        reply, found = self.unified("/v2/rerank", {"model": "m", **PAIR})
        self.check_scores(found)
        self.assertFalse(any("document" in result for result in reply["results"]))
        self.assertEqual(reply["meta"]["api_version"]["version"], "2")
        self.assertEqual(reply["meta"]["billed_units"]["search_units"], 1)
        # Absent is right, null is not: clients read a present `usage` as an object.
        self.assertIsNotNone(reply.get("usage", {}))

    def test_02_v1_with_documents(self):
        reply, found = self.unified("/v1/rerank", {"model": "m", **PAIR, "return_documents": True})
        self.check_scores(found)
        for result in reply["results"]:
            self.assertEqual(result["document"], {"text": PAIR["documents"][result["index"]]})
        self.assertEqual(reply["meta"]["api_version"]["version"], "1")

    def test_03_null_is_absent(self):
        nulls = "top_n max_tokens_per_doc return_documents rank_fields priority model".split()
        reply, found = self.unified("/v2/rerank", PAIR | dict.fromkeys(nulls))
        self.check_scores(found)
        self.assertFalse(any("document" in result for result in reply["results"]))

    def test_04_top_n_is_clamped_and_honoured(self):
        self.unified("/v2/rerank", PAIR | {"top_n": 99})
        _, found = self.unified("/v2/rerank", PAIR | {"top_n": 1}, count=1)
        everything = scores("q", ["a", "b"])
        self.assertEqual(list(found), [max(everything, key=everything.get)])

    def test_05_objects_keep_their_other_keys(self):
        body = {"query": "q", "documents": [{"text": "a", "id": 7}, "b"], "return_documents": True}
        for path in ("/v1/rerank", "/v2/rerank"):
            reply, found = self.unified(path, body)
            self.check_scores(found)
            documents = {result["index"]: result["document"] for result in reply["results"]}
            self.assertEqual(documents, {0: {"text": "a", "id": 7}, 1: {"text": "b"}})

    def test_06_rank_fields(self):
        body = {"query": "q", "documents": [{"title": "a"}], "rank_fields": ["title"]}
        reply, _ = self.unified("/v1/rerank", body | {"return_documents": True}, count=1)
        self.assertEqual(reply["results"][0]["document"], {"title": "a"})

    def test_07_no_documents_is_an_error_for_every_reader(self):
        for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            body = {"query": "q", "documents": []}
            status, _, reply = call("POST", path, body, {"Content-Type": "application/json"})
            message = "invalid request: list of documents must not be empty"
            self.assertEqual(status, 400)
            self.assertEqual((reply["message"], reply["detail"]), (message, message))
            self.assertEqual(reply["error"]["message"], message)
            self.assertEqual(reply["error"]["code"], 400)

    def test_08_empty_and_equal_documents_keep_their_indexes(self):
        _, found = self.unified("/v2/rerank", {"query": "q", "documents": ["a", "", "a"]}, count=3)
        self.assertEqual(found.keys(), {0, 1, 2})
        self.assertAlmostEqual(found[0], found[2], delta=TOLERANCE)

    def test_18_string_booleans(self):
        body = PAIR | {"return_documents": "true"}
        for result in self.unified("/v1/rerank", body)[0]["results"]:
            self.assertEqual(result["document"]["text"], PAIR["documents"][result["index"]])
        reply, _ = self.unified("/v1/rerank", PAIR | {"return_documents": "false"})
        self.assertFalse(any("document" in result for result in reply["results"]))

    def test_19_texts_that_is_no_list_decides_nothing(self):
        body = {"query": "q", "texts": True, "documents": ["a"]}
        self.unified("/rerank", body, count=1)

    def test_21_prefixes_people_configure(self):
        paths = """
            /rerank /rerank/ /v1/v1/rerank /v1/v2/rerank /v3/rerank /v3/v1/rerank /v3/v2/rerank
            /openai/v1/rerank /cohere/v2/rerank /providers/cohere/v2/rerank /api/v1/rerank
            //v1//rerank
        """
        for path in paths.split():
            with self.subTest(path):
                reply, found = self.unified(path, PAIR)
                self.check_scores(found)
                version = "2" if "/v2/" in path else "1"
                self.assertEqual(reply["meta"]["api_version"]["version"], version)


class Others(Case):
    def test_09_tei_ignores_top_n(self):
        # LlamaIndex asserts one result per text.
        reply = post("/rerank", TEXTS | {"top_n": 1})
        self.check_scores(self.check_ranked(reply, "score", 2))
        self.assertFalse(any("text" in item for item in reply))

    def test_10_tei_raw_scores_and_texts(self):
        reply = post("/rerank", TEXTS | {"return_text": True, "raw_scores": True})
        raw = self.check_ranked(reply, "score", 2)
        self.check_scores({index: sigmoid(score) for index, score in raw.items()})
        self.assertTrue(all(item["text"] == TEXTS["texts"][item["index"]] for item in reply))

    def test_10_tei_errors_are_strings(self):
        headers = {"Content-Type": "application/json"}
        status, _, reply = call("POST", "/rerank", {"query": "q", "texts": []}, headers)
        expected = {"error": "`texts` cannot be empty", "error_type": "Empty"}
        self.assertEqual((status, reply), (400, expected))

    def test_11_weaviate_without_content_type(self):
        status, _, reply = call("POST", "/rerank", PAIR | {"property": ""})
        self.assertEqual(status, 200, reply)
        self.assertEqual([item["document"] for item in reply["scores"]], ["a", "b"])
        self.check_scores(dict(enumerate(item["score"] for item in reply["scores"])))

    def test_12_voyage(self):
        reply = post("/v1/rerank", PAIR | {"model": "m", "top_k": 1, "truncation": True})
        self.assertEqual(reply["object"], "list")
        self.check_ranked(reply["data"], "relevance_score", 1)
        self.assertGreater(reply["usage"]["total_tokens"], 0)
        reply = post("/v1/rerank", PAIR | {"model": "m", "top_k": None, "truncation": True})
        self.check_scores(self.check_ranked(reply["data"], "relevance_score", 2))

    def test_13_nim_gives_logits(self):
        passages = [{"text": "a"}, {"text": "b"}]
        body = {"model": "m", "query": {"text": "q"}, "passages": passages}
        for path in ("/v1/ranking", "/v1/retrieval/nvidia/m/reranking", "/v1/reranking", "/rerank"):
            logits = self.check_ranked(post(path, body)["rankings"], "logit", 2)
            self.check_scores({index: sigmoid(logit) for index, logit in logits.items()})

    def test_14_mixedbread(self):
        reply = post("/v1/reranking", {"query": "q", "input": ["a", "b"]})
        self.check_scores(self.check_ranked(reply["data"], "score", 2))
        self.assertEqual((reply["top_k"], reply["return_input"]), (2, False))

    def test_15_zeroentropy(self):
        reply = post("/v1/models/rerank", {"model": "m", **PAIR})
        self.check_scores(self.check_ranked(reply["results"], "relevance_score", 2))
        needed = {"actual_latency_mode", "e2e_latency", "inference_latency"}
        self.assertLessEqual(needed | {"total_bytes", "total_tokens"}, reply.keys())

    def test_16_vllm_score_keeps_the_order_of_the_request(self):
        for path in ("/score", "/v1/score"):
            reply = post(path, {"text_1": "q", "text_2": ["a", "b"]})
            self.assertEqual([item["index"] for item in reply["data"]], [0, 1])
            self.check_scores({item["index"]: item["score"] for item in reply["data"]})

    def test_16_vllm_raw_scores(self):
        reply = post("/v1/rerank", PAIR | {"use_activation": False})
        raw = self.check_ranked(reply["results"], "relevance_score", 2)
        self.check_scores({index: sigmoid(score) for index, score in raw.items()})

    def test_17_pinecone(self):
        documents = [{"text": "a", "id": "1"}, {"text": "b", "id": "2"}]
        body = {"model": "m", "query": "q", "documents": documents, "rank_fields": ["text"]}
        headers = {"Api-Key": "any", "X-Pinecone-Api-Version": "2026-07"}
        reply = post("/rerank", body | {"return_documents": True}, headers)
        self.check_scores(self.check_ranked(reply["data"], "score", 2))
        self.assertTrue(all(i["document"] == documents[i["index"]] for i in reply["data"]))
        self.assertEqual(reply["usage"]["rerank_units"], 1)

    def test_20_health(self):
        statuses = {"/health": 200, "/ping": 200, "/v2/health/ready": 200, "/v1/health/ready": 200}
        for path, expected in (statuses | {"/.well-known/ready": 204}).items():
            self.assertEqual(call("GET", path)[0], expected, path)

    def test_20_models_for_openai_and_cohere(self):
        status, _, reply = call("GET", "/v1/models")
        self.assertEqual((status, reply["object"]), (200, "list"))
        self.assertIn("id", reply["data"][0])
        self.assertIn("rerank", reply["models"][0]["endpoints"])


if __name__ == "__main__":
    unittest.main()
